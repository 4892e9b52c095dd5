"""The page of a run: images, metrics, plots and verdicts, in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ood_sampler.metrics.opinions import plain
from ood_sampler.report.columns import number
from ood_sampler.report.explorer import Explorer, embedded, samples_csv
from ood_sampler.report.fields import FieldPanel, field_section
from ood_sampler.report.grid import LARGEST_EDGE, png, to_uint8, viewable
from ood_sampler.report.run_columns import columns_of
from ood_sampler.report.run_plots import run_figures
from ood_sampler.report.sight import cite
from ood_sampler.report.sprites import webp
from ood_sampler.report.tables import Results, csv_table, judges_of, strategy
from ood_sampler.report.template import File, csv_file, data_uri, plot_source, render, script
from ood_sampler.store.files import write_atomically

_MOST = {
    "samples": 50,
    "nearest": 25,
    "held_out": 30,
    "in_domain": 10,
    "originals": 15,
    "reconstructions": 15,
}
"""Images shown of each kind, at most."""

_LOSSLESS = 64
"""Side of the largest images stored without losses."""

_SCRIPTS = ("base", "sheet", "field", "detail", "map", "film", "run")
"""In the order in which they refer to each other."""

_DECODED = ("psnr", "ssim", "images", "autoencoder_psnr", "autoencoder_ssim")
"""Figures of the round trip that the page tells; those of an autoencoder where there is one."""


def write_page(
    path: Path,
    results: Results,
    pictures: Mapping[str, Tensor],
    fields: FieldPanel | None = None,
    explorer: Explorer | None = None,
) -> None:
    """Write the page of a run: one file that needs no other, no network, and reads without scripts.

    Args:
        path: where to, `report.html`; written atomically.
        results: see `ood_sampler.report.tables`; without verdicts that part is left out.
        pictures: in [-1, 1], shape $(N, 3, R, R)$, under `samples`, `nearest` (the nearest few-shot
            image of each sample), `held_out`, `in_domain` (samples from pure noise), `originals`
            and `reconstructions` (of equal length). Any may be missing.
        fields: physical fields to show; None if there are none.
        explorer: single images to explore; without, the page has no script.
    """
    write_atomically(path, page(results, pictures, fields, explorer).encode())


def page(
    results: Results,
    pictures: Mapping[str, Tensor],
    fields: FieldPanel | None = None,
    explorer: Explorer | None = None,
) -> str:
    """Write the page of a run as HTML; arguments as for `write_page`."""
    run, rows = results["run"], results["rows"]
    protocol = results.get("protocol") or {}
    reconstruction = results.get("reconstruction") or {}
    near_copies = (results.get("distributions") or {}).get("near_copies") or ()
    columns, judges = columns_of(rows), judges_of(results)
    seen = {judge: cite(judge, str(run["data"]), str(run["model"])) for judge in judges}
    return render(
        "page.html.j2",
        title=f"{run['data']} from {run['model']}",
        run=run,
        strategy=strategy(results),
        few_shot_count=number(protocol.get("few-shot images")),
        controls=sum(row["role"] == "control" for row in rows),
        decoded={key: number(reconstruction.get(key)) for key in _DECODED},
        verdicts=results.get("verdicts"),
        conclusion=results.get("conclusion"),
        judges=judges,
        sights=[(judge, text) for judge, text in seen.items() if text],
        near_copies=near_copies,
        albums={kind: _album(kind, pictures.get(kind), near_copies) for kind in _MOST},
        fields="" if fields is None else field_section(fields),
        rows=rows,
        columns=columns,
        # those of further judges mean the same
        explained=[column for column in columns if plain(column.key) == column.key],
        plots=[(caption, plot_source(figure)) for caption, figure in run_figures(results)],
        stages=results.get("stages"),
        protocol=[*run.items(), *protocol.items()],
        skipped=results.get("skipped"),
        warnings=results.get("warnings"),
        explorer="" if explorer is None else render("explorer.html.j2", explorer=explorer),
        files=[] if explorer is None else _files(results, explorer),
        script=None if explorer is None else script(_SCRIPTS, embedded(explorer)),
    )


def _files(results: Results, explorer: Explorer) -> list[File]:
    """Tables in the page itself, and the files beside it."""
    return [
        csv_file("metrics.csv", csv_table(results["rows"]), "all numbers with their intervals"),
        csv_file("samples.csv", samples_csv(explorer), "the numbers of single samples"),
        *(File(name, about) for name, about in explorer.files),
    ]


@dataclass(frozen=True)
class _Album:
    """Images of one kind, as a page shows them.

    Attributes:
        sources: of those shown.
        copies: whether each is a near-copy.
        edge: shown, in pixels.
        enlarged: whether they are stored smaller than that.
        total: how many there are, shown or not.
    """

    sources: Sequence[str]
    copies: Sequence[bool]
    edge: int
    enlarged: bool
    total: int


def _album(kind: str, images: Tensor | None, near_copies: Sequence[bool]) -> _Album | None:
    if images is None or not len(images):
        return None
    shown, size = images[: _MOST[kind]], images.shape[-1]
    edge = viewable(images[:1]).shape[-1]
    # The browser enlarges small images, which keeps the file small.
    stored = viewable(shown) if size > LARGEST_EDGE else to_uint8(shown)
    # unknown ones are none
    copies = [*near_copies, *[False] * len(shown)][: len(shown)]
    sources = [_source(picture) for picture in torch.unbind(stored)]
    return _Album(
        sources,
        copies if kind == "samples" else [False] * len(shown),
        edge,
        edge > size,
        len(images),
    )


def _source(picture: Tensor) -> str:
    """An image as a source: large ones, which are many times as large as a file, with losses."""
    if picture.shape[-1] > _LOSSLESS:
        return data_uri("image/webp", webp(picture))
    return data_uri("image/png", png(picture))
