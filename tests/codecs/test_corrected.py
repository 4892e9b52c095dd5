from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ood_sampler.codecs.autoencoder import Autoencoder, AutoencoderCodec
from ood_sampler.codecs.corrected import CorrectedModel, FittedGaussian, corrected
from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.diffusion.correction import CorrectedDenoiser
from ood_sampler.diffusion.gaussian import fit_gaussian
from ood_sampler.diffusion.solvers import BelmSolver, MultistepSolver
from ood_sampler.store.files import save_state
from ood_sampler.store.sets import InMemory
from tests.diffusion.toys import ToyModel, bent, normal, toy_codec

SHAPE = (1, 4, 4)


def codec() -> DiffusionCodec:
    made = toy_codec(bent(), MultistepSolver(steps=10, power=1, corrections=3))
    return replace(made, model=ToyModel(bent(), latent_shape=SHAPE))


@pytest.fixture
def gaussians(tmp_path: Path) -> tuple[FittedGaussian, FittedGaussian]:
    paths = [tmp_path / f"{name}.safetensors" for name in ("target", "own")]
    for path, mean in zip(paths, (0.3, -0.3), strict=True):
        images = mean + 0.4 * normal(6, *SHAPE, seed=len(path.name)).float()
        save_state(path, fit_gaussian(InMemory(images)))
    return FittedGaussian("a", paths[0]), FittedGaussian("b", paths[1])


Pair = tuple[FittedGaussian, FittedGaussian]


def test_the_identity_includes_all_that_the_correction_depends_on(gaussians: Pair) -> None:
    target, own = gaussians
    variants = [
        corrected(codec(), target, own, weight=1.0, fade=100),
        corrected(codec(), target, own, weight=0.5, fade=100),
        corrected(codec(), target, own, weight=1.0, fade=50),
        corrected(codec(), own, target, weight=1.0, fade=100),
        corrected(codec(), target, replace(own, digest="c"), weight=1.0, fade=100),
    ]
    identities = [str(each.identity) for each in (codec(), *variants)]
    assert len(set(identities)) == len(identities)
    assert {CorrectedModel, CorrectedDenoiser} <= set(variants[0].makers)


def test_a_round_trip_goes_along_the_corrected_flow(gaussians: Pair) -> None:
    made = corrected(codec(), *gaussians, weight=1.0, fade=100)
    x_0 = 0.3 * normal(3, *SHAPE).float()
    z = made.encode(x_0, [500])[500]
    assert float((z - codec().encode(x_0, [500])[500]).abs().max()) > 0.05
    plain = codec().decode(codec().encode(x_0, [500])[500], 500)
    error, usual = (float((x - x_0).abs().max()) for x in (made.decode(z, 500), plain))
    assert error < 2 * usual + 1e-3
    assert made.encoding_evaluations([500]) == codec().encoding_evaluations([500])


def test_the_round_trip_of_pairs_is_exact(gaussians: Pair) -> None:
    made = corrected(codec(), *gaussians, weight=1.0, fade=100)
    assert isinstance(made, DiffusionCodec)
    solver, x_0 = BelmSolver(steps=20, power=1), normal(3, *SHAPE)
    z, below = solver.invert_pairs(made.model.denoiser, x_0, [500])[500]
    back = solver.decode(made.model.denoiser, z, step=500, below=below)
    assert float((back - x_0).abs().max()) < 1e-9


class Halved(Autoencoder):
    def encode(self, x_0: Tensor) -> Tensor:
        return x_0 / 2

    def decode(self, z_0: Tensor) -> Tensor:
        return 2 * z_0


class WithAutoencoder:
    digest = "halved"
    makers: tuple[type, ...] = ()
    autoencoder = Halved()


def test_the_codec_inside_an_autoencoder_is_corrected(gaussians: Pair) -> None:
    outer = AutoencoderCodec(WithAutoencoder(), codec())
    made = corrected(outer, *gaussians, weight=1.0, fade=100)
    assert isinstance(made, AutoencoderCodec)
    inside = corrected(codec(), *gaussians, weight=1.0, fade=100)
    x_0 = 0.3 * normal(2, *SHAPE).float()
    assert torch.equal(made.encode(x_0, [300])[300], inside.encode(x_0 / 2, [300])[300])


def test_images_themselves_have_no_score(gaussians: Pair) -> None:
    with pytest.raises(TypeError, match="diffusion model, got PixelCodec"):
        corrected(PixelCodec(SHAPE), *gaussians, weight=1.0, fade=100)


def test_a_gaussian_is_read_once_and_missed_by_name(gaussians: Pair, tmp_path: Path) -> None:
    assert gaussians[0].read() is gaussians[0].read()
    gone = FittedGaussian("c", tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors was removed during the run"):
        gone.read()
