import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ood_sampler.models.finetuned import FineTunedModel
from ood_sampler.models.frozen import FrozenModel, checksum

FIXTURES = Path(__file__).parent / "fixtures" / "guided_diffusion"


def base() -> FrozenModel:
    """A checkpoint file of another code base."""
    architecture = json.loads((FIXTURES / "arch.json").read_text())
    return FrozenModel(
        name="dogs",
        path=str(FIXTURES / "checkpoint.pt"),
        resolution=32,
        architecture={section: architecture[section] for section in ("format", "model")},
        in_domain_features={"features32": "features32/dogs.safetensors"},
    )


def tuned(folder: Path, *, scale: float, model: FrozenModel | None = None) -> FineTunedModel:
    model = model or base()
    state = model.denoiser.network.state_dict()  # type: ignore[union-attr, operator]
    weights = folder / f"{scale}.safetensors"
    save_file({name: scale * weight for name, weight in state.items()}, weights)
    return FineTunedModel(model, weights)


def test_it_is_its_base_with_other_weights(tmp_path: Path) -> None:
    model = base()
    before = checksum(model.denoiser)
    made = tuned(tmp_path, scale=0.5, model=model)
    for ours, theirs in zip(made.denoiser.parameters(), model.denoiser.parameters(), strict=True):
        assert torch.equal(ours, 0.5 * theirs)
        assert not ours.requires_grad
    assert checksum(model.denoiser) == before
    assert made.denoiser is made.denoiser
    assert made.name == "dogs, fine-tuned"
    assert (made.resolution, made.channels, made.schedule.T) == (32, 3, 1000)
    assert made.in_domain_file("features32") == model.in_domain_file("features32")
    assert made.in_domain_file("inception") is None


def test_unchanged_weights_make_the_same_denoiser(tmp_path: Path) -> None:
    made = tuned(tmp_path, scale=1.0)
    assert checksum(made.denoiser) == checksum(base().denoiser)
    assert made.digest != base().digest


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    digests = {tuned(tmp_path, scale=scale).digest for scale in (0.5, 0.25)}
    assert len(digests | {base().digest}) == 3
    assert tuned(tmp_path, scale=0.5).digest in digests


def test_missing_and_foreign_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _ = FineTunedModel(base(), tmp_path / "none.safetensors").digest
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="it lacks"):
        _ = FineTunedModel(base(), foreign).denoiser
