"""Film the way of images to their latents, and of latents to images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.recorded import State, Trail, recorded, visited
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers.base import clip
from ood_sampler.modules.prediction import Batch, CodecStage

EDGE = 64
"""Larger frames are averaged to this side, in pixels."""

MOST = 20
"""Frames of a film, at most."""

_END = -1


def frame_steps(codec: Codec, level: int, *, decoding: bool, noised_moves: int = 0) -> list[int]:
    """Steps of the frames of a film; clean data, at the end of decoding, is -1."""
    steps = visited(codec, level, decoding=decoding, noised_moves=noised_moves)
    whole = [*steps, _END] if decoding else [*(s for s in steps if s != level), level]
    if len(whole) <= MOST:
        return whole
    places = torch.linspace(0, len(whole) - 1, MOST).round().long().tolist()
    return [whole[place] for place in places]


class Filming(CodecStage):
    r"""Walk as `Inversion` or `Synthesis` do, and keep frames of the way.

    A frame is $x_t / (1 + \sigma_t)$, so that clean images and pure noise both show most of their
    range, and while decoding also the denoised image $\hat x_0$; clipped to $[-1, 1]$, through the
    autoencoder if there is one, shape $(B, F, C, h, w)$ or $(B, F, 2, C, h, w)$. The last frame of
    decoding is the image itself, twice.

    Args:
        codec: the frozen model.
        level: of the latents.
        decoding: from latents to images; else the other way.
        eta: noise of decoding.
        clip_x_0: as in decoding.
        seed: of the noise of decoding.
        noised_moves: moves of inversion from clean data on that noise replaces.
        noise: streams of some images while inverting; needed if `noised_moves` > 0.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        level: int,
        decoding: bool,
        eta: float = 0.0,
        clip_x_0: bool = False,
        seed: int = 0,
        noised_moves: int = 0,
        noise: Callable[[Sequence[int]], SampleNoise] | None = None,
    ) -> None:
        trail = Trail()
        super().__init__(recorded(codec, trail))
        self.trail = trail
        self.steps = frame_steps(codec, level, decoding=decoding, noised_moves=noised_moves)
        self.level = level
        self.decoding = decoding
        self.eta = eta
        self.clip_x_0 = clip_x_0
        self.seed = seed
        self.noised_moves = noised_moves
        self.noise = noise

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, items = batch
        self.trail.states.clear()
        walk = self._decoded if self.decoding else self._inverted
        return {"frames": walk(indices, items)}

    def _inverted(self, indices: Sequence[int], x_0: Tensor) -> Tensor:
        latents = (
            self.codec.encode(x_0, [self.level])
            if self.noise is None
            else self.codec.encode(
                x_0, [self.level], noised_moves=self.noised_moves, noise=self.noise(indices)
            )
        )
        z = latents[self.level]
        self.trail.states[self.level] = State(z, z)
        return torch.stack([self._noisy(step) for step in self.steps], 1)

    def _decoded(self, indices: Sequence[int], z: Tensor) -> Tensor:
        noise = SampleNoise(self.seed, indices, stream=Stream.DECODE)
        x_0 = self.codec.decode(z, self.level, eta=self.eta, noise=noise, clip_x_0=self.clip_x_0)
        frames = [
            torch.stack(
                [self._noisy(step), _shown(self._image(self.trail.states[step].x_0_hat))], 1
            )
            for step in self.steps[:-1]
        ]
        last = _shown(x_0)
        return torch.stack([*frames, torch.stack([last, last], 1)], 1)

    def _noisy(self, step: int) -> Tensor:
        schedule = self.codec.schedule
        # a codec with a trail has a schedule
        _, sigma = (1.0, 0.0) if schedule is None else schedule.scales(step)
        return _shown(self._image(self.trail.states[step].x_t / (1 + sigma)))

    def _image(self, state: Tensor) -> Tensor:
        """Show a state as an image: itself, or decoded by the autoencoder."""
        autoencoder = self.codec.networks.get("autoencoder")
        if autoencoder is None:
            return state
        image: Tensor = autoencoder.decode(state)  # type: ignore[operator]
        return image


def _shown(images: Tensor) -> Tensor:
    """Clip, average large images, and show what is not finite as grey."""
    small = images if images.shape[-1] <= EDGE else adaptive_avg_pool2d(images, EDGE)
    return clip(small).nan_to_num(0.0)
