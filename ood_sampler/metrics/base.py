"""The interface of a metric: from named sets of vectors to named values."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, TypeAlias

from torch import Tensor
from torchmetrics import Metric

from ood_sampler.metrics.feature_sets import stack

Figures: TypeAlias = Mapping[str, float | Tensor]
"""Values by name, with `<name>_low` and `<name>_high` as the bounds of their intervals; tensors of
shape $(N,)$ hold a value per image."""


class _Bare(Metric):
    def update(self) -> None: ...

    def compute(self) -> None: ...


@cache
def _usual() -> frozenset[str]:
    """Attributes that every metric of torchmetrics has."""
    return frozenset(vars(_Bare()))


def _as_json(value: object, name: str) -> object:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {value!r}, under which results cannot be stored: keep a number, a text, "
            "or a list or dictionary of these, or make it private (_name)"
        ) from error


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
    def settings(self) -> dict[str, Any]:
        """Arguments that the values depend on besides the sets.

        Raises:
            ValueError: a public attribute is neither a number nor a text, nor a list or a
                dictionary of these, so that results cannot be stored under it.
        """
        usual, found = _usual(), dict[str, Any]()
        for name, value in vars(self).items():
            if name.startswith("_") or name in self.sets:
                continue
            if isinstance(value, float | int | str):
                found[name] = value
            elif name not in usual and value is not None:
                found[name] = _as_json(value, f"{type(self).__name__}.{name}")
        return found

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
