"""Texts arrive as they were typed."""

import inspect
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from ood_sampler.command.quoting import as_typed, one_value, parse, takes_path, takes_text
from ood_sampler.config import CONF
from ood_sampler.faults import CommandError

OPTIONS = [
    (group, file)
    for group in ("data", "logger", "metrics", "model", "sampler", "solver", "study")
    for file in sorted((CONF / group).glob("*.yaml"))
]


def value(setting: str) -> Any:  # noqa: ANN401 of any kind
    """What a run finds in its configuration."""
    key = setting.partition("=")[0]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", ["data=folder", as_typed(setting)])
    return OmegaConf.select(cfg, key)


@pytest.mark.parametrize(
    "text",
    [
        *("2024_05", "5", "-5", "007", "1e3", "1.50", "true", "No", "nan", "inf", "12_000"),
        *("Galaxies (2020)", "a=b", "x&y", "it's", "run#1", 'say "x"', "10%", "a b", "naïve", "星"),
        *(
            "a:b",
            "[x]",
            "{x}",
            "{a: b}",
            "x;y",
            "a!b",
            "a^b",
            "<x>",
            "x|y",
            "a(b",
            "a]b",
            "Fig (a)",
        ),
        *("C:\\dir\\", "$x", "a@b", "*", "?", "2024-05-01", "0x10", "a'b\"c", "`x`", "a~b", "x\ny"),
        *("Fig (a,b)", "[a,b]"),
    ],
)
def test_a_text_arrives_as_it_was_typed(text: str) -> None:
    for key in ("output", "data.name"):
        assert value(f"{key}={text}") == text


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("data.root=2024_05,b,1e3", "data.root='2024_05',b,'1e3'"),
        ("data.root=Fields (x,y), it's", "data.root='Fields (x,y)','it\\'s'"),
        ("output=choice(2024_05,b)", "output=choice('2024_05',b)"),
        ("model.name='a,b',5", "model.name='a,b','5'"),
        ("model.name=a\\,b", "model.name=a\\,b"),
        ("output=null", "output=null"),
        ("data.held_out_root=Null", "data.held_out_root=Null"),
        ("++data.root=5", "++data.root='5'"),
        ("hydra.run.dir=2024_05", "hydra.run.dir='2024_05'"),
        ("data.revision=5e1234", "data.revision='5e1234'"),
        # what is no text stays Hydra's
        ("seed=2024_05", "seed=2024_05"),
        ("search.steps=[1,2]", "search.steps=[1,2]"),
        ("sampler=glob(*)", "sampler=glob(*)"),
        ("~logger", "~logger"),
        ("output=outputs/x", "output=outputs/x"),
        ("output=${oc.env:HOME}/x", "output=${oc.env:HOME}/x"),
    ],
)
def test_hydras_own_syntax_stays(typed: str, taken: str) -> None:
    assert as_typed(typed) == taken
    assert as_typed(taken) == taken


def test_interpolations_go_on_working(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURES", "2024_05")
    assert value("data.root=${oc.env:PICTURES}") == "2024_05"
    assert value("data.root=/x/${oc.env:PICTURES} (new)") == "/x/2024_05 (new)"
    assert value("data.root=${oc.env:MISSING,/y}/z") == "/y/z"


def test_a_path_that_exists_is_taken_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("a,b", "a, b", "range(1,3)", "x\\(y", "${z}", "~", "~x", "[a]", " lead", "choice(a,b)")
    for name in names:
        (tmp_path / name).mkdir()
        assert value(f"data.root={name}") == name
        assert value(f"data.root={tmp_path}/{name}") == f"{tmp_path}/{name}"
    # null leaves a key unset, whatever lies there
    (tmp_path / "null").mkdir()
    assert value("data.held_out_root=null") is None


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for key in ("output", "data.root", "data.held_out_root", "model.path"):
        assert value(f"{key}=~/pics") == f"{tmp_path}/pics"
    assert value("data.root=~") == str(tmp_path)
    assert value("data.root='~/Galaxies (2020)'") == f"{tmp_path}/Galaxies (2020)"
    assert as_typed("data.root=~/a,~/b c") == f"data.root='{tmp_path}/a','{tmp_path}/b c'"
    assert value("data.root=~root/x") == f"{Path('~root').expanduser()}/x"
    # a name is no path
    assert value("data.name=~/pics") == "~/pics"
    with pytest.raises(CommandError, match="there is no user nobody-here"):
        as_typed("data.root=~nobody-here/x")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("output=", "output= has no value (is a shell variable not set?): write output=VALUE"),
        ("output= \t", "output= has no value"),
        ("output=''", "output='' has no value"),
        ('data.name=" "', 'data.name=" " has no value'),
        ("data.held_out_root=", "or leave data.held_out_root out"),
        ("seed=", "seed= has no value"),
        ("data=", "data= has no value"),
        ("hydra.run.dir=", "hydra.run.dir= has no value"),
        ("data.root=a,,b", "has an empty value between its commas"),
        ("data.root=a,", "type data.root=\"'a,'\" if it is one value"),
        ("", "an argument is empty"),
        ("output=\udce9x", r"output=\xe9x is not UTF-8"),
    ],
)
def test_a_value_that_is_none_is_refused(setting: str, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        as_typed(setting)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["a,b", "It's, b", 'say "x", y', "a$b,c", "b\\s,x", "!a,b", "`a`,b", "ü,é", 'it\'s "x", $y\\'],
)
def test_the_quotes_that_a_message_shows_work_in_a_shell(text: str) -> None:
    command = f"printf %s {one_value('output', text)}"
    ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    parsed = parse(as_typed(ended.stdout))
    assert parsed is not None
    assert parsed.value() == text


def texts_of(node: Any, prefix: str) -> dict[str, bool]:  # noqa: ANN401 of the configuration
    """Keys of a configuration's targets, and whether these are annotated to take text."""
    found: dict[str, bool] = {}
    target = node.get("_target_")
    parameters = {} if target is None else inspect.signature(get_object(target)).parameters
    for key, child in node.items():
        if isinstance(child, dict):
            found |= texts_of(child, f"{prefix}{key}.")
        elif key in parameters:
            annotation = parameters[key].annotation
            found[f"{prefix}{key}"] = annotation in (str, "str", str | None, str | Path | None)
        elif key not in ("_target_", "_partial_"):
            found[f"{prefix}{key}"] = False
    return found


@pytest.mark.parametrize(("group", "file"), OPTIONS, ids=lambda part: getattr(part, "stem", part))
def test_keys_that_take_text_are_those_annotated_so(group: str, file: Path) -> None:
    node = OmegaConf.to_container(OmegaConf.load(file))
    for key, is_text in texts_of(node, f"{group}.").items():
        assert takes_text(key) == is_text, key
        assert not takes_path(key) or is_text, key
