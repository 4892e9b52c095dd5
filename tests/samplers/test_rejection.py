import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from criteria_options import OPTIONS
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.geometry import criteria
from ood_sampler.pipeline.keys import label
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet
from ood_sampler.samplers.criteria import targets_of
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.samplers.rejection import RejectionSampler
from ood_sampler.samplers.slerp import SlerpSampler

MakeSet = Callable[..., InvertedSet]
PROPOSALS = {
    "slerp": SlerpSampler("pair", 20),
    "in_domain": SlerpSampler("in_domain", 20),
    "gaussian": GaussianSampler("diagonal"),
}


def rejection(
    candidates: Any = "gaussian",  # noqa: ANN401 also what it must not be
    *,
    attempts: int = 5000,
    **options: Any,  # noqa: ANN401 options of different types
) -> RejectionSampler:
    return RejectionSampler(candidates, attempts=attempts, **{**OPTIONS, **options})


def noise(n: int) -> SampleNoise:
    return SampleNoise(7, range(n), stream=Stream.LATENT)


def with_own_domain(make_set: MakeSet) -> InvertedSet:
    own = make_set(20, 3, 4, 4, mean=0.9, seed=1).latents
    return replace(make_set(8, 3, 4, 4, mean=1.0), in_domain=own)


def first_accepted(
    sampler: RejectionSampler, fitted: Fitted, inverted: InvertedSet, i: int
) -> tuple[int, Tensor]:
    """Attempts one by one, each measured by the definition."""
    source, latents = SampleNoise(7, [i], stream=Stream.LATENT), inverted.latents
    for k in range(sampler.attempts):
        attempt = source.attempts(0, [k])
        index = attempt.choice(len(latents), min(sampler.references, len(latents) - 1))
        z = PROPOSALS[sampler.candidates].draw(fitted, inverted, attempt)
        references = latents.take(index[0].tolist())[None]
        if targets_of(fitted).passed(criteria(z, references)).all():
            return k, z[0]
    raise AssertionError


@pytest.mark.parametrize("candidates", PROPOSALS)
@pytest.mark.parametrize("references", [3, 10])
def test_each_draw_is_the_first_candidate_that_meets_the_criteria(
    candidates: str, references: int, make_set: MakeSet
) -> None:
    inverted = with_own_domain(make_set)
    sampler = rejection(candidates, references=references, tolerance=0.8)
    fitted = sampler.fit(inverted)
    draws = sampler.draw(fitted, inverted, noise(5))
    found = [first_accepted(sampler, fitted, inverted, i) for i in range(5)]
    torch.testing.assert_close(draws, torch.stack([z for _, z in found]), rtol=0, atol=1e-6)
    assert max(k for k, _ in found) > 1


def test_the_acceptance_rate_is_that_of_the_candidates(
    make_set: MakeSet, caplog: pytest.LogCaptureFixture
) -> None:
    inverted = make_set(8, 3, 4, 4, mean=1.0)
    sampler, n = rejection(tolerance=0.5), 20
    caplog.set_level(logging.INFO)
    fitted = sampler.fit(inverted)
    rate = float(fitted["acceptance"])
    assert sampler.remarks(fitted) == [
        f"rejection: about {100 * rate:.3g} % of the candidates meet the criteria"
    ]
    sampler.draw(fitted, inverted, noise(n))
    made = sum(first_accepted(sampler, fitted, inverted, i)[0] + 1 for i in range(n))
    assert f"rejection: {n} latents of {made} candidates ({100 * n / made:.3g} %)" in caplog.text
    # both of about 100 and of n accepted ones
    assert abs(rate * made / n - 1) < 5 * (1 / 100 + 1 / n) ** 0.5


def test_a_looser_tolerance_accepts_more(make_set: MakeSet) -> None:
    inverted = make_set(8, 3, 4, 4, mean=1.0)
    rates = [float(rejection(tolerance=t).fit(inverted)["acceptance"]) for t in (0.3, 1, 3)]
    assert rates[0] < rates[1] < rates[2]
    wide = rejection(
        distance_tolerance=1e9, origin_angle_tolerance=180, pair_angle_tolerance=180
    ).fit(inverted)
    assert float(wide["acceptance"]) == 1


def test_what_cannot_be_accepted_is_said_at_once(make_set: MakeSet) -> None:
    inverted = make_set(8, 3, 4, 4, mean=1.0)
    with pytest.raises(GaveUpError, match="none of 300 candidates") as caught:
        rejection(attempts=300, origin_angle=5.0).fit(inverted)
    message = str(caught.value)
    assert "origin_angle 5 +- " in message
    assert "(met by 0.00%, mean of all " in message
    assert "raise sampler.origin_angle_tolerance first" in message
    assert "or sampler.attempts, or take sampler=geometric" in message


def test_a_draw_gives_up(make_set: MakeSet) -> None:
    inverted = make_set(8, 3, 4, 4, mean=1.0)
    fitted = rejection(tolerance=0.5).fit(inverted)
    with pytest.raises(GaveUpError, match="none of 1 candidates"):
        rejection(attempts=1, tolerance=0.5).draw(fitted, inverted, noise(20))


def test_measured_criteria_have_a_control_in_pixels() -> None:
    assert rejection("slerp", tolerance=0.5).mixes
    assert not rejection("gaussian").mixes
    for criterion in ("distance", "origin_angle", "pair_angle"):
        assert not rejection("slerp", **{criterion: 60.0}).mixes
        assert not rejection("slerp", **{f"{criterion}_tolerance": 0.1}).mixes


def test_candidates_of_a_far_domain_are_refused_in_a_sentence(make_set: MakeSet) -> None:
    inverted = replace(
        with_own_domain(make_set), in_domain=make_set(20, 3, 4, 4, mean=-30.0).latents
    )
    with pytest.raises(GaveUpError, match="none of 300 candidates of RejectionSampler meets all"):
        rejection("in_domain", attempts=300).fit(inverted)


def test_tables_tell_the_recipes_of_the_paper_apart() -> None:
    assert label(rejection("slerp")) == "rejection (as in the text: 10, 0.25, slerp, 5000)"
    assert label(rejection("in_domain")) == "rejection (as in the code: 10, 0.25, in_domain, 5000)"
    assert label(rejection("gaussian")) == "rejection (10, 0.25, gaussian, 5000)"
    assert label(GaussianSampler("scalar")) == "gaussian (scalar)"


def test_the_own_domain_is_asked_for_where_candidates_need_it() -> None:
    asked = {name: rejection(name).in_domain_images for name in PROPOSALS}
    assert asked == {"slerp": 0, "in_domain": 256, "gaussian": 0}
    assert not rejection("in_domain").mixes


def test_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match="candidates must be slerp, in_domain or gaussian, got 'lerp'"
    ):
        rejection("lerp")
    with pytest.raises(ValueError, match="attempts must be >= 1, got 0"):
        rejection(attempts=0)
