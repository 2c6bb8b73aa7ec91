"""nmt average as a user meets it: which checkpoints it takes, what becomes of the run's best, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from nmt.checkpoint import Run, read_tensors, weights, write_folder
from nmt.config import TextCorpus
from nmt.data.corpus import digest_corpus
from nmt.decoding.translator import Translator
from nmt.training.lock import alone_in
from nmt_cli.main import main

SCORES = {10: 1.0, 20: 3.0, 30: 2.0}


@pytest.fixture
def folder(untrained_run: Path, tmp_path: Path) -> Path:
    """A run of three checkpoints with random weights, step-20 the best and step-30 the last."""
    folder = tmp_path / "run"
    shutil.copytree(untrained_run, folder)
    shutil.rmtree(folder / "models")
    run = Run.open(folder)
    for step, bleu in SCORES.items():
        torch.manual_seed(step)
        run.save_model(run.new_model(), step, {"bleu": bleu, "chrf": bleu, "loss": 9.0, "perplexity": 8103.08})
    return folder


def mean(folder: Path, *names: str) -> dict[str, torch.Tensor]:
    """The mean weights, by the files."""
    parts = [read_tensors(folder / "models" / name / "weights.safetensors") for name in names]
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}


def assert_is_mean(folder: Path, made: str, *names: str) -> None:
    expected = mean(folder, *names)
    found = weights(Run.open(folder).load_model(made))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])
    written = json.loads((folder / "models" / made / "scores.json").read_text())
    assert sorted(written["averaged"]) == sorted(names)


@pytest.mark.parametrize(
    "arguments, made, parts",
    [
        (["--last", "2"], "average-last-2", ["step-30", "step-20"]),
        (["--best", "2"], "average-best-2", ["step-20", "step-30"]),
        (["--best", "3"], "average-best-3", ["step-20", "step-30", "step-10"]),
        (["step-30", "step-10"], "average-of-2", ["step-30", "step-10"]),
        (["step-10", "best", "--name", "my_own.1"], "my_own.1", ["step-10", "step-20"]),
        ([], "average-of-3", ["step-20", "step-30", "step-10"]),
    ],
)
def test_the_mean_of_what_was_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], made: str, parts: list[str]
) -> None:
    assert main(["average", str(folder), *arguments, "--no-score"]) == 0
    assert_is_mean(folder, made, *parts)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"{folder}/models/{made}: the average of {', '.join(parts)} (not scored)",
        "best of the run: step-20",
        f"translate with: nmt translate {folder} --checkpoint {made} < FILE",
    ]


def test_it_is_scored_as_training_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the command that scores a run on a set: BLEU and chrF of the validation set, by the same search."""
    assert main(["average", str(folder), "--best", "2"]) == 0
    scores = Run.open(folder).checkpoint("average-best-2").scores
    assert set(scores) == {"loss", "perplexity", "bleu", "chrf"}
    assert f"(loss {scores['loss']:.2f}, " in capsys.readouterr().err
    assert scores["loss"] == pytest.approx(math.log(scores["perplexity"]), abs=1e-4)
    command = ["evaluate", str(folder), "--split", "valid", "--checkpoint", "average-best-2", "--json"]
    assert main([*command, "--metric", "bleu", "--metric", "chrf"]) == 0
    found = {one["name"]: one["score"] for one in json.loads(capsys.readouterr().out)["scores"]}
    assert found["BLEU"] == pytest.approx(scores["bleu"])
    assert found["chrF2"] == pytest.approx(scores["chrf"])
    valid = Run.open(folder).recipe.data.valid
    assert isinstance(valid, TextCorpus)
    command = ["score", str(folder), "--source", str(valid.source), "--target", str(valid.target), "--summary"]
    assert main([*command, "--checkpoint", "average-best-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["perplexity"] == pytest.approx(scores["perplexity"], rel=1e-4)


def test_where_it_is_the_best_the_run_translates_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in SCORES:
        path = folder / "models" / f"step-{step}"
        run = Run.open(folder)
        run.save_model(run.load_model(path.name), step, {"bleu": -1.0})
    assert Run.open(folder).best().name == "step-10"
    assert main(["average", str(folder), "--last", "2", "--name", "mean"]) == 0
    assert "best of the run: this one" in capsys.readouterr().err
    assert Run.open(folder).best().name == "mean"
    ways = [Translator.load(folder), Translator.load(folder, which="mean")]
    texts = [[one.text for one in way.translate(["the black cat sleeps ."])] for way in ways]
    assert texts[0] == texts[1]


def test_nmt_translate_finds_it(folder: Path, tmp_path: Path) -> None:
    assert main(["average", str(folder), "--best", "2", "--name", "mean", "--no-score"]) == 0
    (tmp_path / "in").write_text("the black cat sleeps .\n")
    outputs = []
    for checkpoint in ("mean", "step-20"):
        files = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / checkpoint)]
        assert main(["translate", str(folder), "--checkpoint", checkpoint, *files]) == 0
        outputs.append((tmp_path / checkpoint).read_text())
    assert len(set(outputs)) == 2


def test_training_keeps_it_and_goes_on_as_before(folder: Path) -> None:
    """It is no step of the run's: what keeps the best ones does not count it, and a missing average is still missed."""
    assert main(["average", str(folder), "--best", "2", "--name", "mean", "--no-score"]) == 0
    run = Run.open(folder)
    training = run.recipe.training.model_copy(update={"average": 2})
    run = Run(folder, run.recipe.model_copy(update={"training": training}), run.tokenizers)
    assert run.lacks_average()
    run.keep_best(1)
    assert {one.name for one in run.checkpoints()} == {"step-20", "mean"}
    assert run.best().name == "step-20"


def test_a_name_that_is_taken_is_replaced_by_force_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["average", str(folder), "--no-score", "--name", "mean"]
    assert main([*command, "--best", "2"]) == 0
    capsys.readouterr()
    assert main([*command, "--best", "3"]) == 2
    assert "models/mean is there already: --force replaces it, --name NAME gives" in capsys.readouterr().err
    assert_is_mean(folder, "mean", "step-20", "step-30")
    assert main([*command, "--best", "3", "--force"]) == 0
    assert_is_mean(folder, "mean", "step-10", "step-20", "step-30")


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--best", "4"], 2, "4 checkpoints are wanted for an average, there are 3 (step-20, step-30, step-10): a run"),
        (["--last", "9"], 2, "keeps as many of its best as training.average says, here 0"),
        (["--best", "1"], 2, "the average of step-20 alone is step-20: give two checkpoints at least"),
        (["step-10"], 2, "the average of step-10 alone is step-10: give two checkpoints at least"),
        (["step-10", "step-11"], 1, "no checkpoint 'step-11'; there are: step-10, step-20, step-30"),
        (["step-10", "step-20", "best"], 2, "step-20 is named twice: each checkpoint counts once"),
        (["step-10", "step-20", "--best", "2"], 2, "give names of checkpoints, --last or --best: one of them"),
        (["--last", "2", "--best", "2"], 2, "give names of checkpoints, --last or --best: one of them"),
        (["--best", "2", "--name", "step-40"], 2, "an average cannot be called 'step-40': take letters"),
        (["--best", "2", "--name", "average"], 2, "cannot be called 'average'"),
        (["--best", "2", "--name", "best"], 2, "cannot be called 'best'"),
        (["--best", "2", "--name", "../mine"], 2, "cannot be called '../mine'"),
        (["--best", "2", "--name", ".hidden"], 2, "cannot be called '.hidden'"),
        (["--best", "2", "--name", ""], 2, "cannot be called ''"),
        (["--best", "2", "--device", "abacus"], 2, "device 'abacus' cannot be used"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    before = sorted((folder / "models").iterdir())
    assert main(["average", str(folder), *arguments]) == code
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("nmt: error: ") and words in line
    assert sorted((folder / "models").iterdir()) == before


def test_a_run_of_one_checkpoint_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.open(folder).keep_best(1)
    assert main(["average", str(folder)]) == 2
    assert "2 checkpoints are wanted for an average, there are 1 (step-20)" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "models" / "step-30" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["average", str(folder), "--last", "2"]) == 1
    assert f"{path}: damaged" in capsys.readouterr().err
    assert len(list((folder / "models").iterdir())) == 3


def test_without_the_validation_set_it_can_be_left_unscored(
    folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(folder)
    valid = run.recipe.data.valid
    assert valid is not None
    for changed, words in (
        (valid.model_copy(update={"source": corpus / "gone.en"}), "gone.en"),
        (None, "its recipe has no data.valid"),
    ):
        data = run.recipe.data.model_copy(update={"valid": changed})
        Run.create(folder, run.recipe.model_copy(update={"data": data}), run.tokenizers)
        assert main(["average", str(folder), "--best", "2"]) == 3
        said = capsys.readouterr().err
        assert words in said and "--no-score does without" in said
        assert len(list((folder / "models").iterdir())) == 3


def test_scores_of_two_validation_sets_are_not_compared(
    folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(folder)
    valid = run.recipe.data.valid
    assert isinstance(valid, TextCorpus)
    write_folder(folder / "resume" / "step-30", {"state.json": json.dumps({"valid": digest_corpus(valid)}).encode()})
    assert main(["average", str(folder), "--best", "2", "--name", "same"]) == 0
    other = tmp_path / "other.fr"
    other.write_text(valid.target.read_text()[::-1].strip() + "\n")
    data = run.recipe.data.model_copy(update={"valid": valid.model_copy(update={"target": other})})
    Run.create(folder, run.recipe.model_copy(update={"data": data}), run.tokenizers)
    capsys.readouterr()
    assert main(["average", str(folder), "--best", "2", "--name", "other"]) == 3
    said = capsys.readouterr().err
    assert "not the validation set whose scores the run's checkpoints have" in said and "--no-score" in said
    assert main(["average", str(folder), "--best", "2", "--name", "other", "--no-score"]) == 0


def test_while_a_training_runs_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone_in(folder):
        assert main(["average", str(folder), "--best", "2"]) == 1
    assert "another training is running in this folder" in capsys.readouterr().err
