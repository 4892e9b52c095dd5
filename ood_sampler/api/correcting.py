"""Correct the flow of a loaded model by the Gaussian of few-shot images."""

from dataclasses import replace

from hydra.utils import instantiate
from torch import Tensor

from ood_sampler.api.configuration import composed
from ood_sampler.api.loading import LoadedModel
from ood_sampler.api.steps import checked_images, computed
from ood_sampler.api.surroundings import apart
from ood_sampler.codecs.corrected import GivenGaussian, corrected
from ood_sampler.command.values import expand_home
from ood_sampler.data.domain import ImageSet
from ood_sampler.modules.synthesis import Synthesis
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.keys import taken
from ood_sampler.pipeline.stages import draw
from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.store.artifacts import Items
from ood_sampler.store.memory import MemoryArtifact
from ood_sampler.store.sets import Empty, InMemory, TensorSet

_SEED = 0
"""Seed of the samples that the model's own Gaussian is fitted to; a run takes the same."""


def correct(model: LoadedModel, images: ImageSet | Tensor, *overrides: str) -> LoadedModel:
    r"""Correct the flow of a model: `correction=gaussian` for `invert`, `draw` and `decode`.

    $$\hat\epsilon_c(x, t) = \hat\epsilon(x, t) + w(t)\,[\hat\epsilon_o(x, t) -
    \hat\epsilon_i(x, t)]$$

    replaces the Gaussian of the model's own domain, $i$, by that of the few-shot images, $o$, in
    its estimate of the noise; `docs/correction.md` explains it. The weights stay frozen.

    Args:
        model: of `load_model`.
        images: the `few_shot` of a domain, or a tensor in $[-1, 1]$ of the model's resolution,
            shape $(N, 3, R, R)$, at least 4.
        overrides: settings of the group `correction` as on the command line:
            `"correction.weight=0.5"`, `"correction.fade=50"`, `"correction.in_domain=64"`. The
            model's own Gaussian is fitted to samples, which are made now, or to the images of
            `"correction.in_domain_root=my/dogs"`.

    Returns:
        The same model along the corrected flow. Latents that it inverted are decoded by it alone.

    Raises:
        ValueError: a setting is not known or out of range, there are too few images, they are of
            another size, or the model has no score to correct or is corrected already.
        FileNotFoundError: `correction.in_domain_root` does not exist.

    Example:
        >>> import ood_sampler
        >>> model = ood_sampler.load_model("dog32", "solver=ddim", "solver.steps=4", "trainer=cpu")
        >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=8")
        >>> corrected = ood_sampler.correct(model, galaxies.few_shot, "correction.in_domain=8")
        >>> ood_sampler.invert(corrected, galaxies.few_shot, step=400)
        <8 latents of 3x32x32: images inverted to t = 400 by dog32, corrected>
    """
    if model.correction is not None:
        raise ValueError(f"model must be one of load_model, got {model!r}: it is corrected already")
    images = checked_images(model, images)
    with apart():
        resolution = f"correction.resolution={model.model.resolution}"
        cfg = composed(["correction=gaussian", *overrides, resolution])
        expand_home(cfg)
        correction: GaussianCorrection = instantiate(cfg.correction)
    codec = model.codec
    if codec.schedule is not None:
        correction.check(len(images), T=codec.schedule.T)
    target = GivenGaussian(correction.fit(codec, taken(images)))
    pictures = correction.pictures
    samples = _samples(model, correction.in_domain) if pictures is None else taken(pictures)
    own = GivenGaussian(correction.fit(codec, samples))
    flow = corrected(codec, target, own, weight=correction.weight, fade=correction.fade)
    return replace(model, codec=flow, correction=correction)


def _samples(model: LoadedModel, count: int) -> TensorSet:
    """Samples of the model, along its own flow."""
    codec, level = model.codec, model.codec.last_level
    shape, side = codec.shape(level), model.model.resolution
    noise = MemoryArtifact(count, shape)
    empty = InvertedSet(Empty(shape), Empty(shape), codec.schedule, level)
    draw(noise, StandardSampler(), {}, empty, seed=_SEED)
    values = computed(
        model,
        "in-domain",
        lambda _: Synthesis(codec, level=level, eta=0.0, clip_x_0=True, seed=_SEED),
        Items(InMemory(noise.items)),
        {"images": MemoryArtifact(count, (model.model.channels, side, side))},
    )
    return InMemory(values)
