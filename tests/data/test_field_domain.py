import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from stand_ins import fields

from ood_sampler.data import field_domain as fields_module
from ood_sampler.data.domain import TargetDomain
from ood_sampler.data.field_domain import array_domain, resize
from ood_sampler.data.images import ImageError
from ood_sampler.data.limits import measure_limits
from ood_sampler.data.published import Origin
from ood_sampler.data.radiation import read_scale

ORIGIN = Origin(what="fields", where="their authors", licence="theirs", layout="one file")


def make(root: Path, **changes: Any) -> TargetDomain:  # noqa: ANN401
    options = {
        "name": "radiation",
        "root": str(root),
        "resolution": 8,
        "few_shot": 6,
        "held_out": None,
        "held_out_root": None,
        "array": None,
        "band_axis": None,
        "bands": None,
        "nan": "refuse",
        "scaling": "log",
        "low": 1e-3,
        "high": 1e4,
        "quantiles": (0, 1),
        "softening": 0.01,
        "seed": 0,
        "on_error": "raise",
        "origin": ORIGIN,
    }
    return array_domain(**(options | changes))


def save(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def numbers(names: list[str]) -> list[int]:
    return [int(name.strip("[]")) for name in names]


def test_pictures_are_scaled_fields_and_samples_become_fields(tmp_path: Path) -> None:
    stored = fields(15, 3, 8, 8)
    domain = make(save(tmp_path / "a.npy", stored))
    assert domain.scale is not None
    assert domain.clipped == (0, 0)
    for images in (domain.few_shot, domain.held_out):
        for name, image in zip(numbers(images.names), images, strict=True):
            assert image.dtype == torch.float32
            expected = 2 * np.log(stored[name] / 1e-3) / np.log(1e7) - 1
            torch.testing.assert_close(image.numpy(), expected.astype("f4"), rtol=0, atol=1e-6)
            back = domain.scale.from_pictures(image)
            np.testing.assert_allclose(back, stored[name], rtol=2e-6)
    used = numbers([*domain.few_shot.names, *domain.held_out.names])
    assert sorted(used) == list(range(15))


def test_the_seed_alone_fixes_the_split(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", fields(15, 8, 8))

    def few_shot(seed: int) -> list[int]:
        return numbers(make(path, seed=seed).few_shot.names)

    # of the few-shot set as of folders: the beginning of a permutation of the names
    for seed in (0, 1, 2):
        order = torch.randperm(15, generator=torch.Generator().manual_seed(seed))
        assert few_shot(seed) == few_shot(seed) == order[:6].tolist()


def test_one_band_is_grey_and_comes_back_as_one_band(tmp_path: Path) -> None:
    stored = fields(15, 8, 8)
    domain = make(save(tmp_path / "a.npy", stored))
    assert domain.scale is not None
    image = domain.few_shot[2]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    field = stored[numbers(domain.few_shot.names)[2]]
    np.testing.assert_allclose(domain.scale.from_pictures(image)[0], field, rtol=2e-6)


def test_limits_come_from_few_shot_fields_alone(tmp_path: Path) -> None:
    stored = fields(15, 3, 8, 8)
    path = save(tmp_path / "a.npy", stored)
    domain = make(path, low=None, high=None)
    few_shot = stored[numbers(domain.few_shot.names)]
    assert domain.scale is not None
    np.testing.assert_allclose(domain.scale.low, few_shot.min((0, 2, 3)))
    np.testing.assert_allclose(domain.scale.high, few_shot.max((0, 2, 3)))
    stored[numbers(domain.held_out.names)] *= 1e3
    save(path, stored)
    with pytest.warns(UserWarning, match=r"0\.00% of the few-shot and 57\.81% of the held-out"):
        brighter = make(path, low=None, high=None)
    assert brighter.scale is not None
    assert brighter.scale.as_dict() == domain.scale.as_dict()
    assert brighter.few_shot.digest == domain.few_shot.digest
    assert brighter.clipped is not None
    assert brighter.clipped[0] == 0
    assert brighter.held_out[0].max() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantiles": 0.5}, r"data\.quantiles must be two increasing .*, got 0\.5$"),
        ({"quantiles": [None, 1]}, r"data\.quantiles must be two increasing .*, got \[None, 1\]$"),
        ({"quantiles": "ab"}, r"data\.quantiles must be two increasing .*, got 'ab'$"),
        ({"low": "abc"}, r"data\.low must be null, one number, or .*, got 'abc'$"),
        ({"low": [None, 1, 1]}, r"data\.low must be null, .*, got \[None, 1, 1\]$"),
        ({"high": True}, r"data\.high must be null, .*, got True$"),
        ({"high": ["a"]}, r"data\.high must be null, .*, got \['a'\]$"),
        ({"softening": "a"}, r"data\.softening must be a number > 0, got 'a'$"),
        ({"bands": ["a"]}, r"data\.bands must be 1 or 3 indices .*, got \['a'\]$"),
    ],
)
@pytest.mark.parametrize("configured", [True, False])
def test_settings_of_another_type_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str, configured: bool
) -> None:
    path = save(tmp_path / "a.npy", fields(15, 3, 8, 8))
    if configured:
        created = OmegaConf.create(changes)
        changes = {key: created[key] for key in changes}
    with pytest.raises(ValueError, match=message):
        make(path, **changes)


def test_damaged_header_of_one_file_is_skipped(tmp_path: Path) -> None:
    for index, field in enumerate(fields(15, 8, 8)):
        save(tmp_path / f"{index:02d}.npy", field)
    data = (tmp_path / "03.npy").read_bytes()
    (tmp_path / "03.npy").write_bytes(data[:10] + data[10:].replace(b"}", b"(", 1))
    domain = make(tmp_path, on_error="skip", bands=0)
    assert [name for name, _ in domain.skipped] == ["03.npy"]
    assert f"{tmp_path}/03.npy cannot be read" in domain.skipped[0][1]


def test_a_given_limit_is_kept_and_the_other_measured(tmp_path: Path) -> None:
    stored = fields(15, 3, 8, 8)
    domain = make(save(tmp_path / "a.npy", stored), low=[1e-4, 1e-5, 1e-6], high=None)
    few_shot = stored[numbers(domain.few_shot.names)]
    assert domain.scale is not None
    assert domain.scale.low == (1e-4, 1e-5, 1e-6)
    np.testing.assert_allclose(domain.scale.high, few_shot.max((0, 2, 3)))
    assert read_scale(domain.scale.as_dict()).as_dict() == domain.scale.as_dict()


@pytest.mark.parametrize("positive", [True, False])
def test_quantiles_are_those_of_all_values(positive: bool) -> None:
    stored = torch.from_numpy(fields(40, 2, 16, 16))
    if not positive:
        stored = stored.log()
    stored[:, 1] *= 7
    low, high = measure_limits(list(stored), (0.01, 0.9), positive=positive)
    counted = stored.log() if positive else stored
    for band in range(2):
        span = (counted[:, band].amax() - counted[:, band].amin()).item()
        for limit, quantile in ((low[band], 0.01), (high[band], 0.9)):
            exact = torch.quantile(counted[:, band].reshape(-1), quantile).item()
            found = np.log(limit) if positive else limit
            # The distance of neighbouring values adds to the width of a bin.
            assert found == pytest.approx(exact, abs=span * (2**-16 + 20 / 40 / 256))


def test_quantile_of_known_counts() -> None:
    ramp = [torch.arange(1, 101, dtype=torch.float64).view(1, 10, 10)] * 3
    low, high = measure_limits(ramp, (0.25, 0.995), positive=False)
    assert low == pytest.approx([25], abs=0.01)
    assert high == pytest.approx([100], abs=0.01)
    assert measure_limits(ramp, (0, 1), positive=True) == ([1.0], [100.0])


@pytest.mark.parametrize("outlier", [1e3, 1e9, 1e15])
@pytest.mark.parametrize("quantiles", [(0.001, 0.999), (0, 0.99)])
def test_quantiles_are_found_however_far_an_outlier_lies(
    outlier: float, quantiles: tuple[float, float]
) -> None:
    stored = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    stored[3, 0, 4, 5] = outlier
    stored[5, 0, 2, 1] = -1 if quantiles[0] == 0 else -outlier
    for offset in (0, 1000):
        limits = measure_limits(list(stored + offset), quantiles, positive=False)
        exact = torch.quantile(stored.reshape(-1), torch.tensor(quantiles).double()) + offset
        np.testing.assert_allclose(np.ravel(limits), exact, atol=2e-3)


@pytest.mark.filterwarnings("ignore:.*are clipped:UserWarning")
def test_log_limits_leave_out_what_is_not_positive(tmp_path: Path) -> None:
    stored = fields(15, 8, 8)
    stored[:, 0, :4] = 0
    with pytest.warns(UserWarning, match=r"6\.25% of the few-shot and 6\.\d\d% of the held-out"):
        domain = make(save(tmp_path / "a.npy", stored), low=None, high=None)
    assert domain.scale is not None
    few_shot = stored[numbers(domain.few_shot.names)]
    assert domain.scale.low[0] == few_shot[few_shot > 0].min()
    assert (domain.few_shot[0][:, 0, :4] == -1).all()
    linear = make(tmp_path / "a.npy", scaling="linear", low=None, high=None)
    assert linear.scale is not None
    assert linear.scale.low == (0,)


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (-fields(15, 8, 8), {"low": None}, r"band 0 must have two different positive values to"),
        (fields(15, 8, 8), {"low": 0}, r"low must be > 0 .*; set data\.low and data\.high, or"),
        (fields(15, 8, 8), {"low": [1, 1, 1]}, r"or one for each of the 1 bands, got \[1\.0, 1"),
        (fields(15, 8, 8), {"scaling": "sqrt"}, r"data\.scaling must be one of log, linear, asinh"),
        (fields(15, 8, 8), {"quantiles": (0.9, 0.1)}, r"data\.quantiles must be two increasing"),
        (fields(15, 8, 8), {"quantiles": (0, 1.5)}, r"data\.quantiles must be two increasing"),
        (fields(15, 8, 8), {"softening": 0}, r"data\.softening must be a number > 0, got 0"),
        (fields(15, 8, 8), {"few_shot": 1}, "few_shot must be >= 2, got 1"),
        (fields(15, 8, 8), {"resolution": 0}, "resolution must be >= 1, got 0"),
        (fields(3, 8, 8), {}, "few_shot must be at most 3, .*, got 6"),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, values: np.ndarray, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(save(tmp_path / "a.npy", values), **changes)


def test_fields_of_different_bands_are_refused(tmp_path: Path) -> None:
    for index in range(6):
        shape = (3, 8, 8) if index else (8, 8)
        save(tmp_path / f"{index}.npy", fields(1, *shape, seed=index)[0])
    with pytest.raises(ValueError, match="all fields must have as many bands, got"):
        make(tmp_path, low=None, few_shot=4, seed=1)


def test_missing_fields_are_explained(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"the data set radiation is missing: .*/x does not"
    ):
        make(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match=r"y does not exist; set data\.held_out_root"):
        make(save(tmp_path / "a.npy", fields(9, 8, 8)), held_out_root=str(tmp_path / "y"))


def test_copies_are_found_whatever_their_type(tmp_path: Path) -> None:
    stored = fields(9, 8, 8).astype("f4")
    save(tmp_path / "a.npy", stored)
    others = fields(5, 8, 8, seed=1)
    others[3] = stored[2]
    save(tmp_path / "b.npy", others.astype(">f8"))
    with pytest.warns(UserWarning, match="repeated images left out: 1 of 14"):
        domain = make(tmp_path / "a.npy", few_shot=None, held_out_root=str(tmp_path / "b.npy"))
    assert domain.skipped == [("[3]", "has the same bytes as few-shot image [2]")]
    assert len(domain.few_shot) == 9
    assert len(domain.held_out) == 4


@pytest.mark.parametrize("exponent", [0, -200, 200])
def test_a_field_in_single_and_in_double_precision_is_one_field(
    tmp_path: Path, exponent: int
) -> None:
    exact = fields(9, 12, 16) * 1.0000000123
    others = fields(3, 12, 16, seed=1)
    others[1] = exact[5].astype("f4")
    # beyond the range of float32 the rounding is the same
    options = {"low": 1e-4 * 10.0**exponent, "high": 1e5 * 10.0**exponent, "scaling": "linear"}
    options["band_axis"] = "none"
    scale = 2.0 ** (np.log2(10.0) * exponent // 1)
    save(tmp_path / "a.npy", exact * scale)
    save(tmp_path / "b.npy", others * scale)
    with pytest.warns(UserWarning, match="repeated images left out: 1 of 12"):
        domain = make(
            tmp_path / "a.npy",
            few_shot=9,
            held_out_root=str(tmp_path / "b.npy"),
            **options,
        )
    assert domain.skipped == [("[1]", "has the same pixels as few-shot image [5]")]


def test_field_with_nan_ends_the_run_or_is_skipped(tmp_path: Path) -> None:
    stored = fields(15, 8, 8)
    stored[4, 1, 2] = np.nan
    path = save(tmp_path / "a.npy", stored)
    with pytest.raises(ImageError, match=r"1 of 15 .*a\.npy\[4\] must hold finite .*on_error=skip"):
        make(path)
    domain = make(path, on_error="skip")
    assert [name for name, _ in domain.skipped] == ["[4]"]
    assert len(domain.few_shot) + len(domain.held_out) == 14


def test_errors_are_counted_by_kind_with_an_example_of_each(tmp_path: Path) -> None:
    for index, field in enumerate(fields(12, 8, 8)):
        if index in (1, 4, 9):
            field[index // 2, 2] = np.nan
        save(tmp_path / f"{index:02d}.npy", field[:5, :3] if index == 1 else field)
    save(tmp_path / "20.npy", fields(1, 40, 8, 8)[0])
    save(tmp_path / "21.npy", fields(1, 8, 8, 40)[0])
    save(tmp_path / "22.npy", fields(1, 2, 5, 8, 8)[0])
    (tmp_path / "23.npy").write_bytes(b"")
    with pytest.raises(ImageError) as info:
        make(tmp_path)
    text = str(info.value)
    assert text.startswith("7 of 16 images cannot be used (")
    counts = text[text.index("(") + 1 : text.index(")")]
    assert sorted(counts.split(", ")) == [
        "NaN: 3",
        "several images: 1",
        "shape: 2",
        "unreadable: 1",
    ]
    assert counts.startswith("NaN: 3, shape: 2")
    assert text.count("must hold finite values") == 1
    assert text.count("must show where its bands are") == 1
    assert text.count("give a file of many fields") == 1
    assert text.count("23.npy cannot be read") == 1
    assert text.endswith("or leave all such images out with data.on_error=skip")
    domain = make(tmp_path, on_error="skip", few_shot=4)
    assert len(domain.skipped) == 7


def test_replaced_nan_are_told_and_belong_to_the_digest(tmp_path: Path) -> None:
    stored = fields(15, 8, 8)
    stored[4, 1, 2] = stored[4, 0, 0] = stored[7, 3, 3] = np.nan
    path = save(tmp_path / "a.npy", stored)
    with pytest.warns(UserWarning, match=r"3 NaN values in 2 fields are replaced as data\.nan"):
        filled = make(path, nan="median")
    with pytest.warns(UserWarning, match="3 NaN values in 2 fields"):
        zeros = make(path, nan="zero", scaling="linear", low=-1)
    assert len(filled.few_shot) + len(filled.held_out) == 15
    for domain, value in ((zeros, 0.0), (filled, float(np.nanmedian(stored[4])))):
        names = [*domain.few_shot.names, *domain.held_out.names]
        index = names.index("[4]")
        chosen, own = (domain.few_shot, index) if index < 6 else (domain.held_out, index - 6)
        assert domain.scale is not None
        field = domain.scale.from_pictures(chosen[own])[0]
        np.testing.assert_allclose(field[[1, 0], [2, 0]], [value] * 2, rtol=1e-5, atol=1e-3)


def test_the_unit_of_all_fields_is_that_of_the_domain(tmp_path: Path) -> None:
    from astropy.io import fits

    for index, field in enumerate(fields(9, 8, 8)):
        unit = fits.PrimaryHDU(field)
        unit.header["BUNIT"] = "Jy"
        unit.writeto(tmp_path / f"{index}.fits")
    assert make(tmp_path, few_shot=4).unit == "Jy"
    with fits.open(tmp_path / "3.fits", mode="update") as units:
        units[0].header["BUNIT"] = "mJy"
    with pytest.warns(
        UserWarning, match=r"fields have different units: Jy \(8\), mJy \(1\); their"
    ):
        assert make(tmp_path, few_shot=4).unit is None


def test_a_hot_pixel_is_told_with_its_remedy(tmp_path: Path) -> None:
    stored = fields(15, 3, 8, 8)
    path = save(tmp_path / "a.npy", stored)
    measured = {"scaling": "linear", "low": None, "high": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        domain = make(path)
    stored[numbers(domain.few_shot.names)[0], 1, 2, 3] = 1e9
    save(path, stored)
    with pytest.warns(UserWarning, match=r"use 0\.0% of .*limits of band 1 .*data\.quantiles=\["):
        make(path, **measured)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*are clipped")
        make(path, **(measured | {"quantiles": [0.01, 0.95]}))


def test_field_that_changes_after_inspection_is_refused(tmp_path: Path) -> None:
    stored = fields(15, 8, 8)
    domain = make(save(tmp_path / "a.npy", stored))
    stored[numbers(domain.few_shot.names)[0], 0, 0] *= 2
    save(tmp_path / "a.npy", stored)
    with pytest.raises(ImageError, match="has changed since the run began"):
        domain.few_shot[0]


@pytest.mark.filterwarnings("ignore:.*of the range of values:UserWarning")
def test_digest_changes_with_all_that_changes_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.npy", fields(15, 8, 8))
    same = {
        make(path).few_shot.digest,
        make(save(tmp_path / "b.npy", np.load(path))).few_shot.digest,
    }
    assert len(same) == 1
    digests = same | {
        make(path, **changes).few_shot.digest
        for changes in ({"low": 1e-4}, {"high": 1e5}, {"scaling": "linear"}, {"resolution": 4})
    }
    save(path, np.load(path) * 1.01)
    digests.add(make(path).few_shot.digest)
    monkeypatch.setattr(fields_module, "FIELDS_VERSION", 2)
    digests.add(make(path).few_shot.digest)
    assert len(digests) == 7


def test_sets_can_be_pickled(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", flux=fields(15, 8, 8))
    images = make(tmp_path / "a.npz").held_out
    again = pickle.loads(pickle.dumps(images))  # noqa: S301
    assert all(torch.equal(again[index], images[index]) for index in range(len(images)))


def test_small_fields_are_enlarged_with_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", fields(15, 6, 6))
    with pytest.warns(UserWarning, match="15 images of radiation are smaller"):
        domain = make(path)
    assert domain.few_shot[0].shape == (3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(path, resolution=6)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 40))
def test_resizing_stays_within_values_and_keeps_the_mean(
    resolution: int, height: int, width: int
) -> None:
    field = torch.rand(2, height, width, generator=torch.Generator().manual_seed(height)).double()
    resized = resize(field, resolution)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = field[:, top : top + side, left : left + side]
    assert resized.shape == (2, resolution, resolution)
    for band in range(2):
        assert resized[band].amin() >= square[band].amin() - 1e-12
        assert resized[band].amax() <= square[band].amax() + 1e-12
    if resolution <= side:
        torch.testing.assert_close(resized.mean((1, 2)), square.mean((1, 2)))
    if resolution == side:
        assert torch.equal(resized, square)
    whole = side // resolution
    if whole * resolution == side:
        blocks = square.view(2, resolution, whole, resolution, whole).mean((2, 4))
        torch.testing.assert_close(resized, blocks)


def test_a_pixel_shared_by_two_is_divided() -> None:
    field = torch.tensor([[[3.0, 6.0, 9.0]] * 3]).double()
    expected = torch.tensor([(3 + 3) / 1.5, (3 + 9) / 1.5]).double().expand(1, 2, 2)
    torch.testing.assert_close(resize(field, 2), expected)
