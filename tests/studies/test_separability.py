from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.latents.separability import auroc
from ood_sampler.metrics.reconstruction import reconstruction
from ood_sampler.modules.denoising import DenoisingLoss
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import bitmap
from ood_sampler.studies.separability import DETECTORS, SeparabilityStudy
from tests.studies.conftest import work_left
from tests.test_pipeline import pipeline

STEPS = [300, 700]


def study(**changes: Any) -> SeparabilityStudy:  # noqa: ANN401
    return SeparabilityStudy(**{"steps": STEPS, "count": 30, "in_domain_root": None, **changes})


@pytest.fixture(scope="module")
def run(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    return pipeline(model_folder, tmp_path_factory.mktemp("separability"), trainer)


@pytest.fixture(scope="module")
def rows(run: Pipeline) -> list[Row]:
    return list(study().measure(run).rows)


def test_every_step_has_a_distance_and_all_detectors(rows: list[Row]) -> None:
    assert [row["step"] for row in rows] == STEPS
    for row in rows:
        assert (row["images"], row["in_domain_images"]) == (30, 30)
        assert all(row[heading.key] is not None for heading in study().headings)
        for name in DETECTORS:
            for key in (f"{name}_auroc", f"{name}_fpr95"):
                assert 0 <= row[f"{key}_low"] <= row[key] <= row[f"{key}_high"] <= 1


def test_smooth_pictures_are_told_from_samples_of_an_untrained_network(rows: list[Row]) -> None:
    assert rows[0]["distance_low"] > 0
    assert rows[0]["linear_auroc_low"] > 0.5


def test_the_baselines_are_those_of_the_pictures(run: Pipeline, rows: list[Row]) -> None:
    runs = [study().sources.few_shot(run), study().sources.in_domain(run)]
    errors, losses = [], []
    for one in runs:
        x_0 = torch.stack([one.domain.few_shot[i] for i in range(30)])
        decoded = torch.cat(list(one.variant(step=700).reconstructed()[1].blocks()))
        errors.append(reconstruction(decoded, x_0).mse)
        stage = DenoisingLoss(
            run.codec, at=[700], seed=run.settings.seed, names=one.domain.few_shot.names
        )
        losses.append(stage.predict_step((list(range(30)), x_0), 0)["700"][:, 0])
    assert rows[1]["reconstruction_auroc"] == pytest.approx(auroc(*errors))
    assert rows[1]["denoising_auroc"] == pytest.approx(auroc(*losses), abs=0.01)


def changed(row: Row, **figures: float) -> Row:
    """Figures with narrow intervals."""
    made = dict(row)
    for key, value in figures.items():
        made |= {key: value, f"{key}_low": value - 0.01, f"{key}_high": value + 0.01}
    return made


def test_the_conclusion_follows_the_numbers(rows: list[Row]) -> None:
    row = changed(
        rows[0],
        distance=2.0,
        linear_auroc=0.9,
        typicality_auroc=0.5,
        reconstruction_auroc=0.8,
        denoising_auroc=0.3,
    )
    sentences = study().conclude([row, changed({**row, "step": 700}, distance=0.5)])
    assert "at t = 300; nearer at t = 700; at most 2.00 [1.99, 2.01] at t = 300" in sentences[0]
    assert "linear classifier of latents AUROC 0.900 [0.890, 0.910]" in sentences[1]
    assert "linear classifier of latents is better than" in sentences[2]
    assert "in-domain shell is worse than the better baseline, the reconstruction" in sentences[3]
    assert "lower than the model's own: denoising loss at t = 300, 700." in sentences[4]
    assert sentences[1].endswith("each at the step that is best for it on these same images.")
    picked = "(step of each and baseline picked on the same images)."
    assert sentences[2].endswith(picked)
    assert sentences[3].endswith(picked)
    assert "model's own samples" in sentences[5]
    assert "tells real images from generated ones" in sentences[5]

    close = changed(
        row, distance=1.0, linear_auroc=0.79, denoising_auroc=0.6, reconstruction_auroc=0.55
    )
    close = changed(close, denoising_auroc=0.8) | {"in_domain": "real images"}
    sentences = study().conclude([close])
    assert "at no step tried" in sentences[0]
    # the one step tried has no range
    assert "at t = 300 too few images to say, no practical number" in sentences[0]
    assert sentences[0].endswith("; by 1.00 [0.99, 1.01].")
    assert not sentences[1].endswith("on these same images.")
    # 0.01 below, reaching 0.02 both ways, where 0.02 counts as none: four times as many
    assert (
        "not told apart from the better baseline, the denoising loss; too few images to say, about "
        f"{4 * close['images']} images of each set would do (study.count) (step of" in sentences[2]
    )
    assert len(sentences) == 4


def test_two_domains_share_a_figure(rows: list[Row]) -> None:
    both = [*rows, *({**row, "domain": "other"} for row in rows)]
    figure = study().draw(both, {})
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert {"smooth", "other"} <= set(labels)
    assert bitmap(figure, dots_per_inch=40).startswith(b"\x89PNG")


def test_the_work_is_what_is_left(run: Pipeline, rows: list[Row]) -> None:
    work = {work.name: (work.images, work.evaluations) for work in work_left(study(), run)}
    assert not any(evaluations for _, evaluations in work.values())
    more = work_left(study(count=40), run)
    work = {work.name: (work.images, work.evaluations) for work in more}
    # in 5 intervals, step 300 is two moves away from clean data and step 700 four
    assert work["reconstruct in-domain: t = 300"] == (40, 40 * 2)
    assert work["reconstruct in-domain: t = 700"] == (40, 40 * 4)
    assert work["denoising loss in-domain"] == (40, 40 * 2)


def test_too_few_pictures_are_refused(run: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"study\.count must be >= 10, got 9"):
        study(count=9).check(run)
