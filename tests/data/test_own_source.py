"""A user's own data source: a YAML file in a folder of theirs and a Python file, no more."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate

from ood_sampler.config import CONF
from ood_sampler.data.domain import TargetDomain

SOURCE = '''
import io

import numpy as np
from PIL import Image

from ood_sampler.data.domain import TargetDomain, TensorImages, picture_domain
from ood_sampler.data.options import from_keys
from ood_sampler.data.sources import ImageSource
from ood_sampler.data.split import Split


class Noise(ImageSource):
    """Made on the fly, each image from a seed of its own; image 3 repeats image 0."""

    location = "noise"

    def __init__(self, count):
        self.names = [f"{index:03d}" for index in range(count)]

    def read(self, index):
        generator = np.random.default_rng(0 if index == 3 else index)
        buffer = io.BytesIO()
        pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


@from_keys(Split)
def noise(split: Split, *, name: str, count: int, resolution: int) -> TargetDomain:
    return picture_domain(split, Noise(count), None, name=name, resolution=resolution)


@from_keys(Split)
class NoiseDomain(TargetDomain):
    def __init__(self, split: Split, *, name: str, count: int, resolution: int) -> None:
        made = picture_domain(split, Noise(count), None, name=name, resolution=resolution)
        super().__init__(name, made.few_shot, made.held_out, made.skipped)
'''

FLAT = """
_target_: own_noise.{target}
name: noise
count: 20 # images to make
resolution: ${{model.resolution}}
few_shot: 8
held_out: null
seed: 0
on_error: raise
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of configuration; `own_noise` can be imported."""
    (tmp_path / "own_noise.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    return tmp_path / "conf"


def make(own: Path, *overrides: str) -> TargetDomain:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = [f"hydra.searchpath=[file://{own}]", "data=noise", "model.resolution=16"]
        cfg = compose("run", [*found, *overrides])
    domain: TargetDomain = instantiate(cfg.data)
    return domain


@pytest.mark.filterwarnings("ignore:repeated images left out. 1 of 20:UserWarning")
@pytest.mark.parametrize("target", ["noise", "NoiseDomain"])
def test_a_target_in_a_users_module_is_split_like_any_other(own: Path, target: str) -> None:
    (own / "data" / "noise.yaml").write_text(FLAT.format(target=target))
    domain = make(own, "data.seed=3")
    assert isinstance(domain, TargetDomain)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3)).tolist()
    later = max(order.index(0), order.index(3))
    expected = [f"{index:03d}" for place, index in enumerate(order) if place != later]
    assert [*domain.few_shot.names, *domain.held_out.names] == expected
    assert len(domain.few_shot) == 8
    ((left_out, reason),) = domain.skipped
    assert left_out == f"{order[later]:03d}"
    assert reason.startswith("has the same bytes as ")
    assert domain.few_shot[0].shape == (3, 16, 16)


def test_a_mistake_in_a_users_split_is_named(own: Path) -> None:
    (own / "data" / "noise.yaml").write_text(FLAT.format(target="noise"))
    with pytest.raises(Exception, match=r"few_shot must be >= 2, got 1; raise data\.few_shot"):
        make(own, "data.few_shot=1")
    with pytest.raises(Exception, match=r"on_error must be 'raise' or 'skip', got 'stop'"):
        make(own, "data.on_error=stop")
    (own / "data" / "noise.yaml").write_text(FLAT.format(target="noise").replace("seed: 0", ""))
    with pytest.raises(Exception, match="missing 1 required positional argument: 'seed'"):
        make(own)


def test_keys_of_a_target_are_those_of_its_options_and_its_own(own: Path) -> None:
    split = ["few_shot", "held_out", "seed", "on_error"]
    parameters = inspect.signature(get_object("own_noise.noise")).parameters
    assert [*parameters] == [*split, "name", "count", "resolution"]
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    fields = inspect.signature(get_object("ood_sampler.data.field_domain.array_domain")).parameters
    assert [*fields] == [
        *split,
        *("array", "band_axis", "bands", "nan"),
        *("scaling", "low", "high", "quantiles", "softening"),
        *("name", "root", "held_out_root", "resolution", "origin"),
    ]
