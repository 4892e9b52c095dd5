from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.data.domain import TargetDomain, TensorImages
from ood_sampler.data.radiation import FieldScale, FluxScale
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.metrics.morphology import Morphology
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.pipeline.settings import Settings
from ood_sampler.report.columns import Row
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.store import sets
from ood_sampler.studies import astro
from ood_sampler.studies.astro import AstroStudy, _Values
from tests.conftest import RESOLUTION, make_judges, make_pipeline, smooth_images

SCALE = FluxScale([1.0], [1e4])


def domain(few_shot: Tensor, held_out: Tensor, scale: FieldScale | None) -> TargetDomain:
    sets = [
        TensorImages(images, [f"{name}{i}" for i in range(len(images))], resolution=RESOLUTION)
        for name, images in (("few", few_shot), ("held", held_out))
    ]
    return TargetDomain(name="smooth", few_shot=sets[0], held_out=sets[1], scale=scale)


def rows(
    folder: Path,
    root: Path,
    trainer: Callable[..., Any],
    few_shot: Tensor,
    held_out: Tensor,
    *,
    scale: FieldScale | None = None,
    sampler: Any = None,  # noqa: ANN401
    morphology_images: int = 0,
) -> dict[str, Row]:
    run = make_pipeline(
        model=FrozenModel(name="tiny", path=str(folder), resolution=RESOLUTION),
        domain=domain(few_shot, held_out, scale),
        solver=DdimSolver(steps=2, power=1),
        sampler=sampler or CogSampler(references=3),
        judges=make_judges(nearest_k=3),
        trainer=trainer,
        settings=Settings(step=400, eta=0.0, clip_x_0=False, num_samples=6, seed=0, batch_size=16),
        root=root,
    )
    study = AstroStudy(morphology_images=morphology_images)
    study.check(run)
    return {row["role"]: row for row in study.measure(run).rows}


def grey(count: int) -> Tensor:
    images = smooth_images(count, 0).float().mean(dim=1, keepdim=True) / 127.5 - 1
    return (0.7 * images - 0.25).clamp(-0.95, 0.45).expand(-1, 3, -1, -1)


def test_a_factor_of_ten_is_a_decade_of_a_logarithmic_field(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    # 4 decades are 2 units of colour
    found = rows(model_folder, tmp_path, trainer, grey(6), grey(6) + 0.5, scale=SCALE)
    real = found["real"]
    assert real["intensity"] == pytest.approx(1, rel=1e-5)
    assert real["spectrum"] == pytest.approx(2, rel=1e-5)
    assert [real[f"excess_{k}"] for k in range(3)] == pytest.approx([-2] * 3, rel=1e-5)
    assert real["intensity_low"] < 1 < real["intensity_high"]
    assert found["held-out"]["excess_0"] == 0
    assert "spectrum" not in found["held-out"]


def test_pictures_are_measured_by_their_brightness(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    coloured = grey(6) * torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1)
    found = rows(model_folder, tmp_path, trainer, coloured, coloured + 0.1)
    # a shift moves no power, and half of it is the share of full brightness
    assert found["real"]["intensity"] == pytest.approx(0.05, rel=1e-4)
    assert found["real"]["spectrum"] == pytest.approx(0, abs=1e-5)
    assert list(found) == ["held-out", "strategy", "control", "reference", "real"]
    assert found["control"]["set"] == "cog (3) in pixels"
    assert found["strategy"]["images"] == 6
    assert found["strategy"]["spectrum"] > 0


def test_the_control_of_a_strategy_that_mixes_nothing_mixes_two(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    sampler = GaussianSampler(covariance="diagonal")
    found = rows(model_folder, tmp_path, trainer, grey(6), grey(6), sampler=sampler)
    assert found["control"]["set"] == "cog (2) in pixels"
    assert found["real"]["intensity"] == 0


@pytest.mark.parametrize(("few_shot", "count"), [(9, 6), (5, 5)])
def test_distances_are_of_equally_many_images(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    few_shot: int,
    count: int,
) -> None:
    pictures = grey(few_shot)
    found = rows(model_folder, tmp_path, trainer, pictures, pictures[:count] + 0.1)
    assert {role: row["images"] for role, row in found.items()} == {
        "held-out": count,
        "strategy": count,
        "control": count,
        "reference": count,
        "real": count,
    }
    # a shift, if the first are taken
    assert found["real"]["intensity"] == pytest.approx(0.05, rel=1e-4)


def test_intensities_need_no_memory_of_pixels(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = (model_folder, tmp_path, trainer, grey(6), grey(6) + 0.1)
    expected = rows(*arguments, scale=SCALE)
    kept: list[_Values] = []
    measured = AstroStudy._values

    def values(*arguments: Any) -> _Values:  # noqa: ANN401
        kept.append(measured(*arguments))
        return kept[-1]

    monkeypatch.setattr(AstroStudy, "_values", values)
    monkeypatch.setattr(astro, "_KNOTS", 9)
    monkeypatch.setattr(sets, "_BLOCK_BYTES", 2 * 4 * 3 * RESOLUTION**2)
    found = rows(*arguments, scale=SCALE)
    assert {tuple(each.intensities.shape) for each in kept} == {(6, 1, 10)}
    # the shift is exact with few knots, in blocks of two images
    assert found["real"]["intensity"] == pytest.approx(expected["real"]["intensity"])
    assert found["real"]["spectrum"] == pytest.approx(expected["real"]["spectrum"])


def test_shapes_of_the_first_images_are_measured_block_by_block(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Tensor] = []

    def measure(planes: Tensor) -> Morphology:
        asked.append(planes)
        number = planes.mean(dim=(1, 2))
        return Morphology(number, number, number, 0 * number, torch.zeros(len(planes)).long())

    monkeypatch.setattr(astro, "morphology", measure)
    monkeypatch.setattr(astro, "check_statmorph", lambda: None)
    monkeypatch.setattr(sets, "_BLOCK_BYTES", 2 * 4 * 3 * RESOLUTION**2)
    found = rows(model_folder, tmp_path, trainer, grey(6), grey(6), morphology_images=3)
    assert [len(planes) for planes in asked] == [2, 1] * 5
    brightness = (grey(3)[:, 0].double().mean(dim=(1, 2)) + 1) / 2
    assert found["real"]["gini"] == pytest.approx(float(brightness.mean()), rel=1e-6)
    assert found["real"]["gini_distance"] == 0
    # all held-out images have one M20, which is no unit
    assert found["held-out"]["m20"] == 0
    assert "m20_distance" not in found["real"]
    assert found["real"]["failed"] == 0


def test_shapes_that_fail_are_counted(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("statmorph")
    held_out = torch.full((8, 3, RESOLUTION, RESOLUTION), -1.0)
    found = rows(model_folder, tmp_path, trainer, grey(8), held_out, morphology_images=3)
    assert found["held-out"]["failed"] == 1
    assert "gini" not in found["held-out"]
    assert "gini_distance" not in found["strategy"]
    assert found["strategy"]["failed"] in (0, 1 / 3, 2 / 3, 1)


def row(role: str, spectrum: tuple[float, float, float], **figures: float) -> dict[str, Any]:
    names = ("spectrum", "spectrum_low", "spectrum_high")
    return {
        "domain": "stars",
        "run": "1",
        "set": role,
        "role": role,
        "images": 20,
        **dict(zip(names, spectrum, strict=True)),
        **figures,
    }


def of_run(run: str, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "run": run} for row in rows]


def test_conclusion_follows_the_intervals() -> None:
    study = AstroStudy(morphology_images=0)
    real = row("real", (0.02, 0.0, 0.1))
    control = row("control", (0.5, 0.4, 0.6), failed=0.25)
    sentences = study.conclude([row("strategy", (0.3, 0.2, 0.39)), control, real])
    assert sentences == [
        "stars: distances of 20 images of strategy from held-out images, those of 20 of real in "
        "brackets: power spectrum 0.3 [0.2, 0.39] (0.02 [0, 0.1]).",
        "stars: strategy against real: farther in power spectrum.",
        "stars: strategy against control: nearer to held-out images in power spectrum.",
        "stars: shapes are those of the images that have one; it could not be measured for 25% of "
        "control.",
    ]
    same = study.conclude([row("strategy", (0.09, 0.05, 0.2)), real])
    # 0.07 farther, the gap of the intervals reaching 0.12 down: (0.12 / 0.07)^2 = 2.9 times 20
    assert same[1] == (
        "stars: strategy against real: not to be told apart in power spectrum (too few images to "
        "say, about 59 samples would do (num_samples))."
    )


def test_what_cannot_be_compared_is_said() -> None:
    study = AstroStudy(morphology_images=2)
    shape = {"gini_distance": 0.3, "gini_distance_low": 0.2, "gini_distance_high": 0.4}
    others = {f"{key}_distance{end}": 1.0 for key in ("m20",) for end in ("", "_low", "_high")}
    samples = row("strategy", (0.3, 0.2, 0.39), **shape, **others, failed=0.0)
    real = row("real", (0.02, 0.0, 0.1), **others, failed=0.95)
    sentences = study.conclude([samples, real])
    assert sentences[:3] == [
        "stars: distances of 20 images of strategy from held-out images, those of 20 of real in "
        "brackets: power spectrum 0.3 [0.2, 0.39] (0.02 [0, 0.1]), M20 1 [1, 1] (1 [1, 1]).",
        "stars: strategy against real: farther in power spectrum; not to be told apart in M20 (too "
        "few images to say, no practical number of images would tell).",
        "stars: strategy and real cannot be compared in concentration C, asymmetry A, Gini "
        "coefficient: fewer than two images of a set have it, or all held-out images have the "
        "same.",
    ]


def test_strategies_of_a_sweep_are_told_apart() -> None:
    study = AstroStudy(morphology_images=0)
    real = row("real", (0.02, 0.0, 0.1))
    runs = [
        {**row("strategy", (distance, 0.2, 0.39)), "set": name, "step": step}
        for name, step, distance in (("cog (2)", 500, 0.3), ("slerp", 500, 0.25))
    ]
    sentences = study.conclude([runs[0], real, *of_run("2", runs[1], real)])
    assert len(sentences) == 4
    assert sentences[0].startswith("stars, strategy cog (2): distances of 20 images of cog (2)")
    assert "power spectrum 0.3 [0.2, 0.39]" in sentences[0]
    assert sentences[2].startswith("stars, strategy slerp: distances of 20 images of slerp")
    assert "power spectrum 0.25 [0.2, 0.39]" in sentences[2]
    later = {**runs[0], "step": 700}
    sentences = study.conclude([runs[0], real, *of_run("2", later, real)])
    assert [sentence.split(":")[0] for sentence in sentences[::2]] == [
        "stars, t 500",
        "stars, t 700",
    ]


def test_figure_has_a_line_of_panels_for_each_domain() -> None:
    curve = {
        f"{key}_{k}{end}": float(k)
        for key in ("power", "excess")
        for k in range(3)
        for end in ("", "_low", "_high")
    }
    numbers = {f"wave_number_{k}": k + 1.0 for k in range(3)}
    one = {**row("strategy", (0.3, 0.2, 0.4)), **curve, **numbers}
    quantiles = {f"gini_q{q}": q / 100 for q in (5, 25, 50, 75, 95)}
    figure: Any = AstroStudy(morphology_images=0).draw(
        [one, {**one, "domain": "b", "gini": 0.5, **quantiles}], {}
    )
    # spectra and their ratio, and the one shape that was measured, of one of the two
    assert len(figure.axes) == 6
    assert [text.get_text() for text in figure.axes[2].texts] == ["not measured"]
    assert len(figure.axes[5].patches) == 1
    other = {**one, "run": "2", "set": "slerp", "step": 500}
    figure = AstroStudy(morphology_images=0).draw([{**one, "step": 500}, other], {})
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[::2] == ["stars, strategy strategy: power", "stars, strategy slerp: power"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["strategy", "slerp"]
    figure = AstroStudy(morphology_images=0).draw([{**one, "gini": 0.5, **quantiles}], {})
    assert [axes.get_title(loc="left") for axes in figure.axes][2] == "Gini coefficient"
    assert len(figure.axes[2].patches) == 1


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"study.morphology_images must be 0 or .*, got 1"):
        AstroStudy(morphology_images=1)


def test_overlapping_intervals_tell_nothing_apart() -> None:
    study = AstroStudy(morphology_images=0)
    others = [row("control", (0.5, 0.4, 0.6)), row("real", (0.1, 0.05, 0.3))]
    sentences = study.conclude([row("strategy", (0.3, 0.2, 0.45)), *others])
    for sentence in sentences[1:]:
        assert ": not to be told apart in power spectrum (too few images to say, about" in sentence
