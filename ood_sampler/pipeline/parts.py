"""The parts of a run: model, images, strategy, numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.data.domain import TargetDomain
from ood_sampler.diffusion.noise import Stream
from ood_sampler.metrics.judges import Judges
from ood_sampler.models.base import Model
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.keys import configuration, label
from ood_sampler.pipeline.session import Session
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.lerp import LerpSampler
from ood_sampler.store.sets import TensorSet


@dataclass(frozen=True, eq=False)
class Parts:
    """What a run is made of, before any of its nodes.

    Attributes:
        model: the frozen model.
        codec: the model as a map between images and latents.
        domain: few-shot and held-out images.
        sampler: the strategy.
        judges: feature spaces and metrics.
        settings: the numbers of the run.
        session: where and how nodes are made.
        also: further steps for which the inversion keeps latents, for a sweep.
        correction: of the flow along which few-shot images are inverted and samples decoded; None
            takes the flow of the model.
        inversion_stream: randomness of inversion, another one for another set of images.
        own_codec: makes images of the model's own domain; None takes `codec`.
    """

    model: Model
    codec: Codec
    domain: TargetDomain
    sampler: Sampler
    judges: Judges
    settings: Settings
    session: Session
    also: Sequence[int] = ()
    correction: GaussianCorrection | None = None
    inversion_stream: Stream = Stream.INVERT
    own_codec: Codec | None = None

    @property
    def title(self) -> str:
        """Strategy, step, noises and correction, to tell samples of several runs apart."""
        if not self.codec.stored:
            return f"{label(self.sampler)} in pixels"
        moves = self.settings.noised_moves
        noised = f", noised moves = {moves}" if moves else ""
        about = f"{noised}{self.settings.about_decoding}"
        at = self.codec.place(self.settings.step)
        made = f"{label(self.sampler)}{f', {at}' if at else ''}{about}"
        return f"{made}, {self._correction}" if self._correction else made

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image, $(C, H, W)$."""
        return (self.model.channels, self.model.resolution, self.model.resolution)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent at the run's step."""
        return self.codec.shape(self.settings.step)

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        return self.settings.batch_size or self.session.images_per_pass(self.model.resolution)

    @cached_property
    def controls(self) -> list[Self]:
        """The same linear combinations of images instead of latents, without a model."""
        controls: list[Sampler] = [LerpSampler(), CogSampler(references=2)]
        known = [configuration(control) for control in controls]
        if self.sampler.mixes and configuration(self.sampler) not in known:
            controls.append(self.sampler)
        few_shot = len(self.domain.few_shot)
        return [self.in_pixels(c) for c in controls if few_shot >= c.minimum_images]

    def in_pixels(self, sampler: Sampler) -> Self:
        """The control of a strategy: its run on the images themselves, as it draws by itself."""
        return replace(
            self,
            codec=PixelCodec(self.image_shape),
            own_codec=self.own_codec or self.codec,
            sampler=sampler,
            settings=replace(
                self.settings,
                step=0,
                eta=0.0,
                noised_moves=0,
                temperature=1.0,
                shift=0,
                clip_x_0=False,
            ),
            also=(),
            correction=None,
        )

    @property
    def correction_weight(self) -> float:
        """Weight of the correction, 0 without one."""
        return 0.0 if self.correction is None else self.correction.weight

    @property
    def is_corrected(self) -> bool:
        """Whether the flow differs from the model's own."""
        return self.correction_weight > 0

    @property
    def is_of_few_shot(self) -> bool:
        """Whether the latent of an image depends on the other few-shot images, or on its place."""
        noised = self.settings.noised_moves > 0
        return self.is_corrected or noised or not self.model.has_own_domain

    @property
    def _correction(self) -> str:
        """What tells stages along the corrected flow from others."""
        return f"correction {self.correction_weight:g}" if self.is_corrected else ""

    @property
    def with_model(self) -> Self:
        """The run whose codec is that of the model, also for a control in pixels."""
        if self.own_codec is None:
            return self
        return replace(self, codec=self.own_codec, own_codec=None)

    @property
    def plain(self) -> Self:
        """The same run along the flow of the model."""
        return replace(self, correction=None) if self.is_corrected else self

    def finite(
        self, items: TensorSet, what: str, names: Sequence[object] | None = None
    ) -> list[int]:
        """Indices of the finite items (`Session.finite`)."""
        return self.session.finite(items, what, names, on_nonfinite=self.settings.on_nonfinite)
