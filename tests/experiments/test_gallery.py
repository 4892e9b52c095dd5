from pathlib import Path

import pytest
from PIL import Image

from experiments.gallery import SHOWN, main
from tests.conftest import smooth_images

TINY = [
    "data.few_shot=8",
    "data.held_out=8",
    "num_samples=8",
    "measure.in_domain=8",
    "solver=ddim",
    "solver.steps=2",
    "metrics=features32",
    "trainer=cpu",
]


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(smooth_images(20, seed=4)):
        pixels = picture.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{number}.png")
    return folder


def test_each_pair_has_a_sheet_and_a_section_and_photographs_stay_out(
    tmp_path: Path, birds: Path
) -> None:
    output, pages = tmp_path / "outputs", tmp_path / "pages"
    places = ["--output", str(output), "--pages", str(pages), "--set", *TINY]
    assert main(["--models", "dog32", "--domains", "galaxy32", f"birds={birds}", *places]) == 0
    page = (pages / "index.md").read_text()
    for name in ("dog32_galaxy32", "dog32_birds"):
        assert f"]({name}.png)" in page
    pairs, alone, beside = (
        Image.open(file).size
        for file in (
            pages / "dog32_galaxy32.png",
            pages / "dog32_birds.png",
            output / "gallery" / "dog32_birds.png",
        )
    )
    assert pairs == beside
    # half as many images, of which there are no more than samples
    assert alone[1] < beside[1] or alone[0] < beside[0]
    assert f"the first {SHOWN} of a run" in page
    assert "## birds from dog32" in page
    assert str(tmp_path) not in page + (pages / "entries.json").read_text()
    # a later call adds to the page
    assert main(["--models", "ship32", "--domains", "galaxy32", *places]) == 0
    assert (pages / "index.md").read_text().count("\n## ") == 3


def test_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--output", str(tmp_path), "--pages", str(tmp_path)]
    assert main(["--models", "nothing", *places]) == 1
    assert "MODELS must be some of" in capsys.readouterr().err
    assert main(["--domains", "galaxy32", "--models", "dog32", *places, "--set", "seed=x"]) == 1
    error = capsys.readouterr().err
    assert error == "error: dog32_galaxy32: seed must be a whole number, got x\n"
