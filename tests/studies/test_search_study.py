from dataclasses import replace
from typing import Any

import pytest

from ood_sampler.data.domain import TensorImages
from ood_sampler.pipeline.search import Flows, Search
from ood_sampler.pipeline.trials import TrialJudge
from ood_sampler.report.plots import bitmap
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.statistics.band import Point, Thresholds
from ood_sampler.statistics.intervals import difference_interval, interval
from ood_sampler.studies.search import SearchStudy
from tests.conftest import RESOLUTION, make_correction, smooth_images
from tests.studies.conftest import TinyRun, check_texts, work_left
from tests.test_pipeline import count_evaluations

STUDY = SearchStudy(
    search=Search(
        steps=[300, 500],
        validation=0.3,
        samples=[32],
        keep=0.5,
        retention=0.9,
        novelty=0.5,
        near_copies=0.01,
    ),
    samplers={"a": CogSampler(references=2)},
)


def test_settings_are_usable_by_what_held_out_pictures_ask(tiny_run: TinyRun) -> None:
    search = Search(
        steps=[200, 300, 400, 500],
        validation=0.5,
        samples=[16],
        keep=0.5,
        retention=0.9,
        novelty=0.25,
        near_copies=0.05,
    )
    study = SearchStudy(
        search=search,
        samplers={"a": CogSampler(references=2), "b": GaussianSampler(covariance="scalar")},
    )
    names = [str(i) for i in range(32)]
    few_shot = TensorImages(smooth_images(32, 0), names, resolution=RESOLUTION)
    run = tiny_run(study)
    run = replace(run, domain=replace(run.domain, few_shot=few_shot))
    rows = study.measure(run).rows
    real = run.measure.real().figures
    own = run.measure.row("few-shot", "reference", run.measure.few_shot).figures
    asked = Thresholds(
        0.9 * (1 - own["captured"]),  # type: ignore[operator]
        0.25 * real["authenticity"],  # type: ignore[operator]
        0.05,
    )
    for row in rows:
        copies = (interval(figures, "near_copies") for figures in (row, real))
        reached = Point(
            row["step"],
            1 - row["captured"],
            row["authenticity"],
            row["kid"],
            row["kid_standard_error"],
            row["near_copies"],
            difference_interval(*copies).low,
        )
        assert row["usable"] == asked.passed(reached)
        assert row["real_kid"] == real["kid"]
    assert {row["usable"] for row in rows} == {True, False}
    assert sum(row["chosen"] for row in rows) == 1


def test_a_choice_that_is_not_in_the_grid_has_a_row_of_its_own(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(
        steps=[200, 400],
        validation=0.5,
        samples=[16],
        keep=0.5,
        retention=0.9,
        novelty=0.25,
        near_copies=0.05,
        temperatures=[0.9],
    )
    correction = make_correction()
    flows = Flows({"none": None, "gaussian": correction})
    study = SearchStudy(search=search, samplers={"a": CogSampler(references=2)}, corrections=flows)
    names = [str(i) for i in range(32)]
    few_shot = TensorImages(smooth_images(32, 0), names, resolution=RESOLUTION)
    run = tiny_run(study)
    run = replace(run, domain=replace(run.domain, few_shot=few_shot))
    monkeypatch.setattr(TrialJudge, "better", lambda self, variant, best: True)
    study.check(run)
    promised = sum(work.evaluations for work in work_left(study, run))
    calls = count_evaluations(run, monkeypatch)
    rows = study.measure(run).rows
    assert [(row["step"], row["correction"]) for row in rows[:4]] == [
        (200, 0.0),
        (200, 1.0),
        (400, 0.0),
        (400, 1.0),
    ]
    (chosen,) = (row for row in rows if row["chosen"])
    assert chosen is rows[4]
    assert chosen["strategy"] == "cog (2), temperature = 0.9"
    assert chosen["samples"] == 16
    of_grid = next(
        row
        for row in rows
        if (row["step"], row["correction"]) == (chosen["step"], chosen["correction"])
    )
    assert chosen["kid"] != of_grid["kid"]
    # one part of the images is inverted along a flow of its own
    extra = 16 * run.codec.encoding_evaluations([200, 400])
    samples = 16 * (2 * sum(row["evaluations"] for row in rows[:4:2]) + chosen["evaluations"])
    grid = 10 * sum(row["evaluations"] for row in rows[:4])
    assert {row["cost"] for row in rows} == {(samples + extra) / grid}
    assert sum(calls) <= promised
    assert study.conclude(rows)[0].startswith("smooth: auto chose cog (2), temperature = 0.9 at")


def row(step: int, kid: float, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "domain": "d",
        "model": "m",
        "strategy": "cog (2)",
        "step": step,
        "kid": kid,
        "kid_standard_error": 0.001,
        "authenticity": 0.5,
        "near_copies": 0.0,
        "captured": 0.0,
        "real_kid": 0.0,
        "usable": True,
        "validation_kid": kid,
        "samples": 32,
        "chosen": False,
        "cost": 0.2,
        **changes,
    }


def test_a_choice_within_the_goals_is_told() -> None:
    # 15% above 10 is 11.5: from 11, by more than two standard errors of 0.1 and 0.115
    rows = [row(300, 0.010), row(500, 0.011, chosen=True)]
    rows = [{**each, "kid_standard_error": 0.0001} for each in rows]
    (sentence,) = STUDY.conclude(rows)
    assert "auto chose cog (2) at t = 500 (KID 11.0" in sentence
    assert "is cog (2) at t = 300" in sentence
    assert "10% above it (told apart); it took 20% of the evaluations" in sentence
    assert "met, met." in sentence


def test_a_choice_within_the_goal_by_its_estimate_alone_has_not_met_it() -> None:
    rows = [row(300, 0.010, images=100), row(500, 0.011, chosen=True, images=100)]
    (sentence,) = STUDY.conclude(rows)
    # by 1, with two standard errors of 1.41 of each
    more = "too few images to say, about 800 samples would do (num_samples)"
    assert f"10% above it (not told apart by two standard errors: {more}); it took" in sentence
    # 11 - 11.5 with two standard errors of 1 and 1.15: (3.05 / 0.5)^2 = 37.2
    more = more.replace("800", "3800")
    assert f"below a quarter): {more}, met." in sentence


@pytest.mark.parametrize(
    ("kid", "cost", "verdict"),
    [(0.012, 0.2, "missed, met"), (0.011, 0.25, "met, missed")],
)
def test_missed_goals_are_told(kid: float, cost: float, verdict: str) -> None:
    rows = [row(300, 0.010, cost=cost), row(500, kid, chosen=True, cost=cost)]
    rows = [{**each, "kid_standard_error": 0.0001} for each in rows]
    assert verdict in STUDY.conclude(rows)[0]


def test_ratios_of_nothing_are_not_told() -> None:
    rows = [row(300, -0.0002), row(500, 0.0004, chosen=True)]
    assert "0.6 × 10⁻³ above it, where a ratio means little (not told" in STUDY.conclude(rows)[0]
    rows = [row(300, 0.010), row(500, 0.020, chosen=True)]
    assert "100% above it (told apart)" in STUDY.conclude(rows)[0]


def test_the_best_is_the_best_usable_one() -> None:
    rows = [row(300, 0.001, usable=False), row(400, 0.010), row(500, 0.010, chosen=True)]
    rows = [{**each, "kid_standard_error": 0.0001} for each in rows]
    (sentence,) = STUDY.conclude(rows)
    assert "2 of them usable, is cog (2) at t = 400" in sentence
    assert "met, met" in sentence


def test_a_negative_kid_of_copies_is_not_the_best() -> None:
    copies = row(300, -0.002, near_copies=0.36, authenticity=0.2)
    rows = [copies, row(400, 0.001, chosen=True), row(500, 0.004)]
    (sentence,) = STUDY.conclude(rows)
    assert "is cog (2) at t = 400" in sentence
    assert "The choice is the best one" in sentence
    assert "met, met" in sentence
    rows = [{**copies, "chosen": True}, row(400, 0.001), row(500, 0.004)]
    assert "The choice is lower in KID, but less new" in STUDY.conclude(rows)[0]


def test_the_goal_is_neither_met_nor_missed_within_the_errors() -> None:
    rows = [row(300, 0.001), row(500, 0.002, chosen=True)]
    assert "quarter): too few images to say" in STUDY.conclude(rows)[0]
    rows = [row(300, 0.001), row(500, 0.010, chosen=True)]
    assert "quarter): missed, met" in STUDY.conclude(rows)[0]
    # real images are no nearer, and that is sure
    near = {"real_kid": 0.010, "kid_standard_error": 1e-6}
    assert "quarter): met, met" in STUDY.conclude([{**each, **near} for each in rows])[0]


@pytest.mark.parametrize(("domains", "empty"), [(1, 0), (2, 0), (3, 0), (5, 1), (8, 0)])
def test_panels_have_ticks_and_leave_few_places_empty(domains: int, empty: int) -> None:
    rows = [
        each
        for k in range(domains)
        for each in (
            row(300, 0.4, domain=f"domain {k}", chosen=True),
            row(500, 0.012, domain=f"domain {k}"),
        )
    ]
    figure: Any = STUDY.draw(rows, {})
    check_texts(figure)
    panels = [axes for axes in figure.axes if axes.axison]
    assert (len(panels), len(figure.axes) - len(panels)) == (domains, empty)
    for axes in panels:
        low, high = axes.get_ylim()
        assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2


def test_several_domains_are_counted_and_drawn() -> None:
    rows = [
        row(300, 0.010, chosen=True),
        row(500, 0.020),
        row(300, 0.010, domain="e"),
        row(500, 0.020, domain="e", chosen=True),
    ]
    assert STUDY.conclude(rows)[-1] == (
        "Both goals are met on 1 of 2 domains, missed on 1; on 0 there are too few images to say."
    )
    assert len(bitmap(STUDY.draw(rows, {}))) > 5000
