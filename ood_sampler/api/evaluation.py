"""Measure images against a domain, from memory to memory."""

from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.api.configuration import composed
from ood_sampler.api.images import Images
from ood_sampler.api.loading import LoadedModel
from ood_sampler.api.surroundings import apart
from ood_sampler.api.table import Table
from ood_sampler.data.domain import ImageSet, TargetDomain
from ood_sampler.metrics.features import read_reference
from ood_sampler.metrics.judges import Described, Judge, Judges, thumbnails
from ood_sampler.modules.features import FeatureExtraction
from ood_sampler.pipeline.keys import taken
from ood_sampler.pipeline.measure import Measure
from ood_sampler.pipeline.session import Session
from ood_sampler.report.progress import StageProgress
from ood_sampler.report.run_columns import columns_of
from ood_sampler.store.artifacts import Items
from ood_sampler.store.memory import MemoryArtifact
from ood_sampler.store.sets import InMemory, TensorSet


def evaluate(
    images: Images | Tensor, domain: TargetDomain, judge: str = "imagenet", *overrides: str
) -> Table:
    r"""Measure images against the few-shot and held-out images of a domain.

    Likeness to the held-out images (FID, KID, precision, recall, density, coverage), novelty
    against the few-shot images (authenticity, near-copies, blend) and variety, in the feature
    space of a judge; `docs/metrics.md` has each equation and what it can see.

    Args:
        images: of `decode`, or a tensor in $[-1, 1]$, shape $(N, 3, R, R)$, of the domain's
            resolution; more than `metrics.nearest_k` = 5 of them.
        domain: of `load_domain`.
        judge: an option of `metrics`: `imagenet` (with `features32` as second opinion),
            `features32`, `inception` or `dinov2`, of which the last two need their weights.
        overrides: further settings of the group as on the command line: `"metrics.nearest_k=3"`,
            `"seed=1"`, `"metrics.spaces.imagenet.size=224"`.

    Returns:
        Two rows: of the images, and of real ones, the few-shot against the held-out images, as many
        as there are images: what to read the first row beside. A metric has the bounds of its 95%
        interval under `<name>_low` and `<name>_high`; KID is stored as it is and shown as $10^3$
        KID. The first row is that of a run with these settings. `captured`, the share
        lost to the model's own domain, needs stored features of that domain: `dog32` and `ship32`
        have them, for other models `ood_sampler.run` makes samples in their place.

    Raises:
        ValueError: there are too few images, they are of another shape or range, or a setting is
            not known.
        FileNotFoundError: the weights of a judge are missing.

    Example:
        >>> import ood_sampler
        >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=16", "data.held_out=32")
        >>> real = ood_sampler.load_domain("galaxy32").held_out
        >>> import torch
        >>> others = torch.stack([real[i] for i in range(100, 116)])
        >>> table = ood_sampler.evaluate(others, galaxies, judge="features32")
        >>> [row["name"] for row in table]
        ['images', 'real images']
        >>> table[0]["kid_low"] < table[0]["kid"] < table[0]["kid_high"]
        True
    """
    made = images if isinstance(images, Images) else Images(_checked(images), "images")
    expected = tuple(domain.held_out[0].shape)
    if tuple(made.values.shape[1:]) != expected:
        raise ValueError(
            f"images must have the shape {expected} of those of {domain.name}, got "
            f"{tuple(made.values.shape[1:])}"
        )
    with apart():
        seed = [] if made.seed is None else [f"seed={made.seed}"]
        cfg = composed([f"metrics={judge}", *seed, *overrides])
        judges: Judges = instantiate(cfg.metrics)
        references = {} if made.model is None else _references(made.model, judges)
        about = {"images": len(made), "few_shot": len(domain.few_shot)}
        judges.check({**about, "held_out": len(domain.held_out)})
        return _table(made, domain, judges, references, _session(made.model, cfg))


def _table(
    made: Images,
    domain: TargetDomain,
    judges: Judges,
    references: dict[str, Tensor],
    session: Session,
) -> Table:
    describe = _Describe(judges, session, session.images_per_pass(made.values.shape[-1]))
    measure = Measure(
        judges=judges,
        root=None,
        few_shot=describe.real("few-shot", domain.few_shot),
        held_out=describe.real("held-out", domain.held_out),
        in_domain=references,
        count=len(made),
    )
    samples = describe.described("images", InMemory(made.values), None)
    real = measure.above(measure.real(), measure.few_shot.first(len(made)), samples)
    rows = [measure.row(made.made, "strategy", samples).as_dict(), real.as_dict()]
    title = f"against {len(domain.held_out)} held-out images of {domain.name}"
    return Table(rows, columns_of(rows), title=f"{title}, judged by {', '.join(judges.names)}")


@dataclass(frozen=True)
class _Describe:
    """Features and thumbnails of images, as a run computes them."""

    judges: Judges
    session: Session
    batch_size: int

    def real(self, name: str, images: ImageSet) -> Described:
        """Describe real images; the session keeps the result for the next call."""
        key = (name, images.digest, *(judge.extractor.digest for judge in self.judges))
        key += tuple(judge.extractor.protocol for judge in self.judges)
        return self.session.once(key, lambda: self.described(name, taken(images), images))

    def described(self, name: str, items: TensorSet, images: Dataset[Tensor] | None) -> Described:
        source = Items(items) if images is None else images
        features = {
            judge.name: self._features(name, judge, source, len(items)) for judge in self.judges
        }
        return Described(features, torch.cat([thumbnails(block) for block in items.blocks()]))

    def _features(self, name: str, judge: Judge, items: Dataset[Tensor], count: int) -> Tensor:
        artifact = MemoryArtifact(count, (judge.extractor.width,))
        self.session.compute(
            f"features of {name}, {judge.name}",
            lambda _: FeatureExtraction(judge.extractor, what=f"{name}, image", names=range(count)),
            items,
            {"features": artifact},
            batch_size=self.batch_size,
        )
        return artifact.items


def _references(model: LoadedModel, judges: Judges) -> dict[str, Tensor]:
    """Stored features of the model's own domain by judge; empty unless all judges have them."""
    found = {}
    for judge in judges:
        file = model.model.in_domain_file(judge.extractor.name)
        if file is None:
            return {}
        found[judge.name] = read_reference(file, judge.extractor)
    return found


def _session(model: LoadedModel | None, cfg: DictConfig) -> Session:
    """The session of the model that made the images, else one of the settings."""
    if model is not None:
        return model.session
    return Session(
        root=Path(),
        trainer=instantiate(cfg.trainer),
        progress=lambda name, images: [StageProgress(name, images)],
    )


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or not images.is_floating_point() or not (images.abs() <= 1).all():
        raise ValueError(
            "images must be floating-point in [-1, 1], of shape (N, 3, R, R), got "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    return images.float()
