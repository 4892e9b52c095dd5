"""A run: make its nodes, then describe and measure the images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Self

from torch import Tensor

from ood_sampler.codecs.autoencoder import AutoencoderCodec
from ood_sampler.codecs.base import Codec
from ood_sampler.metrics.attribution import attribution
from ood_sampler.metrics.authenticity import nearest
from ood_sampler.metrics.judges import Described
from ood_sampler.metrics.reconstruction import Reconstruction
from ood_sampler.models.frozen import checksum
from ood_sampler.modules.timing import seconds_per_evaluation
from ood_sampler.pipeline.estimate import Estimate, Network, Work, work_of
from ood_sampler.pipeline.explored import KINDS, explored
from ood_sampler.pipeline.keys import label, taken
from ood_sampler.pipeline.made import Made
from ood_sampler.pipeline.measure import Measure, Row
from ood_sampler.pipeline.outcome import Outcome
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.base import Sampler
from ood_sampler.store.artifacts import check_disk
from ood_sampler.store.node import Computed, Node, reached
from ood_sampler.store.sets import Empty, TensorSet

SMALLEST = 11
"""Least side in pixels that SSIM needs."""


class Pipeline(Made):
    """A run: one frozen model, one target domain, one strategy."""

    def variant(
        self,
        *,
        sampler: Sampler | None = None,
        step: int | None = None,
        eta: float | None = None,
        temperature: float | None = None,
        shift: int | None = None,
    ) -> Self:
        """Copy the run with another strategy or other numbers; None keeps the run's."""
        numbers = {"step": step, "eta": eta, "temperature": temperature, "shift": shift}
        changed = {name: value for name, value in numbers.items() if value is not None}
        settings = replace(self.settings, **changed)  # type: ignore[arg-type]
        chosen = self.sampler if sampler is None else sampler
        return replace(self, sampler=chosen, also=(), settings=settings)

    def check(self) -> None:
        """Check everything that can be checked before work starts.

        Raises:
            ValueError: a step, count, size or strategy does not fit the model or the domain.
            OSError: the disk is too small or not writable.
            FileNotFoundError: weights are missing.
        """
        check_codec(self.codec, self.settings, self.also, resolution=self.model.resolution)
        few_shot, held_out = self.domain.few_shot, self.domain.held_out
        if self.correction is not None and self.codec.schedule is not None:
            self.correction.check(len(few_shot), T=self.codec.schedule.T)
        images = taken(few_shot)
        # a strategy looks at the number and the shape of latents, which are not made yet
        latents = Computed(images, self._blank, self.latent_shape)
        self.sampler.check(self.inverted_set(latents, images))
        self.judges.check(
            {
                "num_samples": self.settings.num_samples,
                "measure.in_domain": self.settings.in_domain_count,
                "data.few_shot": len(few_shot),
                "data.held_out": len(held_out),
            }
        )
        if tuple(few_shot[0].shape) != self.image_shape:
            raise ValueError(
                f"model.channels and model.resolution are {self.image_shape}, images are "
                f"{tuple(few_shot[0].shape)}: this model cannot take them"
            )
        self.in_domain_references({})
        check_disk(self.session.root, self._disk(self.targets))

    def _blank(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), *self.latent_shape)

    def estimate(
        self, targets: Iterable[Node] | None = None, unstored: Sequence[Work] = ()
    ) -> Estimate:
        """Estimate the cost of nodes from two timed forward passes.

        Args:
            targets: the nodes; None takes those of the run.
            unstored: further work.

        Raises:
            ValueError: as `check`, and if the weights do not load.
        """
        self.check()
        targets = self.targets if targets is None else list(targets)
        work = [*work_of(targets), *unstored]
        disk = self._disk(targets)
        check_disk(self.session.root, disk)
        images = max((stage.images for stage in work), default=0)
        batch_size = min(self.batch_size, max(images, 1))
        own = self.plain.network
        evaluated = [stage.network or own for stage in work if stage.evaluations]
        seconds = {
            name: self.seconds_per_evaluation(network, batch_size)
            for name, network in {network.name: network for network in evaluated}.items()
        }
        return Estimate(work, batch_size, seconds.pop(own.name, 0.0), disk, seconds)

    def seconds_per_evaluation(self, network: Network, batch_size: int) -> float:
        """Seconds per image and evaluation of a network, timed once on this machine."""
        codec = network.codec
        return self.session.once(
            ("seconds per evaluation", network.name, batch_size),
            lambda: seconds_per_evaluation(
                codec, codec.last_level, batch_size, trainer=self.session.trainer
            ),
        )

    def run(self) -> Outcome:
        """Compute missing results, and measure."""
        self.check()
        before = self._weights()
        for node in self.inversions:
            self.session.obtain(node)
        # the strategy may refuse the remaining latents
        _ = self.inverted
        originals, reconstructions = self.reconstructed()
        autoencoder = self._autoencoder_alone()
        for node in [] if self.film is None else self.film.nodes:
            self.session.obtain(node)
        samples, own, measure = self.sampled(), self.owned, self.measure
        described = samples.described
        with self.session.recorded("measure", self.settings.num_samples, 0):
            rows = self._rows(described, [each.described for each in own])
            to_few_shot, held_out_to_few_shot = (
                nearest(images.headline, measure.few_shot.headline)
                for images in (described, measure.held_out)
            )
            explained = attribution(
                *(
                    images.thumbnails.flatten(start_dim=1)
                    for images in (described, measure.few_shot)
                )
            )
            reconstruction = compare(originals, reconstructions)
            sets = (described, measure.few_shot, measure.held_out, *(o.described for o in own))
            singles = explored(
                self.judges,
                dict(zip(KINDS, (each.headline for each in sets), strict=False)),
                in_domain=measure.in_domain.get(self.judges.headline.name),
            )
        return Outcome(
            rows=rows,
            reconstruction=reconstruction,
            nearest_distance={
                "samples": to_few_shot.distance.tolist(),
                "held_out": held_out_to_few_shot.distance.tolist(),
            },
            nearest_index=to_few_shot.indices.tolist(),
            near_copies=[bool(found) for found in rows[0].each.get("near_copies_each", ())],
            attribution=explained,
            explored=singles,
            film=self.film,
            stages=self.session.stages,
            images=samples.images,
            numbers=samples.numbers,
            originals=originals,
            reconstructions=reconstructions,
            autoencoder=autoencoder,
            in_domain=own[0].images if own else Empty(self.image_shape),
            left_out=self.session.left_out,
            remarks=self.sampler.remarks(self.fitted),
            weights=(before, self._weights()),
        )

    def _rows(self, described: Described, own: Sequence[Described]) -> list[Row]:
        """The table: the strategy, and all that its samples are compared with."""
        measure = self.measure
        strategy = measure.row(label(self.sampler), "strategy", described)
        compared = [
            (measure.real(), measure.few_shot.first(measure.count)),
            *((measure.own(each), each) for each in own),
        ]
        for control in self.controls:
            mixed = control.sampled().described
            compared.append((measure.row(control.title, "control", mixed), mixed))
        return [strategy, *(measure.above(row, images, described) for row, images in compared)]

    def sample_row(self) -> Row:
        """The row of the strategy."""
        role = "strategy" if self.codec.stored else "control"
        name = label(self.sampler) if self.codec.stored else self.title
        return self.measure.row(name, role, self.sampled().described)

    def references(self) -> list[Row]:
        """The floor and the ceiling: real images, and samples of the model's domain if any."""
        own = [self.measure.own(samples.described) for samples in self.owned]
        return [self.measure.real(), *own]

    @cached_property
    def measure(self) -> Measure:
        """The sets that images are measured against."""
        return Measure(
            judges=self.judges,
            root=self.session.root,
            few_shot=self.few_shot,
            held_out=self.held_out,
            in_domain=self.in_domain_features,
            count=self.settings.num_samples,
        )

    def _autoencoder_alone(self) -> dict[str, list[float]]:
        """Reconstruction errors of the autoencoder alone, if there is one."""
        if not isinstance(self.codec, AutoencoderCodec):
            return {}
        settings = replace(self.settings, step=0, eta=0.0, noised_moves=0)
        alone = replace(self, codec=self.codec.floor, settings=settings, also=(), correction=None)
        return compare(*alone.reconstructed())

    def _weights(self) -> str:
        """Checksum of the networks in memory."""
        return " ".join(checksum(network) for network in self.codec.networks.values())

    def _disk(self, targets: Iterable[Node]) -> int:
        """Bytes still to write: images and latents as float32, features, files of the run."""
        # a byte per value as PNG; physical units go to samples.npy and samples.fits
        scale = self.domain.scale
        each = 1 if scale is None else 1 + 2 * scale.dtype.itemsize
        stored: int = sum(
            output.missing_bytes() for node in reached(targets) for output in node.outputs.values()
        )
        return stored + each * self.settings.num_samples * math.prod(self.image_shape)


def compare(originals: TensorSet, reconstructions: TensorSet) -> dict[str, list[float]]:
    """MSE, PSNR and SSIM of reconstructed images, one value per image."""
    metric = Reconstruction()
    for x, x_0 in zip(reconstructions.blocks(), originals.blocks(), strict=True):
        metric.update(x, x_0)
    scores = metric.compute()
    return {name: value.reshape(-1).tolist() for name, value in scores._asdict().items()}


def check_codec(codec: Codec, settings: Settings, also: Sequence[int], *, resolution: int) -> None:
    """Check everything that can be checked without data.

    Raises:
        ValueError: a step or the grid does not fit the model's chain, the solver cannot decode with
            this eta, a model without steps is given a setting of them, or images are too small.
        FileNotFoundError: weights are missing.
    """
    codec.check([settings.step, *also], eta=settings.eta)
    if codec.schedule is None:
        for key in ("inversion.noised_moves", "decode.shift", "decode.clip_x_0"):
            value = getattr(settings, key.rpartition(".")[2])
            if value:
                raise ValueError(
                    f"{key} must be {str(type(value)()).lower()} for a model without steps, got "
                    f"{str(value).lower()}"
                )
    if settings.clip_x_0 and isinstance(codec, AutoencoderCodec):
        raise ValueError(
            "decode.clip_x_0 must be false for latent diffusion, whose codes have no range to clip "
            "to, got true"
        )
    try:
        codec.check([settings.decoding_step] if settings.shift else [])
    except ValueError as error:
        raise ValueError(
            f"decode.shift={settings.shift} leads from step {settings.step} to "
            f"{settings.decoding_step}, where decoding cannot begin: {error}"
        ) from error
    if resolution < SMALLEST:
        raise ValueError(f"model.resolution must be >= {SMALLEST}, got {resolution}")
