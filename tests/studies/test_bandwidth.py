from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from ood_sampler.metrics.kernel import kernel_distance
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.statistics.band import Band, Point, Thresholds, find_band
from ood_sampler.statistics.intervals import difference_interval, interval
from ood_sampler.studies.bandwidth import BandwidthStudy
from ood_sampler.studies.base import Measured
from tests.conftest import make_judges
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
    "mixed": CogSampler(references=2),
    "gaussian": GaussianSampler(covariance="scalar"),
}


def make(**changes: Any) -> BandwidthStudy:  # noqa: ANN401
    defaults: dict[str, Any] = {
        "steps": [200, 700],
        "samplers": SAMPLERS,
        "retention": 0.5,
        "novelty": 0.25,
        "near_copies": 0.05,
    }
    return BandwidthStudy(**{**defaults, **changes})


STUDY = make()


@pytest.fixture(scope="module")
def measured(tiny_run: TinyRun) -> Measured:
    return measured_by(STUDY, tiny_run(STUDY))


def test_rows_have_what_the_table_shows(measured: Measured) -> None:
    assert [(row["strategy"], row["step"]) for row in measured.rows] == [
        ("cog (2)", 200),
        ("cog (2)", 700),
        ("gaussian (scalar)", 200),
        ("gaussian (scalar)", 700),
    ]
    for row in measured.rows:
        assert lacking(STUDY, row) == set()
        assert (row["model"], row["domain"]) == ("tiny", "smooth")
    # of the first strategy alone
    assert list(measured.pictures) == ["smooth/t = 200", "smooth/t = 700"]
    assert {len(x) for x in measured.pictures.values()} == {6}


def test_retention_is_what_the_models_own_domain_leaves(measured: Measured) -> None:
    for row in measured.rows:
        assert row["retention"] == pytest.approx(1 - row["captured"])
        assert row["retention_low"] == pytest.approx(1 - row["captured_high"])
        assert row["retention_high"] == pytest.approx(1 - row["captured_low"])
    kept = [row["retention"] for row in measured.rows if row["strategy"] == "cog (2)"]
    assert kept[0] > kept[1]


def test_figures_are_those_of_a_run_of_the_step(measured: Measured, tiny_run: TinyRun) -> None:
    outcome = tiny_run().variant(step=200).run()
    assert {**measured.rows[0], **outcome.rows[0].figures} == measured.rows[0]
    shown = measured.pictures["smooth/t = 200"]
    assert torch.equal(shown, outcome.images.take(range(6)))


def test_the_band_is_that_of_the_curve(measured: Measured, tiny_run: TinyRun) -> None:
    run = tiny_run(STUDY)
    real, _ = run.references()
    few_shot = run.measure.row("few-shot", "reference", run.measure.few_shot)
    asked = Thresholds(
        0.5 * (1 - few_shot.figures["captured"]),  # type: ignore[operator]
        0.25 * real.figures["authenticity"],  # type: ignore[operator]
        0.05,
    )
    own = run.measure.in_domain["features32"]
    gap = float(kernel_distance(run.measure.few_shot.headline, own))
    for strategy in ("cog (2)", "gaussian (scalar)"):
        rows = [row for row in measured.rows if row["strategy"] == strategy]
        curve = [
            Point(
                row["step"],
                1 - row["captured"],
                row["authenticity"],
                row["kid"],
                row["kid_standard_error"],
                row["near_copies"],
                difference_interval(
                    interval(row, "near_copies"), interval(real.figures, "near_copies")
                ).low,
            )
            for row in rows
        ]
        band = find_band(curve, asked, floor=real.figures["kid"])  # type: ignore[arg-type]
        for row, point in zip(rows, curve, strict=True):
            assert row["usable"] == asked.passed(point)
            assert row["chosen"] == (band is not None and band.chosen == row["step"])
            assert row["band_low"] == (None if band is None else band.low)
            assert row["band_high"] == (None if band is None else band.high)
            assert row["gap"] == gap
            assert row["retention_asked"] == asked.retention
            assert row["novelty_asked"] == asked.novelty
    assert {row["usable"] for row in measured.rows} == {True, False}


def curve(band: Band | None, *, gap: float = 0.1, **changes: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Rows of three steps, of which the second is the best."""
    steps = (300, 500, 700)
    return [
        about_strategy(
            step=step,
            kid=kid,
            retention=0.95,
            retention_low=0.9,
            retention_high=0.97,
            usable=band is not None,
            chosen=band is not None and step == band.chosen,
            gap=gap,
            band_low=None if band is None else band.low,
            band_high=None if band is None else band.high,
            open_low=None if band is None else band.open_low,
            open_high=None if band is None else band.open_high,
            retention_asked=0.8,
            near_copies_asked=0.05,
            excess=-0.01,
            excess_low=-0.04,
            excess_high=0.02,
            novelty_asked=0.3,
            **changes,
        )
        for step, kid in zip(steps, (0.03, 0.02, 0.04), strict=True)
    ]


@pytest.mark.parametrize(
    ("band", "words"),
    [
        (Band(412.4, 655.6, 500, False, False), "reaches from t = 412 to 656;"),
        (Band(300, 655.6, 500, True, False), "reaches from at most t = 300 to 656;"),
        (Band(412.4, 700, 500, False, True), "reaches from t = 412 to at least 700;"),
        (Band(412.4, 700, 700, False, True), "chosen is t = 700, KID 40.0 ± 1.0 × 10⁻³"),
        (Band(412.4, 700, 500, False, True), "chosen is t = 500, KID 20.0 ± 1.0 × 10⁻³"),
        (None, "no step tried keeps retention >= 0.80 and novelty >= 0.30"),
    ],
)
def test_the_sentence_gives_the_ends_of_the_band(band: Band | None, words: str) -> None:
    (sentence,) = STUDY.conclude(curve(band))
    assert sentence.startswith("a, cog (2): ")
    assert words in sentence


def test_a_step_that_passes_by_its_estimate_alone_says_how_many_images_would_do() -> None:
    rows = curve(Band(412.4, 655.6, 500, False, False), images=100)
    assert "0.30 were asked, reached beyond the errors)" in STUDY.conclude(rows)[0]
    # 0.1 above what is asked, with an interval that reaches 0.3 down
    unsure = [{**row, "authenticity": 0.4, "authenticity_low": 0.1} for row in rows]
    assert (
        "were asked, too few images to say, about 900 samples would do (num_samples))"
        in STUDY.conclude(unsure)[0]
    )


def test_steps_that_miss_by_their_estimates_alone_are_counted_apart() -> None:
    new = {"authenticity": 0.2, "authenticity_low": 0.15, "authenticity_high": 0.25}
    rows = [{**row, **new} for row in curve(None)]
    rows[0]["authenticity_high"] = 0.35
    assert STUDY.conclude(rows) == [
        "a, cog (2): no step tried keeps retention >= 0.80 and novelty >= 0.30 (beyond the errors "
        "at 2 of 3, too few images to say at 1)."
    ]


def test_one_step_has_no_range() -> None:
    (row,) = curve(Band(500, 500, 500, True, True))[1:2]
    (sentence,) = STUDY.conclude([row])
    assert sentence.startswith(
        "a, cog (2): t = 500, the only step tried, is usable, KID 20.0 ± 1.0"
    )
    assert "from" not in sentence
    (sentence,) = STUDY.conclude(curve(None)[1:2])
    assert "t = 500, the only step tried, does not keep retention" in sentence


def bands(*ends: tuple[float, Band | None]) -> list[dict[str, Any]]:
    """A curve for each gap and band, one domain each."""
    return [
        row for k, (gap, band) in enumerate(ends) for row in curve(band, gap=gap, domain=f"{k}")
    ]


def wide(width: float) -> Band:
    return Band(500 - width, 500 + width, 500, False, False)


OPEN = replace(wide(60), open_high=True)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (
            # no band at all counts as the narrowest
            [(0.1, None), (0.2, wide(20)), (0.3, wide(40)), (0.4, wide(50)), (0.5, OPEN)],
            "rank correlation 1.00 (permutation p = 0.017), as the paper says; 1 of the bands",
        ),
        (
            [(0.5, wide(10)), (0.4, wide(20)), (0.3, wide(40)), (0.2, wide(50)), (0.1, wide(60))],
            "rank correlation -1.00 (permutation p = 0.017), against the paper; 0 of the bands",
        ),
        (
            [(0.1, wide(10)), (0.2, wide(20)), (0.3, wide(40)), (0.4, wide(50))],
            "rank correlation 1.00 (permutation p = 0.083), so the paper's claim that a larger gap "
            "gives a wider band is not shown here, nor refuted: too few domains to say, about 5",
        ),
        (
            [(0.1, wide(10)), (0.2, wide(50)), (0.3, wide(20)), (0.4, wide(10)), (0.5, wide(30))],
            "is not shown here",
        ),
    ],
)
def test_the_width_is_compared_with_the_gap(
    ends: list[tuple[float, Band | None]], words: str
) -> None:
    sentences = STUDY.conclude(bands(*ends))
    assert len(sentences) == len(ends) + 1
    assert words in sentences[-1]
    assert f"over {len(ends)} domains" in sentences[-1]


def test_three_domains_have_no_correlation() -> None:
    sentences = STUDY.conclude(bands(*((gap, wide(100 * gap)) for gap in (0.1, 0.2, 0.3))))
    assert len(sentences) == 3


def test_each_strategy_has_a_correlation_of_its_own() -> None:
    rows = bands(*((gap, wide(100 * gap)) for gap in (0.1, 0.2, 0.3, 0.4, 0.5)))
    rows += [
        {**row, "strategy": "x", "band_low": 500 + row["gap"], "band_high": 501 - row["gap"]}
        for row in rows
    ]
    found = STUDY.conclude(rows)[-2:]
    assert "cog (2): width" in found[0]
    assert "as the paper says" in found[0]
    assert "x: width" in found[1]
    assert "against the paper" in found[1]


def test_the_figure_has_a_line_for_each_domain(measured: Measured) -> None:
    small = drawn(STUDY, measured.rows, measured.pictures)
    two = [*measured.rows, *moved(measured.rows, "other")]
    large = drawn(STUDY, two, measured.pictures)
    assert large[0] == small[0]
    assert large[1] > 1.5 * small[1]
    # nine strategies need more lines than there are colours
    many = [row for k in range(9) for row in curve(None, strategy=f"s{k}")]
    drawn(STUDY, many, grey("a/t = 300", "a/t = 500"))


@pytest.mark.parametrize("domains", [1, 2, 8])
def test_texts_do_not_overlap(domains: int) -> None:
    rows = [{**r, "gap": k + 0.1} for k in range(domains) for r in moved(curve(wide(50)), f"d{k}")]
    labels = [f"d{k}/t = {step}" for k in range(domains) for step in (300, 500, 700)]
    check_texts(STUDY.draw(rows, grey(*labels)))
    # of one step there is no band
    one: Any = STUDY.draw([row for row in rows if row["step"] == 500], grey(*labels[1::3]))
    check_texts(one)
    assert [text.get_text() for text in one.axes[1].get_xticklabels()] == ["500"]
    assert [text.get_text() for text in one.legends[0].get_texts()] == [
        "least share asked",
        "cog (2)",
    ]


def test_the_figure_shows_the_band_and_orders_domains_by_their_gap() -> None:
    rows = bands((0.3, wide(50)), (0.1, None))
    figure = STUDY.draw(rows, grey("0/t = 300", "1/t = 300", "1/t = 500"))
    axes: Any = figure.axes
    assert [axes[0].get_title(loc="left"), axes[4].get_title(loc="left")] == [
        "1\ngap 100",
        "0\ngap 300",
    ]
    # two steps of the first domain, one of the second
    assert [axes[i].images[0].get_array().shape[0] for i in (0, 4)] == [16, 8]
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "cog (2)",
        "band of cog (2)",
        "its chosen step",
        "least share asked",
    }
    for panel in range(1, 4):
        assert not axes[panel].patches
        (span,) = axes[4 + panel].patches
        assert span.get_x() == 450
        assert span.get_width() == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [500, 300]}, r"study\.steps must increase, got \[500, 300\]"),
        ({"steps": [300, 300]}, r"study\.steps must increase"),
        ({"steps": []}, r"study\.steps must increase"),
        ({"samplers": {}}, r"study\.samplers must name at least one strategy"),
        ({"steps": [300, 1000]}, r"inversion\.step must be in 0\.\.999"),
        ({"samplers": {"x": CogSampler(references=13)}}, "needs at least 13 few-shot images"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    changes: dict[str, Any], message: str, tiny_run: TinyRun
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes).check(tiny_run())


@pytest.mark.parametrize("share", ["retention", "novelty"])
def test_shares_must_be_shares(share: str) -> None:
    with pytest.raises(ValueError, match=rf"{share} must be in \(0, 1\], got 1\.5"):
        make(**{share: 1.5})


def test_fewer_samples_than_a_figure_shows_are_all_shown(tiny_run: TinyRun) -> None:
    run = tiny_run(STUDY, num_samples=5)
    run = replace(run, judges=make_judges(nearest_k=1))
    found = make(steps=[200], samplers={"mixed": SAMPLERS["mixed"]}).measure(run)
    assert [len(x) for x in found.pictures.values()] == [5]
