"""What is tried on every domain: strategies, steps, both flows; and what pixels are mixed with."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One setting, by overrides of `conf/run.yaml`.

    Attributes:
        name: of the strategy, for tables.
        sampler: overrides of the group `sampler`.
        step: inversion step t.
        corrected: whether the flow is that of `correction=gaussian`.
        model: of the run, None for the base model of the domain; a model without a network.
    """

    name: str
    sampler: tuple[str, ...]
    step: int
    corrected: bool = False
    model: str | None = None

    @property
    def key(self) -> str:
        """Name of the setting in the file of rows."""
        flow = "corrected" if self.corrected else "plain"
        return f"{self.model or 'base'}/{flow}/{self.name}/{self.step}"


STRATEGIES = {
    "cog 2": ("sampler=cog", "sampler.references=2"),
    "cog 3": ("sampler=cog",),
    "cog 5": ("sampler=cog", "sampler.references=5"),
    "white .2": ("sampler=white", "sampler.fresh=0.2"),
    "white .4": ("sampler=white", "sampler.fresh=0.4"),
    "slerp": ("sampler=slerp",),
    "recipe, text": ("sampler=rejection",),
    "recipe, code": ("sampler=paper_code",),
    "hypersphere": ("sampler=hypersphere",),
    "noised": ("sampler=noised",),
    "standard": ("sampler=standard",),
}

PLAIN = {
    "cog 2": (300,),
    "cog 3": (300, 500, 700, 999),
    "cog 5": (500, 999),
    "white .2": (999,),
    "white .4": (999,),
    "slerp": (500,),
    "recipe, text": (500,),
    "recipe, code": (500,),
    "hypersphere": (500,),
    "noised": (300, 500),
}
"""Steps of each strategy along the flow of the model."""

CORRECTED = {
    "cog 5": (999,),
    "white .2": (700, 999),
    "white .4": (999,),
    "hypersphere": (999,),
    "noised": (500,),
}
"""Steps of each strategy along the corrected flow."""

WITHOUT_NETWORK: dict[str, dict[str, tuple[int, ...]]] = {
    "analytic_gaussian": {"white .4": (999,), "noised": (500,), "standard": (999,)},
    "analytic_patches": {
        "cog 3": (500, 999),
        "cog 5": (500,),
        "white .4": (999,),
        "noised": (300, 500),
        "standard": (999,),
    },
}
"""Controls: denoisers of the few-shot images in closed form, and the steps of each strategy.

Combinations along the linear flow of the Gaussian are those of pixels.
"""

PIXELS = {
    "cog 2": ("sampler=cog", "sampler.references=2"),
    "cog 3": ("sampler=cog",),
    "cog 4": ("sampler=cog", "sampler.references=4"),
    "cog 5": ("sampler=cog", "sampler.references=5"),
    "cog 7": ("sampler=cog", "sampler.references=7"),
    "cog 10": ("sampler=cog", "sampler.references=10"),
    "cog 3 near": ("sampler=cog", "sampler.among=20"),
    "cog 5 near": ("sampler=cog", "sampler.references=5", "sampler.among=20"),
    "bands": ("sampler=bands",),
    "circle": ("sampler=circle",),
    "rejection": ("sampler=rejection",),
    "slerp": ("sampler=slerp",),
    "lerp": ("sampler=lerp",),
}
"""Mixtures of the few-shot images themselves, which make the frontier to beat."""


def settings() -> Iterator[Setting]:
    """All settings of a base model."""
    for corrected, table in ((False, PLAIN), (True, CORRECTED)):
        for name, steps in table.items():
            for step in steps:
                yield Setting(name, STRATEGIES[name], step, corrected)


def without_network() -> Iterator[Setting]:
    """The same by models without a network."""
    for model, table in WITHOUT_NETWORK.items():
        for name, steps in table.items():
            for step in steps:
                yield Setting(name, STRATEGIES[name], step, model=model)
