import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pytest
from torch import Tensor

from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.studies.sweep import SweepStudy
from tests.studies.conftest import TinyRun, measured_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ToySweep(SweepStudy):
    """A sweep with nothing of its own but what it must have."""

    name = "toy"
    title = "Toys"
    headings = (Column("strategy", "strategy"), Column("doubled", "twice the step", 0))

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        return [{**row, "doubled": 2 * row["step"]} for row in rows]

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        return [f"{len(rows)} settings."]

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        raise NotImplementedError


class TolerantSweep(ToySweep):
    tolerant = True


class TiredSampler(CogSampler):
    def fit(self, inverted: InvertedSet) -> Fitted:
        raise GaveUpError("tired")


def test_a_sweep_has_a_row_for_each_setting(tiny_run: TinyRun) -> None:
    samplers = {"two": CogSampler(references=2), "three": CogSampler(references=3)}
    study = ToySweep(samplers=samplers, steps=[200, 700])
    run = tiny_run(study)
    rows = measured_by(study, run).rows
    assert [(row["strategy"], row["step"], row["eta"]) for row in rows] == [
        ("cog (2)", 200, 0.0),
        ("cog (2)", 700, 0.0),
        ("cog (3)", 200, 0.0),
        ("cog (3)", 700, 0.0),
    ]
    assert [row["doubled"] for row in rows] == [400, 1400, 400, 1400]
    assert {row["run"] for row in rows} == {study.about(run)["run"]}


@pytest.mark.parametrize("study", [ToySweep(), TolerantSweep()])
def test_what_is_not_swept_is_the_runs(study: SweepStudy, tiny_run: TinyRun) -> None:
    (row,) = measured_by(study, tiny_run()).rows
    assert (row["strategy"], row["step"]) == ("cog (2)", 400)


def test_a_strategy_that_gives_up_is_left_out_where_a_study_says_so(
    tiny_run: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    samplers = {"tired": TiredSampler(references=2), "two": CogSampler(references=2)}
    with caplog.at_level(logging.WARNING):
        rows = TolerantSweep(samplers=samplers).measure(tiny_run()).rows
    assert [row["strategy"] for row in rows] == ["cog (2)"]
    assert "tired (2) is left out: tired" in caplog.text
    with pytest.raises(ValueError, match="no strategy is left"):
        TolerantSweep(samplers={"tired": samplers["tired"]}).measure(tiny_run())
    with pytest.raises(GaveUpError):
        ToySweep(samplers=samplers).measure(tiny_run())
