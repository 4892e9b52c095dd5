"""Judges: feature spaces in which sets of images are compared."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torchmetrics import Metric, MetricCollection

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.features import FeatureExtractor

THUMBNAIL = 64
"""Side in pixels to which larger images are averaged for metrics of pixels."""


FEWEST = 4
"""Images that the error of a kernel distance needs of each set."""


@dataclass(frozen=True)
class Described:
    """A set of images, described for metrics.

    Attributes:
        features: by judge, the headline's first, shape $(N, D)$.
        thumbnails: images averaged to at most `THUMBNAIL` pixels per side, shape (N, 3, h, w).
    """

    features: Mapping[str, Tensor]
    thumbnails: Tensor

    def __len__(self) -> int:
        return len(self.thumbnails)

    @property
    def headline(self) -> Tensor:
        """Features of the headline judge."""
        return next(iter(self.features.values()))

    def take(self, indices: Sequence[int] | slice) -> "Described":
        """Some of the images."""
        features = {name: vectors[indices] for name, vectors in self.features.items()}
        return Described(features, self.thumbnails[indices])

    def first(self, count: int) -> "Described":
        """The first `count` images."""
        return self.take(slice(count))


@dataclass(frozen=True)
class Judge:
    """A feature space and the metrics computed in it.

    Attributes:
        extractor: maps images to features.
        metrics: of sets of features.
    """

    extractor: FeatureExtractor
    metrics: MetricCollection

    @property
    def name(self) -> str:
        """Name of the feature space."""
        return self.extractor.name

    def figures(
        self, sets: Mapping[str, Tensor], *, only: Iterable[str] | None = None
    ) -> dict[str, float | Tensor]:
        """Compute the metrics of sets of features; see `SetMetric` for the names of sets.

        Args:
            sets: of shape $(N, D)$.
            only: metrics of the configuration to compute; None computes all.
        """
        return figures_of(self.metrics, sets, only=only)


class Judges(Sequence[Judge]):
    """The judges of a run. The first is the headline judge, on which decisions rest.

    Args:
        judges: names among `spaces`.
        spaces: constructors of feature spaces, by name.
        collection: metrics of features, computed for each judge.
        pictures: metrics of pixels, computed once.
        nearest_k: number of neighbours in metrics that count them; odd, as the captured fraction
            is a vote.
        seed: of the metrics.

    Raises:
        ValueError: a name is unknown or given twice, none is given, or two judges are the same.
    """

    def __init__(
        self,
        *,
        judges: Sequence[str],
        spaces: Mapping[str, Callable[[], FeatureExtractor]],
        collection: Mapping[str, SetMetric],
        pictures: Mapping[str, SetMetric],
        nearest_k: int,
        seed: int,
    ) -> None:
        if not judges or len(set(judges)) < len(judges):
            raise ValueError(
                f"metrics.judges must name at least one feature space, each once, got {judges}"
            )
        for name in judges:
            if name not in spaces:
                raise ValueError(
                    f"metrics.judges: {name} is none of metrics.spaces, which are "
                    f"{', '.join(spaces)}"
                )
        self.nearest_k = nearest_k
        self.seed = seed
        for metric in (*collection.values(), *pictures.values()):
            # results are stored under them: a mistake is told before any work
            _ = metric.settings
        self.pictures = _collected(pictures)
        self._judges = [Judge(spaces[name](), _collected(collection)) for name in judges]
        if len(set(self.names)) < len(judges):
            raise ValueError(
                f"metrics.judges: {' and '.join(judges)} are the same feature space, "
                f"{self.names[0]}: leave one out"
            )

    def __getitem__(self, index: int) -> Judge:  # type: ignore[override]
        return self._judges[index]

    def __len__(self) -> int:
        return len(self._judges)

    def __iter__(self) -> Iterator[Judge]:
        return iter(self._judges)

    @property
    def headline(self) -> Judge:
        """The first judge."""
        return self._judges[0]

    @property
    def names(self) -> list[str]:
        """Names of all judges, the headline first."""
        return [judge.name for judge in self._judges]

    def check(self, counts: Mapping[str, int]) -> None:
        """Refuse sets that are too small for the neighbourhoods, before any work.

        Raises:
            ValueError: a set has no more than `nearest_k` images.
        """
        for name, count in counts.items():
            if count <= max(self.nearest_k, FEWEST - 1):
                raise ValueError(
                    f"{name} must be more than metrics.nearest_k={self.nearest_k} images and at "
                    f"least {FEWEST}, got {count}: add images or lower metrics.nearest_k"
                )


def figures_of(
    metrics: MetricCollection, sets: Mapping[str, Tensor], *, only: Iterable[str] | None = None
) -> dict[str, float | Tensor]:
    """Compute metrics from sets of vectors; see `Judge.figures`."""
    chosen = metrics if only is None else _collected({name: metrics[name] for name in only})
    chosen.update(**sets)
    found: Figures = chosen.compute()
    chosen.reset()
    return dict(found)


def thumbnails(images: Tensor) -> Tensor:
    """Average images to at most `THUMBNAIL` pixels per side; smaller ones stay unchanged."""
    return images if images.shape[-1] <= THUMBNAIL else adaptive_avg_pool2d(images, THUMBNAIL)


def _collected(metrics: Mapping[str, Metric]) -> MetricCollection:
    """Copy the metrics for one judge; torchmetrics' compute groups would find nothing to share."""
    return MetricCollection(
        {name: metric.clone() for name, metric in metrics.items()}, compute_groups=False
    )
