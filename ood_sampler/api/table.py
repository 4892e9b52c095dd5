"""A table of rows that are mappings, shown as text and in a notebook."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, overload

from markupsafe import escape
from rich.console import Console

from ood_sampler.report.columns import MISSING, Column
from ood_sampler.report.terminal import Line, TerminalTable

_WIDTH = 100


class Table(Sequence[Mapping[str, Any]]):
    """Rows of numbers, each a mapping from names to values.

    A metric `kid` has the bounds of its 95% interval in `kid_low` and `kid_high`, where it has
    one; `pandas.DataFrame(list(table))` makes a data frame.

    Args:
        rows: what it holds.
        columns: those that are shown, rounded; rows may hold more.
        title: above.

    Example:
        >>> import ood_sampler
        >>> from ood_sampler.report.columns import Column
        >>> rows = [{"name": "samples", "kid": 0.25, "kid_low": 0.2, "kid_high": 0.3}]
        >>> table = ood_sampler.Table(rows, [Column("kid", "KID")])
        >>> table[0]["kid"], len(table)
        (0.25, 1)
        >>> table
                          samples
        ─────────────────────────
        KID       0.25 [0.2, 0.3]
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, title: str = ""
    ) -> None:
        self.rows: list[Mapping[str, Any]] = [dict(row) for row in rows]
        texts = {column: [column.text_with_bounds(row) for row in rows] for column in columns}
        self._texts = {c: found for c, found in texts.items() if {*found} - {MISSING}}
        self._title = title

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[Mapping[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return self.text()

    def text(self, *, width: int = _WIDTH) -> str:
        """The table as plain text.

        Args:
            width: letters per line.
        """
        headings, lines = self._laid_out()
        shown = StringIO()
        console = Console(file=shown, width=width, force_jupyter=False, color_system=None)
        console.print(TerminalTable(self._title, headings, [Line(n, c) for n, c in lines]))
        kept = [line.rstrip() for line in shown.getvalue().splitlines()]
        return "\n".join(line for line in kept if line)

    def _repr_html_(self) -> str:
        headings, lines = self._laid_out()
        head = "".join(f"<th>{escape(text)}</th>" for text in ("", *headings))
        body = "".join(
            f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{escape(c)}</td>" for c in cells)
            for name, cells in lines
        )
        return f"<table><caption>{escape(self._title)}</caption><tr>{head}</tr>{body}</table>"

    def _laid_out(self) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """Headings and named lines: a metric per line for few named rows, else a row per line."""
        titles = [column.title for column in self._texts]
        if self.rows and all("name" in row for row in self.rows):
            names = [str(row["name"]) for row in self.rows]
            return names, list(zip(titles, self._texts.values(), strict=True))
        cells = zip(*self._texts.values(), strict=True)
        return titles, [(str(number), list(row)) for number, row in enumerate(cells)]
