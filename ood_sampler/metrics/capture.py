"""Captured fraction: share of samples that fell to the model's own domain."""

from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets, kth_nearest, subsample
from ood_sampler.statistics.intervals import mean_interval, with_bounds


def captured(samples: Tensor, in_domain: Tensor, target: Tensor, *, nearest_k: int) -> Tensor:
    r"""Tell which samples have most of their $k$ nearest neighbours in the in-domain set.

    Neighbours come from both reference sets together. For odd $k$ and $m = (k + 1) / 2$ the
    majority is in-domain if and only if the $m$-th nearest in-domain vector is nearer than the
    $m$-th nearest target vector; at equal distance the sample is not captured.

    Args:
        samples: Shape $(N, D)$.
        in_domain: Shape $(M, D)$.
        target: Shape $(M, D)$, as many vectors as in-domain, as the vote favours the denser set.
        nearest_k: $k$, odd, at most $2 M - 1$.

    Returns:
        Bool, shape $(N,)$.

    Raises:
        ValueError: The reference sets differ in size, or `nearest_k` does not fit them.
    """
    check_sets(samples=samples, in_domain=in_domain, target=target)
    if len(in_domain) != len(target):
        raise ValueError(
            f"target must be as large as in_domain, got {len(target)} and {len(in_domain)}: "
            "subsample the larger"
        )
    majority = _majority(nearest_k)
    if majority > len(target):
        raise ValueError(
            f"nearest_k must be at most {2 * len(target) - 1} for reference sets of {len(target)}, "
            f"got {nearest_k}: lower nearest_k or add images"
        )
    to_in_domain = kth_nearest(samples, in_domain, k=majority).distance
    to_target = kth_nearest(samples, target, k=majority).distance
    return to_in_domain < to_target


def captured_fraction(
    samples: Tensor, in_domain: Tensor, target: Tensor, *, nearest_k: int
) -> Tensor:
    """Share of samples that are `captured`: a float64 scalar in [0, 1]."""
    return captured(samples, in_domain, target, nearest_k=nearest_k).double().mean()


def _majority(nearest_k: int) -> int:
    if nearest_k < 1 or nearest_k % 2 == 0:
        raise ValueError(
            f"metrics.nearest_k must be odd and >= 1 (a vote without ties), got {nearest_k}"
        )
    return (nearest_k + 1) // 2


def equal_sized(in_domain: Tensor, target: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Subsample the larger reference set to the size of the smaller, by `seed`."""
    size = min(len(in_domain), len(target))
    if len(in_domain) > size:
        in_domain = subsample(in_domain, size, seed=seed)
    if len(target) > size:
        target = subsample(target, size, seed=seed)
    return in_domain, target


class CapturedFraction(SetMetric):
    """Share of generated images that are `captured`, with reference sets of `equal_sized`.

    Args:
        nearest_k: $k$, odd.
        seed: of the subsampling and the resampling.
    """

    higher_is_better = False
    sets = ("generated", "in_domain", "held_out")

    def __init__(self, *, nearest_k: int, seed: int) -> None:
        super().__init__()
        _majority(nearest_k)
        self.nearest_k = nearest_k
        self.seed = seed

    def figures(self, *, generated: Tensor, in_domain: Tensor, held_out: Tensor) -> Figures:
        references = equal_sized(in_domain, held_out, seed=self.seed)
        found = captured(generated, *references, nearest_k=self.nearest_k)
        return with_bounds({"captured": mean_interval(found, seed=self.seed)})
