import pytest
import torch

from ood_sampler.codecs.pixels import PixelCodec


def test_latents_are_the_images_themselves() -> None:
    codec = PixelCodec((3, 4, 4))
    x_0 = torch.rand(2, 3, 4, 4)
    latents = codec.encode(x_0, [0, 7])
    assert list(latents) == [0, 7]
    assert all(torch.equal(z, x_0) for z in latents.values())
    assert torch.equal(codec.decode(x_0, 0), x_0)
    assert codec.shape(0) == (3, 4, 4)
    assert codec.encoding_evaluations([0]) == codec.decoding_evaluations(0) == 0
    assert not codec.networks
    assert codec.schedule is None


def test_there_is_no_noise_to_decode_with() -> None:
    codec = PixelCodec((3, 4, 4))
    codec.check([0])
    with pytest.raises(ValueError, match=r"decode\.eta must be 0 without a model, got 0\.5"):
        codec.check([0], eta=0.5)
