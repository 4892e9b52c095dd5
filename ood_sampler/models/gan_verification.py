"""Check that the weights of a generator do what trained ones do."""

import time
from dataclasses import dataclass, replace

import torch

from ood_sampler.codecs.gan import PRIOR, GanCodec, prior_codes
from ood_sampler.metrics.features import EmbeddedFeatures, read_reference
from ood_sampler.metrics.kernel import jackknife
from ood_sampler.models.gan import GanModel
from ood_sampler.models.verification import psnr, smooth_pictures

DIFFERENT = 0.5
"""Strangeness below which weights count as trained; random weights have about 1."""

_LEVEL = PRIOR + 1
_RECOVERED, _STEPS = 4, 100
_SAMPLES = 100


@dataclass(frozen=True)
class Recovery:
    """Round trips of a generator's own images.

    Attributes:
        images: how many.
        psnr: peak signal-to-noise ratio in dB, from the mean square of all.
        evaluations: of the generator, for each image.
        seconds: of all.
    """

    images: int
    psnr: float
    evaluations: int
    seconds: float


def recovered(model: GanModel) -> Recovery:
    """Invert a few of the generator's own images in w, by pixels alone, and decode them."""
    fitting = replace(model.fitting, steps=_STEPS, starts=1, pixels=1.0, features=0.0)
    codec = GanCodec(model, "w", fitting)
    x_0 = codec.decode(prior_codes(model.generator, _RECOVERED), _LEVEL)
    start = time.perf_counter()
    decoded = codec.decode(codec.encode(x_0, [_LEVEL])[_LEVEL], _LEVEL)
    seconds = time.perf_counter() - start
    rmse = float((decoded - x_0).square().mean().sqrt())
    return Recovery(_RECOVERED, psnr(rmse), codec.encoding_evaluations([_LEVEL]) + 1, seconds)


@torch.no_grad()
def strangeness(model: GanModel) -> float | None:
    """KID of samples to the model's own domain, over that of smooth synthetic images.

    None if no features of its domain are known.
    """
    extractor = EmbeddedFeatures()
    file = model.in_domain_file(extractor.name)
    if file is None:
        return None
    real = read_reference(file, extractor)
    made = model.generator.synthesize(prior_codes(model.generator, _SAMPLES)).clamp(-1, 1)
    smooth = smooth_pictures(_SAMPLES, channels=model.channels, resolution=model.resolution)
    found, least = (float(jackknife(extractor(x), real).value) for x in (made, smooth))
    return found / least


def report(model: GanModel) -> tuple[str, str]:
    """Check a generator.

    Returns:
        What was found, and what is wrong with the weights: empty if they are trained.
    """
    generator, strange = model.generator, strangeness(model)
    checksums = [f"{sha256}  {part}" for part, sha256 in model.files.checksums.items()]
    parameters = sum(parameter.numel() for parameter in generator.parameters()) / 1e6
    trip = recovered(model)
    is_trained = strange is None or strange < DIFFERENT
    judged = "no features of its own domain to compare with"
    if strange is not None:
        verdict = "trained weights" if is_trained else "NOT what trained weights do"
        judged = (
            f"{strange:.2f} times as far from its own domain, by KID of features32, as smooth "
            f"synthetic images: {verdict}"
        )
    lines = {
        "model": model.name,
        "weights": str(model.files.folder),
        "SHA-256": f"\n{'':<12}".join(checksums),
        "images": f"{model.channels}x{model.resolution}x{model.resolution}",
        "codes": f"w of {generator.width}, w+ of {generator.layers}x{generator.width}",
        "parameters": f"{parameters:.2f} M",
        "round trip": f"PSNR {trip.psnr:.1f} dB: {trip.images} of its own images inverted and "
        f"decoded, {trip.evaluations} evaluations each, {trip.seconds:.1f} s",
        "samples": judged,
    }
    fault = (
        f"error: the weights of model {model.name} in {model.files.folder} are not what trained "
        f"ones are: {strange:.2f}, that of trained weights below {DIFFERENT}\n"
    )
    text = "".join(f"{key:<12}{value}\n" for key, value in lines.items())
    return text, "" if is_trained else fault
