from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ood_sampler.pipeline import Pipeline
from ood_sampler.report.grid import to_uint8
from ood_sampler.studies.in_domain import Sources, latents
from tests.conftest import RESOLUTION, smooth_images
from tests.test_pipeline import pipeline


@pytest.fixture(scope="module")
def run(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    return pipeline(model_folder, tmp_path_factory.mktemp("in_domain"), trainer)


def test_samples_of_the_model_stand_for_its_domain(run: Pipeline) -> None:
    found = Sources([300, 500], 12, None).in_domain(run)
    samples = torch.cat(list(run.in_domain().open().blocks()))
    pictures = torch.stack([found.domain.few_shot[i] for i in range(12)])
    assert torch.equal(pictures, to_uint8(samples[:12]).float() / 127.5 - 1)
    assert len(found.domain.few_shot) == 12
    of_step = latents(found)
    assert list(of_step) == [300, 500]
    expected = run.solver.invert(run.model.denoiser, pictures, [500])[500]
    torch.testing.assert_close(of_step[500].take(range(12)), expected, rtol=0, atol=1e-4)


def test_pictures_of_the_domain_are_taken_where_they_are_given(
    run: Pipeline, tmp_path: Path
) -> None:
    for i, image in enumerate(smooth_images(16, 5)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02d}.png")
    found = Sources([300], 12, str(tmp_path)).in_domain(run)
    assert len(found.domain.few_shot) == 12
    assert found.domain.few_shot.resolution == RESOLUTION
    assert all(name.endswith(".png") for name in found.domain.few_shot.names)


def test_all_few_shot_pictures_keep_their_latents(run: Pipeline) -> None:
    # more pictures asked for than there are: the artifact of an ordinary run serves
    assert Sources([400], 999, None).few_shot(run).plan.inversion().digest == (
        run.plan.inversion().digest
    )
