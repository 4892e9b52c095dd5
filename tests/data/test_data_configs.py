"""Each file of `conf/data/` on a small stand-in in the published format, and without its data."""

import functools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from stand_ins import fields, picture, write_files, write_lmdb

from ood_sampler.config import CONF
from ood_sampler.data.domain import TargetDomain
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.cog import CogSampler
from tests.conftest import make_judges, make_pipeline

RESOLUTION = 16
"""Of the tiny network of the tests."""


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    monkeypatch.setenv("OOD_SAMPLER_DATA", str(tmp_path / "sets"))
    yield
    datasets.enable_progress_bars()


def pictures(count: int, name: str, kind: str = "JPEG", start: int = 0) -> dict[str, bytes]:
    return {name.format(s): picture(s, 24, kind) for s in range(start, start + count)}


def celeba(root: Path) -> Path:
    masks = pictures(20, "CelebAMask-HQ-mask-anno/0/{:05d}_skin.png", "PNG", 100)
    return write_files(root / "celeba_hq", masks | pictures(20, "CelebA-HQ-img/{}.jpg"))


def afhq(root: Path, *, version: int) -> Path:
    held_out, suffix, kind = (("val", "jpg", "JPEG"), ("test", "png", "PNG"))[version - 1]
    files = {}
    for number, animal in enumerate(("cat", "dog", "wild")):
        name = f"flickr_{animal}_{{:06d}}.{suffix}"
        start = 100 * number
        files |= pictures(20, f"train/{animal}/{name}", kind, start)
        files |= pictures(20, f"{held_out}/{animal}/{name}", kind, start + 50)
    return write_files(root / "afhq", files)


def afhq_zip(root: Path) -> Path:
    folder = afhq(root / "unpacked", version=2)
    with zipfile.ZipFile(root / "afhq_v2.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, Path("afhq_v2", file.relative_to(folder)))
    return root / "afhq_v2.zip"


def lsun(root: Path, *, name: str, category: str) -> Path:
    write_lmdb(root / f"lsun_{name}" / f"{category}_train_lmdb", range(20))
    write_lmdb(root / f"lsun_{name}" / f"{category}_val_lmdb", range(100, 103))
    return root / f"lsun_{name}"


def exported(root: Path) -> Path:
    names = {f"{s:040x}": picture(s, 40, "WEBP") for s in range(20)}
    files = {f"{'/'.join(name[:6])}/{name}.webp": data for name, data in names.items()}
    return write_files(root / "exported", files)


def zenodo(root: Path) -> Path:
    return write_files(root / "galaxyzoo", pictures(20, "images_gz2/images/{}.jpg"))


def kaggle(root: Path) -> Path:
    files = pictures(20, "images_training_rev1/{}.jpg")
    files |= pictures(5, "images_test_rev1/{}.jpg", start=50)
    with zipfile.ZipFile(root / "images_training_rev1.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return root / "images_training_rev1.zip"


def radiation(root: Path) -> Path:
    from astropy.io import fits

    folder = root / "radiation"
    folder.mkdir()
    fits.PrimaryHDU(fields(20, 3, 24, 24).astype(">f4")).writeto(folder / "fields.fits")
    return folder


def radiation_hdf5(root: Path) -> Path:
    import h5py

    with h5py.File(root / "fields.h5", "w") as file:
        file["isrf"] = fields(20, 24, 24)
    return root / "fields.h5"


def radiation_files(root: Path) -> Path:
    (root / "npy").mkdir()
    for index, field in enumerate(fields(20, 24, 24, 3)):
        np.save(root / "npy" / f"{index}.npy", field)
    return root / "npy"


def hub(root: Path, *, saved: bool) -> Path:
    import datasets

    images = [{"bytes": picture(seed), "path": None} for seed in range(20)]
    rows = datasets.Dataset.from_dict({"image": images, "label": [0] * 20})
    rows = rows.cast_column("image", datasets.Image())
    if saved:
        datasets.DatasetDict(train=rows).save_to_disk(root / "copy")
    else:
        (root / "copy" / "data").mkdir(parents=True)
        rows.to_parquet(root / "copy" / "data" / "train-00000-of-00001.parquet")
    return root / "copy"


def own(root: Path) -> Path:
    return write_files(root / "mine", pictures(20, "{}.jpg"))


STAND_INS: list[tuple[str, Callable[[Path], Path]]] = [
    ("celeba", celeba),
    *((f"afhq_{a}", functools.partial(afhq, version=1)) for a in ("cat", "dog", "wild")),
    ("afhq_cat", functools.partial(afhq, version=2)),
    ("afhq_wild", afhq_zip),
    ("church", functools.partial(lsun, name="church", category="church_outdoor")),
    ("bedroom", functools.partial(lsun, name="bedroom", category="bedroom")),
    ("bedroom", exported),
    ("galaxyzoo", zenodo),
    ("galaxyzoo", kaggle),
    ("radiation", radiation),
    ("radiation", radiation_hdf5),
    ("radiation", radiation_files),
    ("hub", functools.partial(hub, saved=True)),
    ("hub", functools.partial(hub, saved=False)),
    ("folder", own),
]

on_stand_ins = pytest.mark.parametrize(
    ("option", "build"), STAND_INS, ids=lambda value: value if isinstance(value, str) else ""
)

EMBEDDED = ("galaxy32", "radiation32")


def make(option: str, *overrides: str) -> TargetDomain:
    few = ["data.few_shot=8", "data.held_out=10", f"model.resolution={RESOLUTION}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [f"data={option}", *few, *overrides])
    domain: TargetDomain = instantiate(cfg.data)
    return domain


def test_every_option_has_a_stand_in() -> None:
    options = {file.stem for file in (CONF / "data").glob("*.yaml")}
    assert options == {option for option, _ in STAND_INS} | {*EMBEDDED}


@pytest.mark.filterwarnings("ignore:.*are clipped:UserWarning")
@on_stand_ins
def test_published_files_are_read_with_one_path_at_most(
    tmp_path: Path, option: str, build: Callable[[Path], Path]
) -> None:
    (tmp_path / "sets").mkdir()
    root = build(tmp_path / "sets")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [f"data={option}"])
    key = "id" if option == "hub" else "root"
    found_by_itself = OmegaConf.select(cfg, f"data.{key}", throw_on_missing=False) == str(root)
    domain = make(option, *([] if found_by_itself else [f"data.{key}={root}"]))
    assert len(domain.few_shot) == 8
    assert len(domain.held_out) == 10
    assert domain.skipped == []
    items = [*domain.few_shot, *domain.held_out]
    assert len({item.numpy().tobytes() for item in items}) == 18
    for item in items:
        assert item.shape == (3, RESOLUTION, RESOLUTION)
        assert item.dtype == torch.float32
        assert item.abs().max() <= 1
        assert item.std() > 0.1


@pytest.mark.parametrize("option", EMBEDDED)
def test_embedded_data_need_no_path(option: str) -> None:
    domain = make(option)
    assert (len(domain.few_shot), len(domain.held_out)) == (8, 10)
    assert (domain.scale is not None) == (option == "radiation32")


@pytest.mark.filterwarnings("ignore:.*are clipped:UserWarning")
@on_stand_ins
def test_null_takes_what_the_comments_say(
    tmp_path: Path, option: str, build: Callable[[Path], Path]
) -> None:
    (tmp_path / "sets").mkdir()
    key = "id" if option == "hub" else "root"
    where = f"data.{key}={build(tmp_path / 'sets')}"
    domain = make(option, where, "data.few_shot=null", "data.held_out=null")
    expected = (20, 20) if option.startswith("afhq") else (10, 10)
    assert (len(domain.few_shot), len(domain.held_out)) == expected


@pytest.mark.parametrize("option", EMBEDDED)
def test_null_takes_all_that_is_shipped(option: str) -> None:
    domain = make(option, "data.few_shot=null", "data.held_out=null")
    assert (len(domain.few_shot), len(domain.held_out)) == (500, 1500)


@pytest.mark.parametrize("option", sorted({option for option, _ in STAND_INS} - {"hub", "folder"}))
def test_missing_data_set_is_explained(tmp_path: Path, option: str) -> None:
    with pytest.raises(Exception, match=f"the data set {option} is missing") as info:
        make(option)
    message = str(info.value.__cause__ or info.value)
    origin = OmegaConf.load(CONF / "data" / f"{option}.yaml").origin
    assert f"{tmp_path}/sets/" in message
    for key in ("what", "where", "licence", "layout"):
        assert origin[key] in message
    assert "data.root" in message
    assert "OOD_SAMPLER_DATA" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("option", "override", "message"),
    [
        ("hub", "data.id=owner/name", "the data set owner/name is missing: it is no local folder"),
        ("folder", "data.root=nowhere", r"nowhere does not exist; set data\.root to a folder or"),
    ],
)
def test_missing_data_of_a_users_own_are_explained(
    option: str, override: str, message: str
) -> None:
    with pytest.raises(Exception, match=message):
        make(option, override)


@pytest.mark.parametrize("option", sorted(file.stem for file in (CONF / "data").glob("*.yaml")))
def test_head_of_each_file_says_what_a_user_needs(option: str) -> None:
    lines = (CONF / "data" / f"{option}.yaml").read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert head == lines[: len(head)]
    if option not in (*EMBEDDED, "folder"):
        text = " ".join(head)
        assert "Layout" in text
        assert "Split: " in text
        assert "icence" in text or "for non-commercial research only" in text


@pytest.mark.parametrize(
    ("option", "build"),
    [
        ("church", functools.partial(lsun, name="church", category="church_outdoor")),
        ("radiation", radiation),
    ],
)
def test_a_run_goes_through(
    tmp_path: Path,
    model_folder: Path,
    trainer: Callable[..., Any],
    option: str,
    build: Callable[[Path], Path],
) -> None:
    (tmp_path / "sets").mkdir()
    domain = make(option, f"data.root={build(tmp_path / 'sets')}")
    outcome = make_pipeline(
        model=FrozenModel(name="tiny", path=str(model_folder), resolution=RESOLUTION),
        domain=domain,
        solver=DdimSolver(steps=4, power=1),
        sampler=CogSampler(references=2),
        judges=make_judges(nearest_k=3),
        trainer=trainer,
        settings=Settings(
            step=400,
            eta=0.0,
            clip_x_0=False,
            num_samples=8,
            seed=0,
            batch_size=4,
        ),
        root=tmp_path / "artifacts",
    ).run()
    images = torch.cat(list(outcome.images.blocks()))
    assert images.shape == (8, 3, RESOLUTION, RESOLUTION)
    if domain.scale is not None:
        assert (domain.scale.from_pictures(images) > 0).all()
