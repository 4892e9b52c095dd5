from typing import Any

import pytest
import torch

from ood_sampler.metrics.near_copies import near_copies as find_near_copies
from ood_sampler.report.claims import Verdict
from ood_sampler.report.verdicts import conclusion, verdicts
from ood_sampler.statistics.intervals import share_interval, with_bounds

CEILING, CONTROLS, REAL, COPIES, BLENDS, CAPTURED = range(6)


@pytest.fixture
def results(results: dict[str, Any]) -> dict[str, Any]:
    """Rows without near-copies, for tests that give them their own."""
    for row in results["rows"]:
        del row["near_copies"]
    return results


def judge(results: dict[str, Any], which: int) -> Verdict:
    return verdicts(results)[which]


def test_all_is_well(results: dict[str, Any]) -> None:
    found = verdicts(results)
    assert [verdict.outcome for verdict in found] == ["shown"] * 6


def test_in_domain_ceiling(results: dict[str, Any]) -> None:
    verdict = judge(results, CEILING)
    assert (verdict.outcome, verdict.answer) == ("shown", "yes")
    assert "about 300 times lower" in verdict.sentence
    row = results["rows"][0]
    row["kid"] = 0.29
    unclear = judge(results, CEILING)
    assert (unclear.outcome, unclear.answer) == ("unclear", "too few to say")
    # two errors of 0.01 reach 0.02, four times as many images 0.01; half the error is of 400 held
    # out images, which cannot stay
    assert unclear.sentence.endswith(
        "Too few images to say: about 1700 samples (num_samples) and 1700 held-out images "
        "(data.held_out) would do."
    )
    row["kid"] = 0.4
    assert judge(results, CEILING).answer == "no"
    # A KID that could be 0 gives no ratio but a bound: 0.3 / (0.0001 + 2 * 0.0002).
    row["kid"] = 0.0001
    assert "at least 600 times lower" in judge(results, CEILING).sentence
    row["kid"] = -0.0001
    assert "at least 1000 times lower" in judge(results, CEILING).sentence
    row["kid"] = -0.001
    assert "is lower than that of samples" in judge(results, CEILING).sentence


@pytest.mark.parametrize(
    ("kid", "outcome", "words"),
    [
        (0.001, "shown", "adds something"),
        # Told apart from lerp in pixels, not from cog in pixels.
        (0.0046, "unclear", "not to be told apart from that of cog (2) in pixels"),
        (0.008, "refuted", "higher than that of cog (2) in pixels"),
    ],
)
def test_controls(results: dict[str, Any], kid: float, outcome: str, words: str) -> None:
    results["rows"][0]["kid"] = kid
    verdict = judge(results, CONTROLS)
    assert verdict.outcome == outcome
    assert words in verdict.sentence
    assert "lower than that of lerp (2) in pixels" in verdict.sentence


@pytest.mark.parametrize(
    ("kid", "error", "outcome", "words"),
    # the own samples are 0.3 - 0.0009 farther than real ones, of which a twentieth is 0.015
    [
        (0.001, 0.0002, "shown", "is at most 15 × 10⁻³ (a twentieth of the distance"),
        (0.003, 0.0002, "shown", "at most 15"),
        (-0.003, 0.0002, "shown", "is even below that of the real few-shot images"),
        (0.03, 0.001, "refuted", "higher than that of the real few-shot images by more than 15"),
        (0.03, 0.02, "unclear", "As near would be at most 15"),
        (0.001, 0.02, "unclear", "Too few images to say: about"),
    ],
)
def test_real_pictures(
    results: dict[str, Any], kid: float, error: float, outcome: str, words: str
) -> None:
    results["rows"][0] |= {"kid": kid, "kid_standard_error": error}
    verdict = judge(results, REAL)
    assert verdict.outcome == outcome
    assert words in verdict.sentence


def test_a_difference_that_is_not_shown_is_no_equality(results: dict[str, Any]) -> None:
    """Of 64 samples: a KID of 434 ± 214 against 13 ± 78, own samples at 500."""
    for row, kid, error in zip(
        results["rows"], (0.434, 0.013, 0.5), (0.214, 0.078, 0.1), strict=False
    ):
        row |= {"kid": kid, "kid_standard_error": error, "samples": 64}
    verdict = judge(results, REAL)
    assert (verdict.outcome, verdict.answer) == ("unclear", "too few to say")
    # 421 lies 397 beyond the limit of 24, two standard errors reach 456: (456 / 397)^2 = 1.32;
    # (1/64 + 1/64 + 1/400) / 1.32 - 1/64 - 1/400 = 1/134
    assert "Too few images to say: about 140 samples would do (num_samples)." in verdict.sentence
    reached = judge(results, CEILING)
    assert reached.outcome == "unclear"
    assert conclusion(verdicts(results)) == (
        "Too few images to say whether the target domain was reached."
    )


def test_margins_are_plain_numbers(results: dict[str, Any]) -> None:
    results["rows"][2] |= {"kid": 2.5, "kid_standard_error": 0.1}
    assert "is at most 120 × 10⁻³ (a twentieth" in judge(results, REAL).sentence


def test_a_difference_within_the_margin_is_told(results: dict[str, Any]) -> None:
    # 10 above real images, of at most 15, with an error of 0.3
    results["rows"][0] |= {"kid": 0.0109, "kid_standard_error": 0.0002}
    verdict = judge(results, REAL)
    assert (verdict.outcome, verdict.answer) == ("shown", "yes")
    assert "sees the difference all the same" in verdict.sentence
    results["rows"][0]["kid"] = 0.0009
    assert "sees the difference" not in judge(results, REAL).sentence


def test_without_a_distance_to_own_samples_there_is_no_margin(results: dict[str, Any]) -> None:
    results["rows"][2]["kid"] = 0.0005
    assert "as_near_as_real" not in {verdict.key for verdict in verdicts(results)}


@pytest.mark.parametrize(
    ("value", "outcome", "words"),
    # 400 samples and as many real images: the interval reaches 2 * 0.035 both ways.
    [
        (0.48, "shown", "as far from copies as real images, to within 0.1"),
        (0.44, "unclear", "As new would be at most 0.1 lower. Too few images to say: about"),
        (0.3, "refuted", "40% of the samples were copies"),
        (0.0, "refuted", "100% of the samples were copies"),
        (0.6, "shown", "left the domain"),
    ],
)
def test_copies(results: dict[str, Any], value: float, outcome: str, words: str) -> None:
    results["rows"][0]["authenticity"] = value
    verdict = judge(results, COPIES)
    assert verdict.outcome == outcome
    assert words in verdict.sentence


def test_copies_without_the_authenticity_of_real_pictures(results: dict[str, Any]) -> None:
    results["rows"][1]["authenticity"] = None
    # Now the interval reaches 2 * 0.0249 about the difference to the expected half.
    for value, outcome in ((0.46, "shown"), (0.44, "refuted")):
        results["rows"][0]["authenticity"] = value
        assert judge(results, COPIES).outcome == outcome
    assert "about 0.5 is expected" in judge(results, COPIES).sentence


def near_copies(count: int, of: int) -> dict[str, float]:
    """With the exact interval (Clopper & Pearson, 1934) to three digits."""
    bounds = {(11, 64): (0.089, 0.287), (0, 64): (0.0, 0.056), (5, 500): (0.003, 0.023)}
    low, high = bounds[count, of]
    share = count / of
    return {"near_copies": share, "near_copies_low": low, "near_copies_high": high, "samples": of}


def test_near_copies_are_stronger_than_authenticity(results: dict[str, Any]) -> None:
    results["rows"][0] |= near_copies(11, 64) | {"authenticity": 0.9}
    results["rows"][1] |= {"near_copies": 0.01}
    verdict = judge(results, COPIES)
    assert (verdict.outcome, verdict.answer) == ("refuted", "no: near-copies")
    assert "17.2% (8.9% to 28.7%) of the samples are near-copies" in verdict.sentence
    assert "1.0% of real images, and at most 3% count as new" in verdict.sentence
    assert "but they are in part near-copies of the few-shot images (17%)." in conclusion(
        verdicts(results)
    )


def test_few_samples_without_near_copies_are_not_called_new(results: dict[str, Any]) -> None:
    results["rows"][0] |= near_copies(0, 64)
    verdict = judge(results, COPIES)
    assert (verdict.outcome, verdict.answer) == ("unclear", "too few to say")
    # none of 122 would be: 0.97^122 < 0.025
    assert "Too few images to say: about 130 samples would do (num_samples)." in verdict.sentence
    assert "Too few images to say whether they are new." in conclusion(verdicts(results))


def test_new_needs_few_near_copies_and_no_lower_authenticity(results: dict[str, Any]) -> None:
    results["rows"][0] |= near_copies(5, 500)
    verdict = judge(results, COPIES)
    assert (verdict.outcome, verdict.answer) == ("shown", "new")
    assert "Authenticity is 0.500" in verdict.sentence
    # not shown to be lower, nor to be as high: near-copies were counted
    results["rows"][0]["authenticity"] = 0.45
    verdict = judge(results, COPIES)
    assert verdict.outcome == "shown"
    assert "It is not shown to be lower." in verdict.sentence
    results["rows"][0]["authenticity"] = 0.3
    verdict = judge(results, COPIES)
    assert (verdict.outcome, verdict.answer) == ("refuted", "partly copies")
    assert "1.0% (0.3% to 2.3%) of the samples are near-copies" in verdict.sentence


def test_few_held_out_pictures_do_not_tell_near_copies(results: dict[str, Any]) -> None:
    """Of new images one in seven lies nearer than the nearest of six held-out images."""
    outcomes = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        few_shot, held_out, samples = (
            torch.randn(count, 8, generator=generator) for count in (24, 6, 64)
        )
        for row, images in zip(results["rows"], (samples, held_out), strict=False):
            share = share_interval(find_near_copies(images, few_shot, held_out))
            row |= with_bounds({"near_copies": share})
        results["rows"][0]["samples"] = 64
        verdict = judge(results, COPIES)
        outcomes.append(verdict.answer)
    assert outcomes.count("no: near-copies") <= 5
    results["rows"][0] |= near_copies(11, 64)
    verdict = judge(results, COPIES)
    assert verdict.outcome == "unclear"
    assert "(data.held_out) would do" in verdict.sentence
    results["protocol"]["held-out images"] = 6
    assert "than any held-out image is;" in judge(results, COPIES).sentence


def test_more_near_copies_among_real_pictures_move_the_limit(results: dict[str, Any]) -> None:
    results["rows"][0] |= near_copies(11, 64)
    results["rows"][1] |= {"near_copies": 0.05}
    verdict = judge(results, COPIES)
    assert "at most 11% count as new" in verdict.sentence
    assert verdict.outcome == "unclear"


def test_blends(results: dict[str, Any]) -> None:
    scores = results["distributions"]["blend_pair"]
    assert judge(results, BLENDS).outcome == "shown"
    scores["samples"] = torch.linspace(0.601, 0.801, 101).tolist()
    verdict = judge(results, BLENDS)
    assert (verdict.outcome, verdict.answer) == ("refuted", "blends")
    # The 95th percentile of 0.5 ... 0.7 is 0.69, above which 56 of 101 lie.
    assert "70% of the variance of a sample, against 60%" in verdict.sentence
    assert "55% of the samples exceed what 5% of" in verdict.sentence
    scores["samples"], scores["held_out"] = scores["held_out"], scores["samples"]
    assert judge(results, BLENDS).outcome == "shown"


def test_blends_of_few_pictures_are_unclear(results: dict[str, Any]) -> None:
    scores = results["distributions"]["blend_pair"]
    scores["held_out"] = scores["samples"] = scores["samples"][::40]
    verdict = judge(results, BLENDS)
    assert (verdict.outcome, verdict.answer) == ("unclear", "too few to say")
    assert "about 8000 samples (num_samples)" in verdict.sentence


@pytest.mark.parametrize(
    ("value", "outcome", "answer"),
    # of 400 samples: two standard errors of 0.02 reach 0.014, those of 0.05 0.022
    [
        (0.0, "shown", "yes"),
        (0.02, "shown", "yes"),
        (0.05, "unclear", "too few to say"),
        (0.04, "unclear", "too few to say"),
        (0.1, "refuted", "mostly"),
        (0.5, "refuted", "captured"),
    ],
)
def test_captured(results: dict[str, Any], value: float, outcome: str, answer: str) -> None:
    results["rows"][0]["captured"] = value
    verdict = judge(results, CAPTURED)
    assert (verdict.outcome, verdict.answer) == (outcome, answer)


def test_none_captured_of_ten_is_not_few(results: dict[str, Any]) -> None:
    results["rows"][0] |= {"captured": 0.0, "samples": 10}
    verdict = judge(results, CAPTURED)
    assert verdict.outcome == "unclear"
    # up to 31% would be missed in ten
    assert "0.0% (0.0% to 30.8%)" in verdict.sentence
    # none of 72 would be few: 0.95^72 < 0.025
    assert "about 72 samples would do" in verdict.sentence


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
        ({}, "look like the target domain, and they are new. The frozen model does better than"),
        (
            {"kid": 0.0046},
            "and they are new. Too few images to say whether the frozen model does better",
        ),
        (
            {"kid": 0.008},
            "and they are new. Mixing the few-shot images without the model does better.",
        ),
        ({"authenticity": 0.1}, "but they are partly copies of the few-shot images. The frozen"),
        ({"kid": 0.4}, "The target domain was not reached."),
        ({"kid": 0.29}, "Too few images to say whether the target domain was reached."),
        ({"captured": 0.7}, "The target domain was not reached."),
        ({"captured": 0.1}, "but they are in part captured by the model's own domain (10%). The"),
        (
            {"captured": 0.04},
            "and they are new. Too few images to say whether they stay in the target",
        ),
        (
            {"kid": 0.2},
            "are nearer to the target domain than the model's own images, and they are",
        ),
        (
            {"authenticity": 0.44, "captured": 0.04},
            "domain. Too few images to say whether they are new and whether they stay in the",
        ),
        ({"authenticity": 0.44}, "domain. Too few images to say whether they are new. The frozen"),
    ],
)
def test_conclusion(results: dict[str, Any], changes: dict[str, float], words: str) -> None:
    results["rows"][0] |= changes
    assert words in conclusion(verdicts(results))


def test_conclusion_of_blends_and_of_nothing(results: dict[str, Any]) -> None:
    results["distributions"]["blend_pair"]["samples"] = [0.9] * 100
    assert "but they are closer to double exposures of few-shot images" in conclusion(
        verdicts(results)
    )
    results["rows"][0]["authenticity"] = 0.1
    assert "images and closer to double exposures" in conclusion(verdicts(results))
    results["rows"][0]["captured"] = 0.1
    assert "than real ones are, and in part captured by" in conclusion(verdicts(results))
    results["rows"][0]["kid"] = None
    assert conclusion(verdicts(results)) == ""


@pytest.mark.parametrize(
    ("value", "outcome", "words"),
    # half of the intervals is 0.2, so that of the difference is 0.28, and the margin is 0.4
    [
        (4.1, "shown", "alike to within 10%"),
        (3.8, "unclear", "As varied would be within 10%"),
        (3.3, "refuted", "more like each other"),
        (4.7, "refuted", "left the domain"),
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


def second(results: dict[str, Any], **changes: float) -> dict[str, Any]:
    """The results with the same opinion of a second judge, but for some figures of the samples."""
    judged = ("kid", "kid_standard_error", "authenticity", "captured")
    for row in results["rows"]:
        row |= {f"second/{key}": row[key] for key in judged}
    results["rows"][0] |= {f"second/{key}": value for key, value in changes.items()}
    results["protocol"]["judges"] = "first, second"
    return results


def test_judges_agree(results: dict[str, Any]) -> None:
    alone = {verdict.key: verdict for verdict in verdicts(results)}
    found = verdicts(second(results))
    assert [verdict.outcome for verdict in found] == ["shown"] * 6
    for verdict in found:
        told = "" if verdict.key == "more_than_blends" else " first says so, second too."
        assert verdict.sentence == f"{alone[verdict.key].sentence}{told}"


def test_judges_disagree(results: dict[str, Any]) -> None:
    found = verdicts(second(results, kid=0.008))
    verdict = found[CONTROLS]
    assert (verdict.outcome, verdict.answer) == ("disputed", "judges disagree")
    assert verdict.sentence.startswith(
        "first says yes: The KID of the samples, (1.00\xa0±\xa00.20)"
    )
    assert " second says no: The KID of the samples, (8.00\xa0±\xa00.20)" in verdict.sentence
    assert "The judges disagree whether the frozen model does better than" in conclusion(found)
    assert [v.outcome for v in found if v.outcome != "shown"] == ["disputed"]


def test_a_judge_that_cannot_say_does_not_disagree(results: dict[str, Any]) -> None:
    unsure = verdicts(second(results, kid=0.0046))[CONTROLS]
    assert (unsure.outcome, unsure.answer) == ("shown", "yes")
    assert "first says so. second says too few to say: The KID of the samples" in unsure.sentence
    # nor does the answer of another replace that of a headline that cannot say
    results["rows"][0] |= {"kid": 0.0046, "second/kid": 0.001}
    headline = verdicts(results)[CONTROLS]
    assert (headline.outcome, headline.answer) == ("unclear", "too few to say")
    assert "second says yes" in headline.sentence


def test_what_judges_disagree_on_is_told_in_the_conclusion(results: dict[str, Any]) -> None:
    lost = verdicts(second(results, captured=0.2))
    assert lost[CAPTURED].answer == "judges disagree"
    assert "The judges disagree whether they stay in the target domain." in conclusion(lost)
    results["rows"][0]["second/kid"] = 0.4
    assert conclusion(verdicts(results)) == (
        "The judges disagree whether the target domain was reached."
    )


def test_differences_to_the_same_pictures_are_paired(results: dict[str, Any]) -> None:
    """Two errors of their own leave open what the difference itself shows."""
    results["rows"][0]["kid"] = 0.0046
    assert judge(results, CONTROLS).outcome == "unclear"
    control = next(row for row in results["rows"] if row["name"] == "cog (2) in pixels")
    control |= {"kid_above": 0.0004, "kid_above_low": 0.0001, "kid_above_high": 0.0007}
    assert judge(results, CONTROLS).outcome == "shown"
    control |= {"kid_above": -0.0004, "kid_above_low": -0.0007, "kid_above_high": -0.0001}
    assert judge(results, CONTROLS).outcome == "refuted"
    control |= {"kid_above_low": -0.0007, "kid_above_high": 0.0001}
    assert judge(results, CONTROLS).outcome == "unclear"


def test_a_mixture_that_is_less_new_refutes_nothing(results: dict[str, Any]) -> None:
    results["rows"][0]["kid"] = 0.008
    control = next(row for row in results["rows"] if row["name"] == "cog (2) in pixels")
    # 0.50 and 0.40 of 400 images differ by more than their errors, 0.50 and 0.45 do not
    control["authenticity"] = 0.45
    assert judge(results, CONTROLS).outcome == "refuted"
    control["authenticity"] = 0.4
    verdict = judge(results, CONTROLS)
    assert (verdict.outcome, verdict.answer) == ("shown", "yes")
    assert "which is less new (authenticity 0.400)" in verdict.sentence
    assert "at authenticity 0.500, is lower than that of lerp (2) in pixels" in verdict.sentence


def test_all_that_is_nearer_is_less_new(results: dict[str, Any]) -> None:
    results["rows"][0]["kid"] = 0.03
    for row in results["rows"]:
        if row["role"] == "control":
            row["authenticity"] = 0.1
    found = verdicts(results)
    assert (found[CONTROLS].outcome, found[CONTROLS].answer) == ("unclear", "nearer or newer")
    assert "experiment=frontier compares at equal novelty" in found[CONTROLS].sentence
    told = conclusion(found)
    assert told.endswith("Mixing the few-shot images without the model is nearer, and less new.")


def test_captured_is_held_against_real_pictures_of_a_domain_alike(results: dict[str, Any]) -> None:
    results["rows"][0]["captured"] = 0.2
    assert judge(results, CAPTURED).outcome == "refuted"
    results["rows"][1]["captured"] = 0.19
    alike = judge(results, CAPTURED)
    assert alike.outcome == "unclear"
    assert "of real images 19.0% (15.1% to 22.9%) do, and 5% more count as none" in alike.sentence
    for row in results["rows"][:2]:
        row |= {"captured_low": row["captured"] - 0.01, "captured_high": row["captured"] + 0.01}
    assert judge(results, CAPTURED).outcome == "shown"


def test_a_mixture_that_is_not_shown_to_be_nearer_is_not_called_so(results: dict[str, Any]) -> None:
    """One that is less new, and whose KID is even higher than that of the samples."""
    for row in results["rows"]:
        if row["role"] == "control":
            row |= {"kid": 0.0012, "kid_standard_error": 0.0003, "authenticity": 0.1}
    found = verdicts(results)
    assert (found[CONTROLS].outcome, found[CONTROLS].answer) == ("unclear", "too few to say")
    assert "is not to be told apart from that of lerp (2) in pixels" in found[CONTROLS].sentence
    assert conclusion(found).endswith(
        "Too few images to say whether the frozen model does better than mixing the few-shot "
        "images without it."
    )


def test_judges_with_one_outcome_and_two_answers_do_not_say_the_same(
    results: dict[str, Any],
) -> None:
    for row in results["rows"]:
        row |= {"diversity": 10.0, "diversity_low": 9.9, "diversity_high": 10.1}
        row |= {"diversity_clusters": 20}
        row |= {f"second/{key}": row[key] for key in list(row) if key.startswith("diversity")}
    samples = results["rows"][0]
    samples |= {"diversity": 5.0, "diversity_low": 4.9, "diversity_high": 5.1}
    samples |= {f"second/diversity{end}": 20.0 for end in ("", "_low", "_high")}
    results["protocol"]["judges"] = "first, second"
    verdict = next(each for each in verdicts(results) if each.key == "as_varied")
    assert (verdict.outcome, verdict.answer) == ("refuted", "less varied")
    assert "first says so. second says farther apart: Samples" in verdict.sentence
