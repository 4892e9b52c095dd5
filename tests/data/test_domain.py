import io
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from stand_ins import picture
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from ood_sampler.data import domain as domain_module
from ood_sampler.data import images as images_module
from ood_sampler.data import split as split_module
from ood_sampler.data.domain import (
    ImageSet,
    Part,
    SourceImages,
    TargetDomain,
    TensorImages,
    embedded_domain,
    folder_domain,
)
from ood_sampler.data.images import ImageError, fit_square, read_rgb
from ood_sampler.data.sources import FolderSource
from ood_sampler.data.split import inspect


def png(seed: int, side: int = 8) -> bytes:
    return picture(seed, side)


def write_pictures(root: Path, seeds: Iterable[int], side: int = 8) -> Path:
    root.mkdir(exist_ok=True)
    for seed in seeds:
        (root / f"{seed:03d}.png").write_bytes(png(seed, side))
    return root


def make(root: Path, **changes: Any) -> TargetDomain:  # noqa: ANN401
    options = {
        "name": "pictures",
        "root": str(root),
        "resolution": 8,
        "few_shot": 4,
        "held_out": None,
        "held_out_root": None,
        "seed": 0,
        "on_error": "raise",
    }
    return folder_domain(**(options | changes))


def stack(images: ImageSet) -> torch.Tensor:
    return torch.stack([images[index] for index in range(len(images))])


def split(domain: TargetDomain) -> tuple[list[str], list[str]]:
    return domain.few_shot.names, domain.held_out.names


def test_items_are_the_named_pictures_in_unit_range(tmp_path: Path) -> None:
    domain = make(write_pictures(tmp_path, range(10)))
    for images in (domain.few_shot, domain.held_out):
        for name, item in zip(images.names, stack(images), strict=True):
            stored = np.asarray(Image.open(tmp_path / name)).transpose(2, 0, 1)
            expected = torch.from_numpy(stored.astype(np.float32)) / 127.5 - 1
            assert item.dtype == torch.float32
            torch.testing.assert_close(item, expected, rtol=0, atol=1e-6)
            assert torch.equal(((item + 1) * 127.5).round(), torch.from_numpy(stored * 1.0).float())


@settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 1000),
    few_shot=st.integers(2, 10),
    held_out=st.none() | st.integers(2, 10),
)
def test_split_is_disjoint_nested_and_complete(
    tmp_path: Path, seed: int, few_shot: int, held_out: int | None
) -> None:
    write_pictures(tmp_path, range(20))
    few, held = split(make(tmp_path, seed=seed, few_shot=few_shot, held_out=held_out))
    assert len(few) == few_shot
    assert len(held) == (20 - few_shot if held_out is None else held_out)
    assert len({*few, *held}) == len(few) + len(held)
    assert {*few, *held} <= {f"{index:03d}.png" for index in range(20)}
    assert make(tmp_path, seed=seed, few_shot=2).few_shot.names == few[:2]


def test_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    forwards = write_pictures(tmp_path / "forwards", range(30))
    backwards = write_pictures(tmp_path / "backwards", reversed(range(30)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(forwards.iterdir(), key=lambda path: path.stem[::-1]):
            archive.write(path, path.name)
    first = make(forwards)
    for root in (forwards, backwards, tmp_path / "a.zip"):
        again = make(root)
        assert split(again) == split(first)
        assert again.few_shot.digest == first.few_shot.digest
        assert again.held_out.digest == first.held_out.digest
    splits = {tuple(make(forwards, seed=seed).few_shot.names) for seed in range(5)}
    assert len(splits) == 5


def test_split_is_not_the_order_of_names(tmp_path: Path) -> None:
    few, held = split(make(write_pictures(tmp_path, range(30)), few_shot=15))
    assert few != sorted(few)
    assert max(few) > min(held)


def test_two_roots_feed_one_set_each(tmp_path: Path) -> None:
    few_root = write_pictures(tmp_path / "few", range(6))
    held_root = write_pictures(tmp_path / "held", range(100, 110))
    domain = make(few_root, held_out_root=str(held_root), few_shot=6)
    assert sorted(domain.few_shot.names) == [f"{index:03d}.png" for index in range(6)]
    assert sorted(domain.held_out.names) == [f"{index:03d}.png" for index in range(100, 110)]
    limited = make(few_root, held_out_root=str(held_root), held_out=3)
    assert limited.held_out.names == domain.held_out.names[:3]


@pytest.mark.parametrize(
    ("count", "cap", "expected"), [(4, 500, (2, 2)), (9, 500, (4, 5)), (9, 3, (3, 6))]
)
def test_few_shot_pictures_are_half_of_one_root_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, cap: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(split_module, "FEW_SHOT", cap)
    domain = make(write_pictures(tmp_path, range(count)), few_shot=None)
    assert (len(domain.few_shot), len(domain.held_out)) == expected


def test_few_shot_pictures_are_all_of_their_own_root_by_default(tmp_path: Path) -> None:
    few_root = write_pictures(tmp_path / "few", range(6))
    (few_root / "bad.png").write_bytes(b"text")
    held_root = write_pictures(tmp_path / "held", range(100, 103))
    domain = make(few_root, held_out_root=str(held_root), few_shot=None, on_error="skip")
    assert (len(domain.few_shot), len(domain.held_out)) == (6, 3)


def test_copies_of_few_shot_pictures_leave_the_held_out_set(tmp_path: Path) -> None:
    few_root = write_pictures(tmp_path / "few", range(4))
    held_root = write_pictures(tmp_path / "held", range(100, 105))
    (held_root / "copy.png").write_bytes(png(2))
    with pytest.warns(UserWarning, match=r"left out: 1 of 10 .* copy\.png, for example"):
        domain = make(few_root, held_out_root=str(held_root))
    assert domain.skipped == [("copy.png", "has the same bytes as few-shot image 002.png")]
    assert sorted(domain.held_out.names) == [f"{index}.png" for index in range(100, 105)]


def saved(seed: int, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    """The pixels of `png`, in another file."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(seed))).save(buffer, kind, **options)
    return buffer.getvalue()


def write_variants(root: Path, seed: int) -> list[str]:
    """Files of one image that differ in their bytes."""
    info = PngInfo()
    info.add_text("Comment", "another")
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = np.asarray(Image.open(io.BytesIO(png(seed))))
    border = io.BytesIO()
    Image.fromarray(wide).save(border, "PNG")
    files = {
        f"{seed}.bmp": saved(seed, "BMP"),
        f"{seed}text.png": saved(seed, "PNG", pnginfo=info),
        f"{seed}stored.png": saved(seed, "PNG", compress_level=0),
        f"{seed}.webp": saved(seed, "WEBP", lossless=True),
        f"{seed}wide.png": border.getvalue(),
    }
    for name, data in files.items():
        (root / name).write_bytes(data)
    return [*files]


@pytest.mark.parametrize("seed", range(5))
def test_one_picture_in_several_files_is_one_picture(tmp_path: Path, seed: int) -> None:
    write_pictures(tmp_path, range(8))
    variants = {"003.png", *write_variants(tmp_path, 3)}
    with pytest.warns(
        UserWarning, match="left out: 5 of 13 equal another at the model's"
    ) as record:
        domain = make(tmp_path, seed=seed)
    assert len(record) == 1
    names = [*domain.few_shot.names, *domain.held_out.names]
    (first,) = variants & {*names}
    assert len({*names} - variants) == 7
    role = "few-shot" if first in domain.few_shot.names else "held-out"
    reason = f"has the same pixels as {role} image {first}"
    assert sorted(domain.skipped) == sorted((name, reason) for name in variants - {first})


def test_pictures_may_be_equal_at_one_resolution_only(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(6))
    pixels = np.asarray(Image.open(tmp_path / "000.png")).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "near.png")
    assert len(make(tmp_path).held_out) == 3
    with pytest.warns(UserWarning, match="left out: 1 of 7"):
        assert len(make(tmp_path, resolution=1).held_out) == 2


@pytest.mark.filterwarnings("ignore:repeated images")
def test_repeats_are_found_in_archives_and_across_two_roots(tmp_path: Path) -> None:
    few_root = write_pictures(tmp_path / "few", range(4))
    with zipfile.ZipFile(tmp_path / "held.zip", "w") as archive:
        for name, seed in (("a", 2), ("b", 10), ("c", 11), ("d", 10)):
            archive.writestr(f"{name}.bmp", saved(seed, "BMP"))
    domain = make(few_root, held_out_root=str(tmp_path / "held.zip"))
    reasons = dict(domain.skipped)
    assert reasons.pop("a.bmp") == "has the same pixels as few-shot image 002.png"
    ((left_out, reason),) = reasons.items()
    kept = {"b.bmp": "d.bmp", "d.bmp": "b.bmp"}[left_out]
    assert reason == f"has the same bytes as held-out image {kept}"
    assert sorted(domain.held_out.names) == sorted(["c.bmp", kept])


def test_half_of_the_pictures_that_differ_are_few_shot_by_default(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(6))
    for seed in range(6):
        for copy in range(3):
            (tmp_path / f"{seed}{copy}.bmp").write_bytes(saved(seed, "BMP"))
    with pytest.warns(UserWarning, match="left out: 18 of 24"):
        domain = make(tmp_path, few_shot=None)
    assert (len(domain.few_shot), len(domain.held_out)) == (3, 3)
    with pytest.warns(UserWarning, match="repeated images"):
        fewer = make(tmp_path, few_shot=None, held_out=2)
    assert fewer.few_shot.names == domain.few_shot.names
    assert fewer.held_out.names == domain.held_out.names[:2]


def test_split_without_repeats_is_that_of_the_permutation(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(11))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(7)).tolist()
    expected = [f"{index:03d}.png" for index in order]
    assert split(make(tmp_path, seed=7)) == (expected[:4], expected[4:])
    assert split(make(tmp_path, seed=7, few_shot=None)) == (expected[:5], expected[5:])


def test_repeats_that_leave_too_few_pictures_are_counted(tmp_path: Path) -> None:
    held_root = write_pictures(tmp_path / "held", range(10, 16))
    few_root = write_pictures(tmp_path / "few", [0])
    for copy in range(7):
        (few_root / f"{copy}.bmp").write_bytes(saved(0, "BMP"))
    counted = r"of the 8 in .* \(7 repeated and 0 unreadable"
    with pytest.raises(ValueError, match=rf"few-shot set, which needs 2: 1 left {counted}"):
        make(few_root, held_out_root=str(held_root), few_shot=None)
    with pytest.raises(ValueError, match=rf"data\.few_shot must be at most 1, .* {counted}"):
        make(few_root, held_out_root=str(held_root), few_shot=8)


def test_numbers_that_only_repeats_make_too_large_are_lowered_with_a_warning(
    tmp_path: Path,
) -> None:
    write_pictures(tmp_path, range(10))
    (tmp_path / "copy.bmp").write_bytes(saved(0, "BMP"))
    with pytest.warns(UserWarning, match=r"left out: 1 of 11 .*; data\.held_out becomes 6, not 7$"):
        assert len(make(tmp_path, held_out=7).held_out) == 6
    with pytest.raises(ValueError, match=r"held_out must be at most 6, .* \(1 repeated and 0 unr"):
        make(tmp_path, held_out=8)


def test_every_picture_is_decoded_once_and_no_more_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def read(data: bytes, *, name: str) -> np.ndarray:
        decoded.append(name)
        return read_rgb(data, name=name)

    monkeypatch.setattr(split_module, "read_rgb", read)
    write_pictures(tmp_path, range(20))
    make(tmp_path, held_out=3)
    assert len(decoded) == 7
    decoded.clear()
    make(tmp_path, few_shot=None)
    assert len(decoded) == len({*decoded}) == 20
    decoded.clear()
    monkeypatch.setattr(split_module, "FEW_SHOT", 5)
    make(tmp_path, few_shot=None, held_out=2)
    assert len(decoded) == 7


@pytest.mark.parametrize("seed", range(5))
def test_copies_within_one_root_stay_on_one_side(tmp_path: Path, seed: int) -> None:
    write_pictures(tmp_path, range(6))
    for index in range(6):
        (tmp_path / f"copy{index}.png").write_bytes(png(index))
    with pytest.warns(UserWarning, match="repeated images left out: 6 of 12"):
        domain = make(tmp_path, seed=seed)
    few_bytes = {(tmp_path / name).read_bytes() for name in domain.few_shot.names}
    held_bytes = {(tmp_path / name).read_bytes() for name in domain.held_out.names}
    assert not few_bytes & held_bytes
    left_out = [name for name, _ in domain.skipped]
    assert sorted([*domain.few_shot.names, *domain.held_out.names, *left_out]) == sorted(
        path.name for path in tmp_path.iterdir()
    )


def test_unreadable_pictures_end_the_run_with_their_number(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(10))
    (tmp_path / "cut.png").write_bytes(png(50)[:60])
    (tmp_path / "note.jpg").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"^2 of 12 images cannot be used") as info:
        make(tmp_path)
    assert "data.on_error=skip" in str(info.value)
    assert str(tmp_path) in str(info.value)


def test_unreadable_pictures_are_skipped_and_replaced(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(10))
    for index in range(10):
        (tmp_path / f"bad{index}.png").write_bytes(b"text")
    domain = make(tmp_path, on_error="skip", few_shot=5)
    assert len(domain.few_shot) == 5
    assert len(domain.held_out) == 5
    assert sorted(name for name, _ in domain.skipped) == [f"bad{index}.png" for index in range(10)]
    assert all(name in reason and "is not an image" in reason for name, reason in domain.skipped)
    assert not any(name.startswith("bad") for names in split(domain) for name in names)


def test_pictures_that_are_not_used_are_not_read(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(20))
    domain = make(tmp_path, held_out=2)
    unused = {path.name for path in tmp_path.iterdir()} - {*domain.few_shot.names}
    for name in unused - {*domain.held_out.names}:
        (tmp_path / name).write_bytes(b"text")
    assert split(make(tmp_path, held_out=2)) == split(domain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"few_shot": 11}, r"few_shot must be at most 10, .* 10 in .* got 11"),
        ({"few_shot": 9}, r"too few images for the held-out set, which needs 2: 1 left of .* 10"),
        ({"held_out": 7}, r"held_out must be at most 6, .* got 7"),
        ({"few_shot": 1}, r"few_shot must be >= 2, got 1"),
        ({"held_out": 1}, r"held_out must be >= 2 or null for all, got 1"),
        ({"resolution": 0}, r"resolution must be >= 1, got 0"),
        ({"on_error": "ignore"}, r"on_error must be 'raise' or 'skip', got 'ignore'"),
    ],
)
def test_too_few_pictures_and_bad_options_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_pictures(tmp_path, range(10))
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)


def test_smallest_split_is_possible(tmp_path: Path) -> None:
    domain = make(write_pictures(tmp_path, range(4)), few_shot=2, held_out=2)
    assert [len(names) for names in split(domain)] == [2, 2]


def test_missing_held_out_root_names_its_key(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(4))
    with pytest.raises(FileNotFoundError, match=r"data\.held_out_root"):
        make(tmp_path, held_out_root=str(tmp_path / "nowhere"))


def test_small_pictures_are_upsampled_with_one_warning(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(6), side=16)
    write_pictures(tmp_path, range(6, 8), side=15)
    Image.new("RGB", (40, 15)).save(tmp_path / "008.png")
    with pytest.warns(UserWarning, match=r"3 images of pictures .* 16 pixels") as record:
        domain = make(tmp_path, resolution=16)
    assert len(record) == 1
    upsampled = [*domain.few_shot.upsampled, *domain.held_out.upsampled]
    assert sorted(upsampled) == ["006.png", "007.png", "008.png"]
    assert {*domain.few_shot.upsampled} <= {*domain.few_shot.names}
    assert stack(domain.held_out).shape[1:] == (3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tmp_path, resolution=15)


def test_digest_changes_with_all_that_changes_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(write_pictures(tmp_path, range(4)))
    pictures = [inspect(source, index, resolution=8) for index in range(4)]

    def digest(resolution: int = 8) -> str:
        return SourceImages(source, pictures, resolution=resolution).digest

    original = digest()
    assert len(original) == 64
    digests = {original, digest(resolution=7)}
    pictures.reverse()
    digests.add(digest())
    pictures.reverse()
    assert digest() == original
    (tmp_path / "000.png").write_bytes(png(99))
    pictures[0] = inspect(source, 0, resolution=8)
    digests.add(digest())
    (tmp_path / "000.png").rename(tmp_path / "0000.png")
    source = FolderSource(tmp_path)
    pictures[0] = inspect(source, 0, resolution=8)
    digests.add(digest())
    monkeypatch.setattr(domain_module, "READER_VERSION", images_module.READER_VERSION + 1)
    digests.add(digest())
    assert len(digests) == 6


def test_names_that_are_not_unicode_are_escaped_where_they_are_shown(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(4))
    (tmp_path / "small\udcff.png").write_bytes(png(5, side=7))
    (tmp_path / "bad\udce9.png").write_bytes(b"text")
    (tmp_path / "film\udce9.gif").write_bytes(b"GIF")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        domain = make(tmp_path, few_shot=3, on_error="skip", name="p\udce9")
    names = domain.few_shot.names + domain.held_out.names
    assert sorted(names) == [*(f"{index:03d}.png" for index in range(4)), "small\\udcff.png"]
    assert domain.few_shot.upsampled + domain.held_out.upsampled == ["small\\udcff.png"]
    assert stack(domain.few_shot).isfinite().all()
    assert stack(domain.held_out).isfinite().all()
    assert domain.name == "p\\udce9"
    ((name, reason),) = domain.skipped
    assert name == "bad\\udce9.png"
    assert "/bad\\udce9.png is not an image" in reason
    passed_over, upsampled = (str(warning.message) for warning in caught)
    assert "1 .gif (film\\udce9.gif)" in passed_over
    assert "small\\udcff.png for example" in upsampled


def test_digest_is_of_the_names_as_they_are_stored(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(3))
    digests = set()
    for name in ("\udcff.png", "\\udcff.png"):
        (tmp_path / name).write_bytes(png(5))
        domain = make(tmp_path, few_shot=2)
        digests.add((domain.few_shot.digest, domain.held_out.digest))
        assert "\\udcff.png" in domain.few_shot.names + domain.held_out.names
        (tmp_path / name).unlink()
    assert len(digests) == 2


def test_picture_that_changes_after_inspection_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one that is kept decoded stays what was inspected
    monkeypatch.setattr(domain_module, "_KEPT_BYTES", 0)
    domain = make(write_pictures(tmp_path, range(6)))
    (tmp_path / domain.few_shot.names[1]).write_bytes(png(99))
    domain.few_shot[0]
    with pytest.raises(ImageError, match="has changed since the run began"):
        domain.few_shot[1]


def test_pictures_are_decoded_once_as_far_as_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shot = make(write_pictures(tmp_path, range(6))).few_shot
    decoded: list[str] = []

    def counted(data: bytes, *, name: str) -> object:
        decoded.append(name)
        return read_rgb(data, name=name)

    monkeypatch.setattr(domain_module, "read_rgb", counted)
    monkeypatch.setattr(domain_module, "_KEPT_BYTES", 2 * few_shot[0].numel())
    few_shot._decoded.clear()  # type: ignore[attr-defined]
    decoded.clear()
    first = stack(few_shot)
    assert len(set(decoded)) == len(few_shot)
    decoded.clear()
    assert torch.equal(stack(few_shot), first)
    assert len(set(decoded)) == len(few_shot) - 2
    assert pickle.loads(pickle.dumps(few_shot))._decoded == {}  # noqa: S301


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_items_do_not_depend_on_workers(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", range(12))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "pictures").iterdir():
            archive.write(path, path.name)
    held_out = make(tmp_path / "a.zip").held_out
    loader = DataLoader(held_out, batch_size=3, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loader)), stack(held_out))
    assert torch.equal(stack(pickle.loads(pickle.dumps(held_out))), stack(held_out))  # noqa: S301


def random_bytes(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_tensor_images_are_scaled_bytes() -> None:
    stored = random_bytes(3, 8)
    images = TensorImages(stored, ["a", "b", "c"], resolution=8)
    expected = (stored.double() / 255 * 2 - 1).float()
    torch.testing.assert_close(stack(images), expected, rtol=0, atol=1e-6)
    assert images.names == ["a", "b", "c"]
    assert images.resolution == 8
    assert images.upsampled == []


def test_tensor_images_of_floats_are_kept_and_not_shared() -> None:
    stored = random_bytes(2, 8).float() / 127.5 - 1
    images = TensorImages(stored, ["a", "b"], resolution=8)
    assert torch.equal(stack(images), stored)
    images[0].zero_()
    assert images[0].any()


def test_tensor_images_are_resized_by_rule() -> None:
    stored = random_bytes(2, 8)
    enlarged = TensorImages(stored, ["a", "b"], resolution=12)
    expected = fit_square(stored[1].permute(1, 2, 0).numpy(), 12)
    assert torch.equal(enlarged[1], expected.float() / 127.5 - 1)
    assert enlarged.upsampled == ["a", "b"]
    floats = stored.float() / 127.5 - 1
    for resolution in (4, 12):
        resized = stack(TensorImages(floats, ["a", "b"], resolution=resolution))
        size = (resolution, resolution)
        expected = interpolate(floats, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        torch.testing.assert_close(resized, expected)
        assert resized.abs().max() <= 1


def test_tensor_images_digest_changes_with_all_that_changes_items() -> None:
    stored = random_bytes(2, 8)
    changed = stored.clone()
    changed[1, 2, 7, 7] ^= 1
    digests = [
        TensorImages(stored, ["a", "b"], resolution=8).digest,
        TensorImages(stored, ["a", "c"], resolution=8).digest,
        TensorImages(stored, ["a", "b"], resolution=9).digest,
        TensorImages(changed, ["a", "b"], resolution=8).digest,
        TensorImages(stored.flip(0), ["a", "b"], resolution=8).digest,
        TensorImages(stored[:1], ["a"], resolution=8).digest,
    ]
    assert len({*digests}) == len(digests)
    assert TensorImages(stored.clone(), ["a", "b"], resolution=8).digest == digests[0]


@pytest.mark.parametrize(
    ("images", "names", "message"),
    [
        (torch.zeros(2, 3, 8, 8).double(), ["a", "b"], "images must be uint8 or float32"),
        (torch.zeros(2, 1, 8, 8), ["a", "b"], r"images must have shape \(N, 3, S, S\), got \(2, 1"),
        (torch.zeros(2, 3, 8, 9), ["a", "b"], r"images must have shape"),
        (torch.full((1, 3, 8, 8), 1.5), ["a"], r"float images must lie in \[-1, 1\], got 1\.5"),
        (
            torch.full((1, 3, 8, 8), torch.nan),
            ["a"],
            r"float images must lie in \[-1, 1\], got nan",
        ),
        (torch.zeros(2, 3, 8, 8), ["a"], "names must be 2, one per image, got 1"),
    ],
)
def test_tensor_images_check_their_arguments(
    images: torch.Tensor, names: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TensorImages(images, names, resolution=8)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    stored = random_bytes(520, 4)
    (tmp_path / "toy32").mkdir()
    save_file({"images": stored}, tmp_path / "toy32" / "toy32.safetensors")
    monkeypatch.setattr(domain_module, "_ASSETS", tmp_path)
    return stored


def test_embedded_domain_is_split_by_index(shipped: torch.Tensor) -> None:
    domain = embedded_domain(name="toy32", resolution=4, few_shot=3, held_out=2)
    assert split(domain) == (
        ["toy32/0000", "toy32/0001", "toy32/0002"],
        ["toy32/0500", "toy32/0501"],
    )
    floats = shipped.float() / 127.5 - 1
    assert torch.equal(stack(domain.few_shot), floats[:3])
    assert torch.equal(stack(domain.held_out), floats[500:502])
    assert domain.skipped == []
    everything = embedded_domain(name="toy32", resolution=4, few_shot=500, held_out=None)
    assert torch.equal(stack(everything.few_shot), floats[:500])
    assert torch.equal(stack(everything.held_out), floats[500:])


def test_embedded_fluxes_become_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = (1.0, 2.0, 4.0), (4.0, 32.0, 64.0)
    # The bounds of each band and their geometric mean.
    fluxes = torch.tensor([[1, 2, 4], [4, 32, 64], [2, 8, 16]]).half()[:, :, None, None]
    fields = fluxes.repeat(174, 1, 2, 2)
    (tmp_path / "toy32").mkdir()
    metadata = {"flux_low": " ".join(map(str, low)), "flux_high": " ".join(map(str, high))}
    save_file({"fields": fields}, tmp_path / "toy32" / "toy32.safetensors", metadata)
    monkeypatch.setattr(domain_module, "_ASSETS", tmp_path)
    domain = embedded_domain(name="toy32", resolution=2, few_shot=3, held_out=2)
    expected = torch.tensor([-1, 1, 0]).float().view(3, 1, 1, 1).expand(3, 3, 2, 2)
    torch.testing.assert_close(stack(domain.few_shot), expected, rtol=0, atol=1e-6)
    assert domain.held_out.names == ["toy32/0500", "toy32/0501"]


@pytest.mark.parametrize("name", ["galaxy32", "radiation32"])
def test_no_two_pictures_of_a_shipped_domain_are_the_same(name: str) -> None:
    domain = embedded_domain(name=name, resolution=32, few_shot=None, held_out=None)
    bytes_shown = [
        ((images[index] + 1) * 127.5).round().byte().numpy().tobytes()
        for images in (domain.few_shot, domain.held_out)
        for index in range(len(images))
    ]
    assert len(bytes_shown) == len({*bytes_shown}) == 2000


@pytest.mark.usefixtures("shipped")
def test_embedded_domain_warns_when_it_upsamples() -> None:
    with pytest.warns(UserWarning, match=r"5 images of toy32 .* 6 pixels"):
        domain = embedded_domain(name="toy32", resolution=6, few_shot=3, held_out=2)
    assert domain.few_shot[0].shape == (3, 6, 6)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("few_shot", "held_out", "message"),
    [
        (501, None, "few_shot must be at most 500, .* got 501"),
        (2, 21, "held_out must be at most 20, .* got 21"),
        (1, None, "few_shot must be >= 2, got 1"),
        (2, 0, "held_out must be >= 2 or null for all, got 0"),
    ],
)
def test_embedded_domain_checks_its_counts(
    few_shot: int, held_out: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        embedded_domain(name="toy32", resolution=4, few_shot=few_shot, held_out=held_out)


@pytest.mark.usefixtures("shipped")
def test_unknown_embedded_domain_names_its_key() -> None:
    with pytest.raises(FileNotFoundError, match=r"galaxies\.safetensors .* set data\.name to"):
        embedded_domain(name="galaxies", resolution=4, few_shot=2, held_out=2)


def test_damaged_embedded_domain_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy32").mkdir()
    (tmp_path / "toy32" / "toy32.safetensors").write_bytes(b"text that is no tensor")
    monkeypatch.setattr(domain_module, "_ASSETS", tmp_path)
    with pytest.raises(ValueError, match=r"toy32\.safetensors is damaged .* install the package"):
        embedded_domain(name="toy32", resolution=4, few_shot=2, held_out=2)


def test_a_part_of_a_set_holds_the_items_asked_for() -> None:
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 3, 4, 4)
    whole = TensorImages(images, [f"p{i}" for i in range(6)], resolution=8)
    part = Part(whole, [4, 1])
    assert part.names == ["p4", "p1"]
    assert part.upsampled == part.names
    assert torch.equal(part[0], whole[4])
    assert torch.equal(part[1], whole[1])
    with pytest.raises(IndexError):
        part[2]
    digests = {whole.digest, part.digest, Part(whole, [1, 4]).digest, Part(whole, [4]).digest}
    assert len(digests) == 4
