"""Content hash of the code that makes a result: part of the key under which it is stored."""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeAlias

PACKAGE = Path(__file__).parents[1]

LIBRARIES = ("diffusers", "numpy", "torch")
"""Libraries whose major and minor version is part of the hash of code that imports them."""

OUTSIDE = (
    "faults",
    "data.sources",
    "data.split",
    "models.sources",
    "models.weights",
    "store.artifacts",
    "store.files",
    "store.lock",
)
"""Modules of this package left out of every closure, as no result depends on them: they find,
fetch, lock and store content that is checked by its hash, or word errors."""

Maker: TypeAlias = Callable[..., object]
"""A function or a class that takes part in making a result."""

_FIELDS = {"ClassVar", "InitVar", "KW_ONLY"}
"""Annotations in a class body that change how a dataclass treats a name."""

_ANNOTATIONS = ("annotation", "returns", "type_params")
_IGNORED = ("ctx", "kind", "type_comment", "type_ignores")


@cache
def code_version(*makers: Maker, package: Path = PACKAGE) -> str:
    """Hash the code of functions and classes, with all the code that it imports.

    The hash covers the files of their modules and, transitively, the modules of this package that
    these import, at the top of a file or inside a function. For a user's own class it covers its
    file and imports from the same package or, outside of packages, from the same folder. Files are
    read, not imported.

    Docstrings, comments, annotations and imports that only annotations need do not count. So the
    class of an object that code merely receives must be among the makers.

    Args:
        makers: functions and classes that take part in making the result.
        package: folder of `ood_sampler`.

    Raises:
        ValueError: a maker is not in a Python file.
    """
    modules = closure(*makers, package=package)
    lines = [f"{name} {source.hash}" for name, source in modules.items()]
    imported = {name.split(".")[0] for source in modules.values() for name in source.imports}
    for library in imported.intersection(LIBRARIES):
        lines.append(f"{library} {'.'.join(version(library).split('.')[:2])}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


class Source(NamedTuple):
    """The parts of a Python file that affect results.

    Attributes:
        hash: of its syntax tree.
        imports: full names of the modules, or their members, that it imports.
    """

    hash: str
    imports: frozenset[str]


def closure(*makers: Maker, package: Path = PACKAGE) -> dict[str, Source]:
    """Read the files that `code_version` hashes; the keys are full names of modules."""
    own = _Place(package.parent, package.name)
    outside = {f"{own.top}.{name}" for name in OUTSIDE}
    found: dict[str, Source] = {}
    waiting = [_located(maker, own) for maker in makers]
    while waiting:
        name, place = waiting.pop()
        place = own if name.split(".")[0] == own.top else place
        file, name = place.find(name)
        if file is not None and name not in outside | found.keys():
            found[name] = read(
                file, name if file.name == "__init__.py" else name.rpartition(".")[0]
            )
            waiting += [(imported, place) for imported in found[name].imports]
    return found


class _Place(NamedTuple):
    """Where to look for modules.

    Attributes:
        folder: root of their full names.
        top: the only package or module to look for; None takes all.
    """

    folder: Path
    top: str | None

    def find(self, full_name: str) -> tuple[Path | None, str]:
        """Return file and name of the module that a full name denotes or belongs to."""
        parts = full_name.split(".")
        if self.top in (None, parts[0]):
            for length in range(len(parts), 0, -1):
                path = self.folder.joinpath(*parts[:length])
                for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
                    if file.is_file():
                        return file, ".".join(parts[:length])
        return None, full_name


def _located(maker: Maker, own: _Place) -> tuple[str, _Place]:
    """Return the name of a maker's module, and where to look for it and its imports."""
    name = maker.__module__
    parts = name.split(".")
    if parts[0] == own.top:
        return name, own
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or not file.endswith(".py"):
        raise ValueError(
            f"{maker.__qualname__} must be in a Python file, as results are stored under a hash of "
            f"the code that makes them, got the module {name}: move it to a file of its own"
        )
    path = Path(file).absolute()
    path = path.parent if path.name == "__init__.py" else path.with_suffix("")
    if path.parts[-len(parts) :] != tuple(parts):  # a script
        return path.name, _Place(path.parent, None)
    shared = {sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")}
    single = len(parts) == 1 and not path.is_dir() and str(path.parent) not in shared
    return name, _Place(path.parents[len(parts) - 1], None if single else parts[0])


@cache
def read(file: Path, package: str) -> Source:
    """Read and hash a Python file.

    Args:
        file: of a module.
        package: full name of its package, for relative imports.
    """
    writer = _Writer(package)
    writer.write(ast.parse(file.read_bytes()))
    hints = writer.hints - writer.names
    imports = [item for item in writer.imports if item.bound not in hints]
    text = "".join(writer.text) + "".join(sorted(f"{i.name} as {i.bound}\n" for i in imports))
    return Source(
        hashlib.sha256(text.encode()).hexdigest(), frozenset(item.name for item in imports)
    )


class _Import(NamedTuple):
    """The full name of an import, and the name that a file binds it to."""

    name: str
    bound: str


@dataclass
class _Writer:
    """Write a syntax tree without parts that do nothing, alike in all versions of Python.

    Attributes:
        package: of the file.
        text: written so far.
        names: used by code.
        hints: names used by annotations.
        imports: of the file.
    """

    package: str
    text: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    hints: set[str] = field(default_factory=set)
    imports: list[_Import] = field(default_factory=list)

    def write(self, node: object) -> None:
        """Write a node of the tree and everything below it."""
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                self.write(node.orelse)
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.AnnAssign():
                self._hint(node.annotation)
                if node.value is not None:
                    self._fields(ast.Assign(targets=[node.target], value=node.value))
            case ast.ClassDef():
                self.text += [_field(it) for it in node.body if isinstance(it, ast.AnnAssign)]
                self._fields(node)
            case ast.AST():
                self._fields(node)
            case list():
                for child in node:
                    self.write(child)
            case _:
                self.text.append(repr(node))

    def _fields(self, node: ast.AST) -> None:
        match node:
            case ast.Name():
                self.names.add(node.id)
            case ast.Constant(value=str(text)):
                # a name in `__all__`, or of a type
                self.names.add(text)
        self.text.append(f"{type(node).__name__}(")
        for name, value in ast.iter_fields(node):
            if name in _ANNOTATIONS:
                self._hint(value)
            elif name not in _IGNORED and value is not None and value != []:
                self.text.append(f" {name}=")
                self.write(value)
        self.text.append(")")

    def _hint(self, annotation: ast.AST | list[ast.AST] | None) -> None:
        nodes = annotation if isinstance(annotation, list) else [annotation]
        for node in nodes:
            if node is not None:
                self.hints |= _names(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                self.imports.append(_Import(alias.name, bound))
            return
        module = node.module or ""
        if node.level:
            above = self.package.split(".")
            parents = above[: len(above) + 1 - node.level]
            module = ".".join(part for part in (*parents, module) if part)
        for alias in node.names:
            name = f"{module}.{alias.name}" if module else alias.name
            self.imports.append(_Import(name, alias.asname or alias.name))


def _names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _field(node: ast.AnnAssign) -> str:
    """Describe how a dataclass treats an annotated name of a class body."""
    attributes = {c.attr for c in ast.walk(node.annotation) if isinstance(c, ast.Attribute)}
    kinds = sorted((_names(node.annotation) | attributes) & _FIELDS)
    return f"field {ast.unparse(node.target)} {kinds}"
