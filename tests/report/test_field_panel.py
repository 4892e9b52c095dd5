import numpy as np
import pytest
import torch

from ood_sampler.data.radiation import AsinhScale, FieldScale, FluxScale, LinearScale
from ood_sampler.report.fields import FieldPanel, field_figures, field_section, tick_labels
from ood_sampler.report.page import page


def panel(scale: FieldScale, unit: str | None = "Jy/beam", count: int = 6) -> FieldPanel:
    generator = torch.Generator().manual_seed(0)
    samples, held_out = torch.rand(2, count, 3, 8, 8, generator=generator) * 2 - 1
    return FieldPanel(samples, held_out, scale, unit, ["samples.npy", "samples.fits"])


@pytest.mark.parametrize(
    ("scale", "labels"),
    [
        (FluxScale([0.01], [100.0]), ["0.01", "0.1", "1", "10", "100"]),
        (LinearScale([-1.0], [3.0]), ["-1", "0", "1", "2", "3"]),
        (
            LinearScale([1000.0], [1000.001]),
            ["1000", "1000.00025", "1000.0005", "1000.00075", "1000.001"],
        ),
        (AsinhScale([-10.0], [10.0], [1.0]), ["-10", "-2.13", "0", "2.13", "10"]),
    ],
)
def test_colour_bar_has_physical_values_and_their_unit(
    scale: FieldScale, labels: list[str]
) -> None:
    ((caption, figure),) = field_figures(panel(scale))
    assert caption == "Fields (Jy/beam), samples above and held-out fields below."
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "Jy/beam"
    assert bar.get_yticks().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert [text.get_text() for text in bar.get_yticklabels()] == labels


def test_each_band_has_a_figure_of_samples_and_of_held_out_fields() -> None:
    scale = LinearScale([0.0, 1.0, 2.0], [1.0, 2.0, 4.0])
    shown = panel(scale, unit=None)
    figures = field_figures(shown)
    assert [caption[:14] for caption, _ in figures] == [f"Band {k} of 3: f" for k in (1, 2, 3)]
    for band, (_, figure) in enumerate(figures):
        drawn = [place.images[0].get_array() for place in figure.axes[:8]]
        expected = torch.cat([shown.samples[:4, band], shown.held_out[:4, band]])
        np.testing.assert_array_equal(np.stack([np.asarray(d) for d in drawn]), expected)
        assert figure.axes[-1].get_ylabel() == "value"


def test_a_single_band_is_the_mean_colour() -> None:
    shown = panel(LinearScale([0.0], [1.0]), count=2)
    ((_, figure),) = field_figures(shown)
    drawn = [place.images[0].get_array() for place in figure.axes[:8] if place.images]
    expected = torch.cat([shown.samples.mean(1), shown.held_out.mean(1)])
    np.testing.assert_array_equal(np.stack([np.asarray(d) for d in drawn]), expected)


def test_labels_have_as_many_digits_as_tell_them_apart() -> None:
    assert tick_labels([1.0, 2.0]) == ["1", "2"]
    assert tick_labels([1e-17, 2.34567e-17]) == ["1e-17", "2.35e-17"]
    assert tick_labels([270.0, 270.01]) == ["270", "270.01"]


def test_page_shows_fields_and_names_their_files(results: dict[str, object]) -> None:
    shown = panel(LinearScale([0.0], [1.0]))
    section = field_section(shown)
    assert section.count("data:image/svg+xml") == 1
    for text in ("samples.npy</b>", "samples.fits</b>", "(linear)", "mean of the three colours"):
        assert text in section
    assert section in page(results, {}, shown)
    assert "samples.npy" not in page(results, {})
    three = FieldPanel(shown.samples, shown.held_out, FluxScale([1.0] * 3, [2.0] * 3), None, [])
    assert "mean of the three" not in field_section(three)
