"""New images of a domain that a frozen diffusion model has never seen.

The names in `__all__` are the package from Python; each is imported at its first use.
"""

import sys
import warnings
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ood_sampler.api.correcting import correct
    from ood_sampler.api.evaluation import evaluate
    from ood_sampler.api.images import Images, sheet
    from ood_sampler.api.loading import LoadedModel, load_domain, load_model
    from ood_sampler.api.result import Result
    from ood_sampler.api.steps import Latents, decode, draw, invert
    from ood_sampler.api.table import Table
    from ood_sampler.data.domain import TargetDomain
    from ood_sampler.run import in_process as run
    from ood_sampler.samplers.bands import BandsSampler
    from ood_sampler.samplers.base import Sampler
    from ood_sampler.samplers.circle import CircleSampler
    from ood_sampler.samplers.cog import CogSampler
    from ood_sampler.samplers.gaussian import GaussianSampler
    from ood_sampler.samplers.geometric import GeometricSampler
    from ood_sampler.samplers.hypersphere import HypersphereSampler
    from ood_sampler.samplers.lerp import LerpSampler
    from ood_sampler.samplers.lowrank import LowRankSampler
    from ood_sampler.samplers.noised import NoisedSampler
    from ood_sampler.samplers.permutation import PermutationSampler
    from ood_sampler.samplers.rejection import RejectionSampler
    from ood_sampler.samplers.slerp import SlerpSampler
    from ood_sampler.samplers.standard import StandardSampler
    from ood_sampler.samplers.white import WhiteSampler

__version__ = "0.1.0"

__all__ = [
    "BandsSampler",
    "CircleSampler",
    "CogSampler",
    "GaussianSampler",
    "GeometricSampler",
    "HypersphereSampler",
    "Images",
    "Latents",
    "LerpSampler",
    "LoadedModel",
    "LowRankSampler",
    "NoisedSampler",
    "PermutationSampler",
    "RejectionSampler",
    "Result",
    "Sampler",
    "SlerpSampler",
    "StandardSampler",
    "Table",
    "TargetDomain",
    "WhiteSampler",
    "correct",
    "decode",
    "draw",
    "evaluate",
    "invert",
    "load_domain",
    "load_model",
    "run",
    "sheet",
]

_MODULES = {
    "Images": "api.images",
    "Latents": "api.steps",
    "LoadedModel": "api.loading",
    "Result": "api.result",
    "Sampler": "samplers.base",
    "Table": "api.table",
    "TargetDomain": "data.domain",
    "correct": "api.correcting",
    "decode": "api.steps",
    "draw": "api.steps",
    "evaluate": "api.evaluation",
    "invert": "api.steps",
    "load_domain": "api.loading",
    "load_model": "api.loading",
    "sheet": "api.images",
}
"""Where the names of `__all__` are; a strategy is in the module of its own name."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "run":
        from ood_sampler.api.surroundings import apart

        # the module of the command line, which can be called; importing it sets Hydra's version
        with apart():
            return import_module("ood_sampler.run")
    module = _MODULES.get(name, f"samplers.{name.removesuffix('Sampler').lower()}")
    with warnings.catch_warnings():
        # of bars that are not used, in a notebook
        warnings.filterwarnings("ignore", message="IProgress not found")
        found: object = getattr(import_module(f"ood_sampler.{module}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def end_on_interrupt() -> None:
    """Have Ctrl-C end this program with one line and exit code 130, from its first import on."""

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("interrupted\n")
            sys.exit(130)
        before(kind, error, traceback)

    before = sys.excepthook
    sys.excepthook = hook


# so it is while `python -m` looks for a module of this package: programs alone end so
if sys.argv[:1] == ["-m"]:
    end_on_interrupt()
