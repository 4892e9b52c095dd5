"""A file imports only from folders above its own, and heavy packages stay where they belong."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ood_sampler"
LAYERS = [
    "faults",
    "names",
    "config",
    "store",
    "statistics",
    "diffusion",
    "codecs",
    "latents",
    "samplers",
    "metrics",
    "models",
    "data",
    "modules",
    "report",
    "pipeline",
    "studies",
    "record",
    "entries",
    "command",
    "cli",
    "api",
    "run",
    "train",
]
ENTRY_POINTS = {"run", "train"}
KNOW_HYDRA = {*ENTRY_POINTS, "command", "cli", "api"}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(source: str) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layers_imported(source: str) -> set[str]:
    parts = [name.split(".") for name in imported(source)]
    return {name[1] for name in parts if name[0] == "ood_sampler" and len(name) > 1} - {
        "__version__",
        "end_on_interrupt",
    }


def test_imports_are_found() -> None:
    source = "import a.b\nfrom c import d as e\ndef f():\n    from ood_sampler.data.x import y\n"
    assert imported(source) == {"a.b", "c.d", "ood_sampler.data.x.y"}
    assert layers_imported(source) == {"data"}


def test_every_file_has_a_layer() -> None:
    assert FILES
    assert {layer(path) for path in FILES} <= {"__init__", "__main__", *LAYERS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_above_alone(path: Path) -> None:
    source, own = path.read_text(), layer(path)
    allowed = LAYERS[: LAYERS.index(own)] if own in LAYERS else []
    inside = [] if own in ENTRY_POINTS else [own]
    above = {*allowed, *inside} - ENTRY_POINTS
    # the package's own file names what it offers, and imports it when it is asked for
    assert own == "__init__" or layers_imported(source) <= above
    roots = {name.split(".")[0] for name in imported(source)}
    assert own in KNOW_HYDRA or "hydra" not in roots
    assert own in {"models", "train"} or "diffusers" not in roots
