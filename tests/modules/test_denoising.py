import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser, GaussianDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.modules.denoising import DenoisingLoss
from ood_sampler.modules.prediction import NonFiniteError
from tests.diffusion.toys import toy_codec

SCHEDULE = Schedule.linear(1000)
NAMES = [f"p{i}" for i in range(64)]
STEPS = (50, 500, 900)


def stage(denoiser: Denoiser, **changes: object) -> DenoisingLoss:
    arguments = {"at": STEPS, "seed": 7, "names": NAMES, **changes}
    return DenoisingLoss(toy_codec(denoiser), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("variance", "offset"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.3)])
def test_the_loss_of_gaussian_data_is_known(variance: float, offset: float) -> None:
    # eps_hat = sigma (alpha (x_0 - mu) + sigma eps) / q with q = alpha^2 v + sigma^2, so that the
    # error is (alpha sigma (x_0 - mu) - alpha^2 v eps) / q
    d = 3 * 32 * 32
    mean = torch.full((3, 1, 1), 0.2)
    x_0 = mean + offset + torch.zeros(64, 3, 32, 32)
    losses = stage(GaussianDenoiser(mean, variance, SCHEDULE)).predict_step(
        (list(range(64)), x_0), 0
    )
    for step in STEPS:
        alpha, sigma = SCHEDULE.scales(step)
        q = alpha**2 * variance + sigma**2
        expected = (alpha * sigma * offset / q) ** 2 + (alpha**2 * variance / q) ** 2
        assert losses[str(step)].shape == (64, 1)
        # chi-squared of 64 d numbers and, crossed, a normal one
        assert float(losses[str(step)].mean()) == pytest.approx(
            expected, rel=5 * (8 / 64 / d) ** 0.5, abs=1e-10
        )


def test_the_noise_depends_on_picture_and_step_alone() -> None:
    asked: dict[int, Tensor] = {}

    class Listening(GaussianDenoiser):
        def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
            asked[int(t)] = x_t
            return super().eps(x_t, t)

    denoiser = Listening(torch.zeros(3, 1, 1), 0.5, SCHEDULE)
    x_0 = torch.zeros(4, 3, 8, 8)
    whole = stage(denoiser).predict_step(([0, 1, 2, 3], x_0), 0)
    eps = {step: x_t / SCHEDULE.scales(step)[1] for step, x_t in asked.items()}
    alone = stage(denoiser, at=(500,)).predict_step(([2], x_0[:1]), 0)
    torch.testing.assert_close(asked[500][0], SCHEDULE.scales(500)[1] * eps[500][2])
    torch.testing.assert_close(alone["500"][0], whole["500"][2])
    assert float((eps[500] - eps[900]).abs().min(dim=0).values.max()) > 0.1
    assert float((eps[500][0] - eps[500][1]).abs().max()) > 1
    assert not torch.equal(
        stage(denoiser, seed=8).predict_step(([2], x_0[:1]), 0)["500"], alone["500"]
    )


def test_a_loss_that_is_no_number_names_the_picture() -> None:
    denoiser = GaussianDenoiser(torch.zeros(3, 1, 1), 0.5, SCHEDULE)
    x_0 = torch.zeros(3, 3, 8, 8)
    x_0[1] = torch.nan
    with pytest.raises(NonFiniteError, match="the denoising loss at step 50 of image p4"):
        stage(denoiser).predict_step(([3, 4, 5], x_0), 0)
    kept = stage(denoiser, on_nonfinite="skip").predict_step(([3, 4, 5], x_0), 0)
    assert kept["500"].isfinite()[:, 0].tolist() == [True, False, True]
