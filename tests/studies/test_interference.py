from dataclasses import replace
from typing import Any

import pytest

from ood_sampler.diffusion.solvers import MultistepSolver
from ood_sampler.studies.base import Measured
from ood_sampler.studies.interference import InterferenceStudy
from tests.conftest import make_correction
from tests.studies.conftest import (
    TinyRun,
    about_strategy,
    check_texts,
    drawn,
    grey,
    lacking,
    measured_by,
    moved,
)

STUDY = InterferenceStudy(steps=[200, 700], etas=[0.0, 0.5, 1.0])


@pytest.fixture(scope="module")
def measured(tiny_run: TinyRun) -> Measured:
    return measured_by(STUDY, tiny_run(STUDY))


def test_rows_have_what_the_table_shows(measured: Measured) -> None:
    expected = [(step, eta) for step in (200, 700) for eta in (0.0, 0.5, 1.0)]
    assert [(row["step"], row["eta"]) for row in measured.rows] == expected
    assert all(lacking(STUDY, row) == set() for row in measured.rows)
    assert list(measured.pictures)[:2] == ["smooth/t = 200/η = 0", "smooth/t = 200/η = 0.5"]
    assert len(measured.pictures) == 6


def test_both_flows_are_shown_where_there_is_a_correction(
    measured: Measured, tiny_run: TinyRun
) -> None:
    study = InterferenceStudy(steps=[200, 700], etas=[0.0, 1.0])
    both = measured_by(study, tiny_run(study, correction=make_correction()))
    plain, corrected = both.rows[:4], both.rows[4:]
    assert [row["correction"] for row in both.rows] == [0] * 4 + [1] * 4
    assert [(row["step"], row["eta"]) for row in plain] == [
        (row["step"], row["eta"]) for row in corrected
    ]
    # the rows without it are those of a study without it
    alone = [{**row, "run": both.rows[0]["run"]} for row in measured.rows if row["eta"] != 0.5]
    assert plain == alone
    assert all(row["kid"] != other["kid"] for row, other in zip(plain, corrected, strict=True))
    assert list(both.pictures)[3:5] == ["smooth/t = 700/η = 1", "smooth/t = 200/η = 0, w = 1"]
    drawn(study, both.rows, both.pictures)


def test_figures_are_those_of_runs_with_the_same_noise(
    measured: Measured, tiny_run: TinyRun
) -> None:
    row = measured.rows[5]
    outcome = tiny_run().variant(step=700, eta=1.0).sample_row()
    assert {**row, **outcome.figures} == row
    assert row["kid"] != measured.rows[3]["kid"]
    measure = tiny_run(STUDY).measure
    real = measure.row("few-shot", "reference", measure.few_shot).figures["captured"]
    assert {row["real_captured"] for row in measured.rows} == {real}


def line(
    *captured: float,
    step: int = 300,
    margin: float = 0.05,
    **changes: Any,  # noqa: ANN401
) -> list[dict[str, Any]]:
    """Rows of one step, by the captured share at increasing noise."""
    etas = (0.0, 0.3, 0.6, 1.0)[: len(captured)]
    return [
        about_strategy(
            step=step,
            eta=eta,
            captured=share,
            captured_low=share - margin,
            captured_high=share + margin,
            real_captured=0.02,
            **changes,
        )
        for eta, share in zip(etas, captured, strict=True)
    ]


@pytest.mark.parametrize(
    ("captured", "words"),
    [
        ((0.1, 0.2, 0.3, 0.5), "noise pulls samples to the model's own domain"),
        ((0.5, 0.3, 0.2, 0.1), "noise frees samples from the model's own domain"),
        # the intervals of the ends overlap, in whatever direction
        ((0.1, 0.4, 0.3, 0.15), "no effect of noise beyond the intervals"),
        ((0.15, 0.4, 0.3, 0.1), "no effect of noise beyond the intervals"),
        ((0.5, 0.3, 0.2, 0.42), "no effect of noise beyond the intervals"),
    ],
)
def test_noise_is_judged_by_the_intervals_of_the_ends(
    captured: tuple[float, ...], words: str
) -> None:
    sentence = STUDY.conclude(line(*captured))[1]
    assert sentence.startswith(f"a, t = 300: {words} (")
    assert f"{captured[0]:.2f} [{captured[0] - 0.05:.2f}, {captured[0] + 0.05:.2f}] at η = 0" in (
        sentence
    )
    assert f"{captured[-1]:.2f} [{captured[-1] - 0.05:.2f}, " in sentence
    assert "at η = 1, " in sentence


def test_little_noise_is_told_from_too_few_images() -> None:
    narrow = STUDY.conclude(line(0.1, 0.12, 0.11, margin=0.01))[1]
    assert "noise changes the captured share by less than 0.05 (" in narrow
    # the ends of both reach 0.1 together: four times as many show a difference of 0.05, which is
    # the margin of none
    wide = STUDY.conclude(line(0.1, 0.2, 0.15, images=50))[1]
    assert (
        "no effect of noise beyond the intervals (too few images to say, about 200 samples would "
        "do (num_samples))" in wide
    )


def test_one_step_and_no_noise_have_no_range() -> None:
    (sentence,) = STUDY.conclude(line(0.0, step=900, margin=0.0))
    assert sentence == (
        "a: at η = 0 the captured share is 0.00 [0.00, 0.00] at t = 900 (0.02 of real images of "
        "the domain)."
    )
    (sentence,) = STUDY.conclude(line(0.1, 0.2, step=900))
    assert "share is 0.10 [0.05, 0.15] at t = 900; at η = 0.3 and t = 900 it is 0.20" in sentence


@pytest.mark.parametrize(
    ("captured", "words"),
    [
        ((0.1, 0.2, 0.3), "the correction frees samples from the model's own domain"),
        ((0.1, 0.9, 0.99), "the correction has more samples captured"),
        ((0.1, 0.5, 0.65), "no effect of the correction beyond the intervals (too few images to"),
    ],
)
def test_the_correction_is_judged_where_most_is_captured_without_it(
    captured: tuple[float, ...], words: str
) -> None:
    rows = [*line(0.1, 0.6, 0.7), *line(*captured, correction=0.5)]
    *_, last = STUDY.conclude(rows)
    assert last.startswith(f"a, t = 300, η = 0.6: {words}")
    assert f"{captured[2]:.2f} [{captured[2] - 0.05:.2f}, " in last
    assert "with weight 0.5, 0.70 [0.65, 0.75] without)." in last
    # and each flow by itself, as before
    assert STUDY.conclude(rows)[:2] == STUDY.conclude(line(0.1, 0.6, 0.7))
    assert STUDY.conclude(rows)[2].startswith("a, w = 0.5: at η = 0 the captured share is 0.10")
    narrow = [*line(0.1, 0.6, margin=0.01), *line(0.1, 0.62, margin=0.01, correction=1)]
    assert (
        "the correction changes the captured share by less than 0.05 ("
        in (STUDY.conclude(narrow)[-1])
    )


@pytest.mark.parametrize(
    ("captured", "rho"), [((0.1, 0.2, 0.3), "1.00"), ((0.3, 0.2, 0.1), "-1.00")]
)
def test_the_order_with_the_noise_is_a_rank_correlation(
    captured: tuple[float, ...], rho: str
) -> None:
    assert f"rank correlation with η {rho})" in STUDY.conclude(line(*captured))[1]


def test_the_first_sentence_follows_the_step_and_then_the_noise() -> None:
    rows = [*line(0.1, 0.2, step=300), *line(0.3, 0.9, step=700), *line(0.2, 0.4, step=500)]
    (sentence,) = STUDY.conclude(rows)  # two values of the noise are no curve
    assert sentence == (
        "a: at η = 0 the captured share goes from 0.10 [0.05, 0.15] at t = 300 to "
        "0.30 [0.25, 0.35] at t = 700; at η = 0.3 and t = 700 it is 0.90 [0.85, 0.95] "
        "(0.02 of real images of the domain)."
    )


def test_each_domain_and_step_has_a_sentence() -> None:
    own = [*line(0.1, 0.2, 0.5, step=300), *line(0.6, 0.5, 0.2, step=700)]
    sentences = STUDY.conclude([*own, *moved(own, "b")])
    assert [sentence.split(":")[0] for sentence in sentences] == [
        *("a", "a, t = 300", "a, t = 700"),
        *("b", "b, t = 300", "b, t = 700"),
    ]
    assert "pulls" in sentences[1]
    assert "frees" in sentences[2]


def test_the_figure_has_a_line_for_each_domain(measured: Measured) -> None:
    small = drawn(STUDY, measured.rows, measured.pictures)
    large = drawn(STUDY, [*measured.rows, *moved(measured.rows, "other")], measured.pictures)
    assert large[1] > 1.5 * small[1]


def test_the_figure_shows_pictures_of_three_steps_and_curves_of_all() -> None:
    steps = range(100, 1000, 100)
    rows = [row for step in steps for row in line(0.1, 0.5, step=step, margin=-1e-17)]
    labels = [f"a/t = {step}/η = {eta}" for step in steps for eta in (0, 1)]
    drawn(STUDY, rows, grey(*labels))
    panels: Any = STUDY.draw(rows, grey(*labels)).axes
    curve, *strips = panels
    assert len(curve.containers) == 9
    titles = [axes.get_title(loc="left") for axes in strips]
    assert titles == ["t = 100", "t = 800", "t = 900"]
    assert [axes.images[0].get_array().shape for axes in strips] == [(16, 32, 3)] * 3
    assert [text.get_text() for text in strips[0].texts] == ["η = 0", "η = 1"]


@pytest.mark.parametrize(("steps", "panels"), [(1, 2), (2, 3), (3, 4), (5, 4)])
def test_the_figure_has_no_empty_panel(steps: int, panels: int) -> None:
    every = [300 + 100 * k for k in range(steps)]
    rows = [row for step in every for row in line(0.1, 0.5, step=step)]
    figure: Any = STUDY.draw(rows, grey(*(f"a/t = {step}/η = 0" for step in every)))
    assert len(figure.axes) == panels
    assert all(axes.has_data() for axes in figure.axes)
    check_texts(figure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [500, 300]}, r"study\.steps must increase, got \[500, 300\]"),
        ({"steps": []}, r"study\.steps must increase"),
        ({"etas": [0.0, 0.0]}, r"study\.etas must increase, got \[0\.0, 0\.0\]"),
        ({"etas": []}, r"study\.etas must increase"),
    ],
)
def test_what_does_not_increase_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InterferenceStudy(**{"steps": [300], "etas": [0.0], **changes})


def test_a_solver_that_decodes_without_noise_alone_is_refused(tiny_run: TinyRun) -> None:
    run = tiny_run(STUDY)
    run = replace(run, codec=run.model.codec(MultistepSolver(steps=4, power=1)))
    with pytest.raises(ValueError, match=r"decode\.eta must be 0 for MultistepSolver, got 0\.5"):
        STUDY.check(run)
