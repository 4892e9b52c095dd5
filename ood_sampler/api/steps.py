"""The steps of a run, each from memory to memory: invert, draw, decode."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.api.images import Images
from ood_sampler.api.loading import LoadedModel
from ood_sampler.api.surroundings import apart
from ood_sampler.codecs.base import Codec
from ood_sampler.data.domain import ImageSet, TensorImages
from ood_sampler.modules.inversion import Inversion
from ood_sampler.modules.prediction import Stage
from ood_sampler.modules.synthesis import Synthesis
from ood_sampler.pipeline.keys import label, taken
from ood_sampler.pipeline.pipeline import check_codec
from ood_sampler.pipeline.settings import Settings
from ood_sampler.pipeline.stages import draw as draw_missing
from ood_sampler.samplers.base import InvertedSet, Sampler
from ood_sampler.store.artifacts import Items
from ood_sampler.store.memory import MemoryArtifact
from ood_sampler.store.node import Computed
from ood_sampler.store.sets import InMemory


@dataclass(frozen=True, eq=False)
class Latents:
    r"""Latents, and all that later steps need to know of them.

    Attributes:
        values: float32, shape $(N, *)$ as `codec.shape(step)` says: that of an image for a model
            of pixels. Of inverted images $x_t = \alpha_t x_0 + \sigma_t \epsilon$ with the noise
            that the model itself sees in them.
        step: $t$, the noise level that they lie at.
        codec: model and solver that they were inverted with and are decoded by.
        made: how they were made, in words.
        images: the few-shot images that were inverted; a strategy may look at them.
        seed: of their draws; None if they were inverted.
    """

    values: Tensor
    step: int
    codec: Codec
    made: str
    images: ImageSet
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.values.shape[1:]))
        return f"<{len(self)} latents of {size}: {self.made}>"

    def replaced(self, values: Tensor, made: str) -> Self:
        """Other latents of the same step and model, as of a strategy of your own.

        Args:
            values: of any number, each of the shape of these.
            made: how, in words.

        Raises:
            ValueError: the shape is another one.

        Example:
            >>> import ood_sampler
            >>> model = ood_sampler.load_model("dog32", "solver=ddim", "solver.steps=2")
            >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=4")
            >>> latents = ood_sampler.invert(model, galaxies.few_shot, step=300)
            >>> latents.replaced(latents.values.mean(0, keepdim=True), "their mean")
            <1 latents of 3x32x32: their mean>
        """
        if values.shape[1:] != self.values.shape[1:]:
            raise ValueError(
                f"values must have shape (N, {', '.join(map(str, self.values.shape[1:]))}), got "
                f"{tuple(values.shape)}"
            )
        return replace(self, values=values.float(), made=made, seed=None)

    @cached_property
    def inverted_set(self) -> InvertedSet:
        """The latents as a strategy takes them."""
        images = taken(self.images)
        return InvertedSet(
            images=Computed(images, torch.no_grad()(self.codec.clean), self.codec.shape(self.step)),
            latents=InMemory(self.values),
            schedule=self.codec.schedule,
            step=self.step,
        )


def invert(model: LoadedModel, images: ImageSet | Tensor, step: int = 500) -> Latents:
    r"""Invert images to the latents of a step, deterministically.

    Each image is carried from clean data along the probability-flow trajectory of the frozen
    model, $d\bar x / ds = \hat\epsilon_\theta$ with $\bar x = x / \alpha$ and
    $s = \sigma / \alpha$ (Song et al., 2021, eq. 14), to the noise level of the step.

    Args:
        model: of `load_model`.
        images: the `few_shot` of a domain, or a tensor in $[-1, 1]$ of the model's resolution,
            shape $(N, 3, R, R)$.
        step: $t$ in 0 to $T - 1$, 999 for most models: small copies the images, large lets the
            model's own domain in.

    Returns:
        A latent for each image, in their order; the same as in a run with these settings.

    Raises:
        ValueError: the step is out of range, the images are of another size, or the network
            returned NaN.

    Example:
        >>> import ood_sampler
        >>> model = ood_sampler.load_model("dog32", "solver=ddim", "solver.steps=4")
        >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=8")
        >>> ood_sampler.invert(model, galaxies.few_shot, step=400)
        <8 latents of 3x32x32: images inverted to t = 400 by dog32>
    """
    images = checked_images(model, images)
    check_codec(model.codec, _settings(step), (), resolution=model.model.resolution)
    names = images.names
    values = computed(
        model,
        "invert",
        lambda at: Inversion(model.codec, at=[int(t) for t in at], names=names),
        images,
        {str(step): MemoryArtifact(len(images), model.codec.shape(step))},
    )
    place = model.codec.place(step)
    made = f"images inverted{f' to {place}' if place else ''} by {model.model.name}"
    made += ", corrected" if model.correction else ""
    return Latents(values, step, model.codec, made, images)


def draw(sampler: Sampler, latents: Latents, count: int, *, seed: int = 0) -> Latents:
    r"""Fit a strategy to inverted latents and draw new ones.

    Args:
        sampler: the strategy, one of the classes of this package (`CogSampler(references=3)`) or
            of your own (a subclass of `Sampler`); its docstring has the equation.
        latents: of `invert`.
        count: latents to draw, at least 1.
        seed: of the draws, in $[0, 2^{63})$: latent $i$ depends on (seed, $i$) and the inverted
            latents, not on `count`.

    Returns:
        New latents of the same step; the same as in a run with these settings.

    Raises:
        ValueError: there are too few latents for the strategy, it does not fit the step, or it
            needs latents of the model's own domain, which `ood_sampler.run` makes.

    Example:
        >>> import ood_sampler
        >>> model = ood_sampler.load_model("dog32", "solver=ddim", "solver.steps=4")
        >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=8")
        >>> latents = ood_sampler.invert(model, galaxies.few_shot, step=400)
        >>> ood_sampler.draw(ood_sampler.CogSampler(references=3), latents, 5, seed=1)
        <5 latents of 3x32x32: cog (3), t = 400, seed 1>
    """
    _settings(latents.step, count=count, seed=seed)
    inverted = latents.inverted_set
    sampler.check(inverted)
    artifact = MemoryArtifact(count, latents.codec.shape(latents.step))
    draw_missing(artifact, sampler, sampler.fit(inverted), inverted, seed=seed)
    parts = (label(sampler), latents.codec.place(latents.step), f"seed {seed}")
    made = ", ".join(filter(None, parts))
    return replace(latents, values=artifact.items, made=made, seed=seed)


def decode(
    model: LoadedModel,
    latents: Latents,
    *,
    eta: float = 0.0,
    clip_x_0: bool = False,
    seed: int | None = None,
) -> Images:
    r"""Decode latents to images with the frozen model.

    The trajectory of `invert` is followed back. With `eta` > 0 each step of DDIM adds noise of
    the standard deviation $\eta \sigma_{t \to s}$ (Song et al., 2021, eq. 16).

    Args:
        model: that the latents were inverted with.
        latents: of `draw`, or of `invert` for a round trip.
        eta: at least 0: 0 is deterministic, 1 adds as much noise as DDPM. Only some solvers can.
        clip_x_0: clip denoised images to $[-1, 1]$ on the way; right from pure noise alone.
        seed: of the noise that `eta` adds; None takes that of the draws.

    Returns:
        An image for each latent, in $[-1, 1]$; the same as in a run with these settings.

    Raises:
        ValueError: the latents are of another model, solver or flow, the solver cannot add noise,
            or the network returned NaN.

    Example:
        >>> import ood_sampler
        >>> model = ood_sampler.load_model("dog32", "solver=ddim", "solver.steps=4")
        >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=8")
        >>> latents = ood_sampler.invert(model, galaxies.few_shot, step=400)
        >>> ood_sampler.decode(model, latents)
        <8 images of 3x32x32: images inverted to t = 400 by dog32, decoded>
    """
    if model.codec.identity != latents.codec.identity:
        raise ValueError(
            "latents must be decoded by the model and solver that they were inverted with, "
            f"{latents.codec.label}, along the same flow, got {model!r}"
        )
    seed = (latents.seed or 0) if seed is None else seed
    settings = replace(_settings(latents.step, eta=eta, seed=seed), clip_x_0=clip_x_0)
    check_codec(model.codec, settings, (), resolution=model.model.resolution)
    side = model.model.resolution
    values = computed(
        model,
        "decode",
        lambda _: Synthesis(model.codec, level=latents.step, eta=eta, clip_x_0=clip_x_0, seed=seed),
        Items(InMemory(latents.values)),
        {"images": MemoryArtifact(len(latents), (model.model.channels, side, side))},
    )
    noise = f" with eta = {eta:g}" if eta else ""
    return Images(values, f"{latents.made}, decoded{noise}", model, latents.seed)


def checked_images(model: LoadedModel, images: ImageSet | Tensor) -> ImageSet:
    """Take a tensor as a set of images, and refuse images of another size than the model's.

    Raises:
        ValueError: there are none, or they are of another size.
    """
    if isinstance(images, Tensor):
        names = [str(number) for number in range(len(images))]
        images = TensorImages(images, names, resolution=model.model.resolution)
    if not len(images):
        raise ValueError("images must be at least one, got none")
    expected = (model.model.channels, model.model.resolution, model.model.resolution)
    if tuple(images[0].shape) != expected:
        raise ValueError(
            f"images must have the shape {expected} of those of {model.model.name}, got "
            f"{tuple(images[0].shape)}: load_domain(..., 'data.resolution={expected[1]}') resizes "
            "them"
        )
    return images


def computed(
    model: LoadedModel,
    title: str,
    stage: Callable[[Sequence[str]], Stage],
    items: Dataset[Tensor],
    artifacts: Mapping[str, MemoryArtifact],
) -> Tensor:
    """The results of a stage with one output."""
    with apart():
        model.session.compute(title, stage, items, artifacts, batch_size=model.batch_size)
    (artifact,) = artifacts.values()
    return artifact.items


def _settings(step: int, *, eta: float = 0.0, count: int = 1, seed: int = 0) -> Settings:
    """The numbers of a run, which refuse what is out of range."""
    return Settings(
        step=step, eta=eta, clip_x_0=False, num_samples=count, seed=seed, batch_size=None
    )
