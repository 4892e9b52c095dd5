from collections.abc import Mapping
from typing import Any

import pytest
from matplotlib.text import Text
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.modules.prediction import NonFiniteError
from ood_sampler.pipeline.measure import REAL as REAL_PICTURES
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet, Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.samplers.lerp import LerpSampler
from ood_sampler.statistics.frontier import Trade, advantage
from ood_sampler.studies.base import Measured, check_metrics
from ood_sampler.studies.frontier import LATENTS, PIXELS, REAL, FrontierStudy
from tests.studies.conftest import (
    TinyRun,
    about_strategy,
    check_texts,
    drawn,
    lacking,
    measured_by,
    moved,
)

SAMPLERS: Mapping[str, Sampler] = {
    "cog": CogSampler(references=2),
    "gaussian": GaussianSampler(covariance="scalar"),
}
CONTROLS: Mapping[str, Sampler] = {"again": CogSampler(references=2), "lerp": LerpSampler()}


def make(**changes: Any) -> FrontierStudy:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "steps": [200, 700],
        "samplers": SAMPLERS,
        "controls": CONTROLS,
        "etas": [0.0],
    }
    return FrontierStudy(**{**defaults, **changes})


STUDY = make()


@pytest.fixture(scope="module")
def measured(tiny_run: TinyRun) -> Measured:
    return measured_by(STUDY, tiny_run(STUDY))


def test_rows_have_what_the_table_shows(measured: Measured) -> None:
    assert [(row["space"], row["strategy"], row.get("step")) for row in measured.rows] == [
        (REAL, REAL_PICTURES, None),
        (PIXELS, "cog (2)", None),
        (PIXELS, "lerp", None),
        (LATENTS, "cog (2)", 200),
        (LATENTS, "cog (2)", 700),
        (LATENTS, "gaussian (scalar)", 200),
        (LATENTS, "gaussian (scalar)", 700),
    ]
    of_latents = {"step", "eta", "kid_gain", "blend_gain", "blend_kid_gain"}
    for row in measured.rows:
        assert lacking(STUDY, row) == (set() if row["space"] == LATENTS else of_latents)
    assert measured.pictures == {}


def test_figures_are_those_of_a_run_and_of_its_control(
    measured: Measured, tiny_run: TinyRun
) -> None:
    outcome = tiny_run().variant(step=700).run()
    strategy, real = outcome.rows[:2]
    control = next(row for row in outcome.rows if row.name == "cog (2) in pixels")
    for i, row in ((4, strategy), (0, real), (1, control)):
        # of the comparison with the run's own samples
        figures = {k: v for k, v in row.figures.items() if not k.startswith("kid_above")}
        assert {**measured.rows[i], **figures} == measured.rows[i]


@pytest.mark.parametrize(
    ("key", "cost", "gain", "better"),
    [
        ("kid_gain", "kid", "authenticity", 1),
        ("blend_gain", "blend_five", "precision", 1),
        ("blend_kid_gain", "blend_five", "kid", -1),
    ],
)
def test_gains_are_over_all_controls_and_corrected_for_all_settings(
    measured: Measured, key: str, cost: str, gain: str, better: int
) -> None:
    def trade(row: Mapping[str, Any]) -> Trade:
        errors = [(row[f"{key}_high"] - row[f"{key}_low"]) / (2 * 1.96) for key in (gain, cost)]
        return Trade(better * row[gain], row[cost], *errors)

    controls = [trade(row) for row in measured.rows if row["space"] == PIXELS]
    for row in measured.rows[3:]:
        value, low, high = advantage(trade(row), controls, comparisons=4)
        assert row[key] == pytest.approx(value)
        assert row[f"{key}_low"] == pytest.approx(low, rel=1e-3, abs=1e-4)
        assert row[f"{key}_high"] == pytest.approx(high, rel=1e-3, abs=1e-4)
        assert row[f"{key}_low"] < value < row[f"{key}_high"]


def latents(*gains: float, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """A row with gains that are certain to 0.01."""
    row = about_strategy(space=LATENTS, **changes)
    for key, gain in zip(("kid_gain", "blend_gain", "blend_kid_gain"), gains, strict=True):
        row |= {key: gain, f"{key}_low": gain - 0.01, f"{key}_high": gain + 0.01}
    return row


def controls(*kids: tuple[float, float], **changes: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Pixel controls of some authenticity and KID, and the real images."""
    rows = [about_strategy(space=REAL, strategy=REAL_PICTURES, **changes)]
    rows += [
        about_strategy(space=PIXELS, strategy=f"p{k}", authenticity=new, kid=kid, **changes)
        for k, (new, kid) in enumerate(kids)
    ]
    return [{k: v for k, v in row.items() if k not in ("step", "eta")} for row in rows]


def test_settings_count_where_the_interval_lies_beyond() -> None:
    rows = [
        *controls((0.2, 0.01), (0.6, 0.03)),
        latents(0.02, -0.2, -0.1, strategy="x", step=300),
        latents(0.03, 0.005, 0.02, strategy="x", step=500),
        latents(0.009, 0.011, 0.5, strategy="y", step=500, eta=0.5),
        latents(-0.5, -0.3, 0.02, strategy="y", step=700),
    ]
    (sentence,) = STUDY.conclude(rows)
    by_kid, by_blend, by_both = sentence.split("; ")
    assert by_kid.startswith("a, settings of the latents")
    assert (
        "2 of 4 have lower KID at equal authenticity, for 1 it is worse, for 1 there are too few "
        "images to say (most clearly" in by_kid
    )
    assert "x at t = 500, η = 0: by 30 [20, 40] × 10⁻³)" in by_kid
    assert by_blend.startswith("1 of 4 have a lower blend score at equal precision")
    assert "y at t = 500, η = 0.5: by 0.011 [0.001, 0.021])" in by_blend
    assert by_both.startswith("3 of 4 have a lower blend score at equal KID")
    assert "y at t = 500, η = 0.5: by 0.5 [0.49, 0.51])" in by_both


def test_settings_that_are_all_worse_are_not_passed_over() -> None:
    worse = [latents(-0.3, -0.2, -0.02, strategy="x", step=step) for step in (300, 500, 700)]
    (sentence,) = STUDY.conclude([*controls((0.2, 0.01)), *worse])
    assert (
        "0 of 3 have lower KID at equal authenticity, for 3 it is worse, for 0 there are too few "
        "images to say (the best is x at t = 300, η = 0: by -300 [-310, -290] × 10⁻³)" in sentence
    )
    two = STUDY.conclude([r for d in "ab" for r in moved([*controls((0.2, 0.01)), *worse], d)])
    assert "0 of 2 for lower KID at equal authenticity (on 2 all settings are worse, on 0" in two[2]


def test_where_no_setting_is_certain_the_images_that_would_do_are_named() -> None:
    # reaching 0.01 both ways, 0.005 beyond 0 needs four times as many
    row = latents(0.005, -0.005, 0.0, strategy="x", step=300, images=64)
    (sentence,) = STUDY.conclude([*controls((0.2, 0.01)), row])
    by_kid, by_blend, by_both = sentence.split("; ")
    do = "too few images to say, about 260 samples would do (num_samples))"
    assert do in by_kid
    assert do in by_blend
    assert "too few images to say, no practical number of images would tell)" in by_both


@pytest.mark.parametrize(
    ("gains", "counts"),
    [
        ([(0.02, 0.02, 0.0), (0.02, 0.02, 0.0)], (2, 2, 0)),
        ([(0.02, 0.0, 0.02), (0.02, 0.02, 0.02)], (2, 1, 2)),
        ([(-0.02, 0.02, 0.02), (0.005, 0.02, -0.02)], (0, 2, 1)),
    ],
)
def test_domains_count_that_have_a_setting_beyond(
    gains: list[tuple[float, float, float]], counts: tuple[int, int, int]
) -> None:
    rows = []
    for domain, gain in zip("ab", gains, strict=True):
        rows += controls((0.2, 0.01), domain=domain)
        rows += [latents(*gain, domain=domain, step=step) for step in (300, 500)]
        rows.append(latents(-1, -1, -1, domain=domain, step=700))
    sentences = STUDY.conclude(rows)
    assert len(sentences) == 3
    parts = sentences[-1].split("; ")
    words = (
        "lower KID at equal authenticity",
        "a lower blend score at equal precision",
        "a lower blend score at equal KID",
    )
    for part, count, word in zip(parts, counts, words, strict=True):
        assert f"{count} of 2 for {word}" in part


def test_the_figure_has_a_line_for_each_domain(measured: Measured) -> None:
    small = drawn(STUDY, measured.rows, {})
    large = drawn(STUDY, [*measured.rows, *moved(measured.rows, "other")], {})
    assert large[1] > 1.5 * small[1]


def test_the_figure_joins_the_controls_that_no_other_beats() -> None:
    rows = [
        # the second is beaten by the third
        *controls((0.2, 0.01), (0.4, 0.05), (0.6, 0.03)),
        *(latents(0.1, 0.1, 0.1, strategy=f"s{k}", step=100 * k) for k in range(9)),
    ]
    axes: Any = STUDY.draw(rows, {}).axes
    left, middle, right = axes
    frontier = left.lines[0]
    assert frontier.get_label() == "frontier of pixel controls"
    assert frontier.get_xdata().tolist() == [0.2, 0.6]
    assert frontier.get_ydata().tolist() == pytest.approx([10, 30])
    # controls, real images and nine strategies
    assert len(left.containers) == len(middle.containers) == len(right.containers) == 11
    # the blend over KID × 10³: all controls blend alike, and the nearest beats the others
    assert right.lines[0].get_xdata().tolist() == pytest.approx([10])
    assert right.lines[0].get_ydata().tolist() == pytest.approx([0.8])
    assert [text.get_text() for text in left.texts] == [str(100 * k) for k in range(9)]


def test_labels_of_crowded_points_do_not_overlap() -> None:
    def place(k: int) -> dict[str, float]:
        return {"authenticity": 0.5 + 0.002 * (k % 5), "kid": 0.05 + 1e-4 * k, "precision": 0.6}

    rows = [
        *controls((0.2, 0.01), (0.49, 0.05), (0.6, 0.03)),
        *(
            latents(0.1, 0.1, 0.1, strategy=f"s{k % 3}", step=100 * k, eta=0.3, **place(k))
            for k in range(12)
        ),
    ]
    figure: Any = STUDY.draw(rows, {})
    check_texts(figure)
    for axes in figure.axes:
        inside = axes.get_window_extent()
        boxes = [Text.get_window_extent(text) for text in axes.texts]
        assert {text.get_text() for text in axes.texts} == {
            f"{100 * k}, η = 0.3" for k in range(12)
        }
        assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)


@pytest.mark.parametrize("domains", [1, 2, 8])
def test_no_text_overlaps_however_many_domains(domains: int) -> None:
    rows = [
        {**row, "domain": f"domain {k} of a long name, as of a folder from 2024"}
        for k in range(domains)
        for row in (*controls((0.2, 0.01)), latents(0.1, 0.1, 0.1, strategy="s", kid=0.1 * 9**-k))
    ]
    check_texts(STUDY.draw(rows, {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": []}, r"study\.steps, study\.samplers and study\.etas must not be empty"),
        ({"samplers": {}}, "must not be empty"),
        ({"etas": []}, "must not be empty"),
        ({"steps": [1000]}, r"inversion\.step must be in 0\.\.999"),
        ({"etas": [-0.5]}, r"decode\.eta must be >= 0"),
        (
            {"samplers": {"x": SAMPLERS["gaussian"]}, "controls": {}},
            r"study\.samplers must hold one that mixes",
        ),
        (
            {"controls": {"x": SAMPLERS["gaussian"]}},
            r"study\.controls must hold strategies that mix, got gaussian \(scalar\)",
        ),
        ({"samplers": {"x": CogSampler(references=13)}}, "no strategy of study.samplers fits"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    changes: dict[str, Any], message: str, tiny_run: TinyRun
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes).check(tiny_run())


def test_strategies_that_ask_for_more_pictures_are_left_out_and_named(
    tiny_run: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    study = make(controls={"x": CogSampler(references=13)})
    study.check(tiny_run())
    labels = {row["strategy"] for row in study.measure(tiny_run(study)).rows}
    assert "cog (13)" not in labels
    small = make(samplers={"x": CogSampler(references=2), "y": CogSampler(references=13)})
    with caplog.at_level("WARNING"):
        small.check(tiny_run())
    assert "cog (13) is left out: it needs 13 few-shot images, there are 12" in caplog.text


class GivesUpSampler(CogSampler):
    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        raise GaveUpError("nothing was accepted")


def test_a_strategy_that_gives_up_is_left_out_and_named(
    tiny_run: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    study = make(samplers={"x": CogSampler(references=2), "y": GivesUpSampler(references=3)})
    with caplog.at_level("WARNING"):
        rows = study.measure(tiny_run(study)).rows
    assert "givesup (3) in pixels is left out: nothing was accepted" in caplog.text
    assert {row["strategy"] for row in rows if row["space"] == LATENTS} == {"cog (2)"}


def test_nothing_left_is_told(tiny_run: TinyRun) -> None:
    study = make(samplers={"y": GivesUpSampler(references=3)})
    with pytest.raises(ValueError, match="no strategy is left: each gave up"):
        study.measure(tiny_run(study))
    # one that does not mix is left, without a control
    samplers = {"x": GaussianSampler("scalar"), "y": GivesUpSampler(references=3)}
    study = make(samplers=samplers, controls={})
    with pytest.raises(ValueError, match="no pixel control is left: each gave up"):
        study.measure(tiny_run(study))


class BreaksSampler(CogSampler):
    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        raise NonFiniteError("sample", [3])


def test_what_is_no_giving_up_ends_the_run(tiny_run: TinyRun) -> None:
    study = make(samplers={"x": CogSampler(references=2), "y": BreaksSampler(references=3)})
    with pytest.raises(NonFiniteError, match="sample 3"):
        study.measure(tiny_run(study))


def test_a_metric_that_is_switched_off_is_told_of(tiny_run: TinyRun) -> None:
    run = tiny_run()
    check_metrics(make(), run)
    del run.judges.headline.metrics["prdc"]
    with pytest.raises(ValueError, match="study frontier needs the metric prdc"):
        check_metrics(make(), run)
