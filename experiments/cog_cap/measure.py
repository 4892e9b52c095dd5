"""Near-copies and KID of `cog` against the cap on the share of a latent, on `dog32`.

    python -m experiments.cog_cap.measure --folder cat=cifar10/test/cat.zip > table.md

Weights that several caps let through are the same with all of them: a latent is decoded once, and
rows of a domain differ by the samples that the cap has changed. Images are stored below `--output`,
by their latents, from where an interrupted measurement continues; so does one that is asked for
more samples, caps or domains.
"""

import argparse
import functools
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ood_sampler.data.domain import TargetDomain, embedded_domain, folder_domain
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers import MultistepSolver
from ood_sampler.diffusion.solvers.base import clip
from ood_sampler.metrics.authenticity import authenticity, nearest
from ood_sampler.metrics.features import EmbeddedFeatures
from ood_sampler.metrics.imagenet import ImageNetFeatures
from ood_sampler.metrics.judges import Judges
from ood_sampler.metrics.kernel import jackknife
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.modules.trainer import hush_lightning, lightning_trainer
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.session import Session
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.store.files import digest, save_state
from ood_sampler.store.versions import code_version

CAPS = {
    2: (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.55),
    3: (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4),
    5: (1.0, 0.9, 0.8, 0.6, 0.5, 0.4),
}
"""Numbers of references, and the caps tried with each."""

NEAR = 0.01
"""Share of the held-out images that count as near-copies: all other shares go by theirs."""


def draw(pipeline: Pipeline, references: int, cap: float) -> Tensor:
    """Latents of the samples, shape (N, 3, 32, 32)."""
    inverted = pipeline.inverted
    sampler = CogSampler(references, cap=cap)
    noise = SampleNoise(
        pipeline.settings.seed, range(pipeline.settings.num_samples), stream=Stream.LATENT
    )
    return sampler.draw(sampler.fit(inverted), inverted, noise)


def names_of(latents: Tensor) -> list[str]:
    """Hashes of latents, each computed from its bytes."""
    return [hashlib.sha256(z.contiguous().numpy().tobytes()).hexdigest() for z in latents]


@torch.no_grad()
def decode(pipeline: Pipeline, latents: Tensor) -> dict[str, Tensor]:
    """Decode what is not stored, and give each image by the name of its latent."""
    key = {
        **pipeline.codec.identity,
        "step": pipeline.settings.step,
        "code": code_version(*pipeline.codec.makers),
    }
    folder = pipeline.session.root / f"decoded-{digest(key)[:16]}"
    stored = {
        n: x for file in sorted(folder.glob("*.safetensors")) for n, x in load_file(file).items()
    }
    by_name = dict(zip(names_of(latents), latents, strict=True))
    missing = [name for name in by_name if name not in stored]
    for network in pipeline.codec.networks.values():
        network.to(memory_format=torch.channels_last)
    for start in range(0, len(missing), 64):
        block = missing[start : start + 64]
        z = torch.stack([by_name[name] for name in block])
        images = clip(pipeline.codec.decode(z, pipeline.settings.step))
        made = dict(zip(block, images, strict=True))
        save_state(folder / f"{block[0]}.safetensors", made)
        stored |= made
    return {name: stored[name] for name in by_name}


def judged(samples: Tensor, few_shot: Tensor, held_out: Tensor) -> dict[str, float]:
    """What one feature space says of samples."""
    limit = nearest(held_out, few_shot).distance.quantile(NEAR)
    kid = jackknife(samples, held_out)
    return {
        "near": float((nearest(samples, few_shot).distance < limit).double().mean()),
        "held_out_near": float((nearest(held_out, few_shot).distance < limit).double().mean()),
        "authenticity": float(authenticity(samples, few_shot)),
        "kid": float(kid.value),
        "standard_error": float(kid.standard_error),
    }


def measure(pipeline: Pipeline, references: int, caps: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of one domain and one number of references, a cap and a judge each."""
    drawn = {cap: draw(pipeline, references, cap) for cap in caps}
    images = decode(pipeline, torch.cat(list(drawn.values())))
    place = {name: i for i, name in enumerate(images)}
    rows = []
    few_shot, held_out = (part.features for part in (pipeline.few_shot, pipeline.held_out))
    for judge in pipeline.judges:
        with torch.no_grad():
            blocks = torch.stack(list(images.values())).split(64)
            features = torch.cat([judge.extractor(block) for block in blocks])
        rows += [
            {
                "domain": pipeline.domain.name,
                "references": references,
                "cap": cap,
                "samples": len(latents),
                "judge": judge.name,
                **judged(
                    features[[place[n] for n in names_of(latents)]],
                    few_shot[judge.name],
                    held_out[judge.name],
                ),
            }
            for cap, latents in drawn.items()
        ]
    return rows


def domains(folders: Sequence[str], few_shot: int, held_out: int) -> list[TargetDomain]:
    """Both that ship, and those given."""
    made = [
        embedded_domain(name=name, resolution=32, few_shot=few_shot, held_out=held_out)
        for name in ("galaxy32", "radiation32")
    ]
    for text in folders:
        name, _, path = text.partition("=")
        made.append(
            folder_domain(
                name=name,
                root=path,
                resolution=32,
                few_shot=few_shot,
                held_out=held_out,
                held_out_root=None,
                seed=0,
                on_error="raise",
            )
        )
    return made


def pipeline_of(domain: TargetDomain, arguments: argparse.Namespace) -> Pipeline:
    """The run whose parts are used."""
    model = FrozenModel(name="dog32", path="dog32", resolution=32)
    trainer = functools.partial(
        lightning_trainer, accelerator="cpu", devices=1, precision="32-true", tf32=False
    )
    return Pipeline(
        model=model,
        codec=model.codec(MultistepSolver(steps=arguments.solver_steps, power=2)),
        domain=domain,
        sampler=CogSampler(references=2, cap=1),
        judges=Judges(
            judges=["features32", "imagenet"],
            spaces={"features32": EmbeddedFeatures, "imagenet": ImageNetFeatures},
            collection={},
            pictures={},
            nearest_k=5,
            seed=0,
        ),
        settings=Settings(
            step=arguments.step,
            eta=0.0,
            clip_x_0=False,
            num_samples=arguments.samples,
            seed=0,
            batch_size=None,
        ),
        session=Session(arguments.output / "artifacts", trainer),
    )


def table(rows: Sequence[Mapping[str, Any]], judge: str) -> str:
    """A row a cap, a column a domain: near-copies in %, KID x 10^3, authenticity."""
    rows = [row for row in rows if row["judge"] == judge]
    names = list(dict.fromkeys(row["domain"] for row in rows))
    lines = [f"| references | cap | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    settings = dict.fromkeys((row["references"], row["cap"]) for row in rows)
    for references, cap in settings:
        cells = [str(references), f"{cap:g}"]
        for name in names:
            found = [
                r
                for r in rows
                if (r["domain"], r["references"], r["cap"]) == (name, references, cap)
            ]
            cells.append(_cell(found[0]) if found else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, float]) -> str:
    error = math.sqrt(row["near"] * (1 - row["near"]) / row["samples"])
    return (
        f"{100 * row['near']:.1f} ± {100 * error:.1f}; "
        f"{1e3 * row['kid']:.0f} ± {1e3 * row['standard_error']:.0f}; {row['authenticity']:.2f}"
    )


def main() -> None:
    """Measure what is not measured, then print a table for each judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", action="append", default=[], help="NAME=PATH of images")
    parser.add_argument("--few-shot", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=800)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--step", type=int, default=500)
    parser.add_argument("--solver-steps", type=int, default=17)
    parser.add_argument("--caps", type=float, nargs="+", help="only these of the caps")
    parser.add_argument("--output", type=Path, default=Path("outputs/cog_cap"))
    arguments = parser.parse_args()
    hush_lightning()
    rows: list[dict[str, Any]] = []
    for domain in domains(arguments.folder, arguments.few_shot, arguments.held_out):
        pipeline = pipeline_of(domain, arguments)
        pipeline.session.obtain(pipeline.inversion)
        for references, caps in CAPS.items():
            chosen = [cap for cap in caps if cap in (arguments.caps or caps)]
            rows += measure(pipeline, references, chosen)
            (arguments.output / "rows.json").write_text(json.dumps(rows, indent=1))
            print(domain.name, references, file=sys.stderr, flush=True)
    for judge in dict.fromkeys(row["judge"] for row in rows):
        print(f"\n{judge}\n\n{table(rows, judge)}")


if __name__ == "__main__":
    main()
