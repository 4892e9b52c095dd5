"""The gallery: for each base model and domain a sheet of samples, and a page over all of them.

    python -m experiments.gallery
    python -m experiments.gallery --models ship32 --domains galaxy32 birds=/my/birds.zip

Domains and models are named as for the paper's figures (`make paper`). Each pair is a small run,
which continues where it stopped. Sheets and page go to `docs/gallery`. For domains that ship, each
sample stands beside the few-shot image most similar to it; the photographs of a folder are not put
there: their sheet shows samples alone, and the one with both is in `outputs/gallery`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ood_sampler
from experiments.paper.__main__ import runs
from ood_sampler.faults import FAULTS
from ood_sampler.report.grid import save_png, tile, viewable
from ood_sampler.report.run_columns import figure_with_interval
from ood_sampler.store.files import write_atomically

SIZES = (
    "data.few_shot=100",
    "data.held_out=200",
    "num_samples=48",
    "measure.in_domain=16",
    "measure.round_trip=16",
    "logger=none",
)
"""Of each run: enough for a sheet, a minute of two cores at 32x32."""

SHOWN = 16
"""Samples on a sheet."""

_COLUMNS = 4
"""Pairs per line."""

_ENTRIES = "entries.json"
_FIGURES = {"kid": "KID × 10³", "authenticity": "authenticity", "near_copies": "near-copies"}


def make(name: str, overrides: Sequence[str], *, pages: Path, output: Path) -> Mapping[str, Any]:
    """Make a run and its sheet.

    Args:
        name: of the pair, and of its files.
        overrides: settings of the run.
        pages: folder of the sheets.
        output: folder of all results.

    Returns:
        What the page says of it.
    """
    result = ood_sampler.run(*overrides, f"output={output}")
    domain = result.domain
    # none is chosen by eye: the first that are no near-copies
    kept = [k for k, copied in enumerate(result.near_copies) if not copied][:SHOWN]
    kept = kept or list(range(min(SHOWN, len(result.near_copies))))
    samples = result.samples.values[kept]
    nearest = torch.stack([domain.few_shot[result.nearest[k]] for k in kept])
    pairs = _pairs(samples, nearest)
    alone = "data=folder" in overrides
    if alone:
        beside = output / "gallery"
        save_png(pairs, beside / f"{name}.png")
        pairs = tile(viewable(samples), columns=2 * _COLUMNS)
    save_png(pairs, pages / f"{name}.png")
    row = result.table[0]
    model, _, data = name.partition("_")
    return {
        "model": model,
        "data": domain.name if alone else data,
        "alone": alone,
        "strategy": row["name"],
        "samples": row["samples"],
        "few_shot": len(domain.few_shot),
        "judge": result.judges[0],
        "figures": {title: figure_with_interval(key, row) for key, title in _FIGURES.items()},
    }


def _pairs(samples: Tensor, nearest: Tensor) -> Tensor:
    """Each sample beside its nearest few-shot image, uint8."""
    left, right = viewable(samples), viewable(nearest)
    seam = left.new_full((*left.shape[:-1], 2), 255)
    return tile(torch.cat([left, seam, right], -1), columns=_COLUMNS, gap=10)


def write_page(pages: Path, made: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the page of all sheets, those of earlier calls among them."""
    file = pages / _ENTRIES
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    entries = {
        name: entry
        for name, entry in sorted({**known, **made}.items())
        if (pages / f"{name}.png").is_file()
    }
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    write_atomically(file, (text + "\n").encode())
    lines = [
        "# Gallery",
        "",
        "What frozen models make of domains that they have never seen. No sample was chosen by "
        f"eye: a sheet shows the first {SHOWN} of a run that are no near-copies of a few-shot "
        "image. `make gallery` makes all sheets; `make gallery MODELS=ship32 "
        "DOMAINS=/my/images` makes those of your own images.",
    ]
    for name, entry in entries.items():
        lines += ["", *_section(name, entry)]
    write_atomically(pages / "index.md", ("\n".join(lines) + "\n").encode())


def _section(name: str, entry: Mapping[str, Any]) -> list[str]:
    shown = (
        "Samples."
        if entry["alone"]
        else "In each pair the left is a sample, the right the few-shot image most similar to it."
    )
    figures = ", ".join(f"{title} {text}" for title, text in entry["figures"].items())
    return [
        f"## {entry['data']} from {entry['model']}",
        "",
        f"![samples of {entry['data']} from {entry['model']}]({name}.png)",
        "",
        f"{shown} Strategy {entry['strategy']}, {entry['few_shot']} few-shot images; of "
        f"{entry['samples']} samples, judged by {entry['judge']}: {figures}.",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is asked for; 1 if something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--domains", nargs="*", default=[], help="as for the paper's figures")
    parser.add_argument("--models", nargs="*", default=[], help="base models; all")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--pages", type=Path, default=Path("docs", "gallery"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    given = parser.parse_args(arguments)
    failed = False
    try:
        every = list(runs("bandwidth", "embedded", given.domains, given.models))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for run in every:
        # the pair of a study, without the study
        overrides = [text for text in run.overrides if not text.startswith("experiment=")]
        try:
            made = make(
                run.folder,
                [*overrides, *SIZES, *given.set],
                pages=given.pages,
                output=given.output,
            )
        except FAULTS as error:
            print(f"error: {run.folder}: {' '.join(str(error).split())}", file=sys.stderr)
            failed = True
            continue
        write_page(given.pages, {run.folder: made})
        print(given.pages / f"{run.folder}.png")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
