"""Unconditional latent diffusion in diffusers' own layout."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ood_sampler.diffusion.schedule import CLEAN
from ood_sampler.diffusion.solvers.ddim import ddim_move
from ood_sampler.models.finetuned import FineTunedModel
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.models.layout import parts_of, pipeline_files
from ood_sampler.models.weights import RECORD, WeightFiles
from tests.models.stand_ins import tiny_ldm

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ldm(tmp_path_factory.mktemp("ldm"))


@pytest.fixture(scope="module")
def with_kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ldm(tmp_path_factory.mktemp("kl"), kl=True)


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "copy")


def faces(folder: Path, **changes: Any) -> FrozenModel:  # noqa: ANN401
    return FrozenModel(**{"name": "faces", "path": str(folder), "resolution": 32, **changes})


def change(file: Path, **fields: object) -> None:
    """Set fields of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def images(count: int = 2) -> Tensor:
    return 2 * torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1


def latents(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_denoiser_is_diffusers_own_unet_and_schedule(published: Path) -> None:
    from diffusers import LDMPipeline

    pipe = LDMPipeline.from_pretrained(published, low_cpu_mem_usage=False)
    model = faces(published)
    with torch.no_grad():
        expected = pipe.unet(latents(), torch.tensor([3, 700])).sample
    assert torch.equal(model.denoiser.eps(latents(), torch.tensor([3, 700])), expected)
    expected_bars = pipe.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(model.schedule.alpha_bars[1:], expected_bars, rtol=1e-5, atol=0)


@torch.no_grad()
def test_a_codebook_is_that_of_diffusers(published: Path) -> None:
    from diffusers import VQModel

    theirs = VQModel.from_pretrained(published / "vqvae", low_cpu_mem_usage=False)
    ours = faces(published).autoencoder
    assert ours is not None
    assert torch.equal(ours.encode(images()), 0.5 * theirs.encode(images()).latents)
    decoded = ours.decode(latents())
    assert torch.equal(decoded, theirs.decode(latents() / 0.5).sample)
    # it quantises: a latent is decoded as the nearest one of the codebook
    torch.testing.assert_close(ours.decode(latents() + 1e-5), decoded, rtol=0, atol=1e-5)
    assert (ours.decode(latents() + 1) - decoded).abs().max() > 0.1


@torch.no_grad()
def test_a_kl_autoencoder_encodes_to_the_mean(with_kl: Path) -> None:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL.from_pretrained(with_kl / "vqvae", low_cpu_mem_usage=False)
    ours = faces(with_kl).autoencoder
    assert ours is not None
    assert torch.equal(ours.encode(images()), 0.5 * theirs.encode(images()).latent_dist.mean)
    assert torch.equal(ours.encode(images()), ours.encode(images()))
    assert torch.equal(ours.decode(latents()), theirs.decode(latents() / 0.5).sample)


def test_it_samples_what_diffusers_pipeline_samples(with_kl: Path) -> None:
    from diffusers import LDMPipeline

    pipe = LDMPipeline.from_pretrained(with_kl, low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    sampled = pipe(generator=generator, num_inference_steps=4, output_type="np").images
    z_t = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    model = faces(with_kl)
    for t, s in pairwise([750, 500, 250, 0, CLEAN]):
        eps = model.denoiser.eps(z_t, torch.tensor(t))
        z_t = ddim_move(model.schedule, z_t, eps, t, s, eta=0.0, noise=None)
    assert model.autoencoder is not None
    ours = (model.autoencoder.decode(z_t) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, torch.from_numpy(sampled), rtol=0, atol=1e-4)


def test_the_autoencoder_is_frozen_and_gradients_pass(published: Path) -> None:
    autoencoder = faces(published).autoencoder
    assert autoencoder is not None
    autoencoder.train()
    assert not any(module.training for module in autoencoder.modules())
    assert not any(weight.requires_grad for weight in autoencoder.parameters())
    assert {weight.dtype for weight in autoencoder.parameters()} == {torch.float32}
    z_0 = latents().requires_grad_()
    (gradient,) = torch.autograd.grad(autoencoder.decode(z_0).square().sum(), z_0)
    assert gradient.abs().min() > 0


def test_sizes_are_known_without_weights(
    published: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in ("load_checkpoint", "load_autoencoder"):
        monkeypatch.setattr(f"ood_sampler.models.frozen.{loader}", None)
    model = faces(published)
    assert (model.channels, model.resolution) == (3, 32)
    assert model.latent_shape == (3, 8, 8)
    pixels = faces(model_folder, resolution=16)
    assert pixels.latent_shape == (3, 16, 16)
    assert pixels.autoencoder is None


def test_a_fine_tuned_model_has_the_autoencoder_of_its_base(
    published: Path, tmp_path: Path
) -> None:
    base = faces(published)
    tuned = FineTunedModel(base, tmp_path / "weights.safetensors")
    assert tuned.latent_shape == (3, 8, 8)
    assert tuned.autoencoder is base.autoencoder


def test_a_config_without_a_factor_does_not_scale(copy: Path) -> None:
    from diffusers import VQModel

    change(copy / "vqvae" / "config.json", scaling_factor=None)
    theirs = VQModel.from_pretrained(copy / "vqvae", low_cpu_mem_usage=False)
    autoencoder = faces(copy).autoencoder
    assert autoencoder is not None
    with torch.no_grad():
        assert torch.equal(autoencoder.encode(images()), theirs.encode(images()).latents)


def test_a_pipeline_without_index_is_known_by_its_folders(copy: Path) -> None:
    (copy / "model_index.json").unlink()
    assert faces(copy).latent_shape == (3, 8, 8)
    assert faces(copy).denoiser
    assert faces(copy).autoencoder


def test_variants_shards_pickles_and_old_names_load(copy: Path) -> None:
    from diffusers import VQModel

    expected = faces(copy).autoencoder
    assert expected is not None
    network = VQModel.from_pretrained(copy / "vqvae", low_cpu_mem_usage=False)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(name: str) -> str:
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        return name

    def saved(*, safe: bool, size: str = "10GB") -> Callable[[Path], None]:
        return lambda folder: network.save_pretrained(
            folder, safe_serialization=safe, max_shard_size=size, variant=None if safe else "fp16"
        )

    def renamed(folder: Path) -> None:
        state = {rename(k): v for k, v in network.state_dict().items()}
        assert state.keys() != network.state_dict().keys()
        save_file(state, folder / WEIGHTS)

    for save in (saved(safe=False), saved(safe=True, size="20KB"), renamed):
        for file in (copy / "vqvae").glob(f"{STEM}*"):
            file.unlink()
        save(copy / "vqvae")
        found = faces(copy).autoencoder
        assert found is not None
        with torch.no_grad():
            assert torch.equal(found.decode(latents()), expected.decode(latents()))


def test_the_digest_covers_the_autoencoder(copy: Path) -> None:
    digests = {faces(copy).digest}
    config, weights = copy / "vqvae" / "config.json", copy / "vqvae" / WEIGHTS
    change(config, scaling_factor=0.25)
    digests.add(faces(copy).digest)
    state = load_file(weights)
    next(iter(state.values())).view(-1)[0] += 1
    save_file(state, weights)
    digests.add(faces(copy).digest)
    assert len(digests) == 3
    assert {file.parent.name for file in pipeline_files(copy)} == {"unet", "vqvae", "scheduler"}


def test_a_changed_autoencoder_in_the_cache_is_refused(published: Path, cache: Path) -> None:
    folder = shutil.copytree(published, cache / "models" / "faces" / "owner--faces")
    in_cache: dict[str, Any] = {"path": None, "sources": [{"hub": "owner/faces"}]}
    weights = folder / "vqvae" / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"fetch the file again; remove {folder} to have it"):
        _ = faces(folder, **in_cache).denoiser
    assert not (folder.parent / RECORD).exists()
    weights.write_bytes(whole)
    assert faces(folder, **in_cache).denoiser
    assert f"owner--faces/vqvae/{WEIGHTS}" in (folder.parent / RECORD).read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    for use in ("digest", "denoiser", "autoencoder"):
        with pytest.raises(ValueError, match=rf"vqvae/{WEIGHTS} must have the SHA-256"):
            getattr(faces(folder, **in_cache), use)


@pytest.mark.parametrize("lacking", ["vqvae", "vqvae/config.json", f"vqvae/{WEIGHTS}"])
def test_what_is_missing_of_the_autoencoder_is_named(lacking: str, copy: Path) -> None:
    place = copy / lacking
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    assert parts_of(copy) is None
    message = r"vqvae/.* is missing: .* of latent diffusion, with the autoencoder in vqvae/"
    with pytest.raises(FileNotFoundError, match=message):
        WeightFiles(name="faces", path=str(copy)).obtain()
    for use in ("denoiser", "autoencoder", "latent_shape", "digest"):
        with pytest.raises(FileNotFoundError, match=message):
            getattr(faces(copy), use)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": 64}, r"model\.resolution must be 32, as .* says, got 64"),
        ({"resolution": 30}, r"model\.resolution must be divisible by 4, as the autoencoder of "),
        ({"channels": 1}, r"model\.channels must be 3, as .*vqvae/config\.json says, got 1"),
    ],
)
def test_images_of_another_size_are_refused(
    fields: dict[str, int], message: str, published: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        _ = faces(published, **fields).denoiser


def test_a_resolution_that_the_unet_cannot_halve_is_refused(copy: Path) -> None:
    change(copy / "unet" / "config.json", sample_size=None)
    with pytest.raises(ValueError, match=r"model\.resolution must be divisible by 8, as the netw"):
        _ = faces(copy, resolution=36).denoiser
    assert faces(copy, resolution=40).denoiser


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "VQGAN"}, "the autoencoder must be a VQModel or AutoencoderKL, got VQGAN"),
        ({"out_channels": 1}, "in_channels and out_channels must be equal in .*, got 3 and 1"),
        ({"in_channels": "x"}, "in_channels must be an integer >= 1, got 'x' in "),
        ({"block_out_channels": [8, 8]}, "must describe a VQModel, got"),
        ({"layers_per_block": 10**9}, r"layers_per_block must be an integer in 1\.\.100, got"),
        ({"scaling_factor": "x"}, "scaling_factor must be a number, got 'x' in "),
        ({"scaling_factor": 0}, "scaling_factor must be positive, got 0 in "),
        (
            {"num_vq_embeddings": 65},
            r"must hold quantize\.embedding\.weight in the shape \(65, 3\)",
        ),
    ],
)
def test_another_autoencoder_is_refused(
    fields: dict[str, object], message: str, copy: Path
) -> None:
    change(copy / "vqvae" / "config.json", **fields)
    with pytest.raises(ValueError, match=message):
        _ = faces(copy).autoencoder


def test_an_autoencoder_of_other_latents_is_refused(copy: Path) -> None:
    from diffusers import VQModel

    config = json.loads((copy / "vqvae" / "config.json").read_text())
    VQModel.from_config({**config, "vq_embed_dim": 4}).save_pretrained(copy / "vqvae")
    assert faces(copy).latent_shape == (4, 8, 8)
    with pytest.raises(ValueError, match=r"the unet of .* must take 4 channels, .* got 3"):
        _ = faces(copy).denoiser


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"vqvae": ["diffusers", "MoVQ"]}, "the network vqvae must be a VQModel or AutoencoderKL"),
        ({"text_encoder": ["transformers", "BertModel"]}, "alone, got text_encoder: text-to-image"),
    ],
)
def test_other_pipelines_are_refused(index: dict[str, object], message: str, copy: Path) -> None:
    change(copy / "model_index.json", **index)
    with pytest.raises(ValueError, match=message):
        _ = faces(copy).denoiser
