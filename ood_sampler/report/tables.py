"""The metrics of a run as tables: for a terminal, for markdown, for CSV, for a page.

`Results` is what a run found, as it stands in `metrics.json`: `run` (names and numbers of the run),
`protocol`, `rows` (each with `name`, `role`, `samples` and the figures; null where a figure has no
meaning), `reconstruction`, `stages`, `distributions`, `skipped`, `warnings`, `verdicts` and their
`conclusion`.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ood_sampler.metrics.opinions import of_judge, plain, second_judges
from ood_sampler.report.terminal import Line, TerminalTable

Results: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Mapping[str, Any]

IN_DOMAIN = "in-domain samples"
"""Name of the reference row of samples from pure noise (the ceiling)."""

MISSING = "–"

# A no-break space, for an arrow must not begin a line.
_ARROWS = {"lower": "\N{NO-BREAK SPACE}↓", "higher": "\N{NO-BREAK SPACE}↑", None: ""}

_CAPTION = "against held-out pictures; ↓ lower is better, ↑ higher is better"


@dataclass(frozen=True)
class Column:
    """A figure and how it is shown.

    Attributes:
        key: its name in a row.
        heading: its name for people.
        better: the direction that is good, where there is one.
        meaning: what it says, in a sentence, with its source.
        narrow: the heading in short lines, where the table of a sweep shows it in a terminal.
        digits: decimals; none for three significant digits.
        scale: factor applied before it is shown; stored figures are unscaled.
        error: name of its standard error in a row.
        interval: whether a row may hold the bounds of its 95% interval, `<key>_low` and
            `<key>_high`.
        judged: whether it is the opinion of a judge, of which there may be several.
    """

    key: str
    heading: str
    better: Literal["lower", "higher"] | None
    meaning: str
    narrow: str = ""
    digits: int | None = 3
    scale: float = 1.0
    error: str | None = None
    interval: bool = True
    judged: bool = True

    def of(self, judge: str) -> "Column":
        """The same figure by a judge that is not the headline."""
        return replace(
            self,
            key=of_judge(judge, self.key),
            heading=f"{self.heading}, {judge}",
            narrow=f"{self.narrow}\n{judge}" if self.narrow else "",
            error=of_judge(judge, self.error) if self.error else None,
        )

    @property
    def keys(self) -> list[str]:
        """Names in a row of the figure, its standard error and its bounds."""
        bounds = [f"{self.key}_low", f"{self.key}_high"] if self.interval else []
        return [self.key, *([self.error] if self.error else []), *bounds]

    @property
    def title(self) -> str:
        """The heading with an arrow in the good direction."""
        return self.heading + _ARROWS[self.better]

    def text(self, row: Row) -> str:
        """Write the figure of a row, with its standard error where there is one."""
        value = number(row.get(self.key))
        if value is None:
            return MISSING
        value *= self.scale
        error = number(row.get(self.error)) if self.error else None
        if error is None:
            return _fixed(value, _decimals(value) if self.digits is None else self.digits)
        # Two significant digits of the error say all that is known of the value.
        digits = _decimals(error * self.scale, significant=2)
        return f"{_fixed(value, digits)} ± {_fixed(error * self.scale, digits)}"

    def bounds(self, row: Row) -> str:
        """Write the interval of the figure of a row, with its digits; empty where there is none."""
        low, high = (number(row.get(f"{self.key}_{end}")) for end in ("low", "high"))
        if number(row.get(self.key)) is None or low is None or high is None:
            return ""
        # two significant digits of the width, as of a standard error
        digits = self.digits
        if digits is None or self.error:
            digits = _decimals((high - low) / 4 * self.scale, significant=2)
        return f"[{_fixed(low * self.scale, digits)}, {_fixed(high * self.scale, digits)}]"


COLUMNS = (
    Column(
        key="samples",
        heading="images",
        better=None,
        digits=0,
        interval=False,
        judged=False,
        meaning="Number of images compared with the held-out pictures.",
    ),
    Column(
        key="fid",
        heading="FID",
        narrow="FID",
        better="lower",
        digits=None,
        meaning=(
            "Fréchet distance between Gaussians fitted to the features of both sets; biased upward "
            "for small sets, so compare only rows of equal size (Heusel et al., 2017). Its "
            "interval is that of FID at this size, not of FID of endless sets: FID∞ is what can be "
            "compared across sizes."
        ),
    ),
    Column(
        key="fid_infinity",
        heading="FID∞",
        better="lower",
        digits=None,
        meaning=(
            "FID of endless sets, from a line through those of random subsets, which frees it of "
            "that bias; around 0, also below, for sets of one distribution. Left out where a "
            "set has fewer than four images for each feature (Chong and Forsyth, 2020)."
        ),
    ),
    Column(
        key="kid",
        heading="KID × 10³",
        narrow="KID\n× 10³",
        better="lower",
        digits=2,
        scale=1e3,
        error="kid_standard_error",
        meaning=(
            "Unbiased kernel distance between the features of both sets, ± its standard error; "
            "around 0, also below, for sets of one distribution (Bińkowski et al., 2018)."
        ),
    ),
    Column(
        key="kid_above",
        heading="KID × 10³ above samples",
        better=None,
        digits=None,
        scale=1e3,
        meaning=(
            "KID less that of the samples, to the same held-out pictures, whose part of the error "
            "drops out: the samples are nearer where the whole interval lies above 0."
        ),
    ),
    Column(
        key="precision",
        heading="precision",
        narrow="preci-\nsion",
        better="higher",
        meaning=(
            "Share of the images that lie among the real ones: are they realistic? "
            "(Kynkäänniemi et al., 2019)."
        ),
    ),
    Column(
        key="recall",
        heading="recall",
        narrow="re-\ncall",
        better="higher",
        meaning=(
            "Share of the real pictures that lie among the images: is the whole domain made? "
            "Fewer images reach fewer, so compare only rows of equal size "
            "(Kynkäänniemi et al., 2019)."
        ),
    ),
    Column(
        key="density",
        heading="density",
        better="higher",
        meaning=(
            "How many real neighbourhoods an image lies in, 1 being usual for real pictures; like "
            "precision, but robust to outliers (Naeem et al., 2020)."
        ),
    ),
    Column(
        key="coverage",
        heading="coverage",
        better="higher",
        meaning=(
            "Share of the real neighbourhoods that hold an image; like recall, but robust to "
            "outliers, and likewise for rows of equal size (Naeem et al., 2020)."
        ),
    ),
    Column(
        key="authenticity",
        heading="authenticity",
        narrow="authen-\nticity",
        better="higher",
        meaning=(
            "Share of the images farther from their nearest few-shot picture than that is from its "
            "own nearest; 0 for copies, about 0.5 for new pictures of the same domain, more for "
            "pictures of another one (Alaa et al., 2022)."
        ),
    ),
    Column(
        key="near_copies",
        heading="near-copies",
        narrow="near\ncopy",
        better="lower",
        meaning=(
            "Share of the images nearer to a few-shot picture than 99% of held-out pictures are "
            "(than all of them, where they are fewer than 100): copies to the eye, which "
            "authenticity may miss. New pictures make as many as the bounds of real ones say."
        ),
    ),
    Column(
        key="captured",
        heading="captured",
        narrow="cap-\ntured",
        better="lower",
        meaning=(
            "Share of the images whose nearest neighbours are mostly pictures of the model's own "
            "domain: the target was lost while decoding (mode interference, Zhu et al., 2023)."
        ),
    ),
    Column(
        key="blend_pair",
        heading="blend of 2",
        narrow="blend\nof 2",
        better="lower",
        judged=False,
        meaning=(
            "Mean share of an image's variance (R²) explained by a mixture of its best two "
            "few-shot pictures; to be read beside that of real pictures, which no mixture made."
        ),
    ),
    Column(
        key="blend_five",
        heading="blend of 5",
        better="lower",
        judged=False,
        meaning="The same for a mixture of five.",
    ),
    Column(
        key="diversity",
        heading="diversity",
        better="higher",
        digits=None,
        meaning=(
            "Mean distance, in feature space, of images that have the same nearest few-shot "
            "picture, over the pictures that have at least two such images; 0 where all are copies "
            "(after Intra-LPIPS of Ojha et al., 2021)."
        ),
    ),
    Column(
        key="diversity_clusters",
        heading="clusters",
        better="higher",
        digits=0,
        interval=False,
        meaning="Number of these few-shot pictures: over how many the images spread.",
    ),
    Column(
        key="intra_lpips",
        heading="Intra-LPIPS",
        better="higher",
        judged=False,
        meaning=(
            "The same with LPIPS as the distance, of images resized to 64x64 (Ojha et al., 2021; "
            "published figures are of 256x256)."
        ),
    ),
    Column(
        key="intra_lpips_clusters",
        heading="clusters, LPIPS",
        better="higher",
        digits=0,
        interval=False,
        judged=False,
        meaning="Likewise, their number.",
    ),
)


_OPTIONAL = ("kid_above", "intra_lpips", "intra_lpips_clusters")
"""Figures that not every table has: of a comparison, of metrics that are not on by default."""

_SECOND = ("kid", "precision", "recall", "authenticity", "near_copies")
"""Figures of further judges that tables for people show."""

_NARROW = ("kid", "authenticity")
"""Likewise, in the table of a sweep in a terminal."""


def columns_of(rows: Sequence[Row], *, all_figures: bool = False) -> list[Column]:
    """The columns of a table: those of the headline judge, then those of the others in its rows.

    Args:
        rows: of the table.
        all_figures: whether the others show all that they judge, those of the user's own among
            it.
    """
    judged = [c for c in COLUMNS if c.judged and (all_figures or c.key in _SECOND)]
    own = [c for c in COLUMNS if c.key not in _OPTIONAL or any(c.key in row for row in rows)]
    unknown = _unknown(rows)
    seconds = []
    for judge in second_judges(rows):
        seconds += [column.of(judge) for column in judged]
        added = [column.of(judge) for column in unknown if all_figures]
        seconds += [column for column in added if any(column.key in row for row in rows)]
    return [*own, *unknown, *seconds]


def _unknown(rows: Sequence[Row]) -> list[Column]:
    """Columns for figures of metrics that a user has added."""
    known = {key for column in COLUMNS for key in column.keys}
    keys = dict.fromkeys(
        key for row in rows for key, value in row.items() if isinstance(value, float)
    )
    found = []
    for key in keys:
        base = key.removesuffix("_low").removesuffix("_high")
        if plain(key) == key and key not in known and (base == key or base not in keys):
            meaning = "Of a metric that is not one of this package's."
            heading = key.replace("_", " ")
            found.append(Column(key, heading, None, meaning, digits=None, judged=False))
    return found


def judges_of(results: Results) -> list[str]:
    """Names of the judges of a run, the headline's first; none where nothing tells."""
    told = str((results.get("protocol") or {}).get("judges") or "")
    return [name for name in told.split(", ") if name]


def number(value: object) -> float | None:
    """Return a finite number as it is, and none for all that is no figure (null, NaN, infinity)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text


def _decimals(value: float, *, significant: int = 3) -> int:
    """Decimals that show so many significant digits, at most six."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return min(max(significant - 1 - magnitude, 0), 6)


def figure(key: str, row: Row) -> str:
    """Write one figure of a row as the tables do."""
    return next(column for column in COLUMNS if column.key == key).text(row)


def figure_with_interval(key: str, row: Row) -> str:
    """Write one figure of a row, and its interval where it has one."""
    column = next(column for column in COLUMNS if column.key == key)
    return f"{column.text(row)} {column.bounds(row)}".rstrip()


def strategy(results: Results) -> Row:
    """Find the row of the strategy.

    Raises:
        ValueError: there is none.
    """
    for row in results["rows"]:
        if row["role"] == "strategy":
            return dict(row)
    raise ValueError("rows must hold one of role strategy, got none")


def rich_table(results: Results) -> TerminalTable:
    """Show a run in a terminal: a line for each figure, a column for each set."""
    run, rows = results["run"], results["rows"]
    return TerminalTable(
        title=(
            f"{run['data']} from {run['model']}: {run['sampler']}, step {run['step']}, "
            f"eta {run['eta']}, {run['num_samples']} samples, seed {run['seed']}"
        ),
        headings=[str(row["name"]) for row in rows],
        lines=[
            Line(column.title, [column.text(row) for row in rows]) for column in columns_of(rows)
        ],
        bold=[k for k, row in enumerate(rows) if row["role"] == "strategy"],
        caption=f"{_CAPTION}{_judged(judges_of(results))}",
    )


def _judged(judges: Sequence[str]) -> str:
    return f"; judged by {judges[0]} where no other is named" if len(judges) > 1 else ""


def judged_by(runs: Sequence[Results]) -> str:
    """Say whose figures those of several runs are where no judge is named; empty if unknown."""
    headlines = list(dict.fromkeys(judges_of(run)[0] for run in runs if judges_of(run)))
    if len(headlines) > 1:
        return (
            f"where no judge is named, by the headline of each run ({', '.join(headlines)}), so "
            "that runs of different ones do not compare"
        )
    return f"judged by {headlines[0]} where no other is named" if headlines else ""


def sweep_table(title: str, rows: Sequence[Row], *, judged: str = "") -> TerminalTable:
    """Show many runs in a terminal: a line for each, the figures that tell them apart.

    Args:
        title: of the table.
        rows: its lines.
        judged: whose figures they are, as `judged_by` says it.
    """
    # all rows of the headline, of the others how near and how new
    columns = [
        c for c in columns_of(rows) if c.narrow and (c in COLUMNS or plain(c.key) in _NARROW)
    ]
    return TerminalTable(
        title=title,
        headings=[column.narrow + _ARROWS[column.better] for column in columns],
        lines=[
            Line(
                str(row["name"]),
                [column.text(row) for column in columns],
                bold=row["role"] == "strategy",
                last=following is not None and following["role"] != row["role"],
            )
            for row, following in zip(rows, [*rows[1:], None], strict=True)
        ],
        caption="; ".join(filter(None, (_CAPTION, judged))),
    )


def markdown_table(rows: Sequence[Row]) -> str:
    """Write rows as a markdown table, with the figures rounded as in all other tables."""
    columns = columns_of(rows)
    lines = [
        ["set", *(column.title for column in columns)],
        ["---", *("---:" for _ in columns)],
        *([_cell(str(row["name"])), *(column.text(row) for column in columns)] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def csv_table(rows: Sequence[Row], *, first: Sequence[str] = (), last: Sequence[str] = ()) -> str:
    """Write rows as CSV with all digits; a figure that is missing is an empty field.

    Args:
        rows: The rows.
        first: Further keys of the rows, as first columns.
        last: Likewise, as last columns.
    """
    keys = [*first, "name", "role"]
    for column in columns_of(rows, all_figures=True):
        keys += column.keys
    keys += last
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys)
    for row in rows:
        fields = (row.get(key) for key in keys)
        writer.writerow(
            "" if value is None or (isinstance(value, float) and number(value) is None) else value
            for value in fields
        )
    return text.getvalue()
