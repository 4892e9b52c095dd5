"""Names of metrics in a row: plain for the headline judge, `<judge>/<metric>` for the others."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

_OF = "/"


def of_judge(judge: str, key: str) -> str:
    """Name a metric of a judge other than the headline."""
    return f"{judge}{_OF}{key}"


def together(opinions: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """Join all judges' metrics in one row; those of the first, the headline, keep plain names."""
    (_, headline), *others = opinions.items()
    named = {of_judge(name, key): value for name, own in others for key, value in own.items()}
    return {**headline, **named}


def plain(key: str) -> str:
    """Name of a metric without its judge."""
    return key.rpartition(_OF)[2]


def second_judges(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Judges other than the headline with metrics in some rows, in their order."""
    keys = (key.rpartition(_OF)[0] for row in rows for key in row if _OF in key)
    return list(dict.fromkeys(keys))


def as_judged(row: Mapping[str, T], judge: str | None) -> dict[str, T]:
    """A row with one judge's metrics in place of the headline's; None keeps the headline's."""
    found = {key: value for key, value in row.items() if _OF not in key}
    if judge is not None:
        prefix = of_judge(judge, "")
        found |= {plain(key): value for key, value in row.items() if key.startswith(prefix)}
    return found
