"""A user's own parts, through the public command line: a folder of configuration, a Python file.

One of each kind: a strategy, a metric, a feature space, a study, a model that is no diffusion
model, and a frozen diffusion model with a term added to its score. None touches the package.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from ood_sampler.command.arguments import read_command
from ood_sampler.faults import CommandError

MINE = '''
"""Parts of a user's own."""

from dataclasses import dataclass

import torch
from torch import nn

from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.metrics.base import SetMetric
from ood_sampler.metrics.features import FeatureExtractor
from ood_sampler.models.base import ModelInMemory
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.report.columns import Column
from ood_sampler.samplers.base import Sampler
from ood_sampler.studies.base import Measured, Study


class MirrorSampler(Sampler):
    """Inverted latents, flipped left to right."""

    def draw(self, fitted, inverted, noise):
        places = noise.choice(len(inverted.latents), 1)[:, 0]
        return inverted.latents.take(places.tolist()).flip(-1)


class Largest(SetMetric):
    """The largest feature of the samples."""

    sets = ("generated",)

    def figures(self, generated):
        return {"largest": generated.max()}


class MeanColour(FeatureExtractor):
    """Sixteen by sixteen pixels, averaged over colours."""

    name = "grey"
    width = 256
    protocol = "grey pixels"
    digest = "grey"

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 16).flatten(1)


class WordStudy(Study):
    """How many samples are brighter than the mean image?"""

    name = "brightness"
    title = "Brightness"
    headings = (Column("brighter", "brighter", 2),)

    def targets(self, pipeline):
        return [pipeline.inversion, pipeline.samples]

    def measure(self, pipeline):
        images = pipeline.sampled().images
        few_shot = torch.stack(list(pipeline.domain.few_shot[i] for i in range(8)))
        brighter = torch.cat([block.flatten(1).mean(1) for block in images.blocks()])
        share = float((brighter > few_shot.mean()).double().mean())
        return Measured([{**self.about(pipeline), "brighter": share}])

    def conclude(self, rows):
        return [f"{row['domain']}: {row['brighter']:.0%} are brighter." for row in rows]

    def draw(self, rows, pictures):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2, 2))
        figure.subplots().bar(range(len(rows)), [row["brighter"] for row in rows])
        return figure


class RotationCodec(Codec):
    """Images times a random rotation of their pixels: exact, with no network and no steps."""

    def __init__(self, rotation):
        self.rotation = rotation

    identity = {"rotation": 0}
    networks = {}
    last_level = 0

    @property
    def makers(self):
        return (type(self),)

    def shape(self, level):
        return (3, 32, 32)

    def check(self, levels, *, eta=0.0):
        if eta:
            raise ValueError(f"decode.eta must be 0 for a rotation, got {eta}")

    def encode(self, x_0, levels):
        return {t: (x_0.flatten(2) @ self.rotation).unflatten(2, (32, 32)) for t in levels}

    def decode(self, z, level, *, eta=0.0, noise=None, clip_x_0=False):
        return (z.flatten(2) @ self.rotation.T).unflatten(2, (32, 32))

    def encoding_evaluations(self, levels):
        return 1

    def decoding_evaluations(self, level):
        return 1


@dataclass(frozen=True)
class RotationModel(ModelInMemory):
    name: str
    resolution: int
    channels: int = 3
    digest: str = "rotation"

    def codec(self, solver):
        matrix = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
        return RotationCodec(torch.linalg.qr(matrix).Q)


class Brighter(Denoiser):
    """Another denoiser with the score of brighter images added."""

    def __init__(self, denoiser, weight):
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.weight = weight

    def eps(self, x_t, t):
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(x.flatten(1).mean(1).sum(), x)
        sigma = self.schedule.scales(int(t))[1]
        return self.denoiser.eps(x_t, t) - self.weight * sigma * gradient * x_t[0].numel()


@dataclass(frozen=True)
class BrighterModel(ModelInMemory):
    name: str
    resolution: int
    base: FrozenModel
    weight: float

    @property
    def channels(self):
        return self.base.channels

    @property
    def digest(self):
        return f"{self.base.digest} {self.weight}"

    @property
    def latent_shape(self):
        return self.base.latent_shape

    @property
    def schedule(self):
        return self.base.schedule

    @property
    def denoiser(self):
        return Brighter(self.base.denoiser, self.weight)

    def codec(self, solver):
        return DiffusionCodec(self, solver)
'''

CONFIG = {
    "sampler/mirror.yaml": "_target_: mine.MirrorSampler\n",
    "model/rotation.yaml": "_target_: mine.RotationModel\nname: rotation\nresolution: 32\n",
    "model/brighter.yaml": """
        _target_: mine.BrighterModel
        name: brighter
        resolution: 32
        base:
          _target_: ood_sampler.models.frozen.FrozenModel
          name: dog32
          path: dog32
          resolution: 32
        weight: 0.05
        """,
    "metrics/grey.yaml": """
        defaults: [imagenet, _self_]
        judges: [grey]
        spaces: {grey: {_target_: mine.MeanColour, _partial_: true}}
        collection: {largest: {_target_: mine.Largest}}
        """,
    "study/brightness.yaml": "_target_: mine.WordStudy\n",
}
SMALL = {
    "num_samples": 12,
    "measure.in_domain": 12,
    "measure.round_trip": 4,
    "measure.film": 0,
    "data.few_shot": 12,
    "data.held_out": 12,
    "solver": "ddim",
    "solver.steps": 4,
    "solver.power": 1,
    "metrics.nearest_k": 3,
    "logger": "none",
    "trainer": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user works: `mine.py`, and `conf` beside it."""
    place = tmp_path_factory.mktemp("work")
    (place / "mine.py").write_text(MINE)
    for name, text in CONFIG.items():
        file = place / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    return place


def call(folder: Path, output: str, *settings: str, kind: str = "runs") -> Path:
    """The only folder of a run, or with `kind="sweeps"` of a sweep, that a command made."""
    command = [sys.executable, "-m", "ood_sampler.run", "--config-dir=conf"]
    command += [f"{key}={value}" for key, value in SMALL.items()]
    done = subprocess.run(
        [*command, *settings, f"output={output}"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    (found,) = (folder / output / kind).iterdir()
    return found


def results(run: Path) -> Any:  # noqa: ANN401
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_a_strategy_a_metric_a_space_and_a_model_of_a_users_own_make_a_run(folder: Path) -> None:
    run = call(folder, "own", "sampler=mirror", "model=rotation", "metrics=grey")
    found = results(run)
    assert found["run"]["model"] == "rotation"
    assert found["run"]["sampler"] == "mirror"
    strategy = found["rows"][0]
    assert strategy["name"] == "mirror"
    assert strategy["largest"] <= 1
    assert found["protocol"]["judge grey"] == "grey pixels"
    # a rotation is undone exactly, whatever the solver
    assert found["reconstruction"]["psnr"] > 80
    assert len(list((run / "samples").glob("*.png"))) == 12
    assert "grey" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_study_of_a_users_own_sees_a_term_added_to_the_score(folder: Path) -> None:
    settings = ("-m", "model=dog32,brighter", "study=brightness", "metrics=features32")
    sweep = call(folder, "study", *settings, kind="sweeps")
    shares = {}
    for run in (sweep / "0", sweep / "1"):
        (row,) = json.loads((run / "brightness.json").read_text())["rows"]
        shares[row["model"]] = row["brighter"]
        assert (run / "brightness.png").read_bytes().startswith(b"\x89PNG")
    assert shares["brighter"] > shares["dog32"]


def test_a_model_without_a_key_that_others_refer_to_is_refused_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "conf" / "model" / "lacking.yaml").write_text("_target_: mine.RotationModel\n")
    monkeypatch.chdir(folder)
    with pytest.raises(CommandError, match=r"model\.name is not set: a file of model must have it"):
        read_command(["--config-dir=conf", "model=lacking"], name="run").check()
