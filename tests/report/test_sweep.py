import csv
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ood_sampler.report.sweep import Sweep, SweptRun, overrides, swept_keys
from ood_sampler.report.sweep_files import write_sweep
from ood_sampler.report.terminal import TerminalTable
from ood_sampler.report.verdicts import judged

Draw = Callable[..., Tensor]


def sweep(results: dict[str, Any], labels: list[str]) -> list[tuple[str, dict[str, Any], Tensor]]:
    """Runs whose KID counts up in thousandths, and whose samples are of one grey each."""
    runs = []
    for k, label in enumerate(labels):
        found = deepcopy(results)
        found["rows"][0]["kid"] = (k + 1) / 1000
        grey = torch.tensor([float(50 + 10 * k)]) / 127.5 - 1
        runs.append((label, found, grey.expand(16, 3, 32, 32)))
    return runs


def write(folder: Path, runs: list[tuple[str, dict[str, Any], Tensor]]) -> TerminalTable:
    """Write a sweep of runs that have their verdicts."""
    return write_sweep(folder, Sweep([SweptRun(name, judged(found), x) for name, found, x in runs]))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("inversion.step=500,decode.eta=0.1", {"inversion.step": "500", "decode.eta": "0.1"}),
        ("a=[1,2],+b={x:1,y:2},c=f(1,2)", {"a": "[1,2]", "b": "{x:1,y:2}", "c": "f(1,2)"}),
        ("a='x,y=z',b=", {"a": "'x,y=z'", "b": ""}),
        ("", {}),
    ],
)
def test_overrides(label: str, expected: dict[str, str]) -> None:
    assert overrides(label) == expected


def test_swept_keys() -> None:
    settings = [{"a": "1", "seed": "0", "b": "x"}, {"a": "2", "seed": "0"}]
    assert swept_keys(settings) == ["a", "b"]


def test_two_keys_make_a_table_of_pictures(tmp_path: Path, results: dict[str, Any]) -> None:
    labels = [
        f"inversion.step={step},decode.eta={eta},seed=3" for step in (1000, 400) for eta in (0, 0.1)
    ]
    table = write(tmp_path / "sweep", sweep(results, labels))
    assert table.row_count == 4 + 4
    files = {path.name for path in (tmp_path / "sweep").iterdir()}
    assert files == {"sweep.csv", "sweep.md", "sweep.json", "sweep.png", "sweep_curves.png"}

    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["inversion.step"], row["decode.eta"], row["kid"]) for row in rows[:4]] == [
        ("1000", "0", "0.001"),
        ("1000", "0.1", "0.002"),
        ("400", "0", "0.003"),
        ("400", "0.1", "0.004"),
    ]
    # References and controls are the same in all runs and stand there once.
    assert [row["role"] for row in rows] == ["strategy"] * 4 + ["reference"] * 2 + ["control"] * 2

    text = (tmp_path / "sweep" / "sweep.md").read_text()
    assert "Sweep over inversion.step and decode.eta" in text
    assert "| step=400, eta=0.1 | 400 | 12.3 | – | 4.00 ± 0.20 |" in text
    stored = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["runs"]
    assert stored[3]["overrides"]["inversion.step"] == "400"
    assert stored[3]["rows"][0]["kid"] == 0.004

    # the nearest mixture of pixels has 5.0 ± 0.3, so that a KID below 4.28 ± 0.2 is lower
    question = "Better than mixing the few-shot images themselves?"
    assert f"- {question} shown in 4 of 4, refuted in 0, too few images to say in 0.\n" in text
    assert rows[3]["verdict_better_than_pixels"] == "shown"
    assert rows[4]["verdict_better_than_pixels"] == ""
    found = {verdict["key"]: verdict for verdict in stored[3]["verdicts"]}
    assert found["better_than_pixels"]["outcome"] == "shown"
    assert stored[3]["conclusion"].startswith(
        "The samples look like the target domain, and they are"
    )

    with Image.open(tmp_path / "sweep" / "sweep.png") as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    # Steps increase downwards though given the other way round, eta to the right.
    place = {}
    for k in range(4):
        found = (pixels == 50 + 10 * k).all(dim=-1)
        assert int(found.sum()) >= 4 * 96**2
        y, x = torch.nonzero(found).double().median(dim=0).values.tolist()
        place[k] = (y, x)
    assert place[2][0] == pytest.approx(place[3][0], abs=2)
    assert place[2][0] < place[0][0] - 150
    assert place[2][1] < place[3][1] - 150


def test_better_worse_and_unclear_runs_are_counted_alike(
    tmp_path: Path, results: dict[str, Any]
) -> None:
    runs = sweep(results, [f"seed={k}" for k in range(4)])
    for (_, found, _), kid in zip(runs, (0.001, 0.0048, 0.02, 0.03), strict=True):
        found["rows"][0]["kid"] = kid
    write(tmp_path, runs)
    question = "Better than mixing the few-shot images themselves?"
    assert (
        f"- {question} shown in 1 of 4, refuted in 2, too few images to say in 1.\n"
        in (tmp_path / "sweep.md").read_text()
    )


def test_one_key_without_numbers(tmp_path: Path, results: dict[str, Any]) -> None:
    runs = sweep(results, ["sampler=cog", "sampler=slerp", "sampler=gaussian"])
    runs[1][1]["rows"][4]["kid"] = 0.5
    table = write(tmp_path, runs)
    assert not (tmp_path / "sweep_curves.png").exists()
    # A control that is another one in each run is named by its run.
    assert table.row_count == 3 + 5
    text = (tmp_path / "sweep.md").read_text()
    assert "| cog (2) in pixels (sampler=cog) |" in text
    assert "| cog (2) in pixels (sampler=slerp) | 400 | 12.3 | – | 500.00 ± 0.30 |" in text
    with Image.open(tmp_path / "sweep.png") as picture:
        width, height = picture.size
    assert width > 12 * 98
    assert height == 2 * 16 + 3 * 100 + 2 * 10


def test_three_keys_stand_below_each_other(tmp_path: Path, results: dict[str, Any]) -> None:
    labels = ["a.x=1,b.x=1,c=1", "a.x=2,b.x=1,c=2", "a.x=1,b.x=2,c=3"]
    for _, found, _ in (runs := sweep(results, labels)):
        found["rows"][0] |= {"precision": None, "kid_standard_error": None}
        del found["rows"][1:]
    write(tmp_path, runs)
    assert (tmp_path / "sweep_curves.png").exists()
    # Last parts that do not tell the keys apart are not used alone.
    assert "| a.x=2, b.x=1, c=2 |" in (tmp_path / "sweep.md").read_text()


def test_single_run(tmp_path: Path, results: dict[str, Any]) -> None:
    table = write(tmp_path, sweep(results, ["seed=1"]))
    assert table.title == "Sweep of one run"
    assert "| cog (2) | 400 |" in (tmp_path / "sweep.md").read_text()
    with pytest.raises(ValueError, match="runs must not be empty"):
        write(tmp_path, [])


def test_a_sweep_says_whose_figures_it_shows(tmp_path: Path, results: dict[str, Any]) -> None:
    runs = sweep(results, ["metrics=imagenet", "metrics=features32"])
    for (_, found, _), judges in zip(runs, ("imagenet, features32",) * 2, strict=True):
        found["protocol"]["judges"] = judges
    table = write(tmp_path / "alike", runs)
    told = "judged by imagenet where no other is named"
    assert table.caption.endswith(told)
    assert f"held-out images, {told}:" in (tmp_path / "alike" / "sweep.md").read_text()
    runs[1][1]["protocol"]["judges"] = "features32"
    told = (
        "by the headline of each run (imagenet, features32), so that runs of different ones do not "
        "compare"
    )
    assert write(tmp_path / "apart", runs).caption.endswith(told)
    assert told in (tmp_path / "apart" / "sweep.md").read_text()
