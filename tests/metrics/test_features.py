import hashlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.metrics import features as module
from ood_sampler.metrics.features import (
    EMBEDDED,
    INCEPTION_FILE,
    EmbeddedFeatures,
    FeatureExtractor,
    FeatureNetwork,
    InceptionFeatures,
    in_domain_features,
    quantise,
    read_reference,
)

# The stand-in for clean-fid's network must be made with what torch has deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.(script|save)` is deprecated")


@pytest.fixture(scope="module")
def embedded() -> EmbeddedFeatures:
    return EmbeddedFeatures()


def random_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Return smooth images: noise of 8x8 blown up, so that resizing keeps something."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 8, 8), generator=generator) * 2 - 1
    return functional.interpolate(coarse, (size, size), mode="bilinear")


def resize_with_pillow(image: Tensor, size: int) -> Tensor:
    channels = [
        Image.fromarray(c.numpy()).resize((size, size), Image.Resampling.BICUBIC) for c in image
    ]
    return torch.from_numpy(np.stack([np.asarray(c) for c in channels]))


def features_by_formula(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    maps = gelu(functional.conv2d(images, weights["stem.0.weight"], weights["stem.0.bias"]))
    for i in range(6):
        maps = functional.conv2d(maps, weights[f"blocks.{i}.0.weight"], padding=1)
        if i % 2 == 0:
            maps = functional.max_pool2d(maps, 2)
        mean, variance, scale, shift = (
            weights[f"blocks.{i}.2.{name}"].view(1, -1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        maps = gelu((maps - mean) / (variance + 1e-5).sqrt() * scale + shift)
    assert maps.shape[2:] == (3, 3)
    return maps.flatten(2).max(2).values


def test_embedded_features_follow_the_formula_of_the_network(embedded: EmbeddedFeatures) -> None:
    images = random_images(4, 32)
    weights = embedded.network.state_dict()
    views = [features_by_formula(weights, view) for view in (images, images.flip(3))]
    mean = torch.stack(views).mean(0)
    expected = mean / mean.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(embedded(images), expected, rtol=1e-4, atol=1e-4)


def test_embedded_features_do_not_tell_left_from_right(embedded: EmbeddedFeatures) -> None:
    images = random_images(3, 32)
    torch.testing.assert_close(embedded(images), embedded(images.flip(3)), rtol=1e-6, atol=1e-6)


def test_embedded_features_have_the_stated_width_and_type(embedded: EmbeddedFeatures) -> None:
    features = embedded(random_images(2, 32).double())
    assert features.shape == (2, embedded.width) == (2, 256)
    assert features.dtype == torch.float32


def test_embedded_features_ignore_the_batch_split(embedded: EmbeddedFeatures) -> None:
    images = random_images(7, 32)
    parts = torch.cat([embedded(part) for part in torch.split(images, [1, 4, 2])])
    torch.testing.assert_close(parts, embedded(images), rtol=1e-5, atol=1e-5)


def test_embedded_features_stay_in_float32_under_autocast(embedded: EmbeddedFeatures) -> None:
    images = random_images(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = embedded(images)
    assert torch.equal(under_autocast, embedded(images))


@pytest.mark.parametrize("size", [16, 64, 97])
def test_other_sizes_enter_as_pillow_resizes_them(embedded: EmbeddedFeatures, size: int) -> None:
    images = random_images(3, size, seed=size)
    resized = torch.stack([resize_with_pillow(image, 32) for image in images]).clamp(-1, 1)
    torch.testing.assert_close(embedded(images), embedded(resized), rtol=1e-3, atol=1e-3)


def test_resized_images_do_not_leave_the_range(embedded: EmbeddedFeatures) -> None:
    edge = torch.ones(1, 3, 64, 64)
    edge[..., 31:] = -1
    resized = resize_with_pillow(edge[0], 32)[None]
    assert resized.abs().max() > 1.01
    torch.testing.assert_close(embedded(edge), embedded(resized.clamp(-1, 1)), rtol=1e-3, atol=1e-3)


def test_embedded_network_is_frozen() -> None:
    extractor = EmbeddedFeatures()
    before = extractor.digest
    extractor.train()
    assert not any(layer.training for layer in extractor.modules())
    assert not any(weight.requires_grad for weight in extractor.parameters())
    extractor(random_images(3, 32))
    assert extractor.digest == before
    assert extractor(random_images(1, 32).requires_grad_()).requires_grad is False


def test_embedded_network_is_small() -> None:
    assert sum(weight.numel() for weight in FeatureNetwork().parameters()) < 2_200_000
    assert (EMBEDDED / "features32.safetensors").stat().st_size < 5e6


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32)])
def test_wrong_shapes_are_named(embedded: EmbeddedFeatures, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, H, W\), got "):
        embedded(torch.zeros(shape))


class LinearFeatures(FeatureExtractor):
    name = "linear"

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.second = nn.Parameter(torch.tensor([3.0, 4.0]))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_digest_is_that_of_the_weights() -> None:
    extractor = LinearFeatures()
    content = b"".join(
        f"{name} torch.float32 (2,)\n".encode() + np.array(values, "<f4").tobytes()
        for name, values in (("first", [1, 2]), ("second", [3, 4]))
    )
    assert extractor.digest == hashlib.sha256(content).hexdigest()


def test_references_of_other_weights_are_refused(tmp_path: Path) -> None:
    extractor, file = LinearFeatures(), tmp_path / "features.safetensors"
    features = torch.arange(6.0).reshape(2, 3)
    for metadata in ({"digest": extractor.digest}, None):
        save_file({"features": features}, file, metadata)
        torch.testing.assert_close(read_reference(file, extractor), features)
    save_file({"features": features}, file, {"digest": "of before"})
    with pytest.raises(ValueError, match="features of other weights of"):
        read_reference(file, extractor)
    save_file({"other": features}, file)
    with pytest.raises(ValueError, match="is damaged"):
        read_reference(file, extractor)
    file.write_bytes(b"half")
    with pytest.raises(ValueError, match="is damaged"):
        read_reference(file, extractor)


def test_digest_changes_with_a_weight_its_name_and_its_shape() -> None:
    digests = {LinearFeatures().digest}
    changed = LinearFeatures()
    changed.second.data[1] += 1e-6
    digests.add(changed.digest)
    swapped = LinearFeatures()
    swapped.first, swapped.second = swapped.second, swapped.first
    digests.add(swapped.digest)
    reshaped = LinearFeatures()
    reshaped.first.data = reshaped.first.data.view(2, 1)
    digests.add(reshaped.digest)
    assert len(digests) == 4


@pytest.mark.parametrize("domain", ["dog", "ship"])
def test_stored_features_belong_to_the_stored_weights(
    embedded: EmbeddedFeatures, domain: str
) -> None:
    with safe_open(EMBEDDED / f"{domain}_test_features.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["digest"] == embedded.digest
    assert metadata["protocol"] == embedded.protocol


@pytest.mark.parametrize("domain", ["dog", "ship"])
def test_stored_features_are_far_from_noise(embedded: EmbeddedFeatures, domain: str) -> None:
    real = in_domain_features(domain)
    assert real.shape == (1000, 256)
    assert real.dtype == torch.float32
    assert real.isfinite().all()
    noise = embedded(
        torch.rand((200, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    # Along the line between the two means the sets must not overlap: five standard deviations.
    direction = real.mean(0) - noise.mean(0)
    on_real, on_noise = real @ direction, noise @ direction
    assert on_real.mean() - on_noise.mean() > 5 * max(on_real.std(), on_noise.std())


@pytest.mark.parametrize(("domain", "label"), [("dog", 5), ("ship", 7)])
def test_stored_features_are_classified_as_their_class(
    embedded: EmbeddedFeatures, domain: str, label: int
) -> None:
    # airplane, automobile, bird, cat, deer, dog, horse, ship
    predicted = embedded.network.head(in_domain_features(domain)).argmax(1)
    assert (predicted == label).float().mean() > 0.85


class TopLayers(nn.Module):
    """Return the mean of the upper 100 rows of each channel, so that a transpose shows."""

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.pad(pixels[:, :, :100].mean((2, 3)), (0, 2045))


class FakeInception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = TopLayers()

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(pixels)
        return features


@pytest.fixture
def fake_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / INCEPTION_FILE
    torch.jit.save(torch.jit.script(FakeInception()), str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "INCEPTION_SHA256", digest)
    return path


def test_quantise_rounds_to_the_nearest_level_and_clips() -> None:
    levels = torch.arange(256)
    assert torch.equal(quantise(levels / 127.5 - 1), levels.to(torch.uint8))
    assert torch.equal(quantise((levels + 0.4) / 127.5 - 1), levels.to(torch.uint8))
    assert quantise(torch.tensor([-1.2, 1.2])).tolist() == [0, 255]


def test_inception_sees_what_clean_fid_resizes(fake_weights: Path) -> None:
    extractor = InceptionFeatures(weights=fake_weights)
    images = random_images(3, 41)
    levels = quantise(images)
    resized = torch.stack([resize_with_pillow(image.float(), 299) for image in levels])
    expected = ((resized.clamp(0, 255) - 128) / 128)[:, :, :100].mean((2, 3))
    features = extractor(images)
    assert features.shape == (3, extractor.width) == (3, 2048)
    torch.testing.assert_close(features[:, :3], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(extractor(images[1:2]), features[1:2], rtol=1e-5, atol=1e-5)


def test_inception_is_found_in_a_folder_and_frozen(fake_weights: Path) -> None:
    extractor = InceptionFeatures(weights=str(fake_weights.parent)).train()
    assert not any(layer.training for layer in extractor.modules())
    assert not any(weight.requires_grad for weight in extractor.parameters())


def test_missing_inception_names_file_source_and_key(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        InceptionFeatures(weights=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / INCEPTION_FILE) in message
    assert "https://" in message
    assert "metrics.spaces.inception.weights=" in message
    assert "metrics.spaces.inception.download=true" in message


def test_inception_is_looked_for_beside_the_other_checkpoints_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        InceptionFeatures()
    assert str(tmp_path / "checkpoints" / INCEPTION_FILE) in str(caught.value)


def test_failed_download_of_inception_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, path: str, *, progress: bool) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(
        FileNotFoundError,
        match=r"download failed .*no route.* set metrics\.spaces",
    ):
        InceptionFeatures(weights=tmp_path, download=True)


def test_download_of_inception_lands_where_it_is_looked_for(
    fake_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(url: str, path: str, *, progress: bool) -> None:
        assert url.endswith(INCEPTION_FILE)
        Path(path).write_bytes(fake_weights.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", copy)
    folder = tmp_path / "new"
    InceptionFeatures(weights=folder, download=True)
    InceptionFeatures(weights=folder / INCEPTION_FILE)


def test_another_file_under_the_name_of_inception_is_not_run(fake_weights: Path) -> None:
    fake_weights.write_bytes(b"print('executed')")
    with pytest.raises(ValueError, match="must have a SHA-256 that begins with"):
        InceptionFeatures(weights=fake_weights)
