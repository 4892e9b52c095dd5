import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.report.columns import Row
from ood_sampler.studies.base import Measured, Strip
from ood_sampler.studies.files import read_studies, write_study
from ood_sampler.studies.page import write_study_page
from tests.report.test_page import Reader
from tests.studies.test_files import STUDY, toy

PROTOCOL = {"model": "tiny", "seed": 3}


def swept(domain: str = "a") -> Measured:
    """Two steps by two noises; the samples of each run have a grey of their own."""
    rows: list[Row] = []
    strips = []
    for step in (700, 300):
        for eta in (0.0, 0.5):
            settings: dict[str, Any] = {
                "domain": domain,
                "strategy": "cog (2)",
                "step": step,
                "eta": eta,
                "correction": 0.0,
            }
            rows.append({**toy(size=step / 1e5), **settings})
            strips.append(Strip(settings, torch.full((2, 3, 8, 8), step / 1000 - eta)))
    return Measured(rows, {}, strips)


def written(folder: Path, measured: Measured) -> str:
    conclusion = write_study(folder, STUDY, measured, PROTOCOL)
    write_study_page(folder, STUDY, measured, conclusion, PROTOCOL)
    return (folder / "report.html").read_text()


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_sweeping_study_has_a_slider_for_each_setting(tmp_path: Path) -> None:
    data = data_of(written(tmp_path, swept()))
    assert data["axes"] == [
        {"name": "t", "values": ["300", "700"]},
        {"name": "η", "values": ["0", "0.5"]},
    ]
    assert [run["at"] for run in data["runs"]] == [[1, 0], [1, 1], [0, 0], [0, 1]]
    assert [(run["first"], run["count"]) for run in data["runs"]] == [
        (0, 2),
        (2, 2),
        (4, 2),
        (6, 2),
    ]
    assert dict(data["runs"][2]["numbers"])["size in mm"].startswith("3.0")
    assert data["sheet"]["count"] == 8


def test_the_page_says_what_the_other_files_say(tmp_path: Path) -> None:
    text = written(tmp_path, replace(swept(), strips=[]))
    reader = Reader(text)
    shown = " ".join(reader.texts)
    assert "4 toys." in shown
    assert "From end to end." in shown
    assert "7.0" in shown
    assert 'id="slides"' not in text
    links = [attributes for tag, attributes in reader.tags if tag == "a"]
    assert {"toy.png", "toy.csv"} <= {link["href"] for link in links}
    inside = [str(link["href"]) for link in links if "download" in link]
    assert [source.partition(";")[0] for source in inside] == ["data:text/csv"]
    (figure,) = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert str(figure["src"]).startswith("data:image/")
    assert figure["alt"]


def test_samples_of_several_studies_are_told_apart(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name, swept(name))
    measured, _ = read_studies("toy", [tmp_path / "a", tmp_path / "b"])
    assert [strip.settings["domain"] for strip in measured.strips] == ["a"] * 4 + ["b"] * 4
    first = measured.strips[0]
    assert (first.settings["step"], first.settings["eta"]) == (700, 0.0)
    assert float(first.images.mean()) == pytest.approx(0.7, abs=0.01)
    (tmp_path / "a" / "strips.safetensors").unlink()
    measured, _ = read_studies("toy", [tmp_path / "a", tmp_path / "b"])
    assert len(measured.strips) == 4


def test_strips_and_films_are_on_the_page_and_named_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"film.webp": b"RIFF", "moved/0.png": b"\x89PNG", "moved/1.png": b"\0" * 3_000_000}
    monkeypatch.setattr(type(STUDY), "files", lambda *_: made)
    reader = Reader(written(tmp_path, replace(swept(), strips=[])))
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert [image["alt"] for image in images[:-1]] == ["film.webp", "moved/0.png"]
    assert str(images[0]["src"]).startswith("data:image/webp;base64,UklGRg==")
    links = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    assert {"film.webp", "moved/"} <= links
    assert "2 strips" in " ".join(reader.texts)
