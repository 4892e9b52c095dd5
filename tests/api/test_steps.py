import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import ood_sampler
from ood_sampler.api.loading import tensor_of
from ood_sampler.report.grid import to_uint8
from ood_sampler.samplers.base import Sampler
from tests.conftest import RESOLUTION, smooth_images

STEP, SEED, COUNT = 400, 3, 70


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(smooth_images(40, seed=1)):
        pixels = picture.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(folder / f"{number:07d}.png")
    return folder


@pytest.fixture(scope="module")
def model(model_folder: Path) -> ood_sampler.LoadedModel:
    return ood_sampler.load_model(
        model_folder, "model.name=tiny", "solver=ddim", "solver.steps=4", "trainer=cpu"
    )


@pytest.fixture(scope="module")
def domain(pictures: Path) -> ood_sampler.TargetDomain:
    return ood_sampler.load_domain(pictures, "data.few_shot=24", f"data.resolution={RESOLUTION}")


@pytest.fixture(scope="module")
def latents(
    model: ood_sampler.LoadedModel, domain: ood_sampler.TargetDomain
) -> ood_sampler.Latents:
    return ood_sampler.invert(model, domain.few_shot, step=STEP)


@pytest.fixture(scope="module")
def settings(
    model_folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Of a run with the same numbers."""
    return [
        "model=diffusers",
        "model.name=tiny",
        f"model.path={model_folder}",
        f"model.resolution={RESOLUTION}",
        "data=folder",
        f"data.root={pictures}",
        "data.few_shot=24",
        "solver=ddim",
        "solver.steps=4",
        f"inversion.step={STEP}",
        "sampler.references=4",
        f"num_samples={COUNT}",
        f"seed={SEED}",
        "measure.in_domain=8",
        "measure.film=0",
        "metrics=features32",
        "trainer=cpu",
        "logger=none",
        f"output={tmp_path_factory.mktemp('outputs')}",
    ]


def test_steps_make_what_the_command_line_makes(
    model: ood_sampler.LoadedModel,
    domain: ood_sampler.TargetDomain,
    latents: ood_sampler.Latents,
    settings: list[str],
    tmp_path: Path,
) -> None:
    drawn = ood_sampler.draw(ood_sampler.CogSampler(references=4), latents, COUNT, seed=SEED)
    images = ood_sampler.decode(model, drawn)
    table = ood_sampler.evaluate(images, domain, judge="features32")

    ended = subprocess.run(
        [sys.executable, "-m", "ood_sampler.run", *settings, f"hydra.run.dir={tmp_path}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    images.save(tmp_path / "again")
    for file in sorted((tmp_path / "samples").glob("*.png")):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()

    # what the command line stored is found
    result = ood_sampler.run(*settings)
    assert torch.equal(result.samples.values, images.values)
    found = json.loads((result.folder / "metrics.json").read_text())
    assert all(stage["cached"] for stage in found["stages"] if stage["evaluations"])
    assert found["rows"] == json.loads((tmp_path / "metrics.json").read_text())["rows"]
    for own, theirs in zip(table, found["rows"][:2], strict=True):
        # without stored features of its domain, only the run knows what it captured
        same = {key: value for key, value in theirs.items() if key in own and key != "name"}
        assert {key: own[key] for key in same} == same
        assert theirs.keys() - own.keys() <= {"captured", "captured_low", "captured_high"}
    assert "<!doctype html>" in result.report.read_text()
    assert result.table[0]["role"] == "strategy"
    assert "real images" in repr(result.table)
    assert (result._repr_png_() or b"").startswith(b"\x89PNG")
    assert result.conclusion
    assert "stage decode" in (result.folder / "run.log").read_text()


def test_the_corrected_flow_is_that_of_a_run(
    model: ood_sampler.LoadedModel, domain: ood_sampler.TargetDomain, settings: list[str]
) -> None:
    own = ["correction.weight=0.7", "correction.in_domain=8"]
    corrected = ood_sampler.correct(model, domain.few_shot, *own)
    assert "gaussian (weight 0.7, fade 100)" in repr(corrected)
    latents = ood_sampler.invert(corrected, domain.few_shot, step=STEP)
    drawn = ood_sampler.draw(ood_sampler.CogSampler(references=4), latents, COUNT, seed=SEED)
    images = ood_sampler.decode(corrected, drawn)
    result = ood_sampler.run(*settings, "correction=gaussian", *own)
    assert torch.equal(result.samples.values, images.values)
    # the result works on along its flow when the run is over
    again = ood_sampler.invert(result.samples.model, domain.few_shot, step=STEP)
    assert repr(again).endswith("by tiny, corrected>")
    torch.testing.assert_close(again.values, latents.values, rtol=0, atol=1e-5)
    own_table = ood_sampler.evaluate(result.samples, result.domain, judge="features32")
    assert own_table[0]["kid"] == result.table[0]["kid"]
    with pytest.raises(ValueError, match="along the same flow"):
        ood_sampler.decode(model, drawn)
    with pytest.raises(ValueError, match="it is corrected already"):
        ood_sampler.correct(corrected, domain.few_shot)
    with pytest.raises(ValueError, match="needs at least 4 few-shot images, got 3"):
        ood_sampler.correct(model, tensor_of(domain.few_shot)[:3])


def test_a_round_trip_comes_back(
    model: ood_sampler.LoadedModel,
    domain: ood_sampler.TargetDomain,
    latents: ood_sampler.Latents,
) -> None:
    back = ood_sampler.decode(model, latents)
    assert len(back) == len(domain.few_shot) == 24
    own = ood_sampler.invert(model, tensor_of(domain.few_shot)[:5], step=STEP)
    # on some processors a small batch has other last digits
    torch.testing.assert_close(own.values, latents.values[:5], rtol=0, atol=1e-5)
    assert "inverted to t = 400 by tiny, decoded" in repr(back)


def test_no_draw_depends_on_their_number(latents: ood_sampler.Latents) -> None:
    sampler = ood_sampler.WhiteSampler(references=3, fresh=0.5)
    many = ood_sampler.draw(sampler, latents, 66, seed=5).values
    assert torch.equal(ood_sampler.draw(sampler, latents, 3, seed=5).values, many[:3])
    assert not torch.equal(ood_sampler.draw(sampler, latents, 3, seed=6).values, many[:3])


def test_noise_while_decoding_has_the_seed_of_the_draws(
    model: ood_sampler.LoadedModel, latents: ood_sampler.Latents
) -> None:
    drawn = ood_sampler.draw(ood_sampler.GaussianSampler("diagonal"), latents, 2, seed=5)
    noisy = ood_sampler.decode(model, drawn, eta=1.0).values
    assert torch.equal(ood_sampler.decode(model, drawn, eta=1.0, seed=5).values, noisy)
    assert not torch.equal(ood_sampler.decode(model, drawn, eta=1.0, seed=6).values, noisy)


class Mean(Sampler):
    """A strategy of a user's own."""

    def draw(self, fitted: object, inverted: object, noise: object) -> torch.Tensor:
        mean = inverted.latents.items.mean(0)  # type: ignore[attr-defined]
        return mean.expand(len(noise), *mean.shape)  # type: ignore[arg-type]


def test_a_strategy_and_latents_of_ones_own_are_decoded(
    model: ood_sampler.LoadedModel, latents: ood_sampler.Latents
) -> None:
    drawn = ood_sampler.draw(Mean(), latents, 2)
    own = latents.replaced(latents.values.mean(0, keepdim=True), "their mean")
    assert torch.equal(drawn.values[:1], own.values)
    first, second = (ood_sampler.decode(model, each).values for each in (drawn, own))
    torch.testing.assert_close(first[:1], second)


def test_a_domain_of_a_tensor_is_that_of_its_files(
    pictures: Path, domain: ood_sampler.TargetDomain
) -> None:
    keys = ("data.few_shot=24", f"data.resolution={RESOLUTION}")
    for images in (smooth_images(40, seed=1), smooth_images(40, seed=1) / 127.5 - 1):
        found = ood_sampler.load_domain(images, *keys)
        for part in ("few_shot", "held_out"):
            own, other = (tensor_of(getattr(each, part)) for each in (found, domain))
            assert torch.equal(own, other)
    grey = ood_sampler.load_domain(smooth_images(40, seed=1)[:, :1], *keys)
    assert tuple(grey.few_shot[0].shape) == (3, RESOLUTION, RESOLUTION)


@pytest.mark.parametrize(
    ("mistaken", "message"),
    [
        (lambda: ood_sampler.load_model("dgo32"), "no model and no path; did you mean dog32"),
        (lambda: ood_sampler.load_model("dog32", "solver.stps=4"), "did you mean solver.steps"),
        (lambda: ood_sampler.load_model("dog32", "trainer=ddp"), "a single device"),
        (lambda: ood_sampler.load_model("dog32", "batch_size=-1"), "batch_size must be a whole"),
        (lambda: ood_sampler.load_model("dog32", "batch_size=0"), "batch_size must be a whole"),
        (
            lambda: ood_sampler.invert(
                ood_sampler.load_model("dog32"), torch.zeros(2, 3, 32, 32), 3.5
            ),  # type: ignore[arg-type]
            "inversion.step must be a whole number, got 3.5",
        ),
        (
            lambda: ood_sampler.load_domain(torch.zeros(4, 3, 8, 8), "data.held_out_root=/mine"),
            "data.held_out_root is of images in files",
        ),
        (lambda: ood_sampler.load_model("analytic_gaussian"), "ood_sampler.run('model=analytic"),
        (lambda: ood_sampler.load_domain("galaxy23"), "did you mean galaxy32"),
        (lambda: ood_sampler.load_domain("galaxy32", "data.few_shot=600"), "lower data.few_shot"),
        (lambda: ood_sampler.load_domain(torch.zeros(4, 5, 8, 8)), "shape (N, 3, H, W)"),
        (lambda: ood_sampler.load_domain(torch.full((4, 3, 8, 8), 2.0)), "must lie in [-1, 1]"),
        (lambda: ood_sampler.run("seed=0,1"), "is a sweep"),
        (lambda: ood_sampler.run("experiment=step_eta"), "is a sweep"),
        (lambda: ood_sampler.run("-m"), "is of the command line alone"),
        (lambda: ood_sampler.run(3), "settings must be texts"),
        (lambda: ood_sampler.sheet(torch.zeros(0, 3, 8, 8)), "at least 1"),
        (lambda: ood_sampler.evaluate(torch.zeros(8, 3, 8, 8, dtype=torch.int), None), "floating"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_is_an_exception_that_says_what_to_do(
    mistaken: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared
        mistaken()
    assert message in str(caught.value)


def test_a_missing_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ood_sampler.load_domain(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        ood_sampler.load_model(tmp_path / "nowhere")


def test_what_does_not_fit_is_refused_before_work(
    model: ood_sampler.LoadedModel,
    domain: ood_sampler.TargetDomain,
    latents: ood_sampler.Latents,
    model_folder: Path,
) -> None:
    other = ood_sampler.load_model(model_folder, "solver=ddim", "solver.steps=5", "trainer=cpu")
    with pytest.raises(ValueError, match="the model and solver that they were inverted with"):
        ood_sampler.decode(other, latents)
    with pytest.raises(ValueError, match=r"inversion.step must be in 0\.\.999"):
        ood_sampler.invert(model, domain.few_shot, step=1000)
    with pytest.raises(ValueError, match=r"data.resolution=16"):
        ood_sampler.invert(model, ood_sampler.load_domain("galaxy32").few_shot)
    with pytest.raises(ValueError, match=r"add images or raise data.few_shot"):
        ood_sampler.draw(ood_sampler.CogSampler(references=25), latents, 1)
    with pytest.raises(ValueError, match="num_samples must be >= 1"):
        ood_sampler.draw(ood_sampler.LerpSampler(), latents, 0)
    with pytest.raises(ValueError, match="values must have shape"):
        latents.replaced(torch.zeros(1, 3, 8, 8), "small")
    with pytest.raises(ValueError, match=r"images must be more than metrics.nearest_k"):
        ood_sampler.evaluate(torch.zeros(2, 3, RESOLUTION, RESOLUTION), domain, "features32")
    with pytest.raises(ValueError, match="images must have the shape"):
        ood_sampler.evaluate(torch.zeros(8, 3, 8, 8), domain, "features32")


def test_a_sheet_shows_the_images(domain: ood_sampler.TargetDomain, tmp_path: Path) -> None:
    shown = ood_sampler.sheet(domain.few_shot, 3, columns=2)
    # enlarged six times, with gaps of two pixels
    assert shown.size == (2 * 98 + 2, 2 * 98 + 2)
    assert shown.getpixel((2, 2)) == tuple(to_uint8(domain.few_shot[0])[:, 0, 0].tolist())
    images = ood_sampler.Images(tensor_of(domain.few_shot)[:3], "few")
    assert images._repr_png_().startswith(b"\x89PNG")
    images.save(tmp_path)
    assert len(list(tmp_path.glob("0000*.png"))) == 3
