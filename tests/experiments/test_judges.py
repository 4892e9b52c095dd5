"""What judges saw, from the folders of runs to the file that pages cite."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.judges import collect
from ood_sampler.report.sight import cite


def row(judge: str, kind: str, multiple: float, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "judge": judge,
        "domain": "a",
        "model": "dog32",
        "kind": kind,
        "strength": 1.0,
        "degradation": f"some {kind}",
        "beyond": "or more",
        "multiple": multiple,
        "detected": multiple > 3,
        "images": 100,
        "references": 200,
        "kid": 0.1,
        **changes,
    }


def folder(path: Path, *rows: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "judges.json").write_text(json.dumps({"rows": rows}))
    return path


def test_each_judge_and_domain_has_an_entry_that_can_be_cited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder(
        tmp_path / "x",
        row("k", "real", -1.0),
        row("k", "blur", 2.56),
        row("j", "real", 0.5),
        row("j", "blur", 12.34, images=50),
        row("j", "hue", -0.04),
    )
    second = folder(
        tmp_path / "w", row("j", "real", 1.0, domain="0"), row("j", "blur", 9.0, domain="0")
    )
    file = tmp_path / "measured.json"
    assert collect.main([str(first), str(second), "--to", str(file)]) == 0
    said, *printed = capsys.readouterr().out.splitlines()
    assert said.endswith("3 answers, 3 pairs of a judge and a domain")
    assert printed[1:] == [
        "| j / k | 0 | a |",
        "|---|---:|---:|",
        "| some blur | **9.0** / – | **12.3** / 2.6 |",
        "| some hue | – / – | -0.0 / – |",
    ]
    found = json.loads(file.read_text())
    assert [(entry["judge"], entry["domain"]) for entry in found] == [
        ("j", "0"),
        ("j", "a"),
        ("k", "a"),
    ]
    blur = {
        "kind": "blur",
        "strength": 1.0,
        "degradation": "some blur",
        "beyond": "or more",
        "multiple": 12.3,
        "detected": True,
    }
    assert found[1]["rows"][0] == blur
    assert [each["kind"] for each in found[1]["rows"]] == ["blur", "hue"]
    assert (found[1]["images"], found[1]["references"], found[1]["model"]) == (100, 200, "dog32")
    assert cite("j", "a", "dog32", measured=file) == (
        "This judge notices some blur, but not some hue (experiment=judges, a, 100 images)."
    )


def test_folders_that_cannot_be_used_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    file = tmp_path / "measured.json"
    assert collect.main([str(tmp_path / "empty"), "--to", str(file)]) == 1
    assert "judges.json does not exist: give folders of finished" in capsys.readouterr().err
    twice = [str(folder(tmp_path / name, row("j", "real", 1.0))) for name in ("x", "y")]
    assert collect.main([*twice, "--to", str(file)]) == 1
    assert "is the second answer for j, a, dog32: leave one out" in capsys.readouterr().err
    assert not file.exists()
