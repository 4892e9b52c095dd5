from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.modules.training import DenoiserTraining, multiscale
from ood_sampler.report.training import SamplePictures


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
        "noise_gain": 10.0,
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
            SamplePictures(folder=folder, every=4, count=2, steps=2),
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


def test_pictures_are_mirrored_half_of_the_time() -> None:
    stage = module(batch_size=2000)
    x_0, _, _ = stage.batch(0)
    originals = stage.images.float() / 127.5 - 1
    straight = (x_0[:, None] == originals).flatten(2).all(2).any(1)
    mirrored = (x_0.flip(-1)[:, None] == originals).flatten(2).all(2).any(1)
    assert (straight ^ mirrored).all()
    assert abs(float(mirrored.float().mean()) - 0.5) < 5 * 0.5 / 2000**0.5


def test_the_loss_is_the_weighted_noise_error() -> None:
    stage = module(snr_clip=2.0, noise_gain=3.0)
    x_0, t, eps = stage.batch(0)
    alpha_t, sigma_t = stage.schedule(t)
    snr = alpha_t.square() / sigma_t.square()
    weight = torch.minimum(snr, torch.tensor(2.0)) / snr * (1 / alpha_t).clamp(max=3.0)
    expected = (weight * multiscale(eps.double())).mean()  # the network returns zero
    stage.log = lambda *a, **k: None  # type: ignore[assignment, method-assign]
    loss = stage.training_step(None, 0).detach()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert x_0.abs().max() <= 1


def test_the_multiscale_error_counts_noise_less_and_colour_more_from_scale_to_scale() -> None:
    white = torch.randn(4000, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    values = multiscale(white)
    assert abs(float(values.mean()) - 1.75) < 5 * float(values.std()) / 4000**0.5
    # a constant error of 1 is 1, 2 and 4 at the three scales of 4 x 4 pixels
    assert float(multiscale(torch.ones(1, 3, 4, 4))) == pytest.approx(1 + 2 + 4)
    assert multiscale(torch.ones(2, 3, 3, 5)).tolist() == [1, 1]


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


def test_pictures_are_saved_on_the_way(tmp_path: Path) -> None:
    fit(tmp_path, 8)
    names = sorted(file.name for file in tmp_path.glob("*.png"))
    assert names == ["samples_000000080.png", "samples_000000160.png"]
    with Image.open(tmp_path / names[0]) as picture:
        assert picture.mode == "RGB"
