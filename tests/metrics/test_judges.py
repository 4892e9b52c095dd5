import json
import math
from collections.abc import Mapping
from typing import cast

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor

from ood_sampler.metrics.authenticity import authenticity
from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.blend import best_pair, forward_selection
from ood_sampler.metrics.capture import captured_fraction, equal_sized
from ood_sampler.metrics.features import FeatureExtractor
from ood_sampler.metrics.frechet import infinitesimal_jackknife
from ood_sampler.metrics.judges import Described, Judge, Judges, figures_of
from ood_sampler.metrics.kernel import jackknife
from ood_sampler.metrics.near_copies import near_copies
from ood_sampler.metrics.prdc import precision_recall_density_coverage
from tests.conftest import make_judges


def normal(rows: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)) + shift


SAMPLES, HELD_OUT, FEW_SHOT, OWN = (
    normal(40, 0, 0.4),
    normal(60, 1),
    normal(20, 2),
    normal(30, 3, 2),
)
JUDGES = make_judges()


def figures(judge: Judge = JUDGES.headline, **changes: Tensor) -> dict[str, float | Tensor]:
    sets = {"generated": SAMPLES, "new": SAMPLES, "held_out": HELD_OUT, "few_shot": FEW_SHOT}
    return judge.figures({**sets, "in_domain": OWN, **changes})


def numbers(found: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {key: float(value) for key, value in found.items() if not isinstance(value, Tensor)}


def test_figures_are_those_of_the_equations() -> None:
    found = figures()
    scores = precision_recall_density_coverage(HELD_OUT, SAMPLES, nearest_k=3)
    kernel = jackknife(SAMPLES, HELD_OUT)
    copies = near_copies(SAMPLES, FEW_SHOT, HELD_OUT).double()
    expected: dict[str, float] = {
        "fid": float(infinitesimal_jackknife(SAMPLES, HELD_OUT).value),
        "kid": float(kernel.value),
        "kid_standard_error": float(kernel.standard_error),
        "authenticity": float(authenticity(SAMPLES, FEW_SHOT)),
        "near_copies": float(copies.mean()),
        "captured": float(
            captured_fraction(SAMPLES, *equal_sized(OWN, HELD_OUT, seed=0), nearest_k=3)
        ),
        **{name: float(value) for name, value in scores._asdict().items()},
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(found["near_copies_each"], copies)
    again = figures()
    assert numbers(again) == numbers(found), "nothing of one set is left for the next"


def test_blends_are_those_of_pixels_alone() -> None:
    found = figures_of(
        JUDGES.pictures, {"new": SAMPLES, "few_shot": FEW_SHOT, "held_out": HELD_OUT}
    )
    pair = best_pair(SAMPLES, FEW_SHOT)
    five = forward_selection(SAMPLES, FEW_SHOT, pair.indices, size=5)
    assert found["blend_pair"] == pytest.approx(float(pair.r_squared.mean()))
    assert found["blend_five"] == pytest.approx(float(five.r_squared.mean()))
    torch.testing.assert_close(found["blend_pair_each"], pair.r_squared)


def test_every_figure_has_an_interval() -> None:
    found = numbers(figures())
    for key in {key.removesuffix("_low") for key in found if key.endswith("_low")}:
        assert found[f"{key}_low"] <= found[key] <= found[f"{key}_high"], key
        assert found[f"{key}_low"] < found[f"{key}_high"], key
    assert {
        key for key in found if not key.endswith(("_low", "_high")) and key + "_low" not in found
    } == {"kid_standard_error", "diversity_clusters"}


def test_what_has_no_meaning_is_left_out() -> None:
    # few images have no limit, and samples all about different images no distance
    few = numbers(figures(generated=normal(4, 0)))
    assert "fid_infinity" not in few
    assert all(math.isfinite(value) for value in few.values())
    alone = figures(new=FEW_SHOT)
    assert alone["diversity_clusters"] == 0
    assert "diversity" not in alone
    one = figures(new=FEW_SHOT[:1] + 0.1 * torch.eye(5)[:2])
    assert one["diversity"] == pytest.approx(0.1 * 2**0.5, rel=1e-5)
    assert "diversity_low" not in one


def test_the_limit_needs_four_images_a_feature_of_both_sets() -> None:
    enough, few = normal(20, 4), normal(19, 5)
    assert "fid_infinity_low" in figures(generated=enough, held_out=enough)
    for samples, held_out in [(enough, few), (few, enough)]:
        found = figures(generated=samples, held_out=held_out)
        assert "fid" in found
        assert not [key for key in found if key.startswith("fid_infinity")]


def test_only_shares_have_the_bounds_of_a_share() -> None:
    # each in one neighbourhood of two images, as copies of two
    line = torch.tensor([0.0, 1.0, 100.0, 101.0])[:, None] * torch.eye(5)[0]
    copies = line[[0, 0, 0, 2, 2, 2]] - 0.5 * torch.eye(5)[0]
    judge = make_judges(nearest_k=1).headline
    found = figures(judge, generated=copies, held_out=line) | figures(
        judge, new=copies, few_shot=line
    )
    near = figures(judge, generated=copies, held_out=line, new=copies, few_shot=line)
    found |= {key: near[key] for key in near if key.startswith(("precision", "density"))}
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


def test_some_of_the_metrics_read_only_their_sets() -> None:
    found = JUDGES.headline.figures({"generated": SAMPLES, "held_out": HELD_OUT}, only=("kid",))
    assert set(found) == {"kid", "kid_low", "kid_high", "kid_standard_error"}
    assert found["kid"] == figures()["kid"]


class Nothing(FeatureExtractor):
    name = "nothing"
    width = 5
    protocol = "nothing"

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(start_dim=1)[:, : self.width]


class Largest(SetMetric):
    """What a user may write: one file."""

    sets = ("generated",)

    def __init__(self, *, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def figures(self, *, generated: Tensor) -> Figures:
        return {"largest": self.scale * float(generated.max())}


def make(judges: list[str], **spaces: object) -> Judges:
    known = {"nothing": Nothing, **spaces}
    return Judges(
        judges=judges,
        spaces=cast(dict[str, type[Nothing]], known),
        collection={"largest": Largest(scale=2)},
        pictures={},
        nearest_k=3,
        seed=0,
    )


def test_a_judge_takes_metrics_of_the_users_own() -> None:
    (judge,) = make(["nothing"])
    assert judge.figures({"generated": SAMPLES}) == {"largest": 2 * float(SAMPLES.max())}
    assert judge.metrics["largest"].settings["scale"] == 2  # type: ignore[index,operator,union-attr]


def test_arguments_of_a_metric_are_told_apart_whatever_their_kind() -> None:
    class Levels(Largest):
        def __init__(self, levels: object) -> None:
            super().__init__(scale=1)
            self.levels = levels

    class Weighted(Largest):
        def __init__(self, weight: object) -> None:
            super().__init__(scale=1)
            self.weight = weight

    assert Weighted([1, 2]).settings != Weighted([9, 9]).settings
    given = ([1, 2], [1, 3], (1, 2, 3), {"low": 1}, None, 1.5)
    found = [Levels(levels).settings for levels in given]
    assert all(settings["scale"] == 1 for settings in found)
    assert len({json.dumps(settings, sort_keys=True) for settings in found}) == len(given)
    # what torchmetrics keeps is not among them
    assert set(Largest(scale=1).settings) == set(found[0]) - {"levels"}
    with pytest.raises(ValueError, match=r"Levels\.levels is .*: keep a number, a text"):
        Judges(
            judges=["nothing"],
            spaces={"nothing": Nothing},
            collection={"levels": Levels(object())},
            pictures={},
            nearest_k=3,
            seed=0,
        )


def test_spaces_that_do_not_judge_are_not_built() -> None:
    def missing() -> Nothing:
        raise FileNotFoundError("its weights are missing")

    class Second(Nothing):
        name = "another"

    judges = make(["second", "nothing"], second=Second, inception=missing)
    # named by what they see, whatever the configuration calls them
    assert judges.names == ["another", "nothing"]
    assert judges.headline is judges[0]
    assert judges[0].metrics["largest"] is not judges[1].metrics["largest"]
    with pytest.raises(FileNotFoundError, match="its weights are missing"):
        make(["inception"], inception=missing)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"metrics\.judges: cat is none of metrics.spaces, which"):
        make(["nothing", "cat"])
    with pytest.raises(ValueError, match="second and nothing are the same feature space, nothing"):
        make(["second", "nothing"], second=Nothing)
    for judges in ([], ["nothing", "nothing"]):
        with pytest.raises(ValueError, match="must name at least one feature space, each once"):
            make(judges)
    with pytest.raises(InstantiationException, match=r"metrics\.nearest_k must be odd and >= 1"):
        make_judges(nearest_k=4)
    with pytest.raises(ValueError, match=r"data\.few_shot must be more than metrics\.nearest_k=3"):
        JUDGES.check({"num_samples": 4, "data.few_shot": 3})
    with pytest.raises(ValueError, match=r"num_samples must be .* and at least 4, got 3"):
        make_judges(nearest_k=1).check({"num_samples": 3})
    make_judges(nearest_k=1).check({"num_samples": 4})


def test_some_images_of_a_described_set() -> None:
    features = {"a": SAMPLES, "b": SAMPLES[:, :2]}
    whole = Described(features, torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 3, 2, 2))
    part = whole.take([3, 1])
    assert len(whole) == 40
    assert len(part) == 2
    assert torch.equal(whole.headline, SAMPLES)
    assert torch.equal(part.features["b"], SAMPLES[[3, 1], :2])
    assert part.thumbnails[:, 0, 0, 0].tolist() == [3, 1]
    assert torch.equal(whole.first(2).headline, SAMPLES[:2])
