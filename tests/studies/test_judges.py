import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.data.domain import TargetDomain, TensorImages
from ood_sampler.metrics.degradations import Blend, degradations, degrade
from ood_sampler.metrics.features import EmbeddedFeatures
from ood_sampler.metrics.kernel import jackknife, kernel_distance
from ood_sampler.metrics.prdc import manifold_scores
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.statistics.intervals import share_interval
from ood_sampler.store.sets import InMemory
from ood_sampler.studies.base import Measured
from ood_sampler.studies.files import read_studies, write_study
from ood_sampler.studies.judges import DETECTED, REAL, JudgesStudy
from tests.conftest import RESOLUTION, smooth_images
from tests.studies.conftest import TinyRun, check_texts, drawn, grey, lacking, measured_by, moved

STUDY = JudgesStudy(splits=5)
PICTURES = smooth_images(70, 1)


def run_of(tiny_run: TinyRun, held_out: int = 70, **changes: Any) -> Pipeline:  # noqa: ANN401
    run = tiny_run(STUDY, **{"num_samples": 30, **changes})
    names = [f"image {i}" for i in range(held_out)]
    images = TensorImages(PICTURES[:held_out], names, resolution=RESOLUTION)
    target = TargetDomain(name="smooth", few_shot=run.domain.few_shot, held_out=images)
    run = replace(run, domain=target)
    return run


@pytest.fixture(scope="module")
def measured(tiny_run: TinyRun) -> Measured:
    return measured_by(STUDY, run_of(tiny_run))


@pytest.fixture(scope="module")
def split() -> tuple[Tensor, Tensor]:
    """The degraded part and the rest, as the seed of the run has them."""
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    images = PICTURES.float() / 127.5 - 1
    return images[order[:30]], images[order[30:]]


def by_name(rows: Any) -> Mapping[str, Mapping[str, Any]]:  # noqa: ANN401
    return {row["degradation"]: row for row in rows}


def test_there_is_a_row_for_each_degradation_and_one_of_real_pictures(measured: Measured) -> None:
    expected = degradations(InMemory(torch.zeros(30, 3, 4, 4)))
    real, *degraded = measured.rows
    assert [row["degradation"] for row in degraded] == [each.words for each in expected]
    assert [row["strength"] for row in degraded] == [each.strength for each in expected]
    assert real["kind"] == REAL
    for row in measured.rows:
        assert lacking(STUDY, row) == set()
        assert (row["model"], row["domain"], row["judge"]) == ("tiny", "smooth", "features32")
        assert row["references"] == 40
    counts = by_name(measured.rows)
    assert counts["blends of 2"]["images"] == counts["100% in-domain images"]["images"] == 30
    assert counts["a missing mode of 20%"]["images"] == 24


def test_figures_are_those_of_the_degraded_part_against_the_rest(
    measured: Measured, split: tuple[Tensor, Tensor]
) -> None:
    part, rest = split
    features = EmbeddedFeatures()
    blended = degrade(Blend(3), InMemory(part), seed=0).float() / 127.5 - 1
    seen, untouched, reference = (features(images) for images in (blended, part, rest))
    row = by_name(measured.rows)["blends of 3"]
    value, error = jackknife(seen, reference)
    assert row["kid"] == pytest.approx(float(value), rel=1e-3)
    assert row["kid_standard_error"] == pytest.approx(float(error), rel=1e-3)
    excess = kernel_distance(seen, reference) - kernel_distance(untouched, reference)
    assert row["multiple"] == pytest.approx(float(excess / error), rel=1e-2)
    # the nearest is the image itself
    radius = torch.cdist(reference, reference).sort(dim=1).values[:, 3]
    shares = [
        float((torch.cdist(images, reference) <= radius + 1e-6).any(1).double().mean())
        for images in (seen, untouched)
    ]
    assert row["precision"] == pytest.approx(shares[0], abs=1e-9)
    half_width = (row["precision_high"] - row["precision_low"]) / 2
    assert row["multiple_precision"] == pytest.approx(
        (shares[1] - shares[0]) / (half_width / 1.96), rel=1e-4
    )


def test_the_row_of_real_pictures_holds_what_chance_does(
    measured: Measured, split: tuple[Tensor, Tensor]
) -> None:
    part, rest = split
    features = EmbeddedFeatures()
    real = measured.rows[0]
    assert real["kid"] == pytest.approx(
        float(kernel_distance(features(part), features(rest))), abs=1e-6
    )
    every = features(PICTURES.float() / 127.5 - 1)
    ratios, shares = [], []
    for seed in range(1, 6):
        order = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
        value, error = jackknife(every[order[:30]], every[order[30:]])
        ratios.append(float(value / error))
        rest = every[order[30:]]
        scores = manifold_scores(rest, every[order[:30]], nearest_k=3)
        shares.append(share_interval(scores.precision))
    assert real["multiple"] == pytest.approx(max(ratios, key=abs), rel=1e-2)
    mean = sum(share.value for share in shares) / 5
    falls = [(mean - value) / ((high - low) / (2 * 1.96)) for value, low, high in shares]
    assert real["multiple_precision"] == pytest.approx(max(falls, key=abs), rel=1e-2)
    assert real["splits"] == 5
    assert not real["detected"]
    assert not real["detected_precision"]


def test_what_is_noticed_goes_beyond_three_errors_and_beyond_chance(measured: Measured) -> None:
    real, *degraded = measured.rows
    for row in degraded:
        for end in ("", "_precision"):
            multiple, chance = row[f"multiple{end}"], abs(real[f"multiple{end}"])
            assert row[f"detected{end}"] is (multiple >= DETECTED and multiple > chance)
    found = by_name(degraded)
    assert found["100% in-domain images"]["detected"]
    assert not found["JPEG of quality 90"]["detected_precision"]


def test_what_chance_does_is_not_noticed(
    measured: Measured, tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ood_sampler.studies.judges.DETECTED", 0.0)
    real, *degraded = STUDY.measure(run_of(tiny_run)).rows
    within = [row for row in degraded if 0 < row["multiple"] < abs(real["multiple"])]
    assert within
    assert not any(row["detected"] for row in within)


def test_what_an_interrupted_study_has_seen_is_kept(
    measured: Measured, tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Tensor:
        raise AssertionError("seen again")

    monkeypatch.setattr(EmbeddedFeatures, "forward", fail)
    assert STUDY.measure(run_of(tiny_run)).rows == measured.rows


def test_pictures_of_each_degradation_are_shown(
    measured: Measured, split: tuple[Tensor, Tensor]
) -> None:
    assert list(measured.pictures) == [f"smooth/{row['degradation']}" for row in measured.rows]
    assert {len(strip) for strip in measured.pictures.values()} == {6}
    assert measured.pictures[f"smooth/{REAL} images"].equal(split[0][:6])


def test_no_more_than_half_is_degraded(tiny_run: TinyRun) -> None:
    rows = STUDY.measure(run_of(tiny_run, held_out=45)).rows
    assert {(row["images"], row["references"]) for row in rows if row["kind"] == "blend"} == {
        (22, 23)
    }


def seen(
    kind: str, strength: float, multiple: float, precision: float = 0.0, *, words: str = ""
) -> dict[str, Any]:
    return {
        "model": "tiny",
        "domain": "a",
        "judge": "j",
        "kind": kind,
        "strength": strength,
        "degradation": words or f"{kind} {strength:g}",
        "beyond": "or more",
        "images": 100,
        "references": 200,
        "kid": 0.01,
        "precision": 0.5,
        "multiple": multiple,
        "multiple_precision": precision,
        "detected": multiple >= DETECTED,
        "detected_precision": precision >= DETECTED,
        "splits": 20,
    }


def rows_of(*multiples: float) -> list[dict[str, Any]]:
    real = seen(REAL, 0, -1.26, 2.04, words=f"{REAL} images")
    rows = [
        seen("blend", k + 2, value, -value if value else 0) for k, value in enumerate(multiples)
    ]
    return [real, *rows, seen("hue", 30, 1, 5)]


def test_each_judge_is_told_of_with_the_weakest_degradations_that_it_notices() -> None:
    rows = rows_of(2, 3, 40)
    other = [{**row, "judge": "k"} for row in rows_of(1, 2, 2)]
    assert STUDY.conclude([*rows, *other]) == [
        "a, j: KID notices 2 of 4: blend 3 or more; not noticed: hue 30.",
        "a, j: precision notices 1 of 4: hue 30; not noticed: blend 4.",
        "a, j: real images against real ones are at most 1.3 standard errors off by KID, 2.0 by "
        "precision (20 random splits, 100 against 200).",
        "a, k: KID notices 0 of 4: none; not noticed: blend 4, hue 30.",
        "a, k: precision notices 1 of 4: hue 30; not noticed: blend 4.",
        "a, k: real images against real ones are at most 1.3 standard errors off by KID, 2.0 by "
        "precision (20 random splits, 100 against 200).",
    ]
    told = STUDY.conclude([*rows, *moved(rows, "b")])
    assert [sentence.partition(":")[0] for sentence in told] == ["a, j"] * 3 + ["b, j"] * 3


def test_the_figure_has_panels_for_each_domain_and_dots_for_each_judge(
    measured: Measured,
) -> None:
    small = drawn(STUDY, measured.rows, measured.pictures)
    other = [{**row, "judge": "other"} for row in measured.rows]
    rows = [*measured.rows, *other]
    large = drawn(STUDY, [*rows, *moved(rows, "b")], measured.pictures)
    assert large[1] > 1.8 * small[1]
    assert small[0] * 144 / 40 <= 1250
    panels: Any = STUDY.draw(rows, measured.pictures).axes
    kid = panels[1]
    dots = sum(len(line.get_xdata()) for line in kid.lines if line.get_marker() in "os")
    assert dots == 2 * len(measured.rows)


def test_dots_are_filled_where_a_degradation_is_noticed() -> None:
    rows = rows_of(2, 3, 40)
    panels: Any = STUDY.draw(rows, grey("a/blend 2", "a/hue 30", count=6)).axes
    strips, kid, _ = panels
    names = [label.get_text() for label in strips.get_yticklabels()]
    assert names == ["real images", "blend 2", "blend 3", "blend 4", "hue 30"]
    assert len(strips.images) == 2
    filled, hollow = (line for line in kid.lines if line.get_marker() == "o")
    assert (list(filled.get_xdata()), list(filled.get_ydata())) == ([3, 40], [2, 3])
    assert list(hollow.get_xdata()) == [-1.26, 2, 1]
    assert hollow.get_markerfacecolor() == "white"
    assert filled.get_markerfacecolor() != "white"
    check_texts(STUDY.draw(rows, {}))


def test_answers_of_several_runs_become_one(measured: Measured, tmp_path: Path) -> None:
    for model in ("tiny", "a_model_with_a_long_name"):
        rows = [{**row, "model": model} for row in measured.rows]
        (tmp_path / model).mkdir()
        write_study(tmp_path / model, STUDY, replace(measured, rows=rows), {"model": model})
    merged, _ = read_studies("judges", [tmp_path / "tiny", tmp_path / "a_model_with_a_long_name"])
    assert len(STUDY.conclude(merged.rows)) == 6
    drawn(STUDY, merged.rows, merged.pictures)
    found = json.loads((tmp_path / "tiny" / "judges.json").read_text())["rows"]
    assert {type(row["detected"]) for row in found} == {bool}


@pytest.mark.parametrize(
    ("held_out", "changes", "message"),
    [
        (39, {}, r"data\.held_out must be >= 40 for this study, got 39"),
        (70, {"num_samples": 19}, r"num_samples must be >= 20 for this study, got 19"),
        (70, {"in_domain": 1}, r"measure\.in_domain must be"),
        (70, {"in_domain": 4, "num_samples": 70}, None),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tiny_run: TinyRun, held_out: int, changes: dict[str, Any], message: str | None
) -> None:
    run = run_of(tiny_run, held_out, **changes)
    if message is None:
        STUDY.check(run)
        return
    with pytest.raises(ValueError, match=message):
        STUDY.check(run)


def test_too_few_in_domain_images_are_told_before_work(tiny_run: TinyRun) -> None:
    run = run_of(tiny_run, in_domain=4)
    names = [str(i) for i in range(120)]
    held_out = TensorImages(smooth_images(120, 1), names, resolution=RESOLUTION)
    run = replace(
        run,
        domain=replace(run.domain, held_out=held_out),
        settings=replace(run.settings, num_samples=60),
    )
    with pytest.raises(ValueError, match="must be >= 6 for this study, 10% of 60 images"):
        STUDY.check(run)


def test_there_must_be_splits() -> None:
    with pytest.raises(ValueError, match=r"study\.splits must be >= 1, got 0"):
        JudgesStudy(splits=0)
