"""Exact across a crash: a run that is killed, whenever that is, comes to the weights, optimiser, generators and log of
the run that was not; and whatever call of a save is the last, what is whole is found.

One process does the killing for all tests (crashes.py); as a script it does more of it than there is time for here.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.training.crashes import FAMILIES, GRACEFUL

ROOT = Path(__file__).parents[2]
KILLS = 3


@pytest.fixture(scope="module")
def found(warm_python: str, corpus: Path) -> dict[str, Any]:
    """What the script found."""
    options = ("--kills", str(KILLS), "--steps", "18", "--calls-of-a-save", "--corpus", str(corpus))
    done = subprocess.run(
        [warm_python, "-m", "tests.training.crashes", *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_that_is_killed_comes_to_what_the_straight_one_does(family: str, found: dict[str, Any]) -> None:
    """With dropout, subword sampling, an average, patience and a schedule that remembers: all is equal to the bit."""
    told = found[family]
    assert [code for _, code, _ in told["kills"]] == [-signal.SIGKILL] * KILLS
    assert told["differences"] == []
    assert told["runs"] > 0
    straight = told["straight"]
    assert (straight["newest"], straight["left over"]) == ("step-18", [])
    assert [record["step"] for record in straight["log"] if record["type"] == "train"] == list(range(1, 19))
    assert "average" in straight["models"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_signal_that_asks_costs_no_step(family: str, found: dict[str, Any]) -> None:
    """Before training has begun, when there is nothing to save, SIGTERM and SIGUSR1 do what they do without us."""
    for name, code in found[family]["signals"]:
        assert code in {GRACEFUL[signal.Signals[name]], -signal.Signals[name]}
    assert set(found[family]["lost"]) <= {0}


@pytest.mark.parametrize("target", ["step-1", "step-2"])
def test_whatever_call_of_a_save_is_the_last_a_whole_folder_is_found(target: str, found: dict[str, Any]) -> None:
    """The new one replaces one of its name, or comes beside it; nothing temporary is left after the next save."""
    contents = []
    for call, code, newest, content, complaints, left in found[target]:
        assert code == -signal.SIGKILL, call
        assert (newest, content) in {("step-1", "old"), (target, "new")}, call
        assert complaints == [], call
        assert left == sorted({"step-1", newest, "step-3"}), call
        contents.append(content)
    assert contents == sorted(contents, reverse=True)  # once new, never old again
    assert set(contents) == {"old", "new"}


def test_a_save_writes_and_flushes_files_then_the_folder_then_its_name(found: dict[str, Any]) -> None:
    calls = [call.split() for call, *_ in found["step-2"]]
    kinds = [(kind, "folder" if name.startswith(".step-2") else name) for kind, name in calls if kind != "open"]
    assert kinds == [
        ("mkdir", "record"),
        ("mkdir", "folder"),
        *((kind, name) for name in ("a.bin", "b.json", "manifest.json") for kind in ("write", "fsync")),
        ("fsync", "folder"),
        ("rename", "folder"),
        ("fsync", "record"),
    ]


def test_a_run_is_whole_whenever_the_recipe_that_is_forced_on_it_is_cut_short(found: dict[str, Any]) -> None:
    steps = [steps for _, _, steps, _, _ in found["recipes"]]
    assert set(steps) == {1000, 20}
    assert steps == sorted(steps, reverse=True)
    for call, code, _, after, left in found["recipes"]:
        assert (code, after) == (-signal.SIGKILL, 20), call
        assert left == ["manifest.json", "recipe.toml", "run.json", "source.model"], call
