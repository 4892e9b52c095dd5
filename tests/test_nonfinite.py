"""A network that returns NaN or infinity for one image at one step."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import GaussianDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver, MultistepSolver, Solver
from ood_sampler.modules.features import FeatureExtraction
from ood_sampler.modules.prediction import NonFiniteError, are_finite
from ood_sampler.modules.synthesis import Synthesis
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.results import write_samples
from ood_sampler.store.sets import InMemory
from tests.diffusion.toys import toy_codec
from tests.test_pipeline import pipeline


class Faulty(nn.Module):
    """Give NaN, or another value, for the image that is `struck` at a step."""

    def __init__(
        self, network: nn.Module, *, step: int, struck: Tensor, value: float = torch.nan
    ) -> None:
        super().__init__()
        self.value = value
        self.network = network
        self.step = step
        self.struck = struck

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        prediction: Tensor = self.network(x_t, t)
        if int(t[0]) != self.step:
            return prediction
        same = (x_t - self.struck).flatten(1).abs().amax(1) < 1e-6
        return prediction.masked_fill(same[:, None, None, None], self.value)


def break_at(run: Pipeline, **fault: Any) -> None:  # noqa: ANN401
    denoiser: Any = run.model.denoiser
    denoiser.network = Faulty(denoiser.network, **fault)


@pytest.fixture
def broken(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> Callable[[str], Pipeline]:
    """Make runs of one folder whose image 5 fails at the first evaluation."""

    def make(on_nonfinite: str) -> Pipeline:
        run = pipeline(model_folder, tmp_path, trainer, on_nonfinite=on_nonfinite)
        break_at(run, step=0, struck=run.domain.few_shot[5])
        return run

    return make


def test_a_picture_the_network_fails_on_ends_the_run_by_name(
    broken: Callable[[str], Pipeline],
) -> None:
    with pytest.raises(NonFiniteError, match=r"latent at step 400 of image few5: .*=skip"):
        broken("raise").run()


def test_a_picture_the_network_fails_on_is_left_out_and_named(
    broken: Callable[[str], Pipeline], caplog: pytest.LogCaptureFixture
) -> None:
    run = broken("skip")
    with caplog.at_level(logging.WARNING):
        outcome = run.run()
    named = "the network returned NaN or infinity for the latent at step 400 of image few5"
    assert any(named in line for line in outcome.left_out)
    assert named in caplog.text
    inverted = run.inverted
    assert len(inverted.latents) == len(inverted.images) == 65
    assert torch.equal(inverted.images.take([5])[0], run.domain.few_shot[6])
    assert len(outcome.reconstruction["psnr"]) == len(outcome.originals) == 65
    assert torch.equal(outcome.originals.take([5])[0], run.domain.few_shot[6])
    # those that remain are whole, and nothing that is measured depends on the one that is not
    assert torch.cat(list(outcome.images.blocks())).isfinite().all()
    assert all(value is not None for row in outcome.rows for value in row.figures.values())

    # stored as it is: a later run that does not allow for it says so again
    with pytest.raises(NonFiniteError, match="few5"):
        broken("raise").run()


def test_a_sample_the_network_fails_on_keeps_the_numbers_of_the_others(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    whole = pipeline(model_folder, tmp_path / "whole", trainer, eta=0.0)
    expected = whole.run()
    run = pipeline(model_folder, tmp_path / "broken", trainer, eta=0.0, on_nonfinite="skip")
    latent = whole.draws.output.open().take([7])[0]
    break_at(run, step=400, struck=latent)
    outcome = run.run()
    assert outcome.numbers == [i for i in range(70) if i != 7]
    assert outcome.rows[0].samples == 69
    assert len(outcome.nearest_index) == 69
    assert any("for sample 7: left out" in line for line in outcome.left_out)
    torch.testing.assert_close(
        outcome.images.take([6, 7, 68]), expected.images.take([6, 8, 69]), rtol=0, atol=1e-5
    )
    copies = [number == 9 for number in outcome.numbers]
    write_samples(tmp_path, outcome.images, outcome.numbers, near_copies=copies, seed=3)
    lines = (tmp_path / "manifest.csv").read_text().split()
    assert lines[0] == "file,seed,index,near_copy"
    assert [line for line in lines if line.endswith(",1")] == ["00009.png,3,9,1"]
    names = [line.split(",")[0] for line in lines[1:]]
    assert names == [f"{i:05d}.png" for i in range(70) if i != 7]
    assert sorted(file.name for file in tmp_path.glob("*.png")) == names
    # a smaller run in the same folder, without that metric
    few = InMemory(outcome.images.take(range(3)))
    write_samples(tmp_path, few, range(3), near_copies=[], seed=4)
    manifest = (tmp_path / "manifest.csv").read_text().split()
    assert manifest == ["file,seed,index", "00000.png,4,0", "00001.png,4,1", "00002.png,4,2"]
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_sample_from_pure_noise_is_named_though_it_is_clipped(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path, value: float
) -> None:
    def broken(on_nonfinite: str) -> Pipeline:
        run = pipeline(model_folder, tmp_path, trainer, on_nonfinite=on_nonfinite)
        if not run.noise.output.missing():
            noise = run.noise.output.open().take([3])[0]
            break_at(run, step=999, struck=noise, value=value)
        return run

    broken("skip").in_domain_images()
    for file in (tmp_path / run_folder(broken("skip"))).glob("*.safetensors"):
        file.unlink()
    outcome = broken("skip").run()
    assert len(outcome.in_domain) == 69
    assert any("for in-domain sample 3: left out" in line for line in outcome.left_out)
    with pytest.raises(NonFiniteError, match="for in-domain sample 3"):
        broken("raise").run()


def run_folder(run: Pipeline) -> str:
    return run.in_domain.output.folder.name


@pytest.mark.parametrize("kind", [DdimSolver, MultistepSolver])
@pytest.mark.parametrize("at", ["first", "last"])
@pytest.mark.parametrize("clip_x_0", [True, False])
def test_infinity_does_not_become_a_picture(kind: type[Solver], at: str, clip_x_0: bool) -> None:
    solver = kind(steps=6, power=1)
    calls: list[int] = []

    class Infinite(GaussianDenoiser):
        def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
            calls.append(int(t))
            eps = super().eps(x_t, t)
            if len(calls) == (1 if at == "first" else solver.decoding_evaluations(999, T=1000)):
                eps[1, 0, 0, 0] = torch.inf
            return eps

    denoiser = Infinite(torch.zeros(1, 2, 2), 1.0, Schedule.linear(1000))
    stage = Synthesis(
        toy_codec(denoiser, solver),
        level=999,
        eta=0.0,
        clip_x_0=clip_x_0,
        seed=0,
        on_nonfinite="skip",
    )
    x_T = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = stage.predict_step(([0, 1, 2], x_T), 0)["images"]
    assert len(calls) == solver.decoding_evaluations(999, T=1000)
    assert are_finite(images).tolist() == [True, False, True]


def test_features_that_are_not_finite_are_named_by_their_picture() -> None:
    stage = FeatureExtraction(nn.Identity(), what="held-out, image", names=["a", "b", "c"])
    features = torch.tensor([[0.0], [torch.inf]])
    with pytest.raises(NonFiniteError, match=r"features of held-out, image c: .* of metrics"):
        stage.predict_step(([0, 2], features), 0)


def test_too_few_samples_left_are_refused_by_the_name_of_the_set(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, on_nonfinite="skip")
    denoiser: Any = run.model.denoiser
    network = denoiser.network

    class Late(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            prediction: Tensor = network(x_t, t)
            return prediction if int(t[0]) <= 400 else torch.full_like(prediction, torch.nan)

    denoiser.network = Late()
    with pytest.raises(ValueError, match="in-domain samples without NaN must be more than"):
        run.run()


def test_too_few_pictures_left_are_refused(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, on_nonfinite="skip")
    denoiser: Any = run.model.denoiser
    denoiser.eps = lambda x_t, t: torch.full_like(x_t, torch.nan)
    with pytest.raises(ValueError, match="at least 2 few-shot images, got 0"):
        run.run()


def test_the_setting_is_one_of_two(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="on_nonfinite must be raise or skip, got 'ignore'"):
        pipeline(model_folder, tmp_path, trainer, on_nonfinite="ignore")
