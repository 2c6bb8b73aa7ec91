"""``nmt runs``: every run in a folder, what it reached, and what is damaged left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nmt.checkpoint import Run
from nmt_cli.main import main


@pytest.fixture
def folder(untrained_run: Path, tmp_path: Path) -> Path:
    """Two runs: one that was only begun, and one that was trained, by its log, and evaluated."""
    for name in ("begun", "deep/trained"):
        shutil.copytree(untrained_run, tmp_path / name)
    shutil.rmtree(tmp_path / "begun" / "models")
    trained = tmp_path / "deep" / "trained"
    steps = [{"type": "train", "step": step, "seconds": 60.0 * step, "cpu_seconds": 90.0 * step} for step in (50, 1500)]
    (trained / "log.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    (trained / "evaluations").mkdir()
    signature = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    scores = [{"name": "chrF2", "score": 50.0}, {"name": "BLEU", "score": 12.345, "signature": signature}]
    evaluations = {
        "test.step-20.beam5.json": ("test", scores),
        "test.en.step-20.beam5.json": ("test.en", scores[:1]),
        "test.step-20.beam4.json": ("test", scores[:1]),
    }
    for name, (what, content) in evaluations.items():  # the newer are of a file of the user's, and without BLEU
        (trained / "evaluations" / name).write_text(json.dumps({"set": what, "scores": content}))
    return tmp_path


def test_runs_stand_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder)]) == 0
    names, begun, trained = capsys.readouterr().out.splitlines()
    parameters = sum(part.numel() for part in Run.open(folder / "deep" / "trained").new_model().parameters())
    assert names.split() == [
        "run",
        "encoder",
        "decoder",
        "parameters",
        "steps",
        "minutes",
        "perplexity",
        "BLEU",
        "chrF",
        "test",
        "BLEU",
    ]
    assert begun.split() == [str(folder / "begun"), "gru", "gru", "-", "0", "-", "-", "-", "-", "-"]
    figures = [f"{parameters:,}", "1,500", "1500.0", "-", "2.00", "1.00", "12.35"]
    assert trained.split() == [str(folder / "deep" / "trained"), "gru", "gru", *figures]
    assert len(begun) == len(trained) == len(names)


def test_steps_behind_the_last_line_of_the_log_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = folder / "deep" / "trained" / "resume" / "step-1517"
    checkpoint.mkdir(parents=True, exist_ok=True)
    position = {"step": 1517, "seconds": 90600.0, "cpu_seconds": 1.0}
    (checkpoint / "state.json").write_text(json.dumps({"position": position}))
    assert main(["runs", str(folder / "deep")]) == 0
    _, trained = capsys.readouterr().out.splitlines()
    assert trained.split()[4:6] == ["1,517", "1510.0"]


def test_as_json_nothing_is_rounded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder), "--json"]) == 0
    begun, trained = map(json.loads, capsys.readouterr().out.splitlines())
    assert begun["bleu"] is None
    assert trained["test_bleu"] == 12.345
    assert trained["cpu_seconds"] == 135000.0


def test_a_run_folder_may_be_named_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder / "begun")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_damaged_run_is_named_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "begun" / "recipe.toml").write_text("nonsense")
    assert main(["runs", str(folder)]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert str(folder / "begun") in said.err and "it is left out" in said.err
    assert main(["runs", str(folder / "begun")]) == 1, "named itself there is nothing beside it to be shown"
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("nmt: error: ") and "it is left out" not in said.err


def test_where_there_are_none_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "there are no runs in it" in said.err
    nowhere, file = tmp_path / "nowhere", tmp_path / "file"
    assert main(["runs", str(nowhere)]) == 1
    assert capsys.readouterr().err == f"nmt: error: {nowhere}: there is no such folder\n"
    file.touch()
    assert main(["runs", str(file)]) == 1
    assert capsys.readouterr().err == f"nmt: error: {file}: a file, not a folder of runs or a run folder\n"
