import csv
from pathlib import Path

import torch

from ood_sampler.metrics.attribution import Attribution
from ood_sampler.report.results import write_attribution


def test_attribution_is_written_best_first_by_name(tmp_path: Path) -> None:
    indices = torch.tensor([[2, 0, 1], [1, 2, 0]])
    shares = torch.tensor([[0.5, 0.25, 0.125], [1.0, 0.00004, 0.0]], dtype=torch.float64)
    names = ["a.png", "b, turned.png", "c/é.png"]
    write_attribution(tmp_path, Attribution(indices, shares), [3, 12], few_shot=names)
    file = tmp_path / "attribution.csv"
    assert b"\r" not in file.read_bytes()
    with file.open(encoding="utf-8", newline="") as lines:
        assert list(csv.reader(lines)) == [
            ["file", "rank", "few_shot", "share"],
            ["00003.png", "1", "c/é.png", "0.5000"],
            ["00003.png", "2", "a.png", "0.2500"],
            ["00003.png", "3", "b, turned.png", "0.1250"],
            ["00012.png", "1", "b, turned.png", "1.0000"],
        ]
