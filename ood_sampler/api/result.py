"""What a run in this process leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ood_sampler.api.images import Images
from ood_sampler.api.loading import LoadedModel
from ood_sampler.api.table import Table
from ood_sampler.data.domain import TargetDomain
from ood_sampler.pipeline.outcome import Outcome
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.run_columns import columns_of
from ood_sampler.report.tables import title_of
from ood_sampler.studies.base import Measured, Study
from ood_sampler.studies.files import columns_of as study_columns

_REPORTS = ("report.html", "{study}.html", "{study}.md")


@dataclass(frozen=True, eq=False)
class Result:
    """The result of `ood_sampler.run`; a notebook shows its sheet of samples.

    Attributes:
        folder: of the run: report, tables, images, configuration.
        estimate: expected cost: network evaluations, time, disk.
        table: a row per set of images (the strategy, real images, the model's own domain,
            controls in pixels), or the rows of a study; empty after a dry run.
        conclusion: in sentences; those of a run are its verdicts.

    Example:
        >>> import ood_sampler, tempfile
        >>> tiny = ["data.few_shot=12", "data.held_out=12", "num_samples=8", "solver=ddim"]
        >>> tiny += ["solver.steps=2", "inversion.step=300", "metrics=features32", "logger=none"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = ood_sampler.run(*tiny, f"output={folder}")
        ...     len(result.samples), result.table[0]["name"], result.report.name
        (8, 'cog (3)', 'report.html')
    """

    folder: Path
    estimate: str
    table: Table
    conclusion: tuple[str, ...] = ()
    _study: str = ""
    _run: tuple[Pipeline, Outcome] | None = None

    @property
    def samples(self) -> Images:
        """The new images, as decoded: float32 in $[-1, 1]$.

        Raises:
            FileNotFoundError: it was a study or a dry run, or the artifacts were removed.
        """
        pipeline, outcome = self._made
        values = torch.cat(list(outcome.images.blocks()))
        correction = pipeline.correction if pipeline.is_corrected else None
        model = LoadedModel(
            pipeline.model, pipeline.flow, pipeline.session, pipeline.batch_size, correction
        )
        return Images(values, pipeline.title, model, pipeline.settings.seed)

    @property
    def domain(self) -> TargetDomain:
        """The few-shot and held-out images.

        Raises:
            FileNotFoundError: it was a study or a dry run.
        """
        return self._made[0].domain

    @property
    def nearest(self) -> Sequence[int]:
        """Index of the few-shot image most similar to each sample, by the headline judge.

        Raises:
            FileNotFoundError: it was a study or a dry run.
        """
        return self._made[1].nearest_index

    @property
    def near_copies(self) -> Sequence[bool]:
        """Whether each sample is nearer to a few-shot image than real held-out images are.

        Raises:
            FileNotFoundError: it was a study or a dry run.
        """
        return self._made[1].near_copies

    @property
    def judges(self) -> Sequence[str]:
        """Names of the judges, the headline first; the others gave second opinions.

        Raises:
            FileNotFoundError: it was a study or a dry run.
        """
        return self._made[0].judges.names

    @property
    def _made(self) -> tuple[Pipeline, Outcome]:
        if self._run is None:
            raise FileNotFoundError("only a run has samples: this was a study or a dry run")
        return self._run

    @property
    def report(self) -> Path:
        """The page of the run, or the text of a study.

        Raises:
            FileNotFoundError: it was a dry run, or the file was removed.
        """
        for name in _REPORTS:
            file = self.folder / name.format(study=self._study)
            if file.is_file():
                return file
        raise FileNotFoundError(f"there is no report in {self.folder}: this was a dry run")

    def __repr__(self) -> str:
        if not self.table:
            return f"<dry run\n{self.estimate}>"
        here = Path.cwd()
        inside = self.folder.is_relative_to(here)
        return f"<result in {self.folder.relative_to(here) if inside else self.folder}>"

    def _repr_png_(self) -> bytes | None:
        file = self.folder / (f"{self._study}.png" if self._study else "grid.png")
        return file.read_bytes() if file.is_file() else None


def dry(folder: Path, estimate: str) -> Result:
    """The result of a dry run: its estimate alone."""
    return Result(folder, estimate, Table([], []))


def of_run(
    folder: Path,
    estimate: str,
    pipeline: Pipeline,
    outcome: Outcome,
    found: Mapping[str, Any],
) -> Result:
    """The result of a run; `found` is the content of its `metrics.json`."""
    run, rows = found["run"], found["rows"]
    told = tuple(verdict["sentence"] for verdict in found["verdicts"])
    table = Table(rows, columns_of(rows), title=title_of(run))
    return Result(folder, estimate, table, told, _run=(pipeline, outcome))


def of_study(
    folder: Path, estimate: str, study: Study, measured: Measured, conclusion: tuple[str, ...]
) -> Result:
    """The result of a study."""
    columns = study_columns(study, measured.rows)
    table = Table(measured.rows, columns, title=study.title)
    return Result(folder, estimate, table, conclusion, study.name)
