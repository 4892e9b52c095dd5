r"""Linear probes: what a feature space knows of the labels of images.

Ridge regression on features, $\min_w \sum_i (y_i - w \cdot f_i)^2 + \lambda |w|^2$, with the
$\lambda$ of the least leave-one-out error (Allen, 1974), which needs one decomposition for all
$\lambda$ and all labels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.latents.separability import CROSS_VALIDATED, detection
from ood_sampler.statistics.resampling import Interval, bootstrap

LEAST = 20
"""Labelled images that a probe is fitted to, at least."""

_FOLDS = 5
_PENALTIES = torch.logspace(-4, 2, 13, dtype=torch.float64)
"""Values of lambda that are tried, in units of the mean squared length of a feature vector."""

_REPLICATES = 200
"""Resampled sets of the interval of an AUROC, each of which compares all pairs."""


@dataclass(frozen=True)
class Probe:
    """A linear map from features to labels, in standard deviations of the labels.

    Attributes:
        centre: mean feature, shape (D,).
        weights: shape (D, K).
    """

    centre: Tensor
    weights: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Estimate the labels of images, shape (N, K), 0 at their mean."""
        return (features.double() - self.centre) @ self.weights


class Quality(NamedTuple):
    """How well a probe tells the labels of images that it has not seen.

    Attributes:
        score: AUROC of a label of two values, else R²: 1 exact, 0 no better than the mean.
        binary: which of the two.
    """

    score: Interval
    binary: bool


def fit_probe(features: Tensor, labels: Tensor) -> Probe:
    """Fit a probe for all labels at once.

    Args:
        features: shape (N, D), N at least `LEAST`.
        labels: finite, shape (N, K).

    Raises:
        ValueError: there are too few images.
    """
    if len(features) < LEAST:
        raise ValueError(f"a probe needs at least {LEAST} labelled images, got {len(features)}")
    return _fit(features, labels)


def _fit(features: Tensor, labels: Tensor) -> Probe:
    x, y = features.double(), labels.double()
    centre = x.mean(0)
    x, y = x - centre, (y - y.mean(0)) / y.std(0).clamp(min=1e-30)
    n = len(x)
    # x = U S V^T by the smaller of both Gram matrices
    wide = n < x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values = values.clamp(min=0)
    s = values.sqrt().clamp(min=1e-12 * float(values.max()) ** 0.5 + 1e-30)
    left, right = (vectors, x.T @ vectors / s) if wide else (x @ vectors / s, vectors)
    inside = left.T @ y
    unit = float(values.sum()) / n
    errors = []
    for penalty in _PENALTIES * unit * n:
        shrunk = values / (values + penalty)
        # 1 / n: the mean is fitted too
        leverage = left.square() @ shrunk + 1 / n
        residual = (y - left @ (shrunk[:, None] * inside)) / (1 - leverage).clamp(min=1e-6)[:, None]
        errors.append(residual.square().mean(0))
    chosen = _PENALTIES[torch.stack(errors).argmin(0)] * unit * n
    weights = right @ ((s[:, None] / (values[:, None] + chosen)) * inside)
    return Probe(centre, weights)


def held_out_estimates(features: Tensor, labels: Tensor, *, seed: int = 0) -> Tensor:
    """Estimates for each image by a probe of the other folds, shape (N, K), in units of labels."""
    fold = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)) % _FOLDS
    found = torch.empty(labels.shape, dtype=torch.float64)
    for k in range(_FOLDS):
        train, test = fold != k, fold == k
        y = labels[train].double()
        estimate = _fit(features[train], y)(features[test])
        found[test] = y.mean(0) + y.std(0) * estimate
    return found


def quality(estimates: Tensor, labels: Tensor) -> Quality:
    """Score estimates of one label, both of shape (N,), with an interval over images.

    A label with one value alone tells nothing of a probe, which scores 0.
    """
    labels = labels.double()
    values = labels.unique()
    if len(values) < 2:
        return Quality(Interval(0.0, 0.0, 0.0), binary=False)
    if len(values) == 2:
        positive = labels == values[1]
        found = detection(
            estimates[positive],
            estimates[~positive],
            spread=CROSS_VALIDATED,
            replicates=_REPLICATES,
        )
        return Quality(found.auroc, binary=True)
    return Quality(bootstrap(_r_squared, torch.stack([estimates, labels], dim=1)), binary=False)


def _r_squared(rows: Tensor) -> Tensor:
    estimate, truth = rows.unbind(1)
    left = (truth - estimate).square().sum()
    return 1 - left / (truth - truth.mean()).square().sum().clamp(min=1e-30)
