from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from ood_sampler.config import CONF
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import HeunSolver, MultistepSolver
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.grid import to_uint8
from ood_sampler.studies.in_domain import _STAND_IN, Sources, inversions
from tests.conftest import RESOLUTION, smooth_images
from tests.test_pipeline import pipeline


@pytest.fixture(scope="module")
def run(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    return pipeline(model_folder, tmp_path_factory.mktemp("in_domain"), trainer)


def test_samples_of_the_model_stand_for_its_domain(run: Pipeline) -> None:
    found = Sources([300, 500], 12, None).in_domain(run)
    solver = MultistepSolver(steps=17, power=2)
    by_default = replace(run, codec=run.model.codec(solver))
    samples = torch.cat(list(by_default.in_domain_images().blocks()))
    pictures = torch.stack([found.domain.few_shot[i] for i in range(12)])
    assert torch.equal(pictures, to_uint8(samples[:12]).float() / 127.5 - 1)
    assert len(found.domain.few_shot) == 12
    of_step = found.latents()
    assert list(of_step) == [300, 500]
    expected = run.codec.encode(pictures, [500])[500]
    torch.testing.assert_close(of_step[500].take(range(12)), expected, rtol=0, atol=1e-4)


def test_pictures_of_the_domain_are_taken_where_they_are_given(
    run: Pipeline, tmp_path: Path
) -> None:
    found = Sources([300], 12, saved(tmp_path, 16)).in_domain(run)
    assert len(found.domain.few_shot) == 12
    assert found.domain.few_shot.resolution == RESOLUTION
    assert all(name.endswith(".png") for name in found.domain.few_shot.names)


def test_all_solvers_see_the_same_in_domain_set(run: Pipeline) -> None:
    sources = Sources([300], 12, None)
    other = replace(run, codec=run.model.codec(HeunSolver(steps=4, power=1)))
    found = [sources.in_domain(made) for made in (run, other)]
    assert found[0].domain.few_shot.digest == found[1].domain.few_shot.digest
    # images are inverted by the run's own
    assert [made.codec for made in found] == [run.codec, other.codec]
    work = {work.name: work.evaluations for work in work_of(inversions(sources, other))}
    assert work["in-domain"] == 0
    assert work["invert in-domain"] == 12 * other.codec.encoding_evaluations([300])


def test_the_stand_in_is_made_as_the_default_solver_does() -> None:
    default = OmegaConf.load(CONF / "solver" / "multistep.yaml")
    arguments = {str(key): value for key, value in default.items() if key != "_target_"}
    assert vars(_STAND_IN) == vars(MultistepSolver(**arguments))
    assert {"solver": "multistep"} in OmegaConf.load(CONF / "run.yaml").defaults


def saved(folder: Path, count: int) -> str:
    for i, image in enumerate(smooth_images(count, 5)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:02d}.png")
    return str(folder)


@pytest.mark.parametrize("count", [10, 11, 12])
def test_all_pictures_are_taken_where_there_are_no_more(
    run: Pipeline, tmp_path: Path, count: int
) -> None:
    sources = Sources([300], 12, saved(tmp_path, count))
    (tmp_path / "broken.png").write_bytes(b"none")
    sources.check(run, least=10)
    found = sources.in_domain(run).domain.few_shot
    assert sorted(found.names) == [f"{i:02d}.png" for i in range(count)]
    assert sources.in_domain_count == min(12, count + 1)


def test_too_few_pictures_are_found_before_work_starts(run: Pipeline, tmp_path: Path) -> None:
    root = saved(tmp_path, 9)
    (tmp_path / "broken.png").write_bytes(b"none")
    message = r"study\.in_domain_root must hold >= 10 readable images .*, got 9 in"
    with pytest.raises(ValueError, match=message):
        Sources([300], 12, root).check(run, least=10)


def test_a_chain_too_short_for_the_stand_in_is_refused(run: Pipeline) -> None:
    class Short:
        schedule = Schedule.linear(10)

    short = replace(run, codec=Short())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"study\.in_domain_root must be images .* too short"):
        Sources([5], 12, None).check(short, least=2)


def test_all_few_shot_pictures_keep_their_latents(run: Pipeline) -> None:
    # more images asked for than there are: the artifact of an ordinary run serves
    assert Sources([400], 999, None).few_shot(run).inversion.output.digest == (
        run.inversion.output.digest
    )
