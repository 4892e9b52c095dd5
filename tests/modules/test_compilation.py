from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import EpsilonDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import MultistepSolver
from ood_sampler.modules.compilation import CompiledNetwork
from ood_sampler.modules.inversion import Inversion
from ood_sampler.modules.prediction import compute
from ood_sampler.modules.trainer import lightning_trainer, machine, make_trainer
from ood_sampler.store.artifacts import Artifact, Items
from ood_sampler.store.sets import InMemory
from tests.diffusion.toys import toy_codec


class Small(nn.Module):
    """Noise from the image and the step, with what compilers like to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.first(x_t) + (t / 1000)[:, None, None, None])
        result: Tensor = self.last(hidden)
        return result


def cpu(**settings: Any) -> Callable[..., Any]:  # noqa: ANN401
    return partial(lightning_trainer, accelerator="cpu", devices=1, tf32=False, **settings)


def latents(folder: Path, trainer: Callable[..., Any]) -> tuple[EpsilonDenoiser, Tensor]:
    """Six images inverted in batches of four and two."""
    torch.manual_seed(0)
    denoiser = EpsilonDenoiser(Small(), Schedule.linear(1000))
    x_0 = torch.rand(6, 3, 8, 8) * 2 - 1
    artifact = Artifact(folder, "inversion", {}, 6, (3, 8, 8))
    solver = MultistepSolver(steps=6, power=2)
    compute(
        Inversion(toy_codec(denoiser, solver), at=[400], names=list("abcdef")),
        Items(InMemory(x_0)),
        {"400": artifact},
        trainer=trainer,
        batch_size=4,
    )
    return denoiser, artifact.open().take(range(6))


def test_a_compiled_network_gives_the_latents_of_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = CompiledNetwork.forward

    def counted(self: CompiledNetwork, *inputs: Tensor) -> Tensor:
        sizes.append(len(inputs[0]))
        return forward(self, *inputs)

    monkeypatch.setattr(CompiledNetwork, "forward", counted)
    _, expected = latents(tmp_path / "plain", cpu())
    assert not sizes
    denoiser, found = latents(tmp_path / "compiled", cpu(compile="default"))
    assert set(sizes) == {4, 2}
    # the network is its own again
    assert isinstance(denoiser.network, Small)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_result_stays_what_it_was_after_the_next_call() -> None:
    buffer = torch.zeros(2)

    class Graph(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return buffer.copy_(x)

    network = CompiledNetwork(Graph(), "default")
    network.compiled = Graph()  # as a replayed graph: one place for all results
    first = network(torch.ones(2))
    network(torch.full((2,), 5.0))
    assert first.tolist() == [1.0, 1.0]


def test_a_network_is_compiled_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def compiled(network: nn.Module, **settings: object) -> nn.Module:
        asked.append(settings)
        return nn.Sequential(network)

    monkeypatch.setattr(torch, "compile", compiled)
    network = Small()
    assert CompiledNetwork(network, "reduce-overhead").compiled[0] is network
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}]


def test_a_machine_without_a_compiler_is_told_what_to_do() -> None:
    from torch._dynamo.exc import TorchDynamoException

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise TorchDynamoException("No working C++ compiler found\nand much more")

    network = CompiledNetwork(Small(), "default")
    network.compiled = Failing()
    with pytest.raises(ValueError, match=r"\(No working C.. compiler found\): .*compile=null"):
        network(torch.ones(1))


def test_stored_results_tell_whether_they_were_compiled() -> None:
    made = make_trainer(cpu(compile="reduce-overhead"), [])
    assert machine(made) == "cpu 32-true compiled"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"trainer\.compile must be null or one of default, reduce"
    ):
        make_trainer(cpu(compile="fast"), [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_network_on_a_gpu(tmp_path: Path, mode: str) -> None:
    gpu = partial(lightning_trainer, accelerator="gpu", devices=1, tf32=False)
    _, expected = latents(tmp_path / "plain", gpu)
    _, found = latents(tmp_path / mode, partial(gpu, compile=mode))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_nothing_waits_for_the_gpu_within_the_loop() -> None:
    denoiser = EpsilonDenoiser(Small(), Schedule.linear(1000)).cuda()
    x_0 = torch.rand(2, 3, 8, 8, device="cuda")
    solver = MultistepSolver(steps=6, power=2)
    solver.invert(denoiser, x_0, [400])
    torch.cuda.set_sync_debug_mode("error")
    try:
        x_t = solver.invert(denoiser, x_0, [400])[400]
        solver.decode(denoiser, x_t, step=400)
    finally:
        torch.cuda.set_sync_debug_mode("default")
