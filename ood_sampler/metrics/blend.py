"""Blend score: the share of a sample that a linear combination of few-shot images explains."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets
from ood_sampler.statistics.intervals import mean_interval, with_bounds

# A vector adds nothing if those already chosen leave less than this share of its variance.
# Rounding of correlations, about 1e-15, then changes R^2 by 1e-7 at most.
_SPANNED = 1e-8
# A row counts as constant if its variance is at most this share of its squared mean.
_CONSTANT = 1e-24
# Bounds on memory: columns centred in float64 at a time, samples compared at a time.
_COLUMNS = 4096
_ROWS = 128


class BlendFit(NamedTuple):
    """$R^2$ per sample, float64 in [0, 1], $(N,)$, and the reference rows used, $(N, m)$."""

    r_squared: Tensor
    indices: Tensor


class Selection(NamedTuple):
    """Gain in $R^2$ from each chosen vector, float64, and the reference rows, both $(N, m)$."""

    gains: Tensor
    indices: Tensor


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation, over entries, of the rows of `x`, $(N, D)$, with those of `y`, $(M, D)$.

    Returns:
        Float64, shape $(N, M)$; 0 where a row is constant.
    """
    mean_x, mean_y = (a.mean(dim=1, keepdim=True, dtype=torch.float64) for a in (x, y))
    product = mean_x.new_zeros(len(x), len(y))
    energy_x, energy_y = torch.zeros_like(mean_x), torch.zeros_like(mean_y)
    for columns_x, columns_y in zip(
        torch.split(x, _COLUMNS, dim=1), torch.split(y, _COLUMNS, dim=1), strict=True
    ):
        centred_x, centred_y = columns_x.double() - mean_x, columns_y.double() - mean_y
        product += centred_x @ centred_y.T
        energy_x += centred_x.square().sum(dim=1, keepdim=True)
        energy_y += centred_y.square().sum(dim=1, keepdim=True)
    entries = x.shape[1]
    scale_x = _scale(energy_x, entries * mean_x.square())
    scale_y = _scale(energy_y, entries * mean_y.square())
    return scale_x * product * scale_y.T


def _scale(energy: Tensor, energy_of_mean: Tensor) -> Tensor:
    return torch.where(energy > _CONSTANT * energy_of_mean, energy.rsqrt(), 0)


def best_pair(samples: Tensor, reference: Tensor) -> BlendFit:
    r"""Regress each sample, with intercept, on the two reference vectors that explain it best.

    With $c_i$ the correlation of the sample with vector $i$ and $\rho_{ij}$ that of two vectors,

    $$R^2 = \max_{i < j} \frac{c_i^2 + c_j^2 - 2 \rho_{ij} c_i c_j}{1 - \rho_{ij}^2}
    = \max_{i < j} \Big( c_i^2 + \frac{(c_j - \rho_{ij} c_i)^2}{1 - \rho_{ij}^2} \Big)$$

    by exhaustive search. Parallel vectors count as one; a constant vector explains nothing, and a
    constant sample has no variance to explain ($R^2 = 0$).

    Args:
        samples: Images flattened, or features, shape $(N, D)$.
        reference: The few-shot set, shape $(M, D)$, $M \ge 2$.

    Returns:
        The fit of each sample, $m = 2$.
    """
    _check(samples, reference)
    among = correlation(reference, reference)
    blocks = torch.split(correlation(samples, reference), _ROWS)
    return _join([_search_pairs(block, among) for block in blocks])


def forward_selection(samples: Tensor, reference: Tensor, start: Tensor, *, size: int) -> BlendFit:
    r"""Regress each sample, with intercept, on `size` reference vectors, chosen greedily.

    Starts with `start` and adds, one by one, the vector that raises $R^2$ most. The result is a
    lower bound for the best subset of that size, which is infeasible to search for.

    Args:
        samples: Images flattened, or features, shape $(N, D)$.
        reference: The few-shot set, shape $(M, D)$, $M \ge 2$.
        start: Distinct reference rows per sample, shape $(N, s)$, as from `best_pair`.
        size: Number of vectors in all, at least $s$; all if $M$ is smaller.

    Returns:
        The fit of each sample, $m = \min(M, \text{size})$, in the order of choice.
    """
    gains, indices = select(samples, reference, start, size=size)
    return BlendFit(gains.sum(dim=1).clamp(max=1), indices)


def select(samples: Tensor, reference: Tensor, start: Tensor, *, size: int) -> Selection:
    """Choose as `forward_selection` does, and return the gain in $R^2$ from each choice."""
    _check(samples, reference)
    if size < start.shape[1]:
        raise ValueError(f"size must be at least that of start ({start.shape[1]}), got {size}")
    among = correlation(reference, reference)
    blocks = zip(
        torch.split(correlation(samples, reference), _ROWS), torch.split(start, _ROWS), strict=True
    )
    chosen = [_select(block, among, first, size=size) for block, first in blocks]
    return Selection(*(torch.cat(parts) for parts in zip(*chosen, strict=True)))


def _check(samples: Tensor, reference: Tensor) -> None:
    check_sets(rows=2, reference=reference)
    check_sets(reference=reference, samples=samples)


def _join(blocks: list[BlendFit]) -> BlendFit:
    r_squared, indices = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return BlendFit(r_squared.clamp(max=1), indices)


def _search_pairs(with_sample: Tensor, among: Tensor) -> BlendFit:
    """Search all pairs, given correlations of shapes $(n, M)$ and $(M, M)$."""
    count = len(among)
    free = 1 - among.square()
    weight = torch.where(free > _SPANNED, 1 / free, 0)
    single = with_sample.square()
    # A pair explains at least as much as its better half, even if the other is parallel to it.
    first = single.argmax(dim=1)
    best = single.gather(1, first[:, None])[:, 0]
    second = (first + 1) % count
    for i in range(count - 1):
        rest = with_sample[:, i + 1 :] - among[i, i + 1 :] * with_sample[:, i : i + 1]
        gain, j = (rest.square_() * weight[i, i + 1 :]).max(dim=1)
        explained = single[:, i] + gain
        better = explained > best
        best = torch.where(better, explained, best)
        first = torch.where(better, i, first)
        second = torch.where(better, i + 1 + j, second)
    return BlendFit(best, torch.stack([first, second], dim=1))


def _select(with_sample: Tensor, among: Tensor, start: Tensor, *, size: int) -> Selection:
    """Select forward by Gram-Schmidt on the correlations; each row has its own choice."""
    rest = with_sample.clone()
    free = among.diagonal().repeat(len(rest), 1)
    directions: list[Tensor] = []
    chosen = start[:, :0]
    gains: list[Tensor] = []
    for step in range(min(size, len(among))):
        gain = torch.where(free > _SPANNED, rest.square() / free, 0)
        if step < start.shape[1]:
            new = start[:, step : step + 1]
        else:
            new = gain.scatter(1, chosen, -1).argmax(dim=1, keepdim=True)
        gains.append(gain.gather(1, new))
        chosen = torch.cat([chosen, new], dim=1)

        free_new = free.gather(1, new)
        scale = torch.where(free_new > _SPANNED, free_new.rsqrt(), 0)
        # Product of each reference vector with the new unit direction, orthogonal to earlier ones.
        direction = among[new[:, 0]]
        for earlier in directions:
            direction = direction - earlier.gather(1, new) * earlier
        direction = direction * scale
        directions.append(direction)
        rest = rest - rest.gather(1, new) * scale * direction
        free = free - direction.square()
    return Selection(torch.cat(gains, dim=1), chosen)


class BlendScore(SetMetric):
    """Mean blend scores of new images on few-shot images: `best_pair`, `forward_selection` of five.

    `blend_pair_each` is the score of each image on its best pair.

    Args:
        seed: of the resampling.
    """

    higher_is_better = False
    sets = ("new", "few_shot")

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def figures(self, *, new: Tensor, few_shot: Tensor) -> Figures:
        pair = best_pair(new, few_shot)
        five = forward_selection(new, few_shot, pair.indices, size=5)
        found = {"blend_pair": pair.r_squared, "blend_five": five.r_squared}
        means = {key: mean_interval(each, seed=self.seed) for key, each in found.items()}
        return {**with_bounds(means), "blend_pair_each": pair.r_squared}
