import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from ood_sampler.data.physical import as_bands, write_fields, write_fits, write_physical
from ood_sampler.data.radiation import AsinhScale, FieldScale, FluxScale, LinearScale
from ood_sampler.store.sets import InMemory


def test_samples_are_written_in_physical_units(tmp_path: Path) -> None:
    scale = LinearScale([0.0], [200.0])
    images = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    path = tmp_path / "samples.npy"
    write_physical(path, images.split(2), 5, scale)
    written = np.load(path)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written[:, 0, 1, 0], [0, 50, 100, 150, 200])
    assert written.shape == (5, 1, 2, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["samples.npy"]
    path.unlink()
    with pytest.raises(ValueError, match="count must be the number of images, 4, got 5"):
        write_physical(path, images[:4].split(2), 5, scale)
    assert not path.exists()


@pytest.mark.parametrize(
    ("scale", "keys"),
    [
        (
            AsinhScale([-3.0], [5.0], [0.5]),
            {"SCALING": "asinh", "LOW1": -3, "HIGH1": 5, "SOFT1": 0.5},
        ),
        (
            FluxScale([1e-17, 2.0, 3.0], [1e-12, 4.0, 5.0]),
            {"SCALING": "log", "LOW1": 1e-17, "HIGH1": 1e-12, "LOW3": 3, "HIGH3": 5},
        ),
        (LinearScale([1000.0], [1000.001]), {"SCALING": "linear", "HIGH1": 1000.001}),
    ],
)
def test_fits_has_the_values_the_unit_and_the_scale(
    tmp_path: Path, scale: FieldScale, keys: dict[str, object]
) -> None:
    images = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = write_fields(tmp_path, lambda: images.split(2), 5, scale, unit="Jy/beam")
    assert names == ["samples.npy", "samples.fits"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    stored = np.load(tmp_path / "samples.npy")
    assert (tmp_path / "samples.fits").stat().st_size % 2880 == 0
    with fits.open(tmp_path / "samples.fits") as units:
        units.verify("exception")
        assert len(units) == 1
        header, values = units[0].header, units[0].data
        assert values.dtype.newbyteorder("=") == stored.dtype
        assert values.shape == ((5, 4, 6) if len(scale.low) == 1 else (5, 3, 4, 6))
        np.testing.assert_array_equal(values.reshape(stored.shape), stored)
        assert header["BUNIT"] == "Jy/beam"
        assert {key: header[key] for key in keys} == keys
        assert ("SOFT1" in header) == isinstance(scale, AsinhScale)


@pytest.mark.parametrize(
    ("unit", "written"),
    [(None, None), ("µJy", "uJy"), ("W m⁻²", None), ("a\nb", None), ("x" * 90, "x" * 90)],
)
def test_unit_is_written_as_fits_can_hold_it(
    tmp_path: Path, unit: str | None, written: str | None
) -> None:
    path = tmp_path / "samples.fits"
    write_fits(path, [torch.zeros(2, 3, 2, 2)], 2, LinearScale([0.0], [1.0]), unit=unit)
    assert fits.getheader(path).get("BUNIT") == written
    assert fits.getdata(path).tolist() == [[[0.5, 0.5]] * 2] * 2


def test_without_astropy_fields_are_numpy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "astropy.io.fits", None)
    scale = LinearScale([0.0], [1.0])
    names = write_fields(tmp_path, lambda: [torch.zeros(2, 3, 2, 2)], 2, scale, unit=None)
    assert names == [file.name for file in tmp_path.iterdir()] == ["samples.npy"]


def test_images_of_one_band_are_grey_and_the_same_fields() -> None:
    images = InMemory(torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    three = LinearScale([0.0] * 3, [1.0] * 3)
    assert as_bands(images, None) is images
    assert as_bands(images, three) is images
    scale = LinearScale([0.0], [10.0])
    grey = as_bands(images, scale)
    assert (grey.shape, len(grey)) == ((3, 4, 4), 5)
    taken = grey.take([3, 1])
    expected = images.items[[3, 1]].mean(1, keepdim=True).expand(2, 3, 4, 4)
    torch.testing.assert_close(taken, expected)
    fields = scale.from_pictures(images.items[[3, 1]])
    torch.testing.assert_close(scale.from_pictures(taken), fields)
