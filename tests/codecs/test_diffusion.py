import pytest
import torch

from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.diffusion.denoiser import GaussianDenoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver, HeunSolver
from tests.diffusion.toys import ToyModel, toy_codec

DENOISER = GaussianDenoiser(torch.full((1, 1, 1), 0.3), 0.5, Schedule.linear(1000))
SOLVER = DdimSolver(steps=10, power=1)


def test_both_directions_are_those_of_the_solver() -> None:
    codec = toy_codec(DENOISER, SOLVER)
    x_0 = torch.rand(3, 1, 2, 2) * 2 - 1
    latents = codec.encode(x_0, [400, 999])
    expected = SOLVER.invert(DENOISER, x_0, [400, 999])
    assert all(torch.equal(latents[t], expected[t]) for t in (400, 999))
    decoded = codec.decode(latents[400], 400)
    assert torch.equal(decoded, SOLVER.decode(DENOISER, latents[400], step=400))


def test_noise_of_decoding_is_drawn_for_each_sample() -> None:
    codec = toy_codec(DENOISER, SOLVER)
    z = torch.randn(4, 1, 2, 2)

    def decoded(numbers: list[int]) -> torch.Tensor:
        noise = SampleNoise(3, numbers, stream=Stream.DECODE)
        return codec.decode(z[numbers], 600, eta=1.0, noise=noise)

    whole = decoded([0, 1, 2, 3])
    assert torch.equal(decoded([2]), whole[[2]])
    assert not torch.equal(whole, codec.decode(z, 600))


def test_evaluations_are_those_of_the_solver() -> None:
    codec = toy_codec(DENOISER, SOLVER)
    assert codec.last_level == 999
    assert codec.encoding_evaluations([400]) == SOLVER.inversion_evaluations([400], T=1000) == 4
    assert codec.decoding_evaluations(999) == SOLVER.decoding_evaluations(999, T=1000) == 10


def test_the_identity_names_model_and_solver_but_no_noise() -> None:
    codec = toy_codec(DENOISER, SOLVER)
    assert codec.identity["model"] == "toy"
    assert codec.identity["solver"]["type"] == "DdimSolver"
    assert codec.identity["solver"]["steps"] == 10
    assert codec.identity != toy_codec(DENOISER, DdimSolver(steps=11, power=1)).identity
    assert codec.label == "ddim (steps 10, power 1, noise_at source)"


@pytest.mark.parametrize(
    ("level", "eta", "solver", "message"),
    [
        (1000, 0.0, SOLVER, r"inversion\.step must be in 0\.\.999"),
        (0, 0.3, HeunSolver(steps=5, power=1), r"decode\.eta must be 0 for HeunSolver, got 0\.3"),
        (0, 0.0, DdimSolver(steps=1001, power=1), r"solver\.steps must be in 1\.\.1000"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(
    level: int, eta: float, solver: DdimSolver, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        toy_codec(DENOISER, solver).check([level], eta=eta)


def test_a_fault_of_the_weights_is_not_taken_for_one_of_a_key() -> None:
    class Broken(ToyModel):
        @property
        def schedule(self) -> Schedule:
            raise ValueError("model.pt must be a whole checkpoint")

    codec = DiffusionCodec(Broken(DENOISER), SOLVER)
    with pytest.raises(ValueError, match=r"^model\.pt must be a whole checkpoint$"):
        codec.check([400])


def test_a_denoiser_may_take_gradients_while_decoding() -> None:
    class Guided(GaussianDenoiser):
        def eps(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            eps = super().eps(x_t, t)
            with torch.enable_grad():
                x = x_t.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(x.square().sum() / 2, x)
            return eps + 0.1 * gradient

    guided = Guided(torch.full((1, 1, 1), 0.3), 0.5, Schedule.linear(1000))
    z = torch.randn(2, 1, 2, 2)
    decoded = toy_codec(guided, SOLVER).decode(z, 400)
    assert decoded.isfinite().all()
    assert not torch.equal(decoded, toy_codec(DENOISER, SOLVER).decode(z, 400))


def test_denoised_images_are_clipped_on_the_way_if_asked() -> None:
    codec = toy_codec(DENOISER, SOLVER)
    z = 3 * torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    clipped = codec.decode(z, 999, clip_x_0=True)
    assert torch.equal(clipped, SOLVER.decode(DENOISER, z, step=999, clip_x_0=True))
    assert not torch.equal(clipped, codec.decode(z, 999).clamp(-1, 1))
