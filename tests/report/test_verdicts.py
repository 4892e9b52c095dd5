from typing import Any

import pytest
import torch

from ood_sampler.report.verdicts import Verdict, conclusion, order, verdicts

CEILING, CONTROLS, REAL, COPIES, BLENDS, CAPTURED = range(6)


def judge(results: dict[str, Any], which: int) -> Verdict:
    return verdicts(results)[which]


def test_order_is_two_standard_errors() -> None:
    # The two errors of 3 and 4 make 5, and the margin 10.
    assert order(0, 3, 10.1, 4) == "lower"
    assert order(10.1, 3, 0, 4) == "higher"
    assert order(0, 3, 9.9, 4) == "same"
    assert order(9.9, 3, 0, 4) == "same"


def test_all_is_well(results: dict[str, Any]) -> None:
    found = verdicts(results)
    assert [verdict.outcome for verdict in found] == ["good"] * 6


def test_in_domain_ceiling(results: dict[str, Any]) -> None:
    verdict = judge(results, CEILING)
    assert (verdict.outcome, verdict.answer) == ("good", "yes")
    assert "about 300 times lower" in verdict.sentence
    row = results["rows"][0]
    row["kid"] = 0.29
    assert judge(results, CEILING).answer == "cannot be told apart"
    row["kid"] = 0.4
    assert judge(results, CEILING).answer == "no"
    # A KID that could be 0 gives no ratio but a bound: 0.3 / (0.0001 + 2 * 0.0002).
    row["kid"] = 0.0001
    assert "at least 600 times lower" in judge(results, CEILING).sentence
    row["kid"] = -0.0001
    assert "at least 1000 times lower" in judge(results, CEILING).sentence


@pytest.mark.parametrize(
    ("kid", "outcome", "words"),
    [
        (0.001, "good", "adds something"),
        # Told apart from lerp in pixels, not from cog in pixels.
        (0.0046, "open", "not to be told apart from that of cog (2) in pixels"),
        (0.008, "bad", "higher than that of cog (2) in pixels"),
    ],
)
def test_controls(results: dict[str, Any], kid: float, outcome: str, words: str) -> None:
    results["rows"][0]["kid"] = kid
    verdict = judge(results, CONTROLS)
    assert verdict.outcome == outcome
    assert words in verdict.sentence
    assert "lower than that of lerp (2) in pixels" in verdict.sentence


def test_real_pictures(results: dict[str, Any]) -> None:
    assert "even below" not in judge(results, REAL).sentence
    results["rows"][0]["kid"] = 0.003
    assert (judge(results, REAL).outcome, judge(results, REAL).answer) == ("open", "not yet")
    results["rows"][0]["kid"] = -0.003
    assert "even below" in judge(results, REAL).sentence


@pytest.mark.parametrize(
    ("value", "outcome", "words"),
    # 400 samples and as many real pictures: the margin is 2 * 0.035.
    [
        (0.44, "good", "as far from copies as real pictures"),
        (0.3, "bad", "40% of the samples were copies"),
        (0.0, "bad", "100% of the samples were copies"),
        (0.6, "good", "left the domain"),
    ],
)
def test_copies(results: dict[str, Any], value: float, outcome: str, words: str) -> None:
    results["rows"][0]["authenticity"] = value
    verdict = judge(results, COPIES)
    assert verdict.outcome == outcome
    assert words in verdict.sentence


def test_copies_without_the_authenticity_of_real_pictures(results: dict[str, Any]) -> None:
    results["rows"][1]["authenticity"] = None
    # Now the margin is 2 * 0.0248 below the expected half.
    for value, outcome in ((0.46, "good"), (0.44, "bad")):
        results["rows"][0]["authenticity"] = value
        assert judge(results, COPIES).outcome == outcome
    assert "about 0.5 is expected" in judge(results, COPIES).sentence


def test_blends(results: dict[str, Any]) -> None:
    scores = results["distributions"]["blend_pair"]
    assert judge(results, BLENDS).outcome == "good"
    scores["samples"] = torch.linspace(0.601, 0.801, 101).tolist()
    verdict = judge(results, BLENDS)
    assert (verdict.outcome, verdict.answer) == ("bad", "blends")
    # The 95th percentile of 0.5 ... 0.7 is 0.69, above which 56 of 101 lie.
    assert "70% of the variance of a sample, against 60%" in verdict.sentence
    assert "55% of the samples exceed what 5% of" in verdict.sentence
    scores["samples"], scores["held_out"] = scores["held_out"], scores["samples"]
    assert judge(results, BLENDS).outcome == "good"


@pytest.mark.parametrize(
    ("value", "outcome"), [(0.0, "good"), (0.05, "good"), (0.051, "open"), (0.5, "bad")]
)
def test_captured(results: dict[str, Any], value: float, outcome: str) -> None:
    results["rows"][0]["captured"] = value
    assert judge(results, CAPTURED).outcome == outcome


def test_what_is_missing_is_left_out(results: dict[str, Any]) -> None:
    results["rows"] = results["rows"][:1]
    results["rows"][0] |= {"authenticity": None, "captured": None}
    results["distributions"]["blend_pair"] = {"samples": [0.5], "held_out": []}
    assert verdicts(results) == []
    del results["distributions"]
    assert verdicts(results) == []


def test_a_kid_without_standard_error_is_not_compared(results: dict[str, Any]) -> None:
    results["rows"][0]["kid_standard_error"] = None
    assert len(verdicts(results)) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "look like the target domain and new. The frozen model does better than"),
        ({"kid": 0.0046}, "and new. Mixing the few-shot pictures without the model does about as"),
        ({"kid": 0.008}, "and new. Mixing the few-shot pictures without the model does better."),
        ({"authenticity": 0.1}, "but they are partly copies of the few-shot pictures. The frozen"),
        ({"kid": 0.4}, "The target domain was not reached."),
        ({"captured": 0.7}, "The target domain was not reached."),
    ],
)
def test_conclusion(results: dict[str, Any], changes: dict[str, float], words: str) -> None:
    results["rows"][0] |= changes
    assert words in conclusion(verdicts(results))


def test_conclusion_of_blends_and_of_nothing(results: dict[str, Any]) -> None:
    results["distributions"]["blend_pair"]["samples"] = [0.9] * 100
    assert "but they are closer to double exposures of them" in conclusion(verdicts(results))
    results["rows"][0]["authenticity"] = 0.1
    assert "pictures and closer to double exposures" in conclusion(verdicts(results))
    results["rows"][0]["kid"] = None
    assert conclusion(verdicts(results)) == ""


@pytest.mark.parametrize(
    ("value", "outcome", "words"),
    # half of the intervals is 0.2, so both errors together are 0.144 and the margin 0.29
    [
        (3.8, "good", "cannot be told apart"),
        (3.65, "bad", "more like each other"),
        (4.35, "open", "left the domain"),
    ],
)
def test_variety(results: dict[str, Any], value: float, outcome: str, words: str) -> None:
    for row, diversity in zip(results["rows"][:2], (value, 4.0), strict=True):
        row |= {
            "diversity": diversity,
            "diversity_low": diversity - 0.2,
            "diversity_high": diversity + 0.2,
            "diversity_clusters": 16.0,
        }
    verdict = judge(results, 6)
    assert verdict.outcome == outcome
    assert words in verdict.sentence
    assert f"{value:.2f} [{value - 0.2:.2f}, {value + 0.2:.2f}] apart, over 16" in verdict.sentence


def test_intervals_stand_in_the_sentences(results: dict[str, Any]) -> None:
    results["rows"][0] |= {"captured_low": 0.0, "captured_high": 0.02}
    results["rows"][0] |= {"authenticity_low": 0.45, "authenticity_high": 0.55}
    assert "1.0% (0.0% to 2.0%) of the samples" in judge(results, CAPTURED).sentence
    assert "Authenticity is 0.500 [0.450, 0.550];" in judge(results, COPIES).sentence
