"""A run that begins as another has ended: the same weights and tokenizers, scores before the first step, one line for
what does not fit.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint import Run
from nmt.config import Recipe, load_recipe
from nmt.data.corpus import with_folder
from nmt.errors import CheckpointError, ConfigError, Interrupted
from nmt.training.finetuning import settings_for
from nmt.training.report import SilentReporter, StepReport, ValidationReport, read_log
from nmt.training.session import Session, train
from tests.training.recipes import PAIRINGS, newest
from tests.training.recipes import small_recipe as recipe


class Recorder(SilentReporter):
    """Keeps what it is told; stops the run when a given step is done."""

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_at = stop_at
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.validations: list[ValidationReport] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stepped(self, report: StepReport, total: int | None) -> None:
        self.steps.append(report.step)
        if report.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def validated(self, report: ValidationReport) -> None:
        self.validations.append(report)


def session(folder: Path, **options: Any) -> Session:
    return Session(folder, device="cpu", store=folder.parent / "store", **options)


@pytest.fixture
def field(corpus: Path, tmp_path: Path) -> Path:
    """Text of another kind: what was said, said backwards."""
    folder = tmp_path / "field"
    shutil.copytree(corpus, folder)
    for path in folder.glob("*.fr"):
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("".join(f"{' '.join(line.split()[::-1])}\n" for line in lines), encoding="utf-8")
    return folder


def trained(corpus: Path, folder: Path, encoder: str, decoder: str, *settings: str) -> Run:
    train(recipe(corpus, encoder, decoder, *settings), session(folder), Recorder())
    return Run.open(folder)


def tuned(run: Run, field: Path, *settings: str) -> Recipe:
    wanted = load_recipe(run.folder / "recipe.toml", [*settings, *settings_for(run.folder)])
    return wanted.model_copy(update={"data": with_folder(wanted.data, field)})


@pytest.mark.parametrize(("encoder", "decoder"), PAIRINGS)
def test_it_begins_with_the_weights_and_the_tokenizers_of_the_other(
    encoder: str, decoder: str, corpus: Path, field: Path, tmp_path: Path
) -> None:
    run = trained(corpus, tmp_path / "run", encoder, decoder)
    told = Recorder(stop_at=1)
    with pytest.raises(Interrupted):
        train(tuned(run, field), session(tmp_path / "new"), told)
    new = Run.open(tmp_path / "new")
    assert new.tokenizers.source.to_bytes() == run.tokenizers.source.to_bytes()
    ours, theirs = new.load_model("step-0").state_dict(), run.load_model().state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    assert told.notes.count(f"begins as {run.best().folder}") == 1
    assert [report.step for report in told.validations] == [0]
    assert [record["step"] for record in read_log(tmp_path / "new") if record["type"] == "valid"] == [0]


def test_two_tokenizers_are_taken_over_as_one_is(corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "gru", "gru", "tokenizer.joint=false", "model.tied_embeddings=2")
    train(tuned(run, field), session(tmp_path / "new"), Recorder())
    new = Run.open(tmp_path / "new")
    assert not new.tokenizers.joint
    for side in ("source", "target"):
        assert getattr(new.tokenizers, side).to_bytes() == getattr(run.tokenizers, side).to_bytes()


def test_where_nothing_better_comes_it_translates_as_before(corpus: Path, tmp_path: Path) -> None:
    """On the set that it knows, by steps that lead away from it; patience counts from the first scores on."""
    run = trained(corpus, tmp_path / "run", "gru", "gru", "training.metric=loss", "training.max_steps=60")
    told = Recorder()
    settings = "training.learning_rate=1.0", "training.validate_every=2", "training.patience=2"
    best = train(tuned(run, corpus, *settings), session(tmp_path / "new"), told)
    assert (best.name, best.step) == ("step-0", 0)
    assert best.scores["loss"] == pytest.approx(run.best().scores["loss"])
    assert [(report.step, report.best) for report in told.validations] == [(0, True), (2, False), (4, False)]


def test_where_something_better_comes_that_translates(corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "gru", "gru")
    told = Recorder()
    best = train(tuned(run, field, "training.metric=loss", "training.average=2"), session(tmp_path / "new"), told)
    assert best.scores["loss"] < told.validations[0].loss
    names = {one.name for one in Run.open(tmp_path / "new").checkpoints()}
    assert names == {"step-0", "step-6", "step-12", "average"}
    assert any(note.startswith("the average of the best 2:") for note in told.notes)


def test_one_that_was_stopped_goes_on_without_the_other(corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "transformer", "gru")
    wanted = tuned(run, field)
    train(wanted, session(tmp_path / "straight"), Recorder())
    with pytest.raises(Interrupted):
        train(wanted, session(tmp_path / "new"), Recorder(stop_at=5))
    shutil.rmtree(tmp_path / "run")
    told = Recorder()
    train(wanted, session(tmp_path / "new", resume=True), told)
    assert told.steps[0] == 6 and told.validations[0].step == 6
    for name in ("weights.safetensors", "training.safetensors"):
        assert (newest(tmp_path / "new") / name).read_bytes() == (newest(tmp_path / "straight") / name).read_bytes()


def test_with_a_budget_the_first_scores_are_paid_out_of_it(corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "gru", "gru")
    told = Recorder()
    train(tuned(run, field, "training.budget=3"), session(tmp_path / "new"), told)
    first, last = told.validations[0], told.validations[-1]
    assert first.step == 0 < last.step == told.steps[-1]
    assert first.elapsed < last.elapsed <= max(3, first.elapsed) + 2 * last.seconds + 1


def test_by_another_metric_what_it_began_as_is_to_be_beaten_still(corpus: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "gru", "gru", "training.max_steps=60")
    worse = "training.learning_rate=1.0", "training.validate_every=4", "training.max_steps=12"
    with pytest.raises(Interrupted):
        train(tuned(run, corpus, *worse), session(tmp_path / "new"), Recorder(stop_at=3))
    told = Recorder()
    other = tuned(run, corpus, *worse, "training.metric=loss")
    best = train(other, session(tmp_path / "new", resume=True, force=True), told)
    assert [report.best for report in told.validations] == [False] * 3
    assert best.name == "step-0"


@pytest.mark.parametrize("name", ["runs of 😀", 'a "quoted" one', "back\\slash"])
def test_folders_may_be_called_anything(name: str, corpus: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / name, "gru", "gru", "training.max_steps=2")
    wanted = tuned(run, corpus)
    assert wanted.training.finetune_from == tmp_path / name
    assert wanted.tokenizer.source_model == tmp_path / name / "source.model"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.decoder.width=16", "is another model than the recipe's: model.decoder.width: 32 -> 16"),
        (
            "model.encoder.positions=none",
            "is another model than the recipe's: model.encoder.positions: sinusoidal -> no",
        ),
    ],
)
def test_another_model_is_refused(setting: str, words: str, corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "transformer", "gru")
    with pytest.raises(ConfigError, match=f"training.finetune_from: .*{words}.*; nmt train --finetune-from .* takes"):
        train(tuned(run, field, setting), session(tmp_path / "new"), Recorder())
    assert not (tmp_path / "new").exists()
    others = "model.encoder.dropout=0.1", "model.encoder.zero_init_residual=true", "model.encoder.max_positions=99"
    train(tuned(run, field, *others), session(tmp_path / "new"), Recorder())


def test_what_drops_weights_makes_no_other_model(corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "gru", "gru")
    train(tuned(run, field, "model.decoder.recurrent_dropout=0.1"), session(tmp_path / "new"), Recorder())


def test_other_tokenizers_are_refused(corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "gru", "gru")
    trained(corpus, tmp_path / "other", "gru", "gru", "tokenizer.vocabulary=290")
    words = "tokenizer.source_model is not that of .*run"
    with pytest.raises(ConfigError, match=words):
        train(
            recipe(field, "gru", "gru", f"training.finetune_from={run.folder}"), session(tmp_path / "new"), Recorder()
        )
    others = [f"tokenizer.{side}_model={tmp_path / 'other' / 'source.model'}" for side in ("source", "target")]
    with pytest.raises(ConfigError, match=words):
        train(
            recipe(field, "gru", "gru", f"training.finetune_from={run.folder}", *others),
            session(tmp_path / "new"),
            Recorder(),
        )


def test_a_folder_without_a_whole_model_is_refused(corpus: Path, field: Path, tmp_path: Path) -> None:
    run = trained(corpus, tmp_path / "run", "gru", "gru")
    wanted = tuned(run, field)
    (run.best().folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"weights.safetensors: damaged"):
        train(wanted, session(tmp_path / "new"), Recorder())
    shutil.rmtree(run.folder / "models")
    with pytest.raises(CheckpointError, match="no model has been saved in this run yet"):
        train(wanted, session(tmp_path / "new"), Recorder())
    shutil.rmtree(run.folder)
    with pytest.raises(CheckpointError, match="run: no such run folder"):
        settings_for(run.folder)
