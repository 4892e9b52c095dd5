"""All figures of one set of images against a target domain."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ood_sampler.metrics.authenticity import authentic
from ood_sampler.metrics.blend import best_pair, forward_selection
from ood_sampler.metrics.capture import captured, equal_sized
from ood_sampler.metrics.diversity import diversity
from ood_sampler.metrics.extrapolation import VECTORS_A_FEATURE, frechet_limit
from ood_sampler.metrics.features import FeatureExtractor, InceptionFeatures
from ood_sampler.metrics.frechet import infinitesimal_jackknife
from ood_sampler.metrics.intervals import (
    mean_interval,
    normal_interval,
    share_interval,
    with_bounds,
)
from ood_sampler.metrics.kernel import jackknife
from ood_sampler.metrics.near_copies import near_copies
from ood_sampler.metrics.prdc import manifold_scores

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
        """FID, its limit, KID, precision, recall, density and coverage, each with its interval.

        Intervals are `<key>_low` and `<key>_high`, of 95%. Those of FID and KID come from
        jackknife standard errors (a bootstrap would bias them), the others from resampled images
        of the set that the share is of, the other set staying as it is. The limit of FID needs
        `VECTORS_A_FEATURE` images of both for each feature, and is left out of smaller sets.
        """
        generated, real = samples.features, held_out.features
        distance = jackknife(generated, real)
        intervals = {"fid": normal_interval(*infinitesimal_jackknife(generated, real))}
        if min(len(generated), len(real)) >= VECTORS_A_FEATURE * generated.shape[1]:
            limit = frechet_limit(generated, real, seed=self.seed)
            intervals["fid_infinity"] = normal_interval(*limit)
        intervals["kid"] = normal_interval(*distance)
        scores = manifold_scores(real, generated, nearest_k=self.nearest_k)
        intervals |= {
            name: mean_interval(values, seed=self.seed) for name, values in scores._asdict().items()
        }
        return {
            **with_bounds(intervals),
            "kid_standard_error": float(distance.standard_error),
        }

    def against_few_shot(
        self, samples: Described, few_shot: Described, held_out: Described
    ) -> tuple[dict[str, float], Tensor]:
        """Authenticity, near-copies, blend scores, diversity: new, not blended, and varied?

        Held-out images say how near to a few-shot image new ones come.

        Returns:
            The figures, each with its interval as in `against_held_out`, that of diversity over
            clusters where there are two, and the number of these; then the blend score of each
            sample on its best pair, shape $(N,)$.
        """
        pictures, reference = (
            described.thumbnails.flatten(start_dim=1) for described in (samples, few_shot)
        )
        pair = best_pair(pictures, reference)
        values = {
            "authenticity": authentic(samples.features, few_shot.features),
            "blend_pair": pair.r_squared,
            "blend_five": forward_selection(pictures, reference, pair.indices, size=5).r_squared,
        }
        clusters = diversity(samples.features, few_shot.features).clusters
        if len(clusters) > 1:
            values["diversity"] = clusters
        intervals = {key: mean_interval(each, seed=self.seed) for key, each in values.items()}
        copies = near_copies(samples.features, few_shot.features, held_out.features)
        intervals["near_copies"] = share_interval(copies)
        figures = {**with_bounds(intervals), "diversity_clusters": float(len(clusters))}
        if len(clusters) == 1:
            figures["diversity"] = float(clusters[0])
        return figures, pair.r_squared

    def captured(
        self, samples: Described, in_domain: Tensor, target: Described
    ) -> dict[str, float]:
        """Share of samples among whose neighbours the model's own domain has the majority."""
        references = equal_sized(in_domain, target.features, seed=self.seed)
        values = captured(samples.features, *references, nearest_k=self.nearest_k)
        return with_bounds({"captured": mean_interval(values, seed=self.seed)})


def thumbnails(images: Tensor) -> Tensor:
    """Average images to at most `THUMBNAIL` pixels a side; smaller ones stay as they are."""
    return images if images.shape[-1] <= THUMBNAIL else adaptive_avg_pool2d(images, THUMBNAIL)


def inception_evaluation(
    *, weights: str | None, download: bool, nearest_k: int, seed: int
) -> Evaluation:
    """Metrics in the feature space of clean-fid's Inception; see `find_inception` for `weights`."""
    extractor = InceptionFeatures(weights=weights, download=download)
    return Evaluation(extractor=extractor, nearest_k=nearest_k, seed=seed)
