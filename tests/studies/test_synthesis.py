from collections.abc import Mapping
from typing import Any

import pytest

from ood_sampler.pipeline.measure import REAL as REAL_PICTURES
from ood_sampler.report.tables import IN_DOMAIN
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet, Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.studies.base import Measured
from ood_sampler.studies.synthesis import CONTROL, REFERENCE, STRATEGY, SynthesisStudy
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

SAMPLERS: Mapping[str, Sampler] = {
    "gaussian": GaussianSampler(covariance="scalar"),
    "cog": CogSampler(references=2),
}
STUDY = SynthesisStudy(samplers=SAMPLERS)


@pytest.fixture(scope="module")
def measured(tiny_run: TinyRun) -> Measured:
    return measured_by(STUDY, tiny_run(STUDY))


def test_rows_have_what_the_table_shows(measured: Measured) -> None:
    assert [(row["role"], row["strategy"]) for row in measured.rows] == [
        (STRATEGY, "gaussian (scalar)"),
        (STRATEGY, "cog (2)"),
        (REFERENCE, REAL_PICTURES),
        (REFERENCE, IN_DOMAIN),
        (CONTROL, "cog (2) in pixels"),
    ]
    for row in measured.rows:
        no_samples = set() if row["role"] == STRATEGY else {"step", "evaluations"}
        assert lacking(STUDY, row) == no_samples
    assert {row["step"] for row in measured.rows[:2]} == {400}
    assert list(measured.pictures) == ["smooth/gaussian (scalar)", "smooth/cog (2)"]
    assert {len(x) for x in measured.pictures.values()} == {8}


def test_figures_are_those_of_a_normal_run(measured: Measured, tiny_run: TinyRun) -> None:
    rows = {row.name: row.figures for row in tiny_run().run().rows}
    for found in measured.rows[1:]:
        figures = rows[found["strategy"]].items()
        # of the comparison with the run's own samples
        own = {key: value for key, value in figures if not key.startswith("kid_above")}
        assert {**found, **own} == found


def strategy(name: str, kid: float, *, error: float = 0.001, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return about_strategy(
        strategy=name, kid=kid, kid_standard_error=error, role=STRATEGY, **changes
    )


PAPER = strategy("rejection (as in the text: slerp, 20000)", 0.1, authenticity=0.4)


def test_the_best_is_the_nearest_of_those_as_new_as_the_papers() -> None:
    rows = [
        PAPER,
        strategy("cog (3)", 0.05, authenticity=0.4),
        strategy("copy", 0.01, authenticity=0.2),
        strategy("gaussian", 0.09, authenticity=0.9),
        # not a strategy
        {**strategy("real", 0.001, authenticity=0.9), "role": REFERENCE},
    ]
    (sentence,) = STUDY.conclude(rows)
    assert sentence == (
        "a, t = 500: best is cog (3), KID 50.0 ± 1.0 × 10⁻³ at authenticity 0.40; the paper's "
        "recipe as in the text (slerp of two latents, criteria measured here), newer by less than "
        "0.1, has KID 100.0 ± 1.0 × 10⁻³ at authenticity 0.40: 50% lower, told apart by two "
        "standard errors."
    )
    # without the paper's recipe nothing bars the copies
    (sentence,) = STUDY.conclude(rows[1:])
    assert sentence == "a, t = 500: best is copy, KID 10.0 ± 1.0 × 10⁻³ at authenticity 0.20."


def test_both_recipes_of_the_paper_are_told_of() -> None:
    code = strategy("rejection (as in the code: in_domain, 20000)", 0.3, authenticity=0.6)
    (sentence,) = STUDY.conclude([code, PAPER, strategy("cog (3)", 0.05, authenticity=0.4)])
    assert "the paper's recipe as in the text (slerp of two latents," in sentence
    assert sentence.endswith(
        "KID 100.0 ± 1.0 × 10⁻³ at authenticity 0.40: 50% lower, told apart by two standard errors"
        "; as in the code (slerp with a draw of the model's own domain) it has KID 300.0 ± 1.0 × "
        "10⁻³ at authenticity 0.60, told apart by two standard errors."
    )


def test_the_baseline_of_noised_pictures_is_told_of() -> None:
    noised = strategy("noised", 0.051)
    (sentence,) = STUDY.conclude([strategy("cog (3)", 0.05), noised])
    assert "; noised has KID 51.0 ± 1.0 × 10⁻³ at authenticity 0.50, not told apart by" in sentence
    (sentence,) = STUDY.conclude([strategy("cog (3)", 0.05), strategy("noised", 0.06)])
    assert sentence.endswith("authenticity 0.50, told apart by two standard errors.")
    (sentence,) = STUDY.conclude([strategy("cog (3)", 0.07), noised])
    assert sentence == "a, t = 500: best is noised, KID 51.0 ± 1.0 × 10⁻³ at authenticity 0.50."


@pytest.mark.parametrize(
    ("best", "counts"),
    # shown, refuted and unclear; the other domain has it shown
    [
        # 70% of 100 ± 1 are 70 ± 0.7, from which two standard errors reach 2.4
        (strategy("x", 0.0675, authenticity=0.4), (2, 0, 0)),
        (strategy("x", 0.0685, authenticity=0.4), (1, 0, 1)),
        (strategy("x", 0.0715, authenticity=0.4), (1, 0, 1)),
        (strategy("x", 0.0725, authenticity=0.4), (1, 1, 0)),
        # lower by 0.04, of which the interval reaches to 0.09
        (strategy("x", 0.0675, authenticity=0.36), (2, 0, 0)),
        (strategy("x", 0.0675, authenticity=0.33), (1, 0, 1)),
        (strategy("x", 0.02, authenticity=0.2), (1, 1, 0)),
        (strategy("x", 0.0675, authenticity=0.4, error=0.02), (1, 0, 1)),
        (strategy("x", 0.2, authenticity=0.9), (1, 1, 0)),
    ],
)
def test_domains_count_on_which_a_strategy_is_thirty_percent_lower(
    best: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    met = moved([PAPER, strategy("cog", 0.05, authenticity=0.4)], "b")
    alone = moved([strategy("cog", 0.01, authenticity=0.4)], "c")
    sentences = STUDY.conclude([PAPER, best, *met, *alone])
    assert len(sentences) == 4
    # a domain without the paper's recipe does not count
    shown, refuted, unclear = counts
    assert sentences[-1].endswith(
        f"by domain: shown in {shown} of 2, refuted in {refuted}, too few images to say in "
        f"{unclear}."
    )
    assert len(STUDY.conclude([PAPER, best])) == 1


def test_what_is_not_told_apart_says_how_many_images_would_do() -> None:
    rows = [strategy("cog (3)", 0.05, images=100), strategy("noised", 0.051)]
    # a difference of 1 with two standard errors of 2.83 needs eight times as many
    assert STUDY.conclude(rows)[0].endswith(
        "not told apart by two standard errors (too few images to say, about 800 samples would do "
        "(num_samples))."
    )


def test_the_papers_recipe_may_be_the_best() -> None:
    (sentence,) = STUDY.conclude([PAPER, strategy("x", 0.02, authenticity=0.2)])
    assert sentence == (
        "a, t = 500: best is rejection (as in the text: slerp, 20000), KID 100.0 ± 1.0 × 10⁻³ at "
        "authenticity 0.40, the paper's recipe as in the text: no other that is shown as new has a "
        "lower KID."
    )


def test_a_recipe_without_distance_gives_no_percentage() -> None:
    paper = strategy("rejection (as in the text: slerp, 20000)", -0.001, authenticity=0.4)
    (sentence,) = STUDY.conclude([paper, strategy("x", -0.002, authenticity=0.4)])
    assert "authenticity 0.40: both about 0, not told apart" in sentence


def test_the_figure_has_a_line_for_each_domain(measured: Measured) -> None:
    small = drawn(STUDY, measured.rows, measured.pictures)
    large = drawn(STUDY, [*measured.rows, *moved(measured.rows, "other")], measured.pictures)
    assert large[1] > 1.5 * small[1]


def test_the_figure_shows_each_set_with_its_interval() -> None:
    rows = [strategy("x", 0.02, kid_low=0.01, kid_high=0.05), strategy("y", -0.001)]
    panels: Any = STUDY.draw(rows, grey("a/x", "a/y", "b/x")).axes
    strips, kid, authenticity = panels
    assert strips.images[0].get_array().shape == (16, 32, 3)
    assert [text.get_text() for text in strips.texts] == ["x", "y"]
    assert [label.get_text() for label in kid.get_yticklabels()] == ["x", "y"]
    bar = kid.containers[0].lines[2][0].get_segments()[0]
    assert bar.tolist() == [pytest.approx([10, 0]), pytest.approx([50, 0])]
    assert len(authenticity.containers) == 2


@pytest.mark.parametrize(("domains", "strategies"), [(1, 1), (2, 8), (8, 2)])
def test_names_and_ticks_do_not_overlap(domains: int, strategies: int) -> None:
    names = [f"rejection (slerp, {20_000 + k})" for k in range(strategies)]
    rows = [
        row
        for d in range(domains)
        for row in moved([strategy(n, 0.4 / 9**k) for k, n in enumerate(names)], f"domain {d}")
    ]
    strips = grey(*(f"domain {d}/{name}" for d in range(domains) for name in names))
    figure: Any = STUDY.draw(rows, strips)
    check_texts(figure)
    assert all(axes.has_data() for axes in figure.axes)


class GivesUpSampler(CogSampler):
    def fit(self, inverted: InvertedSet) -> Fitted:
        raise GaveUpError("nothing was accepted")


def test_strategies_that_all_give_up_are_told(
    tiny_run: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    study = SynthesisStudy(samplers={"x": GivesUpSampler(references=2)})
    with caplog.at_level("WARNING"), pytest.raises(ValueError, match="no strategy is left: each"):
        study.measure(tiny_run(study))
    assert "givesup (2) is left out: nothing was accepted" in caplog.text


def test_what_cannot_be_measured_is_refused(tiny_run: TinyRun) -> None:
    with pytest.raises(ValueError, match=r"study\.samplers must name at least one strategy"):
        SynthesisStudy(samplers={})
    with pytest.raises(ValueError, match="needs 13 few-shot images, there are 12"):
        SynthesisStudy(samplers={"x": CogSampler(references=13)}).check(tiny_run())
