"""Every model of `conf/model` on a small stand-in of what is published, and without it."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from ood_sampler.command.checking import check_command
from ood_sampler.config import CONF
from ood_sampler.data.domain import embedded_domain
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.models.verification import smooth_pictures
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.cog import CogSampler
from tests.conftest import make_judges, make_pipeline
from tests.models.stand_ins import tiny_ldm

FIXTURES = Path(__file__).parent / "fixtures"
GANS = ["dog32_gan"]
NAMES = sorted({file.stem for file in (CONF / "model").glob("*.yaml")} - set(GANS))
GENERIC = ["checkpoint", "diffusers"]
SHIPPED = ["dog32", "ship32"]
WITHOUT_WEIGHTS = ["analytic_gaussian", "analytic_patches"]
PUBLISHED = [name for name in NAMES if name not in (*SHIPPED, *GENERIC, *WITHOUT_WEIGHTS)]
SIZE = 32

GUIDED = {
    "num_channels": "32",
    "channel_mult": "[1,1,2,2]",
    "attention_resolutions": "[8]",
    "num_head_channels": "16",
}
DDPM = {"ch": "32", "ch_mult": "[1,1,2,2]", "attn_resolutions": "[8]"}


def small(fields: dict[str, str]) -> list[str]:
    """Overrides that make an architecture that of a fixture."""
    return [f"model.architecture.model.{key}={value}" for key, value in fields.items()]


@functools.cache
def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", [f"model={name}", *overrides])


def model(name: str, *overrides: str) -> FrozenModel:
    made: FrozenModel = instantiate(composed(name, *overrides).model, _convert_="all")
    return made


def published_pipeline(folder: Path, *, suffix: str = "safetensors") -> Path:
    """A hub repository as the first models were published: all files at the root."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        norm_eps=1e-6,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    unet.save_pretrained(folder, safe_serialization=suffix == "safetensors")
    DDPMScheduler(beta_schedule="linear").save_pretrained(folder)
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    assert (folder / f"diffusion_pytorch_model.{suffix}").is_file()
    return folder


def checkpoint(name: str, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(FIXTURES / name / "checkpoint.pt", target)
    return target


def hub(name: str, repository: str) -> Callable[[Path], FrozenModel]:
    def stand_in(cache: Path) -> FrozenModel:
        published_pipeline(cache / "models" / name / repository.replace("/", "--"))
        return model(name, f"model.resolution={SIZE}")

    return stand_in


def file(name: str, published: str, fixture: str, *overrides: str) -> Callable[[Path], FrozenModel]:
    fields = {"guided_diffusion": GUIDED, "pesser": DDPM}[fixture]

    def stand_in(cache: Path) -> FrozenModel:
        checkpoint(fixture, cache / "models" / name / published)
        return model(name, f"model.resolution={SIZE}", *small(fields), *overrides)

    return stand_in


def unchecked(published: str) -> str:
    """Its source without the checksums that the published file has and a stand-in has not."""
    return f"model.sources=[{{drive: 1aB, file: {published}}}]"


def any_pipeline(cache: Path) -> FrozenModel:
    folder = published_pipeline(cache / "mine", suffix="bin")
    own = ["model.name=mine", f"model.path={folder}", f"model.resolution={SIZE}"]
    return model("diffusers", *own)


def any_hub_model(cache: Path) -> FrozenModel:
    published_pipeline(cache / "models" / "mine" / "owner--dogs")
    own = ["model.name=mine", "model.path=owner/dogs", f"model.resolution={SIZE}"]
    return model("diffusers", *own)


def latent_diffusion(cache: Path) -> FrozenModel:
    tiny_ldm(cache / "models" / "ldm_celebahq" / "CompVis--ldm-celebahq-256")
    return model("ldm_celebahq", f"model.resolution={SIZE}")


def any_latent_diffusion(cache: Path) -> FrozenModel:
    folder = tiny_ldm(cache / "mine")
    return model("diffusers", "model.name=mine", f"model.path={folder}", f"model.resolution={SIZE}")


def any_checkpoint(fixture: str, *overrides: str) -> Callable[[Path], FrozenModel]:
    def stand_in(cache: Path) -> FrozenModel:
        path = checkpoint(fixture, cache / "mine.pt")
        own = ["model.name=mine", f"model.path={path}", f"model.resolution={SIZE}"]
        return model("checkpoint", *own, *overrides)

    return stand_in


STAND_INS: dict[str, Callable[[Path], FrozenModel]] = {
    "dog32": lambda cache: model("dog32"),
    "ship32": lambda cache: model("ship32"),
    "iddpm_afhqdog": file("iddpm_afhqdog", "afhqdog_p2.pt", "guided_diffusion"),
    "iddpm_ffhq": file("iddpm_ffhq", "ffhq_10m.pt", "guided_diffusion"),
    "iddpm_ffhq_p2": file("iddpm_ffhq_p2", "ffhq_p2.pt", "guided_diffusion"),
    "ddpm_celebahq": hub("ddpm_celebahq", "google/ddpm-ema-celebahq-256"),
    "ddpm_celebahq_sdedit": file("ddpm_celebahq_sdedit", "celeba_hq.ckpt", "pesser"),
    "ddpm_church": hub("ddpm_church", "google/ddpm-ema-church-256"),
    "ddpm_church file": file(
        "ddpm_church", "church_outdoor.ckpt", "pesser", unchecked("church_outdoor.ckpt")
    ),
    "ddpm_bedroom": hub("ddpm_bedroom", "google/ddpm-ema-bedroom-256"),
    "ddpm_bedroom file": file("ddpm_bedroom", "bedroom.ckpt", "pesser", unchecked("bedroom.ckpt")),
    "ldm_celebahq": latent_diffusion,
    "ddpm_cifar10": hub("ddpm_cifar10", "google/ddpm-cifar10-32"),
    "diffusers": any_pipeline,
    "diffusers hub": any_hub_model,
    "diffusers latent": any_latent_diffusion,
    "checkpoint": any_checkpoint(
        "guided_diffusion", "model.architecture.model.num_head_channels=16"
    ),
    "checkpoint pesser": any_checkpoint("pesser"),
}


def test_every_model_has_a_stand_in() -> None:
    assert {key.split()[0] for key in STAND_INS} == {*NAMES} - {*WITHOUT_WEIGHTS}


@pytest.mark.parametrize("key", STAND_INS)
def test_a_model_inverts_and_decodes_on_a_stand_in_of_what_is_published(
    key: str, cache: Path
) -> None:
    frozen = STAND_INS[key](cache)
    pictures = smooth_pictures(2, channels=frozen.channels, resolution=frozen.resolution)
    solver = DdimSolver(steps=3, power=1)
    autoencoder = frozen.autoencoder
    x_0 = pictures if autoencoder is None else autoencoder.encode(pictures)
    assert x_0.shape == (2, *frozen.latent_shape)
    latents = solver.invert(frozen.denoiser, x_0, [400])[400]
    images = solver.decode(frozen.denoiser, latents, step=400)
    images = images if autoencoder is None else autoencoder.decode(images)
    assert images.shape == pictures.shape == (2, 3, SIZE, SIZE)
    assert images.isfinite().all()
    assert not torch.equal(images, pictures)
    if frozen.weights.record is not None:
        assert frozen.weights.path.is_relative_to(cache)
        assert frozen.weights.record.is_file()


PUBLISHED_MD5 = {
    "ddpm_church": ("fdc68a23938c2397caba4a260bc2445f", "eb619b8a5ab95ef80f94ce8a5488dae3"),
    "ddpm_bedroom": ("1921fa46b66a3665e450e42f36c2720f", "f70280ac0e08b8e696f42cb8e948ff1c"),
}


@pytest.mark.parametrize("name", ["ddpm_church", "ddpm_bedroom", "ddpm_celebahq"])
def test_averaged_weights_come_first_and_raw_ones_have_no_part_in_the_name(
    name: str, cache: Path
) -> None:
    first, *others = composed(name).model.sources
    kind = name.removeprefix("ddpm_")
    assert first.hub == f"google/ddpm-ema-{kind}-256"
    checksums = [(source.md5, source.raw_md5) for source in others]
    assert checksums == ([PUBLISHED_MD5[name]] if name in PUBLISHED_MD5 else [])
    published_pipeline(cache / "models" / name / f"google--ddpm-{kind}-256")
    with pytest.raises(FileNotFoundError, match=rf"google--ddpm-{kind}-256 in .* are other weight"):
        _ = model(name).digest


@pytest.mark.parametrize(
    ("name", "published"),
    [("ddpm_church", "church_outdoor.ckpt"), ("ddpm_bedroom", "bedroom.ckpt")],
)
def test_a_file_that_is_not_the_published_one_is_refused(
    name: str, published: str, cache: Path
) -> None:
    checkpoint("pesser", cache / "models" / name / published)
    for use in ("digest", "denoiser"):
        with pytest.raises(ValueError, match=rf"{published} has the MD5 \w+, the published file"):
            getattr(model(name), use)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sources_of_a_file_have_one_training(name: str) -> None:
    files = {source.file for source in composed(name).model.sources if "file" in source}
    # the page of those who trained it names it without the breed
    assert len(files) <= 1 or files == {"afhqdog_p2.pt", "afhq_p2.pt"}


@pytest.mark.parametrize("key", ["iddpm_afhqdog", "ddpm_church", "ddpm_church file"])
def test_a_whole_run_on_a_stand_in_of_what_is_published(
    key: str, cache: Path, tmp_path: Path, trainer: Callable[..., Any]
) -> None:
    run = make_pipeline(
        model=STAND_INS[key](cache),
        domain=embedded_domain(name="galaxy32", resolution=SIZE, few_shot=8, held_out=8),
        solver=DdimSolver(steps=3, power=1),
        sampler=CogSampler(references=2),
        judges=make_judges(nearest_k=3),
        trainer=trainer,
        settings=Settings(
            step=400,
            eta=0.0,
            clip_x_0=False,
            num_samples=6,
            seed=0,
            batch_size=8,
        ),
        root=tmp_path / "artifacts",
    )
    assert run.run().images.take(range(6)).isfinite().all()


@pytest.mark.parametrize(
    "command",
    [
        ["model=iddpm_afhqdog", "model.path=/x/afhqdog_p2.pt"],
        [
            "model=checkpoint",
            "model.path=/x/my.pt",
            "model.name=mine",
            "model.resolution=256",
            "model.architecture.model.num_head_channels=64",
            "model.architecture.model.channel_mult=[1,2,2]",
            "model.architecture.diffusion.noise_schedule=cosine",
        ],
        [
            "model=diffusers",
            "model.path=owner/dogs",
            "model.name=mine",
            "model.resolution=64",
            "model.label=3",
        ],
        ["model=ddpm_church", "model.sources=[{hub: google/ddpm-ema-church-256}]"],
    ],
    ids=lambda command: command[0],
)
def test_a_user_needs_no_key_that_is_not_there(command: list[str]) -> None:
    check_command(command)


@pytest.mark.parametrize("name", GENERIC)
def test_the_resolution_of_a_model_of_ones_own_must_be_said(name: str) -> None:
    with pytest.raises(MissingMandatoryValue, match=r"model\.resolution"):
        model(name, "model.name=mine", "model.path=/x")


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_weights_are_told_with_every_source(name: str, cache: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        _ = model(name).digest
    message = str(caught.value)
    for source in composed(name).model.sources:
        if "hub" in source:
            assert f"https://huggingface.co/{source.hub}" in message
        else:
            assert source.file in message
            place = f"file/d/{source.drive}/view" if "drive" in source else source.page
            assert place in message
    assert f"looked in {cache / 'models' / name}" in message
    assert "set model.path" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "own",
    [
        ("dog32", "model.path=nowhere"),
        ("iddpm_afhqdog", "model.path=nowhere/afhqdog_p2.pt"),
        ("ddpm_church", "model.path=nowhere/church_outdoor.ckpt"),
        ("diffusers", "model.name=mine", "model.resolution=32", "model.path=/nowhere"),
        ("diffusers", "model.name=mine", "model.resolution=32", "model.path=owner/dogs"),
        ("checkpoint", "model.name=mine", "model.resolution=32", "model.path=nowhere/mine.pt"),
    ],
    ids=" ".join,
)
def test_a_path_at_which_nothing_lies_is_told(own: tuple[str, ...]) -> None:
    with pytest.raises(FileNotFoundError, match=r"the weights of model .* are missing") as caught:
        _ = model(*own).digest
    message = str(caught.value)
    path = own[-1].removeprefix("model.path=")
    assert path in message or path.replace("/", "--") in message
    assert "set model.path to a diffusers pipeline folder or a checkpoint file" in message


def test_what_is_given_of_an_architecture_is_checked(cache: Path) -> None:
    stand_in = any_checkpoint("pesser", "model.architecture.model.ch=64")
    with pytest.raises(ValueError, match="ch must be 32"):
        _ = stand_in(cache).denoiser
    stand_in = any_checkpoint("pesser", "model.architecture.format=guided-diffusion")
    with pytest.raises(ValueError, match="format must be pesser-ddpm"):
        _ = stand_in(cache).denoiser


@pytest.mark.parametrize("name", ["iddpm_afhqdog", "iddpm_ffhq"])
def test_the_configured_architecture_is_the_published_one(name: str) -> None:
    config = composed(name).model.architecture.model
    assert config.image_size == 256
    assert list(config.channel_mult) == [1, 1, 2, 2, 4, 4]
    assert (config.num_channels, config.num_res_blocks, config.num_head_channels) == (128, 1, 64)
    assert list(config.attention_resolutions) == [16]
    assert config.resblock_updown
    assert config.use_scale_shift_norm
    assert config.learn_sigma


@pytest.mark.parametrize("name", [name for name in [*NAMES, *GANS] if name not in GENERIC])
def test_a_model_is_called_by_the_name_of_its_file(name: str) -> None:
    assert composed(name).model.name == name
