"""The house has rooms in an order, and a room imports only from those before it.

Read from the source, so that an import inside a function counts as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    "errors",
    "files",
    "memory",
    "distributed",
    "config",
    "data",
    "layers",
    "models",
    "checkpoint",
    "decoding",
    "evaluation",
    "alignment",
    "formats",
    "training",
    "export",
    "race",
    "demo",
)
LIBRARY = sorted((ROOT / "nmt").rglob("*.py"))
SOURCES = sorted([*LIBRARY, *(ROOT / "cli").rglob("*.py")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    """``nmt/data/text.py`` as ``nmt.data.text``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """``nmt.data.text`` as ``data``; ``nmt`` itself as the empty name."""
    return module.partition("nmt.")[2].partition(".")[0]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module a source imports, with the line; ``from nmt import config`` counts as ``nmt.config``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            module = node.module or ""
            if module == "nmt":
                yield from ((node.lineno, f"nmt.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def faults(path: Path, text: str) -> list[str]:
    """What a source imports that it should not."""
    found = []
    room = room_of(module_of(path))
    in_library = path.is_relative_to(ROOT / "nmt")
    for line, module in imported(ast.parse(text)):
        where = f"{name_of(path)}:{line}"
        if module.split(".")[0] == "nmt_cli" and in_library and path.name != "__main__.py":
            found.append(f"{where}: the library imports the command line")
        if module.split(".")[0] != "nmt" or not in_library or room in ("", "__main__"):
            continue
        other = room_of(module)
        if other not in ROOMS and other and not other.startswith("__"):  # nmt itself has the version
            found.append(f"{where}: {module} is in no room")
        elif other in ROOMS and ROOMS.index(other) > ROOMS.index(room):
            found.append(f"{where}: {room} imports from {other}, which comes after it")
    return found


def test_every_module_is_in_a_room() -> None:
    rooms = {room_of(module_of(path)) for path in LIBRARY}
    assert rooms - {"", "__main__"} <= set(ROOMS)


def test_contributing_has_the_rooms_in_this_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = next(block for block in re.findall(r"(?:^    .+\n)+", text, re.MULTILINE) if "errors, files" in block)
    assert re.split(r",\s+", said.strip()) == [*ROOMS, "cli"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_come_from_earlier_rooms(path: Path) -> None:
    assert faults(path, path.read_text()) == []


@pytest.mark.parametrize(
    "path, text, fault",
    [
        (
            "nmt/data/text.py",
            "def f():\n    from nmt.models import build",
            "nmt/data/text.py:2: data imports from models",
        ),
        ("nmt/config.py", "import nmt.checkpoint", "nmt/config.py:1: config imports from checkpoint"),
        ("nmt/layers/a.py", "from nmt import training", "nmt/layers/a.py:1: layers imports from training"),
        ("nmt/training/a.py", "import nmt_cli.main", "nmt/training/a.py:1: the library imports the command line"),
        ("nmt/training/a.py", "from nmt.attic import b", "nmt/training/a.py:1: nmt.attic is in no room"),
    ],
)
def test_a_wrong_import_is_found(path: str, text: str, fault: str) -> None:
    assert [found[: len(fault)] for found in faults(ROOT / path, text)] == [fault]


FORBIDDEN = {
    "pickle": r"\bc?[pP]ickle\b(?!s)",
    "torch.load": r"\btorch\s*\.\s*load\b",
    "numpy pickles": r"allow_pickle\s*=\s*True",
    "yaml.load": r"\byaml\s*\.\s*(unsafe_|full_)?load\b",
    "eval": r"(?<![.\w])(eval|exec)\s*\(",
    "shelve, marshal, joblib, dill": r"\bimport (shelve|marshal|joblib|dill)\b",
    "shell": r"shell\s*=\s*True|\bos\.system\(",
}


def code_of(text: str) -> str:
    """A source without its docstrings and comments: prose may name what code must not use."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not is_string(part)] or [ast.Pass()]
    return ast.unparse(tree)


def is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    code = code_of(path.read_text())
    assert [name for name, pattern in FORBIDDEN.items() if re.search(pattern, code)] == []


@pytest.mark.parametrize(
    "code, name",
    [
        ("import pickle", "pickle"),
        ("torch.load(path)", "torch.load"),
        ("yaml.load(text)", "yaml.load"),
        ("x = eval('1')", "eval"),
        ("numpy.load(path, allow_pickle=True)", "numpy pickles"),
    ],
)
def test_forbidden_calls_are_found(code: str, name: str) -> None:
    assert re.search(FORBIDDEN[name], code_of(code))


def test_model_eval_and_the_safe_cousins_are_allowed() -> None:
    code = code_of("'''Holds no pickle.'''\nmodel.eval()\ntomllib.loads(text)\nnumpy.load(path, allow_pickle=False)")
    assert not any(re.search(pattern, code) for pattern in FORBIDDEN.values())
