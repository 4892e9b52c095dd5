from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ood_sampler.data.domain import TensorImages
from ood_sampler.data.labels import LabelledDomain, Labels
from ood_sampler.latents.sphere import directions, move
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.statistics.intervals import with_bounds
from ood_sampler.statistics.resampling import Interval
from ood_sampler.studies.attribute import AttributeStudy
from ood_sampler.studies.base import Measured
from ood_sampler.studies.directions import Sides, direction, sides
from ood_sampler.studies.paths import LINE, PIXELS, SPHERE
from tests.conftest import RESOLUTION, smooth_images
from tests.studies.conftest import TinyRun, drawn, lacking, measured_by

LabelledRun = Callable[..., Pipeline]


def study(**changes: Any) -> AttributeStudy:  # noqa: ANN401
    given: dict[str, Any] = {
        "attributes": None,
        "strengths": [-1.0, 1.0],
        "count": 4,
        "permutations": 20,
        "shown": 1,
        "apply_to": None,
    }
    return AttributeStudy(**{**given, **changes})


@pytest.fixture(scope="module")
def labelled_run(tiny_run: TinyRun) -> LabelledRun:
    """The tiny run on images whose brightness in red and mean level in green are their labels."""

    def run(columns: tuple[str, ...] = ("red", "colour")) -> Pipeline:
        def pictures(kind: str, seed: int) -> TensorImages:
            images = smooth_images(24, seed)
            return TensorImages(images, [f"{kind}{k}" for k in range(24)], resolution=RESOLUTION)

        sets = pictures("f", 0), pictures("h", 1)
        values = {
            name: (float(images[k][0].mean() > 0), float(images[k][1].mean()))[: len(columns)]
            for images in sets
            for k, name in enumerate(images.names)
        }
        domain = LabelledDomain(
            name="smooth", few_shot=sets[0], held_out=sets[1], labels=Labels(columns, values)
        )
        return replace(tiny_run(), domain=domain)

    return run


@pytest.fixture(scope="module")
def measured(labelled_run: LabelledRun) -> Measured:
    return measured_by(study(), labelled_run())


def test_rows_have_what_the_table_shows(measured: Measured) -> None:
    expected = [
        (name, method, strength)
        for name in ("red", "colour")
        for method in (SPHERE, LINE, PIXELS)
        for strength in (-1, 1)
    ]
    found = [(row["attribute"], row["method"], row["strength"]) for row in measured.rows]
    assert found == expected
    for row in measured.rows:
        missing = {"over_pixels"} if row["method"] == PIXELS else set()
        assert lacking(study(), row) - {"measured"} == missing
        assert ("measured" in row) == (row["attribute"] == "colour")
        assert row["binary"] == (row["attribute"] == "red")
    assert {row["space"] for row in measured.rows} == {"latents", "pixels"}


def test_pixels_change_by_the_difference_of_means(
    measured: Measured, labelled_run: LabelledRun
) -> None:
    run = labelled_run()
    few_shot = run.domain.few_shot
    x = torch.stack([few_shot[k] for k in range(24)])
    found = study()._sides(run)["red"]
    assert min(*found.without, *found.having) >= 4
    difference = x[list(found.having)].mean(0) - x[list(found.without)].mean(0)
    expected = torch.stack([x[0] - difference, x[0], x[0] + difference]).clamp(-1, 1)
    strip = measured.pictures[f"smooth/red/{PIXELS}, 1"]
    torch.testing.assert_close(strip, expected, rtol=0, atol=1e-5)


def test_latents_are_moved_along_the_sphere(labelled_run: LabelledRun) -> None:
    run, own = labelled_run(), study()
    node = own.moved(run, "red", SPHERE)
    run.session.obtain(run.inversion)
    latents = run.inversion.output.open()
    found = direction(run, own._sides(run)["red"])
    z = latents.take(range(4)).double()
    made = node.inputs[0].output.open().take(range(8)).unflatten(0, (4, 2))
    for j, strength in enumerate((-1.0, 1.0)):
        expected = move(z, found.mean, found.tangent, strength)
        torch.testing.assert_close(made[:, j].double(), expected, rtol=1e-6, atol=1e-6)
    # the direction goes from those without to those with
    u = directions(latents.take(range(24)))[0]
    along = u @ found.tangent
    of = own._sides(run)["red"]
    assert float(along[list(of.having)].mean()) > float(along[list(of.without)].mean())
    assert 0.5 < found.pairs <= 1 + 1e-9


@pytest.mark.parametrize(
    ("values", "without", "having"),
    [
        ([0, 1, 0, 1, 1, 1], (0, 2), (1, 3, 4, 5)),
        ([1, 2, 3, 4, 5, 6, 7], (0, 1, 2), (4, 5, 6)),
        # half of all have the lowest value
        ([0, 0, 0, 0, 2, 3, 4, 5], (0, 1, 2, 3), (5, 6, 7)),
        # most have the same
        ([0, 3, 3, 3, 3, 3, 3, 4], (0,), (1, 2, 3, 4, 5, 6, 7)),
        ([2, 2, 2], (), ()),
        ([float("nan"), 0, 1], (1,), (2,)),
    ],
)
def test_images_are_divided_by_value(
    values: list[float], without: tuple[int, ...], having: tuple[int, ...]
) -> None:
    found = sides(torch.tensor(values, dtype=torch.float64), range(len(values)))
    assert found == Sides(without, having)


def test_images_that_move_have_no_part_in_the_direction(labelled_run: LabelledRun) -> None:
    run = labelled_run()
    assert study(count=100)._count(run) == 6
    found = study(count=100)._sides(run)
    assert all(min(*of.without, *of.having) >= 6 for of in found.values())


def test_given_images_are_moved_too(labelled_run: LabelledRun, tmp_path: Path) -> None:
    for k, image in enumerate(smooth_images(3, 7)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"a b {k}.png")
    own = study(attributes=["red"], apply_to=str(tmp_path))
    found = measured_by(own, labelled_run())
    files = own.files(found.pictures)
    assert list(files) == [f"applied_red/{k:04d}_a-b-{k}.png" for k in range(3)]
    assert all(data.startswith(b"\x89PNG") for data in files.values())
    strip = found.pictures["smooth/applied/red/0000_a-b-0"]
    assert strip.shape == (3, 3, RESOLUTION, RESOLUTION)
    # the original, between both strengths
    original = smooth_images(3, 7)[0].float() / 127.5 - 1
    torch.testing.assert_close(strip[1], original)


def test_a_figure_is_drawn(measured: Measured) -> None:
    drawn(study(), measured.rows, measured.pictures)
    assert study().files(measured.pictures) == {}


def test_what_does_not_fit_is_refused(labelled_run: LabelledRun, tiny_run: TinyRun) -> None:
    with pytest.raises(ValueError, match=r"smooth has no labels: set data\.labels"):
        study().check(tiny_run())
    with pytest.raises(ValueError, match=r"study\.attributes: size is no column of the labels"):
        study(attributes=["size"]).check(labelled_run())
    with pytest.raises(ValueError, match=r"study\.strengths must increase and leave 0 out"):
        study(strengths=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"study\.count must be >= 2, got 1"):
        study(count=1)
    with pytest.raises(FileNotFoundError, match=r"set study\.apply_to to a folder"):
        study(apply_to="/nowhere").check(labelled_run())


def about(method: str, **intervals: tuple[float, float, float]) -> dict[str, Any]:
    given = {
        "gain": (1.0, 0.8, 1.2),
        "distance": (0.4, 0.3, 0.5),
        "probe": (0.8, 0.7, 0.9),
        "other": (0.3, 0.2, 0.4),
        "over_pixels": (0.5, 0.3, 0.7),
        "cosine": (0.2, 0.15, 0.25),
        "null": (0.0, -0.01, 0.01),
        "beyond_null": (0.2, 0.15, 0.25),
        "beyond_means": (0.001, -0.004, 0.006),
        **intervals,
    }
    bounds = with_bounds({key: Interval(*ends) for key, ends in given.items()})
    return {
        **{"run": "1", "domain": "a", "step": 500, "attribute": "age", "method": method},
        **{"space": "pixels" if method == PIXELS else "latents", "strength": 1.0, "images": 20},
        **{"binary": False, "other_name": "size", "psnr": 20.0, "kid": 0.1, "pairs": 30},
        **{"explained": 0.199, "signal": 0.9, "judge": "one", "headline": "one"},
        **bounds,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "share it? yes (mean cosine 0.200 [0.150, 0.250]"),
        ({}, "more than the two means explain? no (they explain 0.199"),
        ({}, "a larger change than that of the straight line in pixels (1.00"),
        ({"beyond_null": (0.001, -0.002, 0.004)}, "share it? no (mean cosine"),
        ({"beyond_null": (0.01, -0.03, 0.05)}, "share it? too few images to say (mean cosine"),
        ({"beyond_means": (0.1, 0.05, 0.15)}, "more than the two means explain? yes"),
        ({"over_pixels": (0.0, -0.05, 0.05)}, "as large a change, to within 0.1, as"),
        ({"over_pixels": (0.2, -0.2, 0.6)}, "about 80 moved images would do (study.count)"),
        ({"probe": (0.1, 0.0, 0.2)}, "a linear probe cannot tell it (R² 0.10 [0.00, 0.20]"),
    ],
)
def test_conclusions_come_from_intervals(changes: Any, words: str) -> None:  # noqa: ANN401
    rows = [about(SPHERE, **changes), about(LINE), about(PIXELS)]
    assert words in " ".join(study().conclude(rows))


def test_pairs_are_told_of_once(measured: Measured) -> None:
    rows = [about(SPHERE), about(PIXELS)]
    assert any("share it?" in said for said in study().conclude(rows))
    other = [{**row, "judge": "two"} for row in rows]
    assert not any("share it?" in said for said in study().conclude(other))
    claims = study().claims(rows)
    assert claims["a, t = 500: age: it changes it more than the same in pixels"] == "shown"
    unknown = study().claims([about(SPHERE, probe=(0.1, 0.0, 0.2)), about(PIXELS)])
    assert set(unknown.values()) == {"unclear"}
