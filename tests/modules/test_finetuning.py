from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
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
from ood_sampler.models.frozen import FrozenModel, checksum
from ood_sampler.modules.finetuning import DenoiserFineTuning, FineTuning, Look, Tuned, fine_tune
from ood_sampler.store.files import load_state
from tests.conftest import RESOLUTION, smooth_images

SETTINGS = FineTuning(
    steps=20,
    learning_rate=0.01,
    batch_size=8,
    validate_every=5,
    patience=4,
    validation_share=0.25,
    ema_decay=0.9,
)


class Shift(nn.Module):
    """Predicts a multiple of its input, with as many channels of a learned variance."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3, 1, 1), 0.2))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.scale * x_t, torch.full_like(x_t, 100.0)], 1)


def denoiser() -> EpsilonDenoiser:
    return EpsilonDenoiser(Shift(), Schedule.linear())


def images(count: int = 12) -> Tensor:
    return smooth_images(count, 0).float() / 127.5 - 1


def module(settings: FineTuning = SETTINGS, **changes: Any) -> DenoiserFineTuning:  # noqa: ANN401
    arguments: dict[str, Any] = {
        "denoiser": denoiser(),
        "images": images()[:8],
        "held_out": images()[8:],
        "settings": settings,
        "seed": 0,
    }
    return DenoiserFineTuning(**{**arguments, **changes})


def tune(
    folder: Path,
    trainer: Callable[..., Any],
    settings: FineTuning = SETTINGS,
    *,
    model: Denoiser | None = None,
    checkpoint_every: int = 100,
) -> Tuned:
    return fine_tune(
        model or denoiser(),
        images(),
        settings,
        seed=0,
        trainer=trainer,
        folder=folder,
        checkpoint_every=checkpoint_every,
    )


def weights(tuned: Tuned) -> dict[str, Tensor]:
    state = load_state(tuned.weights)
    assert state is not None
    return state


def killed_at(trainer: Callable[..., Any], step: int) -> Callable[..., Any]:
    """A trainer whose process dies at the end of a step."""

    class Kill(lightning.Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *args: object) -> None:
            if trainer.global_step == step:
                raise RuntimeError("killed")

    def made(callbacks: list[lightning.Callback], **settings: Any) -> Any:  # noqa: ANN401
        return trainer(callbacks=[*callbacks, Kill()], **settings)

    return made


def test_the_loss_falls_and_the_frozen_network_stays_as_it_was(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    model = FrozenModel(name="tiny", path=str(model_folder), resolution=RESOLUTION)
    before = checksum(model.denoiser)
    tuned = tune(tmp_path, trainer, model=model.denoiser)
    assert tuned.best.validation < 0.9 * tuned.curve[0].validation
    assert [look.step for look in tuned.curve] == [0, 5, 10, 15, 20]
    assert checksum(model.denoiser) == before
    assert not any(weight.requires_grad for weight in model.denoiser.parameters())
    assert weights(tuned).keys() == model.denoiser.network.state_dict().keys()


def test_the_loss_is_the_plain_noise_error_of_the_image_channels() -> None:
    stage = module()
    x_0, t, eps = stage.batch(0)
    alpha_t, sigma_t = (scale.reshape(-1, 1, 1, 1) for scale in stage.schedule(t))
    # a multiple of 0.2 of x_t is predicted; the other channels do not count
    expected = (0.2 * (alpha_t * x_0 + sigma_t * eps) - eps).square().mean()
    stage.log = lambda *a, **k: None  # type: ignore[assignment, method-assign]
    assert float(stage.training_step(None, 0).detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", [EpsilonDenoiser, VelocityDenoiser, SampleDenoiser])
def test_the_loss_is_the_error_of_what_the_network_predicts(kind: type[NetworkDenoiser]) -> None:
    stage = module(denoiser=kind(Shift(), Schedule.linear()))
    x_0, t, eps = stage.batch(0)
    alpha_t, sigma_t = (scale.reshape(-1, 1, 1, 1) for scale in stage.schedule(t))
    x_t = alpha_t * x_0 + sigma_t * eps
    targets = {EpsilonDenoiser: eps, VelocityDenoiser: alpha_t * eps - sigma_t * x_0}
    expected = (0.2 * x_t - targets.get(kind, x_0)).square().flatten(1).mean(1)
    errors = stage.error(stage.network, x_0, t, eps).detach().double()
    assert torch.allclose(errors, expected.double(), rtol=1e-5)


def test_the_noisy_end_counts_as_much_for_a_velocity_as_for_the_noise() -> None:
    # alpha is 0.006 there, and its square would leave nothing of the error
    stage = module(denoiser=VelocityDenoiser(Shift(), Schedule.linear()))
    x_0, t = images()[:2], torch.tensor([999, 999])
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    errors = stage.error(stage.network, x_0, t, eps).detach()
    # there v is -x_0 and x_t the noise
    expected = (0.2 * eps + x_0).square().flatten(1).mean(1)
    assert torch.allclose(errors, expected, rtol=0.05)


def test_a_model_without_a_network_is_judged_by_its_noise() -> None:
    exact = GaussianDenoiser(torch.zeros(3, 1, 1), 0.0, Schedule.linear())
    stage = module()
    x_0, t, eps = stage.batch(0)
    errors = stage.error(exact, torch.zeros_like(x_0), t, eps)
    assert float(errors.max()) < 1e-9


@pytest.mark.parametrize("batch_size", [6, 7])
def test_steps_are_antithetic(batch_size: int) -> None:
    _, t, _ = module(replace(SETTINGS, batch_size=batch_size)).batch(3)
    assert len(t) == batch_size
    first, second = t[: -(-batch_size // 2)], t[-(-batch_size // 2) :]
    assert torch.equal(second, 999 - first[: len(second)])
    assert len(first.unique()) == len(first)


def test_batches_and_held_out_noise_follow_the_seed_alone() -> None:
    for a, b, c in zip(module().batch(3), module().batch(3), module(seed=1).batch(3), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert module().validation_loss() == module().validation_loss()
    assert module().validation_loss() != module(seed=1).validation_loss()
    torch.manual_seed(5)
    assert module(seed=2**62).batch(0)[1].equal(module(seed=2**62).batch(0)[1])


def test_the_held_out_loss_is_independent_of_the_batch_and_of_other_pictures() -> None:
    losses = [module(replace(SETTINGS, batch_size=n)).validation_loss() for n in (2, 8, 64)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    # the mean over images, each with its own noise
    both = module(held_out=images()[8:10]).validation_loss()
    first = module(held_out=images()[8:9]).validation_loss()
    other = module(held_out=images()[[0, 9]]).validation_loss()
    alone = module(held_out=images()[:1]).validation_loss()
    assert 2 * both - first == pytest.approx(2 * other - alone, rel=1e-6)


def test_the_held_out_loss_is_that_of_the_averaged_weights() -> None:
    stage = module()
    before = stage.validation_loss()
    stage.network.network.scale.data.fill_(3.0)  # type: ignore[union-attr, operator]
    assert stage.validation_loss() == before
    stage.ema.network.scale.data.fill_(3.0)  # type: ignore[union-attr, operator]
    assert stage.validation_loss() > 2 * before


def test_a_training_that_grows_worse_stops_and_keeps_the_best(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    # Adam moves by its rate: 1 a step overshoots the best scale at once
    settings = replace(SETTINGS, learning_rate=1.0, patience=2, steps=100, validate_every=1)
    tuned = tune(tmp_path, trainer, settings)
    best = tuned.best
    assert tuned.curve[-1].step == best.step + 2 < 100
    assert all(look.validation > best.validation for look in tuned.curve if look != best)
    kept = denoiser()
    kept.network.load_state_dict(weights(tuned))  # type: ignore[union-attr]
    train, held_out = settings.split(12, seed=0)
    again = module(settings, denoiser=kept, images=images()[train], held_out=images()[held_out])
    assert again.validation_loss() == best.validation
    assert not (tmp_path / "resume.ckpt").exists()


def test_the_curve_holds_the_mean_of_the_training_losses(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    # a rate too small to change the weights in float32
    settings = replace(SETTINGS, learning_rate=1e-12, steps=7, patience=9)
    tuned = tune(tmp_path, trainer, settings)
    train, _ = settings.split(12, seed=0)
    stage = module(settings, images=images()[train])
    losses = [float(stage.error(stage.network, *stage.batch(k)).mean().detach()) for k in range(7)]
    assert tuned.curve[0].training is None
    assert tuned.curve[1].training == pytest.approx(sum(losses[:5]) / 5, rel=1e-6)
    assert tuned.curve[2].step == 7
    assert tuned.curve[2].training == pytest.approx(sum(losses[5:]) / 2, rel=1e-6)


@pytest.mark.parametrize("step", [7, 14])
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    step: int, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    whole = tune(tmp_path / "whole", trainer)
    folder = tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        tune(folder, killed_at(trainer, step), checkpoint_every=3)
    assert [file.name for file in folder.glob("*.ckpt")] == ["resume.ckpt"]
    resumed = tune(folder, trainer, checkpoint_every=3)
    assert resumed.curve == whole.curve
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value)
    assert not torch.equal(weights(whole)["scale"], denoiser().network.scale)  # type: ignore[union-attr, arg-type]


def test_a_training_killed_after_it_had_stopped_keeps_its_best(
    trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, learning_rate=1.0, patience=2, steps=100, validate_every=1)
    whole = tune(tmp_path / "whole", trainer, settings)
    with monkeypatch.context() as patched:
        patched.setattr("ood_sampler.modules.finetuning.save_json", None)
        with pytest.raises(TypeError):
            tune(tmp_path / "killed", trainer, settings, checkpoint_every=1)
    resumed = tune(tmp_path / "killed", trainer, settings)
    assert resumed.curve == whole.curve
    assert torch.equal(weights(resumed)["scale"], weights(whole)["scale"])


def test_a_damaged_checkpoint_starts_again(trainer: Callable[..., Any], tmp_path: Path) -> None:
    whole = tune(tmp_path / "whole", trainer)
    (tmp_path / "resume.ckpt").write_bytes(b"PK\x03\x04 not whole")
    assert tune(tmp_path, trainer).curve == whole.curve


def test_a_finished_training_is_not_repeated(trainer: Callable[..., Any], tmp_path: Path) -> None:
    first = tune(tmp_path, trainer)
    assert tune(tmp_path, None) == first  # type: ignore[arg-type]
    first.weights.write_bytes(first.weights.read_bytes()[:-1])
    assert weights(tune(tmp_path, trainer)) is not None


def test_a_loss_that_is_not_finite_is_told(trainer: Callable[..., Any], tmp_path: Path) -> None:
    settings = replace(SETTINGS, learning_rate=1e30, validate_every=1)
    with pytest.raises(ValueError, match=r"learning_rate must be lower: .* got 1e"):
        tune(tmp_path, trainer, settings)


def test_patience_counts_looks_since_the_lowest_loss() -> None:
    def over(*losses: float) -> bool:
        curve = [Look(step, None, loss) for step, loss in enumerate(losses)]
        return replace(SETTINGS, patience=2).is_over(curve)

    assert not over(3.0)
    assert not over(3.0, 4.0)
    assert over(3.0, 4.0, 3.5)
    assert not over(3.0, 4.0, 3.5, 2.0, 2.5)


def test_the_split_follows_the_seed_and_leaves_nothing_out() -> None:
    train, held_out = SETTINGS.split(12, seed=3)
    assert (len(train), len(held_out)) == (9, 3)
    assert sorted(train + held_out) == list(range(12))
    assert SETTINGS.split(12, seed=3) == (train, held_out)
    assert SETTINGS.split(12, seed=4) != (train, held_out)
    assert len(replace(SETTINGS, validation_share=0.01).split(12, seed=0)[1]) == 1


def test_a_part_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"validation_share=0\.99 must leave an image"):
        replace(SETTINGS, validation_share=0.99).split(12, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"validate_every": 0}, "validate_every must be >= 1"),
        ({"patience": 0}, "patience must be >= 1"),
        ({"batch_size": 1}, "batch_size must be >= 2"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"validation_share": 1.0}, "validation_share must be in"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)
