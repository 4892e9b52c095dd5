"""Pipelines as diffusers itself and training scripts leave them: prefixes, variants, shards."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ood_sampler.models.frozen import FrozenModel
from ood_sampler.models.layout import (
    parts_of,
    pipeline_files,
    pipeline_parts,
    read_shards,
)
from ood_sampler.models.pretrained import load_pipeline, load_schedule
from ood_sampler.models.weights import WeightFiles
from tests.models.stand_ins import weights_file

STEM = "diffusion_pytorch_model"
PREFIXES = [
    "_orig_mod.",
    "module.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "unet.",
    "model.module.",
]


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "copy")


def output(folder: Path) -> Tensor:
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    denoiser = load_pipeline(folder)
    assert {weight.dtype for weight in denoiser.parameters()} == {torch.float32}
    return denoiser.eps(x_t, torch.tensor([0, 700]))


def halved(folder: Path) -> Tensor:
    """What the network answers whose weights were rounded to half precision."""
    file = weights_file(folder)
    state = {name: weight.half().float() for name, weight in load_file(file).items()}
    rounded = shutil.copytree(folder, folder.with_name("rounded"))
    save_file(state, rounded / "unet" / file.name, metadata={"format": "pt"})
    return output(rounded)


def rename(folder: Path, change: Callable[[str], str]) -> None:
    file = weights_file(folder)
    state = {change(name): weight for name, weight in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})


def save_as(
    folder: Path,
    *,
    variant: str | None = None,
    shards: bool = False,
    pickle: bool = False,
    half: bool = False,
    network: str = "unet",
) -> None:
    """Save the network once more as diffusers does."""
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    (unet.half() if half else unet).save_pretrained(
        folder / network,
        variant=variant,
        safe_serialization=not pickle,
        max_shard_size="20KB" if shards else "10GB",
    )


def remove_plain(folder: Path) -> None:
    (folder / "unet" / f"{STEM}.safetensors").unlink()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_no_names(prefix: str, copy: Path) -> None:
    expected = output(copy)
    rename(copy, lambda name: prefix + name)
    assert torch.equal(output(copy), expected)


def test_a_wrapper_around_a_part_is_no_name(copy: Path) -> None:
    expected = output(copy)
    rename(copy, lambda name: name.replace("mid_block.", "mid_block._orig_mod."))
    assert torch.equal(output(copy), expected)


def test_two_networks_under_one_name_are_refused(copy: Path) -> None:
    file = weights_file(copy)
    state = load_file(file)
    twice = state | {f"module.{name}": torch.zeros_like(weight) for name, weight in state.items()}
    save_file(twice, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has unexpected module\."):
        load_pipeline(copy)


@pytest.mark.parametrize("pickle", [False, True])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("variant", [None, "fp16", "my-own"])
def test_variants_and_shards_load_in_float32(
    variant: str | None, shards: bool, pickle: bool, copy: Path
) -> None:
    half = variant == "fp16"
    expected = halved(copy) if half else output(copy)
    save_as(copy, variant=variant, shards=shards, pickle=pickle, half=half)
    if variant or pickle:
        remove_plain(copy)
    assert torch.equal(output(copy), expected)
    weights, *others = pipeline_files(copy)
    assert (".index." in weights.name) == shards
    assert len(others) == (2 + len(read_shards(weights)) if shards else 2)
    assert len(others) > 3 or not shards


@pytest.mark.parametrize(
    "name",
    [
        f"{STEM}.safetensors.index.fp16.json",
        f"{STEM}.safetensors.fp16.index.json",
        f"{STEM}.fp16.safetensors.index.json",
    ],
)
def test_the_index_of_a_variant_has_three_names(name: str, copy: Path) -> None:
    expected = output(copy)
    save_as(copy, shards=True)
    remove_plain(copy)
    (copy / "unet" / f"{STEM}.safetensors.index.json").rename(copy / "unet" / name)
    assert torch.equal(output(copy), expected)


def test_plain_weights_come_before_a_variant(copy: Path) -> None:
    expected = output(copy)
    save_as(copy, variant="fp16", half=True)
    assert weights_file(copy).name == f"{STEM}.safetensors"
    assert torch.equal(output(copy), expected)
    remove_plain(copy)
    assert weights_file(copy).name == f"{STEM}.fp16.safetensors"
    assert not torch.equal(output(copy), expected)


def test_several_variants_without_plain_weights_are_refused(copy: Path) -> None:
    save_as(copy, variant="fp16")
    save_as(copy, variant="non_ema")
    remove_plain(copy)
    with pytest.raises(ValueError, match=r"or one variant of it, got fp16, non_ema"):
        load_pipeline(copy)
    with pytest.raises(ValueError, match=r"or one variant of it, got fp16, non_ema"):
        WeightFiles(name="mine", path=str(copy)).obtain()


def test_a_single_file_serves_where_shards_are_not_whole(copy: Path) -> None:
    expected = output(copy)
    save_as(copy, shards=True)
    for file in (copy / "unet").glob(f"{STEM}-*"):
        file.unlink()
    assert torch.equal(output(copy), expected)


def test_averages_come_before_raw_weights(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = output(copy)
    save_as(copy, network="unet_ema")
    rename(copy, lambda name: name)  # the folder of averages is the one that is read
    assert weights_file(copy).parent.name == "unet_ema"
    raw = copy / "unet" / f"{STEM}.safetensors"
    zeros = {name: torch.zeros_like(weight) for name, weight in load_file(raw).items()}
    save_file(zeros, raw, metadata={"format": "pt"})
    with caplog.at_level(logging.INFO):
        assert torch.equal(output(copy), expected)
    assert "averaged weights in unet_ema beside raw ones: the averages are taken" in caplog.text
    shutil.rmtree(copy / "unet")
    assert torch.equal(output(copy), expected)


def test_the_config_of_averages_is_that_of_their_network(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers import UNet2DModel
    from diffusers.training_utils import EMAModel

    expected = output(copy)
    unet = UNet2DModel.from_pretrained(copy / "unet", low_cpu_mem_usage=False)
    averages = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
    averages.save_pretrained(copy / "unet_ema")
    capfd.readouterr()
    assert torch.equal(output(copy), expected)
    assert "optimization_step" in (copy / "unet_ema" / "config.json").read_text()
    assert not capfd.readouterr().err


def shard_names(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "unet").glob(f"{STEM}-*"))


def test_a_missing_shard_is_named(copy: Path) -> None:
    save_as(copy, shards=True)
    remove_plain(copy)
    last = shard_names(copy)[-1]
    (copy / "unet" / last).unlink()
    assert parts_of(copy) is None
    for read in (
        load_pipeline,
        pipeline_files,
        lambda c: WeightFiles(name="m", path=str(c)).obtain(),
    ):
        with pytest.raises(FileNotFoundError, match=rf"{last} is missing: .*index\.json names it"):
            read(copy)


def change_index(folder: Path, content: object) -> None:
    (folder / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("elsewhere", ["../../secret.safetensors", "/etc/passwd", "a/b", "..", ""])
def test_an_index_reads_nothing_elsewhere(elsewhere: str, copy: Path) -> None:
    remove_plain(copy)
    change_index(copy, {"weight_map": {"conv_in.weight": elsewhere}})
    for read in (load_pipeline, lambda c: WeightFiles(name="mine", path=str(c)).obtain()):
        with pytest.raises(ValueError, match=r"index\.json must name files beside it, got"):
            read(copy)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": {"a": 3}}])
def test_a_malformed_index_is_named(content: object, copy: Path) -> None:
    remove_plain(copy)
    change_index(copy, content)
    with pytest.raises(ValueError, match=r"index\.json must map weights to files"):
        load_pipeline(copy)
    change_index(copy, [])
    with pytest.raises(ValueError, match=r"index\.json must hold a JSON object, got list"):
        load_pipeline(copy)


def test_a_weight_in_two_shards_is_refused(copy: Path) -> None:
    save_as(copy, shards=True)
    first, second, *_ = shard_names(copy)
    both = {}
    for name in (first, second):
        both |= load_file(copy / "unet" / name)
    save_file(both, copy / "unet" / second, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must not hold .*, which another shard holds, too"):
        load_pipeline(copy)


def test_the_digest_covers_every_shard(copy: Path) -> None:
    def digest() -> str:
        return FrozenModel(name="tiny", path=str(copy), resolution=16).digest

    save_as(copy, shards=True)
    remove_plain(copy)
    digests = {digest()}
    for name in shard_names(copy):
        file = copy / "unet" / name
        state = load_file(file)
        weight = next(iter(state.values()))
        weight.view(-1)[0] += 1
        save_file(state, file, metadata={"format": "pt"})
        digests.add(digest())
    assert len(digests) == 1 + len(shard_names(copy)) > 3


@pytest.mark.parametrize("place", ["", "unet"])
def test_weights_without_their_config_are_told(place: str, copy: Path) -> None:
    shutil.copy(copy / "unet" / f"{STEM}.safetensors", copy)
    shutil.rmtree(copy / "scheduler")
    (copy / "unet" / "config.json").unlink()
    (copy / "model_index.json").unlink()
    if not place:
        shutil.rmtree(copy / "unet")
    with pytest.raises(FileNotFoundError, match=rf"{place}/config\.json is missing"):
        WeightFiles(name="mine", path=str(copy)).obtain()


def test_a_pipeline_that_lacks_a_part_says_which(copy: Path) -> None:
    shutil.rmtree(copy / "scheduler")
    with pytest.raises(FileNotFoundError, match=r"scheduler/scheduler_config\.json is missing"):
        WeightFiles(name="mine", path=str(copy)).obtain()
    with pytest.raises(FileNotFoundError, match=r"scheduler/scheduler_config\.json is missing"):
        load_schedule(copy)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "UNet2DConditionModel", "VQModel"])
def test_another_network_is_refused_whatever_else_is_missing(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind}))
    (tmp_path / f"{STEM}.safetensors").touch()
    for read in (load_pipeline, lambda c: WeightFiles(name="mine", path=str(c)).obtain()):
        with pytest.raises(ValueError, match=f"the network must be a UNet2DModel, got {kind}"):
            read(tmp_path)


def test_a_pipeline_of_text_without_index_is_refused(copy: Path) -> None:
    (copy / "model_index.json").unlink()
    (copy / "text_encoder").mkdir()
    (copy / "text_encoder" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="alone, got text_encoder: text-to-image and other"):
        load_pipeline(copy)


def test_a_pipeline_of_transformers_is_refused(tmp_path: Path) -> None:
    index = {"transformer": ["diffusers", "DiTTransformer2DModel"], "vae": ["x", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="alone, got transformer, vae: text-to-image"):
        WeightFiles(name="mine", path=str(tmp_path)).obtain()


def test_shards_are_no_variants() -> None:
    files = ["config.json", "scheduler_config.json"]
    for shard in (f"{STEM}-00001-of-00002.safetensors", f"{STEM}.fp16-00001-of-00002.safetensors"):
        assert pipeline_parts([*files, shard], lambda index: Path()) is None
