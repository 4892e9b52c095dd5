"""Let a data source take its options as objects while its YAML lists their keys flat."""

import functools
from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter, signature
from typing import Any, TypeVar

T = TypeVar("T")


def from_keys(*kinds: type) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a function whose first arguments are dataclasses, so that it takes their fields.

    What comes out takes keyword arguments alone: the fields of every dataclass in `kinds` and the
    keyword arguments of the function. `hydra.utils.instantiate` can call it with the keys of a
    YAML file as they stand:

        @from_keys(Split)
        def my_images(split: Split, *, name: str, root: str, resolution: int) -> TargetDomain: ...

    Args:
        kinds: Dataclasses, in the order of the arguments; no two share the name of a field.
    """
    options = {kind: [field for field in fields(kind) if field.init] for kind in kinds}

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def with_keys(**keys: Any) -> T:  # noqa: ANN401 whatever the configuration holds
            made = [
                kind(**{field.name: keys.pop(field.name) for field in own if field.name in keys})
                for kind, own in options.items()
            ]
            return function(*made, **keys)

        flat = [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                annotation=field.type,
                default=Parameter.empty if field.default is MISSING else field.default,
            )
            for own in options.values()
            for field in own
        ]
        declared = signature(function)
        kept = [*declared.parameters.values()][len(kinds) :]
        with_keys.__signature__ = declared.replace(parameters=[*flat, *kept])  # type: ignore[attr-defined]
        return with_keys

    return decorate
