"""What is built and installed is what is here: packages, data, the command."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"nmt": ROOT / "nmt", "nmt_cli": ROOT / "cli", "nmt_recipes": ROOT / "recipes"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_on_disk() -> set[str]:
    return {
        ".".join([name, *init.parent.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for init in folder.rglob("__init__.py")
    }


def data_on_disk() -> set[str]:
    """What a wheel must carry beside Python sources, under the names it has there."""
    return {
        str(Path(name) / path.relative_to(folder))
        for name, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def test_the_list_of_packages_is_what_is_on_disk(project: dict[str, Any]) -> None:
    assert set(project["tool"]["setuptools"]["packages"]) == packages_on_disk()


@pytest.mark.parametrize("name", FOLDERS)
def test_every_folder_with_sources_is_a_package(name: str) -> None:
    folders = {path.parent for path in FOLDERS[name].rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_version_is_written_once_in_each_place(project: dict[str, Any]) -> None:
    import nmt

    assert project["project"]["version"] == nmt.__version__
    assert f"## {nmt.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_public_names_can_all_be_had() -> None:
    import nmt

    assert sorted(nmt.__all__) == nmt.__all__
    assert [name for name in nmt.__all__ if not hasattr(nmt, name)] == []
    assert set(nmt.__all__) <= set(dir(nmt))
    with pytest.raises(AttributeError, match="module 'nmt' has no attribute 'translate_all'"):
        nmt.translate_all  # noqa: B018


def test_the_recipes_are_found_when_installed() -> None:
    from importlib.resources import files

    assert files("nmt_recipes").joinpath("demo", "transformer.toml").is_file()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and, made from that sdist, the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return folder


def test_the_wheel_holds_the_packages_and_their_data_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("nmt-*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        str(Path(name) / path.relative_to(folder)) for name, folder in FOLDERS.items() for path in folder.rglob("*.py")
    }
    assert names == sources | data_on_disk()


def test_the_sdist_holds_what_the_checkout_does(built: Path, tracked: set[str]) -> None:
    """Tests, benchmarks and pages too, and in the place of the link for type checkers the sources that it leads to."""
    with tarfile.open(next(built.glob("nmt-*.tar.gz"))) as sdist:
        files = {name.partition("/")[2] for name in sdist.getnames() if sdist.getmember(name).isfile()}
    made = {name for name in files if name.startswith("nmt.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    left_out = {".ci/run", ".gitattributes", ".gitignore"}
    linked = {f"typings/nmt_cli/{path.relative_to(ROOT / 'cli')}" for path in (ROOT / "cli").rglob("*.py")}
    link = {"typings/nmt_cli", "typings/nmt_cli/py.typed"}
    assert (tracked | linked) - left_out - link == files - made - link


def test_the_wheel_works_in_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    """Installed without the checkout in reach; the libraries it needs are lent by this environment."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    wheel = str(next(built.glob("nmt-*.whl")))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
        timeout=120,
    )
    # Appended to the path, not installed and not a site folder: the editable install of this checkout stays out.
    lent = [path for path in sys.path if path.endswith("site-packages")]
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NMT_"))}

    def run(*arguments: str) -> str:
        return subprocess.run(
            arguments, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment, timeout=60
        ).stdout

    nmt = str(tmp_path / "venv" / "bin" / "nmt")
    assert run(nmt, "--version").startswith("nmt ")
    assert "translate" in run(nmt, "--help")
    where = run(str(python), "-c", "import nmt, nmt_cli.main as m; print(nmt.__file__, m.__file__)")
    assert all(path.startswith(str(tmp_path)) for path in where.split())
    recipe = run(str(python), "-c", "import nmt_recipes as r; print(r.__path__[0])").strip()
    assert "[training]" in run(nmt, "config", f"{recipe}/demo/transformer.toml")
