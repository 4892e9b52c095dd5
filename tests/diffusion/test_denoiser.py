import pytest
import torch
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import (
    Denoiser,
    EpsilonDenoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VelocityDenoiser,
)
from ood_sampler.diffusion.schedule import Schedule

SCHEDULE = Schedule.linear()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class LearnedVariance(nn.Module):
    """Twice the channels, as an improved DDPM; the noise estimate depends on `t`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.dropout = nn.Dropout(0.5)
        self.seen: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.seen.append(t)
        eps = self.dropout(self.scale * x_t + t.reshape(-1, 1, 1, 1))
        return torch.cat([eps, torch.full_like(eps, 7.0)], dim=1)


def test_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Denoiser()  # type: ignore[abstract]


def test_learned_variance_is_dropped() -> None:
    x_t = normal(2, 3, 4, 4).float()
    eps = EpsilonDenoiser(LearnedVariance(), SCHEDULE).eps(x_t, torch.tensor(5))
    assert torch.equal(eps, 3 * x_t + 5)


def test_network_sees_one_step_an_image() -> None:
    network = LearnedVariance()
    denoiser = EpsilonDenoiser(network, SCHEDULE)
    x_t = normal(3, 1, 2, 2).float()
    denoiser.eps(x_t, torch.tensor(5))
    denoiser.eps(x_t, torch.tensor([1, 2, 3]))
    assert [t.tolist() for t in network.seen] == [[5, 5, 5], [1, 2, 3]]


def test_network_is_frozen_in_evaluation_mode() -> None:
    network = LearnedVariance()
    assert network.training
    denoiser = EpsilonDenoiser(network, SCHEDULE)
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    for module in (denoiser.train(), nn.Sequential(denoiser).train()[0]):
        assert module is denoiser
        assert not any(part.training for part in denoiser.modules())


def test_a_function_serves_as_network() -> None:
    x_t = normal(2, 3, 4, 4)
    denoiser = EpsilonDenoiser(lambda x, t: 2 * x, SCHEDULE)
    assert torch.equal(denoiser.eps(x_t, torch.tensor(0)), 2 * x_t)


def test_noise_estimate_has_the_precision_of_the_images() -> None:
    denoiser = EpsilonDenoiser(lambda x, t: x.bfloat16(), SCHEDULE)
    assert denoiser.eps(normal(2, 3, 4, 4).float(), torch.tensor(0)).dtype == torch.float32


def parametrisations(exact: Denoiser) -> dict[type[NetworkDenoiser], NetworkDenoiser]:
    """The same denoiser behind networks that predict eps, v and x_0."""

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (scale.reshape(-1, 1, 1, 1) for scale in SCHEDULE(t))
        return alpha * exact.eps(x_t, t) - sigma * exact(x_t, t)

    networks = {EpsilonDenoiser: exact.eps, VelocityDenoiser: velocity, SampleDenoiser: exact}
    return {kind: kind(network, SCHEDULE) for kind, network in networks.items()}


def test_all_parametrisations_give_the_same_noise() -> None:
    exact = GaussianDenoiser(normal(3, 2, 2), 0.5, SCHEDULE)
    x_t = normal(4, 3, 2, 2, seed=1)
    for t in (torch.tensor([0, 30, 500, 999]), torch.tensor(250)):
        for denoiser in parametrisations(exact).values():
            for found, expected in (
                (denoiser.eps(x_t, t), exact.eps(x_t, t)),
                (denoiser(x_t, t), exact(x_t, t)),
            ):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [EpsilonDenoiser, VelocityDenoiser, SampleDenoiser])
def test_every_parametrisation_drops_the_variance_and_keeps_precision(
    kind: type[NetworkDenoiser],
) -> None:
    x_t, t = normal(2, 3, 4, 4).float(), torch.tensor([5, 400])
    plain = kind(lambda x, t: 2 * x, SCHEDULE).eps(x_t, t)
    more = kind(lambda x, t: torch.cat([2 * x, 7 * x], 1).double(), SCHEDULE).eps(x_t, t)
    assert plain.dtype == more.dtype == torch.float32
    assert torch.equal(plain, more)


@pytest.mark.parametrize("kind", [EpsilonDenoiser, VelocityDenoiser, SampleDenoiser])
def test_a_conditional_network_is_asked_about_one_class(kind: type[NetworkDenoiser]) -> None:
    seen = []

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return x_t * labels.reshape(-1, 1, 1, 1)

    x_t = normal(3, 1, 2, 2)
    for label in (0, 2):
        unconditional = kind(lambda x, t, factor=label: factor * x, SCHEDULE)
        for t in (torch.tensor(7), torch.tensor([1, 2, 3])):
            eps = kind(network, SCHEDULE, label=label).eps(x_t, t)
            assert torch.equal(eps, unconditional.eps(x_t, t))
    assert [labels.tolist() for labels in seen] == [[0] * 3, [0] * 3, [2] * 3, [2] * 3]
    assert {labels.dtype for labels in seen} == {torch.int64}


def test_denoising_removes_the_noise() -> None:
    x_0, eps = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    denoiser = EpsilonDenoiser(lambda x, t: eps, SCHEDULE)
    t = torch.tensor([10, 700])
    alpha, sigma = (scale.reshape(-1, 1, 1, 1) for scale in SCHEDULE(t))
    x_t = alpha * x_0 + sigma * eps
    torch.testing.assert_close(denoiser(x_t, t), x_0, rtol=0, atol=1e-12)


def test_steps_of_a_batch_may_differ() -> None:
    denoiser = GaussianDenoiser(normal(3, 2, 2), 0.5, SCHEDULE)
    x_t = normal(3, 3, 2, 2, seed=1)
    t = torch.tensor([0, 400, 999])
    together = denoiser(x_t, t)
    alone = [denoiser(x[None], step) for x, step in zip(x_t, t, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-14)


@pytest.mark.parametrize("t", [0, 250, 999])
@pytest.mark.parametrize("variance", [0.0, 0.3, 4.0])
def test_gaussian_denoiser_has_the_closed_form(variance: float, t: int) -> None:
    mean, x_t = normal(3, 2, 2), normal(4, 3, 2, 2, seed=1)
    alpha, sigma = (float(scale) for scale in SCHEDULE(torch.tensor(t)))
    shrink = alpha * variance / (alpha**2 * variance + sigma**2)
    expected = mean + shrink * (x_t - alpha * mean)
    denoiser = GaussianDenoiser(mean, variance, SCHEDULE)
    torch.testing.assert_close(denoiser(x_t, torch.tensor(t)), expected, rtol=0, atol=1e-11)


def test_gaussian_denoiser_is_the_posterior_mean() -> None:
    mean, variance, x_t, t = 0.4, 0.3, -0.7, torch.tensor(300)
    alpha, sigma = (float(scale) for scale in SCHEDULE(t))
    x_0 = torch.linspace(mean - 10, mean + 10, 200_001, dtype=torch.float64)
    log_weight = -((x_0 - mean) ** 2) / (2 * variance) - (x_t - alpha * x_0) ** 2 / (2 * sigma**2)
    expected = float(log_weight.softmax(0) @ x_0)
    denoiser = GaussianDenoiser(torch.tensor(mean, dtype=torch.float64), variance, SCHEDULE)
    image = torch.full((1, 1, 1, 1), x_t, dtype=torch.float64)
    assert float(denoiser(image, t)) == pytest.approx(expected, rel=1e-9)
    implied = (x_t - alpha * expected) / sigma
    assert float(denoiser.eps(image, t)) == pytest.approx(implied, rel=1e-9)


def test_gaussian_denoiser_keeps_the_precision_of_the_images() -> None:
    denoiser = GaussianDenoiser(normal(3, 1, 1), 0.5, SCHEDULE)
    assert denoiser.eps(normal(2, 3, 4, 4).float(), torch.tensor(3)).dtype == torch.float32


def test_gaussian_denoiser_needs_a_variance() -> None:
    with pytest.raises(ValueError, match="variance must be >= 0, got -1"):
        GaussianDenoiser(torch.zeros(1), -1, SCHEDULE)
