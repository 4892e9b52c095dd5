"""The band against the domain gap, on curves whose order is known."""

from typing import Any

import pytest

from experiments.paper import band
from ood_sampler.metrics.opinions import of_judge


def curve(domain: str, gap: float, ends: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    """Two steps of a domain; its gap, and where the band ends by each judge."""
    second, end = "features32", dict(zip(("imagenet", "features32"), ends, strict=True))
    rows = []
    for step in (100, 900):
        row = {"domain": domain, "strategy": "cog (3)", "step": step}
        for judge, high in end.items():
            found = {
                "gap": gap if judge == "imagenet" else 10 - gap,
                "retention": 1 - step / 1000,
                "kid": step / 1000,
                "usable": high is not None,
                "chosen": high is not None and step == 100,
                "band_low": None if high is None else 100.0,
                "band_high": high,
                "open_low": None if high is None else True,
                "open_high": None if high is None else False,
                "kid_standard_error": 0.01,
                "precision": 0.5,
                "near_copies": 0.0,
                "authenticity": 0.6,
                "images": 128,
                "retention_asked": 0.9,
                "novelty_asked": 0.3,
                "near_copies_asked": 0.01,
                "excess": 0.0,
            }
            for key in ("retention", "authenticity", "near_copies", "excess"):
                found |= {f"{key}_low": 0.0, f"{key}_high": 1.0}
            row |= found if judge != second else {of_judge(judge, k): v for k, v in found.items()}
        rows.append(row)
    return rows


ROWS = [
    row
    for k, name in enumerate("abcde")
    for row in curve(name, k + 1.0, (None, None) if k == 0 else (150.0 * k, 150.0 * k))
]


def test_a_wider_band_at_a_larger_gap_is_found_by_the_judge_that_sees_the_gap() -> None:
    found = {judge: band.curves_of(ROWS, judge) for judge in band.JUDGES}
    assert list(found["imagenet"]) == list("edcba")
    assert list(found["features32"]) == list("abcde")
    assert "rank correlation 1.00" in band.correlation(found["imagenet"])
    assert "rank correlation -1.00" in band.correlation(found["features32"])
    assert "rank correlation 1.00 (permutation p = 0.0167)" in band.crossed(*found.values())


def test_the_table_has_the_largest_gap_first_and_says_where_no_step_is_usable() -> None:
    lines = band.table(band.curves_of(ROWS, "imagenet")).split("\n")
    assert lines[2] == "| e | 5000 | 600 | 0.90; 100 | 0.10; 900 |"
    assert lines[-1] == "| a | 1000 | no step is usable | 0.90; 100 | 0.10; 900 |"


def test_few_domains_have_no_correlation_and_several_strategies_are_refused() -> None:
    few = band.curves_of(ROWS[:6], "imagenet")
    assert band.correlation(few) == "Too few domains for a rank correlation."
    with pytest.raises(ValueError, match=r"one strategy, got cog .3., slerp"):
        band.curves_of([*ROWS, {**ROWS[0], "strategy": "slerp"}], "imagenet")


def test_a_band_without_an_upper_end_is_told() -> None:
    rows = [{**row, "open_high": True, "band_high": 900.0} for row in ROWS[-2:]]
    assert "| e | 5000 | at least 900 |" in band.table(band.curves_of(rows, "imagenet"))


def test_the_figure_has_a_line_of_panels_for_each_judge() -> None:
    axes = band.draw(ROWS).axes
    assert [a.get_ylabel() for a in axes[::2]] == [
        "share that stays, imagenet",
        "share that stays, features32",
    ]
    ends = [float(line.get_ydata()[0]) for line in axes[1].lines]
    assert ends == pytest.approx([600, 450, 300, 150, 0])
