import json
from pathlib import Path
from typing import Any

import pytest

from ood_sampler.report.sight import cite, sight


def row(kind: str, strength: float, detected: bool) -> dict[str, Any]:
    words = f"{kind} of {strength:g}"
    return {
        "kind": kind,
        "strength": strength,
        "degradation": words,
        "beyond": "or more",
        "detected": detected,
    }


def rows(**kinds: list[bool]) -> list[dict[str, Any]]:
    return [row(kind, k + 1, seen) for kind, found in kinds.items() for k, seen in enumerate(found)]


@pytest.mark.parametrize(
    ("found", "noticed", "missed"),
    [
        ([True, True, True], ["blur of 1 or more"], []),
        ([False, True, True], ["blur of 2 or more"], []),
        ([False, False, True], ["blur of 3"], []),
        ([False, False, False], [], ["blur of 3"]),
        ([True], ["blur of 1"], []),
        ([True, False, True], ["blur of 1 and blur of 3 but not blur of 2"], []),
        ([True, True, False], ["blur of 1 and blur of 2 but not blur of 3"], []),
    ],
)
def test_the_weakest_that_is_noticed_is_named(
    found: list[bool], noticed: list[str], missed: list[str]
) -> None:
    assert sight(rows(blur=found)) == (noticed, missed)
    assert sight(rows(blur=found)[::-1]) == (noticed, missed)


def test_kinds_stay_in_their_order() -> None:
    found = sight(rows(hue=[False], blur=[True, True], noise=[False, True], paste=[False]))
    assert found.noticed == ["blur of 1 or more", "noise of 2"]
    assert found.missed == ["hue of 1", "paste of 1"]


def entry(judge: str, domain: str, model: str = "dog32", **kinds: list[bool]) -> dict[str, Any]:
    return {
        "judge": judge,
        "domain": domain,
        "model": model,
        "images": 400,
        "references": 800,
        "rows": rows(**kinds),
    }


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    found = [
        entry("j", "a", blend=[True, True, True], hue=[False, False], noise=[False, True]),
        entry("j", "b", blend=[False, True, True], hue=[False, True], noise=[False, True]),
        entry("blind", "a", blend=[False], hue=[False]),
    ]
    path = tmp_path / "judges.json"
    path.write_text(json.dumps(found))
    return path


def test_a_domain_that_was_measured_is_cited(measured: Path) -> None:
    assert cite("j", "a", "dog32", measured=measured) == (
        "This judge notices blend of 1 or more and noise of 2, but not hue of 2 "
        "(experiment=judges, a, 400 images)."
    )
    assert cite("j", "b", "dog32", measured=measured) == (
        "This judge notices blend of 2 or more, hue of 2, and noise of 2 (experiment=judges, b, "
        "400 images)."
    )
    assert cite("blind", "a", "dog32", measured=measured) == (
        "This judge notices none of blend of 1 and hue of 1 (experiment=judges, a, 400 images)."
    )


def test_a_domain_that_was_not_gets_the_range_of_those_that_were(measured: Path) -> None:
    assert cite("j", "cats", "dog32", measured=measured) == (
        "In all measurements this judge notices blend of 2 or more and noise of 2; in some, blend "
        "of 1 and hue of 2 (experiment=judges, a and b, 400 images). cats was not measured: "
        "experiment=judges does it."
    )
    assert cite("blind", "cats", "dog32", measured=measured) == (
        "This judge notices none of blend of 1 and hue of 1 (experiment=judges, a, 400 images). "
        "cats was not measured: experiment=judges does it."
    )


def test_what_is_noticed_nowhere_is_told(tmp_path: Path) -> None:
    path = tmp_path / "judges.json"
    found = [entry("j", domain, blend=[False], hue=[False]) for domain in "abc"]
    found[0]["images"] = 300
    path.write_text(json.dumps(found))
    assert cite("j", "d", "dog32", measured=path) == (
        "In all measurements this judge notices none of what was tried; in none, blend of 1 and "
        "hue of 1 (experiment=judges, a, b, and c, 300 to 400 images). d was not measured: "
        "experiment=judges does it."
    )


def test_the_model_of_the_run_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "judges.json"
    models = {"dog32": [True, True], "ship32": [False, True], "cat32": [False, True]}
    path.write_text(json.dumps([entry("j", "a", model, x=seen) for model, seen in models.items()]))
    assert "notices x of 1 or more (" in cite("j", "a", "dog32", measured=path)
    assert "This judge notices x of 2 (" in cite("j", "a", "ship32", measured=path)
    assert cite("j", "a", "other", measured=path) == (
        "In all measurements this judge notices x of 2; in some, x of 1 (experiment=judges, a, 400 "
        "images)."
    )
    # another domain says nothing beside them
    path.write_text(json.dumps([entry("j", "a", x=[True, True]), entry("j", "b", x=[False, True])]))
    assert cite("j", "a", "other", measured=path) == (
        "This judge notices x of 1 or more (experiment=judges, a, 400 images)."
    )


def test_a_judge_that_was_not_measured_gets_no_sentence(measured: Path, tmp_path: Path) -> None:
    assert cite("unknown", "a", "dog32", measured=measured) == ""
    assert cite("j", "a", "dog32", measured=tmp_path / "none.json") == ""
