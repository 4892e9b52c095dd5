"""The page of a run: pictures, figures, plots and what they say, in one file."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from ood_sampler.metrics.opinions import plain
from ood_sampler.report.fields import FieldPanel, field_section
from ood_sampler.report.grid import LARGEST_EDGE, png, to_uint8, viewable
from ood_sampler.report.plots import run_figures, svg
from ood_sampler.report.sight import cite
from ood_sampler.report.tables import (
    MISSING,
    Column,
    Results,
    Row,
    columns_of,
    judges_of,
    number,
    strategy,
)
from ood_sampler.report.verdicts import conclusion, verdicts
from ood_sampler.store.files import write_atomically

_SAMPLES, _PAIRS, _HELD_OUT, _IN_DOMAIN, _RECONSTRUCTIONS = 50, 25, 30, 10, 15
"""Pictures shown of each kind, at most."""

_TONES = {"shown": "good", "refuted": "bad", "unclear": "open", "disputed": "open"}
"""Colours of verdicts."""

_SHORT = 0.05
"""Seconds below which a rate says nothing."""

_CITATIONS = (
    (
        "Ye Zhu, Yu Wu, Duo Xu, Zhiwei Deng, Yan Yan, Olga Russakovsky: A Sampling-Based Domain "
        "Generalization Study with Diffusion Generative Models. 2023 (the method).",
        "https://arxiv.org/abs/2310.09213",
    ),
    (
        "Erik Bodin, Alexandru Stere, Dragos D. Margineantu, Carl Henrik Ek, Henry Moss: Linear "
        "combinations of latents in generative models: subspaces and beyond. 2024 (the strategy "
        "cog).",
        "https://arxiv.org/abs/2408.08558",
    ),
    (
        "Sai Niranjan Ramachandran, Rudrabha Mukhopadhyay, Madhav Agarwal, C. V. Jawahar, Vinay "
        "Namboodiri: Understanding the Generalization of Pretrained Diffusion Models on "
        "Out-of-Distribution Data. AAAI 2024 (the geometry of inverted latents).",
        "https://doi.org/10.1609/aaai.v38i13.29395",
    ),
)

_STYLE = """
:root { color-scheme: light; --ink: #1c2026; --faint: #5b6470; --line: #dfe3e8; --wash: #f5f7f9;
  --good: #1d7044; --bad: #ab2b1e; --open: #8a5a00; --accent: #1a5fb4;
  --copy: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
main { max-width: 1168px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.25rem; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 3rem 0 0.75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.75rem 0 0.5rem; }
p { max-width: 76ch; margin: 0.5rem 0; }
a { color: var(--accent); }
.kicker { color: var(--faint); margin: 0 0 0.25rem; font-size: 0.9rem; }
.lead { font-size: 1.1rem; }
.note { color: var(--faint); font-size: 0.92rem; }
nav { margin-top: 1.25rem; font-size: 0.92rem; display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; }
.alert { border-left: 4px solid var(--open); background: #fdf6e7; padding: 0.6rem 1rem;
  margin-top: 1.25rem; }
.verdicts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr));
  gap: 0.9rem; padding: 0; margin: 0; list-style: none; }
.verdicts li { border: 1px solid var(--line); border-left: 4px solid; border-radius: 6px;
  padding: 0.75rem 1rem; }
.verdicts .good { border-left-color: var(--good); }
.verdicts .bad { border-left-color: var(--bad); }
.verdicts .open { border-left-color: var(--open); }
.verdicts b { display: block; }
.verdicts .answer { font-weight: 600; }
.good .answer { color: var(--good); }
.bad .answer { color: var(--bad); }
.open .answer { color: var(--open); }
.verdicts p { font-size: 0.95rem; margin: 0.25rem 0 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 8px; }
.pictures img { display: block; }
.pictures img.copy { outline: 3px solid var(--copy); }
.pixelated img { image-rendering: pixelated; }
.pair { display: flex; gap: 2px; background: #e4e8ee; padding: 4px; border-radius: 5px; }
.pair.copy { background: var(--copy); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.94rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.9rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
thead th { border-bottom: 2px solid #9aa2ad; vertical-align: bottom; white-space: normal;
  max-width: 11rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0.5rem; }
tbody th { font-weight: 400; }
.strategy { background: #eef4fc; font-weight: 600; }
.interval { color: var(--faint); font-size: 0.78rem; font-weight: 400; display: block;
  line-height: 1.2; }
ol li { max-width: 76ch; margin: 0.35rem 0; }
.role { color: var(--faint); font-size: 0.78rem; font-weight: 400; display: block; }
table.text th, table.text td { text-align: left; white-space: normal; overflow-wrap: anywhere;
  vertical-align: top; }
table.text th { font-weight: 600; min-width: 11rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.35rem 1.25rem;
  font-size: 0.94rem; }
dt { font-weight: 600; }
dd { margin: 0; max-width: 76ch; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
  gap: 1.75rem 2rem; }
.plots figure { margin: 0; }
.plots img { width: 100%; height: auto; display: block; }
figcaption { color: var(--faint); font-size: 0.9rem; margin-top: 0.25rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 0.5rem; }
  main { padding: 1.5rem 1rem 3rem; } }
@media print { nav { display: none; } .plots figure, .verdicts li { break-inside: avoid; } }
"""


def write_page(
    path: Path, results: Results, pictures: Mapping[str, Tensor], fields: FieldPanel | None = None
) -> None:
    """Write the page of a run: one file that needs no other, no network and no script.

    Args:
        path: Where to, `report.html`; written atomically.
        results: See `ood_sampler.report.tables`.
        pictures: In [-1, 1], shape $(N, 3, R, R)$, under `samples`, `nearest` (the nearest few-shot
            picture of each sample), `held_out`, `in_domain` (samples from pure noise), `originals`
            and `reconstructions` (of equal length). Any may be missing.
        fields: What is shown of physical fields; None without them.
    """
    write_atomically(path, page(results, pictures, fields).encode())


def page(results: Results, pictures: Mapping[str, Tensor], fields: FieldPanel | None = None) -> str:
    """Write the page of a run as HTML; arguments as for `write_page`."""
    run = results["run"]
    title = f"{run['data']} from {run['model']}"
    sections = [
        ("verdicts", "What the figures say", _verdicts(results)),
        ("method", "What was done", _method(results)),
        ("pictures", "Pictures", _pictures(pictures, _near_copies(results))),
        ("fields", "Physical fields", "" if fields is None else field_section(fields)),
        ("figures", "Figures", _figures(results)),
        ("plots", "Plots", _plots(results)),
        ("costs", "Costs", _costs(results)),
        ("protocol", "Protocol", _protocol(results)),
        ("skipped", "Pictures left out", _skipped(results)),
        ("warnings", "Warnings", _warnings(results)),
        ("cite", "How to cite", _citations()),
    ]
    kept = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{escape(heading)}</a>' for key, heading, _ in kept)
    body = "".join(
        f'<section id="{key}"><h2>{escape(heading)}</h2>\n{content}</section>\n'
        for key, heading, content in kept
    )
    count = len(results.get("warnings") or ())
    alert = (
        f'<p class="alert">This run gave {count} <a href="#warnings">'
        f"warning{'s' if count > 1 else ''}</a>.</p>"
        if count
        else ""
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The browser itself then refuses whatever is not in this file.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body><main>\n"
        f'<p class="kicker">Report of a run of ood_sampler</p>\n<h1>{escape(title)}</h1>\n'
        f"{_summary(results)}\n{alert}\n<nav>{links}</nav>\n{body}</main></body></html>\n"
    )


def _summary(results: Results) -> str:
    """Say in two sentences what was done."""
    run = results["run"]
    row = strategy(results)
    reconstruction = results.get("reconstruction") or {}
    inverted = number((results.get("protocol") or {}).get("few-shot pictures"))
    few_shot = "the few-shot images" if inverted is None else f"{inverted:.0f} few-shot images"
    controls = sum(other["role"] == "control" for other in results["rows"])
    first = (
        f"The model {run['model']}, which never saw {run['data']}, stayed frozen: {few_shot} were "
        f"inverted to step {run['step']} ({run['solver']}, {run['steps']} steps), the strategy "
        f"{row['name']} drew {run['num_samples']} new latents from theirs (seed {run['seed']}), "
        f"and the unchanged weights decoded them with η = {run['eta']}."
    )
    second = (
        "The samples are compared with held-out pictures of the domain, beside real pictures, the "
        f"model's own samples and {controls} control{'' if controls == 1 else 's'} that mix the "
        "few-shot pictures without the model"
    )
    psnr, ssim = (number(reconstruction.get(key)) for key in ("psnr", "ssim"))
    if psnr is not None and ssim is not None:
        decoded = number(reconstruction.get("images"))
        which = "the few-shot images" if decoded in (None, inverted) else f"{decoded:.0f} of them"
        second += (
            f"; inverted and decoded again, {which} come back with a PSNR of {psnr:.1f} dB and an "
            f"SSIM of {ssim:.3f}"
        )
    return f'<p class="lead">{escape(first)} {escape(second)}.</p>'


def _verdicts(results: Results) -> str:
    judged = verdicts(results)
    items = "".join(
        f'<li class="{_TONES[verdict.outcome]}"><b>{escape(verdict.question)}</b>'
        f'<span class="answer">{escape(verdict.answer)}</span>'
        f"<p>{escape(verdict.sentence)}</p></li>\n"
        for verdict in judged
    )
    if not items:
        return ""
    summed_up = conclusion(judged)
    return (
        (f'<p class="lead"><b>In short:</b> {escape(summed_up)}</p>\n' if summed_up else "")
        + f'<ul class="verdicts">\n{items}</ul>\n<p class="note">Computed from the figures below. '
        "A question has an answer where the whole 95% interval lies on one side of its limit, "
        "which is no difference unless another is named; else there are too few images to say. "
        f"{_rest(judges_of(results))} Look at the pictures too.</p>\n{_sight(results)}"
    )


def _rest(judges: Sequence[str]) -> str:
    """Say whose opinions the verdicts are."""
    if len(judges) < 2:
        return "All rest on one feature network and one seed."
    first, *others = judges
    return (
        f"They rest on one seed and on feature networks as judges: {first} is the headline, "
        f"{' and '.join(others)} give{'s' if len(others) == 1 else ''} a second opinion."
    )


def _sight(results: Results) -> str:
    """Say what each judge was found to see, where that was measured."""
    run = results["run"]
    told = ""
    for judge in judges_of(results):
        seen = cite(judge, str(run["data"]), str(run["model"]))
        if seen:
            told += f'<p class="note"><b>What {escape(judge)} can see.</b> {escape(seen)}</p>\n'
    return told


def _method(results: Results) -> str:
    """Say in plain words how the pictures below came about."""
    run = results["run"]
    steps = (
        "A diffusion model makes pictures out of noise: it was trained to remove noise from "
        f"pictures, step by step. This one, {run['model']}, was trained on other pictures; not one "
        "of its weights was changed (frozen).",
        "Run backwards, it turns a picture into noise that leads back to that picture (inversion). "
        f"This was done with a few pictures of {run['data']}, the few-shot pictures, as far as "
        f"step {run['step']}: the higher the step, the less is left of the picture. The noisy "
        "pictures there are called latents.",
        f"New latents were drawn that resemble those of the few-shot pictures (strategy "
        f"{run['sampler']}), and the model turned them into pictures: the samples. With η = 0 it "
        "adds no noise of its own on the way, with η = 1 as much as the usual random sampling.",
        "The samples are good if they look like the domain without repeating the few-shot pictures "
        "or blending two of them. So they are compared with pictures that took no part in all this "
        "(held-out), with the few-shot pictures, and with what anybody can make of these without "
        "a model (controls).",
    )
    items = "".join(f"<li>{escape(step)}</li>\n" for step in steps)
    return f"<ol>{items}</ol>\n"


def _near_copies(results: Results) -> Sequence[bool]:
    return (results.get("distributions") or {}).get("near_copies") or ()


def _pictures(pictures: Mapping[str, Tensor], near_copies: Sequence[bool]) -> str:
    samples = pictures.get("samples")
    marked = (
        " Framed in orange: near-copies, which are nearer to a few-shot picture than 99% of "
        f"held-out pictures are; {sum(near_copies)} of all {len(near_copies)} samples."
        if near_copies
        else ""
    )
    parts = [
        _pairs(
            "1. Few-shot pictures, inverted and decoded again",
            "On the left a few-shot picture, on the right the same after its way to the latent and "
            "back. If the two differ, the latents do not hold the pictures, and nothing that "
            "follows can be good.",
            ("few-shot picture", "reconstruction of few-shot picture"),
            (pictures.get("originals"), pictures.get("reconstructions")),
            _RECONSTRUCTIONS,
        ),
        _singles(
            "2. Samples",
            "What the model made of new latents, not selected: precision says how many of them "
            f"look real.{marked}",
            "sample",
            samples,
            _SAMPLES,
            near_copies,
        ),
        _singles(
            "3. Held-out pictures",
            "Real pictures of the domain that took no part: what samples should look like. FID and "
            "KID say how far the samples are from these, recall how many of these they reach.",
            "held-out picture",
            pictures.get("held_out"),
            _HELD_OUT,
        ),
        _pairs(
            "4. Samples beside their nearest few-shot picture",
            "On the left the sample, on the right the few-shot picture nearest to it in feature "
            "space: a copy looks the same as its neighbour, a blend of two pictures shows a ghost "
            f"of the other one. Authenticity, near-copies and blends say how many.{marked}",
            ("sample", "nearest few-shot picture of sample"),
            (samples, pictures.get("nearest")),
            _PAIRS,
            near_copies,
        ),
        _singles(
            "5. The model's own samples",
            "What the model makes of pure noise: the domain that it was trained on. Captured "
            "samples look like these.",
            "in-domain sample",
            pictures.get("in_domain"),
            _IN_DOMAIN,
        ),
    ]
    return "".join(parts)


def _singles(
    heading: str,
    explanation: str,
    name: str,
    images: Tensor | None,
    most: int,
    near_copies: Sequence[bool] = (),
) -> str:
    if images is None or not len(images):
        return ""
    shown = images[:most]
    tags = _frame(shown, _img_tags(shown, name, near_copies))
    return (
        f'<h3>{escape(heading)}</h3><p class="note">{escape(explanation)} '
        f"{_count(len(shown), len(images))}</p>{tags}"
    )


def _pairs(
    heading: str,
    explanation: str,
    names: tuple[str, str],
    sides: tuple[Tensor | None, Tensor | None],
    most: int,
    near_copies: Sequence[bool] = (),
) -> str:
    left, right = sides
    if left is None or right is None or not len(left):
        return ""
    tags = zip(_img_tags(left[:most], names[0]), _img_tags(right[:most], names[1]), strict=True)
    cards = [
        f'<div class="pair{" copy" if copied else ""}">{a}{b}</div>'
        for (a, b), copied in zip(tags, _padded(near_copies, len(left)), strict=False)
    ]
    return (
        f'<h3>{escape(heading)}</h3><p class="note">{escape(explanation)}</p>{_frame(left, cards)}'
    )


def _count(shown: int, total: int) -> str:
    return f"The first {shown} of {total}." if shown < total else ""


def _frame(images: Tensor, tags: Iterable[str]) -> str:
    enlarged = viewable(images[:1]).shape[-1] > images.shape[-1]
    kind = "pictures pixelated" if enlarged else "pictures"
    return f'<div class="{kind}">{"".join(tags)}</div>\n'


def _padded(near_copies: Sequence[bool], count: int) -> list[bool]:
    """Whether each picture is a near-copy; those of which nothing is known are not."""
    return [*near_copies, *[False] * count][:count]


def _img_tags(images: Tensor, name: str, near_copies: Sequence[bool] = ()) -> list[str]:
    edge = viewable(images[:1]).shape[-1]
    # Small pictures are enlarged by the browser, which keeps the file small.
    stored = viewable(images) if images.shape[-1] > LARGEST_EDGE else to_uint8(images)
    return [
        f'<img{" class=copy" if copied else ""} width="{edge}" height="{edge}" '
        f'alt="{escape(name)} {k}{" (near-copy)" if copied else ""}" '
        f'src="{_data("image/png", png(picture))}">'
        for k, (picture, copied) in enumerate(
            zip(torch.unbind(stored), _padded(near_copies, len(stored)), strict=True)
        )
    ]


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _figures(results: Results) -> str:
    sets = results["rows"]
    classes = [f'class="{escape(row["role"])}"' for row in sets]
    head = "".join(
        f'<th scope="col" {kind}>{escape(str(row["name"]))}'
        f'<span class="role">{escape(row["role"])}</span></th>'
        for kind, row in zip(classes, sets, strict=True)
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(column.title)}</th>'
        + "".join(
            f"<td {kind}>{escape(column.text(row))}{_interval(column, row)}</td>"
            for kind, row in zip(classes, sets, strict=True)
        )
        + "</tr>\n"
        for column in columns_of(sets)
    )
    good = {"lower": " Lower is better.", "higher": " Higher is better.", None: ""}
    # those of further judges mean the same
    meanings = "".join(
        f"<dt>{escape(column.heading)}</dt><dd>{escape(column.meaning)}{good[column.better]}</dd>\n"
        for column in columns_of(sets)
        if plain(column.key) == column.key
    )
    return (
        '<div class="scroll"><table><thead><tr><th scope="col"></th>'
        f"{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
        '<p class="note">A reference is what the best and the worst look like: real pictures, and '
        "the model's own samples. A control mixes the few-shot pictures themselves, as the "
        "strategy mixes their latents; a strategy that is no better than its control has not shown "
        "that the frozen model contributes anything. In brackets are 95% intervals: over images, "
        "the pictures compared with staying the same; of FID, FID∞ and KID by standard errors. A "
        f"dash stands for a figure without meaning there.{_headline(judges_of(results))}</p>\n"
        f"<h3>What the lines mean</h3>\n<dl>{meanings}</dl>\n"
    )


def _headline(judges: Sequence[str]) -> str:
    """Say whose figures those are that name no judge."""
    return f" Where no judge is named, {escape(judges[0])} judged." if len(judges) > 1 else ""


def _interval(column: Column, row: Row) -> str:
    bounds = column.bounds(row)
    return f'<span class="interval">{escape(bounds)}</span>' if bounds else ""


def _plots(results: Results) -> str:
    figures = "".join(
        f'<figure><img src="{_data("image/svg+xml", svg(figure))}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
        for caption, figure in run_figures(results)
    )
    if not figures:
        return ""
    return (
        '<p class="note">Blue: the strategy; grey: references; orange: controls. Lines across are '
        f'95% intervals.</p>\n<div class="plots">{figures}</div>\n'
    )


def _costs(results: Results) -> str:
    stages = results.get("stages") or ()
    if not stages:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(stage["name"]))}</th><td>{stage["images"]}</td>'
        f"<td>{stage['evaluations'] or MISSING}</td><td>{stage['seconds']:.1f}</td>"
        f"<td>{_rate(stage['images'], stage['seconds'], cached=stage['cached'])}</td></tr>\n"
        for stage in stages
    )
    total = sum(stage["seconds"] for stage in stages)
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">stage</th>'
        '<th scope="col">images</th><th scope="col">network evaluations an image</th>'
        '<th scope="col">seconds</th><th scope="col">images a second</th></tr></thead>\n'
        f'<tbody>{rows}<tr><th scope="row">all</th><td></td><td></td><td>{total:.1f}</td><td></td>'
        "</tr></tbody></table></div>\n"
    )


def _rate(images: int, seconds: float, *, cached: bool) -> str:
    if cached:
        return "stored before"
    return f"{images / seconds:.1f}" if seconds >= _SHORT else MISSING


def _protocol(results: Results) -> str:
    pairs = [*results["run"].items(), *(results.get("protocol") or {}).items()]
    return (
        '<p class="note">Figures under different protocols are not comparable.</p>'
        f"{_text_table((str(key), str(value)) for key, value in pairs)}"
    )


def _skipped(results: Results) -> str:
    skipped: Sequence[Sequence[object]] = results.get("skipped") or ()
    if not skipped:
        return ""
    return _text_table((str(name), str(reason)) for name, reason in skipped)


def _text_table(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>\n'
        for name, text in pairs
    )
    return f'<table class="text"><tbody>{rows}</tbody></table>\n'


def _warnings(results: Results) -> str:
    warnings = results.get("warnings") or ()
    items = "".join(f"<li>{escape(str(warning))}</li>\n" for warning in warnings)
    return f"<ul>{items}</ul>\n" if items else ""


def _citations() -> str:
    items = "".join(
        f'<li>{escape(text)} <a href="{escape(link)}">{escape(link)}</a></li>\n'
        for text, link in _CITATIONS
    )
    return (
        f"<p>If this page helps your work, please cite the papers behind it:</p><ul>{items}</ul>\n"
    )
