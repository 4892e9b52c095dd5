from collections.abc import Mapping
from typing import Any

import pytest

from ood_sampler.studies.rows import RunRows, by_run


def row(domain: str, role: str, run: int = 1, *, rate: float = 0.1) -> dict[str, Any]:
    return {"domain": domain, "run": str(run), "role": role, "rate": rate}


def settings(run: RunRows) -> Mapping[str, object]:
    return {"rate": next(iter(run.values()))["rate"]}


def grouped(*rows: dict[str, Any]) -> dict[str, list[str]]:
    found = by_run(rows, "role", settings)
    shown = [row for run in found.values() for row in run.values()]
    assert sorted(map(str, shown)) == sorted(map(str, rows))
    return {name: list(run) for name, run in found.items()}


def test_a_run_alone_is_named_like_its_domain() -> None:
    rows = [row("cats", "before"), row("cats", "after"), row("ships", "before", 2)]
    assert grouped(*rows) == {"cats": ["before", "after"], "ships": ["before"]}


def test_runs_of_one_domain_are_named_by_what_they_differ_in() -> None:
    rows = [
        row("cats", role, run, rate=rate)
        for run, rate in ((1, 0.1), (2, 0.2))
        for role in ("before", "after")
    ]
    assert grouped(*rows) == {
        "cats, rate 0.1": ["before", "after"],
        "cats, rate 0.2": ["before", "after"],
    }
    again = [row("cats", "before"), row("cats", "before", 2), row("cats", "after", 2)]
    assert grouped(*again) == {"cats, run 1": ["before"], "cats, run 2": ["before", "after"]}


def test_rows_of_a_run_belong_together_wherever_they_stand() -> None:
    rows = [
        row("cats", "before"),
        row("ships", "before", 2),
        row("cats", "before", 3, rate=0.2),
        row("cats", "after"),
    ]
    assert grouped(*rows) == {
        "cats, rate 0.1": ["before", "after"],
        "cats, rate 0.2": ["before"],
        "ships": ["before"],
    }


def test_domains_are_told_apart_whatever_their_run() -> None:
    assert list(grouped(row("cats", "real"), row("ships", "real"))) == ["cats", "ships"]


def test_rows_of_older_versions_are_refused() -> None:
    rows = [{"domain": "cats", "role": "real"}]
    with pytest.raises(ValueError, match=r"no column `run`: .* repeat the study"):
        by_run(rows, "role", settings)
