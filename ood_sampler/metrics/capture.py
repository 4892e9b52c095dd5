"""Captured fraction: samples of a target domain that fell to the model's own domain."""

from typing import Literal

from torch import Tensor
from torchmetrics import Metric

from ood_sampler.metrics.feature_sets import check_sets, kth_nearest, stack, subsample


def captured(samples: Tensor, in_domain: Tensor, target: Tensor, *, nearest_k: int) -> Tensor:
    r"""Tell which samples have most of their $k$ nearest neighbours in the in-domain set.

    Neighbours are taken among both reference sets together. For odd $k$ and $m = (k + 1) / 2$ the
    majority is in-domain exactly if the $m$-th nearest in-domain vector is nearer than the $m$-th
    nearest target vector; at equal distance the sample is not captured.

    Args:
        samples: Shape $(N, D)$.
        in_domain: Shape $(M, D)$.
        target: Shape $(M, D)$, as many as in-domain, as the vote favours the denser set.
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
        raise ValueError(f"nearest_k must be odd and >= 1 (a vote without ties), got {nearest_k}")
    return (nearest_k + 1) // 2


def equal_sized(in_domain: Tensor, target: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Cut the larger reference set to the size of the smaller, by `seed`."""
    size = min(len(in_domain), len(target))
    if len(in_domain) > size:
        in_domain = subsample(in_domain, size, seed=seed)
    if len(target) > size:
        target = subsample(target, size, seed=seed)
    return in_domain, target


class CapturedFraction(Metric):
    """`captured_fraction` with the larger reference set cut to the smaller by `seed`."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    samples: list[Tensor]
    in_domain: list[Tensor]
    target: list[Tensor]

    def __init__(self, *, nearest_k: int, seed: int) -> None:
        super().__init__()
        _majority(nearest_k)
        self.nearest_k = nearest_k
        self.seed = seed
        for name in ("samples", "in_domain", "target"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, *, role: Literal["samples", "in_domain", "target"]) -> None:
        """Add features of shape $(B, D)$ to the set that `role` names."""
        if role not in ("samples", "in_domain", "target"):
            raise ValueError(f"role must be samples, in_domain or target, got {role}")
        getattr(self, role).append(features.detach())

    def compute(self) -> Tensor:
        in_domain, target = equal_sized(
            stack(self.in_domain, name="in_domain"),
            stack(self.target, name="target"),
            seed=self.seed,
        )
        return captured_fraction(
            stack(self.samples, name="samples"), in_domain, target, nearest_k=self.nearest_k
        )
