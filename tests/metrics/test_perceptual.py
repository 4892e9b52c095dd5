from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import lpips as torchmetrics_lpips

from ood_sampler.metrics import perceptual
from ood_sampler.metrics.perceptual import IntraLpips, LpipsEmbedding, as_images
from ood_sampler.statistics.intervals import mean_interval

CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights in the layout of torchvision's VGG-16, without most of its classifier."""
    generator = torch.Generator().manual_seed(0)
    weights, before = {"classifier.6.bias": torch.zeros(1000)}, 3
    for index, channels in zip(INDICES, CHANNELS, strict=True):
        shape = (channels, before, 3, 3)
        deviation = (2 / (9 * before)) ** 0.5
        weights[f"features.{index}.weight"] = torch.randn(shape, generator=generator) * deviation
        weights[f"features.{index}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        before = channels
    return weights


@pytest.fixture(scope="module")
def stand_in(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "vgg16-397923af.pth"
    torch.save(state, file)
    return file


@pytest.fixture(autouse=True)
def _any_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "_SHA256", "")


@pytest.fixture
def metric(stand_in: Path) -> IntraLpips:
    return IntraLpips(weights=stand_in)


@pytest.fixture
def lpips(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The LPIPS of torchmetrics on the same backbone."""
    network = torchmetrics_lpips._LPIPS(net="vgg", pnet_rand=True)
    slices = [getattr(network.net, f"slice{i}") for i in range(1, 6)]
    layers = {name: layer for part in slices for name, layer in part.named_children()}
    for index in INDICES:
        layers[str(index)].weight.data = state[f"features.{index}.weight"]
        layers[str(index)].bias.data = state[f"features.{index}.bias"]
    return network.eval()


def smooth(count: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    return functional.interpolate(coarse, (size, size), mode="bilinear")


def near(pictures: Tensor, copies: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = pictures.repeat_interleave(copies, 0)
    return (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def test_squared_distances_are_the_lpips_of_torchmetrics(
    metric: IntraLpips, lpips: torch.nn.Module
) -> None:
    first, second = smooth(4, 64), smooth(4, 64, seed=1)
    with torch.no_grad():
        expected = lpips(first, second).flatten()
    found = (metric.embedding(first) - metric.embedding(second)).square().sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert expected.min() > 1e-3


def test_small_images_are_enlarged(metric: IntraLpips) -> None:
    # an edge, which the enlarging overshoots
    edge = torch.ones(1, 3, 32, 32)
    edge[..., 16:] = -1
    for images in (smooth(2, 32), edge):
        larger = functional.interpolate(images, (64, 64), mode="bicubic", antialias=True)
        embedded = metric.embedding(images)
        torch.testing.assert_close(
            embedded, metric.embedding(larger.clamp(-1, 1)), rtol=1e-4, atol=1e-6
        )
    assert (embedded - metric.embedding(larger)).abs().max() > 1e-4


def test_is_the_mean_over_clusters_of_the_mean_over_pairs(
    metric: IntraLpips, lpips: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "_BATCH", 2)
    monkeypatch.setattr(perceptual, "_REFERENCES", 2)
    pictures = smooth(4, 64)
    # three, four, one and no images about the images
    images = near(pictures, 4)[[0, 1, 2, 4, 5, 6, 7, 8]]
    order = torch.tensor([7, 3, 0, 4, 1, 5, 2, 6])
    with torch.no_grad():
        to = torch.stack([lpips(images, picture[None]).flatten() for picture in pictures], dim=1)
        assert to.argmin(1).tolist() == [0, 0, 0, 1, 1, 1, 1, 2]
        clusters = [
            torch.stack([lpips(a[None], b[None]).flatten()[0] for a, b in combinations(c, 2)])
            for c in (images[:3], images[3:7])
        ]
    for batch in images[order].flatten(1).split(3):
        metric.update(new=batch)
    metric.update(few_shot=pictures.flatten(1), held_out=torch.zeros(1, 5))
    figures = metric.compute()
    means = torch.stack([cluster.mean() for cluster in clusters])
    interval = mean_interval(means)
    assert figures["intra_lpips_clusters"] == 2
    assert figures["intra_lpips"] == pytest.approx(float(means.mean()), rel=1e-4)
    assert figures["intra_lpips_low"] == pytest.approx(interval.low, rel=1e-4)
    assert figures["intra_lpips_high"] == pytest.approx(interval.high, rel=1e-4)
    assert interval.low < interval.value < interval.high


def test_copies_strangers_and_repeated_pictures(metric: IntraLpips) -> None:
    pictures = smooth(3, 64).flatten(1)
    copies = metric.figures(new=pictures[:1].repeat(5, 1), few_shot=pictures)
    assert copies == {
        "intra_lpips_clusters": 1.0,
        "intra_lpips": pytest.approx(0, abs=1e-6),
    }
    alone = metric.figures(new=pictures, few_shot=pictures)
    assert alone == {"intra_lpips_clusters": 0.0}
    images = near(smooth(3, 64), 3).flatten(1)
    once = metric.figures(new=images, few_shot=pictures)
    repeated = torch.cat([pictures * (1 - 1e-6 * k) for k in range(4)])
    again = metric.figures(new=images, few_shot=repeated)
    assert once["intra_lpips_clusters"] == 3
    assert again == once


def test_flat_images_keep_their_channels() -> None:
    images = smooth(2, 5)
    assert as_images(images.flatten(1)).equal(images)
    for values in (3 * 6, 25, 3 * 25 + 1):
        with pytest.raises(ValueError, match=f"square and have three channels.* got {values}"):
            as_images(torch.zeros(2, values))


def test_it_is_frozen(metric: IntraLpips) -> None:
    assert not any(layer.training for layer in metric.train().embedding.modules())
    assert not any(weight.requires_grad for weight in metric.embedding.parameters())


def test_missing_and_other_weights_are_named(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        IntraLpips(weights=tmp_path)
    assert str(tmp_path / "vgg16-397923af.pth") in str(caught.value)
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(caught.value)
    file = tmp_path / "vgg16-397923af.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(ValueError, match=r"vgg16-397923af\.pth must hold the weights of VGG-16"):
        LpipsEmbedding(weights=file, download=False)
    monkeypatch.setattr(perceptual, "_SHA256", "397923af")
    with pytest.raises(ValueError, match="SHA-256 that begins with 397923af, got"):
        LpipsEmbedding(weights=stand_in, download=False)


def test_its_address_is_that_of_torchvision() -> None:
    from torchvision.models import VGG16_Weights

    assert VGG16_Weights.IMAGENET1K_V1.url == perceptual._ADDRESS
