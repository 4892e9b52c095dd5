import math

import pytest
import torch

from ood_sampler.statistics.decision import (
    Decision,
    Pool,
    advice,
    all_of,
    any_of,
    counted,
    decide,
    estimated,
    order,
    separation,
)
from ood_sampler.statistics.resampling import Interval


@pytest.mark.parametrize(
    ("found", "decision"),
    [
        ((-3, -4, -2), Decision("shown")),
        ((3, 2, 4), Decision("refuted")),
        # half and a third as wide, the interval would end at 0
        ((-3, -9, 3), Decision("unclear", 4.0)),
        ((3, -6, 9), Decision("unclear", 9.0)),
        # an end on the limit, and an estimate on it, which no number of images moves away
        ((-3, -6, 0), Decision("unclear", 1.0)),
        ((0, -1, 1), Decision("unclear", None)),
        ((-1, -11, 9), Decision("unclear", 100.0)),
        ((-1, -11.1, 9.1), Decision("unclear", None)),
    ],
)
def test_a_claim_of_less_than_nothing(
    found: tuple[float, float, float], decision: Decision
) -> None:
    assert decide(Interval(*found), most=0) == decision


def test_the_harder_of_two_limits_counts() -> None:
    # of two limits the harder one counts
    assert decide(Interval(1, -9, 11), least=-4, most=4).factor == (10 / 3) ** 2
    # asymmetric ends count each for its own limit
    assert decide(Interval(1, -8, 2), least=-4, most=4).factor == (9 / 5) ** 2


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ((0, -1, 1), "shown"),
        ((1, 0.5, 1.9), "shown"),
        ((0, -3, 1), "unclear"),
        ((0, -5, 5), "unclear"),
        ((4, 3, 5), "refuted"),
        ((-4, -5, -3), "refuted"),
        ((4, 1, 7), "unclear"),
    ],
)
def test_a_claim_of_equality_needs_the_interval_within_its_margin(
    found: tuple[float, float, float], outcome: str
) -> None:
    assert decide(Interval(*found), least=-2, most=2).outcome == outcome


def test_the_number_of_images_that_is_named_decides() -> None:
    """With the same estimate and so many times the images the claim is settled."""
    for value, error in ((-1.0, 0.5), (0.7, 0.5), (1.5, 1.0), (1.3, 0.4), (-0.2, 1.0)):
        factor = decide(estimated(value, error), least=-1.2, most=1).factor
        assert factor is not None
        more = estimated(value, error / math.sqrt(1.001 * factor))
        assert decide(more, least=-1.2, most=1).outcome != "unclear"
        less = estimated(value, error / math.sqrt(0.999 * factor))
        assert decide(less, least=-1.2, most=1).outcome == "unclear"


@pytest.mark.parametrize("error", [0.1, 0.5, 2.0])
def test_claims_at_their_limit_are_seldom_shown_or_refuted(error: float) -> None:
    """A true difference on the margin is called smaller, or larger, in 2.3% of cases each."""
    draws = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [decide(estimated(1 + error * float(z), error), most=1).outcome for z in draws]
    # five standard errors of a share of 2.28% in 4000
    for outcome in ("shown", "refuted"):
        assert found.count(outcome) / 4000 == pytest.approx(0.0228, abs=5 * 0.0024)


def test_no_difference_is_called_none_by_few_images() -> None:
    """A true difference twice the margin is hardly ever called smaller, however large the error."""
    generator = torch.Generator().manual_seed(1)
    for error in (0.2, 0.5, 1.0, 5.0):
        draws = torch.randn(1000, generator=generator, dtype=torch.float64)
        found = [decide(estimated(2 + error * float(z), error), least=-1, most=1) for z in draws]
        assert sum(decision.outcome == "shown" for decision in found) <= 2


def test_several_claims_hold_at_once_or_one_of_them() -> None:
    shown, refuted = Decision("shown"), Decision("refuted")
    unclear, hopeless = Decision("unclear", 3.0), Decision("unclear", None)
    assert all_of([shown, shown]) == shown
    assert all_of([shown, unclear, Decision("unclear", 5.0)]) == Decision("unclear", 5.0)
    assert all_of([unclear, hopeless]) == hopeless
    assert all_of([unclear, refuted, shown]) == refuted
    assert any_of(["refuted", "shown", "unclear"]) == "shown"
    assert any_of(["refuted", "unclear"]) == "unclear"
    assert any_of(["refuted", "refuted"]) == "refuted"


def test_outcomes_are_counted_alike() -> None:
    found = counted(["shown", "unclear", "refuted", "refuted"])
    assert found == "shown in 1 of 4, refuted in 2, too few images to say in 1"


def test_separation_is_the_gap_between_intervals() -> None:
    assert separation(Interval(5, 4, 7), Interval(1, 0, 3)) == Interval(4, 1, 7)
    assert decide(separation(Interval(5, 2, 7), Interval(1, 0, 3)), least=0).outcome == "unclear"


@pytest.mark.parametrize(
    ("found", "margin", "expected"),
    [
        ((-2, -3, -1), 0, "lower"),
        ((2, 1, 3), 5, "higher"),
        ((0, -1, 1), 0, "unclear"),
        ((0, -1, 1), 2, "alike"),
        ((0, -1, 3), 2, "unclear"),
    ],
)
def test_order(found: tuple[float, float, float], margin: float, expected: str) -> None:
    assert order(Interval(*found), margin=margin) == expected


SAMPLES = Pool(64, "samples", "num_samples")
HELD_OUT = Pool(400, "held-out images", "data.held_out")


def test_advice_names_the_samples_where_they_suffice() -> None:
    assert advice(4.0, SAMPLES) == "about 260 samples would do (num_samples)"
    assert advice(3.0, Pool(5, "samples", "n")) == "about 15 samples would do (n)"
    # 1 / N = (1/64 + 1/400) / 2 - 1/400: 152.4
    assert advice(2.0, SAMPLES, HELD_OUT) == "about 160 samples would do (num_samples)"


def test_advice_names_all_sets_where_samples_alone_do_not_suffice() -> None:
    assert advice(10.0, SAMPLES, HELD_OUT) == (
        "about 640 samples (num_samples) and 4000 held-out images (data.held_out) would do"
    )


def test_advice_gives_no_absurd_number() -> None:
    assert advice(None, SAMPLES) == "no practical number of images would tell"
    # samples alone would have to be more than a hundred times as many
    barely = (1 / 64 + 1 / 400) / (1 / 400 + 1 / 64_000)
    assert "held-out" in advice(barely, SAMPLES, HELD_OUT)
