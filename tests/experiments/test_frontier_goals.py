"""What rows of the frontier say, on rows whose answer is known."""

import io
from pathlib import Path
from typing import Any

import pytest

from experiments.few_shot.table import against_cluster, against_tuning, said
from experiments.frontier import goals
from experiments.frontier import rows as frontier_rows
from experiments.frontier.goals import Domain
from experiments.frontier.measure import Rows, data_of
from experiments.frontier.settings import settings, without_network
from ood_sampler.metrics.opinions import together
from ood_sampler.pipeline.measure import Row
from ood_sampler.samplers.base import GaveUpError
from ood_sampler.store.files import load_json, save_json

KNOWN = "base/plain/cog 3/500"
NEW = "base/plain/white .4/999"


def row(
    kid: float, authenticity: float, *, near_copies: float = 0.0, blend: float = 0.9
) -> dict[str, Any]:
    """Figures of a setting, known well."""
    return {
        "images": 128,
        "kid": kid,
        "kid_standard_error": 0.001,
        "kid_low": kid - 0.002,
        "kid_high": kid + 0.002,
        "authenticity": authenticity,
        "authenticity_low": authenticity - 0.01,
        "authenticity_high": authenticity + 0.01,
        "near_copies": near_copies,
        "blend_five": blend,
    }


def domain(**further: dict[str, Any]) -> Domain:
    """Real images, `cog` of 3 and two mixtures of pixels, with further rows."""
    rows = {
        "real": row(0.0, 0.6, near_copies=0.02, blend=0.5),
        "pixels/cog 3": row(0.3, 0.5),
        "pixels/cog 5": row(0.5, 0.7),
        KNOWN: row(0.2, 0.7),
    }
    return Domain("a", rows | further)


def test_a_setting_is_beyond_what_it_undercuts_at_equal_authenticity() -> None:
    worse = "base/plain/noised/500"
    found = domain(**{worse: row(0.6, 0.5)})
    apart = goals.beyond(found, found.pixels)
    assert apart[KNOWN].value == pytest.approx(0.3)
    assert apart[KNOWN].low > 0
    assert apart[worse].value == pytest.approx(-0.3)
    assert apart[worse].high < 0
    assert "| a | 1 of 2 | 1 | cog 3, t = 500: 300 [" in goals.verdicts([found])


def test_a_setting_that_copies_is_left_out() -> None:
    found = domain(**{NEW: row(0.01, 0.9, near_copies=0.06)})
    assert NEW not in goals.beyond(found, found.pixels)
    assert NEW in domain(**{NEW: row(0.01, 0.9, near_copies=0.05)}).settings


@pytest.mark.parametrize(
    ("made", "invents"),
    [
        (row(0.2, 0.9, blend=0.7), True),
        (row(0.21, 0.9, blend=0.7), False),
        (row(0.2, 0.9, blend=0.71), False),
        (row(0.2, 0.9, blend=0.7, near_copies=0.03), False),
    ],
)
def test_an_invention_is_as_near_no_copy_and_newer_than_half_way(
    made: dict[str, Any], invents: bool
) -> None:
    assert (NEW in goals.invention(domain(**{NEW: made}))) == invents


def test_a_recipe_is_beaten_by_thirty_per_cent_at_no_less_authenticity() -> None:
    recipe = "base/plain/recipe, text/500"
    assert goals.below_recipe(domain(**{recipe: row(0.3, 0.7)})) == {"recipe, text": KNOWN}
    assert goals.below_recipe(domain(**{recipe: row(0.28, 0.7)})) == {"recipe, text": None}
    assert goals.below_recipe(domain(**{recipe: row(0.3, 0.71)})) == {"recipe, text": None}


def write(folder: Path, name: str, rows: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    save_json(folder / f"dog32_{name}.json", rows)


def printed() -> str:
    page = io.StringIO()
    goals.main(page.write)
    return page.getvalue()


def test_pages_have_each_judge_and_leave_out_what_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = domain(**{"base/plain/cog 5/999": row(0.25, 0.8)}).rows
    both = {key: together(dict.fromkeys(frontier_rows.JUDGES, of)) for key, of in found.items()}
    both[KNOWN]["features32/kid"] = 0.45
    write(tmp_path, "a_200_0", both)
    write(tmp_path, "a_200_1", both)
    write(tmp_path, "b_200_0", {"real": both["real"]})
    monkeypatch.setattr("sys.argv", ["goals", str(tmp_path)])
    text = printed()
    headline, second = text.split("## features32")
    assert "| a | 2 of 2 | 0 | cog 3, t = 500: 300 [" in headline
    assert "| base/plain/cog 3/500 | 200 ± 1; 0.70; 0%; 0.90 |" in headline
    assert "| base/plain/cog 3/500 | 450 ± 1; 0.70; 0%; 0.90 |" in second
    assert "| b |" not in text
    monkeypatch.setattr("sys.argv", ["goals", str(tmp_path), "200", "0", "1"])
    assert "| a | 300, 300 | 450, 450; 2 of 2 | –, – | 250, 250; 2 of 2 |\n" in printed()


def test_a_file_of_rows_says_what_their_folder_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = domain(**{"base/plain/cog 5/999": row(0.25, 0.8)}).rows
    both = {key: together(dict.fromkeys(frontier_rows.JUDGES, of)) for key, of in found.items()}
    folder = tmp_path / "rows"
    write(folder, "a-b_150_0", both | {"base/plain/slerp/500": {"images": 3, "gave_up": "x"}})
    monkeypatch.setattr("sys.argv", ["rows", str(folder)])
    text = io.StringIO()
    frontier_rows.main(text.write)
    file = tmp_path / "rows.csv"
    file.write_text(text.getvalue())
    (place,) = frontier_rows.rows_in(file)
    assert place == ("dog32", "a-b", 150, 0)
    pages = []
    for source in (folder, file):
        monkeypatch.setattr("sys.argv", ["goals", str(source)])
        pages.append(printed())
    assert pages[0] == pages[1]
    assert "| a-b | 2 of 2 |" in pages[1]
    with pytest.raises(FileNotFoundError):
        frontier_rows.rows_in(tmp_path / "none.csv")


def test_rows_are_measured_once_and_keep_why_a_strategy_gave_up(tmp_path: Path) -> None:
    file, made = tmp_path / "rows.json", []

    def measure(count: int) -> Row:
        made.append(count)
        return Row("a", "strategy", count, {"kid": 0.1})

    def give_up() -> Row:
        raise GaveUpError("too few")

    def fail() -> Row:
        raise OSError("disk")

    Rows(file, 10).keep("x", lambda: measure(10))
    Rows(file, 10).keep("x", lambda: measure(10))
    Rows(file, 20).keep("x", lambda: measure(20))
    assert made == [10, 20]
    Rows(file, 20).keep("y", give_up)
    with pytest.raises(OSError, match="disk"):
        Rows(file, 20).keep("z", fail)
    assert load_json(file) == {
        "x": {"images": 20, "kid": 0.1},
        "y": {"images": 20, "gave_up": "too few"},
    }


def test_rows_that_two_processes_measure_are_all_kept(tmp_path: Path) -> None:
    first, second = Rows(tmp_path / "rows.json", 1), Rows(tmp_path / "rows.json", 1)
    first.keep("x", lambda: Row("x", "strategy", 1, {"kid": 0.1}))
    second.keep("y", lambda: Row("y", "strategy", 1, {"kid": 0.2}))
    assert set(load_json(tmp_path / "rows.json") or ()) == {"x", "y"}
    assert second.holds("x")


def test_settings_have_keys_of_their_own_and_domains_their_overrides(tmp_path: Path) -> None:
    every = [*settings(), *without_network()]
    assert len({setting.key for setting in every}) == len(every)
    assert data_of("galaxy32", 10, 3) == (
        "galaxy32",
        ["data=galaxy32", "data.few_shot=10", "data.held_out=800"],
    )
    name, own = data_of(f"cats={tmp_path}", 10, 3)
    assert name == "cats"
    assert own[:4] == ["data=folder", f"data.root={tmp_path}", "data.name=cats", "data.seed=3"]


def test_few_images_count_orders_over_domains() -> None:
    orders = ["lower", "higher", "lower", "unclear", "alike"]
    assert said(orders, "lower", "higher") == "lower in 2, higher in 1, not told apart in 2"
    rows = {
        "real": row(0.0, 0.6),
        "latents/hypersphere/500": row(0.3, 0.8),
        "latents/cog 3/500": row(0.2, 0.5),
        "tuned/vanilla": row(0.4, 0.8),
    }
    lines = against_cluster({"a": rows, "b": rows})
    assert (
        "- latents/hypersphere/500 against latents/cog 3/500: KID lower in 0, higher in 2, not "
        "told apart in 0; authenticity higher in 2, lower in 0, not told apart in 0"
    ) in lines
    (told,) = against_tuning({"a": rows})
    assert told.startswith("- a: 2 of 2 settings nearer, 0 farther, 0 left out for near-copies: ")
    assert "hypersphere/500 by 100 [" in told


def test_the_page_shows_what_its_rows_say() -> None:
    folder = Path(__file__).parents[2] / "experiments" / "frontier"
    page = (folder / "README.md").read_text()
    for few_shot in (200, 50):
        for domains in goals.read(folder / "rows.csv", few_shot).values():
            assert len(domains) >= 4
            assert goals.overview(domains) in page
    for domains in goals.read(folder / "rows.csv", 200).values():
        assert goals.verdicts(domains) in page
