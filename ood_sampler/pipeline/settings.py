"""The numbers of a run."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import get_args

from ood_sampler.modules.prediction import OnNonFinite


def check_batch_size(size: object) -> None:
    """Refuse what is no number of images.

    Raises:
        ValueError: it is neither None nor a whole number from 1 on.
    """
    if size is not None and not (isinstance(size, int) and size >= 1):
        raise ValueError(f"batch_size must be a whole number >= 1 or null, got {size!r}")


@dataclass(frozen=True)
class Settings:
    r"""The numbers of a run.

    Attributes:
        step: inversion step $t$ of the latents.
        eta: noise of decoding: 0 deterministic, 1 DDPM.
        clip_x_0: clip denoised images while decoding.
        num_samples: images to make.
        seed: of all draws.
        batch_size: images per forward pass; no result depends on it. None chooses by resolution
            and device: 64 at 32x32; at 256x256 one on a CPU and 16 on a GPU.
        on_nonfinite: whether NaN or infinity from the network ends the run, or the image is left
            out and named.
        round_trip: few-shot images decoded from their own latents; None decodes all.
        in_domain: samples of the model's own domain, at most `num_samples`; None makes as many.
        noised_moves: moves of inversion from clean data on that noise replaces.
        temperature: spread $\tau$ of draws about the mean of the inverted latents (`tempered`).
        shift: steps by which decoding takes draws to be noisier than their step says. With
            $t' = t + \mathrm{shift}$ its first move is $x_s = \alpha_s \hat x_0 +
            \sqrt{\sigma_s^2 - c^2}\, \hat\epsilon + c n$, where $\hat\epsilon =
            \epsilon_\theta(z, t')$ and $\hat x_0 = (z - \sigma_{t'} \hat\epsilon) / \alpha_{t'}$.
            Draws have the noise of step $t$, so that the network removes less of it than there is
            for a negative shift, and more for a positive one.
        film: few-shot images and samples whose way is kept for the page; 0 keeps none.
    """

    step: int
    eta: float
    clip_x_0: bool
    num_samples: int
    seed: int
    batch_size: int | None
    on_nonfinite: OnNonFinite = "raise"
    round_trip: int | None = None
    in_domain: int | None = None
    noised_moves: int = 0
    temperature: float = 1.0
    shift: int = 0
    film: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"decode.eta must be >= 0 and finite, got {self.eta}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"draw.temperature must be > 0 and finite, got {self.temperature}")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be >= 1, got {self.num_samples}")
        check_batch_size(self.batch_size)
        if not isinstance(self.step, Integral):
            raise ValueError(f"inversion.step must be a whole number, got {self.step!r}")
        for name in ("round_trip", "in_domain"):
            count = getattr(self, name)
            if count is not None and not (isinstance(count, int) and count >= 1):
                raise ValueError(
                    f"measure.{name} must be a whole number >= 1 or null, got {count!r}"
                )
        if not (isinstance(self.noised_moves, int) and self.noised_moves >= 0):
            raise ValueError(
                f"inversion.noised_moves must be a whole number >= 0, got {self.noised_moves!r}"
            )
        if not (isinstance(self.film, int) and self.film >= 0):
            raise ValueError(f"measure.film must be a whole number >= 0, got {self.film!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 0..2^63-1, got {self.seed}")
        if self.on_nonfinite not in get_args(OnNonFinite):
            raise ValueError(f"on_nonfinite must be raise or skip, got {self.on_nonfinite!r}")

    @property
    def about_decoding(self) -> str:
        """Settings of draws and decoding that differ from the usual ones, to follow a step."""
        eta = f", eta = {self.eta:g}" if self.eta else ""
        temperature = "" if self.temperature == 1 else f", temperature = {self.temperature:g}"
        return f"{eta}{temperature}{f', shift = {self.shift:+d}' if self.shift else ''}"

    @property
    def decoding_step(self) -> int:
        """Step that decoding takes the draws from."""
        return self.step + self.shift

    @property
    def in_domain_count(self) -> int:
        """Samples of the model's own domain."""
        return min(self.in_domain or self.num_samples, self.num_samples)
