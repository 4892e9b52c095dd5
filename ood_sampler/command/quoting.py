"""Values as they were typed: what Hydra would take for a number, a list or syntax of its own.

Hydra reads `output=2024_05` as 202405, and a path with parentheses, `=`, `#` or an umlaut not at
all. Keys that take text get the text of the command, in quotes where Hydra needs them.
"""

import os
import re
import shlex
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from ood_sampler.faults import CommandError

PATHS = frozenset(
    {
        *("root", "held_out_root", "in_domain_root", "path", "id", "weights", "output"),
        *("labels", "apply_to"),
    }
)
"""Last parts of keys that take the path of a file or folder."""

TEXTS = frozenset(
    {
        *("name", "config", "revision", "split", "held_out_split", "column", "array", "scaling"),
        *("project", "entity", "group", "notes"),
        *("what", "where", "licence", "layout", "variant"),
    }
)
"""Last parts of keys that take any other text."""

_HYDRA_PATHS = frozenset({"hydra.run.dir", "hydra.sweep.dir"})
_HYDRA_TEXTS = frozenset({"hydra.sweep.subdir", "hydra.job.name"})

_SETTING = re.compile(r"(?P<key>\+{0,2}[\w.$-]+)=(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_FUNCTION = re.compile(r"\w+ ?\(.*\)", re.DOTALL)
_CHOICE = re.compile(r"choice ?\((?P<values>.*)\)", re.DOTALL)
_INTERPOLATION = re.compile(r"(\\*)\$\{")


def takes_path(key: str) -> bool:
    """Whether a key takes the path of a file or folder."""
    return key in _HYDRA_PATHS if key.startswith("hydra") else key.rpartition(".")[2] in PATHS


def takes_text(key: str) -> bool:
    """Whether a key takes text, a path for example."""
    if key.startswith("hydra"):
        return key in _HYDRA_PATHS | _HYDRA_TEXTS
    return key.rpartition(".")[2] in PATHS | TEXTS


def parse(override: str) -> Override | None:
    """Read a setting as Hydra does; None where it cannot."""
    try:
        return _parser().parse_override(override)
    except HydraException:
        return None


def has_several_values(override: str) -> bool:
    """Whether a setting makes a run of each of its values."""
    parsed = parse(override)
    return parsed is not None and parsed.is_sweep_override()


def as_typed(override: str) -> str:
    """Write a setting so that Hydra takes a text as it was typed, with `~` for a home folder.

    What Hydra has of its own stays so: quotes, `${...}`, lists of values and `choice(...)`. An
    existing path is always taken as typed.

    Raises:
        CommandError: there is no value or no such user, or a name that no configuration can hold.
    """
    if not override.strip():
        raise CommandError("an argument is empty (is a shell variable not set?): leave it out")
    match = _SETTING.fullmatch(override)
    if match is None:
        return override
    key, value = match["key"].lstrip("+"), match["value"]
    if not value.strip():
        raise CommandError(
            f"{override.strip()} has no value (is a shell variable not set?): write {key}=VALUE, "
            f"or leave {key} out"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        shown = value.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise CommandError(f"{key}={shown} is not UTF-8: rename it, or give a link to it")
    if takes_text(key):
        value = _values(key, value)
    elif parse(override) is None:
        # whatever is wrong with it, its key's kind tells best
        value = quoted(_literal(value))
    return f"{match['key']}={value}"


def quoted(text: str) -> str:
    """Quote any text as a string of Hydra."""
    return QuotedString(text, Quote.single).with_quotes()


def one_value(key: str, value: str) -> str:
    """What to type in a shell so that commas do not part a value in several."""
    if re.search(r'["$`\\!]', value):
        return shlex.quote(f"{key}={quoted(value)}")
    # quotes that are easy to read, where nothing in the text would end them
    return f'"{key}=\\"{value}\\""' if "'" in value else f"{key}=\"'{value}'\""


def _values(key: str, value: str) -> str:
    """One or several values of a key that takes text."""
    if takes_path(key) and _is_there(value):
        return _as_needed(value, _literal(value))
    parts = _split(value)
    if len(parts) > 1:
        if not all(part.strip() for part in parts):
            raise CommandError(
                f"{key}={value} has an empty value between its commas: leave the comma out, or "
                f"type {one_value(key, value)} if it is one value"
            )
        return ",".join(_values(key, part.strip()) for part in parts)
    parsed = parse(f"x={value}")
    if parsed is None or not _FUNCTION.fullmatch(value.strip()):
        return _one(key, value, parsed)
    choice = _CHOICE.fullmatch(value.strip())
    return f"choice({_values(key, choice['values'])})" if choice else value


def _one(key: str, value: str, parsed: Override | None) -> str:
    found = None if parsed is None else parsed.value()
    if parsed is not None and found is None:
        return value
    text = found if isinstance(found, str) else value.strip()
    if not text.strip():
        raise CommandError(f"{key}={value} has no value: write {key}=VALUE, or leave {key} out")
    if takes_path(key) and text.startswith("~") and not _is_there(text):
        text = os.path.expanduser(text)
        if text.startswith("~"):
            user = text[1:].partition("/")[0]
            raise CommandError(f"{key}={value}: there is no user {user}; ./~{user} is a folder")
    return _as_needed(value.strip(), text)


def _as_needed(value: str, text: str) -> str:
    """The value itself where Hydra reads the text from it, else the text in quotes."""
    parsed = parse(f"x={value}")
    return value if parsed is not None and parsed.value() == text else quoted(text)


def _is_there(text: str) -> bool:
    named = text.strip().lower() not in ("", "null") and not _QUOTED.fullmatch(text)
    return named and os.path.lexists(text)


def _literal(text: str) -> str:
    """Without interpolation."""
    return _INTERPOLATION.sub(lambda match: match[1] * 2 + r"\${", text)


def _split(value: str) -> list[str]:
    """At the commas outside of quotes and brackets."""
    parts, start, depth, position = [], 0, 0, 0
    while position < len(value):
        quotes = _QUOTED.match(value, position) if not value[start:position].strip() else None
        letter = value[position]
        if quotes:
            position = quotes.end()
            continue
        if letter == "," and depth == 0:
            parts.append(value[start:position])
            start = position + 1
        depth = max(0, depth + (letter in "([{") - (letter in ")]}"))
        # a backslash takes the meaning from what comes after it
        position += 2 if letter == "\\" else 1
    return [*parts, value[start:]]


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
