from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ood_sampler.models.style_generator import StyleGenerator
from ood_sampler.modules.adversarial import AdversarialTraining, gradient_penalty
from ood_sampler.modules.augmentation import Augmentation
from ood_sampler.modules.discriminator import ResidualDiscriminator, batch_deviation
from ood_sampler.report.training import GeneratorSnapshots


class Quadratic(nn.Module):
    r"""$D(x) = \frac a 2 \lVert x \rVert^2$, whose gradient is $a x$."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x: Tensor) -> Tensor:
        return self.a / 2 * x.square().flatten(1).sum(dim=1)


def test_the_penalty_is_that_of_an_analytic_discriminator() -> None:
    judge, x = Quadratic(1.5), torch.randn(6, 3, 4, 4)
    penalty = gradient_penalty(judge, x)
    size = x.square().flatten(1).sum(dim=1).mean()
    torch.testing.assert_close(penalty, 1.5**2 * size)
    penalty.backward()
    torch.testing.assert_close(judge.a.grad, 2 * 1.5 * size)


def test_the_deviation_of_a_group_is_appended() -> None:
    x = torch.randn(6, 4, 2, 2)
    found = batch_deviation(x, 3)
    torch.testing.assert_close(found[:, :4], x)
    for first in (0, 3):
        expected = x[first : first + 3].std(dim=0, correction=0).mean()
        torch.testing.assert_close(
            found[first : first + 3, 4], expected.expand(3, 2, 2), rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ValueError, match="compared must divide the batch of 6 images, got 4"):
        batch_deviation(x, 4)


def module(**changes: Any) -> AdversarialTraining:  # noqa: ANN401
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "network": StyleGenerator(channels=[4, 4], width=3, mapping=1),
        "images": torch.arange(10 * 192, dtype=torch.uint8).reshape(10, 3, 8, 8),
        "discriminator": ResidualDiscriminator(channels=[4], compared=4),
        "augmentation": Augmentation(colour=1.0, shift=0.125, cutout=0.5),
        "batch_size": 4,
        "learning_rate": 0.01,
        "penalty": 0.1,
        "penalty_every": 2,
        "ema_decay": 0.9,
        "seed": 0,
    }
    return AdversarialTraining(**{**arguments, **changes})


def fit(folder: Path, steps: int, *, resume: Path | None = None) -> AdversarialTraining:
    trained = module()
    lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1),
            GeneratorSnapshots(folder=folder, every=2, count=4),
        ],
    ).fit(trained, DataLoader(range(100), batch_size=None), ckpt_path=resume, weights_only=True)  # type: ignore[arg-type]
    return trained


def test_batches_follow_the_seed_and_the_step_alone() -> None:
    (real, z, stream), (again, same, repeated) = module().batch(3), module().batch(3)
    assert torch.equal(real, again)
    assert torch.equal(z, same)
    assert torch.equal(torch.rand(3, generator=stream), torch.rand(3, generator=repeated))
    other, different, _ = module(seed=1).batch(3)
    assert not torch.equal(real, other)
    assert not torch.equal(z, different)
    assert real.abs().max() <= 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdversarialTraining, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder, 5), folder


def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
    whole: tuple[AdversarialTraining, Path], tmp_path: Path
) -> None:
    trained, folder = whole
    # a batch is a step, though two optimizers work on it
    resumed = fit(tmp_path, 5, resume=folder / "epoch=0-step=3.ckpt")
    assert trained.global_step == resumed.global_step == 5
    for name, value in trained.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    first = module().state_dict()
    for part in ("network", "discriminator"):
        moved = [not torch.equal(first[k], v) for k, v in trained.state_dict().items() if part in k]
        assert all(moved), part


def test_averaged_weights_follow_those_of_the_generator() -> None:
    stage = module()
    start = next(stage.ema.parameters()).clone()
    for weight in stage.network.parameters():
        weight.data += 1
    stage._average(0)
    torch.testing.assert_close(next(stage.ema.parameters()), start + 0.9)
    stage._average(1000)
    torch.testing.assert_close(next(stage.ema.parameters()), start + 0.9 + 0.1 * 0.1)


def test_snapshots_hold_the_averaged_generator(whole: tuple[AdversarialTraining, Path]) -> None:
    trained, folder = whole
    names = sorted(file.name for file in folder.glob("*_0*"))
    assert names == [
        f"{kind}_{seen:09d}.{suffix}"
        for kind, suffix in (("samples", "png"), ("weights", "safetensors"))
        for seen in (8, 16, 20)
    ]
    weights = load_file(folder / names[-1])
    assert torch.equal(weights["constant"], trained.ema.constant)
    assert not torch.equal(weights["constant"], trained.network.constant)


def test_weights_that_are_no_longer_finite_are_not_kept(tmp_path: Path) -> None:
    diverged = fit(tmp_path, 1)
    next(iter(diverged.discriminator.parameters())).data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"module\.learning_rate must be lower, or .* at step 1"):
        diverged.trainer.save_checkpoint(tmp_path / "later.ckpt")
