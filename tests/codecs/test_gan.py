from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ood_sampler.codecs.gan import PRIOR, Fitting, GanCodec, Generator, prior_codes
from ood_sampler.models.style_generator import StyleGenerator

FITTING = Fitting(steps=30, starts=2, learning_rate=0.1, pixels=1.0, features=0.0)


class Mean(nn.Module):
    """Colours of an image, averaged over its pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class Model:
    digest = "model"
    makers: tuple[type, ...] = ()
    judge = Mean()

    def __init__(self) -> None:
        torch.manual_seed(0)
        made = StyleGenerator(channels=[8, 6], width=4, mapping=1)
        self.generator: Generator = made.requires_grad_(False)


def codec(**changes: object) -> GanCodec:
    fitting = replace(FITTING, **{k: v for k, v in changes.items() if k != "space"})  # type: ignore[arg-type]
    return GanCodec(Model(), changes.get("space", "w"), fitting)  # type: ignore[arg-type]


def images(count: int) -> Tensor:
    return 0.5 * torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def error(made: GanCodec, x_0: Tensor) -> Tensor:
    decoded = made.decode(made.encode(x_0, [500])[500], 500)
    return (decoded - x_0).square().flatten(1).mean(dim=1)


def test_a_generated_image_is_recovered_from_its_own_code() -> None:
    made = codec(steps=150, starts=1)
    w = prior_codes(made.model.generator, 3, seed=5)
    x_0 = made.decode(w, 500)
    spread = x_0.var(dim=0).mean()
    assert float(error(made, x_0).max()) < 1e-3 * float(spread)


def test_more_steps_and_more_codes_bring_images_nearer() -> None:
    x_0 = images(4)
    errors = [error(codec(steps=steps), x_0).mean() for steps in (5, 30)]
    extended = error(codec(space="w_plus"), x_0).mean()
    assert extended < 0.9 * errors[1] < 0.9 * 0.9 * errors[0]


def test_the_start_that_ends_lowest_is_taken() -> None:
    # too slow to move: the end is the start
    made = codec(steps=1, starts=5, learning_rate=1e-12)
    prior = prior_codes(made.model.generator, 4096)
    starts = torch.cat([prior.mean(0, keepdim=True), prior[:4]])
    best = torch.tensor([2, 0, 4, 1])
    x_0 = made.decode(starts, 500)[best]
    torch.testing.assert_close(made.encode(x_0, [500])[500], starts[best])


@pytest.mark.parametrize("space", ["w", "w_plus"])
def test_a_code_does_not_depend_on_the_images_beside_it(space: str) -> None:
    x_0, made = images(3), codec(space=space, features=1.0, starts=1)
    together = made.encode(x_0, [500])[500]
    alone = torch.cat([made.encode(x[None], [500])[500] for x in x_0])
    assert torch.equal(made.encode(x_0, [500])[500], together)
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-3)


def test_features_count_as_much_as_they_are_weighed() -> None:
    x_0 = images(4)

    def apart(made: GanCodec) -> float:
        decoded = made.decode(made.encode(x_0, [500])[500], 500)
        return float((Mean()(decoded) - Mean()(x_0)).square().mean())

    assert apart(codec(features=10.0)) < 0.9 * apart(codec())


def test_the_losses_are_those_of_the_two_errors() -> None:
    made = codec(pixels=2.0, features=3.0)
    x_0, w = images(2), torch.randn(2, 4)
    decoded = made.decode(w, 1)
    expected = 2 * (decoded - x_0).square().mean((1, 2, 3)) + 3 * (
        decoded.mean((2, 3)) - x_0.mean((2, 3))
    ).square().mean(1)
    found = made._losses(w, x_0, Mean()(x_0))
    torch.testing.assert_close(found, expected)


def test_the_prior_is_a_level_of_its_own() -> None:
    made = codec(space="w_plus")
    assert made.last_level == PRIOR
    assert (made.shape(PRIOR), made.shape(500)) == ((4,), (4, 4))
    z = torch.randn(2, 4)
    w = made.model.generator.map(z)
    torch.testing.assert_close(made.decode(z, PRIOR), made.model.generator.synthesize(w))
    assert made.schedule is None


@pytest.mark.parametrize(
    ("space", "starts", "expected"),
    [
        ("w", 1, 3 * 30),
        ("w", 2, 2 * (3 * 30 + 1)),
        ("w_plus", 2, 2 * (3 * 30 + 1) + 3 * 30),
    ],
)
def test_a_step_costs_three_evaluations(space: str, starts: int, expected: int) -> None:
    made = codec(space=space, starts=starts)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    generator = made.model.generator
    whole = generator.synthesize

    def counted(w: Tensor) -> Tensor:
        images = whole(w)
        if images.requires_grad:
            # the backward pass is two more
            images.register_hook(count)
            images.register_hook(count)
        count()
        return images

    generator.synthesize = counted  # type: ignore[method-assign]
    made.encode(images(1), [500])
    assert made.encoding_evaluations([500]) == expected
    assert calls == expected
    assert made.decoding_evaluations(500) == 1


def test_the_rate_rises_and_falls() -> None:
    rates = [FITTING.rate(step) for step in range(30)]
    assert rates[0] == pytest.approx(0.1 / 1.5)
    assert rates[1:16] == pytest.approx([0.1] * 15)
    assert rates[20] == pytest.approx(0.1 * 0.75)
    assert rates[25] == pytest.approx(0.1 * 0.25)
    assert rates[-1] < 0.002


def test_what_determines_codes_is_in_the_identity() -> None:
    variants = [codec(), codec(space="w_plus"), codec(steps=31), codec(features=0.5)]
    assert len({str(each.identity) for each in variants}) == 4
    assert set(codec(features=0.5).networks) == {"generator", "judge"}
    assert set(codec().networks) == {"generator"}


def test_settings_that_a_gan_cannot_have_are_refused() -> None:
    codec().check([500])
    with pytest.raises(ValueError, match=r"inversion\.step must be above 0 for a GAN"):
        codec().check([0])
    with pytest.raises(ValueError, match=r"decode\.eta must be 0 for a GAN.*got 0\.5"):
        codec().check([500], eta=0.5)
    with pytest.raises(ValueError, match=r"model\.space must be w or w_plus, got z"):
        codec(space="z")
    with pytest.raises(ValueError, match=r"model\.steps must be >= 1, got 0"):
        codec(steps=0)
    with pytest.raises(ValueError, match=r"model\.learning_rate must be above 0, got 0"):
        codec(learning_rate=0.0)
    with pytest.raises(ValueError, match=r"model\.pixels or model\.features must be above 0"):
        codec(pixels=0.0)
