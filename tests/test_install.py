"""What make and scripts/install do with environments that are there: nothing is lost, what is asked for is had.

In an environment's place stands a folder whose interpreter writes down what pip is told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")

PYTHON = """#!/bin/sh
case "$*" in
    "-m pip --version") exec test -e {folder}/pip ;;
    "-m ensurepip") {ensurepip} ;;
    "-m pip"*) shift 3; echo "$*" >> {folder}/told ;;
    *) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment with pip, and beside it a torch built for processors."""
    folder = tmp_path / "venv"
    new_python(folder)
    (folder / "pyvenv.cfg").touch()
    (folder / "pip").touch()
    new_torch(tmp_path, cuda=None)
    return folder


def new_python(folder: Path, ensurepip: str | None = None) -> None:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    program = folder / "bin" / "python"
    program.write_text(
        PYTHON.format(folder=folder, python=sys.executable, ensurepip=ensurepip or f"touch {folder}/pip")
    )
    program.chmod(0o755)


def new_torch(folder: Path, cuda: str | None) -> None:
    (folder / "torch").mkdir(exist_ok=True)
    (folder / "torch" / "__init__.py").touch()
    (folder / "torch" / "version.py").write_text(f"cuda = {cuda!r}\nhip = None\n")


def install(folder: Path, **choice: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "TORCH")}
    environment |= {"TORCH": "gpu", "PYTHONPATH": str(folder.parent), **choice}
    command = [str(ROOT / "scripts" / "install"), str(folder), "--editable", "."]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False)


def told(folder: Path) -> list[str]:
    """What pip was told, "--disable-pip-version-check" left out."""
    return (folder / "told").read_text().splitlines()


def test_an_environment_without_pip_is_given_it(folder: Path) -> None:
    (folder / "pip").unlink()
    (folder / "kept").touch()
    done = install(folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "kept").exists()
    assert told(folder)[-1] == "install --editable ."


def test_an_environment_that_cannot_be_given_pip_stays(folder: Path) -> None:
    (folder / "pip").unlink()
    new_python(folder, ensurepip="exit 1")
    done = install(folder)
    assert done.returncode == 1
    assert "has no pip that runs, and ensurepip gives it none" in done.stderr
    assert (folder / "bin" / "python").exists()


def test_an_environment_whose_interpreter_is_gone_is_made_anew(folder: Path) -> None:
    (folder / "bin" / "python").unlink()
    (folder / "old").touch()
    done = install(folder, PYTHON="/nowhere/python")
    assert "PYTHON=/nowhere/python is not a Python 3.11 to 3.14" in done.stderr
    assert (folder / "old").exists()
    fake = folder.parent / "python3"  # stands for an interpreter that makes environments
    fake.write_text(f'#!/bin/sh\n[ "$2" = venv ] || exec {sys.executable} "$@"\necho "$*" >&2\nexit 1\n')
    fake.chmod(0o755)
    done = install(folder, PYTHON=str(fake))
    assert f"-m venv --clear {folder}" in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "letter").touch()
    done = install(folder)
    assert done.returncode == 1
    assert f"{folder} is there and is no virtual environment" in done.stderr
    assert (folder / "letter").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="torch has one build here")
@pytest.mark.parametrize("there, wanted, changed", [
    (None, "cpu", False), ("13.0", "cpu", True), (None, "gpu", True), ("13.0", "gpu", False),
])  # fmt: skip
def test_torch_is_installed_anew_where_its_build_is_another(
    folder: Path, there: str | None, wanted: str, changed: bool
) -> None:
    new_torch(folder.parent, cuda=there)
    done = install(folder, TORCH=wanted)
    assert done.returncode == 0, done.stderr
    assert any("--force-reinstall" in line and "torch" in line for line in told(folder)) == changed
    assert any("download.pytorch.org/whl/cpu" in line for line in told(folder)) == (wanted == "cpu")
    assert (folder / ".choice").read_text() == f"TORCH={wanted} PYTHON=\n"


def test_another_python_is_told_and_not_taken(folder: Path) -> None:
    other = folder.parent / "python3.99"
    other.write_text("#!/bin/sh\necho /elsewhere 3.99\n")
    other.chmod(0o755)
    done = install(folder, PYTHON=str(other))
    assert done.returncode == 1
    assert f"than PYTHON={other}: remove it" in done.stderr
    assert not (folder / "told").exists()
    assert install(folder, PYTHON=sys.executable).returncode == 0


def test_a_python_that_is_none_is_not_compared_with_what_is_there(folder: Path) -> None:
    done = install(folder, PYTHON="/nowhere/python3.12")
    assert (done.returncode, done.stderr) == (1, "PYTHON=/nowhere/python3.12 is not a Python 3.11 to 3.14\n")


def make(*arguments: str, cwd: Path = ROOT) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TORCH", "MAKE"))
    }
    command = ["make", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("name, target", [(".installed", "demo"), (".developing", "check")])
def test_make_goes_over_an_environment_that_was_made_for_another_choice(folder: Path, name: str, target: str) -> None:
    (folder / name).touch()

    def installs(*choice: str) -> bool:
        return "scripts/install" in make("-n", target, f"VENV={folder}", *choice)

    assert not installs()
    assert installs("TORCH=cpu")
    (folder / ".choice").write_text("TORCH=cpu PYTHON=\n")
    assert not installs("TORCH=cpu")
    assert not installs()
    assert installs("TORCH=gpu")
    assert installs("PYTHON=/usr/bin/python3")


def test_make_clean_leaves_sources_and_runs(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("nmt/data", "cli", "recipes", "tests", "benchmarks", "runs"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "kept.py").touch()
    for name in (".venv", ".venv-peers", ".hypothesis", "nmt.egg-info", "dist"):
        (tmp_path / name).mkdir()
    make("clean", cwd=tmp_path)
    left = {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() or not any(path.iterdir())
    }
    kept = {f"{name}/kept.py" for name in ("nmt/data", "cli", "recipes", "tests", "benchmarks", "runs")}
    assert left == {"Makefile", "runs/__pycache__", *kept}


def test_make_does_one_thing_at_a_time() -> None:
    assert ".NOTPARALLEL:" in (ROOT / "Makefile").read_text().splitlines()
