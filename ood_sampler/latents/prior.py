r"""Where codes lie in the prior that a model was trained on: holes show as extreme percentiles.

(Ramachandran et al., 2024.) A code far outside of what the prior draws is one that the model was
never asked to decode.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_PER_DIMENSION = 2
"""Draws per dimension from which a covariance is estimated."""

_TAIL = 0.005
"""Share of draws beyond each of two limits that codes are called outside of."""


@dataclass(frozen=True)
class Placement:
    """Codes among draws of the prior.

    Attributes:
        ratio: radius about the mean of the prior over the median radius of its draws, shape (N,).
        radius: share of draws with a smaller radius, shape (N,).
        mahalanobis: likewise by Mahalanobis distance, shape (N,); None if there are too few draws
            to estimate a covariance.
    """

    ratio: Tensor
    radius: Tensor
    mahalanobis: Tensor | None

    @property
    def outside(self) -> Tensor:
        """Whether a code's radius is outside of 99% of the draws', bool, shape (N,)."""
        return (self.radius < _TAIL) | (self.radius > 1 - _TAIL)


def place(codes: Tensor, draws: Tensor) -> Placement:
    """Place codes among draws of the prior.

    The first half of the draws gives mean and covariance, the second half is what codes are
    compared with: so draws themselves have uniform percentiles.

    Args:
        codes: shape (N, D), or (N, L, D) for L codes of one prior each, which are averaged.
        draws: of the prior, shape (M, D).
    """
    if codes.ndim == 3:
        layers = [place(codes[:, layer], draws) for layer in range(codes.shape[1])]
        each = [p.mahalanobis for p in layers if p.mahalanobis is not None]
        return Placement(
            torch.stack([p.ratio for p in layers]).mean(dim=0),
            torch.stack([p.radius for p in layers]).mean(dim=0),
            torch.stack(each).mean(dim=0) if each else None,
        )
    known, fresh = draws.double().chunk(2)
    mean = known.mean(dim=0)
    apart, others = codes.double() - mean, fresh - mean
    radii = others.norm(dim=1)
    by_radius = percentiles(apart.norm(dim=1), radii)
    by_mahalanobis = None
    if len(known) >= _PER_DIMENSION * known.shape[1]:
        whitened = torch.linalg.cholesky(_covariance(known))
        by_mahalanobis = percentiles(_norms(apart, whitened), _norms(others, whitened))
    return Placement(apart.norm(dim=1) / radii.median(), by_radius, by_mahalanobis)


def percentiles(values: Tensor, draws: Tensor) -> Tensor:
    """Share of draws below each value, shape (N,)."""
    ordered = draws.sort().values
    return torch.searchsorted(ordered, values).double() / len(ordered)


def _covariance(draws: Tensor) -> Tensor:
    """Covariance, with a millionth of its mean variance added to the diagonal."""
    covariance = draws.T.cov()
    tiny = 1e-6 * covariance.diagonal().mean()
    return covariance + tiny * torch.eye(len(covariance), dtype=covariance.dtype)


def _norms(apart: Tensor, factor: Tensor) -> Tensor:
    """Mahalanobis distances, by the Cholesky factor of the covariance."""
    whitened: Tensor = torch.linalg.solve_triangular(factor, apart.T, upper=False)
    distances: Tensor = whitened.norm(dim=0)
    return distances
