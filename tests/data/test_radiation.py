import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_sampler.data.radiation import (
    AsinhScale,
    FieldScale,
    FluxScale,
    LinearScale,
    make_scale,
    read_scale,
)

LOW, HIGH = (0.1, 0.01, 0.001), (1e3, 1e4, 1e5)


def fluxes(n: int = 2) -> torch.Tensor:
    """Fluxes over the whole range of each band, float64, with both ends among them."""
    unit = torch.linspace(0, 1, n * 64, dtype=torch.float64).view(n, 1, 8, 8)
    low, high = (torch.tensor(b, dtype=torch.float64).view(3, 1, 1) for b in (LOW, HIGH))
    return low * (high / low) ** unit


def test_ends_and_geometric_middle() -> None:
    flux = torch.tensor(
        [[low, math.sqrt(low * high), high] for low, high in zip(LOW, HIGH, strict=True)],
        dtype=torch.float64,
    )
    rgb = FluxScale(LOW, HIGH).to_rgb(flux.view(3, 1, 3))
    expected = torch.tensor([-1.0, 0.0, 1.0]).expand(3, 1, 3)
    torch.testing.assert_close(rgb, expected, rtol=0, atol=1e-7)


def test_a_decade_is_the_same_step_everywhere() -> None:
    rgb = FluxScale([0.1], [1e3]).to_rgb(torch.tensor([0.1, 1, 10, 100, 1000]).view(1, 1, 5))
    torch.testing.assert_close(rgb.diff(), torch.full((1, 1, 4), 0.5), rtol=0, atol=1e-6)


def test_round_trip_of_flux_and_of_colour() -> None:
    scale = FluxScale(LOW, HIGH)
    flux = fluxes()
    back = scale.to_flux(scale.to_rgb(flux))
    assert back.dtype == torch.float32
    # Half a unit in the last place of a colour below 1, times the slope of the logarithm, plus the
    # rounding of the flux itself.
    slope = math.log(HIGH[2] / LOW[2]) / 2
    torch.testing.assert_close(back.double(), flux, rtol=2**-25 * slope + 2**-24, atol=0)

    rgb = torch.linspace(-1, 1, 192).view(3, 8, 8)
    tolerance = 2**-24 + 2**-24 / (math.log(HIGH[0] / LOW[0]) / 2)
    torch.testing.assert_close(scale.to_rgb(scale.to_flux(rgb)), rgb, rtol=0, atol=tolerance)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    st.lists(st.floats(0.0101, 9999.0), min_size=2, max_size=20, unique=True),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
)
def test_order_is_kept_for_every_type(values: list[float], dtype: torch.dtype) -> None:
    flux = torch.tensor(sorted(values), dtype=dtype).view(1, 1, -1)
    rgb = FluxScale([0.01], [10000.0]).to_rgb(flux)
    assert rgb.dtype == torch.float32
    assert bool((rgb.diff() >= 0).all())
    assert float(rgb.abs().max()) <= 1
    clear = flux.double().diff() > 1e-5 * flux.double()[..., :-1]
    assert bool((rgb.diff()[clear] > 0).all())


def test_bands_are_the_third_axis_from_the_end() -> None:
    scale = FluxScale(LOW, HIGH)
    flux = fluxes(5)
    assert torch.equal(scale.to_rgb(flux)[3], scale.to_rgb(flux[3]))
    single = FluxScale(LOW[1:2], HIGH[1:2])
    assert torch.equal(scale.to_rgb(flux)[:, 1:2], single.to_rgb(flux[:, 1:2]))


@pytest.mark.parametrize("value", [0.0, -1.0, 0.0009, 1.01e5, math.inf, math.nan])
def test_nothing_outside_the_range_is_mapped(value: float) -> None:
    flux = torch.ones(3, 2, 2)
    flux[2, 0, 1] = value
    with pytest.raises(ValueError, match=r"flux must lie in .*, got 1 of 12 values outside: use"):
        FluxScale(LOW, HIGH).to_rgb(flux)


def test_clip_limits_and_reports() -> None:
    scale = FluxScale(LOW, HIGH)
    flux = torch.full((3, 1, 4), 10.0)
    flux[0, 0] = torch.tensor([0.05, 0.1, 1e3, 2e3])
    clipped, fraction = scale.clip(flux)
    assert fraction == pytest.approx(2 / 12)
    torch.testing.assert_close(clipped[0, 0], torch.tensor([0.1, 0.1, 1e3, 1e3]))
    assert torch.equal(clipped[1:], flux[1:])
    expected = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    torch.testing.assert_close(scale.to_rgb(clipped)[0, 0], expected)
    assert scale.clip(clipped)[1] == 0
    with pytest.raises(ValueError, match="flux must be a number, got 1 NaN"):
        scale.clip(torch.where(flux == 0.05, math.nan, flux))


def test_colours_beyond_the_range_go_on_along_the_scale() -> None:
    flux = FluxScale([1.0], [100.0]).to_flux(torch.tensor([[[-2.0, 2.0]]]))
    torch.testing.assert_close(flux, torch.tensor([[[0.1, 1000.0]]]))


def test_metadata_is_read() -> None:
    scale = FluxScale.from_metadata({"flux_low": "0.1 0.01", "flux_high": "10.0 20.0", "seed": "1"})
    assert (scale.low, scale.high) == ((0.1, 0.01), (10.0, 20.0))
    with pytest.raises(KeyError, match="flux_low"):
        FluxScale.from_metadata({"seed": "1"})


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([], [], "one value for each band, got 0 and 0"),
        ([1.0], [2.0, 3.0], "one value for each band, got 1 and 2"),
        ([0.0], [1.0], "low must be > 0 and < high, got low=0.0, high=1.0"),
        ([2.0], [2.0], "low must be > 0 and < high"),
        ([1.0], [math.inf], "low must be > 0 and < high"),
        ([math.nan], [1.0], "low must be > 0 and < high"),
    ],
)
def test_bad_scales(low: list[float], high: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FluxScale(low, high)


@pytest.mark.parametrize("shape", [(3, 4), (4, 8, 8), (2, 8, 3, 8)])
def test_bad_shapes(shape: tuple[int, ...]) -> None:
    scale = FluxScale(LOW, HIGH)
    for method in (scale.to_rgb, scale.to_flux, scale.clip):
        with pytest.raises(ValueError, match=r"\(\.\.\., 3, H, W\) for 3 bands, got"):
            method(torch.ones(shape))


def scales() -> list[FieldScale]:
    return [
        FluxScale(LOW, HIGH),
        LinearScale([-3, 0, 2], [5, 1, 1e6]),
        AsinhScale([-3, 0, 2], [5, 1, 1e6], [0.1, 0.5, 20]),
        FluxScale([1e-17], [1e-12]),
        FluxScale([1e35], [1e45]),
    ]


@pytest.mark.parametrize("scale", scales(), ids=lambda scale: scale.scaling)
def test_physical_values_and_pictures_lead_to_each_other(scale: FieldScale) -> None:
    low, high = (
        torch.tensor(b, dtype=torch.float64).view(-1, 1, 1) for b in (scale.low, scale.high)
    )
    rgb = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(len(scale.low), 1, 64)
    bent = (scale.bend(low), scale.bend(high))
    values = scale.unbend(bent[0] + (rgb + 1) / 2 * (bent[1] - bent[0]))
    pictures, clipped = scale.to_pictures(values)
    assert pictures.shape == (3, 1, 64)
    assert pictures.dtype == torch.float32
    assert clipped == 0
    torch.testing.assert_close(pictures.double(), rgb.expand(3, 1, 64), rtol=0, atol=1e-6)
    back = scale.from_pictures(pictures)
    assert back.shape == values.shape
    assert back.dtype == (torch.float64 if high.max() > 1e38 else torch.float32)
    again, _ = scale.to_pictures(back)
    torch.testing.assert_close(again, pictures, rtol=0, atol=2e-6)
    torch.testing.assert_close(
        back.double(),
        values,
        rtol=2e-6,
        atol=2e-6 * float((high - low).max()) if low.min() < 0 else 0,
    )
    assert torch.equal(read_scale(scale.as_dict()).to_pictures(values)[0], pictures)


def test_bends_are_their_functions() -> None:
    values = torch.tensor([[[-2.0, 0.5, 4.0]]], dtype=torch.float64)
    assert torch.equal(LinearScale([-3], [5]).bend(values), values)
    torch.testing.assert_close(AsinhScale([-3], [5], [0.5]).bend(values), (2 * values).asinh())
    middle = AsinhScale([-8], [8], [2]).to_rgb(torch.tensor([[[0.0, 2.0, 8.0]]]))
    expected = torch.tensor([0.0, math.asinh(1) / math.asinh(4), 1.0]).view(1, 1, 3)
    torch.testing.assert_close(middle, expected)
    ends = LinearScale([-3], [5]).to_rgb(torch.tensor([[[-3.0, -1.0, 5.0]]]))
    torch.testing.assert_close(ends, torch.tensor([[[-1.0, -0.5, 1.0]]]))


def test_values_outside_are_clipped_and_counted() -> None:
    pictures, clipped = LinearScale([-1], [1]).to_pictures(torch.tensor([[[-5.0, 0.0, 0.5, 9.0]]]))
    assert clipped == 0.5
    assert torch.equal(pictures, torch.tensor([-1.0, 0.0, 0.5, 1.0]).expand(3, 1, 4))


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (LinearScale([1000], [1000.001]), torch.float64),
        (FluxScale([1000], [1000.001]), torch.float64),
        (LinearScale([0, 270], [1, 310]), torch.float32),
        (LinearScale([0, -310], [1, -309]), torch.float64),
    ],
)
def test_a_range_narrow_for_its_size_comes_back(scale: FieldScale, dtype: torch.dtype) -> None:
    colours = torch.linspace(-1, 1, 101).expand(len(scale.low), 1, 101)
    low, high = scale.low[-1], scale.high[-1]
    expected = low + torch.linspace(0, 1, 101, dtype=torch.float64) * (high - low)
    values = scale.to_flux(colours)
    assert values.dtype == scale.dtype == dtype
    # Over such a range the logarithm is linear to 5e-7 of it.
    assert float((values[-1, 0] - expected).abs().max()) < 2e-6 * (high - low)
    limited = scale.clip(values)[0]
    torch.testing.assert_close(limited, values, rtol=0, atol=1e-6 * (high - low))
    torch.testing.assert_close(scale.to_rgb(values), colours, rtol=0, atol=4e-6)


def test_a_value_beyond_a_narrow_range_is_counted() -> None:
    # half of the range above the limit, which is 5e-7 of the limit
    values = torch.tensor([[[1000.0, 1000.0005, 1000.001, 1000.0015]]], dtype=torch.float64)
    assert LinearScale([1000], [1000.001]).clip(values)[1] == 0.25


def test_a_single_band_is_grey_and_comes_back_as_the_mean_colour() -> None:
    scale = LinearScale([0], [10])
    pictures = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1).expand(4, 3, 2, 2)
    assert torch.equal(scale.from_pictures(pictures), torch.full((4, 1, 2, 2), 5.0))
    with pytest.raises(ValueError, match=r"images must have shape \(\.\.\., 3, H, W\), got"):
        scale.from_pictures(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="images must have 1 or 3 bands, got 2"):
        LinearScale([0, 0], [1, 1]).to_pictures(torch.zeros(2, 2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearScale([1.0], [1.0]), "low must be finite and < high, got low=1.0, high=1.0"),
        (lambda: LinearScale([-math.inf], [1.0]), "low must be finite and < high"),
        (lambda: AsinhScale([0.0], [1.0], [0.0]), "softening must be > 0, one value for each of 1"),
        (lambda: AsinhScale([0.0], [1.0], [1.0, 1.0]), "softening must be > 0, one value for each"),
        (
            lambda: make_scale("sqrt", [0], [1], softening=1),
            "scaling must be one of log, linear",
        ),
        (lambda: make_scale("log", [0], [1], softening=1), "low must be > 0"),
    ],
)
def test_bad_field_scales(make: Callable[[], FieldScale], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_softening_is_a_part_of_the_larger_limit() -> None:
    scale = make_scale("asinh", [-20.0, 1.0], [5.0, 100.0], softening=0.1)
    assert isinstance(scale, AsinhScale)
    assert scale.softening == (2.0, 10.0)
