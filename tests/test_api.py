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


def test_paths_may_be_strings(untrained_run: Path, tmp_path: Path) -> None:
    run = nmt.Run.open(str(untrained_run))
    assert run.folder == untrained_run
    assert run.best().folder.parent == untrained_run / "models"
    assert nmt.load_recipe(str(untrained_run / "recipe.toml")) == run.recipe
    nmt.Tokenizer.load(str(untrained_run / "source.model")).save(str(tmp_path / "copy.model"))
    assert (tmp_path / "copy.model").read_bytes() == (untrained_run / "source.model").read_bytes()
    nmt.Run.create(str(tmp_path / "run"), run.recipe, run.tokenizers)
    assert nmt.Run.open(tmp_path / "run").recipe == run.recipe
    session = nmt.Session(str(tmp_path / "run"), store=str(tmp_path / "store"))
    assert session == nmt.Session(tmp_path / "run", store=tmp_path / "store")
    assert session.kept == tmp_path / "store"


def test_a_word_that_is_none_is_not_taken_for_another(warm_python: str, untrained_run: Path) -> None:
    """In a Python that checks no types as tests do."""
    faults = {
        "nmt.evaluate(['a'], [['a']], metrics='bleu')": "metrics takes names, and 'bleu' is one: put it into a list",
        "nmt.evaluate(['a'], [['a']], metrics=['BLEU'])": "metric 'BLEU': say one of bleu, chrf, chrf++, ter",
        "nmt.evaluate(['a'], [['a']], tokenize='foo')": "tokenize 'foo': say one of none, zh, 13a, intl, char, "
        "ja-mecab, ko-mecab, spm, flores101, flores200, spBLEU-1K",
        "nmt.Scorer(translator, on_long='split')": "on_long 'split': say one of error, cut",
        "nmt.Aligner(translator, units='word')": "units 'word': say one of words, pieces",
        "nmt.Alignment.of(translation, units='word')": "units 'word': say one of words, pieces",
        "nmt.LinkRule(method='best')": "method 'best': say one of grow-diag, argmax, mutual, threshold",
        "nmt.LinkRule(symmetrization='all')": "symmetrization 'all': say one of intersection, union, grow-diag, "
        "grow-diag-final, grow-diag-final-and",
    }
    code = f"""
import nmt
translator = nmt.Translator.load({str(untrained_run)!r}, device="cpu")
translation = next(translator.translate(["the cat"], attention=True))
for fault in {list(faults)!r}:
    try:
        eval(fault)
        print("nothing")
    except nmt.ConfigError as error:
        print(error)
"""
    done = subprocess.run([warm_python, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (list(faults.values()), "")
