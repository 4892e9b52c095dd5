import io
from typing import Any

import pytest
import torch
from PIL import Image

from ood_sampler.latents.geometry import slerp
from ood_sampler.statistics.intervals import with_bounds
from ood_sampler.statistics.resampling import Interval
from ood_sampler.studies.base import Measured
from ood_sampler.studies.geodesic import ENDS, PATHS, GeodesicStudy
from ood_sampler.studies.paths import LINE, MEAN_SPHERE, PIXELS, SPHERE
from tests.studies.conftest import TinyRun, drawn, lacking, measured_by, moved

STUDY = GeodesicStudy(pairs=6, frames=5, shown=2)


@pytest.fixture(scope="module")
def measured(tiny_run: TinyRun) -> Measured:
    return measured_by(STUDY, tiny_run())


def test_rows_are_of_paths_and_of_the_images_at_their_ends(measured: Measured) -> None:
    assert [row["path"] for row in measured.rows] == [*PATHS, ENDS]
    circle, mean, line, pixels, ends = measured.rows
    assert lacking(STUDY, circle) == set()
    assert lacking(STUDY, mean) == set()
    assert lacking(STUDY, line) == {"against_line"}
    assert lacking(STUDY, pixels) == {"against_pixels"}
    assert {"smoothness", "norm"} <= lacking(STUDY, ends)
    assert {row["pairs"] for row in measured.rows} == {6}
    assert all(row["smoothness"] >= 1 for row in (circle, mean, line, pixels))
    assert all(row["length"] >= 1 - 1e-9 for row in (circle, mean, line, pixels))
    # a chord is shorter than its arc
    assert line["norm"] < circle["norm"] == pytest.approx(1, abs=1e-6)


def test_paths_go_from_image_to_image(tiny_run: TinyRun) -> None:
    run = tiny_run()
    run.session.obtain(run.inversion)
    pairs, latents = STUDY._pairs(run), run.inversion.output.open()
    assert len({k for pair in pairs for k in pair}) == 12
    for path in PATHS:
        node = STUDY._frames(run, path)
        items = node.inputs[0].output.open()
        assert len(items) == node.count == 30
        own = (
            latents if path != PIXELS else torch.stack([run.domain.few_shot[k] for k in range(12)])
        )
        for k, (a, b) in enumerate(pairs):
            path_k = items.take(range(5 * k, 5 * k + 5))
            ends = own.take([a, b]) if path != PIXELS else own[[a, b]]
            torch.testing.assert_close(path_k[[0, -1]], ends, rtol=1e-5, atol=1e-5)
            if path in (LINE, PIXELS):
                torch.testing.assert_close(path_k[2], ends.mean(0), rtol=1e-5, atol=1e-5)
            if path == SPHERE:
                half = slerp(ends[:1], ends[1:], torch.tensor([0.5]))[0]
                torch.testing.assert_close(path_k[2], half, rtol=1e-5, atol=1e-5)
    centre = latents.take(range(12)).double().mean(0)
    middle = STUDY._frames(run, MEAN_SPHERE).inputs[0].output.open().take([2]).double()[0] - centre
    norms = [(latents.take([k]).double()[0] - centre).norm() for k in pairs[0]]
    assert float(middle.norm()) == pytest.approx(float(sum(norms)) / 2, rel=1e-5)


def test_steps_of_frames_are_measured_in_features(measured: Measured, tiny_run: TinyRun) -> None:
    run = tiny_run()
    node = STUDY._frames(run, SPHERE)
    run.session.obtain(node)
    images = node.output.open().take(range(30))
    features = run.judges.headline.extractor(images).double().unflatten(0, (6, 5))
    steps = (features[:, 1:] - features[:, :-1]).norm(dim=2)
    expected = (steps.max(dim=1).values / steps.mean(dim=1)).mean()
    assert measured.rows[0]["smoothness"] == pytest.approx(float(expected), rel=1e-4)
    apart = (features[:, 0] - features[:, -1]).norm(dim=1)
    assert measured.rows[0]["length"] == pytest.approx(
        float((steps.sum(1) / apart).mean()), rel=1e-4
    )


def test_a_figure_and_a_film_are_drawn(measured: Measured) -> None:
    assert len(measured.pictures) == 8
    two = [*measured.rows, *[{**row, "run": "other"} for row in moved(measured.rows, "b")]]
    drawn(STUDY, two, measured.pictures)
    ((name, data),) = STUDY.files(measured.pictures).items()
    assert name == "geodesic_smooth-t-400.webp"
    with Image.open(io.BytesIO(data)) as found:
        # forth and back
        assert found.n_frames == 8
        assert found.info["loop"] == 0
        assert found.width > 2 * 96


def about(path: str, **intervals: tuple[float, float, float]) -> dict[str, Any]:
    given = {"smoothness": (2.0, 1.9, 2.1), "kid": (0.1, 0.09, 0.11), **intervals}
    bounds = with_bounds({key: Interval(*ends) for key, ends in given.items()})
    return {"run": "1", "domain": "a", "step": 500, "path": path, "pairs": 24, **bounds}


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((-0.5, -0.7, -0.3), "smoother than (-0.50 [-0.70, -0.30]) the straight line in pixels"),
        ((0.5, 0.3, 0.7), "less smooth than (0.50 [0.30, 0.70]) the straight line in pixels"),
        ((0.01, -0.05, 0.05), "as smooth as, to within 0.1, the straight line in pixels"),
        ((-0.2, -0.6, 0.2), "too few images to say, about 96 pairs would do (study.pairs)"),
    ],
)
def test_conclusions_come_from_intervals(difference: Any, words: str) -> None:  # noqa: ANN401
    rows = [about(path) for path in (*PATHS, ENDS)]
    rows[0] = about(SPHERE, against_line=(0.5, 0.3, 0.7), against_pixels=difference)
    told = " ".join(STUDY.conclude(rows))
    assert words in told
    assert "less smooth than (0.50 [0.30, 0.70]) the straight line." in told
    claims = STUDY.claims(rows)
    assert claims[f"a, t = 500: the {SPHERE} is smoother than the {LINE}"] == "refuted"


@pytest.mark.parametrize("wrong", [{"pairs": 3}, {"frames": 6}, {"frames": 3}, {"shown": 0}])
def test_a_wrong_number_is_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"study\.{name} must be"):
        GeodesicStudy(**{"pairs": 6, "frames": 5, "shown": 1, **wrong})
