import io
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits
from stand_ins import fields

from ood_sampler.data import arrays, formats
from ood_sampler.data.arrays import ArraySource
from ood_sampler.data.images import ImageError
from ood_sampler.data.layout import FieldError, Layout
from ood_sampler.data.sources import MissingPackageError


def open_arrays(root: Path, **changes: Any) -> ArraySource:  # noqa: ANN401
    key = changes.pop("key", "data.root")
    return ArraySource(root, Layout(**changes), key=key)


def write_fits(path: Path, values: np.ndarray) -> None:
    fits.PrimaryHDU(values).writeto(path)


def write_extension(path: Path, values: np.ndarray) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("z", "D", array=np.zeros(3))])
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(values, name="FLUX")]).writeto(path)


def write_tiles(path: Path, values: np.ndarray) -> None:
    # Without quantisation of floats the compression loses nothing.
    image = fits.CompImageHDU(values, compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)


def write_hdf5(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["labels"] = np.arange(3)
        file.create_dataset("maps/flux", data=values, chunks=True, compression="gzip")


def write_npz(path: Path, values: np.ndarray) -> None:
    np.savez(path, labels=np.arange(3), flux=values)


WRITERS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "a.npy": np.save,
    "b.npy": lambda path, values: np.save(path, np.asfortranarray(values)),
    "c.npy": lambda path, values: np.save(path, values.astype(">f8")),
    "d.npz": write_npz,
    "e.npz": lambda path, values: np.savez_compressed(path, flux=values),
    "f.npz": lambda path, values: np.savez_compressed(path, flux=np.asfortranarray(values)),
    "g.FITS": write_fits,
    "h.fits": write_extension,
    "i.fits.fz": write_tiles,
    "j.h5": write_hdf5,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("axes", ["nhw", "nchw", "nhwc"])
def test_every_format_gives_the_same_fields(tmp_path: Path, name: str, axes: str) -> None:
    shapes = {"nhw": (9, 11), "nchw": (3, 9, 11), "nhwc": (9, 11, 3)}
    stored = fields(5, *shapes[axes])
    WRITERS[name](tmp_path / name, stored)
    bands_first = {"nhw": stored[:, None], "nhwc": np.moveaxis(stored, -1, 1)}.get(axes, stored)
    band_axis = {"nhw": "none", "nchw": "first", "nhwc": "last"}[axes]
    for root in (tmp_path / name, tmp_path):
        source = open_arrays(root, band_axis=band_axis)
        assert list(source.names) == [f"[{index}]" for index in range(5)]
        source = pickle.loads(pickle.dumps(source))  # noqa: S301
        for index in (4, 0, 2):
            field = source.read(index)
            assert field.dtype == np.dtype("=f8")
            assert field.flags.c_contiguous
            np.testing.assert_array_equal(field, bands_first[index])
    assert source.path(4) == f"{tmp_path / name}[4]"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shape", [(9, 11), (3, 9, 11), (9, 11, 3)])
def test_every_format_may_hold_one_field_a_file(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    stored = fields(3, *shape)
    for index in range(3):
        (tmp_path / f"{2 - index}").mkdir()
        WRITERS[name](tmp_path / f"{2 - index}" / name, stored[index])
    (tmp_path / ".hidden.npy").write_bytes(b"")
    band_axis = {(9, 11): "none", (3, 9, 11): "first", (9, 11, 3): "last"}[shape]
    source = open_arrays(tmp_path, band_axis=band_axis)
    assert source.names == [f"0/{name}", f"1/{name}", f"2/{name}"]
    expected = stored[0] if shape[0] == 3 else np.moveaxis(stored[0].reshape(9, 11, -1), 2, 0)
    np.testing.assert_array_equal(source.read(2), expected)
    assert source.path(2) == f"{tmp_path}/2/{name}"


@pytest.mark.parametrize("kind", ["i2", ">u4", "f2", ">f4", "?", "i8"])
def test_numbers_of_every_type_become_native_doubles(tmp_path: Path, kind: str) -> None:
    stored = (fields(2, 4, 5) % 2).astype(kind)
    np.save(tmp_path / "a.npy", stored)
    field = open_arrays(tmp_path, band_axis="none").read(1)
    assert field.dtype == np.dtype("=f8")
    np.testing.assert_array_equal(field[0], stored[1].astype(float))


def test_scaled_integers_of_fits_are_physical_values(tmp_path: Path) -> None:
    unit = fits.PrimaryHDU(np.arange(60, dtype="f8").reshape(3, 4, 5) / 2 + 7)
    unit.scale("int16", bscale=0.5, bzero=7)
    unit.writeto(tmp_path / "a.fits")
    source = open_arrays(tmp_path, band_axis="none")
    np.testing.assert_allclose(source.read(2)[0, 3, 4], 59 / 2 + 7)


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.fits"])
def test_one_field_of_a_file_larger_than_memory_is_read(tmp_path: Path, name: str) -> None:
    shape = (200_000, 512, 512)  # 210 GB, on a disk that keeps no empty blocks
    path = tmp_path / name
    if name == "a.npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with path.open("wb") as stream:
            np.lib.format.write_array_header_2_0(stream, header)
            start = stream.tell()
        os.truncate(path, start + 4 * 512 * 512 * shape[0])
    elif name == "a.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("flux", shape, "f4")
    else:
        header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 3)])
        header.extend([("NAXIS1", 512), ("NAXIS2", 512), ("NAXIS3", shape[0])])
        path.write_bytes(header.tostring().encode())
        os.truncate(path, 2880 + 4 * 512 * 512 * shape[0])
    source = open_arrays(path)
    assert len(source) == shape[0]
    assert source.names[-1] == "[199999]"
    assert not source.read(199_999).any()


def test_bands_are_chosen_in_order(tmp_path: Path) -> None:
    stored = fields(3, 5, 9, 11)
    np.save(tmp_path / "a.npy", stored)
    np.testing.assert_array_equal(
        open_arrays(tmp_path, band_axis="first", bands=[4, 0, 2]).read(1), stored[1][[4, 0, 2]]
    )
    np.testing.assert_array_equal(
        open_arrays(tmp_path, band_axis="first", bands=[3]).read(1), stored[1][[3]]
    )
    with pytest.raises(ImageError, match=r"a\.npy\[0\] must have 1 or 3 bands, got 5; choose 1 or"):
        open_arrays(tmp_path, band_axis="first").read(0)
    with pytest.raises(ImageError, match=r"must have the bands \[5\], got 5 bands"):
        open_arrays(tmp_path, band_axis="first", bands=[5]).read(0)
    np.testing.assert_array_equal(
        open_arrays(tmp_path, band_axis="first", bands=3).read(1), stored[1][[3]]
    )
    for bands in ([0, 1], [], [-1], -1, ["a"], "a", "012", [None], [0.5], True, [True]):
        with pytest.raises(ValueError, match=r"data\.bands must be 1 or 3 indices from 0") as info:
            open_arrays(tmp_path, band_axis="first", bands=bands)
        assert str(info.value).endswith(f"got {bands!r}")


def test_band_axis_decides_where_the_shape_does_not(tmp_path: Path) -> None:
    stored = fields(2, 3, 7, 3)
    np.save(tmp_path / "a.npy", stored)
    with pytest.raises(ImageError, match=r"must show where its bands are, got \(3, 7, 3\); set"):
        open_arrays(tmp_path).read(0)
    np.testing.assert_array_equal(open_arrays(tmp_path, band_axis="first").read(1), stored[1])
    last = open_arrays(tmp_path, band_axis="last").read(1)
    np.testing.assert_array_equal(last, np.moveaxis(stored[1], 2, 0))
    with pytest.raises(
        ValueError, match="band_axis must be first, last, none or null, got 'middle'"
    ):
        open_arrays(tmp_path, band_axis="middle")


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        ((50, 40, 40), "first for 50 bands of 40x40, or to last for 40 bands of 50x40"),
        ((40, 40, 50), "first for 40 bands of 40x50, or to last for 50 bands of 40x40"),
        ((40, 40, 40), "first for 40 bands of 40x40, or to last for 40 bands of 40x40"),
        ((40, 10, 40), "first for 40 bands of 10x40, or to last for 40 bands of 40x10"),
        ((3, 40, 50), "first for 3 bands of 40x50, or to last for 50 bands of 3x40"),
        ((40, 50, 3), "first for 40 bands of 50x3, or to last for 3 bands of 40x50"),
    ],
)
def test_shape_that_can_be_read_in_two_ways_is_asked_for(
    tmp_path: Path, shape: tuple[int, ...], asked: str
) -> None:
    stored = fields(2, *shape)
    for index in range(2):
        write_fits(tmp_path / f"{index}.fits", stored[index])
    np.save(tmp_path / "stack.npy", stored)
    place = re.escape(f"must show where its bands are, got {shape}; set data.band_axis to {asked}")
    with pytest.raises(FieldError, match=rf"0\.fits {place}; many"):
        open_arrays(tmp_path, bands=2).read(0)
    with pytest.raises(FieldError, match=rf"each field of .*/stack\.npy {place}"):
        open_arrays(tmp_path / "stack.npy", bands=2)
    for axis, position in (("first", 0), ("last", 2)):
        expected = np.moveaxis(stored[1], position, 0)[[2]]
        one = open_arrays(tmp_path, bands=2, band_axis=axis).read(1)
        np.testing.assert_array_equal(one, expected)
        many = open_arrays(tmp_path / "stack.npy", bands=2, band_axis=axis).read(1)
        np.testing.assert_array_equal(many, expected)


@pytest.mark.parametrize(
    ("shape", "position"),
    [((10, 40, 40), 0), ((40, 40, 10), 2), ((1, 40, 50), 0), ((40, 50, 1), 2)],
)
def test_an_axis_shorter_than_two_equal_ones_has_the_bands(
    tmp_path: Path, shape: tuple[int, ...], position: int
) -> None:
    stored = fields(2, *shape)
    np.save(tmp_path / "a.npy", stored[0])
    np.save(tmp_path / "b.npy", stored[1])
    expected = np.moveaxis(stored[1], position, 0)[[0]]
    np.testing.assert_array_equal(open_arrays(tmp_path, bands=0).read(1), expected)


@pytest.mark.parametrize("shape", [(40, 40, 500), (400, 400, 3), (7, 5, 6), (40, 40, 40)])
def test_axis_that_counts_fields_is_asked_for_where_it_could_be_another(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    stored = fields(1, *shape)[0]
    np.save(tmp_path / "a.npy", stored)
    message = re.escape(f"which axis counts its fields, got {shape}; set data.band_axis to none if")
    with pytest.raises(FieldError, match=rf"a\.npy must show {message}"):
        open_arrays(tmp_path)
    source = open_arrays(tmp_path, band_axis="none")
    assert len(source) == shape[0]
    np.testing.assert_array_equal(source.read(2), stored[2][None])
    message = re.escape(f"must have a last axis of bands, as data.band_axis says, got {shape[1:]}")
    with pytest.raises(FieldError, match=message):
        open_arrays(tmp_path, band_axis="last")


def test_more_than_one_image_in_a_file_of_one_is_refused(tmp_path: Path) -> None:
    for index, shape in enumerate([(4, 9, 9), (2, 4, 9, 9)]):
        np.save(tmp_path / f"{index}.npy", fields(1, *shape)[0])
    with pytest.raises(FieldError, match=r"0\.npy must be one image \(H, W\), .* got \(4, 9, 9\)"):
        open_arrays(tmp_path, band_axis="none").read(0)
    for band_axis in (None, "first", "last"):
        with pytest.raises(FieldError, match=r"got \(2, 4, 9, 9\); give .*data\.band_axis") as info:
            open_arrays(tmp_path, band_axis=band_axis, bands=1).read(1)
        assert info.value.kind == "several images"
        assert pickle.loads(pickle.dumps(info.value)).kind == "several images"  # noqa: S301


@pytest.mark.parametrize("name", ["a.npy", "b.npz", "c.fits", "d.h5"])
def test_nan_becomes_what_is_asked_for(tmp_path: Path, name: str) -> None:
    stored = fields(3, 3, 5, 5)
    stored[1, 2, 3, 4] = stored[1, 2, 0, 0] = stored[1, 0, 1, 1] = np.nan
    writers = {"a.npy": np.save, "b.npz": write_npz, "c.fits": write_fits, "d.h5": write_hdf5}
    writers[name](tmp_path / name, stored)
    refused = rf"{name}\[1\] must hold finite values, got 3 NaN .*, or set data\.nan to zero or"
    with pytest.raises(FieldError, match=refused) as info:
        open_arrays(tmp_path).read(1)
    assert info.value.kind == "NaN"
    nan = np.isnan(stored[1])
    medians = [np.median(band[np.isfinite(band)]) for band in stored[1]]
    for choice, values in (("zero", [0.0] * 3), ("median", medians)):
        source = open_arrays(tmp_path, nan=choice)
        expected = np.where(nan, np.reshape(values, (3, 1, 1)), stored[1])
        np.testing.assert_array_equal(source.read(1), expected)
        np.testing.assert_array_equal(source.read(0), stored[0])
        assert (source.facts[0].filled, source.facts[1].filled) == (0, 3)
    with pytest.raises(ValueError, match=r"data\.nan must be refuse, zero or median, got 'mean'"):
        open_arrays(tmp_path, nan="mean")


def test_nan_that_cannot_be_replaced_is_an_error(tmp_path: Path) -> None:
    stored = fields(3, 5, 5)
    stored[0] = np.nan
    stored[1, 2, 3] = np.inf
    np.save(tmp_path / "a.npy", stored)
    with pytest.raises(FieldError, match=r"a number in each band for data.nan=median, got a band"):
        open_arrays(tmp_path, nan="median").read(0)
    assert not open_arrays(tmp_path, nan="zero").read(0).any()
    for nan in ("refuse", "zero", "median"):
        with pytest.raises(
            FieldError, match=r"got 0 NaN and 1 infinite ones.*repair or remove it$"
        ):
            open_arrays(tmp_path, nan=nan).read(1)


@pytest.mark.parametrize("kind", ["empty primary", "primary alone", "tiles"])
def test_the_only_image_of_a_fits_file_is_taken(tmp_path: Path, kind: str) -> None:
    stored = fields(3, 5, 5)
    writer = {"empty primary": write_extension, "primary alone": write_fits, "tiles": write_tiles}
    writer[kind](tmp_path / "a.fits", stored)
    np.testing.assert_array_equal(open_arrays(tmp_path).read(2)[0], stored[2])


def test_units_are_those_of_the_files(tmp_path: Path) -> None:
    image = fits.PrimaryHDU(fields(1, 5, 5)[0])
    image.header["BUNIT"] = "Jy/beam "
    image.writeto(tmp_path / "a.fits")
    image = fits.ImageHDU(fields(1, 5, 5)[0])
    image.header["BUNIT"] = "K"
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "b.fits")
    for name, attributes in (("c.h5", {"units": b"erg"}), ("d.h5", {"unit": "G0"}), ("e.h5", {})):
        with h5py.File(tmp_path / name, "w") as file:
            file["flux"] = fields(1, 5, 5)[0]
            file["flux"].attrs.update(attributes)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["flux"] = fields(1, 5, 5)[0]
        file["flux"].attrs["units"] = [1, 2]
    source = open_arrays(tmp_path)
    for index in range(6):
        source.read(index)
    units = [source.facts[index].unit for index in range(6)]
    assert units == ["Jy/beam", "K", "erg", "G0", None, None]


@pytest.mark.parametrize(("name", "other"), [("a.npz", "npz"), ("a.h5", "h5"), ("a.fits", "fits")])
def test_array_of_several_is_chosen_by_name(tmp_path: Path, name: str, other: str) -> None:
    one, two = fields(2, 5, 5), fields(2, 5, 5, seed=1)
    path = tmp_path / name
    if other == "npz":
        np.savez(path, one=one, two=two)
    elif other == "h5":
        with h5py.File(path, "w") as file:
            file["one"], file["two"] = one, two
    else:
        units = [fits.PrimaryHDU(), fits.ImageHDU(one, name="one"), fits.ImageHDU(two, name="two")]
        fits.HDUList(units).writeto(path)
    chosen = "TWO" if other == "fits" else "two"
    np.testing.assert_array_equal(open_arrays(path, array=chosen).read(1)[0], two[1])
    listed = r"1 \(ONE,1\), 2 \(TWO,1\)" if other == "fits" else "one, two"
    with pytest.raises(ImageError, match=rf"must hold one \w+, got {listed}; set data.array"):
        open_arrays(path)
    with pytest.raises(ImageError, match=rf"must hold .*three, got {listed}; set data.array"):
        open_arrays(path, array="three")


def test_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, two = fields(2, 5, 5), fields(2, 5, 5, seed=1)
    units = [
        fits.PrimaryHDU(),
        fits.ImageHDU(one, name="SCI", ver=1),
        fits.BinTableHDU.from_columns([fits.Column("z", "D", array=np.zeros(3))]),
        fits.ImageHDU(one + 1, name="ERR", ver=1),
        fits.ImageHDU(two, name="SCI", ver=2),
        fits.ImageHDU(two + 1),
    ]
    path = tmp_path / "a.fits"
    fits.HDUList(units).writeto(path)
    chosen = {"1": one, "SCI,1": one, "sci, 2": two, "4": two, "5": two + 1, "ERR": one + 1}
    for array, stored in chosen.items():
        np.testing.assert_array_equal(open_arrays(path, array=array).read(1)[0], stored[1])
    np.testing.assert_array_equal(open_arrays(path, array=4).read(1)[0], two[1])
    with pytest.raises(
        ImageError, match=r"data\.array=SCI, got 1 \(SCI,1\), 4 \(SCI,2\); set data"
    ):
        open_arrays(path, array="SCI")
    listed = r"got 1 \(SCI,1\), 3 \(ERR,1\), 4 \(SCI,2\), 5; set data\.array to the number of one"
    for array in (None, "0", "2", "6", "SCI,3", "1,1"):
        with pytest.raises(ImageError, match=listed):
            open_arrays(path, array=array)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shape", [(1, 1, 9, 11), (1, 3, 9, 11), (1, 1, 9, 11, 3)])
def test_leading_axes_of_one_are_dropped(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    stored = fields(2, *shape)
    for index in range(2):
        (tmp_path / f"{index}").mkdir()
        WRITERS[name](tmp_path / f"{index}" / name, stored[index])
    expected = stored[1, 0, 0] if len(shape) == 5 else stored[1, 0]
    expected = np.moveaxis(expected, 2, 0) if len(shape) == 5 else expected
    band_axis = "last" if len(shape) == 5 else "first"
    source = open_arrays(tmp_path, band_axis=band_axis)
    np.testing.assert_array_equal(source.read(1), expected)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [0, 40, 0.7, -1])
def test_truncated_file_is_an_error_with_its_name(tmp_path: Path, name: str, kept: float) -> None:
    WRITERS[name](tmp_path / name, fields(20, 32, 32))
    data = (tmp_path / name).read_bytes()
    if name.lower().endswith(("fits", "fz")) and kept == -1:
        kept = -2881  # padding to a multiple of 2880 bytes follows the data
    (tmp_path / name).write_bytes(data[: int(len(data) * kept) if kept == 0.7 else kept])
    with pytest.raises(ImageError, match=rf"{name}.*fetch it again"):
        open_arrays(tmp_path / name)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickles_are_never_loaded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.array([[[Trap()] * 4] * 4] * 3, dtype=object)
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, values, allow_pickle=True)
    with pytest.raises(ImageError, match="pickled objects, which are never loaded"):
        open_arrays(tmp_path / name)
    pickled = tmp_path / "b.npy"
    pickled.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ImageError, match=r"b\.npy cannot be read"):
        open_arrays(pickled)
    assert not (tmp_path / "trapped").exists()


def test_objects_beside_images_are_left_alone(tmp_path: Path) -> None:
    stored, labels = fields(2, 5, 5), np.array([["a", None]] * 2, dtype=object)
    np.savez(tmp_path / "a.npz", labels=labels, flux=stored)
    np.testing.assert_array_equal(open_arrays(tmp_path / "a.npz").read(1)[0], stored[1])
    np.savez(tmp_path / "b.npz", labels=labels, seeds=np.arange(3))
    message = "got pickled objects, which are never loaded; set data.array to an array of numbers"
    with pytest.raises(ImageError, match=message):
        open_arrays(tmp_path / "b.npz")
    with pytest.raises(ImageError, match=message):
        open_arrays(tmp_path / "a.npz", array="labels")


@pytest.mark.parametrize("name", ["a.npy", "d.npz", "e.npz"])
def test_damage_anywhere_in_a_header_is_an_error_of_that_file(tmp_path: Path, name: str) -> None:
    stored = fields(3, 5, 5)
    WRITERS[name](tmp_path / name, stored)
    data = (tmp_path / name).read_bytes()
    for place in range(min(160, len(data))):
        for byte in b"(\x00'-9":
            damaged = data[:place] + bytes([byte]) + data[place + 1 :]
            (tmp_path / name).write_bytes(damaged)
            # Any other error ends the test; some damage does not matter.
            with suppress(ImageError):
                source = open_arrays(tmp_path / name)
                source.read(0)


@pytest.mark.parametrize("shape", ["(-3, 4, 5)", "(3, 4", "(3, 4, 5", "[" * 5000, "(3, 'a', 5)"])
def test_header_that_is_no_header_is_an_error(tmp_path: Path, shape: str) -> None:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    (tmp_path / "a.npy").write_bytes(header + bytes(480))
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flux.npy", header + bytes(480))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(ImageError, match=rf"{name} cannot be read \(.+\); fetch it again"):
            open_arrays(tmp_path / name)


def test_hdf5_that_leads_to_other_files_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["flux"] = fields(3, 4, 5)
    (tmp_path / "raw").write_bytes(bytes(480))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["outside"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/flux")
        file["soft"] = h5py.SoftLink("/outside")
        raw = [(str(tmp_path / "raw"), 0, 480)]
        file.create_dataset("raw", (3, 4, 5), "f8", external=raw)
        layout = h5py.VirtualLayout((3, 4, 5), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "flux", (3, 4, 5))
        file.create_virtual_dataset("virtual", layout)
    for array in ("outside", "soft"):
        with pytest.raises(ImageError, match=f"must hold the array {array}, got raw, virtual"):
            open_arrays(tmp_path / "a.h5", array=array)
    for array in ("raw", "virtual"):
        with pytest.raises(ImageError, match="whose data lie in other files"):
            open_arrays(tmp_path / "a.h5", array=array)


def test_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_BYTES", 10_000)
    zeros = np.zeros((4, 32, 32))
    np.savez_compressed(tmp_path / "a.npz", zeros)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("flux", data=zeros, chunks=zeros.shape, compression="gzip")
    tiles = fits.CompImageHDU(zeros, compression_type="GZIP_1", tile_shape=zeros.shape)
    fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(tmp_path / "a.fits")
    for name in ("a.npz", "a.h5", "a.fits"):
        with pytest.raises(ImageError, match=rf"{name} must .* at most 10000 bytes"):
            open_arrays(tmp_path / name)
    monkeypatch.setattr(arrays, "MAX_PIXELS", 300)
    np.save(tmp_path / "a.npy", zeros)
    with pytest.raises(ImageError, match=r"must hold 1 to 900 values, got shape \(32, 32\)"):
        open_arrays(tmp_path / "a.npy").read(0)


def test_header_that_lies_about_a_compressed_array_is_an_error(tmp_path: Path) -> None:
    header = io.BytesIO()
    lie = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 32, 32)}
    np.lib.format.write_array_header_2_0(header, lie)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flux.npy", header.getvalue() + bytes(800))
    with pytest.raises(ImageError, match=r"truncated, it must have 8192000128 bytes and has 928"):
        open_arrays(tmp_path / "a.npz")


def test_packed_fits_is_to_be_unpacked(tmp_path: Path) -> None:
    import gzip

    write_fits(tmp_path / "a.fits", fields(3, 4, 5))
    (tmp_path / "b.fits").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    with pytest.raises(ImageError, match=r"b\.fits is no FITS file or is packed; unpack it"):
        open_arrays(tmp_path / "b.fits")
    (tmp_path / "x").mkdir()
    (tmp_path / "a.fits").rename(tmp_path / "x" / "a.fits.gz")
    with pytest.raises(ValueError, match=r"at least one array, got none;.*unpack a\.fits\.gz that"):
        open_arrays(tmp_path / "x")


def test_values_that_are_not_finite_are_told_by_file_and_place(tmp_path: Path) -> None:
    stored = fields(3, 3, 4, 6)
    stored[1, 2, 3, 5] = np.nan
    stored[1, 2, 0, 4] = -np.inf
    np.save(tmp_path / "a.npy", stored)
    source = open_arrays(tmp_path, band_axis="first")
    source.read(0)
    expected = r"a\.npy\[1\] must hold finite values, got 1 NaN and 1 infinite ones, the first in "
    with pytest.raises(ImageError, match=expected + "band 2, row 0, column 4; repair or"):
        source.read(1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4, 5), complex), "must hold real numbers, got complex128"),
        (np.zeros((3, 4, 5), "U3"), "must hold real numbers, got <U3"),
        (np.zeros((4, 5)), r"must hold \(N, H, W\), .* got \(4, 5\); files of one field each"),
        (np.zeros((2, 3, 3, 4, 5)), r"must hold \(N, H, W\), .* got \(2, 3, 3, 4, 5\)"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ImageError, match=message):
        open_arrays(tmp_path / "a.npy")


def test_file_of_many_among_files_of_one_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", fields(2, 3, 4, 5))
    np.save(tmp_path / "b.npy", fields(1, 4, 5)[0])
    with pytest.raises(ImageError, match=r"a\.npy must have shape .* got \(2, 3, 4, 5\); give"):
        open_arrays(tmp_path).read(0)


def test_missing_and_unknown_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; set data\.root to a fil"):
        open_arrays(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"set data\.held_out_root"):
        open_arrays(tmp_path / "nowhere", key="data.held_out_root")
    (tmp_path / "a.mat").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a\.mat must end in \.npy, .*, got \.mat"):
        open_arrays(tmp_path / "a.mat")
    with pytest.raises(ValueError, match="must hold at least one array, got none"):
        open_arrays(tmp_path)


@pytest.mark.parametrize(("name", "module"), [("g.FITS", "astropy.io.fits"), ("j.h5", "h5py")])
def test_missing_package_is_named_with_its_remedy(
    tmp_path: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path / name, fields(3, 4, 5))
    monkeypatch.setitem(sys.modules, module, None)
    end = module.partition(".")[0] + r": pip install -e '\.\[data\]' in the project's folder$"
    with pytest.raises(MissingPackageError, match=end):
        open_arrays(tmp_path)


def test_damage_in_a_compressed_tile_of_fits_is_an_error_of_that_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (3, 16, 16)).astype(np.int32)
    image = fits.CompImageHDU(values, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "a.fits")
    data = bytearray((tmp_path / "a.fits").read_bytes())
    # the number of bytes of the first tile, which begins the last block
    data[-2880 + 3] ^= 1
    (tmp_path / "a.fits").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.fits cannot be read \(decompression"):
        open_arrays(tmp_path / "a.fits").read(0)
