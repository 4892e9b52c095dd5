import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.gaussianity import chi_mean, gaussianity
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import bitmap
from ood_sampler.studies.gaussianity import (
    GaussianityStudy,
    WhiteNoise,
    _figures,
    _geometry,
    _traces_of,
)
from tests.conftest import RESOLUTION
from tests.studies.conftest import work_left
from tests.test_pipeline import pipeline

STEPS = [300, 700]


def study(**changes: Any) -> GaussianityStudy:  # noqa: ANN401
    arguments = {
        "steps": STEPS,
        "count": 30,
        "tests": 8,
        "tolerance": 0.01,
        "in_domain_root": None,
    }
    return GaussianityStudy(**{**arguments, **changes})


@pytest.fixture(scope="module")
def run(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    return pipeline(model_folder, tmp_path_factory.mktemp("gaussianity"), trainer)


@pytest.fixture(scope="module")
def rows(run: Pipeline) -> list[Row]:
    return list(study().measure(run).rows)


def test_every_set_is_measured_at_every_step(rows: list[Row]) -> None:
    assert [(row["set"], row["step"]) for row in rows] == [
        *(("few-shot", step) for step in STEPS),
        *(("in-domain", step) for step in STEPS),
        ("white noise", None),
    ]
    for row in rows:
        assert (row["model"], row["domain"], row["images"]) == ("tiny", "smooth", 30)
        for heading in study().headings:
            assert heading.key in row
            assert heading.key == "step" or row[heading.key] is not None


def test_white_noise_looks_like_white_noise_and_smooth_pictures_do_not(rows: list[Row]) -> None:
    white, smooth = rows[-1], rows[0]
    assert white["coordinate_rejected"] == white["projection_rejected"] == 0
    assert white["deviation"] == pytest.approx(1, abs=0.05)
    assert white["neighbours"] == pytest.approx(0, abs=5 / math.sqrt(30 * 3 * RESOLUTION**2))
    assert smooth["neighbours_low"] > white["neighbours_high"]
    assert smooth["low_band_low"] > 1.2


def test_the_geometry_of_white_noise_is_that_of_the_chi_law(rows: list[Row]) -> None:
    white, d = rows[-1], 3 * RESOLUTION**2
    # of 30 latents, each angle has a standard deviation of 1 / sqrt(d) rad
    angle = 5 * math.degrees(1) / math.sqrt(d)
    assert white["distance"] == pytest.approx(math.sqrt(2 * d), rel=0.03)
    assert white["origin_angle"] == pytest.approx(90, abs=angle)
    assert white["pair_angle"] == pytest.approx(60, abs=angle)
    apart = math.sqrt(2) * white["radius"] * chi_mean(d)
    assert white["distance"] == pytest.approx(apart, rel=0.01)


def test_latents_with_a_common_mean_are_closer_and_at_smaller_angles() -> None:
    class Shifted(WhiteNoise):
        def take(self, indices: Sequence[int]) -> Tensor:
            return super().take(indices) / 2 + 0.5

    white, shifted = (
        _geometry(WhiteNoise((3, 8, 8), 40, seed=1)),
        _geometry(Shifted((3, 8, 8), 40, seed=1)),
    )
    assert shifted["distance"] == pytest.approx(white["distance"] / 2, rel=1e-6)
    # z = 1/2 + n/2: products 1/4 d, squares 1/2 d
    assert shifted["origin_angle"] == pytest.approx(60, abs=1)
    assert shifted["pair_angle"] == pytest.approx(white["pair_angle"], abs=1e-4)


def test_the_rows_are_those_of_the_latents(run: Pipeline, rows: list[Row]) -> None:
    images = torch.stack([run.domain.few_shot[i] for i in range(30)])
    latents = run.codec.encode(images, STEPS)
    for step, row in zip(STEPS, rows, strict=False):
        variance = latents[step].double().var(dim=0)
        assert row["deviation"] == pytest.approx(float(variance.sqrt().mean()), rel=1e-4)


def test_the_conclusion_follows_the_numbers(rows: list[Row]) -> None:
    white = rows[-1]
    normal = {**rows[1], "coordinate_distance": white["coordinate_distance"] + 0.009}
    far = {**rows[0], "coordinate_distance": white["coordinate_distance"] + 0.02}
    assert "from t = 700 on" in study().conclude([far, normal, white])[0]
    assert "from t = 300 on" in study().conclude([{**normal, "step": 300}, normal, white])[0]
    never = study().conclude([normal, {**far, "step": 700}, white])[0]
    assert "are not within 0.01" in never
    # a step that is normal before one that is not does not count
    assert "at t = 700" in never

    interval = {"neighbours": 0.4, "neighbours_low": 0.35, "neighbours_high": 0.45}
    told = study().conclude([{**normal, **interval}, white])[1]
    assert "correlation of neighbouring pixels 0.40 [0.35, 0.45]" in told
    below = {"neighbours": -0.4, "neighbours_low": -0.45, "neighbours_high": -0.35}
    assert "pixels -0.40" in study().conclude([{**normal, **below}, white])[1]
    same = {key: value for key, value in white.items() if key not in ("set", "step")}
    silent = study().conclude([{**normal, **same}, white])[1]
    # white noise against itself: no trace, though 30 latents leave room for one of 0.1
    assert silent.startswith("smooth: at t = 700 they show no trace beyond white noise (power")
    assert "spread of the radius, over that of the chi law: too few images to say, about" in silent
    assert silent.endswith("images of each set would do (study.count)).")
    traces = ("mean", "neighbours", "colours", "low_band", "high_band", "radius_spread")
    sure = {f"{key}{end}": white[key] for key in traces for end in ("", "_low", "_high")}
    silent = study().conclude([{**normal, **sure}, {**white, **sure}])[1]
    assert silent == (
        "smooth: at t = 700 they show no trace beyond white noise, all six to within 0.1."
    )
    one = study().conclude([normal, white])[0]
    assert "white noise's Kolmogorov distance to the normal law" in one
    assert " at t = 700; at t = 700" in one
    assert "from t" not in one
    mean = {"mean": 0.25, "mean_low": 0.2, "mean_high": 0.3}
    told = study().conclude([{**normal, **same, **mean}, white])[1]
    assert "a mean latent of a root mean square 0.25 [0.20, 0.30] (white noise 0.0" in told
    assert "began as white noise" in study().conclude([normal, white])[3]
    real = [{**row, "in_domain": "real images"} for row in (normal, white)]
    assert len(study().conclude(real)) == 3


def test_white_noise_shows_a_trace_at_the_stated_rate() -> None:
    shape, told = (3, 8, 8), 0
    white = figures(WhiteNoise(shape, 40, seed=0))
    for seed in range(1, 61):
        row = {**figures(WhiteNoise(shape, 40, seed=seed)), "step": 500}
        told += "no trace beyond white noise" not in _traces_of(row, white)
    # of 60 at 5% the chance of more than 8 is below 0.005
    assert told <= 8


def figures(latents: WhiteNoise) -> dict[str, Any]:
    return _figures(gaussianity(latents, tests=1, draws=100))


def test_each_model_has_its_own_domain_in_the_figure(rows: list[Row]) -> None:
    other = [{**row, "model": "big", "domain": "smooth from big"} for row in rows]
    figure = study().draw([*rows, *other], {})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"tiny's own domain", "big's own domain"} <= set(labels)


def test_two_domains_share_a_figure(rows: list[Row]) -> None:
    other = [{**row, "domain": "other"} for row in rows]
    both = [*rows, *other]
    # the caveat is said once
    assert len(study().conclude(both)) == 2 * len(study().conclude(rows)) - 1
    figure = study().draw(both, {})
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(labels) == ["other", "smooth", "tiny's own domain", "white noise"]
    assert bitmap(figure, dots_per_inch=40).startswith(b"\x89PNG")


def test_the_work_is_what_is_left(run: Pipeline, rows: list[Row]) -> None:
    names = [("invert", 0), ("invert in-domain", 0)]
    assert [(work.name, work.images) for work in work_left(study(), run)] == names
    # no more than there are few-shot images, and as many in-domain ones as are asked for
    more = work_left(study(count=40), run)
    assert [work.images for work in more if work.name == "invert in-domain"] == [40]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [300, 1000]}, r"study\.steps: step must be in 0\.\.999"),
        ({"steps": []}, r"study\.steps must hold a step"),
        ({"count": 11}, r"study\.count must be in 12\.\.5000, got 11"),
        ({"tests": 0}, r"study\.tests must be in 1\.\.1250, got 0"),
        ({"tests": 1251}, r"study\.tests must be in 1\.\.1250, got 1251"),
        ({"tests": 769}, r"study\.tests must be <= 768"),
        ({"tolerance": 0}, r"study\.tolerance must be > 0"),
    ],
)
def test_mistakes_are_found_before_work_starts(
    run: Pipeline, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        study(**changes).check(run)


def test_missing_pictures_are_named(run: Pipeline) -> None:
    with pytest.raises(FileNotFoundError, match=r"study\.in_domain_root=nowhere does not exist"):
        study(in_domain_root="nowhere").check(run)
    few = replace(run.domain, few_shot=study(count=12).sources.few_shot(run).domain.few_shot)
    study().check(replace(run, domain=few))


def test_white_noise_depends_on_seed_and_number_alone() -> None:
    noise = WhiteNoise((3, 4, 4), 5, seed=1)
    assert torch.equal(noise.take([3, 1]), torch.cat(list(noise.blocks(2)))[[3, 1]])
    assert not torch.equal(noise.take([0]), WhiteNoise((3, 4, 4), 5, seed=2).take([0]))
