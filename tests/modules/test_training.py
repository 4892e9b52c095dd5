from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models.process import PREDICTIONS
from ood_sampler.modules.training import DenoiserTraining
from ood_sampler.report.training import Snapshots


class Linear(nn.Module):
    """Predicts a constant image."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3, 4, 4))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.bias.expand_as(x_t)


def module(**changes: Any) -> DenoiserTraining:  # noqa: ANN401
    images = torch.arange(10 * 48, dtype=torch.uint8).reshape(10, 3, 4, 4)
    arguments: dict[str, Any] = {
        "network": Linear(),
        "schedule": Schedule.linear(),
        "images": images,
        "batch_size": 20,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "decay_share": 0.5,
        "ema_decay": 0.9,
        "snr_clip": 5.0,
        "steps_power": 1.0,
        "seed": 0,
    }
    return DenoiserTraining(**{**arguments, **changes})


def fit(folder: Path, steps: int, *, resume: Path | None = None) -> DenoiserTraining:
    trained = module()
    lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(folder, every_n_train_steps=5, save_top_k=-1),
            Snapshots(folder=folder, every=4, count=2, steps=2),
        ],
    ).fit(trained, DataLoader(range(100), batch_size=None), ckpt_path=resume, weights_only=True)  # type: ignore[arg-type]
    return trained


def test_batches_follow_the_seed_and_the_step_alone() -> None:
    first, again, other = module().batch(3), module().batch(3), module(seed=1).batch(3)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_the_steps_of_a_batch_are_spread_over_the_chain() -> None:
    _, t, _ = module().batch(0)
    assert torch.equal(t // 50, torch.arange(20))  # one in each twentieth of 1,000


def test_a_power_draws_less_noisy_steps_more_often() -> None:
    _, t, _ = module(batch_size=10_000, steps_power=2.0).batch(0)
    assert float(t.double().mean()) == pytest.approx(1000 / 3 - 0.5, rel=1e-3)
    assert t.max() == 999


def test_pictures_are_mirrored_half_of_the_time() -> None:
    stage = module(batch_size=2000)
    x_0, _, _ = stage.batch(0)
    originals = stage.images.float() / 127.5 - 1
    straight = (x_0[:, None] == originals).flatten(2).all(2).any(1)
    mirrored = (x_0.flip(-1)[:, None] == originals).flatten(2).all(2).any(1)
    assert (straight ^ mirrored).all()
    assert abs(float(mirrored.float().mean()) - 0.5) < 5 * 0.5 / 2000**0.5


def test_the_loss_is_the_weighted_velocity_error() -> None:
    stage = module(snr_clip=2.0)
    x_0, t, eps = stage.batch(0)
    alpha_t, sigma_t = (scale.view(-1, 1, 1, 1) for scale in stage.schedule(t))
    velocity = alpha_t * eps - sigma_t * x_0
    snr = alpha_t.square() / sigma_t.square()
    expected = (torch.minimum(snr, torch.tensor(2.0)) / snr * velocity.square()).mean()
    stage.log = lambda *a, **k: None  # type: ignore[assignment, method-assign]
    loss = stage.training_step(None, 0).detach()  # the network returns zero
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert x_0.abs().max() <= 1


def test_the_network_learns_what_its_scheduler_says_it_predicts() -> None:
    stage = module()
    x_0, t, eps = stage.batch(0)
    x_t, alpha_t, sigma_t = stage.diffuse(x_0, t, eps)
    exact = PREDICTIONS[stage.prediction_type](
        lambda x, t: (alpha_t * eps - sigma_t * x_0).to(x), stage.schedule
    )
    torch.testing.assert_close(exact.eps(x_t, t), eps, rtol=0, atol=1e-5)


def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    whole = fit(tmp_path / "whole", 10)
    # the rate falls over the last half of all steps: so both must know of ten
    part = tmp_path / "whole" / "epoch=0-step=5.ckpt"
    resumed = fit(tmp_path / "resumed", 10, resume=part)
    assert resumed.global_step == 10
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert not torch.equal(whole.ema.bias, whole.network.bias)  # type: ignore[arg-type]


def test_weights_that_are_no_longer_finite_are_not_kept(tmp_path: Path) -> None:
    diverged = fit(tmp_path, 1)
    next(iter(diverged.network.parameters())).data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"module\.learning_rate must be lower: .* at step 1"):
        diverged.trainer.save_checkpoint(tmp_path / "later.ckpt")
    assert not (tmp_path / "later.ckpt").exists()


def test_pictures_are_saved_on_the_way(tmp_path: Path) -> None:
    fit(tmp_path, 8)
    names = sorted(file.name for file in tmp_path.glob("*.png"))
    assert names == ["samples_000000080.png", "samples_000000160.png"]
    with Image.open(tmp_path / names[0]) as picture:
        assert picture.mode == "RGB"


def test_the_weights_of_a_snapshot_are_the_averaged_ones(tmp_path: Path) -> None:
    trained = fit(tmp_path, 8)
    names = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert names == ["weights_000000080.safetensors", "weights_000000160.safetensors"]
    weights = load_file(tmp_path / names[-1])
    assert torch.equal(weights["bias"], trained.ema.bias)  # type: ignore[arg-type]
