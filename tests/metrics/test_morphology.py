import sys

import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.morphology import check_statmorph, morphology

pytest.importorskip("statmorph")


def grid(size: int = 48) -> tuple[Tensor, Tensor]:
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return axis[:, None], axis


def disc(index: float, scale: float = 2.5) -> Tensor:
    y, x = grid()
    return torch.exp(-((torch.hypot(x, y) / scale) ** (1 / index)))


def noisy(*images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    stacked = torch.stack(images)
    return stacked + 0.002 * torch.randn(stacked.shape, generator=generator, dtype=torch.float64)


def test_known_shapes() -> None:
    y, x = grid()
    flat = (torch.hypot(x, y) < 9).double()
    companion = 0.6 * torch.exp(-(((x - 6) ** 2 + (y - 3) ** 2) / 6))
    images = noisy(disc(1.0), disc(0.5, 5.0), disc(1.0) + companion, flat)
    found = morphology(images)
    assert (found.flag < 2).all()
    exponential, gaussian, lopsided, uniform = range(4)
    # sharper profiles are more concentrated and less equal (a Gaussian has C = 2.1)
    assert found.concentration[exponential] > found.concentration[gaussian] + 0.3
    assert float(found.concentration[gaussian]) == pytest.approx(2.1, abs=0.25)
    assert found.gini[exponential] > found.gini[gaussian] > found.gini[uniform]
    assert found.m20[exponential] < found.m20[lopsided]
    assert found.m20[exponential] < found.m20[uniform]
    assert abs(float(found.asymmetry[exponential])) < 0.1
    assert found.asymmetry[lopsided] > found.asymmetry[exponential] + 0.2


def test_does_not_depend_on_unit_and_background() -> None:
    images = noisy(disc(1.0))
    for changed in (1e6 * images, images + 0.5):
        for values, expected in zip(morphology(changed), morphology(images), strict=True):
            torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3)


def test_what_holds_no_source_is_flagged() -> None:
    found = morphology(torch.stack([torch.zeros(32, 32), torch.ones(32, 32)]))
    assert found.flag.tolist() == [4, 4]
    assert all(values.isnan().all() for values in found[:4])


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statmorph", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[astro\]' in the project's folder$"):
        check_statmorph()
