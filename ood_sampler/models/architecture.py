"""Fields of an architecture as code, YAML and command lines write them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

Reader = Callable[[Any], Any]
"""Turns the written form of a field into its value; raises ValueError or TypeError."""


def number(value: Any) -> float:  # noqa: ANN401
    """Read a number, also from a string."""
    if isinstance(value, bool):
        raise TypeError("a truth value is no number")
    return float(value)


def integer(value: Any) -> int:  # noqa: ANN401
    """Read an integer, also from a string."""
    if number(value) != int(value):
        raise ValueError("not an integer")
    return int(value)


def numbers(value: Any) -> tuple[float, ...]:  # noqa: ANN401
    """Read a list of numbers, also from a string as `1,1,2,2`."""
    if isinstance(value, str):
        value = value.replace(" ", "").split(",") if value.strip() else ()
    return tuple(map(number, value)) if isinstance(value, Collection) else (number(value),)


def integers(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Read a list of integers, also from a string as `32,16,8`."""
    return tuple(map(integer, numbers(value)))


def flag(value: Any) -> bool:  # noqa: ANN401
    """Read a truth value, also from a string."""
    words = {"true": True, "false": False}
    if str(value).lower() not in words:
        raise ValueError("not a truth value")
    return words[str(value).lower()]


def word(value: Any) -> str:  # noqa: ANN401
    """Read a name."""
    if not isinstance(value, str):
        raise TypeError("not a name")
    return value


_KINDS: Mapping[Reader, str] = {
    number: "a number",
    integer: "an integer",
    numbers: "numbers, as 1,1,2,2",
    integers: "integers, as 32,16,8",
    flag: "true or false",
    word: "a name",
}


def read_fields(
    section: str, fields: object, readers: Mapping[str, Reader], *, ignored: Collection[str] = ()
) -> dict[str, Any]:
    """Read one section of an architecture; fields that are null count as not given.

    Args:
        section: its name.
        fields: field -> value.
        readers: field -> how to read it.
        ignored: fields that do not change what the network computes.

    Raises:
        ValueError: the section is no mapping, has an unknown field, or one that cannot be read.
    """
    if fields is None:
        return {}
    if not isinstance(fields, Mapping):
        raise ValueError(f"architecture.{section} must be a mapping, got {fields!r}")
    given = {}
    for name, value in fields.items():
        if name in ignored or value is None:
            continue
        if name not in readers:
            raise ValueError(
                f"{name} must not be in architecture.{section}: its meaning is not known here; "
                f"known are {', '.join(readers)}"
            )
        try:
            given[name] = readers[name](value)
        except (TypeError, ValueError, OverflowError) as error:
            kind = _KINDS[readers[name]]
            raise ValueError(f"{name} must be {kind}, got {value!r}") from error
    return given


def check_image_size(image_size: int | None, *, halvings: int) -> None:
    """See that a network can halve its images as often as it has levels below the first.

    Raises:
        ValueError: it cannot.
    """
    if image_size is not None and image_size % 2**halvings:
        raise ValueError(
            f"image_size must be divisible by {2**halvings}, as the network halves it "
            f"{halvings} times, got {image_size}"
        )


def check_agreement(given: Mapping[str, Any], found: Mapping[str, Any], *, source: object) -> None:
    """Compare the fields that both sides know.

    Raises:
        ValueError: a field contradicts what was found in `source`.
    """
    for name, value in given.items():
        if name in found and found[name] != value:
            raise ValueError(
                f"{name} must be {_text(found[name])}, as {source} says, got {_text(value)}"
            )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" for item in value) or "empty"
    return str(value)
