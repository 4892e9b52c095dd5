import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import ood_sampler

SOURCE = ast.parse(Path(ood_sampler.__file__).read_text())

WITH_EXAMPLES = [
    "Images",
    "Result",
    "Table",
    "correct",
    "decode",
    "draw",
    "evaluate",
    "invert",
    "load_domain",
    "load_model",
    "sheet",
]


def typed() -> dict[str, str]:
    """Module of each name, as type checkers see it."""
    (block,) = (n for n in SOURCE.body if isinstance(n, ast.If) and "TYPE" in ast.dump(n.test))
    return {
        alias.asname or alias.name: node.module or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_what_is_imported() -> None:
    assert sorted(typed()) == ood_sampler.__all__
    assert {*ood_sampler.__all__} <= {*dir(ood_sampler)}
    for name, module in typed().items():
        found = getattr(ood_sampler, name)
        if name != "run":
            assert (found.__name__, found.__module__) == (name, module)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="ood_sampler' has no attribute 'invrt'"):
        _ = ood_sampler.invrt  # type: ignore[attr-defined]
    assert not hasattr(ood_sampler, "__path_of_nothing__")


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, ood_sampler; dir(ood_sampler); "
        "heavy = {'torch', 'lightning', 'hydra', 'numpy', 'PIL', 'rich'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_run_is_the_same_before_and_after_its_module_is_imported() -> None:
    code = (
        "import ood_sampler; first = ood_sampler.run; import ood_sampler.run; "
        "assert first is ood_sampler.run and callable(first); "
        "from ood_sampler import run; from ood_sampler.run import main; assert run is first"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def run_example(name: str, documented: object) -> None:
    text = documented.__doc__ or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_example_of_a_name_does_what_it_says(name: str) -> None:
    run_example(name, getattr(ood_sampler, name))


def test_the_examples_of_methods_do_what_they_say() -> None:
    run_example("replaced", ood_sampler.Latents.replaced)
    run_example("run", ood_sampler.run.in_process)
