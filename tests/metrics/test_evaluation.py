import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.authenticity import authenticity
from ood_sampler.metrics.blend import BlendScore
from ood_sampler.metrics.capture import CapturedFraction
from ood_sampler.metrics.evaluation import Described, Evaluation
from ood_sampler.metrics.features import FeatureExtractor
from ood_sampler.metrics.frechet import FrechetDistance
from ood_sampler.metrics.kernel import KernelDistance
from ood_sampler.metrics.near_copies import near_copies
from ood_sampler.metrics.prdc import PRDC


class Nothing(FeatureExtractor):
    name = "nothing"
    width = 5
    protocol = "nothing"

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(start_dim=1)[:, : self.width]


def described(rows: int, seed: int, shift: float = 0.0) -> Described:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 5, generator=generator) + shift
    return Described(features, torch.randn(rows, 3, 4, 4, generator=generator))


EVALUATION = Evaluation(extractor=Nothing(), nearest_k=3, seed=0)
SAMPLES, HELD_OUT, FEW_SHOT = described(40, 0, 0.4), described(60, 1), described(20, 2)


def figures() -> dict[str, float]:
    return {
        **EVALUATION.against_held_out(SAMPLES, HELD_OUT),
        **EVALUATION.against_few_shot(SAMPLES, FEW_SHOT, HELD_OUT)[0],
        **EVALUATION.captured(SAMPLES, described(30, 3, 2).features, HELD_OUT),
    }


def test_figures_are_those_of_the_metrics() -> None:
    found = figures()
    frechet, kernel, manifold = FrechetDistance(width=5), KernelDistance(), PRDC(nearest_k=3)
    metrics: list[Any] = [frechet, kernel, manifold]
    for metric in metrics:
        metric.update(SAMPLES.features, real=False)
        metric.update(HELD_OUT.features, real=True)
    expected: dict[str, float] = {
        "fid": float(frechet.compute()),
        "kid": float(kernel.compute().value),
        "kid_standard_error": float(kernel.compute().standard_error),
        "authenticity": float(authenticity(SAMPLES.features, FEW_SHOT.features)),
        **{name: float(value) for name, value in manifold.compute()._asdict().items()},
    }
    copies = near_copies(SAMPLES.features, FEW_SHOT.features, HELD_OUT.features)
    expected["near_copies"] = float(copies.double().mean())
    blend, captured = BlendScore(), CapturedFraction(nearest_k=3, seed=0)
    blend.update(SAMPLES.thumbnails, reference=False)
    blend.update(FEW_SHOT.thumbnails, reference=True)
    captured.update(SAMPLES.features, role="samples")
    captured.update(described(30, 3, 2).features, role="in_domain")
    captured.update(HELD_OUT.features, role="target")
    expected |= {
        "blend_pair": float(blend.compute().mean_pair),
        "blend_five": float(blend.compute().mean_five),
        "captured": float(captured.compute()),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-6)


def test_every_figure_has_an_interval() -> None:
    found = figures()
    for key in {key.removesuffix("_low") for key in found if key.endswith("_low")}:
        assert found[f"{key}_low"] <= found[key] <= found[f"{key}_high"], key
        assert found[f"{key}_low"] < found[f"{key}_high"], key
    assert {
        key for key in found if not key.endswith(("_low", "_high")) and key + "_low" not in found
    } == {
        "kid_standard_error",
        "diversity_clusters",
    }
    half = 1.96 * found["kid_standard_error"]
    assert found["kid_high"] - found["kid"] == pytest.approx(half, rel=1e-4)


def test_what_has_no_meaning_is_left_out() -> None:
    # few images have no limit, and samples all about different pictures no distance
    few = EVALUATION.against_held_out(described(4, 0), HELD_OUT)
    assert "fid_infinity" not in few
    assert all(math.isfinite(value) for value in few.values())
    alone, blend = EVALUATION.against_few_shot(FEW_SHOT, FEW_SHOT, HELD_OUT)
    assert alone["diversity_clusters"] == 0
    assert "diversity" not in alone
    assert blend.shape == (20,)
    one, _ = EVALUATION.against_few_shot(
        Described(FEW_SHOT.features[:1] + 0.1 * torch.eye(5)[:2], SAMPLES.thumbnails[:2]),
        FEW_SHOT,
        HELD_OUT,
    )
    assert one["diversity"] == pytest.approx(0.1 * 2**0.5, rel=1e-5)
    assert "diversity_low" not in one


def test_the_limit_needs_four_images_a_feature_of_both_sets() -> None:
    enough, few = described(20, 4), described(19, 5)
    assert "fid_infinity_low" in EVALUATION.against_held_out(enough, enough.first(20))
    for samples, held_out in [(enough, few), (few, enough)]:
        figures = EVALUATION.against_held_out(samples, held_out)
        assert "fid" in figures
        assert not [key for key in figures if key.startswith("fid_infinity")]


def test_only_shares_have_the_bounds_of_a_share() -> None:
    # each in one neighbourhood of two pictures, as copies of two
    line = torch.tensor([0.0, 1.0, 100.0, 101.0])[:, None] * torch.eye(5)[0]
    pictures = Described(line, FEW_SHOT.thumbnails[:4])
    copies = Described(line[[0, 0, 0, 2, 2, 2]] - 0.5 * torch.eye(5)[0], SAMPLES.thumbnails[:6])
    evaluation = Evaluation(extractor=Nothing(), nearest_k=1, seed=0)
    found = evaluation.against_held_out(copies, pictures)
    found |= evaluation.against_few_shot(copies, pictures, HELD_OUT)[0]
    reach = 1 - 0.025 ** (1 / 6)
    for key, expected in {
        "precision": (1 - reach, 1, 1),
        "authenticity": (0, 0, reach),
        "density": (1, 1, 1),
        "diversity": (0, 0, 0),
    }.items():
        bounds = [found[f"{key}{end}"] for end in ("_low", "", "_high")]
        assert bounds == pytest.approx(expected), key
    assert found["diversity_clusters"] == 2
