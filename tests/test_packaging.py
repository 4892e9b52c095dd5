"""What is installed works from any folder, without the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ood_sampler.__main__ import main
from ood_sampler.faults import install

ROOT = Path(__file__).parents[1]

COMMANDS = """
import sys
from ood_sampler.__main__ import main

for command in sys.stdin.read().splitlines():
    sys.argv = ["ood-sampler", *command.split()]
    main()
from ood_sampler.faults import install
print(install("astro"))
"""


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build a `wheel` or an `sdist` of a folder, without network."""
    code = f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run(command, cwd=source, check=True, capture_output=True, env=environment)
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.mark.slow
def test_a_wheel_of_an_sdist_works_from_another_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("conf", "ood_sampler"):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.unpack_archive(build("sdist", source, tmp_path), tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    site = tmp_path / "site"
    shutil.unpack_archive(build("wheel", unpacked, tmp_path), site, "zip")
    names = {str(file.relative_to(site)) for file in site.rglob("*") if file.is_file()}
    options = {str(file.relative_to(ROOT)) for file in (ROOT / "conf").rglob("*.yaml")}
    assert {f"ood_sampler/{name}" for name in options} <= names
    assert "ood_sampler/assets/dog32/unet/config.json" in names
    for part in ("scripts", "templates"):
        files = (ROOT / "ood_sampler" / "report" / part).iterdir()
        assert {f"ood_sampler/report/{part}/{file.name}" for file in files} <= names
    assert not [name for name in names if name.startswith(("conf", "tests", "setup"))]
    entry_points = next(site.glob("*.dist-info")) / "entry_points.txt"
    assert "ood-sampler = ood_sampler.__main__:main" in entry_points.read_text()

    (tmp_path / "elsewhere").mkdir()
    dry = "dry_run=true num_samples=6 batch_size=2 solver.steps=2 data.few_shot=6 data.held_out=6"
    dry += " measure.film=0"
    ended = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=f"run --help\nmodels\nrun {dry} output=2024_05\n",
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "galaxy32" in ended.stdout
    assert f"present  {site}/ood_sampler/assets/dog32" in ended.stdout
    assert "in all 72 evaluations" in ended.stderr
    # there is no project's folder to install an extra from
    assert ended.stdout.endswith("pip install 'statmorph>=0.7'\n")


def test_an_extra_of_a_checkout_is_installed_there() -> None:
    assert install("astro") == "pip install -e '.[astro]' in the project's folder"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 0, "usage: ood-sampler run [KEY=VALUE ...]"),
        (["--help"], 0, "ood-sampler train"),
        (["--version"], 0, "ood-sampler 0.1.0"),
        (["trian", "--help"], 2, "error: trian is not known; try ood-sampler train --help"),
        (["models", "--help"], 0, "models verify NAME"),
    ],
)
def test_one_script_starts_all_programs(
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["ood-sampler", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    if code:
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    else:
        main()
    written = capsys.readouterr()
    assert said in written.out + written.err
