r"""The Gaussian of a domain, fitted to few images, and its estimate of the noise in images.

$C = (1 - \rho) E + \rho S$: the empirical covariance $E$ of $N$ images, shrunk to a stationary
one. $S$ is block-diagonal in the cosine basis, with a block of the channels at each frequency, the
same at all frequencies of a radius. So in the basis that makes $S$ diagonal,
$\alpha_t^2 C + \sigma_t^2 I$ is a diagonal matrix plus one of rank $N$, and is inverted by
Woodbury's formula.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from ood_sampler.store.sets import TensorSet

SMALLEST = 4
"""Fewest images to fit a Gaussian to: two in each half."""

ROUNDING = (2 / 255) ** 2 / 12
"""Variance of rounding values in $[-1, 1]$ to 8 bits; keeps covariances from being singular."""

_LEAST_SHRINKAGE = 0.02
_TRIALS = 11
"""Shrinkages that are tried, for an accuracy of 0.01."""

_COLUMNS = 2**15
"""Coordinates of all images in memory as float64 at a time."""


@cache
def cosine_basis(n: int) -> Tensor:
    r"""The orthonormal cosine basis (DCT-II) of `n` points, one vector per row, float64."""
    k, x = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * k[:, None] * (x + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis


@cache
def _basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return cosine_basis(n).to(device, dtype)


def to_cosine(x: Tensor) -> Tensor:
    """Coefficients of images in the cosine basis, shape (..., H, W)."""
    rows, columns = (_basis(n, x.dtype, x.device) for n in x.shape[-2:])
    return rows @ x @ columns.T


def from_cosine(y: Tensor) -> Tensor:
    """Undo `to_cosine`."""
    rows, columns = (_basis(n, y.dtype, y.device) for n in y.shape[-2:])
    return rows.T @ y @ columns


def smooth_over_radius(blocks: Tensor) -> Tensor:
    r"""Average blocks over frequencies of about the same radius, keeping their sum.

    A frequency contributes to the two integer radii around its own, more to the nearer one, and
    takes its average from them likewise.

    Args:
        blocks: one per frequency, shape (H, W, ...).
    """
    height, width = blocks.shape[:2]
    vertical, horizontal = torch.arange(height)[:, None], torch.arange(width)
    radius = (vertical**2 + horizontal**2).double().sqrt().flatten()
    below = radius.floor().long()
    upper = radius - below
    weights = radius.new_zeros(len(radius), int(below.max()) + 2)
    weights.scatter_(1, below[:, None], (1 - upper)[:, None])
    weights.scatter_add_(1, below[:, None] + 1, upper[:, None])
    sums = weights.T @ blocks.flatten(0, 1).flatten(1).double()
    averages = sums / weights.sum(0).clamp(min=1e-12)[:, None]
    return (weights @ averages).reshape(blocks.shape)


def fit_gaussian(
    images: TensorSet, *, noise: float = 0.0, shrinkage: float | None = None
) -> dict[str, Tensor]:
    r"""Fit mean and covariance to images.

    Args:
        images: at least `SMALLEST`, shape $(N, C, H, W)$.
        noise: variance of the noise under which the Gaussian is used, $\sigma_t^2 / \alpha_t^2$ at
            the lowest level; that of rounding to 8 bits is added.
        shrinkage: $\rho$; None takes that at which each half of the images is most likely under
            the Gaussian of the other half, both with the noise.

    Returns:
        The state of a `Gaussian`: `mean` in the cosine basis, shape $(C, H, W)$; `rotation` and
        `variance` of $\rho S$ at each frequency, shapes $(C, C, HW)$ and $(C, HW)$; `deviations`
        $\sqrt{(1 - \rho) / (N - 1)}\,(x - \mu)$ in the basis of $S$, shape $(N, CHW)$; `shrinkage`.

    Raises:
        ValueError: there are too few images.
    """
    if len(images) < SMALLEST:
        raise ValueError(f"a Gaussian needs at least {SMALLEST} images, got {len(images)}")
    x = torch.cat([to_cosine(block.double()).float() for block in images.blocks()])
    if shrinkage is None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        halves = order.tensor_split(2)
        fits = [(_Moments(x[a]), x[b]) for a, b in (halves, halves[::-1])]
        pairs = [(fit, fit.rotated(other - fit.mean.float())) for fit, other in fits]
        shrinkage = highest(
            lambda rho: sum(fit.likelihood(other, rho, noise) for fit, other in pairs)
        )
    fit = _Moments(x)
    return {
        "mean": fit.mean.float(),
        "rotation": fit.rotation.float().contiguous(),
        "variance": (shrinkage * fit.variance).float(),
        "deviations": math.sqrt(1 - shrinkage) * fit.deviations,
        "shrinkage": torch.tensor(shrinkage),
    }


class _Moments:
    """Mean, stationary and empirical covariance of coefficients, float32, shape (N, C, H, W)."""

    def __init__(self, x: Tensor) -> None:
        n, channels, height, width = x.shape
        self.mean = x.double().mean(0)
        deviations = (x - self.mean.float()) / math.sqrt(n - 1)
        blocks = torch.zeros(channels, channels, height * width, dtype=torch.float64)
        for row in deviations.flatten(2).double():
            blocks += row[:, None] * row
        smooth = smooth_over_radius(blocks.permute(2, 0, 1).unflatten(0, (height, width)))
        variance, rotation = torch.linalg.eigh(smooth.flatten(0, 1))
        self.variance = variance.clamp(min=0).T.contiguous()
        self.rotation = rotation.permute(1, 2, 0)
        self.deviations = self.rotated(deviations)

    def rotated(self, x: Tensor) -> Tensor:
        """Coefficients in the basis of the stationary covariance, shape (N, CHW)."""
        rotation = self.rotation.to(x)
        return torch.cat([rotate(rotation, one.flatten(2)).flatten(1) for one in x.split(1)])

    def likelihood(self, centred: Tensor, shrinkage: float, noise: float) -> float:
        r"""Expected log-likelihood of other deviations $y$ with added noise, up to a constant.

        With $A = C + \nu I$, that is $-\frac12 \sum_y [y^\top A^{-1} y
        + \nu \operatorname{tr} A^{-1} + \ln \det A]$.
        """
        noise = noise + ROUNDING
        diagonal = (shrinkage * self.variance + noise).flatten()
        n, count, scale = len(self.deviations), len(centred), 1 - shrinkage
        inner = torch.eye(n, dtype=torch.float64)
        twice = torch.zeros(n, n, dtype=torch.float64)
        across = torch.zeros(n, count, dtype=torch.float64)
        squares = 0.0
        for own, other, part in zip(
            _columns(self.deviations), _columns(centred), diagonal.split(_COLUMNS), strict=True
        ):
            solved = own / part
            inner += scale * solved @ own.T
            twice += solved @ solved.T
            across += solved @ other.T
            squares += float((other.square() / part).sum())
        factor = torch.linalg.cholesky(inner)
        volume = float(diagonal.log().sum() + 2 * factor.diagonal().log().sum())
        squares -= scale * float((across * torch.cholesky_solve(across, factor)).sum())
        trace = float((1 / diagonal).sum()) - scale * float(
            torch.cholesky_solve(twice, factor).diagonal().sum()
        )
        return -(squares + count * (noise * trace + volume)) / 2


def rotate(rotation: Tensor, x: Tensor) -> Tensor:
    """Multiply the channels by the transposed matrix of each frequency, shape (N, C, HW)."""
    return (rotation * x[:, :, None]).sum(1)


def rotate_back(rotation: Tensor, x: Tensor) -> Tensor:
    """Undo `rotate`."""
    return (rotation * x[:, None]).sum(2)


def highest(function: Callable[[float], float]) -> float:
    """Find where a function with a single maximum is highest in (0, 1], by golden sections."""
    golden = (math.sqrt(5) - 1) / 2
    low, high = _LEAST_SHRINKAGE, 1.0
    tried = {high: function(high)}

    def value(x: float) -> float:
        if x not in tried:
            tried[x] = function(x)
        return tried[x]

    left, right = high - golden * (high - low), low + golden * (high - low)
    for _ in range(_TRIALS):
        if value(left) > value(right):
            high, right = right, left
            left = high - golden * (high - low)
        else:
            low, left = left, right
            right = low + golden * (high - low)
    return max(tried, key=lambda x: tried[x])


def _columns(x: Tensor) -> Iterator[Tensor]:
    return (part.double() for part in x.split(_COLUMNS, dim=1))


class Gaussian(nn.Module):
    r"""$\mathcal{N}(\mu, C)$ data under noise: $\mathcal{N}(\alpha \mu, \alpha^2 C + \sigma^2 I)$.

    All images are coefficients in the cosine basis. The $N \times N$ matrix of Woodbury's formula
    is computed once per noise level and kept.

    Args:
        state: result of `fit_gaussian`.
    """

    mean: Tensor
    rotation: Tensor
    variance: Tensor
    deviations: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in ("mean", "rotation", "variance", "deviations"):
            self.register_buffer(name, state[name], persistent=False)
        self._inverses: dict[tuple[float, float], Tensor] = {}

    def eps(self, y: Tensor, alpha: float, sigma: float) -> Tensor:
        r"""Noise in noisy images: $\sigma (\alpha^2 C + \sigma^2 I)^{-1} (y - \alpha \mu)$."""
        solved = self._solve(y, alpha, sigma)
        return sigma * rotate_back(self.rotation.to(y), solved).reshape(y.shape)

    def x_0(self, y: Tensor, alpha: float, sigma: float) -> Tensor:
        r"""Denoised images: $\mu + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (y - \alpha \mu)$.

        It is $(y - \sigma \hat\epsilon) / \alpha$, but finite where $\alpha = 0$.
        """
        solved, deviations = self._solve(y, alpha, sigma), self.deviations.to(y)
        outer = (solved.flatten(1) @ deviations.T @ deviations).reshape(solved.shape)
        spread = rotate_back(self.rotation.to(y), self.variance.to(y) * solved + outer)
        return self.mean.to(y) + alpha * spread.reshape(y.shape)

    def _solve(self, y: Tensor, alpha: float, sigma: float) -> Tensor:
        r"""$(\alpha^2 C + \sigma^2 I)^{-1} (y - \alpha \mu)$ in the basis of $S$, (B, C, HW)."""
        deviations = self.deviations.to(y)
        diagonal = alpha**2 * self.variance.to(y) + sigma**2
        centred = rotate(self.rotation.to(y), (y - alpha * self.mean.to(y)).flatten(2))
        solved = centred / diagonal
        inner = self._inverse(alpha, sigma).to(y)
        weights = (solved.flatten(1) @ deviations.T) @ inner
        return solved - alpha**2 * (weights @ deviations).reshape(solved.shape) / diagonal

    def _inverse(self, alpha: float, sigma: float) -> Tensor:
        r"""$(I + \alpha^2 V (\alpha^2 \rho S + \sigma^2 I)^{-1} V^\top)^{-1}$, float64."""
        key = (alpha, sigma)
        if key not in self._inverses:
            diagonal = (alpha**2 * self.variance.double() + sigma**2).flatten()
            n = len(self.deviations)
            inner = torch.eye(n, dtype=torch.float64, device=diagonal.device)
            columns = zip(_columns(self.deviations), diagonal.split(_COLUMNS), strict=True)
            for own, part in columns:
                inner += alpha**2 * (own / part) @ own.T
            self._inverses[key] = torch.cholesky_inverse(torch.linalg.cholesky(inner))
        return self._inverses[key]
