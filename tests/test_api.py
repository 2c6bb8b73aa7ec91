"""The public interface: every name is there, typed and documented, and its example runs."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import nmt

NAMES = [name for name in nmt.__all__ if not name.startswith("_")]


def functions(name: str) -> list[tuple[str, Any]]:
    """What can be called of a public name: the function itself, or the public methods a class of ours defines."""
    value = getattr(nmt, name)
    if not inspect.isclass(value):
        return [(name, value)]
    own = {
        key: member for one in value.__mro__ if one.__module__.startswith("nmt.") for key, member in vars(one).items()
    }
    unwrapped = ((key, getattr(member, "__func__", getattr(member, "fget", member))) for key, member in own.items())
    return [(f"{name}.{key}", one) for key, one in unwrapped if inspect.isfunction(one) and not key.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented_and_typed(name: str) -> None:
    assert (getattr(nmt, name).__doc__ or "").strip()
    for called, function in functions(name):
        signature = inspect.signature(function)
        assert inspect.getdoc(function), f"{called} has no docstring"
        assert signature.return_annotation is not inspect.Signature.empty, f"{called} does not say what it gives"
        untyped = [
            one.name
            for one in signature.parameters.values()
            if one.annotation is inspect.Parameter.empty and one.name not in ("self", "cls")
        ]
        assert untyped == [], f"{called}: parameters without a type"


def test_the_names_are_all_loaded_lazily_and_listed() -> None:
    assert set(NAMES) <= set(dir(nmt))
    heavy = "{'torch', 'numpy', 'pydantic', 'sentencepiece'}"
    code = f"import sys, nmt; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_example_of_the_package_runs(untrained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nmt.__doc__ is not None
    example = textwrap.dedent(nmt.__doc__.split("::\n")[1].split("\n\nImporting")[0])
    assert "runs/demo/transformer" in example
    exec(example.replace("runs/demo/transformer", str(untrained_run)), {})
    lines = capsys.readouterr().out.splitlines()
    translator = nmt.Translator.load(untrained_run)
    (expected,) = translator.translate(["The women see the house."], nbest=2, attention=True)
    assert lines[0] == expected.text
    assert lines[1:] == [f"{one.log_probability:.2f} {one.text}" for one in expected.hypotheses] + [
        str(sorted(nmt.LinkRule()(nmt.Alignment.of(expected))))
    ]
