import pytest
import torch
from torch import Tensor

from ood_sampler.models.style_generator import (
    EqualizedLinear,
    ModulatedConvolution,
    StyleGenerator,
)


def generator() -> StyleGenerator:
    torch.manual_seed(0)
    return StyleGenerator(channels=[6, 4], width=5, mapping=2).requires_grad_(False)


def convolved(layer: ModulatedConvolution, x: Tensor, w: Tensor) -> Tensor:
    """Equations 1 and 3 of Karras et al., 2020, image by image and weight by weight."""
    outputs = []
    for image, code in zip(x, w, strict=True):
        style = layer.style.weight @ code / code.numel() ** 0.5 + layer.style.bias
        weight = torch.empty_like(layer.weight)
        for o in range(len(weight)):
            kernel = layer.weight[o] * layer.scale * style[:, None, None]
            norm = (kernel**2).sum().add(1e-8).sqrt() if layer.demodulate else 1.0
            weight[o] = kernel / norm
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
        made = torch.zeros(len(weight), *image.shape[1:])
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                patch = padded[:, row : row + 3, column : column + 3]
                made[:, row, column] = (weight * patch).sum((1, 2, 3)) + layer.bias
        outputs.append(made)
    return torch.stack(outputs)


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_scales_its_weights_per_image(demodulate: bool) -> None:
    torch.manual_seed(1)
    layer = ModulatedConvolution(3, 4, width=5, demodulate=demodulate).requires_grad_(False)
    layer.bias.normal_()
    x, w = torch.randn(2, 3, 4, 5), torch.randn(2, 5)
    torch.testing.assert_close(layer(x, w), convolved(layer, x, w), rtol=1e-4, atol=1e-5)


def test_the_rate_of_a_layer_changes_its_steps_but_not_what_it_computes() -> None:
    x = torch.randn(3, 8)
    outputs = []
    for rate in (1.0, 0.01):
        torch.manual_seed(0)
        outputs.append(EqualizedLinear(8, 4, bias=0.5, rate=rate)(x))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


def test_only_the_direction_of_the_latent_counts() -> None:
    z = torch.randn(4, 5)
    torch.testing.assert_close(generator().map(3 * z), generator().map(z))


def test_one_code_is_the_same_code_in_all_layers() -> None:
    made = generator()
    assert (made.resolution, made.layers) == (8, 4)
    w = torch.randn(3, 5)
    images = made.synthesize(w)
    assert images.shape == (3, 3, 8, 8)
    torch.testing.assert_close(made.synthesize(w[:, None].repeat(1, 4, 1)), images)
    torch.testing.assert_close(made(torch.ones(1, 5)), made.synthesize(made.map(torch.ones(1, 5))))


def test_every_layer_has_a_code_that_counts() -> None:
    made, w = generator(), torch.randn(1, 4, 5)
    before = made.synthesize(w)
    for layer in range(made.layers):
        changed = w.clone()
        changed[:, layer] += 1
        assert not torch.allclose(made.synthesize(changed), before), layer


def test_a_generator_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"channels must name at least one number.*channels=\[\]"):
        StyleGenerator(channels=[], width=5, mapping=2)
