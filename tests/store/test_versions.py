import functools
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import lightning
import pytest
import torch
from torchmetrics import MetricCollection

from ood_sampler.data.domain import Part, TargetDomain, TensorImages
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.diffusion.solvers import BelmSolver, DdimSolver
from ood_sampler.metrics.comparison import kernel_difference
from ood_sampler.metrics.judges import Described, figures_of
from ood_sampler.metrics.kernel import KernelDistance
from ood_sampler.models.finetuned import FineTunedModel
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.modules.finetuning import FineTuning, fine_tune
from ood_sampler.modules.inversion import Inversion
from ood_sampler.pipeline import keys as keys_module
from ood_sampler.pipeline import measure as measure_module
from ood_sampler.pipeline import stages as stages_module
from ood_sampler.pipeline.measure import Measure, Row
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.lerp import LerpSampler
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.statistics.intervals import normal_interval
from ood_sampler.store import versions
from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.sets import TensorSet
from ood_sampler.store.versions import PACKAGE, Maker, closure, code_version
from ood_sampler.studies import separability, tuned
from tests.conftest import RESOLUTION, make_judges, make_pipeline, smooth_images

INVERSION = (Inversion, DdimSolver, FrozenModel)

BASE = """
from dataclasses import dataclass, field
import numpy
from math import floor

LIMIT = 1


@dataclass
class Point:
    x: int
    y: float = 0.5
    z: list[int] = field(default_factory=list)

    def norm(self, power: int = 2, *rest: int) -> float:
        total: float = 0.0
        self.kept = floor(total)
        return abs(numpy.float64(self.x)) ** power


def nothing() -> None:
    pass
"""


def maker_in(module: str) -> Callable[[], None]:
    """Return a function that says it is in a module."""

    def maker() -> None: ...

    maker.__module__ = module
    return maker


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a package `ood_sampler` of some files, anew."""
    versions.read.cache_clear()
    code_version.cache_clear()
    package = folder / "ood_sampler"
    shutil.rmtree(package, ignore_errors=True)
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(dedent(text))
    return package


def version_of(folder: Path, **files: str) -> str:
    """Return the version of a package whose module `top` makes the result."""
    package = write(folder, {f"{name.replace('__', '/')}.py": text for name, text in files.items()})
    return code_version(maker_in("ood_sampler.top"), package=package)


def modules_of(folder: Path, files: Mapping[str, str]) -> set[str]:
    """Return the closure of `top` in a package, without the package's name."""
    found = closure(maker_in("ood_sampler.top"), package=write(folder, files))
    return {name.removeprefix("ood_sampler").removeprefix(".") for name in found}


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 1\n", "LIMIT   =  (1)  # a comment\n"),
        ("LIMIT = 1\n", 'LIMIT = 1\n"""What it is for."""\n'),
        ("LIMIT = 1\n", "LIMIT: int = 1\n"),
        ("LIMIT = 1\n", "LIMIT = 1\nother: int\n"),
        ("\nfrom dataclasses", '"""A module."""\n\nfrom dataclasses'),
        ("class Point:\n", 'class Point:\n    """A point."""\n\n'),
        ("-> float:\n", '-> float:\n        """Compute a norm."""\n'),
        ("    pass\n", '    """Do nothing."""\n'),
        ("    x: int\n", "    x: str\n"),
        ("    x: int\n", '    x: int\n    """Across."""\n'),
        ("list[int] =", "list[float] ="),
        ("power: int", "power: float"),
        ("power: int", "power"),
        ("*rest: int", "*rest"),
        ("-> float:", "-> int:"),
        ("total: float = 0.0", "total = 0.0"),
        ("self.kept = floor", "self.kept: int = floor"),
        ("import numpy\nfrom math import floor\n", "from math import floor\nimport numpy\n"),
        ("-> None:", "-> 'Point':"),
    ],
)
def test_what_does_nothing_leaves_the_version(tmp_path: Path, old: str, new: str) -> None:
    assert version_of(tmp_path, top=replaced(BASE, old, new)) == version_of(tmp_path, top=BASE)


def test_an_import_that_annotations_alone_need_leaves_the_version(tmp_path: Path) -> None:
    annotated = replaced(BASE, "-> None:", "-> Path | sized.Sized:")
    annotated = f"import collections.abc as sized\nfrom pathlib import Path\n{annotated}"
    checked = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n{BASE}"
    plain = f"from typing import TYPE_CHECKING\n{BASE}"
    assert version_of(tmp_path, top=annotated) == version_of(tmp_path, top=BASE)
    assert version_of(tmp_path, top=checked) == version_of(tmp_path, top=plain)
    used = f"{annotated}\nHOME = Path()\n"
    assert version_of(tmp_path, top=used) != version_of(tmp_path, top=f"{BASE}\nHOME = Path()\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 1\n", "LIMIT = 2\n"),
        ("LIMIT = 1\n", "LIMIT = 1.0\n"),
        ("LIMIT = 1\n", "LIMIT = True\n"),
        ("LIMIT = 1\n", "LIMIT = '1'\n"),
        ("LIMIT = 1\n", "LIMIT = None\n"),
        ("LIMIT = 1\n", "LIMIT = -1\n"),
        ("LIMIT = 1\n", "LIMIT: int\n"),
        ("LIMIT = 1\n", "OTHER = 1\n"),
        ("    x: int\n", ""),
        ("    x: int\n", "    w: int\n"),
        ("    x: int\n", "    x: int\n    w: int\n"),
        ("    x: int\n    y: float = 0.5\n", "    y: float = 0.5\n    x: int\n"),
        ("    x: int\n", "    x: ClassVar[int]\n"),
        ("    x: int\n", "    x: dataclasses.InitVar[int]\n"),
        ("y: float = 0.5", "y: float = 0.25"),
        ("y: float = 0.5", "y = 0.5"),
        ("default_factory=list", "default_factory=dict"),
        ("@dataclass\n", ""),
        ("@dataclass\n", "@dataclass(frozen=True)\n"),
        ("power: int = 2", "power: int = 3"),
        ("power: int = 2", "power: int"),
        (", *rest: int", ""),
        (", *rest: int", ", **rest: int"),
        ("total: float = 0.0", "total: float = 1.0"),
        ("        self.kept = floor(total)\n", ""),
        ("** power", "* power"),
        ("import numpy\n", "import scipy as numpy\n"),
        ("from math import floor", "from math import ceil as floor"),
        ("    pass\n", "    return 1\n"),
    ],
)
def test_what_does_something_changes_the_version(tmp_path: Path, old: str, new: str) -> None:
    assert version_of(tmp_path, top=replaced(BASE, old, new)) != version_of(tmp_path, top=BASE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ood_sampler.a import x\ny = x\n", {"a", "c"}),
        ("import ood_sampler.a\n", {"a", "c"}),
        ("import ood_sampler.a as a\n", {"a", "c"}),
        ("from ood_sampler.a import *\n", {"a", "c"}),
        ("from .a import x\ny = x\n", {"a", "c"}),
        ("from . import a\ny = a.x\n", {"a", "c"}),
        ("def f():\n    from ood_sampler.a import x\n    return x\n", {"a", "c"}),
        ("class A:\n    def f(self):\n        import ood_sampler.a\n", {"a", "c"}),
        ("try:\n    import ood_sampler.c\nexcept ImportError:\n    pass\n", {"c"}),
        ("from ood_sampler.parts import inner\ny = inner.x\n", {"parts.inner"}),
        ("from ood_sampler.parts.inner import x\ny = x\n", {"parts.inner"}),
        ("from ood_sampler.parts import x\ny = x\n", {"parts", "a", "c"}),
        ("from ood_sampler import top, parts\ny = parts.x\n", {"parts", "a", "c"}),
        ("from ood_sampler.a import x\ndef f(y: x) -> x: ...\n", set()),
        ("from ood_sampler.a import x\ndef f(y: x) -> x:\n    return x()\n", {"a", "c"}),
        ("from ood_sampler.a import x\nclass A:\n    y: x\n", set()),
        ("from ood_sampler.a import x\n__all__ = ['x']\ny: x\n", {"a", "c"}),
        ("from ood_sampler.a import x\nY: TypeAlias = list[x]\n", {"a", "c"}),
        ("if TYPE_CHECKING:\n    import ood_sampler.a\nelse:\n    import ood_sampler.c\n", {"c"}),
        ("import typing\nif typing.TYPE_CHECKING:\n    import ood_sampler.a\n", set()),
        ("from ood_sampler.faults import x\nfrom ood_sampler.store import lock\n", set()),
        ("import torch, beside\nfrom os import path\n", set()),
    ],
)
def test_the_closure_follows_imports(tmp_path: Path, source: str, expected: set[str]) -> None:
    (tmp_path / "beside.py").write_text("")
    files = {
        "__init__.py": "raise RuntimeError",
        "top.py": source,
        "a.py": "raise RuntimeError\nfrom ood_sampler.c import x\nimport ood_sampler.top\n",
        "c.py": "x = 1\n",
        "parts/__init__.py": "from ..a import x\n",
        "parts/inner.py": "x = 1\n",
        "faults.py": "from ood_sampler.a import x\n",
        "store/lock.py": "from ood_sampler.a import x\n",
        "unused.py": "x = 1\n",
    }
    assert modules_of(tmp_path, files) == {"top", *expected}


def test_every_file_of_the_closure_counts_and_no_other(tmp_path: Path) -> None:
    files = {"top": "import ood_sampler.a", "a": "def f():\n    import ood_sampler.c", "c": "x = 1"}
    version = version_of(tmp_path, **files)
    assert version_of(tmp_path, **{**files, "c": "x = 2"}) != version
    assert version_of(tmp_path, **{**files, "a": "import ood_sampler.c"}) != version
    assert version_of(tmp_path, **files, other="x = 2") == version
    assert version_of(tmp_path / "elsewhere", **files) == version
    both = "import ood_sampler.a, ood_sampler.c"
    assert version_of(tmp_path, top=both, a="x = 1", c="x = 2") != version_of(
        tmp_path, top=both, a="x = 2", c="x = 1"
    )


def test_minor_versions_of_imported_libraries_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(source: str, **libraries: str) -> str:
        installed = {"torch": "2.11.0", "numpy": "2.3.1", "diffusers": "0.35.1", **libraries}
        monkeypatch.setattr(versions, "version", installed.__getitem__)
        return version_of(tmp_path, top="import ood_sampler.a", a=source)

    lazy = "import torch\ndef f():\n    from diffusers.models import UNet2DModel\n"
    for source, library, counts in [
        ("import torch\n", "torch", True),
        ("from torch import nn\ny = nn\n", "torch", True),
        (lazy, "diffusers", True),
        (lazy, "numpy", False),
        ("import torch\n", "diffusers", False),
        ("from torch import Tensor\ndef f(x: Tensor): ...\n", "torch", False),
    ]:
        assert (found(source, **{library: "9.0.0"}) != found(source)) == counts, (source, library)
    assert found("import torch\n", torch="2.11.3+cu130") == found("import torch\n")
    assert found("import torch\n", torch="2.1.0") != found("import torch\n")


def test_other_processes_find_the_same(tmp_path: Path) -> None:
    command = dedent("""
        import sys
        from ood_sampler.store.versions import code_version

        def named(module):
            return type("Maker", (), {"__module__": f"ood_sampler.{module}"})

        modules = ["modules.inversion", "diffusion.solvers.ddim", "models.frozen"]
        print(code_version(*map(named, modules)))
        print({"torch", "diffusers", "numpy", "lightning"} & set(sys.modules))
    """)
    code_version.cache_clear()
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split("\n")[:2] == [code_version(*INVERSION), "set()"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the package."""
    sources = shutil.ignore_patterns("assets", "__pycache__")
    return shutil.copytree(PACKAGE, tmp_path_factory.mktemp("copy") / "ood_sampler", ignore=sources)


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("store/tensor_files.py", '"""', '"""Once more. ', False),
        ("store/tensor_files.py", "import pickle", "import pickle  # to read", False),
        ("store/tensor_files.py", "import pickle", "import pickle\nNEW = 1", True),
        ("diffusion/schedule.py", "import torch", "import torch\nNEW: int", False),
        ("diffusion/schedule.py", "import torch", "import torch\nNEW: int = 1", True),
        ("models/network.py", "import torch", "import torch\nNEW = 1", True),
        ("diffusion/solvers/heun.py", "from ood_sampler", "NEW = 1\nfrom ood_sampler", False),
        ("models/weights.py", "import json", "import json\nNEW = 1", False),
        ("pipeline/pipeline.py", "import math", "import math\nNEW = 1", False),
    ],
)
def test_the_version_of_the_inversion(
    copied: Path, file: str, old: str, new: str, counts: bool
) -> None:
    path = copied / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    versions.read.cache_clear()
    code_version.cache_clear()
    changed = code_version(*INVERSION, package=copied)
    path.write_text(text)
    versions.read.cache_clear()
    assert (changed != code_version(*INVERSION)) == counts


def test_code_that_turns_weights_into_numbers_is_in_the_closure() -> None:
    # where weights lie, how they get there, and what is said of them
    others = {"__init__", "__main__", "cards", "hub", "sources", "verification", "weights"}
    others |= {"analytic", "gan", "gan_verification", "generator_files", "style_generator"}
    files = {f"ood_sampler.models.{file.stem}" for file in (PACKAGE / "models").glob("*.py")}
    model = FineTunedModel(FrozenModel(name="tiny", resolution=RESOLUTION), Path("weights"))
    found = closure(*model.makers)
    assert {name for name in found if name.startswith("ood_sampler.models")} == files - {
        f"ood_sampler.models.{name}" for name in others
    }


def test_modules_outside_of_all_closures_exist() -> None:
    for name in versions.OUTSIDE:
        assert PACKAGE.joinpath(*name.split(".")).with_suffix(".py").is_file()


USERS = """
from beside import limit
from ood_sampler.metrics.base import SetMetric


class Mine(SetMetric):
    sets = ("generated",)

    def figures(self, generated):
        from lazily import scale

        return {"largest": limit(generated) * scale}
"""


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules of a user's own are imported from."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("mine", "beside", "lazily", "lab", "lab.scores", "lab.common"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def imported(folder: Path, module: str, files: Mapping[str, str]) -> Any:  # noqa: ANN401
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    importlib.invalidate_caches()
    return importlib.import_module(module)


def test_a_class_of_a_users_own_counts_with_what_lies_beside_it(users_folder: Path) -> None:
    files = {
        "mine.py": USERS,
        "beside.py": "def limit(x):\n    return x.max()\n",
        "lazily.py": "scale = 1\n",
    }
    mine = imported(users_folder, "mine", files).Mine

    def version_with(file: str, text: str) -> str:
        before = (users_folder / file).read_text() if (users_folder / file).exists() else ""
        (users_folder / file).write_text(text)
        versions.read.cache_clear()
        code_version.cache_clear()
        version = code_version(mine)
        (users_folder / file).write_text(before)
        return version

    version = version_with("mine.py", USERS)
    assert set(closure(mine)) == {
        "mine",
        "beside",
        "lazily",
        "ood_sampler.metrics.base",
        "ood_sampler.metrics.feature_sets",
    }
    assert version_with("mine.py", f"# a comment\n{USERS}") == version
    assert version_with("mine.py", USERS.replace("largest", "most")) != version
    assert version_with("beside.py", files["beside.py"].replace("max", "min")) != version
    assert version_with("lazily.py", "scale = 2\n") != version
    assert version_with("other.py", "scale = 2\n") == version


def test_a_class_in_a_package_of_a_users_own_counts_with_that_package(users_folder: Path) -> None:
    files = {
        "lab/__init__.py": "",
        "lab/scores.py": "import beside\nfrom .common import x\nclass Mine:\n    y = x\n",
        "lab/common.py": "x = 1\n",
        "beside.py": "",
    }
    mine = imported(users_folder, "lab.scores", files).Mine
    assert set(closure(mine)) == {"lab.scores", "lab.common"}


def test_a_script_and_an_installed_module_count_alone(
    users_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"mine.py": "import beside\nclass Mine: ...\n", "beside.py": ""}
    mine = imported(users_folder, "mine", files).Mine
    assert set(closure(mine)) == {"mine", "beside"}
    with monkeypatch.context() as context:
        # as `python mine.py` has it
        context.setattr(mine, "__module__", "script")
        context.setitem(sys.modules, "script", sys.modules["mine"])
        assert set(closure(mine)) == {"mine", "beside"}
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(users_folder))
    assert set(closure(mine)) == {"mine"}


def test_a_class_without_a_file_is_refused() -> None:
    lost = type("Lost", (), {"__module__": "a_notebook"})
    with pytest.raises(ValueError, match=r"Lost must be in a Python file, .*move it to a file"):
        code_version(lost)


def pipeline_of(folder: Path, root: Path, **changes: Any) -> Pipeline:  # noqa: ANN401
    few_shot, held_out = smooth_images(8, 0), smooth_images(8, 1)
    names = [f"image {i}" for i in range(8)]
    images = TensorImages(few_shot, names, resolution=RESOLUTION)
    made = make_pipeline(
        model=FrozenModel(name="tiny", path=str(folder), resolution=RESOLUTION),
        domain=TargetDomain(
            name="smooth",
            few_shot=Part(images, range(8)),
            held_out=TensorImages(held_out, names, resolution=RESOLUTION),
        ),
        solver=DdimSolver(steps=5, power=1),
        sampler=CogSampler(references=2),
        judges=make_judges(),
        trainer=functools.partial(lightning.Trainer, accelerator="cpu", devices=1),
        settings=Settings(400, eta=0.0, clip_x_0=False, num_samples=4, seed=0, batch_size=4),
        root=root,
    )
    return replace(made, **changes)


def features_of(run: Pipeline) -> Artifact:
    judge = run.judges.headline
    found: Artifact = run.features(judge, "images", lambda: [], "images", range(4)).output  # type: ignore[arg-type, return-value]
    return found


def test_what_makes_each_artifact_is_in_its_key(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(*makers: type) -> str:
        return " ".join(sorted(maker.__qualname__ for maker in makers))

    for module in (keys_module, stages_module, separability, tuned):
        monkeypatch.setattr(module, "code_version", named)
    run = pipeline_of(model_folder, tmp_path)
    drawn = "CogSampler SampleNoise TensorSet"
    inversion = run.inversion.output.key
    assert inversion["code"] == "DdimSolver DiffusionCodec FrozenModel Inversion"
    assert inversion["reader"] == "Part TensorImages"
    losses = separability.denoising_losses(run).output.key
    assert losses["code"] == "DenoisingLoss DiffusionCodec FrozenModel"
    assert losses["reader"] == "Part TensorImages"
    assert run.draws.output.key["code"] == drawn
    assert run.noise.output.key["code"] == "SampleNoise StandardSampler TensorSet"
    decoded = "DdimSolver DiffusionCodec FrozenModel Synthesis"
    assert run.samples.output.key["code"] == run.in_domain.output.key["code"] == decoded
    control = run.in_pixels(LerpSampler())
    assert control.draws.output.key["code"] == "LerpSampler SampleNoise TensorSet"
    features = features_of(run)
    assert features.key["code"] == "EmbeddedFeatures FeatureExtraction"
    assert features.key["readers"] == ["Part TensorImages", "TensorImages"]
    weights = tmp_path / "weights"
    weights.write_bytes(b"")
    copy = FineTunedModel(run.model, weights)
    other = replace(run, model=copy, codec=copy.codec(DdimSolver(steps=5, power=1)))
    assert other.samples.output.key["code"] == (
        "DdimSolver DiffusionCodec FineTunedModel FrozenModel Synthesis"
    )


def test_pictures_and_the_code_that_reads_them_are_in_the_key_of_pixel_controls(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def latents() -> str:
        control = pipeline_of(model_folder, tmp_path).in_pixels(LerpSampler())
        digest: str = control.draws.output.digest
        return digest

    before = latents()
    assert latents() == before
    monkeypatch.setattr("ood_sampler.pipeline.nodes.reader", lambda images: "another")
    assert latents() != before


def test_the_code_of_the_fine_tuning_is_in_its_key(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(*makers: Maker) -> str:
        seen.append(makers)
        return ""

    for module in (keys_module, stages_module, tuned):
        monkeypatch.setattr(module, "code_version", noted)
    settings = FineTuning(10, 1e-4, 4, 5, 2, 0.25, 0.9)
    tuned.tuning_folder(pipeline_of(model_folder, tmp_path), settings)
    assert seen == [(Part, TensorImages), (fine_tune, FrozenModel)]


SAMPLER = """
from ood_sampler.samplers.standard import StandardSampler


class MySampler(StandardSampler):
    def fit(self, inverted):
        return {}
"""

SPACE = """
from ood_sampler.metrics.features import EmbeddedFeatures


class MySpace(EmbeddedFeatures):
    name = "mine"
"""


def test_a_sampler_and_a_feature_space_of_a_users_own_are_in_the_keys(
    users_folder: Path, model_folder: Path
) -> None:
    module = imported(users_folder, "mine", {"mine.py": SAMPLER + SPACE})

    def digests() -> list[str]:
        versions.read.cache_clear()
        code_version.cache_clear()
        run = pipeline_of(model_folder, users_folder, sampler=module.MySampler())
        judge = replace(run.judges.headline, extractor=module.MySpace())
        features = run.features(judge, "images", lambda: [], "images", range(4))  # type: ignore[arg-type, return-value]
        nodes = (run.fit, run.draws, features, run.inversion)
        return [node.output.digest for node in nodes]

    before = digests()
    (users_folder / "mine.py").write_text(f"# a comment\n{SAMPLER + SPACE}")
    assert digests() == before
    (users_folder / "mine.py").write_text(f"x = 1\n{SAMPLER + SPACE}")
    after = digests()
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, False, False, True]


def test_solvers_alone_that_take_part_are_in_the_keys() -> None:
    ddim, belm = (closure(Inversion, solver, FrozenModel) for solver in (DdimSolver, BelmSolver))
    solvers = "ood_sampler.diffusion.solvers"
    assert set(ddim) - set(belm) == {f"{solvers}.ddim"}
    assert set(belm) - set(ddim) == {f"{solvers}.two_state", f"{solvers}.heun"}


def test_draws_of_one_strategy_do_not_depend_on_another() -> None:
    found = closure(StandardSampler, SampleNoise, TensorSet)
    assert {name.removeprefix("ood_sampler.") for name in found} == {
        "diffusion.noise",
        "store.sets",
        "samplers.base",
        "samplers.standard",
    }


METRIC = """
from ood_sampler.metrics.base import SetMetric


class Mine(SetMetric):
    sets = ("generated",)

    def figures(self, generated):
        return {"largest": generated.max()}
"""


def test_figures_are_stored_under_the_code_of_their_metric(users_folder: Path) -> None:
    mine = imported(users_folder, "mine", {"mine.py": METRIC}).Mine
    vectors = torch.tensor([[1.0], [3.0]])
    images = Described({"features32": vectors}, vectors[:, :, None, None])
    measure = Measure(make_judges(), users_folder, images, images, {}, count=2)

    def stored() -> int:
        versions.read.cache_clear()
        code_version.cache_clear()
        metrics = MetricCollection({"mine": mine()})
        assert measure._figures(metrics, {"generated": vectors}) == {"largest": 3.0}
        return len(list(users_folder.glob("measure-*")))

    assert stored() == 1
    (users_folder / "mine.py").write_text(f"# a comment\n{METRIC}")
    assert stored() == 1
    (users_folder / "mine.py").write_text(METRIC.replace("max()", "amax()"))
    assert stored() == 2


def test_the_code_that_feeds_metrics_is_in_the_key_of_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(*makers: Maker) -> str:
        seen.append(makers)
        return code_version(*makers)

    monkeypatch.setattr(measure_module, "code_version", noted)
    vectors = torch.arange(8.0)[:, None]
    images = Described({"features32": vectors}, vectors[:, :, None, None])
    measure = Measure(make_judges(), tmp_path, images, images, {}, count=8)
    measure._figures(
        MetricCollection({"kid": KernelDistance()}), {"generated": vectors, "held_out": vectors}
    )
    assert seen == [(KernelDistance,), (figures_of,)]
    seen.clear()
    measure.above(Row("control", "control", 8, {}), images, images)
    assert seen == [(kernel_difference, normal_interval)]
