"""Whatever an image holds or a command says: a right result, or the documented error."""

import io
import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ood_sampler.command.checking import check_command
from ood_sampler.config import CONF
from ood_sampler.data.images import ImageError, fit_square, read_rgb
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.faults import FAULTS, CommandError
from ood_sampler.modules.trainer import make_trainer
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.base import InvertedSet, Sampler
from ood_sampler.store.sets import InMemory

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "WEBP": ("L", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "BMP": ("1", "L", "P", "RGB"),
}
KINDS = [(kind, mode) for kind, modes in MODES.items() for mode in modes]


def encoded(kind: str, mode: str, height: int, width: int, exif: bytes) -> bytes:
    pixels = np.random.default_rng(height * 99 + width).integers(0, 256, (height, width, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    if mode in ("I;16", "I", "F"):
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        image = Image.fromarray(pixels[..., 0].astype(kinds[mode]))
    elif mode != "RGB":
        image = image.convert(mode)
    options = {"exif": exif} if exif and kind in ("PNG", "JPEG", "WEBP") else {}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check_sentence(text: str, start: str = "", end: str = "") -> None:
    assert text
    assert "\n" not in text
    assert text.startswith(start)
    assert text.endswith(end)


def check_picture(data: bytes, resolution: int) -> None:
    try:
        pixels = read_rgb(data, name="a.png")
    except ImageError as error:
        check_sentence(str(error), "a.png ", "; replace or remove it")
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    square = fit_square(pixels, resolution)
    assert square.dtype == torch.uint8
    assert square.shape == (3, resolution, resolution)


# a header of TIFF as EXIF has it, an orientation, and anything
EXIF = st.one_of(
    st.just(b""),
    st.integers(0, 2**16 - 1).map(
        lambda turn: (
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + turn.to_bytes(4, "little")
        )
    ),
    st.binary(max_size=40).map(lambda data: b"Exif\0\0II*\0" + data),
    st.binary(max_size=40).map(lambda data: b"Exif\0\0" + data),
)
PICTURE = st.tuples(
    st.sampled_from(KINDS), st.integers(1, 24), st.integers(1, 24), EXIF, st.integers(1, 33)
)
PLACE = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(
    st.tuples(PLACE, st.sampled_from(["byte", "cut", "insert"]), st.binary(min_size=1, max_size=8)),
    max_size=6,
)


def changed(data: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for share, what, part in changes:
        # half of them among the first bytes, which describe the rest
        place = int(min(share, 0.5) * 2 * min(len(data), 64) + max(share - 0.5, 0) * 2 * len(data))
        end = {"byte": place + len(part), "cut": place + 16 * len(part), "insert": place}[what]
        data = data[:place] + (b"" if what == "cut" else part) + data[end:]
    return data


def check_changed(
    picture: tuple[tuple[str, str], int, int, bytes, int], changes: list[tuple[float, str, bytes]]
) -> None:
    (kind, mode), height, width, exif, resolution = picture
    check_picture(changed(encoded(kind, mode, height, width, exif), changes), resolution)


def options(examples: int) -> settings:
    return settings(deadline=None, derandomize=True, max_examples=examples)


@options(400)
@given(PICTURE, CHANGES)
def test_any_picture_becomes_a_square_or_is_refused(
    picture: tuple[tuple[str, str], int, int, bytes, int], changes: list[tuple[float, str, bytes]]
) -> None:
    check_changed(picture, changes)


@pytest.mark.soak
@options(20_000)
@given(PICTURE, CHANGES)
def test_very_many_pictures_become_squares_or_are_refused(
    picture: tuple[tuple[str, str], int, int, bytes, int], changes: list[tuple[float, str, bytes]]
) -> None:
    check_changed(picture, changes)


@options(200)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM"]))
def test_any_bytes_are_refused(data: bytes, start: bytes) -> None:
    check_picture(start + data, 8)


# ------------------------------------------------------------------------------ configuration


def configuration() -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run")


def leaves(cfg: DictConfig, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in cfg:
        value = cfg._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = None if value is None else value._value()
    return found


KEYS = sorted(key for key in leaves(configuration()) if "_target_" not in key)
WHOLE = st.one_of(st.integers(-3, 12), st.integers(), st.sampled_from([2**31, 2**63, -(2**63)]))
NUMBER = st.one_of(st.floats(0, 1), st.floats(allow_nan=True, allow_infinity=True), WHOLE)
TEXT = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    st.text(max_size=6),
    st.sampled_from(
        [
            *("", "null", "~", "true", "nan", "inf", "-inf", "1e400", "0x10", "1_000", "-0", "???"),
            *("[]", "[1,2]", "{}", "{a:1}", "[", "}", "'", "\\", '"a', "a=b", "=", "a b", "#", "/"),
            *("${seed}", "${nothing}", "${", "${oc.env:NOTHING}", "1,2", "choice(1,2)", "range(3)"),
            *("int(a)", "glob(*)", "../..", "\t", "\n", "\0", "é", "a" * 300),
        ]
    ),
)
VALUE = st.one_of(TEXT, NUMBER.map(str))


def build(cfg: DictConfig, groups: tuple[str, ...] = ("logger", "solver", "sampler")) -> None:
    """Make what a run makes of its configuration before it reads images or weights."""
    Settings(
        step=cfg.inversion.step,
        eta=float(cfg.decode.eta),
        clip_x_0=cfg.decode.clip_x_0,
        num_samples=cfg.num_samples,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        on_nonfinite=cfg.on_nonfinite,
    )
    for group in groups:
        check_made(instantiate(cfg[group], _convert_="all" if group == "model" else "none"))


def check_made(made: object) -> None:
    """What a run asks of solvers, strategies and trainers before it works."""
    if isinstance(made, Solver):
        made.check(1000)
        made.check_eta(0.0)
    elif isinstance(made, Sampler):
        latents = InMemory(torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
        made.check(InvertedSet(latents, latents, Schedule.linear(), 500))
    elif callable(made):
        make_trainer(made, [])


def innermost(error: BaseException) -> BaseException:
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def refused(error: InstantiationException | Exception) -> None:
    inner = innermost(error)
    assert isinstance(inner, FAULTS), f"{type(inner).__name__}: {inner}"
    assert str(inner)


def check_setting(key: str, value: str) -> None:
    command = [f"{key}={value}"]
    try:
        check_command(command, sweep=False)
    except CommandError as error:
        check_sentence(str(error))
        return
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", command)
    try:
        build(cfg)
        check_made(instantiate(cfg[key.partition(".")[0]])) if key.startswith("trainer") else None
    except (InstantiationException, *FAULTS) as error:
        refused(error)


@options(12)
@given(st.sampled_from(KEYS), VALUE)
def test_any_value_of_any_key_is_taken_or_refused_in_one_sentence(key: str, value: str) -> None:
    check_setting(key, value)


@pytest.mark.soak
@options(500)
@given(st.sampled_from(KEYS), VALUE)
def test_very_many_values_of_keys_are_taken_or_refused(key: str, value: str) -> None:
    check_setting(key, value)


@options(200)
@given(st.text(max_size=20))
def test_any_word_is_a_command_or_no_command(word: str) -> None:
    # composing takes long: only what is refused before
    if "=" not in word:
        with pytest.raises(CommandError):
            check_command([word])


TARGETS = [
    (group, file.stem)
    for group in ("logger", "solver", "sampler", "trainer")
    for file in sorted((CONF / group).glob("*.yaml"))
    # what is put together of other options is as good as those
    if "defaults" not in OmegaConf.load(file)
]


@pytest.mark.parametrize(("group", "option"), TARGETS)
@options(40)
@given(st.data())
def test_any_values_make_an_object_or_a_value_error(
    group: str, option: str, data: st.DataObject
) -> None:
    cfg = OmegaConf.load(CONF / group / f"{option}.yaml")
    assert isinstance(cfg, DictConfig)
    given_keys = [key for key in leaves(cfg) if not key.startswith("_")]
    if not given_keys:
        return
    for key in data.draw(st.lists(st.sampled_from(given_keys), max_size=3, unique=True)):
        kind = type(OmegaConf.select(cfg, key))
        # as `check_command` lets through: numbers where the default is one, else anything
        allowed = {int: WHOLE, float: NUMBER, bool: st.booleans()}
        anything = st.one_of(st.none(), TEXT, NUMBER, st.booleans(), st.lists(NUMBER, max_size=4))
        OmegaConf.update(cfg, key, data.draw(allowed.get(kind, anything), label=key))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        check_made(instantiate(cfg))
    except (InstantiationException, *FAULTS) as error:
        refused(error)


@options(200)
@given(WHOLE, NUMBER, WHOLE, WHOLE, st.one_of(st.none(), WHOLE), TEXT)
def test_settings_are_possible_or_refused(
    step: int, eta: float, samples: int, seed: int, batch: int | None, word: str
) -> None:
    try:
        made = Settings(
            step=step,
            eta=eta,
            clip_x_0=False,
            num_samples=samples,
            seed=seed,
            batch_size=batch,
            on_nonfinite=word,  # type: ignore[arg-type]
        )
    except ValueError:
        return
    assert math.isfinite(made.eta)
    assert made.num_samples >= 1
    assert made.on_nonfinite in ("raise", "skip")


@pytest.mark.parametrize(
    ("group", "option", "key", "value"),
    [
        # the grid of so many steps would fill the memory, the list of so many devices too
        ("solver", "ddim", "steps", 2**40),
        ("trainer", "auto", "devices", 2**31),
        ("solver", "fixed_point", "tolerance", "small"),
        ("sampler", "geometric", "distance", "near"),
        ("sampler", "rejection", "pair_angle", [60]),
    ],
)
def test_values_that_once_were_taken_are_refused(
    group: str, option: str, key: str, value: object
) -> None:
    cfg = OmegaConf.load(CONF / group / f"{option}.yaml")
    OmegaConf.update(cfg, key, value)
    with pytest.raises((InstantiationException, ValueError)) as caught:
        check_made(instantiate(cfg))
    inner = innermost(caught.value)
    assert isinstance(inner, ValueError)
    assert f"{key} must be" in str(inner)


@pytest.mark.parametrize("size", ["", "a", 2.5, [1]])
def test_a_batch_size_that_is_no_number_is_refused(size: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match="batch_size must be a whole number >= 1 or null"):
        Settings(step=1, eta=0.0, clip_x_0=False, num_samples=1, seed=0, batch_size=size)
