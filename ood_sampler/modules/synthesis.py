"""Map latents to images."""

from torch import Tensor

from ood_sampler.codecs.base import Codec
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers.base import clip
from ood_sampler.modules.prediction import Batch, CodecStage, OnNonFinite

SAMPLE = "sample"


class Synthesis(CodecStage):
    """Decode latents of one level to images in $[-1, 1]$.

    Args:
        codec: the frozen model.
        level: of the latents.
        eta: noise of decoding: 0 deterministic, 1 DDPM.
        clip_x_0: clip every denoised image; correct only from pure noise.
        seed: of the noise added if `eta` > 0.
        on_nonfinite: whether NaN or infinity ends the stage, or is stored.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        level: int,
        eta: float,
        clip_x_0: bool,
        seed: int,
        on_nonfinite: OnNonFinite = "raise",
    ) -> None:
        super().__init__(codec)
        self.level = level
        self.eta = eta
        self.clip_x_0 = clip_x_0
        self.seed = seed
        self.on_nonfinite = on_nonfinite

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, z = batch
        noise = SampleNoise(self.seed, indices, stream=Stream.DECODE)
        x_0 = self.codec.decode(z, self.level, eta=self.eta, noise=noise, clip_x_0=self.clip_x_0)
        if self.on_nonfinite == "raise":
            self.check_finite(x_0, indices, SAMPLE)
        return {"images": clip(x_0)}
