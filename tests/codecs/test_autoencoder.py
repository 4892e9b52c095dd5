"""Latent diffusion as a codec, and a run of it from images to figures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.codecs.autoencoder import Autoencoder, AutoencoderCodec
from ood_sampler.data.domain import TargetDomain, TensorImages
from ood_sampler.diffusion.solvers import DdimSolver, Solver
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.pipeline.outcome import Outcome
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.settings import Settings
from ood_sampler.record import results, write_run
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.noised import NoisedSampler
from tests.conftest import make_judges, make_pipeline
from tests.models.stand_ins import tiny_ldm

SOLVER = DdimSolver(steps=4, power=1)
STEP = 400


def pictures(count: int, seed: int) -> TensorImages:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    levels = (images * 255).to(torch.uint8)
    return TensorImages(levels, [f"{seed} {i}" for i in range(count)], resolution=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ldm(tmp_path_factory.mktemp("ldm"))


@pytest.fixture(scope="module")
def make(
    folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Pipeline]:
    root = tmp_path_factory.mktemp("artifacts")

    def run(
        *, solver: Solver = SOLVER, sampler: Sampler | None = None, root: Path = root
    ) -> Pipeline:
        return make_pipeline(
            model=FrozenModel(name="ldm", path=str(folder), resolution=32),
            domain=TargetDomain(name="smooth", few_shot=pictures(12, 0), held_out=pictures(12, 1)),
            solver=solver,
            sampler=sampler or CogSampler(references=2),
            judges=make_judges(nearest_k=3),
            trainer=trainer,
            settings=Settings(STEP, eta=0.0, clip_x_0=False, num_samples=8, seed=0, batch_size=4),
            root=root,
        )

    return run


@pytest.fixture(scope="module")
def outcome(make: Callable[..., Pipeline]) -> Outcome:
    return make().run()


def parts(run: Pipeline) -> tuple[AutoencoderCodec, Autoencoder, Tensor]:
    """The codec, its autoencoder, and the few-shot images."""
    codec, autoencoder = run.codec, run.model.autoencoder
    assert isinstance(codec, AutoencoderCodec)
    assert autoencoder is not None
    few_shot = run.domain.few_shot
    return codec, autoencoder, torch.stack([few_shot[i] for i in range(len(few_shot))])


@torch.no_grad()
def test_pictures_are_inverted_in_the_space_of_the_autoencoder(
    make: Callable[..., Pipeline], outcome: Outcome
) -> None:
    run = make()
    codec, autoencoder, x_0 = parts(run)
    assert codec.shape(STEP) == run.latent_shape == (3, 8, 8)
    expected = SOLVER.invert(run.model.denoiser, autoencoder.encode(x_0), [STEP])[STEP]
    stored = run.latents()[STEP].take(range(12))
    torch.testing.assert_close(stored, expected, rtol=0, atol=1e-4)
    assert stored.shape == (12, 3, 8, 8)


@torch.no_grad()
def test_latents_are_drawn_there_and_decoded_through_the_autoencoder(
    make: Callable[..., Pipeline], outcome: Outcome
) -> None:
    run = make()
    _, autoencoder, _ = parts(run)
    drawn = run.draws.output.open().take(range(8))
    codes = SOLVER.decode(run.model.denoiser, drawn, step=STEP)
    expected = autoencoder.decode(codes).clamp(-1, 1)
    found = outcome.images.take(range(8))
    assert found.shape == (8, 3, 32, 32)
    # a code near the border of two entries of the codebook may fall to the other side
    assert float((found - expected).abs().median()) < 1e-3
    # own domain: from noise of the latents' shape
    assert run.noise.output.shape == (3, 8, 8)
    assert outcome.in_domain.shape == (3, 32, 32)


@torch.no_grad()
def test_what_the_autoencoder_alone_loses_stands_beside_the_whole(
    make: Callable[..., Pipeline], outcome: Outcome
) -> None:
    run = make()
    codec, autoencoder, x_0 = parts(run)
    alone = autoencoder.decode(autoencoder.encode(x_0)).clamp(-1, 1)
    expected = (alone - x_0).square().flatten(1).mean(1).tolist()
    assert outcome.autoencoder["mse"] == pytest.approx(expected, rel=0.02)
    assert len(outcome.autoencoder["psnr"]) == len(outcome.reconstruction["psnr"]) == 12
    floor = codec.floor
    assert floor.encoding_evaluations([0]) == floor.decoding_evaluations(0) == 0
    assert torch.equal(floor.encode(x_0, [0])[0], autoencoder.encode(x_0))


def test_codes_have_no_range_to_clip_to(make: Callable[..., Pipeline]) -> None:
    run = make()
    clipped = replace(run, settings=replace(run.settings, clip_x_0=True))
    with pytest.raises(ValueError, match=r"decode\.clip_x_0 must be false for latent diffusion"):
        clipped.check()


def test_what_it_costs_is_that_of_the_solver_in_the_latents(make: Callable[..., Pipeline]) -> None:
    run = make()
    assert run.codec.encoding_evaluations([STEP]) == SOLVER.inversion_evaluations([STEP], T=1000)
    assert run.codec.decoding_evaluations(STEP) == SOLVER.decoding_evaluations(STEP, T=1000)
    assert set(run.codec.networks) == {"denoiser", "autoencoder"}


def test_other_weights_of_the_autoencoder_are_another_model(
    folder: Path, make: Callable[..., Pipeline], tmp_path: Path
) -> None:
    other = FrozenModel(name="ldm", path=str(tiny_ldm(tmp_path, seed=1)), resolution=32)
    run = make()
    changed = replace(run, model=other, codec=other.codec(SOLVER))
    assert changed.inversion.output.digest != run.inversion.output.digest
    assert changed.samples.output.digest != run.samples.output.digest


@torch.no_grad()
def test_noised_pictures_are_noised_codes(make: Callable[..., Pipeline]) -> None:
    run = make(sampler=NoisedSampler())
    codec, autoencoder, x_0 = parts(run)
    clean = run.inverted.images.take([0, 5])
    torch.testing.assert_close(clean, autoencoder.encode(x_0[[0, 5]]), rtol=0, atol=1e-5)
    run.session.obtain(run.draws)
    assert run.draws.output.open().take([0]).shape == (1, 3, 8, 8)
    assert codec.schedule is not None


def test_pixel_controls_mix_the_pictures_themselves(make: Callable[..., Pipeline]) -> None:
    control = make().in_pixels(CogSampler(references=2))
    assert control.latent_shape == (3, 32, 32)
    images = control.sampled().images
    assert images.shape == (3, 32, 32)
    assert float(images.take(range(8)).abs().max()) <= 1


def test_the_report_tells_what_the_autoencoder_alone_loses(
    make: Callable[..., Pipeline], outcome: Outcome, tmp_path: Path
) -> None:
    run = make()
    found = results(
        run, outcome, choices={"sampler": "cog", "solver": "ddim"}, notes=[], choice=None
    )
    means = {key: sum(values) / 12 for key, values in outcome.autoencoder.items()}
    assert found["reconstruction"]["autoencoder_psnr"] == pytest.approx(means["psnr"])
    assert found["run"]["steps"] == 4
    write_run(tmp_path, run, outcome, found, None)
    page = " ".join((tmp_path / "report.html").read_text().split())
    told = f"(through the autoencoder alone: {means['psnr']:.1f} dB and {means['ssim']:.3f})"
    assert told in page
