"""All figures of one set of images against a target domain."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torchmetrics import Metric

from ood_sampler.metrics.authenticity import Authenticity
from ood_sampler.metrics.blend import BlendScore, BlendScores
from ood_sampler.metrics.capture import CapturedFraction
from ood_sampler.metrics.features import FeatureExtractor, InceptionFeatures
from ood_sampler.metrics.frechet import FrechetDistance
from ood_sampler.metrics.kernel import KernelDistance
from ood_sampler.metrics.prdc import PRDC

THUMBNAIL = 64
"""Side in pixels to which larger images are averaged for the blend score."""


@dataclass(frozen=True)
class Described:
    """A set of images as the metrics see it.

    Attributes:
        features: shape $(N, D)$.
        thumbnails: the images, averaged to at most `THUMBNAIL` pixels a side, shape (N, 3, h, w).
    """

    features: Tensor
    thumbnails: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> "Described":
        """The first `count` images."""
        return Described(self.features[:count], self.thumbnails[:count])


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a run: a feature space and the neighbourhood size.

    Attributes:
        extractor: maps images to features.
        nearest_k: neighbours of precision, recall, density, coverage and the captured fraction;
            odd, as the last is a vote.
        seed: of the subsets that make reference sets equal in size.
    """

    extractor: FeatureExtractor
    nearest_k: int
    seed: int

    def __post_init__(self) -> None:
        if self.nearest_k < 1 or self.nearest_k % 2 == 0:
            raise ValueError(f"metrics.nearest_k must be odd and >= 1, got {self.nearest_k}")

    def check(self, counts: dict[str, int]) -> None:
        """Refuse sets that are too small for the neighbourhoods, before any work.

        Raises:
            ValueError: a set has no more than `nearest_k` images.
        """
        for name, count in counts.items():
            if count <= max(self.nearest_k, 2):
                raise ValueError(
                    f"{name} must be more than metrics.nearest_k={self.nearest_k} images and more "
                    f"than 2, got {count}: add images or lower metrics.nearest_k"
                )

    def against_held_out(self, samples: Described, held_out: Described) -> dict[str, float]:
        """FID, KID with its standard error, precision, recall, density and coverage."""
        frechet = FrechetDistance(width=samples.features.shape[1])
        kernel = KernelDistance()
        manifold = PRDC(nearest_k=self.nearest_k)
        for metric in (frechet, kernel, manifold):
            metric.update(samples.features, real=False)
            metric.update(held_out.features, real=True)
        distance = kernel.compute()
        scores = manifold.compute()
        return {
            "fid": float(frechet.compute()),
            "kid": float(distance.value),
            "kid_standard_error": float(distance.standard_error),
            **{name: float(value) for name, value in scores._asdict().items()},
        }

    def against_few_shot(
        self, samples: Described, few_shot: Described
    ) -> tuple[float, BlendScores]:
        """Authenticity and blend scores: are they new, and more than double exposures?"""
        authenticity, blend = Authenticity(), BlendScore()
        authenticity.update(samples.features, reference=False)
        authenticity.update(few_shot.features, reference=True)
        _update_blend(blend, samples, few_shot)
        return float(authenticity.compute()), blend.compute()

    def captured(self, samples: Described, in_domain: Tensor, target: Described) -> float:
        """Share of samples among whose neighbours the model's own domain has the majority."""
        metric = CapturedFraction(nearest_k=self.nearest_k, seed=self.seed)
        metric.update(samples.features, role="samples")
        metric.update(in_domain, role="in_domain")
        metric.update(target.features, role="target")
        return float(metric.compute())


def thumbnails(images: Tensor) -> Tensor:
    """Average images to at most `THUMBNAIL` pixels a side; smaller ones stay as they are."""
    return images if images.shape[-1] <= THUMBNAIL else adaptive_avg_pool2d(images, THUMBNAIL)


def _update_blend(metric: Metric, samples: Described, few_shot: Described) -> None:
    metric.update(samples.thumbnails, reference=False)
    metric.update(few_shot.thumbnails, reference=True)


def inception_evaluation(
    *, weights: str | None, download: bool, nearest_k: int, seed: int
) -> Evaluation:
    """Metrics in the feature space of clean-fid's Inception; see `find_inception` for `weights`."""
    extractor = InceptionFeatures(weights=weights, download=download)
    return Evaluation(extractor=extractor, nearest_k=nearest_k, seed=seed)
