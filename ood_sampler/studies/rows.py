"""Rows of studies: which belong together, how bounds stand in them, how a number is quoted."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ood_sampler.metrics.opinions import of_judge, second_judges
from ood_sampler.report.columns import Row
from ood_sampler.statistics.band import Point
from ood_sampler.statistics.decision import TOO_FEW, Pool, advice, estimated
from ood_sampler.statistics.intervals import (
    STANDARD_ERRORS,
    difference_interval,
    interval,
    with_bounds,
)
from ood_sampler.statistics.resampling import Interval

RunRows = Mapping[str, Row]
"""Rows of one run, by the column that tells them apart."""


def by_column(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """Rows of each value of a column, in the order in which the values come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def by_domain(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each domain, in the order in which the domains come."""
    return by_column(rows, "domain")


def units(rows: Sequence[Row]) -> str:
    """What conclusions count: domains, or runs where one domain has several."""
    return "runs" if any("of_domain" in row for row in rows) else "domains"


def flow_of(row: Row) -> str:
    """Label of the corrected flow that a row is about; empty for that of the model."""
    weight = row.get("correction", 0)
    return f", w = {weight:g}" if weight else ""


def by_flow(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows along each flow, by its label."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(flow_of(row), []).append(row)
    return found


def place(row: Row) -> str:
    """Where its latents lie, in words (`Codec.at`)."""
    return f"t = {row['step']}" if "step" in row else str(row["latents"])


def by_step(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of their steps."""
    return sorted(rows, key=lambda row: int(row["step"]))


def by_run(
    rows: Sequence[Row], key: str, settings: Callable[[RunRows], Mapping[str, object]]
) -> dict[str, RunRows]:
    """Rows of each run, by its domain and, where a sweep has several, by what they differ in.

    Args:
        rows: of one or several runs (`Study.about`).
        key: column that tells the rows of a run apart.
        settings: of a run, by name.

    Raises:
        ValueError: a row does not say which run it is of.
    """
    if any("run" not in row for row in rows):
        raise ValueError(
            "rows have no column `run`: an older version measured them; repeat the study, which "
            "takes its stored results"
        )
    return {
        name: run
        for domain, of_domain in by_domain(rows).items()
        for name, run in _named(
            domain,
            [_distinct(own, key) for own in by_column(of_domain, "run").values()],
            settings,
        )
    }


def _distinct(rows: Sequence[Row], key: str) -> RunRows:
    found = {row[key]: row for row in rows}
    if len(found) < len(rows):
        raise ValueError(
            f"two rows of run {rows[0]['run']} have the same {key}: an older version measured "
            "them; repeat the study, which takes its stored results"
        )
    return found


def _named(
    domain: str, runs: Sequence[RunRows], settings: Callable[[RunRows], Mapping[str, object]]
) -> list[tuple[str, RunRows]]:
    if len(runs) == 1:
        return [(domain, runs[0])]
    found = [settings(run) for run in runs]
    keys = [key for key in found[0] if any(each[key] != found[0][key] for each in found)]
    names = [", ".join([domain, *(f"{key} {each[key]}" for key in keys)]) for each in found]
    if len(set(names)) < len(names):
        names = [f"{name}, run {k}" for k, name in enumerate(names, 1)]
    return list(zip(names, runs, strict=True))


def by_each_judge(
    rows: Sequence[Row], derive: Callable[[str | None], Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Add to each row what follows from its numbers, as each judge sees them.

    Args:
        rows: with the numbers of all judges.
        derive: what to add to each row by one judge; None is the headline (`as_judged`).
    """
    found = [{**row, **more} for row, more in zip(rows, derive(None), strict=True)]
    for judge in second_judges(rows):
        for row, more in zip(found, derive(judge), strict=True):
            row |= {of_judge(judge, key): value for key, value in more.items()}
    return found


def bounds(key: str, interval: Interval) -> dict[str, float]:
    """A number and its interval as they stand in a row."""
    return with_bounds({key: interval})


def standard_error(row: Row, key: str) -> float:
    """Standard error of a number, from the width of its interval."""
    return float(row[f"{key}_high"] - row[f"{key}_low"]) / (2 * STANDARD_ERRORS)


def excess(row: Row, real: Row) -> Interval:
    """Share of near-copies of a row less that of new real images."""
    return difference_interval(*(interval(each, "near_copies") for each in (row, real)))


def point(row: Row, real: Row | None = None) -> Point:
    """What makes a setting usable and good, from its row and that of real images.

    Without the latter, near-copies do not count against it.
    """
    return Point(
        step=row["step"],
        retention=1 - row["captured"],
        novelty=row["authenticity"],
        distance=row["kid"],
        error=row["kid_standard_error"],
        near_copies=row["near_copies"],
        excess=0.0 if real is None else excess(row, real).low,
    )


def kid(row: Row) -> Interval:
    """KID of a row, two standard errors to both sides."""
    return estimated(row["kid"], row["kid_standard_error"])


def quoted_kid(row: Row) -> str:
    """KID of a row with its standard error, for a sentence."""
    return f"KID {1e3 * row['kid']:.1f} ± {1e3 * row['kid_standard_error']:.1f} × 10⁻³"


def quoted(row: Row, key: str, form: str = ".2f") -> str:
    """A number of a row with its interval in brackets, for a sentence."""
    low, high = (format(row[f"{key}_{end}"], form) for end in ("low", "high"))
    return f"{row[key]:{form}} [{low}, {high}]"


def too_few(
    factor: float | None,
    row: Row,
    *,
    count: str = "images",
    name: str = "samples",
    setting: str = "num_samples",
) -> str:
    """Say that there are too few images to tell, and how many would do.

    Args:
        factor: of the `Decision` that is unclear.
        row: a line that says how many there are.
        count: column of that number.
        name: what they are called.
        setting: key of the configuration that gives their number.
    """
    images = row.get(count)
    if not images:
        return TOO_FEW
    return f"{TOO_FEW}, {advice(factor, Pool(round(images), name, setting))}"
