from collections.abc import Mapping
from typing import Any

from ood_sampler.studies.curves import Run, by_run


def row(domain: str, role: str, *, model: str = "dogs", rate: float = 0.1) -> dict[str, Any]:
    return {"model": model, "domain": domain, "role": role, "rate": rate}


def settings(run: Run) -> Mapping[str, object]:
    first = next(iter(run.values()))
    return {"model": first["model"], "rate": first["rate"]}


def grouped(*rows: dict[str, Any]) -> dict[str, list[str]]:
    found = by_run(rows, "role", settings)
    assert [row for run in found.values() for row in run.values()] == sorted(
        rows, key=lambda row: [row["domain"] for row in rows].index(row["domain"])
    )
    return {name: list(run) for name, run in found.items()}


def test_rows_of_one_model_and_domain_are_one_run() -> None:
    rows = [row("cats", "before"), row("cats", "after"), row("ships", "before")]
    assert grouped(*rows) == {"cats": ["before", "after"], "ships": ["before"]}


def test_a_figure_that_comes_again_begins_another_run() -> None:
    rows = [row("cats", role, rate=rate) for rate in (0.1, 0.2) for role in ("before", "after")]
    assert grouped(*rows) == {
        "cats, rate 0.1": ["before", "after"],
        "cats, rate 0.2": ["before", "after"],
    }
    again = [row("cats", "before"), row("cats", "before"), row("cats", "after")]
    assert grouped(*again) == {"cats, run 1": ["before"], "cats, run 2": ["before", "after"]}


def test_another_model_begins_another_run_though_no_figure_comes_again() -> None:
    rows = [row("cats", "before"), row("cats", "after", model="ships")]
    assert grouped(*rows) == {"cats, model dogs": ["before"], "cats, model ships": ["after"]}


def test_rows_of_another_domain_in_between_end_a_run() -> None:
    rows = [row("cats", "before"), row("ships", "before"), row("cats", "after", rate=0.2)]
    assert grouped(*rows) == {
        "cats, rate 0.1": ["before"],
        "cats, rate 0.2": ["after"],
        "ships": ["before"],
    }


def test_rows_without_a_model_are_told_apart_by_their_domain() -> None:
    rows = [{"domain": domain, "role": "real"} for domain in ("cats", "ships")]
    assert list(by_run(rows, "role", lambda run: {})) == ["cats", "ships"]
