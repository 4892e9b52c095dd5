"""The search over flows, and of what its winner is varied in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.diffusion.denoiser import GaussianDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver, HeunSolver
from ood_sampler.diffusion.solvers.base import Solver
from ood_sampler.models.base import ModelInMemory
from ood_sampler.pipeline.choice import Choice
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.search import Flows, Search, asked_flows, fitting_flows
from ood_sampler.pipeline.settings import Settings
from ood_sampler.pipeline.trials import Tried
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.white import WhiteSampler
from ood_sampler.statistics.band import Thresholds
from tests.conftest import RESOLUTION, make_correction, make_judges, make_pipeline, smooth_images
from tests.test_pipeline import count_evaluations
from tests.test_search import domain, judge, search, trial

STEP = 999
SHAPE = (3, RESOLUTION, RESOLUTION)
SAMPLERS = [WhiteSampler(references=2, fresh=1.0), WhiteSampler(references=3, fresh=0.9)]


@dataclass(frozen=True)
class ExactModel(ModelInMemory):
    """The exact model of images of one colour under independent noise."""

    colour: float
    variance: float
    resolution: int = RESOLUTION
    channels: int = 3
    name: str = "exact"
    latent_shape: tuple[int, int, int] = SHAPE

    @property
    def digest(self) -> str:
        return f"exact {self.colour} {self.variance}"

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @cached_property
    def denoiser(self) -> GaussianDenoiser:
        return GaussianDenoiser(torch.full(SHAPE, self.colour), self.variance, Schedule.linear())

    def codec(self, solver: Solver) -> Codec:
        return DiffusionCodec(self, solver)


def run_of(
    colour: float, root: Path, trainer: Callable[..., Any], *, variance: float = 0.1
) -> Pipeline:
    """Noise is what both strategies draw: what it decodes to is up to the flow."""
    return make_pipeline(
        model=ExactModel(colour, variance),  # type: ignore[arg-type]
        domain=domain(),
        solver=DdimSolver(steps=6, power=1),
        sampler=SAMPLERS[0],
        judges=make_judges(nearest_k=5),
        trainer=trainer,
        settings=Settings(
            step=STEP, eta=0.0, clip_x_0=False, num_samples=16, seed=0, batch_size=64
        ),
        root=root,
    )


def chosen(
    run: Pipeline,
    correction: Any,  # noqa: ANN401
    samplers: Sequence[Sampler] = SAMPLERS,
    step: int = STEP,
) -> Choice:
    flows = {"steps": [step], "samplers": samplers, "corrections": [None, correction]}
    return search(samples=[16, 32], keep=0.5).choose(run, **flows)


def test_the_corrected_flow_is_chosen_where_the_models_own_domain_captures_noise(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = run_of(0.9, tmp_path, trainer)
    correction = make_correction(fade=0, in_domain=64)
    choice = chosen(run, correction)
    assert choice.correction is correction
    first = choice.trials[:4]
    by_flow = {w: [t for t in first if t.correction == w] for w in (0.0, 1.0)}
    assert [len(trials) for trials in by_flow.values()] == [2, 2]
    # along the plain flow noise becomes images of the model's own domain
    assert all(t.point.retention == 0 for t in by_flow[0.0])
    assert max(t.point.distance for t in by_flow[1.0]) < min(t.point.distance for t in by_flow[0.0])
    assert ", correction 1 (asked" in choice.remark
    after = choice.of(run)
    assert after.correction is correction
    assert (after.settings.step, after.sampler) == (STEP, choice.sampler)
    assert [row["correction"] for row in (t.as_dict() for t in first[:1])] == [1.0]


def test_the_plain_flow_is_chosen_where_the_correction_is_wrong(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    # what is said to be the model's own domain is not
    folder = tmp_path / "own"
    folder.mkdir()
    for i, pixels in enumerate(smooth_images(8, 4) // 4 + 190):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    # its flow scales images, so that few moves are exact
    run = run_of(0.0, tmp_path / "artifacts", trainer, variance=1.0)
    mixtures = [CogSampler(references=2), CogSampler(references=3)]
    wrong = make_correction(weight=3.0, fade=0, in_domain_root=str(folder))
    choice = chosen(run, wrong, mixtures, 300)
    assert choice.correction is None
    best, worst = choice.trials[0], choice.trials[3]
    assert (best.correction, worst.correction) == (0.0, 3.0)
    assert best.usable
    assert best.point.distance < worst.point.distance
    assert "correction" not in choice.remark


def test_inversions_along_the_corrected_flow_are_counted_and_promised(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = run_of(0.9, tmp_path, trainer)
    # the samples for the Gaussian have seed 0
    run = replace(run, settings=replace(run.settings, seed=3))
    correction = make_correction(fade=0, in_domain=64)
    given: dict[str, Any] = {
        "steps": [500, STEP],
        "samplers": SAMPLERS,
        "corrections": [None, correction],
    }
    asked = search(samples=[16, 32], temperatures=[0.9], shifts=[-50, 50], etas=[0.3])
    asked.check(run, **given)
    nodes = [*asked.targets(run, **given), run.in_domain]
    work = work_of(nodes)
    promised = asked.work(run, **given)
    # 999 + 50 is no step, and 500 + 50 is; DDIM can add noise
    assert [(w.name, w.images) for w in promised] == [
        ("search 1", 8 * 16),
        ("search 2", 3 * 32),
        ("search, variants", 4 * 32),
    ]
    with pytest.MonkeyPatch.context() as patch:
        calls = count_evaluations(run, patch)
        choice = asked.choose(run, **given)
    # 24 images to fit, to both steps at once: 3 and 6 intervals, of which 2 are shared
    each = run.codec.encoding_evaluations([500, STEP])
    assert choice.inverting == 24 * each
    # the run after the search may need latents of all images along the corrected flow
    spare = 40 * run.codec.encoding_evaluations([STEP])
    known = sum(w.evaluations for w in work) - spare - choice.inverting
    assert sum(calls) == choice.evaluations + choice.inverting + known
    assert choice.evaluations <= sum(w.evaluations for w in promised)
    with pytest.MonkeyPatch.context() as patch:
        calls = count_evaluations(run, patch)
        assert asked.choose(run, **given) == choice
    assert calls == []


def test_the_winner_is_varied_in_what_model_and_solver_can_do(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = run_of(0.9, tmp_path, trainer)
    asked = search(temperatures=[0.9, 1.0], shifts=[-50, 50], etas=[0.3])
    settings = [v.settings for v in asked.variants(run)]
    usual = (0.0, 1.0, 0)
    assert [(s.eta, s.temperature, s.shift) for s in settings] == [
        (0.3, *usual[1:]),
        (0.0, 0.9, 0),
        (0.0, 1.0, -50),
    ]
    heun = replace(run, codec=run.model.codec(HeunSolver(steps=6, power=1)))
    assert [v.settings.eta for v in asked.variants(heun)] == [0.0, 0.0]
    assert search().variants(run) == []


def tried(distance: float, features: Tensor, *, usable: bool = True, **point: Any) -> Tried:  # noqa: ANN401
    settings = {"retention": 1.0, "novelty": 1.0, **point}
    return Tried(trial(distance=distance, usable=usable, **settings), None, features)  # type: ignore[arg-type]


def test_a_variant_takes_the_place_of_the_winner_only_if_it_is_nearer_beyond_the_error() -> None:
    judged = judge()
    judged.__dict__["relative"] = Thresholds(0.8, 0.4, 0.01)
    near = judged.few_shot[8:]
    axis = torch.eye(9)[0]
    best, nearer, alike = (near + by * axis for by in (3.0, 0.0, 3.0))
    first = tried(5.0, best)
    assert judged.better(tried(1.0, nearer), first)
    assert not judged.better(tried(4.9, alike), first)
    assert not judged.better(tried(1.0, nearer, usable=False), first)
    # nothing is nearer than real images
    assert not judged.better(tried(1.0, nearer), tried(judged.floor, best))
    lacking = tried(5.0, best, usable=False, novelty=0.1)
    assert judged.better(tried(9.0, alike, usable=False, novelty=0.3), lacking)
    assert not judged.better(tried(1.0, nearer, usable=False, novelty=0.1), lacking)


def test_flows_that_a_model_does_not_have_are_left_out() -> None:
    gaussian = make_correction()
    flows = Flows({"gaussian": gaussian, "none": None})
    diffusion = ExactModel(0.0, 0.1).codec(DdimSolver(steps=5, power=1))
    assert fitting_flows(diffusion, asked_flows(flows)) == [None, gaussian]
    pixels = PixelCodec(SHAPE)
    assert fitting_flows(pixels, asked_flows(flows)) == [None]
    # what was asked for by name is not
    assert fitting_flows(pixels, asked_flows(gaussian)) == [gaussian]
    late = make_correction(fade=999)
    assert fitting_flows(diffusion, [None, late]) == [None]


@pytest.mark.parametrize(
    "corrections", [{}, {"a": None, "b": None}, {"a": make_correction(), "b": make_correction()}]
)
def test_flows_must_be_told_apart_by_their_weight(corrections: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"correction\.corrections must name at least one flow"):
        Flows(corrections)


@pytest.mark.parametrize("key", ["etas", "temperatures"])
def test_variants_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"search\.{key} must all be > 0, got \[0\.1, 0\]"):
        search(**{key: [0.1, 0]})


def test_defaults_keep_the_search_cheap() -> None:
    from omegaconf import OmegaConf

    from ood_sampler.config import CONF

    keys = OmegaConf.to_container(OmegaConf.load(CONF / "run.yaml").search)
    assert isinstance(keys, dict)
    del keys["_target_"]  # type: ignore[arg-type]
    made = Search(**keys)  # type: ignore[arg-type]
    # of 7 strategies at 5 steps along both flows, of 320 samples each in the grid; shards of 64
    candidates, before, images = 70, 0, 0
    for samples in made.samples:
        images += candidates * (samples - before // 64 * 64)
        candidates, before = made._going_on(candidates), samples
    # the default solver adds no noise
    images += (len(made.temperatures) + len(made.shifts)) * made.samples[-1]
    assert images < 0.23 * 70 * 320
