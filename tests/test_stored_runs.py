"""Runs of every release so far are loaded and translate as they did when they were trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt import Translator, __version__

HERE = Path(__file__).parent / "runs"
RUNS = sorted(path.parent for path in HERE.glob("*/*/run.json"))


def lines(name: str) -> list[str]:
    return (HERE / "corpus" / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("run", RUNS, ids=[f"{run.parent.name}-{run.name}" for run in RUNS])
def test_a_stored_run_still_translates_to_the_same_lines(run: Path) -> None:
    translations = Translator.load(run, device="cpu").translate(lines("train.en"))
    assert [translation.text for translation in translations] == lines("train.fr")


def test_every_family_of_this_version_is_among_them() -> None:
    assert {run.name for run in RUNS if run.parent.name == __version__} == {"bahdanau", "luong", "transformer"}
