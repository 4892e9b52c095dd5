import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ood_sampler.data.domain import TensorImages
from ood_sampler.data.labels import Labels, labelled_embedded, labelled_folder, read_table


def pictures(root: Path, *names: str) -> Path:
    """Small images, no two of them equal."""
    for k, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * k, 255 - 10 * k, 5 * k)).save(file)
    return root


def domain(root: Path, labels: Path | None = None, **changes: Any) -> Any:  # noqa: ANN401
    given = {"few_shot": None, "held_out": None, "seed": 0, "on_error": "raise"}
    return labelled_folder(
        name="mine",
        root=str(root),
        held_out_root=None,
        labels=None if labels is None else str(labels),
        resolution=16,
        **{**given, **changes},
    )


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    return file


def rows(found: Any) -> dict[str, list[float]]:  # noqa: ANN401
    """Labels by image, of both sets."""
    return {
        name: row
        for images in (found.few_shot, found.held_out)
        for name, row in zip(images.names, found.labels.of(images).tolist(), strict=True)
    }


def test_lines_are_matched_by_path_or_name_with_suffix_or_without(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p", "a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png")
    file = table(
        tmp_path, "file, age ,smiles\na/1.png,30,1\n2.png,41.5,0\nb/3,7,1\n4,1e2,0\nother,1,1\n"
    )
    found = domain(root, file)
    assert found.labels.columns == ("age", "smiles")
    assert {name: row for name, row in rows(found).items() if name != "b/5.png"} == {
        "a/1.png": [30.0, 1.0],
        "a/2.png": [41.5, 0.0],
        "b/3.png": [7.0, 1.0],
        "b/4.png": [100.0, 0.0],
    }
    assert all(math.isnan(value) for value in rows(found)["b/5.png"])


@pytest.mark.parametrize("zipped", [False, True])
def test_two_folders_are_a_label(tmp_path: Path, zipped: bool) -> None:
    root = pictures(tmp_path / "p", "with/1.png", "with/x/2.png", "bare/1.png", "bare/2.png")
    if zipped:
        place = tmp_path / "p.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in root.rglob("*.png"):
                archive.write(file, file.relative_to(root))
        root = place
    found = domain(root)
    assert found.labels.columns == ("with",)
    assert rows(found) == {
        "bare/1.png": [0.0],
        "bare/2.png": [0.0],
        "with/1.png": [1.0],
        "with/x/2.png": [1.0],
    }


@pytest.mark.parametrize(
    "names",
    [
        ["1.png", "2.png", "a/3.png", "b/4.png"],
        ["a/1.png", "b/2.png", "c/3.png", "c/4.png"],
        ["a/1.png", "a/2.png", "a/3.png", "a/4.png"],
    ],
)
def test_other_folders_are_none(tmp_path: Path, names: list[str]) -> None:
    assert domain(pictures(tmp_path / "p", *names)).labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,age\n", "must have a header"),
        ("file\n1\n", "must have a header"),
        ("file,age\n1,old\n", "line 2: age must be a number, got 'old'"),
        ("file,age\n1,nan\n", "line 2: age must be a number, got 'nan'"),
        ("file,age\n1,2,3\n", "line 2: must have 2 fields, got 3"),
        ("file,age\n1,2\n1,3\n", "line 3: '1' comes twice"),
        ("file,age,age\n1,2,3\n", "a name of its own for each column"),
        ("file,age\n1,\n", "without empty fields, got none"),
        ("file,age\nx,1\n", r"names no image: its first column has 'x', .* as '[ab]/1.png'"),
        ("file,age\n1,2\n", "'1' is the name of 2 images, "),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    root = pictures(tmp_path / "p", "a/1.png", "b/1.png", "b/2.png", "b/3.png")
    with pytest.raises(ValueError, match=message):
        domain(root, table(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    root = pictures(tmp_path / "p", *(f"{k}.png" for k in range(4)))
    with pytest.raises(FileNotFoundError, match=r"none\.csv is not a file; set data\.labels"):
        domain(root, tmp_path / "none.csv")


def test_an_unknown_field_leaves_its_line_out(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "file,a,b\n1,2,3\n\n2,,4\n"))
    assert found.lines == {"1": (2.0, 3.0)}


def test_galaxies_have_the_parameters_they_were_drawn_with() -> None:
    found = labelled_embedded(name="galaxy32", resolution=32, few_shot=None, held_out=None)
    assert found.labels is not None
    assert found.labels.columns[:4] == ("colour", "axis_ratio", "size", "bulge")
    few_shot = found.labels.of(found.few_shot)
    assert few_shot.shape == (500, 9)
    both = torch.cat([few_shot, found.labels.of(found.held_out)])
    assert both.isfinite().all()
    axis_ratio, arms = both[:, 1], both[:, 4]
    # of all classes
    assert float(axis_ratio.min()) >= 0.14
    assert float(axis_ratio.max()) <= 1
    assert arms.unique().tolist() == [0, 2, 3, 4]
    # 24 + 16 + 7 percent have two, within five standard errors
    assert abs(float((arms == 2).double().mean()) - 0.47) < 5 * (0.47 * 0.53 / 2000) ** 0.5


def test_a_domain_without_a_table_has_none() -> None:
    found = labelled_embedded(name="radiation32", resolution=32, few_shot=2, held_out=2)
    assert found.labels is None


def test_other_numbers_are_another_hash() -> None:
    images = TensorImages(torch.zeros(1, 3, 8, 8), ["x"], resolution=8)
    one, two = (Labels(("a",), {"x": (value,)}) for value in (1.0, 2.0))
    assert one.digest != two.digest
    assert one.of(images).tolist() == [[1.0]]
