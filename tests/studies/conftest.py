"""A tiny run for studies, rows by hand, and a look at figures."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from ood_sampler.data.domain import TargetDomain, TensorImages
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.estimate import Work, work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.settings import Settings
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import bitmap
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.studies.base import Measured, Study
from tests.conftest import RESOLUTION, make_judges, make_pipeline, smooth_images
from tests.test_pipeline import count_evaluations

TinyRun = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def tiny_run(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> TinyRun:
    """Make runs of a tiny model and domain, all with the same artifacts."""
    root = tmp_path_factory.mktemp("artifacts")

    def pictures(count: int, seed: int) -> TensorImages:
        names = [str(i) for i in range(count)]
        return TensorImages(smooth_images(count, seed), names, resolution=RESOLUTION)

    def run(
        study: Study | None = None,
        *,
        correction: GaussianCorrection | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> Pipeline:
        settings = Settings(
            step=400, eta=0.0, clip_x_0=False, num_samples=10, seed=0, batch_size=16
        )
        return make_pipeline(
            model=FrozenModel(name="tiny", path=str(model_folder), resolution=RESOLUTION),
            domain=TargetDomain(name="smooth", few_shot=pictures(12, 0), held_out=pictures(12, 1)),
            solver=DdimSolver(steps=4, power=1),
            sampler=CogSampler(references=2),
            judges=make_judges(nearest_k=3),
            trainer=trainer,
            settings=replace(settings, **changes),
            root=root,
            also=() if study is None else study.steps,
            correction=correction,
        )

    return run


def work_left(study: Study, run: Pipeline) -> list[Work]:
    """What the estimate of a study is made of."""
    return [*work_of(study.targets(run)), *study.unstored(run)]


def measured_by(study: Study, run: Pipeline) -> Measured:
    """Measure, and compare what the network did with what was said of it before."""
    study.check(run)
    promised = sum(work.evaluations for work in work_left(study, run))
    with pytest.MonkeyPatch.context() as patch:
        calls = count_evaluations(run, patch)
        measured = study.measure(run)
    assert sum(calls) == promised
    assert sum(work.evaluations for work in work_left(study, run)) == 0
    return measured


def about_strategy(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """A row as studies make of a strategy; bounds that are not given lie 10% away."""
    figures: dict[str, float] = {
        "fid": 20.0,
        "kid": 0.01,
        "precision": 0.7,
        "recall": 0.6,
        "density": 0.9,
        "coverage": 0.8,
        "authenticity": 0.5,
        "near_copies": 0.02,
        "captured": 0.1,
        "blend_pair": 0.6,
        "blend_five": 0.8,
        "diversity": 3.0,
    }
    row = {
        "model": "tiny",
        "domain": "a",
        "strategy": "cog (2)",
        "step": 500,
        "eta": 0.0,
        "evaluations": 25,
        **figures,
        "kid_standard_error": 0.001,
        "diversity_clusters": 7.0,
        **changes,
    }
    bounds = {
        f"{key}_{end}": factor * row[key]
        for key in figures
        for end, factor in (("low", 0.9), ("high", 1.1))
    }
    return {**bounds, **row}


def moved(rows: Sequence[Row], domain: str) -> list[Row]:
    """The same rows of another domain."""
    return [{**row, "domain": domain} for row in rows]


def grey(*labels: str, count: int = 4) -> dict[str, Tensor]:
    """Images under labels."""
    return {label: torch.zeros(count, 3, 8, 8) for label in labels}


def check_texts(figure: Any) -> None:  # noqa: ANN401 matplotlib's own
    """No two titles, ticks of an axis, or labels in a panel may overlap."""
    figure.set_dpi(100)
    figure.draw_without_rendering()
    groups = [[axes.title if axes.title.get_text() else axes._left_title for axes in figure.axes]]
    assert all(title.get_window_extent().x1 <= figure.bbox.x1 for title in groups[0])
    for axes in figure.axes:
        groups.append(axes.texts)
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            groups.append([text for place, text in ticks if low <= place <= high])
    for group in groups:
        shown = [text for text in group if text.get_text()]
        for a, b in combinations(shown, 2):
            # without the lines that lead from labels to their points
            overlap = Text.get_window_extent(a).overlaps(Text.get_window_extent(b))
            assert not overlap, f"{a.get_text()} on {b.get_text()}"


def drawn(study: Study, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> tuple[int, int]:
    """Draw; the size of the PNG, which must show something, with titles side by side."""
    figure = study.draw(rows, pictures)
    data = bitmap(figure, dots_per_inch=40)
    check_texts(figure)
    assert data.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(data)) as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colours) > 10
        width, height = picture.size
    return width, height


def lacking(study: Study, row: Row) -> set[str]:
    """Headings that a row has no figure for."""
    return {heading.key for heading in study.headings if row.get(heading.key) is None}
