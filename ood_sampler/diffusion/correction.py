r"""The corrected flow: the in-domain Gaussian of the model's score replaced by the target's.

$$\hat\epsilon_c(x, t) = \hat\epsilon(x, t) + w(t)\,[\hat\epsilon_o(x, t) - \hat\epsilon_i(x, t)],
\qquad \hat\epsilon_N(x, t) = \sigma_t (\alpha_t^2 C + \sigma_t^2 I)^{-1} (x - \alpha_t \mu).$$

At high noise the score of any domain is nearly that of its Gaussian (Wang & Vastola, 2024). So the
pull on latents of another domain towards the model's own is known there, and removed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.gaussian import Gaussian, from_cosine, to_cosine


class CorrectedDenoiser(Denoiser):
    r"""A denoiser corrected by the difference of two Gaussians, transparently for solvers.

    $w(t)$ is the weight; below the step `fade` it falls linearly to 0 at step 0, where only the
    network is reliable.

    Args:
        denoiser: of the frozen model.
        target: $\mathcal{N}(\mu_o, C_o)$ of the few-shot images.
        own: $\mathcal{N}(\mu_i, C_i)$ of the model's own domain.
        weight: of the correction; at 0 the result is that of `denoiser`, bit for bit.
        fade: step below which the weight falls; 0 for none.
    """

    def __init__(
        self, denoiser: Denoiser, target: Gaussian, own: Gaussian, *, weight: float, fade: int
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.target = target
        self.own = own
        self.weight = weight
        self.fade = fade

    @property
    def network(self) -> Any:  # noqa: ANN401 what the denoiser inside calls so
        """The network inside; settable, for example to compile it."""
        return getattr(self.denoiser, "network", None)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 as PyTorch has it
        if name == "network":
            setattr(self.denoiser, name, value)
        else:
            super().__setattr__(name, value)

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._corrected(self.denoiser.eps, Gaussian.eps, x_t, t)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Denoise, also where $\alpha_t = 0$."""
        return self._corrected(self.denoiser, Gaussian.x_0, x_t, t)

    def _corrected(
        self,
        estimate: Callable[[Tensor, Tensor], Tensor],
        by_gaussian: Callable[[Gaussian, Tensor, float, float], Tensor],
        x_t: Tensor,
        t: Tensor,
    ) -> Tensor:
        if t.ndim:
            each = zip(x_t.split(1), t.expand(len(x_t)), strict=True)
            return torch.cat([self._corrected(estimate, by_gaussian, x, s) for x, s in each])
        found = estimate(x_t, t)
        # copied to the host, which pays off as results per step are kept
        step = int(t)
        weight = self.weight * (min(1.0, step / self.fade) if self.fade else 1.0)
        if not weight:
            return found
        # in full precision, whatever that of the network
        with torch.autocast(x_t.device.type, enabled=False):
            y, scales = to_cosine(x_t), self.schedule.scales(step)
            difference = by_gaussian(self.target, y, *scales) - by_gaussian(self.own, y, *scales)
            return found + weight * from_cosine(difference)
