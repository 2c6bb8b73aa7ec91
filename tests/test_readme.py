"""What the README and its neighbours say is so: commands run, links lead somewhere, the map is the territory.

Every command of the README's ``sh`` blocks runs as it is written, in order, in one folder. The ``nmt`` and the
``torchrun`` it finds are the real ones behind a few lines of shell that make the corpus and the training small, and
their ``python`` is one that has torch loaded, so that it takes seconds.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from nmt.config import parse_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "recipes/README.md",
    "benchmarks/README.md",
    "docs/multi30k.md",
    "docs/performance.md",
)

SMALLER = """#!/bin/sh
case $1 in
    synth) set -- "$@" --pairs 200 --valid 4 --test 6 ;;
    train) set -- "$@" --set tokenizer.vocabulary=500 --set training.max_steps=3 --set training.validate_every=1 \\
        --set decoding.max_ratio=1 --set decoding.max_extra=2
        case "$*" in *--budget*) set -- "$@" --budget 1s ;; esac ;;
    prepare) set -- "$@" --set tokenizer.vocabulary=500 ;;
    race) set -- "$@" --budget 1s --seeds 1 --set tokenizer.vocabulary=500 --set decoding.max_ratio=1 \\
        --set decoding.max_extra=2 ;;
esac
exec {python} -m nmt "$@"
"""


SMALLER_TORCHRUN = """#!/bin/sh
exec {python} -m torch.distributed.run "$@" --set tokenizer.vocabulary=500 --set training.max_steps=3 \\
    --set training.validate_every=3 --set decoding.max_ratio=1 --set decoding.max_extra=2
"""


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def folder(warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would be: a checkout's recipes, and ``nmt`` on the path."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "bin").mkdir()
    for name, script in (("nmt", SMALLER), ("torchrun", SMALLER_TORCHRUN)):
        (folder / "bin" / name).write_text(script.format(python=warm_python))
        (folder / "bin" / name).chmod(0o755)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False
    )


def test_every_command_runs(warm_python: str, folder: Path) -> None:
    assert len(commands()) > 8
    for command in commands():
        done = run(folder, "bash", "-c", command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "nmt: error" not in done.stderr, f"{command}\n{done.stderr}"
    assert (folder / "test.fr").read_text().count("\n") == 6
    assert (folder / "attention.svg").stat().st_size > 1000
    for block in blocks("python"):
        done = run(folder, warm_python, "-c", block)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_every_recipe_is_one() -> None:
    shown = [parse_recipe(block, name="README.md") for block in blocks("toml")]
    assert [len(recipe.data.train) for recipe in shown] == [2]


def test_every_verb_is_shown() -> None:
    from nmt_cli.main import VERBS

    shown = {match for command in commands() for match in re.findall(r"\bnmt (\w+)", command)}
    assert set(VERBS) - {"demo"} <= shown
    assert "`make demo`" in README


def test_make_has_every_target_that_is_named() -> None:
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    named = {target for page in pages for target in re.findall(r"(?:`|^\$ )make ([a-z-]+)", page, re.MULTILINE)}
    assert {"demo", "test", "check", "bench-train"} <= named
    assert named <= rules


def test_the_makefile_names_what_it_takes_and_does() -> None:
    """At its top every target and every variable; in the map every target."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    top = text.partition("\n\n")[0]
    targets = set(re.findall(r"^([\w-]+):", text, re.MULTILINE)) - {"again"}
    assert {"demo", "test", "format", "clean"} <= targets
    assert [name for name in targets if f"# make {name} " not in top] == []
    variables = {name for name in re.findall(r"^(\w+) \?=", text, re.MULTILINE) if name != "PEERS"}
    assert [name for name in {*variables, "PYTHON", "TORCH"} if f"{name}=" not in top] == []
    (row,) = re.findall(r"^Makefile +(.*)$", README, re.MULTILINE)
    assert sorted(row.removeprefix("make ").split(", ")) == sorted(targets)


def test_the_check_runs_before_every_commit() -> None:
    hook = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert "entry: make check" in hook
    assert "always_run: true" in hook
    assert "types" not in hook.replace("style, types,", "")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target.partition("#")[0]).exists()] == []


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`((?:nmt|cli|tests)/[\w/.-]*)`", text)]
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_exit_codes_are_those_of_the_errors() -> None:
    from nmt import errors

    rows = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE) for code in row.split(",")}
    ours = {
        one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.NmtError)
    }
    assert ours | {0, 130, 141, 143} == rows


def test_every_error_is_raised_somewhere() -> None:
    from nmt import errors

    sources = [path for folder in ("nmt", "cli") for path in (ROOT / folder).rglob("*.py") if path.name != "errors.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    ours = [name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.NmtError)]
    assert [name for name in ours if not re.search(rf"\b{name}\(", code)] == []


def test_the_map_says_of_a_module_what_its_docstring_begins_with() -> None:
    """But for markup, of which the map has none or less."""

    def plain(text: str) -> str:
        return re.sub(r":\w+:|`", "", " ".join(text.split()))

    block = next(block for block in blocks("text") if "nmt/config.py" in block)
    unlike = []
    for name, told in (line.split(maxsplit=1) for line in block.splitlines() if line):
        if name.endswith(".py") and "*" not in name:
            docstring = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8")))
            if docstring and not plain(docstring).startswith(plain(told)):
                unlike.append(f"{name}: {told}")
    assert unlike == []


def test_the_map_has_every_file_and_no_other(tracked: set[str]) -> None:
    block = next(block for block in blocks("text") if "nmt/config.py" in block)
    lines = [line.split(maxsplit=1) for line in block.splitlines() if line]
    assert [line[0] for line in lines if len(line) < 2] == []
    patterns = [line[0] for line in lines]
    files = tracked - {"README.md"}
    assert [name for name in sorted(files) if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in files)] == []
