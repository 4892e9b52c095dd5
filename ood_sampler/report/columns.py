"""Columns of tables, shown alike on the console, in Markdown and on a page; rows as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ood_sampler.metrics.opinions import of_judge
from ood_sampler.statistics.resampling import Interval

Row: TypeAlias = Mapping[str, Any]
"""A line of a table: values by their keys, None where one has no meaning."""

MISSING = "–"

# A no-break space, as an arrow must not begin a line.
_ARROWS = {"lower": "\N{NO-BREAK SPACE}↓", "higher": "\N{NO-BREAK SPACE}↑", None: ""}


@dataclass(frozen=True)
class Column:
    """A column of a table: a value of each row, and how it is shown.

    Attributes:
        key: name of the value in a row; the bounds of its 95% interval are `<key>_low` and
            `<key>_high`.
        heading: its name for people, with its unit.
        digits: decimals shown; None shows three significant digits.
        scale: factor applied before it is shown; stored values are unscaled.
        meaning: what it says, in a sentence, with its source.
        better: the good direction, if there is one.
        narrow: the heading in short lines, for the table of a sweep in a terminal; columns without
            are left out there.
        error: key of its standard error.
        fixed: write significant digits without an exponent, and keep trailing zeros.
        interval: whether rows may hold the bounds of its interval.
        judged: whether it is the opinion of a judge, of which there may be several.
    """

    key: str
    heading: str
    digits: int | None = None
    scale: float = 1.0
    meaning: str = ""
    better: Literal["lower", "higher"] | None = None
    narrow: str = ""
    error: str | None = None
    fixed: bool = False
    interval: bool = True
    judged: bool = True

    def of(self, judge: str) -> "Column":
        """The same value by a judge that is not the headline."""
        return replace(
            self,
            key=of_judge(judge, self.key),
            heading=f"{self.heading}, {judge}",
            narrow=f"{self.narrow}\n{judge}" if self.narrow else "",
            error=of_judge(judge, self.error) if self.error else None,
        )

    @property
    def keys(self) -> list[str]:
        """Keys of the value, its standard error and its bounds."""
        bounds = [f"{self.key}_low", f"{self.key}_high"] if self.interval else []
        return [self.key, *([self.error] if self.error else []), *bounds]

    @property
    def arrow(self) -> str:
        """An arrow in the good direction, if there is one."""
        return _ARROWS[self.better]

    @property
    def title(self) -> str:
        """The heading with its arrow."""
        return self.heading + self.arrow

    def text(self, row: Row) -> str:
        """Write the value of a row, with its standard error if it has one."""
        value = row.get(self.key)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, str):
            return value
        found = number(value)
        if found is None:
            return MISSING
        found *= self.scale
        error = number(row.get(self.error)) if self.error else None
        if error is None:
            digits = _decimals(found) if self.fixed and self.digits is None else self.digits
            return _written(found, digits)
        # Two significant digits of the error say all that is known of the value.
        digits = _decimals(error * self.scale, significant=2)
        return f"{_written(found, digits)} ± {_written(error * self.scale, digits)}"

    def bounds(self, row: Row) -> str:
        """Write the interval of the value of a row in brackets; empty if it has none."""
        found = stored_interval(row, self.key)
        if found is None:
            return ""
        digits = self.digits
        if self.error or (self.fixed and digits is None):
            # two significant digits of a quarter of the width, as of a standard error
            digits = _decimals((found.high - found.low) / 4 * self.scale, significant=2)
        low, high = (_written(end * self.scale, digits) for end in (found.low, found.high))
        return f"[{low}, {high}]"

    def text_with_bounds(self, row: Row) -> str:
        """Write the value of a row and its interval."""
        return f"{self.text(row)} {self.bounds(row)}".rstrip()


def number(value: object) -> float | None:
    """Return a finite number as it is, None for all else (null, NaN, infinity, text)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def stored_interval(row: Row, key: str) -> Interval | None:
    """The value of a row and its bounds; None if one of them is missing."""
    value, low, high = (number(row.get(f"{key}{end}")) for end in ("", "_low", "_high"))
    return None if value is None or low is None or high is None else Interval(value, low, high)


def _written(value: float, digits: int | None) -> str:
    """Write a number with so many decimals, or None with three significant digits."""
    if digits is None:
        return f"{value:.3g}"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text


def _decimals(value: float, *, significant: int = 3) -> int:
    """Decimals that show so many significant digits, at most six."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return min(max(significant - 1 - magnitude, 0), 6)


def keys_of(rows: Sequence[Row]) -> list[str]:
    """All keys of some rows, in order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def csv_rows(rows: Sequence[Row], keys: Sequence[str] | None = None) -> str:
    """Write rows as CSV with all digits; a missing value is an empty field.

    Args:
        rows: what to write.
        keys: the columns; None takes all keys of the rows.
    """
    shown = keys_of(rows) if keys is None else keys
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(shown)
    for row in rows:
        values = (row.get(key) for key in shown)
        writer.writerow(
            None if isinstance(value, float) and number(value) is None else value
            for value in values
        )
    return text.getvalue()


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """Write the lines of a Markdown table, cells escaped."""
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").splitlines())
