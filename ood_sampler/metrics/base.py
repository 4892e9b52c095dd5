"""The interface of a metric: from named sets of vectors to named values."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from torch import Tensor
from torchmetrics import Metric

from ood_sampler.metrics.feature_sets import stack

Figures: TypeAlias = Mapping[str, float | Tensor]
"""Values by name, with `<name>_low` and `<name>_high` as the bounds of their intervals; tensors of
shape $(N,)$ hold a value per image."""


class SetMetric(Metric, ABC):
    """A metric of sets of vectors, one vector per image: features of a judge, or pixels.

    To add a metric, name the sets that it needs in `sets`, compute its values in `figures`, and add
    a line to `conf/metrics`. The sets are

    - `generated`: images to compare with the held-out images,
    - `new`: images that should differ from the few-shot images: those of `generated`, but in the
      row of real images the held-out ones,
    - `held_out`, `few_shot`: the images of the target domain,
    - `in_domain`: images of the model's own domain.

    Arguments of the constructor are kept as public attributes, as results are stored under them.
    """

    is_differentiable = False
    full_state_update = False

    sets: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        for name in self.sets:
            self.add_state(name, [], dist_reduce_fx="cat")

    @property
    def settings(self) -> dict[str, float | str]:
        """Arguments that the values depend on besides the sets."""
        return {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, float | int | str) and not name.startswith("_")
        }

    def update(self, **vectors: Tensor) -> None:
        """Add vectors, each of shape $(B, D)$, to the sets of these names; others are ignored."""
        for name in self.sets:
            if name in vectors:
                getattr(self, name).append(vectors[name].detach())

    def compute(self) -> Figures:
        """Compute the values from all vectors added.

        Raises:
            ValueError: a set is empty, or the sets do not fit each other.
        """
        return self.figures(**{name: stack(getattr(self, name), name=name) for name in self.sets})

    @abstractmethod
    def figures(self, *args: Any, **vectors: Any) -> Figures:  # noqa: ANN401 each names its sets
        """Compute the values from the sets, each of shape $(N, D)$, passed by name."""
