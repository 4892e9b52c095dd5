import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.data.radiation import FluxScale, LinearScale
from ood_sampler.report.explorer import Explorer, embedded, samples_csv
from ood_sampler.report.page import page
from ood_sampler.report.verdicts import judged
from tests.report.exploring import make_explorer, photographs
from tests.report.test_page import Reader

Draw = Callable[..., Tensor]


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_holds_what_its_scripts_read(results: dict[str, Any]) -> None:
    explorer = make_explorer()
    data = data_of(page(judged(results), {}, None, explorer))
    assert data == json.loads(json.dumps(embedded(explorer)))
    assert data["few_shot"][3] == "<few> & 3"
    assert {kind: sheet["count"] for kind, sheet in data["sheets"].items()} == {
        "samples": 20,
        "few_shot": 12,
        "held_out": 8,
        "in_domain": 8,
    }
    assert len(data["points"]["samples"]) == len(data["samples"]) == 20
    assert data["samples"][4] == {
        "number": 4,
        "file": "samples/00004.png",
        "near_copy": False,
        "captured": False,
        "authentic": True,
        "realism": 0.4,
        "distance": 5.5,
        "blend_pair": 0.504,
        "blend_five": pytest.approx(0.96875),
        "neighbours": [[4, 5.5], [5, 6.5], [6, 7.5], [7, 8.5], [8, 9.5]],
        "parts": [[8, 0.5], [9, 0.25], [10, 0.125], [11, 0.0625], [0, 0.03125]],
    }
    film = data["film"]
    assert len(film["reels"]) == 2
    # frames up, frames down, what the model makes of each
    assert film["reels"][0]["count"] == len(film["up"]) + 2 * len(film["down"])
    assert data["field"] is None


def test_what_is_infinite_is_null(results: dict[str, Any]) -> None:
    explorer = make_explorer(film=False)
    first = replace(explorer.samples[0], realism=float("inf"), blend_pair=None)
    changed = replace(explorer, samples=[first, *explorer.samples[1:]])
    data = data_of(page(judged(results), {}, None, changed))
    assert data["samples"][0]["realism"] is data["samples"][0]["blend_pair"] is data["film"] is None


@pytest.mark.parametrize(
    "scale", [FluxScale([0.01], [100.0]), LinearScale([0.0, 1.0, 2.0], [1.0, 2.0, 4.0])]
)
def test_levels_of_a_field_are_its_values(scale: FluxScale | LinearScale) -> None:
    field = embedded(make_explorer(scale=scale))["field"]
    assert (field["unit"], field["scaling"]) == ("K", scale.scaling)
    assert len(field["bands"]) == len(scale.low)
    grey = torch.linspace(-1, 1, 256, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    expected = scale.from_pictures(grey)[:, :, 0, 0].T
    for band, values in zip(field["bands"], expected.tolist(), strict=True):
        assert band["values"] == pytest.approx(values, rel=1e-4, abs=1e-4)
        assert [place for place, _ in band["ticks"]] == [0, 63.75, 127.5, 191.25, 255]
    assert len(field["colours"]) == 256
    if isinstance(scale, FluxScale):
        assert [text for _, text in field["bands"][0]["ticks"]] == ["0.01", "0.1", "1", "10", "100"]


def test_the_table_of_samples_names_their_few_shot_images() -> None:
    rows = list(csv.DictReader(io.StringIO(samples_csv(make_explorer()))))
    assert len(rows) == 20
    assert (rows[3]["near_copy"], rows[4]["near_copy"]) == ("1", "0")
    told = make_explorer()
    silent = [replace(each, near_copy=None, captured=None) for each in told.samples]
    empty = csv.DictReader(io.StringIO(samples_csv(replace(told, samples=silent))))
    assert {(row["near_copy"], row["captured"]) for row in empty} == {("", "")}
    assert rows[4]["nearest_2"] == "<few> & 5"
    assert float(rows[4]["nearest_2_distance"]) == 6.5
    assert rows[4]["part_1"] == "<few> & 8"
    assert float(rows[4]["part_1_share"]) == 0.5
    assert float(rows[4]["realism"]) == 0.4


def test_only_the_script_of_the_page_may_run(results: dict[str, Any]) -> None:
    text = page(judged(results), {}, None, make_explorer())
    reader = Reader(text)
    assert [tag for tag, _ in reader.tags].count("script") == 2
    policy = next(
        str(attributes["content"]) for _, attributes in reader.tags if "http-equiv" in attributes
    )
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in {"link", "iframe", "object", "base"}
        if "src" in attributes:
            assert str(attributes["src"]).startswith("data:image/")
    assert "<few>" not in text


def test_all_that_a_page_without_scripts_says_is_still_there(
    results: dict[str, Any], pictures: Draw
) -> None:
    kinds = ("samples", "nearest", "held_out", "in_domain", "originals", "reconstructions")
    shown = {kind: pictures(2) for kind in kinds}
    pages = [page(judged(results), shown, None, extra) for extra in (None, make_explorer())]
    # style sheets apart
    plain, said = ([part for part in Reader(each).texts if "{" not in part] for each in pages)
    assert set(plain) <= set(said)
    order = [text for text in said if text in set(plain)]
    assert [text for text in order if text[:2] in {"1.", "2.", "3.", "4.", "5."}] == [
        text for text in plain if text[:2] in {"1.", "2.", "3.", "4.", "5."}
    ]
    # what scripts fill is not shown without them
    text = page(judged(results), shown, None, make_explorer())
    assert '<section id="explore" class="scripted">' in text
    assert ".scripted { display: none; }" in text


def test_tables_can_be_had_from_the_page_alone(results: dict[str, Any]) -> None:
    reader = Reader(page(judged(results), {}, None, make_explorer()))
    links = [attributes for tag, attributes in reader.tags if tag == "a" and "href" in attributes]
    inside = {str(a["download"]): str(a["href"]) for a in links if "download" in a}
    assert set(inside) == {"metrics.csv", "samples.csv"}
    assert all(source.startswith("data:text/csv;") for source in inside.values())
    assert "samples/" in {a["href"] for a in links}


@pytest.mark.parametrize("size", [32, 128])
def test_a_page_of_500_samples_stays_below_six_megabytes(
    results: dict[str, Any], size: int
) -> None:
    large: Explorer = make_explorer(500, 600, 250, size=size)
    pictures = {
        kind: photographs(count, size, seed)
        for seed, (kind, count) in enumerate({"samples": 64, "nearest": 64, "held_out": 64}.items())
    }
    text = page(judged(results), pictures, None, large)
    assert len(text.encode()) < 6_000_000
    assert data_of(text)["sheets"]["samples"]["edge"] >= min(size, 64)
