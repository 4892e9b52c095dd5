from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.diffusion.solvers import HeunSolver
from ood_sampler.metrics.reconstruction import reconstruction
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Row
from ood_sampler.report.grid import to_uint8
from ood_sampler.report.plots import bitmap
from ood_sampler.studies.base import Measured
from ood_sampler.studies.files import read_studies, write_study
from ood_sampler.studies.reconstruction import ReconstructionStudy
from tests.conftest import RESOLUTION
from tests.studies.conftest import check_texts
from tests.test_pipeline import pipeline

STEPS = [300, 700]


def study() -> ReconstructionStudy:
    return ReconstructionStudy(steps=STEPS, count=20, in_domain_root=None)


@pytest.fixture(scope="module")
def run(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    return pipeline(model_folder, tmp_path_factory.mktemp("reconstruction"), trainer)


@pytest.fixture(scope="module")
def measured(run: Pipeline) -> Measured:
    return study().measure(run)


def test_the_figures_are_those_of_the_pictures(run: Pipeline, measured: Measured) -> None:
    assert [(row["set"], row["step"]) for row in measured.rows] == [
        (name, step) for name in ("few-shot", "in-domain") for step in STEPS
    ]
    x_0 = torch.stack([run.domain.few_shot[i] for i in range(20)])
    for row in measured.rows[:2]:
        x_t = run.codec.encode(x_0, [row["step"]])[row["step"]]
        x = run.codec.decode(x_t, row["step"]).clamp(-1, 1)
        scores = reconstruction(x, x_0)
        for key in ("mse", "psnr", "ssim"):
            expected = getattr(scores, key)
            assert row[key] == pytest.approx(float(expected.mean()), rel=1e-3)
            # about two standard errors to either side
            error = float(expected.std()) / 20**0.5
            assert row[f"{key}_high"] - row[f"{key}_low"] == pytest.approx(4 * error, rel=0.35)


def test_rows_tell_the_solver_and_its_evaluations(measured: Measured) -> None:
    # in 5 intervals, step 300 is two moves away from clean data and step 700 four
    assert [(r["evaluations_in"], r["evaluations_out"]) for r in measured.rows[:2]] == [
        (2, 2),
        (4, 4),
    ]
    assert all(row["solver"].startswith("ddim (steps 5, power 1") for row in measured.rows)
    for row in measured.rows:
        assert all(row[heading.key] is not None for heading in study().headings)


def with_psnr(row: Row, psnr: float) -> Row:
    return {**row, "psnr": psnr, "psnr_low": psnr - 0.1, "psnr_high": psnr + 0.1}


def test_the_conclusion_follows_the_numbers(measured: Measured) -> None:
    few_shot, own = measured.rows[1], measured.rows[3]
    sentences = study().conclude([with_psnr(few_shot, 30.0), with_psnr(own, 25.0)])
    assert len(sentences) == 3
    assert "model's own samples, the same for all solvers" in sentences[2]
    assert (
        "at t = 700 with 4 evaluations in and 4 out: few-shot 30.0 dB [29.9, 30.1]"
        in (sentences[0])
    )
    assert "reconstructed better than the model's own, by 5.0 dB" in sentences[1]
    sentences = study().conclude([with_psnr(few_shot, 20.0), with_psnr(own, 25.0)])
    assert "reconstructed worse than the model's own, by 5.0 dB" in sentences[1]
    sentences = study().conclude([with_psnr(few_shot, 25.0), with_psnr(own, 25.1)])
    assert "as well as the model's own, to within 1 dB" in sentences[1]
    wide = {"psnr_low": 23.0, "psnr_high": 27.0, "images": 30}
    sentences = study().conclude([{**with_psnr(few_shot, 25.5), **wide}, with_psnr(own, 25.0)])
    # 0.5 dB more than the other, reaching 2.6 down and 1.6 up: 1.5 and 0.5 are left of the margin
    assert sentences[1].endswith(
        "whether the target domain is reconstructed better, too few images to say, about 310 "
        "images of each set would do (study.count)."
    )
    real = {**few_shot, "in_domain": "real images"}
    assert len(study().conclude([with_psnr(real, 25.0)])) == 1


def test_the_in_domain_set_is_named_and_the_same_for_all_solvers(
    run: Pipeline, measured: Measured
) -> None:
    assert {row["in_domain"] for row in measured.rows} == {"samples of the model"}
    other = replace(run, codec=run.model.codec(HeunSolver(steps=3, power=1)))
    own = [study().sources.in_domain(made).domain.few_shot for made in (run, other)]
    assert own[0].digest == own[1].digest


def test_domains_and_solvers_share_a_figure(measured: Measured) -> None:
    rows = list(measured.rows)
    both = [
        *rows,
        *({**row, "solver": "heun"} for row in rows),
        *({**row, "domain": "other"} for row in rows),
    ]
    other = {key.replace("smooth/", "other/"): x for key, x in measured.pictures.items()}
    figure = study().draw(both, {**measured.pictures, **other})
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 2 * 2 + 1
    assert [axes.get_title(loc="left") for axes in figure.axes][2:] == ["smooth", "other"]
    assert bitmap(figure, dots_per_inch=40).startswith(b"\x89PNG")
    last = f"smooth/{rows[0]['solver']}: t = 700"
    assert set(measured.pictures) == {"smooth/images", last}
    assert len(measured.pictures["smooth/images"]) == 10


def test_an_odd_number_of_domains_leaves_no_place_empty(measured: Measured) -> None:
    figure: Any = study().draw(measured.rows, measured.pictures)
    assert len(figure.axes) == 3
    check_texts(figure)
    first, last = (figure.axes[i].get_subplotspec().colspan for i in (0, 2))
    assert (len(first), len(last)) == (1, 2)
    # one step: sets stand beside each other
    one = [row for row in measured.rows if row["step"] == 700]
    axes: Any = study().draw(one, {}).axes[0]
    places = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
    assert places == pytest.approx([699.75, 700.25])


def test_solvers_of_a_sweep_keep_their_images(
    run: Pipeline, measured: Measured, tmp_path: Path
) -> None:
    heun = study().measure(replace(run, codec=run.model.codec(HeunSolver(steps=3, power=1))))
    for name, found in (("ddim", measured), ("heun", heun)):
        write_study(tmp_path / name, study(), found, {"model": "tiny"})
    folders = [tmp_path / "ddim", tmp_path / "heun"]
    merged, _ = read_studies("reconstruction", folders, joins=study().joins)
    kinds = {key.split(" ")[0] for key in merged.pictures}
    assert kinds == {"smooth/images", "smooth/ddim", "smooth/heun"}
    shown = to_uint8(next(x for key, x in measured.pictures.items() if "ddim" in key))
    kept = to_uint8(next(x for key, x in merged.pictures.items() if "ddim" in key))
    assert torch.equal(shown, kept)
    strips = study().draw(merged.rows, merged.pictures).axes[2]
    assert len(strips.texts) == 3
    assert strips.images[0].get_size() == (3 * RESOLUTION, 10 * RESOLUTION)
    names = [" ".join(text.get_text().split()) for text in strips.texts]
    assert names[:2] == ["images", f"{measured.rows[0]['solver']}: t = 700"]


def test_each_model_has_a_curve_of_its_own_domain(measured: Measured) -> None:
    rows = [
        {**row, "model": model, "domain": f"smooth from {model}", "psnr": row["psnr"] + offset}
        for model, offset in (("dogs", 0), ("ships", 5))
        for row in measured.rows
    ]
    figure = study().draw(rows, {})
    (legend,) = figure.legends
    solver = measured.rows[0]["solver"]
    assert [text.get_text() for text in legend.get_texts()] == [
        f"smooth from dogs, {solver}",
        f"smooth from ships, {solver}",
        f"dogs's own domain, {solver}",
        f"ships's own domain, {solver}",
    ]
    first, second = (list(bars.lines[0].get_ydata()) for bars in figure.axes[0].containers[2:])
    assert second == pytest.approx([psnr + 5 for psnr in first])
