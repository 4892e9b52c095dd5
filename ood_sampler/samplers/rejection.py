"""Selection of candidates that keep the geometric criteria of the inverted set, as in the paper."""

import logging
import math
from collections.abc import Iterator
from typing import Literal, Unpack

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.geometry import Criteria, criteria_of_products
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet, Sampler
from ood_sampler.samplers.criteria import (
    CriteriaOptions,
    CriteriaSampler,
    Targets,
    take_rows,
    targets_of,
)
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.samplers.slerp import SlerpSampler

log = logging.getLogger(__name__)

AS_IN_TEXT, AS_IN_CODE = "as in the text", "as in the code"
"""Names of the paper's two recipes, as its public code differs from its text."""

_ENOUGH = 100
"""Accepted candidates that suffice to measure the acceptance rate, to a relative error of 0.1."""

_BLOCK = 64
_BLOCK_BYTES = 2**23
"""Bytes of the references of a block of candidates."""


class RejectionSampler(CriteriaSampler):
    r"""Draw candidates until one meets the three geometric criteria (Zhu et al., 2023).

    Text and public code of the paper have different candidates: `slerp` is that of the text,
    `in_domain` that of the code.

    Each candidate is measured against its own references, as references unusually far from each
    other would allow none: equal distances $D$ to them determine the pair angle $P$,
    $\lVert r_j - r_l \rVert = 2 D \sin(P / 2)$. The first candidate within all tolerances is taken.
    In the pixel-space control of `slerp` the criteria are those of the images; given values and
    tolerances apply to latents only, so there is no control.

    Args:
        candidates: `slerp`, between two inverted latents at one of 20 interior points; `in_domain`,
            likewise between an inverted latent and a draw from $\mathcal{N}(\mu_i, s_i^2 I)$ of the
            model's own domain; `gaussian`, draws from $\mathcal{N}(\mu, \mathrm{diag}(s_j^2))$ of
            the set.
        attempts: candidates per sample, at most; >= 1.
        options: values and tolerances of the criteria, see `CriteriaSampler`.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        candidates: Literal["slerp", "in_domain", "gaussian"],
        *,
        attempts: int,
        **options: Unpack[CriteriaOptions],
    ) -> None:
        if candidates not in ("slerp", "in_domain", "gaussian"):
            raise ValueError(f"candidates must be slerp, in_domain or gaussian, got {candidates!r}")
        if attempts < 1:
            raise ValueError(f"attempts must be >= 1, got {attempts}")
        super().__init__(**options)
        self.candidates = candidates
        self.attempts = attempts

    @property
    def mixes(self) -> bool:
        return self.candidates == "slerp" and self.measured_alone

    @property
    def recipe(self) -> str:
        return {"slerp": AS_IN_TEXT, "in_domain": AS_IN_CODE}.get(self.candidates, "")

    @property
    def in_domain_images(self) -> int:
        return self._proposal().in_domain_images

    def fit(self, inverted: InvertedSet) -> Fitted:
        """Measure the criteria, and the share of candidates that meet them.

        Raises:
            GaveUpError: no candidate of `attempts` meets them.
        """
        products, targets = self.measure(inverted.latents)
        fitted = {
            **self._proposal().fit(inverted),
            "products": products.float(),
            "values": targets.values,
            "tolerances": targets.tolerances,
        }
        noise = SampleNoise(0, [0], stream=Stream.FIT)
        accepted = 0
        seen: list[Criteria] = []
        for block in self._blocks(self._largest_block(inverted)):
            seen.append(self._try(fitted, inverted, noise.attempts(0, block))[1])
            accepted += int(targets.passed(seen[-1]).all(1).sum())
            if accepted >= _ENOUGH:
                break
        if not accepted:
            raise GaveUpError(self._refusal(targets, seen))
        rate = accepted / (block[-1] + 1)
        return {**fitted, "acceptance": torch.tensor(rate)}

    def remarks(self, fitted: Fitted) -> list[str]:
        rate = 100 * float(fitted["acceptance"])
        return [f"rejection: about {rate:.3g} % of the candidates meet the criteria"]

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        """Draw latents (`Sampler.draw`), and log the share of accepted candidates.

        Raises:
            GaveUpError: no candidate of `attempts` for a sample meets the criteria.
        """
        targets = targets_of(fitted)
        # the same for every batch, as products may round differently in another shape
        size = min(self._largest_block(inverted), math.ceil(1 / float(fitted["acceptance"])))
        drawn, made = [], 0
        for sample in range(len(noise)):
            seen: list[Criteria] = []
            for block in self._blocks(size):
                z, measured = self._try(fitted, inverted, noise.attempts(sample, block))
                seen.append(measured)
                accepted = targets.passed(measured).all(1).nonzero()
                if len(accepted):
                    first = int(accepted[0, 0])
                    drawn.append(z[first].clone())
                    made += block[first] + 1
                    break
            else:
                raise GaveUpError(self._refusal(targets, seen))
        log.info(
            "rejection: %d latents of %d candidates (%.3g %%)",
            len(drawn),
            made,
            100 * len(drawn) / made,
        )
        return torch.stack(drawn)

    def _blocks(self, size: int) -> Iterator[range]:
        """Indices of the attempts, in blocks."""
        for start in range(0, self.attempts, size):
            yield range(start, min(start + size, self.attempts))

    def _largest_block(self, inverted: InvertedSet) -> int:
        """Candidates per block, limited by the memory of their references."""
        each = 4 * math.prod(inverted.latents.shape) * self.references_of(inverted.latents)
        return min(_BLOCK, max(1, _BLOCK_BYTES // each))

    def _try(
        self, fitted: Fitted, inverted: InvertedSet, attempts: SampleNoise
    ) -> tuple[Tensor, Criteria]:
        """Draw and measure candidates, one per attempt."""
        latents = inverted.latents
        index = attempts.choice(len(latents), self.references_of(latents))
        z = self._proposal().draw(fitted, inverted, attempts)
        rows = z.flatten(1)
        members, places = take_rows(latents, index)
        measured = criteria_of_products(
            rows.double().square().sum(1),
            (rows @ members.T).gather(1, places).double(),
            fitted["products"][index[:, :, None], index[:, None, :]].double(),
        )
        return z, measured

    def _proposal(self) -> Sampler:
        if self.candidates == "gaussian":
            return GaussianSampler("diagonal")
        return SlerpSampler("pair" if self.candidates == "slerp" else "in_domain", 20)

    def _refusal(self, targets: Targets, seen: list[Criteria]) -> str:
        measured = Criteria(*(torch.cat(values) for values in zip(*seen, strict=True)))
        hardest = targets.hardest(measured)
        return (
            f"none of {len(measured.distance)} candidates of RejectionSampler meets all three "
            f"criteria, which are {targets.describe(measured)}: raise "
            f"sampler.{hardest}_tolerance first, which fails most, or sampler.attempts, or take "
            "sampler=geometric, which needs no candidates"
        )
