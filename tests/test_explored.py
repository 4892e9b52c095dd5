"""What a run finds out about single images, and its film."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.metrics.authenticity import authenticity
from ood_sampler.pipeline.exploring import explorer
from ood_sampler.pipeline.outcome import Outcome
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.record import results, write_run
from tests.test_pipeline import count_evaluations, pipeline

COUNT, FILM = 12, 3


@pytest.fixture(scope="module")
def made(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pipeline, Outcome, list[int], int]:
    """A small run with a film, what it found, its calls of the network and those promised."""
    root = tmp_path_factory.mktemp("explored")
    run = pipeline(model_folder, root, trainer, num_samples=COUNT, in_domain=8, film=FILM)
    promised = sum(work.evaluations for work in run.estimate().work)
    with pytest.MonkeyPatch.context() as patch:
        calls = count_evaluations(run, patch)
        outcome = run.run()
    return run, outcome, calls, promised


def test_a_film_is_in_the_estimate(made: tuple[Pipeline, Outcome, list[int], int]) -> None:
    run, _, calls, promised = made
    assert sum(calls) == promised
    assert run.estimate().text().startswith("estimate: the network has nothing left to do")


def test_a_film_ends_at_the_samples_of_the_run(
    made: tuple[Pipeline, Outcome, list[int], int],
) -> None:
    run, outcome, *_ = made
    film = outcome.film
    assert film is not None
    up, down = (torch.cat(list(node.output.open().blocks())) for node in film.nodes)
    assert up.shape[:2] == (FILM, len(film.up_steps))
    assert down.shape[:3] == (FILM, len(film.down_steps), 2)
    # other batches, other sums
    samples = outcome.images.take(range(FILM))
    torch.testing.assert_close(down[:, -1, 0], samples, rtol=0, atol=1e-4)
    first = torch.stack([run.domain.few_shot[i] for i in range(FILM)])
    assert (up[:, 0] - first).abs().max() < 0.05


def test_single_samples_add_up_to_the_row(
    made: tuple[Pipeline, Outcome, list[int], int],
) -> None:
    run, outcome, *_ = made
    found, row = outcome.explored, outcome.rows[0].figures
    assert float((found.realism >= 1).double().mean()) == row["precision"]
    assert float(found.captured.double().mean()) == row["captured"]
    assert float(found.authentic.double().mean()) == row["authenticity"]
    assert found.neighbours.indices[:, 0].tolist() == outcome.nearest_index
    assert found.neighbours.distance[:, 0].tolist() == outcome.nearest_distance["samples"]
    samples = run.sampled().described.headline
    assert float(authenticity(samples, run.few_shot.headline)) == row["authenticity"]


def test_the_page_names_the_few_shot_images_that_the_table_names(
    made: tuple[Pipeline, Outcome, list[int], int], tmp_path: Path
) -> None:
    run, outcome, *_ = made
    found = explorer(run, outcome, outcome.images, [])
    assert len(found.samples) == found.total == COUNT
    assert found.film is not None
    for record, indices in zip(found.samples, outcome.attribution.indices.tolist(), strict=True):
        named = [found.few_shot[place] for place, _ in record.parts]
        assert named == [run.domain.few_shot.names[index] for index in indices]
    choices = {"sampler": "cog", "solver": "ddim"}
    told = results(run, outcome, choices=choices, notes=[], choice=None)
    write_run(tmp_path, run, outcome, told, None)
    text = (tmp_path / "report.html").read_text()
    embedded = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert embedded
    data = json.loads(embedded[1])
    assert [sample["file"] for sample in data["samples"]] == [
        f"samples/{number:05d}.png" for number in outcome.numbers
    ]
    assert all((tmp_path / sample["file"]).exists() for sample in data["samples"])
    assert len(data["film"]["reels"]) == FILM
    assert data["sheets"]["samples"]["exact"]


def test_a_run_without_a_film_has_none(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, num_samples=COUNT)
    assert run.film is None
    assert not [node for node in run.targets if "film" in node.name]
    with pytest.raises(ValueError, match=r"measure\.film must be a whole number >= 0, got -1"):
        pipeline(model_folder, tmp_path, trainer, film=-1)
