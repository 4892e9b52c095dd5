r"""Denoisers of few-shot images in closed form: controls in the place of a frozen network.

They know statistics of the target alone, so that a network must do better to have shown anything.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.gaussian import Gaussian, from_cosine, to_cosine
from ood_sampler.diffusion.schedule import Schedule

_CHUNK = 2**18
"""Pixels of few-shot images that an image is compared with at a time."""


class ClosedFormDenoiser(Denoiser):
    r"""A denoiser that computes in float32 or float64, one image after the other.

    So the result for an image does not depend on the batch.

    Args:
        schedule: the noise schedule.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    @abstractmethod
    def x_0(self, x: Tensor, step: int) -> Tensor:
        r"""Posterior mean $\mathbb{E}[x_0 \mid x_t]$ of one image, shape $(1, C, H, W)$."""

    def noise(self, x: Tensor, step: int) -> Tensor:
        r"""Noise in one image: $(x_t - \alpha_t \hat x_0) / \sigma_t$."""
        alpha, sigma = self.schedule.scales(step)
        return (x - alpha * self.x_0(x, step)) / sigma

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        return _each(self.noise, x_t, t)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Denoise, also where $\alpha_t = 0$."""
        return _each(self.x_0, x_t, t)


def _each(estimate: Callable[[Tensor, int], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
    # in full precision, whatever that of the run
    x = x_t if x_t.dtype == torch.float64 else x_t.float()
    steps = [int(t)] * len(x) if t.ndim == 0 else t.expand(len(x)).tolist()
    with torch.autocast(x.device.type, enabled=False):
        found = [estimate(one, step) for one, step in zip(x.split(1), steps, strict=True)]
    return torch.cat(found).to(x_t.dtype)


class FittedGaussianDenoiser(ClosedFormDenoiser):
    r"""The exact denoiser of $\mathcal{N}(\mu, C)$ data, linear in the image.

    $\hat x_0 = \mu + \alpha_t C (\alpha_t^2 C + \sigma_t^2 I)^{-1} (x_t - \alpha_t \mu)$.

    Args:
        gaussian: mean and covariance of the few-shot images.
        schedule: the noise schedule.
    """

    def __init__(self, gaussian: Gaussian, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.gaussian = gaussian

    def x_0(self, x: Tensor, step: int) -> Tensor:
        return from_cosine(self.gaussian.x_0(to_cosine(x), *self.schedule.scales(step)))

    def noise(self, x: Tensor, step: int) -> Tensor:
        return from_cosine(self.gaussian.eps(to_cosine(x), *self.schedule.scales(step)))


class PatchDenoiser(ClosedFormDenoiser):
    r"""The local score machine of few-shot images (Kamb & Ganguli, 2025).

    Each pixel $p$ is the posterior mean of that pixel over the few-shot images $y_j$, each as
    likely as its patch $\Omega$ around $p$ is:

    $$\hat x_0(p) = \sum_j w_j(p)\, y_j(p), \qquad w_j(p) \propto
    \exp\Bigl(-\frac{1}{2 \sigma_t^2} \sum_{q \in \Omega_t(p)} |x_t(q) - \alpha_t y_j(q)|^2\Bigr).$$

    Patches are squares of side $2 r + 1$, cut at the border of the image. They grow with the noise,
    $r(t) = \mathrm{round}(r_0 + g\, \sigma_t / \alpha_t)$ pixels, like the length over which the
    best linear filter averages natural images, until every patch is the image and the denoiser the
    exact one of the few-shot images. Each few-shot image counts with all its translations by at
    most `shift` pixels, continued by reflection; all of them are the equivariant machine.

    Args:
        images: few-shot images, shape $(N, C, H, W)$.
        schedule: the noise schedule.
        least: $r_0 \ge 0$, reach of a patch in clean images.
        growth: $g \ge 0$, pixels by which it grows with $\sigma_t / \alpha_t$.
        shift: pixels.
    """

    images: Tensor

    def __init__(
        self, images: Tensor, schedule: Schedule, *, least: float, growth: float, shift: int
    ) -> None:
        super().__init__(schedule)
        self.size = images.shape[-2:]
        around = pad(images, [shift] * 4, mode="reflect") if shift else images
        # last, so that sums over neighbours are products of large matrices
        self.register_buffer("images", around.permute(1, 2, 3, 0).contiguous(), persistent=False)
        self.least = least
        self.growth = growth
        self.shift = shift

    def reach(self, step: int) -> int:
        """Pixels from the centre of a patch to its edge."""
        alpha, sigma = self.schedule.scales(step)
        whole = max(self.size) - 1
        ratio = sigma / alpha if alpha else math.inf
        grown = self.growth * ratio if self.growth else 0.0
        return round(min(self.least + grown, whole))

    def x_0(self, x: Tensor, step: int) -> Tensor:
        alpha, sigma = self.schedule.scales(step)
        rows, columns = (_band(n, self.reach(step), x.dtype, x.device) for n in self.size)
        x = x[0, ..., None]
        top = torch.full_like(x[0], -torch.inf)
        total, mean = torch.zeros_like(top), torch.zeros_like(x)
        for images in self._chunks():
            images = images.to(x)
            # two pieces of memory, written again and again: to ask for it costs more than the sums
            squares, scratch = (x.new_empty(images.shape[1:]) for _ in range(2))
            squares.zero_()
            for own, other in zip(x, images, strict=True):
                torch.add(own, other, alpha=-alpha, out=scratch)
                squares.addcmul_(scratch, scratch)
            torch.mm(rows, squares.flatten(1), out=scratch.view(len(rows), -1))
            likely = torch.matmul(columns, scratch, out=squares).mul_(-1 / (2 * sigma**2))
            highest = torch.maximum(top, likely.amax(-1, keepdim=True))
            weights = likely.sub_(highest).exp_()
            before = (top - highest).exp()
            total = total * before + weights.sum(-1, keepdim=True)
            new = [torch.mul(weights, y, out=scratch).sum(-1, keepdim=True) for y in images]
            mean = mean * before + torch.stack(new)
            top = highest
        return (mean / total)[None, ..., 0]

    def _chunks(self) -> Iterator[Tensor]:
        """Few-shot images and their translations, some at a time, shape (C, H, W, n)."""
        height, width = self.size
        count = max(1, _CHUNK // (height * width))
        for images in self.images.split(count, dim=-1):
            for down in range(2 * self.shift + 1):
                for right in range(2 * self.shift + 1):
                    yield images[:, down : down + height, right : right + width]


@cache
def _band(n: int, reach: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix that sums over neighbours at most `reach` away: a box filter, cut at the border."""
    places = torch.arange(n, device=device)
    return ((places[:, None] - places).abs() <= reach).to(dtype)
