r"""MMD guidance against the same samples without it, on `dog32`.

    python -m experiments.guidance.measure --folder cat=cifar10/train/cat.zip \
        --own cifar10/train/dog.zip > table.md

While decoding, a group of samples is moved down the gradient of its kernel distance to the few-shot
images (Mahdizadeh Sani et al., 2026, *MMD Guidance*). Images are stored below `--output`, from
where an interrupted measurement continues.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.data.domain import TargetDomain, embedded_domain, folder_domain
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers import MultistepSolver
from ood_sampler.diffusion.solvers.base import clip
from ood_sampler.metrics.authenticity import authenticity
from ood_sampler.metrics.features import EmbeddedFeatures, unit_size
from ood_sampler.metrics.imagenet import ImageNetFeatures
from ood_sampler.metrics.judges import Judges
from ood_sampler.metrics.kernel import between_pairs, jackknife, mean_variance, within_pairs
from ood_sampler.metrics.near_copies import near_copies
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.modules.trainer import hush_lightning, lightning_trainer
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.keys import taken
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.session import Session
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.white import WhiteSampler
from ood_sampler.store.files import save_state

GROUP = 64
"""Samples that repel each other: those of the numbers 64 k to 64 k + 63."""

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Guidance:
    r"""One way to guide.

    Attributes:
        space: of the features: `features32`, or `pixels` as the paper's own code has it.
        weight: $w$; 0 is no guidance.
        through: whether the gradient goes back through the network, to $x_t$, and not to
            $\hat x_0$ alone.
    """

    space: str = "features32"
    weight: float = 0.0
    through: bool = False

    @property
    def name(self) -> str:
        """Short and unique."""
        if not self.weight:
            return "none"
        return f"{self.space}{' through the network' if self.through else ''}, w = {self.weight:g}"


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    r"""$\mathrm{mean}\, k(x, x') - 2\, \mathrm{mean}\, k(x, y)$, $k(a, b) = (a^\top b / D + 1)^3$.

    The squared kernel distance of two sets but for its term of `y` alone; the mean over pairs of
    `x` includes those of a vector with itself, as in the paper.
    """
    width = x.shape[1]
    own, other = ((x @ z.T / width + 1) ** 3 for z in (x, y))
    return own.mean() - 2 * other.mean()


class GuidedDenoiser(Denoiser):
    r"""A denoiser whose estimate is moved towards a set of references; a batch is a group.

    $$\hat x_0' = \hat x_0 - w \sigma_t \lVert \hat x_0 \rVert \, g / \lVert g \rVert, \qquad
    g = \nabla\, \mathrm{MMD}^2(\phi(\hat x_0), \phi(\text{references})),$$

    for each image, so that $\hat\epsilon' = \hat\epsilon + w \alpha_t \lVert \hat x_0 \rVert g /
    \lVert g \rVert$. The paper's code moves $x_s$ by $\alpha \lVert x_s \rVert$ after each of 1,000
    DDPM moves; a move of $\hat x_0$ is the same whatever the solver's grid, and $\sigma_t$ lets
    it fall to 0 at clean data, where it would stay in the image.
    """

    def __init__(
        self, denoiser: Denoiser, features: Features, references: Tensor, guidance: Guidance
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.features = features
        self.references = references
        self.guidance = guidance

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        if not self.guidance.weight:
            return self.denoiser.eps(x_t, t)
        alpha, sigma = self.schedule.scales(int(t))
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_(self.guidance.through)
            eps = self.denoiser.eps(x_t, t)
            x_0 = ((x_t - sigma * eps) / alpha).clamp(-1, 1)
            at = x_t if self.guidance.through else x_0.detach_().requires_grad_()
            (gradient,) = torch.autograd.grad(squared_mmd(self.features(x_0), self.references), at)
        norms = [x.detach().flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for x in (x_0, gradient)]
        size = self.guidance.weight * alpha * norms[0] / norms[1].clamp(min=1e-12)
        guided: Tensor = eps.detach() + size * gradient
        return guided


def features_of(space: str) -> Features:
    """Differentiable features of images."""
    if space == "pixels":
        return lambda images: images.flatten(1)
    network = EmbeddedFeatures().network

    def embedded(images: Tensor) -> Tensor:
        return unit_size(network.features(images) + network.features(images.flip(3)))

    return embedded


@torch.no_grad()
def decoded(run: Pipeline, guidance: Guidance, folder: Path) -> tuple[Tensor, float]:
    """Samples of a run and the seconds that decoding them took."""
    name = f"{run.domain.name}, {run.title}, seed {run.settings.seed}, {guidance.name}"
    file = folder / f"{name}.safetensors"
    if file.exists():
        found = load_file(file)
        return found["images"], float(found["seconds"])
    codec = run.flow
    if not isinstance(codec, DiffusionCodec):
        raise TypeError("the codec must be that of a diffusion model")
    features = features_of(guidance.space)
    few_shot = torch.cat(list(taken(run.domain.few_shot).blocks()))
    denoiser = GuidedDenoiser(codec.model.denoiser, features, features(few_shot), guidance)
    denoiser.to(memory_format=torch.channels_last)
    run.session.obtain(run.draws)
    start, images = time.process_time(), []
    latents = run.draws.output.open().take(range(run.settings.num_samples))
    for group in latents.split(GROUP):
        images.append(clip(codec.solver.decode(denoiser, group, step=run.settings.step)))
    seconds = time.process_time() - start
    save_state(file, {"images": torch.cat(images), "seconds": torch.tensor(seconds)})
    return torch.cat(images), seconds


def judged(samples: Tensor, plain: Tensor, few_shot: Tensor, held_out: Tensor) -> dict[str, float]:
    """What one feature space says of samples, and of their difference to those not guided."""
    kid = jackknife(samples, held_out)
    # the same sample numbers and held-out images: the error is that of the difference
    moved = [
        2 * (within_pairs(x).rows / (len(x) - 1) - between_pairs(x, held_out).rows / len(held_out))
        for x in (samples, plain)
    ]
    columns = [between_pairs(x, held_out).columns / len(x) for x in (samples, plain)]
    variance = mean_variance(moved[0] - moved[1]) + 4 * mean_variance(columns[0] - columns[1])
    return {
        "kid": float(kid.value),
        "standard_error": float(kid.standard_error),
        "difference": float(kid.value - jackknife(plain, held_out).value),
        "difference_error": float(variance.sqrt()),
        "authenticity": float(authenticity(samples, few_shot)),
        "near_copies": float(near_copies(samples, few_shot, held_out).double().mean()),
    }


@torch.no_grad()
def measure(run: Pipeline, ways: Sequence[Guidance], output: Path) -> list[dict[str, Any]]:
    """Rows of one run: a way to guide and a judge each."""
    rows: list[dict[str, Any]] = []
    few_shot, held_out = (part.features for part in (run.few_shot, run.held_out))
    plain: dict[str, Tensor] = {}
    usual = 0.0
    for way in ways:
        images, seconds = decoded(run, way, output / "decoded")
        usual = usual or seconds
        for judge in run.judges:
            found = torch.cat([judge.extractor(block) for block in images.split(64)])
            plain.setdefault(judge.name, found)
            rows.append(
                {
                    "domain": run.domain.name,
                    "samples": run.title,
                    "guidance": way.name,
                    "judge": judge.name,
                    "cost": seconds / usual,
                    **judged(found, plain[judge.name], few_shot[judge.name], held_out[judge.name]),
                }
            )
            sys.stderr.write(f"{json.dumps(rows[-1])}\n")
    return rows


def pipeline_of(
    domain: TargetDomain,
    sampler: Sampler,
    step: int,
    arguments: argparse.Namespace,
    *,
    corrected: bool,
) -> Pipeline:
    """A run whose draws and flow are used."""
    model = FrozenModel(name="dog32", path="dog32", resolution=32)
    trainer = functools.partial(
        lightning_trainer, accelerator="cpu", devices=1, precision="32-true", tf32=False
    )
    return Pipeline(
        model=model,
        codec=model.codec(MultistepSolver(steps=17, power=2)),
        domain=domain,
        sampler=sampler,
        judges=Judges(
            judges=["imagenet", "features32"],
            spaces={"features32": EmbeddedFeatures, "imagenet": ImageNetFeatures},
            collection={},
            pictures={},
            nearest_k=5,
            seed=0,
        ),
        settings=Settings(
            step=step,
            eta=0.0,
            clip_x_0=False,
            num_samples=arguments.samples,
            seed=arguments.seed,
            batch_size=GROUP,
        ),
        session=Session(arguments.output / "artifacts", trainer),
        correction=GaussianCorrection(
            weight=1.0, fade=100, in_domain=256, in_domain_root=arguments.own, resolution=32
        )
        if corrected
        else None,
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row a way to guide, a column a judge."""
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    lines = [
        f"| domain | samples | guidance | cost | {' | '.join(judges)} |",
        "|---" * (4 + len(judges)) + "|",
    ]
    for of in dict.fromkeys((row["domain"], row["samples"], row["guidance"]) for row in rows):
        own = [row for row in rows if (row["domain"], row["samples"], row["guidance"]) == of]
        cells = [*of, f"{own[0]['cost']:.1f}"]
        for row in own:
            cells.append(
                f"{1e3 * row['kid']:.0f} ± {1e3 * row['standard_error']:.0f} "
                f"({1e3 * row['difference']:+.0f} ± {1e3 * row['difference_error']:.0f}); "
                f"{row['authenticity']:.2f}; {100 * row['near_copies']:.1f}"
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ways_of(texts: Sequence[str]) -> list[Guidance]:
    """Read `SPACE:WEIGHT` and `SPACE:WEIGHT:through`; without guidance comes first."""
    made = [Guidance()]
    for text in texts:
        space, weight, *through = text.split(":")
        made.append(Guidance(space, float(weight), through=bool(through)))
    return made


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="NAME=PATH of images of a second domain")
    parser.add_argument("--own", required=True, help="images of the model's own domain")
    parser.add_argument("--domains", nargs="+", default=["galaxy32", "cat"])
    parser.add_argument("--runs", nargs="+", default=["cog", "white"])
    parser.add_argument("--ways", nargs="*", default=["features32:0.1", "features32:0.4"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--few-shot", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path("outputs/guidance"))
    arguments = parser.parse_args()
    hush_lightning()
    counts = {"few_shot": arguments.few_shot, "held_out": arguments.held_out}
    found: dict[str, TargetDomain] = {
        "galaxy32": embedded_domain(name="galaxy32", resolution=32, **counts)
    }
    if arguments.folder:
        name, _, path = arguments.folder.partition("=")
        found[name] = folder_domain(
            name=name,
            root=path,
            resolution=32,
            held_out_root=None,
            seed=0,
            on_error="raise",
            **counts,
        )
    rows: list[dict[str, Any]] = []
    for kind in arguments.runs:
        for name in arguments.domains:
            run = (
                pipeline_of(found[name], CogSampler(3), 500, arguments, corrected=False)
                if kind == "cog"
                else pipeline_of(found[name], WhiteSampler(5, 0.4), 999, arguments, corrected=True)
            )
            run.session.obtain(run.inversion)
            rows += measure(run, ways_of(arguments.ways), arguments.output)
    print(table(rows))


if __name__ == "__main__":
    main()
