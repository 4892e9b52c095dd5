"""The keys of a run and of a training: their types and what they mean.

Values stand in `conf/`. A key below a `_target_` is a parameter of what that names, which has its
type and its meaning; the others are declared here. Hydra validates the blocks of keys: they are in
its `ConfigStore` (`ood_sampler.command`) and named in the defaults of `conf/*.yaml`. `Run` and
`Training` are not, as a structured root refuses groups of a user's own, `+key=value` and `~group`;
their keys are checked with the command (`ood_sampler.command.checking`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ood_sampler.names import register

_PACKAGED = Path(__file__).parent / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "conf"
"""The files of the configuration: inside an installed package, beside the package in a checkout."""


@dataclass
class Inversion:
    """Block `inversion` of a run.

    Attributes:
        step: noise level t of the latents, 0 to T-1: small copies, large lets the model's own
            domain in; auto: the best of search.steps
        noised_moves: moves from clean data on that noise replaces (TABA): latents keep less of the
            structure of their images; 0 none
    """

    # OmegaConf 2.3 knows no Literal
    step: int | str = field(metadata={"words": ("auto",)})
    noised_moves: int


@dataclass
class Draw:
    """Block `draw` of a run.

    Attributes:
        temperature: spread of draws about the mean of the inverted latents, of any strategy: below
            1 more typical and less varied, 1 as the strategy draws
    """

    temperature: float


@dataclass
class Decode:
    """Block `decode` of a run.

    Attributes:
        eta: noise added while decoding: 0 none (deterministic), 1 as much as DDPM
        clip_x_0: clip denoised images to [-1, 1] on the way; not for inverted latents
        shift: steps by which the first move of decoding takes draws to be noisier than they are;
            below 0 less noisy, which leaves more texture
    """

    eta: float
    clip_x_0: bool
    shift: int


@dataclass
class Measure:
    """Block `measure` of a run.

    Attributes:
        round_trip: few-shot images decoded from their own latents, for PSNR and SSIM; null: all
        in_domain: samples of the model's own domain to compare with, at most num_samples; null:
            as many, with FID, recall and coverage
        film: few-shot images and samples whose way to latents and to images report.html shows as a
            film; 0: none
    """

    round_trip: int | None
    in_domain: int | None
    film: int


@dataclass
class Run:
    """Root of a run.

    Attributes:
        seed: of all draws: sample i depends on (seed, i) and on nothing else
        num_samples: images to make
        batch_size: images per call of the network, no result depends on it; null: 64 at 32x32, at
            256x256 1 on a CPU and 16 on a GPU
        on_nonfinite: NaN or infinity from the network: raise ends the run, skip leaves the image
            out and names it
        dry_run: say what the run will cost (evaluations, time, disk) and stop
        search: of inversion.step=auto and sampler=auto, on a part of the few-shot images
        output: folder of all results; artifacts are shared by all runs below it
        sweep: of -m: the sweep to continue in its folder, last or a folder below output/sweeps;
            null begins a new one
    """

    seed: int
    num_samples: int
    batch_size: int | None
    on_nonfinite: str = field(metadata={"words": ("raise", "skip")})
    dry_run: bool
    inversion: Inversion
    draw: Draw
    decode: Decode
    measure: Measure
    search: Any
    output: str
    sweep: str | None


@dataclass
class TrainingData:
    """Block `data` of a training.

    Attributes:
        root: folder or zip of images of the one domain
        resolution: images are cropped and resized to this side in pixels
    """

    root: str
    resolution: int


@dataclass
class NoiseSchedule:
    """Block `schedule` of a training, with the names that diffusers has for its keys."""

    num_train_timesteps: int
    beta_schedule: str
    beta_start: float
    beta_end: float


@dataclass
class TrainingTrainer:
    """Block `trainer` of a training: arguments of Lightning's trainer, which takes more.

    Attributes:
        precision: 32-true where bfloat16 is slow
    """

    accelerator: str
    devices: int
    precision: str
    log_every_n_steps: int


@dataclass
class Training:
    """Root of a training.

    Attributes:
        name: what the model is called; names the folder of the run
        seed: of the weights, the batches and the noise
        images: images to see before the training ends
        recipe: what is trained, and what comes of it
        network: arguments of diffusers' UNet2DModel, or of the generator
        schedule: written into the scheduler of the saved pipeline
        compile: torch.compile the network: minutes of warm-up, faster steps
        checkpoint_every: training steps between two resume points
        snapshot_every: training steps between two snapshots: averaged weights and a sheet of
            samples
        output: checkpoints, curves, sheets of samples and the finished pipeline folder
    """

    name: str
    seed: int
    images: int
    data: TrainingData
    recipe: Any
    network: Any
    schedule: NoiseSchedule
    module: Any
    trainer: TrainingTrainer
    compile: bool
    checkpoint_every: int
    snapshot_every: int
    output: str


BLOCKS: dict[str, dict[str, type]] = {
    "types/run": {"inversion": Inversion, "draw": Draw, "decode": Decode, "measure": Measure},
    "types/train": {"data": TrainingData, "schedule": NoiseSchedule},
}
"""What `ood_sampler.command` registers with Hydra, by group and name."""

# whoever finds the configuration can resolve it
register()
