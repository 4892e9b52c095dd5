from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA, FeatureExtractorDinoV2

from ood_sampler.config import CONF
from ood_sampler.metrics.dinov2 import VARIANTS, Dinov2Features
from ood_sampler.metrics.features import quantise

WIDTH, DEPTH, HEADS = 384, 12, 6


def layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the published file of ViT-S/14."""
    block = {"norm1": (WIDTH,), "norm2": (WIDTH,), "attn.qkv": (3 * WIDTH, WIDTH)}
    block |= {"attn.proj": (WIDTH, WIDTH), "mlp.fc1": (4 * WIDTH, WIDTH)}
    block |= {"mlp.fc2": (WIDTH, 4 * WIDTH)}
    layers = {"patch_embed.proj": (WIDTH, 3, 14, 14), "norm": (WIDTH,)}
    layers |= {f"blocks.{i}.{name}": shape for i in range(DEPTH) for name, shape in block.items()}
    names = {f"{name}.weight": shape for name, shape in layers.items()}
    names |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    names |= {f"blocks.{i}.ls{j}.gamma": (WIDTH,) for i in range(DEPTH) for j in (1, 2)}
    tokens = {"cls_token": (1, 1, WIDTH), "mask_token": (1, WIDTH)}
    return {**names, **tokens, "pos_embed": (1, 1 + 37 * 37, WIDTH)}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            return 1 + 0.2 * values
        return 0.3 * values if "token" in name or "pos" in name else 0.05 * values

    return {name: draw(name, shape) for name, shape in layout().items()}


@pytest.fixture(scope="module")
def stand_in(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "dinov2_vits14_pretrain.pth"
    torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def extractor(stand_in: Path) -> Dinov2Features:
    return Dinov2Features(variant="vit-s-14", weights=stand_in)


def smooth(count: int, size: int) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return functional.interpolate(coarse, (size, size), mode="bilinear")


def cubic(x: Tensor) -> Tensor:
    """The kernel of cubic convolution with a = -3/4."""
    x, a = x.abs(), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0))


def positions(stored: Tensor) -> Tensor:
    """Positions of 16x16 patches from those of 37x37, (256, width)."""
    at = (torch.arange(16.0, dtype=torch.float64) + 0.5) * 37 / 16.1 - 0.5
    matrix = torch.zeros(16, 37, dtype=torch.float64)
    for row, centre in enumerate(at):
        for tap in range(int(centre.floor()) - 1, int(centre.floor()) + 3):
            matrix[row, min(max(tap, 0), 36)] += cubic(centre - tap)
    grid = stored.double().reshape(37, 37, -1)
    return torch.einsum("ia,jb,abc->ijc", matrix, matrix, grid).reshape(256, -1).float()


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def by_formula(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Class token of normalised images, (B, 3, 224, 224)."""

    def weights(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        weight, bias = weights(name)
        return x @ weight.T + bias

    patches = pixels.unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5)
    weight, bias = weights("patch_embed.proj")
    embedded = patches.reshape(len(pixels), 256, -1) @ weight.reshape(WIDTH, -1).T + bias
    embedded = embedded + positions(state["pos_embed"][0, 1:])
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(pixels), 1, WIDTH)
    x = torch.cat([first, embedded], dim=1)
    for i in range(DEPTH):
        qkv = linear(norm(x, *weights(f"blocks.{i}.norm1")), f"blocks.{i}.attn.qkv")
        heads = []
        for query, key, value in zip(*(part.split(64, 2) for part in qkv.chunk(3, 2)), strict=True):
            heads.append((query @ key.transpose(1, 2) / 8).softmax(2) @ value)
        assert len(heads) == HEADS
        mixed = linear(torch.cat(heads, dim=2), f"blocks.{i}.attn.proj")
        x = x + state[f"blocks.{i}.ls1.gamma"] * mixed
        hidden = linear(norm(x, *weights(f"blocks.{i}.norm2")), f"blocks.{i}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + state[f"blocks.{i}.ls2.gamma"] * linear(hidden, f"blocks.{i}.mlp.fc2")
    return norm(x[:, 0], *weights("norm"))


def test_features_follow_the_formula_of_the_network(
    extractor: Dinov2Features, state: dict[str, Tensor]
) -> None:
    images = smooth(2, 224)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    expected = by_formula(state, (quantise(images) / 255 - mean) / deviation)
    found = extractor(images)
    assert found.shape == (2, extractor.width) == (2, 384)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    # what the comparison can see: images that differ
    assert (found[0] - found[1]).abs().max() > 0.1


def test_agrees_with_torch_fidelity(
    extractor: Dinov2Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(repository: str, model: str) -> torch.nn.Module:
        assert (repository, model) == ("facebookresearch/dinov2", VARIANTS["vit-s-14"].model)
        return extractor.network

    monkeypatch.setenv("XFORMERS_DISABLED", "1")  # which it sets; undone after the test
    monkeypatch.setattr(torch.hub, "load", load)
    other = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    images = smooth(2, 224)
    torch.testing.assert_close(extractor(images), other(quantise(images))[0], rtol=1e-4, atol=1e-4)
    assert {f"dinov2-{name}": v.model for name, v in VARIANTS.items()}.items() <= (
        MODEL_METADATA.items()
    )


def test_other_sizes_enter_as_pillow_resizes_them(extractor: Dinov2Features) -> None:
    from torchvision.transforms.functional import InterpolationMode, resize

    images = smooth(2, 32)
    mode = InterpolationMode.BICUBIC
    enlarged = resize(quantise(images).float(), [224, 224], interpolation=mode, antialias=True)
    pixels = (enlarged.clamp(0, 255) - extractor.mean) / extractor.deviation
    torch.testing.assert_close(extractor(images), extractor.network(pixels), rtol=1e-4, atol=1e-4)


def test_features_do_not_depend_on_the_batch(extractor: Dinov2Features) -> None:
    images = smooth(3, 32)
    alone = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(extractor(images), alone, atol=1e-4, rtol=0)


def test_it_is_frozen_and_holds_all_weights(
    extractor: Dinov2Features, state: dict[str, Tensor]
) -> None:
    assert not extractor.train().training
    assert not any(weight.requires_grad for weight in extractor.parameters())
    stored = {name.removeprefix("network."): w for name, w in extractor.state_dict().items()}
    torch.testing.assert_close(stored, state, rtol=0, atol=0)


def test_the_variant_is_part_of_the_space(extractor: Dinov2Features) -> None:
    assert extractor.name == "dinov2-vit-s-14"
    assert extractor.protocol.startswith("dinov2-vit-s-14: class token (384) ")


def test_every_variant_has_its_address_and_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for variant, letter in (("vit-s-14", "s"), ("vit-b-14", "b"), ("vit-l-14", "l")):
        file = f"dinov2_vit{letter}14_pretrain.pth"
        with pytest.raises(FileNotFoundError) as caught:
            Dinov2Features(variant=variant)
        assert str(tmp_path / "checkpoints" / file) in str(caught.value)
        assert f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{letter}14/{file}" in str(
            caught.value
        )
    with pytest.raises(ValueError, match="one of vit-s-14, vit-b-14, vit-l-14, got vit-g-14"):
        Dinov2Features(variant="vit-g-14")


def test_weights_of_another_variant_are_refused(stand_in: Path) -> None:
    with pytest.raises(ValueError, match=r"weights of dinov2_vitb14 .*spaces\.dinov2\.variant"):
        Dinov2Features(variant="vit-b-14", weights=stand_in)


def test_the_configuration_builds_it(stand_in: Path) -> None:
    config = OmegaConf.load(CONF / "metrics" / "imagenet.yaml").spaces.dinov2
    build = instantiate(config)
    assert config.variant == "vit-l-14"
    built = build(variant="vit-s-14", weights=str(stand_in))
    assert isinstance(built, Dinov2Features)
