"""Names of figures in a row: plain for the headline judge, `<judge>/<figure>` for the others."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

_OF = "/"


def of_judge(judge: str, key: str) -> str:
    """Name a figure of a judge that is not the headline."""
    return f"{judge}{_OF}{key}"


def together(opinions: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """Figures of all judges as one row: those of the first, the headline, by their plain names."""
    (_, headline), *others = opinions.items()
    named = {of_judge(name, key): value for name, own in others for key, value in own.items()}
    return {**headline, **named}


def plain(key: str) -> str:
    """The name of a figure, whoever is its judge."""
    return key.rpartition(_OF)[2]


def second_judges(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Judges other than the headline whose figures are in some rows, in their order."""
    keys = (key.rpartition(_OF)[0] for row in rows for key in row if _OF in key)
    return list(dict.fromkeys(keys))


def as_judged(row: Mapping[str, T], judge: str | None) -> dict[str, T]:
    """A row with the figures of one judge in the place of the headline's; none is the headline."""
    found = {key: value for key, value in row.items() if _OF not in key}
    if judge is not None:
        prefix = of_judge(judge, "")
        found |= {plain(key): value for key, value in row.items() if key.startswith(prefix)}
    return found
