"""Types and meaning of keys, from structured configs and from signatures.

Signatures are read from source: to import what they belong to can take seconds.
"""

import ast
import dataclasses
import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

_NAMES: Mapping[str, type] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "Path": str,
    "None": type(None),
    **dict.fromkeys(("list", "List", "Sequence", "tuple", "Tuple", "Iterable", "Collection"), list),
    **dict.fromkeys(("dict", "Dict", "Mapping"), dict),
}
"""Types that a value of a command can have, by names in annotations."""

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


@dataclass(frozen=True)
class Key:
    """What a key takes and means.

    Attributes:
        types: of its values; none if any value may be right.
        words: the only texts that it takes, if `types` has no text.
        meaning: what `--help` says, empty if nothing is known.
    """

    types: frozenset[type] = frozenset()
    words: tuple[str, ...] = ()
    meaning: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nothing is known of its values."""
        return not self.types and not self.words

    def takes(self, value: object) -> bool:
        """Whether a value is of one of the types, or one of the words."""
        if self.is_open or (isinstance(value, str) and value in self.words):
            return True
        return type(value) in self.types or (type(value) is int and float in self.types)

    def __str__(self) -> str:
        """What it takes, as in `must be a whole number or auto`."""
        parts = [word for kind, word in _WORDS.items() if kind in self.types]
        parts += [*self.words, *(["null"] if type(None) in self.types else [])]
        return ", ".join(parts[:-1]) + " or " * (len(parts) > 1) + parts[-1]


def declared(tree: object, path: str, root: type | None = None) -> Key:
    """What is known of a key.

    Args:
        tree: configuration that the key belongs to, unresolved.
        path: the key.
        root: structured config of the configuration, if it has one.
    """
    *parents, name = path.split(".")
    for part in parents:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
        root = None if root is None else get_type_hints(root).get(part)
        root = root if dataclasses.is_dataclass(root) else None
    target = tree.get("_target_") if isinstance(tree, Mapping) else None
    if isinstance(target, str):
        return parameters(target).get(name, Key())
    return Key() if root is None else _fields(root).get(name, Key())


@cache
def parameters(target: str) -> Mapping[str, Key]:
    """Parameters of a class or function by its full name; none if its source cannot be read."""
    found = _find(target)
    return {} if found is None else dict(_parameters(*found))


@cache
def _fields(root: type) -> Mapping[str, Key]:
    """Keys of a structured config."""
    found = dict(parameters(f"{root.__module__}.{root.__qualname__}"))
    for field in dataclasses.fields(root):
        if "words" in field.metadata:
            key = found[field.name]
            words = field.metadata["words"]
            found[field.name] = replace(key, types=key.types - {str}, words=words)
    return found


@dataclass(frozen=True)
class _Module:
    """Source of a module."""

    name: str
    path: Path

    def find(self, name: str) -> "tuple[_Module, ast.stmt] | None":
        """A class, a function or an assignment by its name, here or where it is imported from."""
        for node in _parse(self.path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return self, node
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return self, node
            if isinstance(node, ast.ImportFrom):
                imported = {alias.asname or alias.name: alias.name for alias in node.names}
                if name in imported:
                    return _find(f"{self._origin(node)}.{imported[name]}")
        return None

    def _origin(self, node: ast.ImportFrom) -> str:
        """Full name of the module that something is imported from."""
        package = self.name.split(".")
        up = node.level - (self.path.name == "__init__.py")
        above = package[: len(package) - up] if node.level else []
        return ".".join([*above, *filter(None, [node.module])])


@cache
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _find(target: str) -> tuple[_Module, ast.stmt] | None:
    """A class or function by its full name."""
    *parts, name = target.split(".")
    try:
        spec = importlib.util.find_spec(parts[0]) if parts and parts[0] else None
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for part in parts[1:]:
        below = (path.parent / part / "__init__.py", path.parent / f"{part}.py")
        path = next((file for file in below if file.is_file()), Path())
    return _Module(".".join(parts), path).find(name) if path.suffix == ".py" else None


def _parameters(module: _Module, node: ast.stmt) -> Iterator[tuple[str, Key]]:
    """Parameters of a function, or of the constructor of a class, its own or inherited."""
    if isinstance(node, ast.FunctionDef):
        grouped = _grouped(node)
        for name in grouped:
            found = module.find(name)
            if found is not None:
                yield from _parameters(*found)
        yield from _arguments(module, node, _meanings(node), but=grouped)
    if not isinstance(node, ast.ClassDef):
        return
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            yield from _arguments(module, inner, _meanings(node) | _meanings(inner))
            return
    for base in node.bases:
        found = module.find(ast.unparse(base))
        if found is not None:
            yield from _parameters(*found)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        meanings = _meanings(node)
        for inner in node.body:
            if isinstance(inner, ast.AnnAssign):
                name = ast.unparse(inner.target)
                yield name, _key(module, inner.annotation, meanings.get(name, ""))


def _grouped(node: ast.FunctionDef) -> list[str]:
    """Classes whose fields are parameters of a function (`ood_sampler.data.options.from_keys`)."""
    calls = [call for call in node.decorator_list if isinstance(call, ast.Call)]
    groups = [call.args for call in calls if ast.unparse(call.func) == "from_keys"]
    return [ast.unparse(group) for some in groups for group in some]


def _arguments(
    module: _Module,
    node: ast.FunctionDef,
    meanings: Mapping[str, str],
    *,
    but: Collection[str] = (),
) -> Iterator[tuple[str, Key]]:
    """Arguments of a function, without those that are annotated with some classes."""
    for argument in [*node.args.args, *node.args.kwonlyargs]:
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        if argument.arg != "self" and annotation not in but:
            meaning = meanings.get(argument.arg, "")
            yield argument.arg, _key(module, argument.annotation, meaning)


def _key(module: _Module, annotation: ast.expr | None, meaning: str) -> Key:
    types, words = (annotation and _read(annotation, module)) or (frozenset(), ())
    return Key(types, words, meaning)


_Found = tuple[frozenset[type], tuple[str, ...]]


def _read(node: ast.expr, module: _Module | None) -> _Found | None:
    """Types and words of an annotation; None if it allows for something else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _read(ast.parse(node.value, mode="eval").body, module)
    if isinstance(node, ast.BinOp):
        return _united(_read(node.left, module), _read(node.right, module))
    text = ast.unparse(node.value if isinstance(node, ast.Subscript) else node)
    name = text.rpartition(".")[2]
    if isinstance(node, ast.Subscript) and name in ("Literal", "Optional", "Union"):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            words = tuple(ast.literal_eval(word) for word in inner)
            return (frozenset(), words) if all(isinstance(w, str) for w in words) else None
        nothing = [ast.Constant(None)] if name == "Optional" else []
        return _united(*(_read(part, module) for part in [*inner, *nothing]))
    if name in _NAMES:
        return frozenset({_NAMES[name]}), ()
    found = module.find(text) if module is not None else None
    if found is not None and isinstance(found[1], ast.Assign):
        return _read(found[1].value, found[0])
    return None


def _united(*parts: _Found | None) -> _Found | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    words = tuple(dict.fromkeys(word for _, some in known for word in some))
    return frozenset[type]().union(*(types for types, _ in known)), words


def _meanings(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    """What a docstring says of each parameter, as a user of YAML reads it."""
    found: dict[str, str] = {}
    name, inside = "", False
    for line in (ast.get_docstring(node) or "").splitlines():
        if line and not line.startswith(" "):
            inside = line in ("Args:", "Attributes:")
        match = re.fullmatch(r" {4}(?P<name>\w+): (?P<words>.+)", line) if inside else None
        if match is not None:
            name = match["name"]
            found[name] = match["words"]
        elif inside and name and line.strip():
            found[name] += f" {line.strip()}"
    return {
        name: re.sub(r"\bNone\b", "null", re.sub(r"[`$]", "", words)).removesuffix(".")
        for name, words in found.items()
    }


def flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a configuration with its value, blocks before what is in them."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
