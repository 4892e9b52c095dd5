"""Tables for terminals of any width: columns wrap into blocks, and no value is cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_HEADING = 13
"""Letters per line of a heading, unless the values below are wider."""

_NAME, _SHORTEST_NAME = 22, 8
"""Letters per line of a name, and at least."""

_GAP = 2
"""Letters between columns."""


@dataclass(frozen=True)
class Line:
    """A line of a table: its name, its values, whether it is bold, and whether it ends a group."""

    name: str
    cells: Sequence[str]
    bold: bool = False
    last: bool = False


@dataclass(frozen=True)
class TerminalTable:
    """A table with as many columns side by side as the terminal has room for.

    Attributes:
        title: above.
        headings: of the columns.
        lines: with one value per column.
        bold: bold columns.
        caption: below.
    """

    title: str
    headings: Sequence[str]
    lines: Sequence[Line]
    bold: Sequence[int] = ()
    caption: str = ""

    @property
    def row_count(self) -> int:
        """The number of lines."""
        return len(self.lines)

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> "Iterator[RenderableType]":
        from rich.text import Text

        yield Text(self.title, style="bold")
        name, blocks = self._layout(options.max_width)
        for block in blocks:
            yield Text("")
            yield self._block(name, block)
        yield Text(self.caption, style="dim italic")

    def _layout(self, room: int) -> tuple[int, list[dict[int, int]]]:
        """Width of the names, and per block the widths of its columns by their index."""
        most = max(room - _SHORTEST_NAME - _GAP, 1)
        widths = [min(self._width(k), max(most, _longest(self._cells(k)))) for k in self._columns]
        names = [line.name for line in self.lines]
        spare = room - sum(widths) - _GAP * len(widths)
        name = min(max(map(len, names), default=0), max(_NAME, _longest(names), spare))
        name = max(min(name, room - max(widths, default=0) - _GAP), _SHORTEST_NAME)
        blocks = _packed(widths, room - name, len(widths))
        # balance the blocks, so that the last is not a single column
        blocks = _packed(widths, room - name, -(-len(widths) // max(len(blocks), 1)))
        return name, [self._widened(block, room - name) for block in blocks]

    def _widened(self, widths: dict[int, int], room: int) -> dict[int, int]:
        """Give spare room to headings, the narrowest columns first."""
        made = dict(widths)
        for _ in range(room - sum(widths.values()) - _GAP * len(widths)):
            short = [k for k, width in made.items() if width < min(self._heading(k), _HEADING)]
            if not short:
                break
            made[min(short, key=made.__getitem__)] += 1
        return made

    def _heading(self, column: int) -> int:
        return max(map(len, self.headings[column].split("\n")))

    @property
    def _columns(self) -> range:
        return range(len(self.headings))

    def _cells(self, column: int) -> list[str]:
        return [line.cells[column] for line in self.lines]

    def _width(self, column: int) -> int:
        heading = min(_longest([self.headings[column]]), _HEADING)
        return max([heading, *map(len, self._cells(column))])

    def _block(self, name: int, widths: dict[int, int]) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("", overflow="fold", width=name)
        for k, width in widths.items():
            table.add_column(
                Text(self.headings[k]),
                justify="right",
                overflow="fold",
                width=width,
                style="bold" if k in self.bold else "",
            )
        for line in self.lines:
            table.add_row(
                Text(line.name),
                *(Text(line.cells[k]) for k in widths),
                style="bold" if line.bold else "",
                end_section=line.last,
            )
        return table


def _packed(widths: Sequence[int], room: int, most: int) -> list[dict[int, int]]:
    """Put columns side by side while there is room, at most `most` per block."""
    blocks: list[dict[int, int]] = []
    for k, width in enumerate(widths):
        used = sum(blocks[-1].values()) + _GAP * (len(blocks[-1]) + 1) if blocks else room
        if used + width > room or len(blocks[-1]) == most:
            blocks.append({})
        blocks[-1][k] = width
    return blocks


def _longest(texts: Sequence[str]) -> int:
    """Letters of the longest word."""
    return max((len(word) for text in texts for word in text.split()), default=0)
