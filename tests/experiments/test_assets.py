import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load

from ood_sampler.data.radiation import FluxScale

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "ood_sampler" / "assets"


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments" / "assets")
        yield


@pytest.fixture(scope="module")
def image_set() -> ModuleType:
    return importlib.import_module("image_set")


@pytest.fixture(scope="module")
def galaxy32() -> ModuleType:
    pytest.importorskip("galsim", reason="GalSim is not installed: pip install '.[assets]'")
    return importlib.import_module("galaxy32")


@pytest.fixture(scope="module")
def radiation32() -> ModuleType:
    return importlib.import_module("radiation32")


def stored(name: str, tensor: str) -> tuple[NDArray[np.generic], dict[str, str]]:
    with safe_open(ASSETS / name / f"{name}.safetensors", framework="numpy") as file:
        assert list(file.keys()) == [tensor]
        return file.get_tensor(tensor), file.metadata()


@pytest.fixture(scope="module")
def galaxies() -> NDArray[np.uint8]:
    return stored("galaxy32", "images")[0].astype(np.uint8, copy=False)


@pytest.fixture(scope="module")
def fields() -> NDArray[np.float16]:
    return stored("radiation32", "fields")[0].astype(np.float16, copy=False)


def distinct(images: NDArray[np.generic]) -> int:
    return len({image.tobytes() for image in images})


# The stored sets


@pytest.mark.parametrize(
    ("name", "tensor", "dtype"),
    [("galaxy32", "images", np.uint8), ("radiation32", "fields", np.float16)],
)
def test_shape_type_and_metadata(name: str, tensor: str, dtype: type) -> None:
    values, metadata = stored(name, tensor)
    assert values.shape == (2000, 3, 32, 32)
    assert values.dtype == dtype
    assert distinct(values) == 2000
    assert metadata["few_shot"] == "500"
    assert metadata["generator"].startswith(f"{name} ")
    assert metadata["seed"].isdigit()
    assert (ASSETS / name / "CARD.md").is_file()
    assert (ASSETS / name / "preview.png").is_file()


@pytest.mark.parametrize("index", [0, 7, 1999])
def test_galaxies_are_made_again(
    galaxy32: ModuleType, galaxies: NDArray[np.uint8], index: int
) -> None:
    again = galaxy32.galaxy(galaxy32.SEED, index).astype(int)
    # One level: other processors round the Fourier transforms in another way.
    assert np.abs(again - galaxies[index]).max() <= 1


@pytest.mark.parametrize("index", [0, 7, 1999])
def test_fields_are_made_again(
    radiation32: ModuleType, fields: NDArray[np.float16], index: int
) -> None:
    again = radiation32.radiation(radiation32.SEED, index)
    np.testing.assert_allclose(again.astype(float), fields[index].astype(float), rtol=2e-3)


def test_galaxies_are_centred_and_fill_the_frame(galaxies: NDArray[np.uint8]) -> None:
    light = (
        galaxies.mean(axis=1)
        - np.median(galaxies[:, :, :2].mean(axis=1), axis=(1, 2))[:, None, None]
    )
    light = light.clip(0)
    axis = np.arange(32) - 15.5
    total = light.sum(axis=(1, 2))
    x = (light.sum(axis=1) @ axis) / total
    y = (light.sum(axis=2) @ axis) / total
    assert np.abs([x.mean(), y.mean()]).max() < 5 * np.hypot(x.std(), y.std()) / math.sqrt(2000)
    assert (np.hypot(x, y) < 4).mean() > 0.95
    spread = np.sqrt((light * (axis[:, None] ** 2 + axis**2)).sum(axis=(1, 2)) / total)
    assert 5 < np.median(spread) < 12
    assert spread.std() > 0.5


def test_galaxies_use_the_range_of_levels_and_colours(galaxies: NDArray[np.uint8]) -> None:
    assert (galaxies == 255).mean() < 0.01
    assert (galaxies == 0).mean() < 0.05
    assert (galaxies.max(axis=(1, 2, 3)) > 120).mean() > 0.9
    core = galaxies[:, :, 12:20, 12:20].mean(axis=(2, 3))
    colour = np.log(core[:, 0] / core[:, 2])
    assert colour.std() > 0.2
    assert (colour > 0).mean() > 0.2
    rim = galaxies.astype(float)
    rim[:, :, 10:22, 10:22] = np.nan
    outer = np.nanmean(rim, axis=(2, 3))
    assert (np.log(outer[:, 0] / outer[:, 2]) < colour).mean() > 0.8  # bulges are redder than discs


def test_fields_lie_within_the_scale_stored_beside_them(fields: NDArray[np.float16]) -> None:
    scale = FluxScale.from_metadata(stored("radiation32", "fields")[1])
    flux = torch.from_numpy(fields)
    assert scale.clip(flux)[1] == 0
    rgb = scale.to_rgb(flux)
    # To half a unit of the stored float16 and better, with no 8-bit step.
    torch.testing.assert_close(scale.to_flux(rgb), flux.float(), rtol=2e-6, atol=0)
    assert len(torch.unique(rgb)) > 10_000
    deviation = rgb.std(dim=(0, 2, 3))
    assert float(deviation.min()) > 0.15
    assert float(rgb.std(dim=(2, 3)).median()) > 0.1


def test_dust_reddens_fields(fields: NDArray[np.float16]) -> None:
    dark = fields[:, 0] < np.quantile(fields[:, 0], 0.1)
    ratio = fields[:, 2].astype(float) / fields[:, 0].astype(float)
    assert np.median(ratio[dark]) < 0.1 * np.median(ratio[~dark])


# Radiation in closed form

OPACITY = np.array([0.1, 0.5, 1.3])
LUMINOSITY = np.array([10.0, 200.0, 3000.0])
STAR = np.array([1.9, 2.2, 0.7])


def grid_points(radiation32: ModuleType) -> NDArray[np.float64]:
    centre = (np.arange(32) + 0.5) * radiation32.CELL
    z, y, x = np.meshgrid(centre[16:17], centre, centre, indexing="ij")
    return np.stack([z, y, x], axis=-1).reshape(-1, 3)


def test_one_star_in_uniform_gas(radiation32: ModuleType) -> None:
    points = grid_points(radiation32)
    rho = 1.7
    star = radiation32.Star(STAR, LUMINOSITY)
    flux = radiation32.stellar_flux(
        np.full((32, 32, 32), rho), [star], points, opacity=OPACITY, nearest=0.0
    )
    r = np.sqrt(((points - STAR) ** 2).sum(axis=1))
    habing = 1.6e-3  # erg s^-1 cm^-2
    watt = 3.828e33 * LUMINOSITY[:, None] / (4 * math.pi * (r * 3.0857e18) ** 2)
    expected = watt / habing * np.exp(-OPACITY[:, None] * rho * r)
    np.testing.assert_allclose(flux, expected, rtol=1e-12)


def test_flux_is_limited_within_a_cell_of_a_star_and_adds_over_stars(
    radiation32: ModuleType,
) -> None:
    empty = np.zeros((32, 32, 32))
    first = radiation32.Star(STAR, LUMINOSITY)
    second = radiation32.Star(STAR[::-1].copy(), LUMINOSITY[::-1].copy())
    points = STAR + np.array([[0, 0, 0.0], [0, 0, 0.1], [0, 0, 0.2]])
    flux = radiation32.stellar_flux(empty, [first], points, opacity=OPACITY, nearest=0.125)
    np.testing.assert_allclose(flux[:, 0], flux[:, 1])
    np.testing.assert_allclose(flux[:, 2] / flux[:, 0], 0.125**2 / 0.2**2)
    both = radiation32.stellar_flux(empty, [first, second], points, opacity=OPACITY)
    alone = radiation32.stellar_flux(empty, [second], points, opacity=OPACITY)
    np.testing.assert_allclose(both, flux + alone)


def test_column_through_a_slope_of_density(radiation32: ModuleType) -> None:
    # A linear density is read exactly, and its integral is that at the middle times the length.
    z, y, x = np.meshgrid(*[(np.arange(32) + 0.5) * radiation32.CELL] * 3, indexing="ij")
    density = 1 + 0.5 * z + 2 * y + 3 * x
    start = np.array([0.5, 1.0, 1.5])
    ends = np.array([[3.5, 3.0, 0.3], [0.5, 1.0, 3.7], [2.0, 0.2, 1.5]])
    middle = (start + ends) / 2 @ np.array([0.5, 2, 3]) + 1
    expected = middle * np.linalg.norm(ends - start, axis=1)
    np.testing.assert_allclose(radiation32.column(density, start, ends), expected, rtol=1e-12)


def test_a_wall_casts_a_shadow_on_its_far_side_only(radiation32: ModuleType) -> None:
    density = np.zeros((32, 32, 32))
    density[:, :, 15:17] = 50.0
    star = radiation32.Star(np.array([2.0625, 2.0625, 1.0]), LUMINOSITY)
    flux = radiation32.stellar_flux(density, [star], grid_points(radiation32), opacity=OPACITY)
    flux = flux.reshape(3, 32, 32)
    clear = radiation32.stellar_flux(0 * density, [star], grid_points(radiation32), opacity=OPACITY)
    shade = flux / clear.reshape(3, 32, 32)
    np.testing.assert_allclose(shade[:, :, :14], 1.0)
    # Straight through the wall the path is 2 cells, obliquely more.
    straight = np.exp(-OPACITY * 50 * 2 * radiation32.CELL)
    np.testing.assert_allclose(-np.log(shade[:, 16, 30]), -np.log(straight), rtol=0.05)
    assert (shade[:, :, 18:] <= shade[:, 16:17, 30:31] * 1.2).all()
    assert (shade[2, :, 18:] < shade[0, :, 18:]).all()


def test_outer_field_in_uniform_gas(radiation32: ModuleType) -> None:
    rho = 0.3
    share = radiation32.external_flux(np.full((32, 32, 32), rho), plane=16, opacity=OPACITY)
    # Half a box along 6 axes, 12 diagonals of a face and 8 of the cube, in whole steps.
    lengths = [(6, 16, 1.0), (12, 11, math.sqrt(2)), (8, 9, math.sqrt(3))]
    for band, opacity in enumerate(OPACITY):
        tau = [(n, opacity * rho * radiation32.CELL * s * (k - 0.5)) for n, k, s in lengths]
        expected = sum(n * math.exp(-t) for n, t in tau) / 26
        np.testing.assert_allclose(share[band], expected, rtol=1e-12)


def test_outer_field_is_blocked_from_the_side_of_a_wall(radiation32: ModuleType) -> None:
    density = np.zeros((32, 32, 32))
    density[:, :, 20] = 1e6
    share = radiation32.external_flux(density, plane=16, opacity=OPACITY)
    # 9 of 26 directions look towards the wall from beside it.
    np.testing.assert_allclose(share[:, :, 19], 17 / 26)
    np.testing.assert_allclose(share[:, :, 21], 17 / 26)
    np.testing.assert_allclose(share[:, :, 20], 0.0, atol=1e-12)
    # Of the periodic walls at 20 and -12, none is within half a box of x = 4; from 3 and from 5
    # only the ray straight on reaches one, as oblique rays end earlier.
    np.testing.assert_allclose(share[:, :, 4], 1.0)
    np.testing.assert_allclose(share[:, :, [3, 5]], 25 / 26)


def test_outer_field_is_blocked_by_a_clump_in_line_with_a_cell(radiation32: ModuleType) -> None:
    density = np.zeros((32, 32, 32))
    density[19, 10, 14] = 1e6
    share = radiation32.external_flux(density, plane=16, opacity=OPACITY)
    expected = np.ones((32, 32))
    expected[np.ix_([7, 10, 13], [11, 14, 17])] = 25 / 26  # 3 cells below it, on 9 of the rays
    np.testing.assert_allclose(share, np.broadcast_to(expected, (3, 32, 32)))


def test_density_has_the_variance_of_its_mach_number(radiation32: ModuleType) -> None:
    field = radiation32.gaussian_field(np.random.default_rng(1))
    assert field.mean() == pytest.approx(0, abs=1e-12)
    assert field.std() == pytest.approx(1)
    density = radiation32.log_normal_density(field, mach=10.0, forcing=0.4)
    assert density.mean() == pytest.approx(1)
    assert np.log(density).var() == pytest.approx(math.log(17))


def test_spectrum_of_the_field(radiation32: ModuleType) -> None:
    rng = np.random.default_rng(2)
    wave = np.fft.fftfreq(32, 1 / 32)
    k = np.sqrt(wave[:, None, None] ** 2 + wave[:, None] ** 2 + wave**2)
    power = np.zeros((32, 32, 32))
    for _ in range(20):
        power += np.abs(np.fft.fftn(radiation32.gaussian_field(rng))) ** 2
    inside = (k > 1.5) & (k < 12)
    slope = np.polyfit(np.log(k[inside]), np.log(power[inside]), 1)[0]
    # The logarithm of a mean of 20 exponentials varies by 0.23; slope over about 7,000 modes, half
    # of them independent, with a standard deviation of ln k of 0.3.
    assert slope == pytest.approx(-11 / 3, abs=5 * 0.23 / (0.3 * math.sqrt(3500)))


def test_black_body_shares(radiation32: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # Half of the power is emitted below lambda T = 4107 micrometre K, one quarter below 2898.
    monkeypatch.setattr(radiation32, "BANDS", {"a": (0.03, 0.4107), "b": (0.03, 0.28978)})
    np.testing.assert_allclose(radiation32.band_shares(10_000.0), [0.5, 0.25], atol=1e-3)


def test_cavity_is_empty_at_the_star_and_ends_at_its_radius(radiation32: ModuleType) -> None:
    star = radiation32.Star(np.array([2.0625, 1.0625, 3.0625]), LUMINOSITY)
    density = radiation32.cavity(np.ones((32, 32, 32)), star, 0.5)
    assert density[16, 8, 24] == pytest.approx(0.05)
    assert density[16, 12, 24] == pytest.approx(1 - 0.95 * math.exp(-1))
    assert density[16, 16, 24] > 0.999


# Streams, stretch and storage


def test_an_image_depends_on_seed_and_index_alone(
    image_set: ModuleType, radiation32: ModuleType
) -> None:
    draws = [image_set.image_stream(s, i).random() for s, i in [(1, 0), (1, 1), (0, 1), (1, 0)]]
    assert draws[0] == draws[3]
    assert len(set(draws)) == 3
    together = image_set.images_of(radiation32.radiation, seed=5, count=2)
    np.testing.assert_array_equal(together[1], radiation32.radiation(5, 1))
    assert not np.array_equal(together[0], together[1])


def test_stretch_keeps_the_hue_and_ends_at_white(galaxy32: ModuleType) -> None:
    ramp = np.array([0.0, 10.0, 100.0, 600.0, 5000.0])
    colour = np.array([1.0, 0.5, 0.25]) * galaxy32.WHITE
    bands = colour[:, None, None] * ramp
    image = galaxy32.stretch(bands, softening=10.0, white=600.0)[:, 0].astype(float)
    expected = 255 * np.arcsinh(ramp[:4] / 10) / np.arcsinh(60)
    np.testing.assert_allclose(image[0, :4], expected, atol=0.5)
    np.testing.assert_allclose(image[1, :4], expected / 2, atol=0.5)
    np.testing.assert_allclose(image[2, :4], expected / 4, atol=0.5)
    assert image[0, 4] == 255
    assert galaxy32.stretch(-bands, softening=10.0, white=600.0).max() == 0


def test_disc_has_unit_flux_and_an_exponential_profile(galaxy32: ModuleType) -> None:
    smooth = galaxy32.MORPHOLOGIES["early"]
    disc, _ = galaxy32.face_on_disc(np.random.default_rng(0), smooth, 4.0)
    assert disc[1].sum() == pytest.approx(1)
    y, x = np.unravel_index(disc[1].argmax(), disc[1].shape)
    near, far = disc[1, y, x + 10], disc[1, y, x + 30]
    assert math.log(near / far) == pytest.approx(20 * galaxy32.STEP / 4.0, rel=0.06)


def test_shares_of_the_morphologies_add_to_one(galaxy32: ModuleType) -> None:
    assert sum(kind.share for kind in galaxy32.MORPHOLOGIES.values()) == pytest.approx(1)


def test_files_are_whole_ordered_and_readable(image_set: ModuleType, tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    metadata = {name: name * 2 for name in "dcbaxyz"}
    first = image_set.safetensors_bytes({"v": values, "w": values[:1]}, metadata)
    again = image_set.safetensors_bytes(
        {"w": values[:1], "v": values}, dict(reversed(metadata.items()))
    )
    assert first == again
    np.testing.assert_array_equal(load(first)["v"], values)
    path = tmp_path / "new" / "set.safetensors"
    image_set.write_atomically(path, first)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == metadata
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_command_writes_a_set(
    radiation32: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["radiation32.py", "--out", str(tmp_path), "--count", "2"])
    radiation32.main()
    again = load((tmp_path / "radiation32.safetensors").read_bytes())["fields"]
    np.testing.assert_array_equal(again[1], radiation32.radiation(radiation32.SEED, 1))
    assert not (tmp_path / "preview.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count must be >= 1, got 0"),
        (["--count", "5"], "--count 5 needs --out"),
        (["--seed", "-1"], "--seed must be >= 0, got -1"),
    ],
)
def test_bad_options(
    image_set: ModuleType,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["galaxy32.py", *options])
    with pytest.raises(SystemExit) as stopped:
        image_set.arguments("galaxy32", seed=1)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
