import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from ood_sampler.metrics.reconstruction import Reconstruction, reconstruction


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 16, 12, generator=generator) * 2 - 1


def test_flat_images() -> None:
    shape = (1, 3, 16, 16)
    scores = reconstruction(torch.full(shape, 0.75), torch.full(shape, 0.5))
    assert float(scores.mse) == pytest.approx(0.0625, rel=1e-12)
    assert float(scores.psnr) == pytest.approx(10 * math.log10(4 / 0.0625), rel=1e-12)
    # Without variance only the luminance term is left; its constant is (0.01 * 2)^2.
    expected = (2 * 0.75 * 0.5 + 4e-4) / (0.75**2 + 0.5**2 + 4e-4)
    assert float(scores.ssim) == pytest.approx(expected, rel=1e-9)


def test_equal_images() -> None:
    x = images(3)
    scores = reconstruction(x, x)
    assert scores.mse.tolist() == [0, 0, 0]
    assert scores.psnr.tolist() == [math.inf] * 3
    assert scores.ssim.tolist() == pytest.approx([1, 1, 1])


def test_agrees_with_torchmetrics_image_by_image() -> None:
    x_0 = images(4)
    x = x_0 + 0.1 * images(4, seed=1)
    scores = reconstruction(x, x_0)
    for i in range(4):
        a, b = x[i : i + 1].double(), x_0[i : i + 1].double()
        assert float(scores.psnr[i]) == pytest.approx(
            float(peak_signal_noise_ratio(a, b, data_range=2.0)), rel=1e-6
        )
        ssim = structural_similarity_index_measure(a, b, data_range=2.0)
        assert isinstance(ssim, Tensor)
        assert float(scores.ssim[i]) == pytest.approx(float(ssim), rel=1e-12)


@settings(deadline=None, derandomize=True, max_examples=10)
@given(cut=st.integers(1, 7), seed=st.integers(0, 1000))
def test_ignores_batches(cut: int, seed: int) -> None:
    x, x_0 = images(8, seed), images(8, seed + 1)
    metric = Reconstruction()
    for part, original in zip(x.split([cut, 8 - cut]), x_0.split([cut, 8 - cut]), strict=True):
        metric.update(part, original)
    scores, expected = metric.compute(), reconstruction(x, x_0)
    for name, values in scores._asdict().items():
        assert values.shape == (8,)
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, getattr(expected, name), rtol=1e-10, atol=0)


def test_bad_input() -> None:
    x = images(2)
    with pytest.raises(ValueError, match="x must have the shape"):
        reconstruction(x, x[:1])
    with pytest.raises(ValueError, match="x must have the shape"):
        reconstruction(x[0], x[0])
    with pytest.raises(ValueError, match="x must be at least 11 pixels high and wide"):
        reconstruction(x[..., :10], x[..., :10])
    with (
        pytest.warns(UserWarning, match="called before the ``update``"),
        pytest.raises(ValueError, match="mse must not be empty"),
    ):
        Reconstruction().compute()
