import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from experiments.bench import __main__ as bench
from experiments.bench import against_diffusers, gpu, overhead, table
from experiments.bench.table import Pairs, Ratio, in_turn, markdown
from ood_sampler.diffusion.denoiser import EpsilonDenoiser, NetworkDenoiser, VelocityDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.models.pretrained import UNet


def ratio(measured: float, *, at_most: bool = True, name: str = "a") -> Ratio:
    return Ratio(name=name, measured=measured, goal=2.0, at_most=at_most, detail="why")


@pytest.mark.parametrize(
    ("measured", "at_most", "met"),
    [
        (1.9, True, True),
        (2.0, True, True),
        (2.1, True, False),
        (1.9, False, False),
        (2.0, False, True),
        (2.1, False, True),
        (math.nan, True, False),
        (math.nan, False, False),
    ],
)
def test_verdict(measured: float, at_most: bool, met: bool) -> None:
    judged = ratio(measured, at_most=at_most)
    assert judged.met is met
    assert ("MISSED" in judged.line()) is not met
    assert ("≤ 2" if at_most else "≥ 2") in judged.line()


def test_table_says_what_is_missed() -> None:
    lines = markdown([ratio(1.0), ratio(3.0, name="b"), ratio(1.0, at_most=False, name="c")])
    assert lines.splitlines()[-1] == "Missed: b; c."
    assert "| a | 1 | ≤ 2 | met | why |" in lines
    assert f"torch {torch.__version__}" in lines
    assert markdown([ratio(1.0)]).splitlines()[-1] == "All goals are met."


def test_ratios_are_taken_pair_by_pair() -> None:
    pairs = Pairs(first=[1.0, 20.0, 300.0], second=[2.0, 10.0, 100.0])
    assert pairs.ratio() == 2.0
    assert pairs.detail("ours", "theirs") == "ours 20 s, theirs 10 s; 3 pairs, 0.500 to 3.000"


def test_both_ways_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def seconds(work: Callable[[], object]) -> float:
        work()
        return {"a": 3.0, "b": 4.0}[called[-1]]

    monkeypatch.setattr(table, "seconds", seconds)
    timed = in_turn(lambda: called.append("a"), lambda: called.append("b"), pairs=3)
    assert "".join(called) == "abbaab"
    assert timed == Pairs(first=[3.0] * 3, second=[4.0] * 3)


@pytest.mark.parametrize("name", bench.BLOCKS)
def test_blocks_measure(name: str) -> None:
    assert callable(importlib.import_module(f"experiments.bench.{name}").measure)


def test_no_block_is_forgotten() -> None:
    files = Path(bench.__file__).parent.glob("*.py")
    measuring = {file.stem for file in files if "\ndef measure()" in file.read_text()}
    assert measuring == set(bench.BLOCKS)


def test_clock_counts_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 7.0, 9.0])
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: next(times))
    unet = Counted()
    monkeypatch.setattr(overhead, "network", lambda: SimpleNamespace(network=unet))
    with overhead.clock() as calls:
        for step in (3, 4):
            unet(torch.zeros(1), torch.tensor(step))
    unet(torch.zeros(1), torch.tensor(5))
    assert calls == [0.5, 2.0]


class Counted(nn.Module):
    """Called as diffusers' networks are."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, return_dict: bool = True
    ) -> SimpleNamespace | tuple[Tensor]:
        self.asked.append(int(t.flatten()[0]))
        return SimpleNamespace(sample=0.1 * x) if return_dict else (0.1 * x,)


def test_diffusers_takes_as_many_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = Counted()
    denoiser = EpsilonDenoiser(UNet(unet), Schedule.linear())
    monkeypatch.setattr(against_diffusers, "network", lambda: denoiser)
    x_0 = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    back = against_diffusers.diffusers_trip(x_0, 7, 5)
    up, down = unet.asked[:7], unet.asked[7:]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert len(down) == 5
    assert back.shape == x_0.shape


@pytest.mark.parametrize("kind", [EpsilonDenoiser, VelocityDenoiser])
def test_diffusers_agrees_with_ddim(
    kind: type[NetworkDenoiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = kind(UNet(Counted()), Schedule.linear())
    monkeypatch.setattr(against_diffusers, "network", lambda: denoiser)
    x_0 = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    diffusers = against_diffusers.diffusers_trip(x_0, 500, 500)
    solver = DdimSolver(steps=500, power=1)
    latents = solver.invert(denoiser, x_0, [999])[999]
    torch.testing.assert_close(
        diffusers, solver.decode(denoiser, latents, step=999), rtol=0.02, atol=2e-3
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([])
    assert capsys.readouterr().out == "No GPU here, so its table is not measured.\n"


def test_gpu_table_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--tiny"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    ways = [(row[0], row[1], int(row[2])) for row in rows]
    assert ways == [
        (precision, way, batch)
        for precision in ("float32", "bf16-mixed")
        for way in ("eager", "channels_last")
        for batch in (1, 4)
    ]
    for row in rows:
        rate, images, done, peak = (float(cell) for cell in row[3:7])
        assert rate > 0
        assert rate / images == pytest.approx(48, rel=0.01)
        # both are rounded
        assert float(row[7].rstrip("%")) / 100 == pytest.approx(done / peak, rel=0.02, abs=1e-3)


def test_flops_of_a_matrix_product_are_counted() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x @ torch.ones(16, 16)

    assert gpu.Bench(Product(), "cpu", gpu.tiny()).flops() == 2 * 3 * 16**3


def test_architecture_is_the_published_one() -> None:
    with torch.device("meta"):
        network = gpu.random_network(gpu.full().model)
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(
        93.56, abs=0.01
    )
