"""Training from end to end on a small corpus: all nine pairings learn a handful, a stopped run goes on as if it had not
stopped, and what can go wrong is said in one line.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file

from nmt.checkpoint import Run, latest_folder, write_folder
from nmt.config import DataConfig, Recipe, parse_recipe
from nmt.data.batching import Batch
from nmt.decoding.translator import Translator
from nmt.errors import CheckpointError, ConfigError, DataError, DivergedError, Interrupted, NmtError, TrainingError
from nmt.training import gradients, lock, loop, loss, validation
from nmt.training.average import average
from nmt.training.curves import draw_curves
from nmt.training.gradients import Gradients, Objective
from nmt.training.loop import Trainer
from nmt.training.report import Log, SilentReporter, StepReport, ValidationReport, read_log
from nmt.training.session import Session, train
from nmt.training.signals import StopRequest
from nmt.training.state import TrainingState
from tests.training.recipes import PAIRINGS, newest
from tests.training.recipes import small_recipe as recipe


@pytest.fixture(autouse=True)
def shapes_are_checked_elsewhere() -> Iterator[None]:
    """Thousands of steps run here, of code whose shapes other tests check: leave that out, it takes half the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Recorder(SilentReporter):
    """Keeps what it is told; runs ``at`` when a given step is done."""

    def __init__(self, at: dict[int, Any] | None = None) -> None:
        self.at = at or {}
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[StepReport] = []
        self.validations: list[ValidationReport] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def stepped(self, report: StepReport, total: int | None) -> None:
        self.steps.append(report)
        if report.step in self.at:
            self.at[report.step]()

    def validated(self, report: ValidationReport) -> None:
        self.validations.append(report)


def session(folder: Path, **options: Any) -> Session:
    return Session(folder, device="cpu", store=folder.parent / "store", **options)


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights, the optimiser and the generators of the newest checkpoint."""
    return {
        name: hashlib.sha256((newest(folder) / name).read_bytes()).hexdigest()
        for name in ("weights.safetensors", "training.safetensors")
    }


def losses(folder: Path) -> list[tuple[int, str]]:
    """Step and loss of every line of the log, the loss as hexadecimal: equal means equal to the last bit."""
    return [(int(record["step"]), float(record["loss"]).hex()) for record in read_log(folder)]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRINGS)
def test_every_pairing_learns_a_handful_of_sentences_by_heart(
    encoder: str, decoder: str, corpus: Path, tmp_path: Path
) -> None:
    handful = tmp_path / "handful"
    handful.mkdir()
    for language in ("en", "fr"):
        lines = (corpus / f"train.{language}").read_text(encoding="utf-8").split("\n")[:8]
        for split in ("train", "valid"):
            (handful / f"{split}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = (
        "training.max_steps=120", "training.validate_every=120", "training.save_every=120",
        "tokenizer.vocabulary=70", "tokenizer.byte_fallback=false",
        "training.label_smoothing=0.0", "training.learning_rate=0.02", "training.schedule={type='cosine'}",
        "training.schedule.warmup_steps=10",
    )  # fmt: skip
    out = tmp_path / "run"
    best = train(recipe(handful, encoder, decoder, *settings), session(out), Recorder())
    assert best.scores["bleu"] > 99
    assert best.scores["loss"] < 0.05
    sources = (handful / "train.en").read_text(encoding="utf-8").splitlines()
    targets = (handful / "train.fr").read_text(encoding="utf-8").splitlines()
    translations = list(Translator.load(out).translate(sources))
    assert [one.text for one in translations] == targets


@pytest.mark.parametrize(
    ("family", "optimizer"), [("gru", "adam"), ("lstm", "adamw"), ("transformer", "adam"), ("transformer", "muon")]
)
def test_a_run_that_was_stopped_goes_on_to_the_very_same_weights(
    family: str, optimizer: str, corpus: Path, tmp_path: Path
) -> None:
    """Dropout and subword sampling on; stopped by a signal after step 7, between two checkpoints."""
    settings: tuple[str, ...] = (
        "tokenizer.sampling=0.1", f"model.encoder.dropout={0.2}", f"model.decoder.dropout={0.2}",
        "training.accumulate=2", f"training.optimizer={optimizer}", "training.embedding_rate=3",
    )  # fmt: skip
    if family != "transformer":
        settings += ("model.encoder.recurrent_dropout=0.2", "model.decoder.recurrent_dropout=0.2")
    wanted = recipe(corpus, family, family, *settings)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(wanted, session(straight), Recorder())
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step 7.*--resume"):
        train(wanted, session(stopped), Recorder({7: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    torch.manual_seed(12345)  # what the process drew meanwhile must not matter
    train(wanted, session(stopped, resume=True), Recorder())
    assert fingerprint(stopped) == fingerprint(straight)
    assert losses(stopped) == losses(straight)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_batches_go_twice_from_the_share_of_the_run_on_that_the_recipe_says(
    stop: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before it, at it and after it, and resumed: the same, and told once."""
    asked: list[float] = []
    forward = Objective.forward

    def watched(self: Objective, batch: Batch) -> torch.Tensor:
        asked.append(self.consistency)
        return forward(self, batch)

    monkeypatch.setattr(Objective, "forward", watched)
    settings = ("training.consistency=2", "training.consistency_start=0.143", "model.decoder.dropout=0.2")
    wanted = recipe(corpus, "gru", "gru", *settings)
    train(wanted, session(tmp_path / "straight"), straight := Recorder())
    assert asked == [0.0] * 3 + [2.0] * 9
    stopped, resumed = Recorder({stop: lambda: os.kill(os.getpid(), signal.SIGTERM)}), Recorder()
    with pytest.raises(Interrupted):
        train(wanted, session(tmp_path / "stopped"), stopped)
    train(wanted, session(tmp_path / "stopped", resume=True), resumed)
    assert asked[12:] == asked[:12]
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "straight")
    for notes in (straight.notes, stopped.notes + resumed.notes):
        assert [note for note in notes if "through twice" in note] == [
            "step 3: from here on every batch goes through twice"
        ]


def test_patience_counts_from_where_batches_go_twice(corpus: Path, tmp_path: Path) -> None:
    settings = (
        "training.consistency=1", "training.consistency_start=0.5", "training.patience=1", "training.metric=loss",
        "training.validate_every=2", "training.learning_rate=1e-30",
    )  # fmt: skip
    train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run"), told := Recorder())
    assert [report.step for report in told.validations] == [2, 4, 6, 8, 10]


def test_a_checkpoint_from_before_passes_were_counted_goes_on_in_two(corpus: Path, tmp_path: Path) -> None:
    wanted = recipe(corpus, "gru", "gru", "training.consistency=2")
    train(wanted, session(tmp_path / "straight"), Recorder())
    with pytest.raises(Interrupted):
        train(wanted, session(tmp_path / "old"), Recorder({7: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    folder = newest(tmp_path / "old")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    state = json.loads(files["state.json"])
    assert state["position"].pop("twice") is True
    write_folder(folder, {**files, "state.json": json.dumps(state).encode()})
    train(wanted, session(tmp_path / "old", resume=True), told := Recorder())
    assert not [note for note in told.notes if "through twice" in note]
    assert fingerprint(tmp_path / "old") == fingerprint(tmp_path / "straight")


@pytest.mark.parametrize("optimizers", [("adamw", "muon"), ("muon", "adam")])
def test_a_run_goes_on_with_another_optimiser_where_it_is_told_to(
    optimizers: tuple[str, str], corpus: Path, tmp_path: Path
) -> None:
    """Each begins with what it can use of the other, and leaves nothing of it behind."""
    before, after = (recipe(corpus, "gru", "transformer", f"training.optimizer={one}") for one in optimizers)
    with pytest.raises(Interrupted):
        train(before, session(tmp_path / "run"), Recorder({7: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    train(after, session(tmp_path / "run", resume=True, force=True), Recorder())
    train(after, session(tmp_path / "anew"), Recorder())
    ours, anew = (set(load_file(newest(tmp_path / name) / "training.safetensors")) for name in ("run", "anew"))
    assert ours == anew


def test_a_run_on_a_stream_goes_on_where_it_was(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the state that datasets has of the stream, which the checkpoint keeps; nothing is tokenised ahead."""
    monkeypatch.setattr("nmt.data.streaming.WINDOW", 2)
    sides = [(corpus / f"train.{language}").read_text(encoding="utf-8").splitlines() for language in ("en", "fr")]
    rows = [json.dumps({"en": source, "fr": target}) for source, target in zip(*sides, strict=True)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    stream = {"format": "datasets", "dataset": str(tmp_path / "train.jsonl"), "source": "en", "target": "fr"}
    wanted = recipe(corpus, "gru", "gru", "tokenizer.sampling=0.1")
    data = DataConfig.model_validate({**wanted.data.model_dump(), "train": {**stream, "streaming": True}})
    wanted = wanted.model_copy(update={"data": data})
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    told = Recorder()
    train(wanted, session(straight), told)
    assert any("read as it comes" in note for note in told.notes)
    with pytest.raises(Interrupted):
        train(wanted, session(stopped), Recorder({7: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    train(wanted, session(stopped, resume=True), Recorder())
    assert fingerprint(stopped) == fingerprint(straight)
    assert losses(stopped) == losses(straight)
    assert {path.suffix for path in (tmp_path / "store").iterdir()} == {".tokenizers"}
    unbounded = {"model": parse_recipe(LEARNED).model, "data": data.model_copy(update={"max_length": 0})}
    with pytest.raises(ConfigError, match=r"sentences of any length: raise it, or set data\.max_length to"):
        train(wanted.model_copy(update=unbounded), session(tmp_path / "learned"), Recorder())


@pytest.mark.parametrize("streaming", [False, True])
def test_lines_that_are_left_out_of_training_are_part_of_the_data(
    streaming: bool, corpus: Path, tmp_path: Path
) -> None:
    """With another test set other pairs are trained on: the run goes on with ``force`` only, and says why."""
    folder = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    first = [(folder / f"train.{language}").read_text(encoding="utf-8").splitlines()[0] for language in ("en", "fr")]
    for language, line in zip(("en", "fr"), first, strict=True):
        (folder / f"test.{language}").write_text(f"{line}\n", encoding="utf-8")
    wanted = recipe(folder, "gru", "gru", "data.drop_held_out=true")
    if streaming:
        sides = [(folder / f"train.{language}").read_text(encoding="utf-8").splitlines() for language in ("en", "fr")]
        rows = [json.dumps({"en": source, "fr": target}) for source, target in zip(*sides, strict=True)]
        (tmp_path / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
        stream = {"format": "datasets", "dataset": str(tmp_path / "train.jsonl"), "source": "en", "target": "fr"}
        data = DataConfig.model_validate({**wanted.data.model_dump(), "train": {**stream, "streaming": True}})
        wanted = wanted.model_copy(update={"data": data})
    told = Recorder({3: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(Interrupted):
        train(wanted, session(tmp_path / "run"), told)
    assert any("1 sharing a line with data.valid or data.test" in note for note in told.notes)
    assert not any("is not searched" in note for note in told.notes)
    assert not any("also stand in data.train" in warning for warning in told.warnings)
    (folder / "test.en").write_text("another line\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"or the lines that data\.drop_held_out leaves out: changed since; --force"):
        train(wanted, session(tmp_path / "run", resume=True), Recorder())
    train(wanted, session(tmp_path / "run", resume=True, force=True), Recorder())


LEARNED = """
[model]
embedding = 32
encoder = { type = "transformer", layers = 1, width = 32, feed_forward = 64, heads = 2, positions = "learned" }
decoder = { type = "gru", width = 32 }
"""


def test_the_log_says_why_a_run_is_slow(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding counted a second time from the batches; waiting and memory are what they can be."""
    seen: list[list[Batch]] = []
    real = Gradients.backward

    def watched(gradients: Gradients, batches: list[Batch]) -> tuple[float, int]:
        seen.append(batches)
        return real(gradients, batches)

    monkeypatch.setattr(Gradients, "backward", watched)
    train(recipe(corpus, "gru", "gru", "training.accumulate=2"), session(tmp_path / "run"), Recorder())
    records = [record for record in read_log(tmp_path / "run") if record["type"] == "train"]
    assert len(records) == 6
    for number, record in enumerate(records):
        ids = [ids for step in seen[2 * number :][:2] for batch in step for ids in (batch.source, batch.target_out)]
        empty = sum(int((one == 0).sum()) for one in ids)
        assert record["padding"] == pytest.approx(empty / sum(one.numel() for one in ids))
        assert 0 < record["waiting"] < 1
        assert record["memory"] > 50e6


def test_waiting_is_the_time_in_which_batches_are_made(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each step at least the twentieth of a second in which nothing comes."""
    real = Trainer._next_batches

    def slow(trainer: Trainer) -> list[Batch]:
        time.sleep(0.05)
        return real(trainer)

    monkeypatch.setattr(Trainer, "_next_batches", slow)
    train(recipe(corpus), session(tmp_path / "run"), Recorder())
    records, before = [one for one in read_log(tmp_path / "run") if one["type"] == "train"], 0
    assert len(records) == 6
    for record in records:
        seconds = (record["tokens"] - before) / record["tokens_per_second"]
        assert 2 * 0.05 <= record["waiting"] * seconds < seconds
        before = record["tokens"]


def test_the_time_of_a_run_is_the_time_that_it_takes(corpus: Path, tmp_path: Path) -> None:
    """Validations counted, and several sittings; what comes before the first step is a part of it."""
    began, cpu_began = time.monotonic(), time.process_time()
    with pytest.raises(Interrupted):
        train(recipe(corpus), session(tmp_path / "run"), Recorder({5: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    train(recipe(corpus), session(tmp_path / "run", resume=True), Recorder())
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
    position = json.loads((newest(tmp_path / "run") / "state.json").read_text())["position"]
    assert 0.5 * seconds < position["seconds"] <= seconds
    assert 0.5 * cpu_seconds < position["cpu_seconds"] <= cpu_seconds + 0.1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_the_exit_codes_of_signals_are_those_of_the_shell(
    number: signal.Signals, code: int, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after step 1,") as caught:
        train(recipe(corpus), session(tmp_path / "run"), Recorder({1: lambda: os.kill(os.getpid(), number)}))
    assert caught.value.exit_code == code
    assert (tmp_path / "run" / "resume" / "step-1").exists()


def test_the_second_interrupt_ends_at_once(corpus: Path, tmp_path: Path) -> None:
    """What was saved before stays; the handlers are as they were."""

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    told = Recorder({5: twice})
    with pytest.raises(KeyboardInterrupt):
        train(recipe(corpus), session(tmp_path / "run"), told)
    assert told.steps[-1].step == 5
    assert latest_folder(tmp_path / "run" / "resume") == (tmp_path / "run" / "resume" / "step-4", [])
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("search", [False, True])
def test_a_signal_in_a_validation_stops_it_and_the_resumed_run_begins_with_it(
    search: bool, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it works out the loss, or while it translates, each in several batches."""
    settings = ("model.embedding_dropout=0.3", "training.schedule={type='plateau'}", "training.batch_tokens=64")
    wanted = recipe(corpus, "gru", "gru", *settings, "decoding.batch_size=4")
    train(wanted, session(tmp_path / "straight"), Recorder())
    calls = itertools.count(1)
    place: Any = Translator if search else validation
    name = "_search" if search else "token_loss"
    real = getattr(place, name)

    def signalled(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, signalled)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 6, everything is saved"):
            train(wanted, session(tmp_path / "run"), Recorder())
    assert not (tmp_path / "run" / "models").exists()
    told = Recorder()
    train(wanted, session(tmp_path / "run", resume=True), told)
    assert [report.step for report in told.validations] == [6, 12]
    assert told.steps[0].step == 7
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "straight")
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")


def test_a_run_folder_is_all_that_translating_needs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "draw_curves", draw_curves)
    out = tmp_path / "run"
    train(recipe(corpus), session(out), Recorder())
    moved = tmp_path / "elsewhere" / "copy"
    moved.parent.mkdir()
    out.rename(moved)
    assert len(list(Translator.load(moved).translate(["the cat sleeps .", ""]))) == 2
    kinds = {path.suffix for path in moved.rglob("*") if path.is_file()}
    assert kinds <= {".toml", ".json", ".jsonl", ".safetensors", ".model", ".svg", ""}
    assert (moved / "curves.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_best_checkpoints_are_kept_and_averaged(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = Recorder()
    train(recipe(corpus, "gru", "gru", "training.average=2", "training.validate_every=3"), session(out), told)
    run = Run.open(out)
    steps = {one.step: one for one in run.checkpoints() if one.step}
    ranked = sorted(told.validations, key=lambda report: (report.bleu, report.step), reverse=True)
    assert set(steps) == {report.step for report in ranked[:2]}
    generator = torch.get_rng_state()
    average(run, list(steps.values()))
    assert torch.equal(
        torch.get_rng_state(), generator
    )  # killed before its last checkpoint or not, the run is the same
    averaged = dict(run.load_model("average").named_parameters())
    parts = [dict(run.load_model(one.name).named_parameters()) for one in steps.values()]
    for name, parameter in averaged.items():
        torch.testing.assert_close(parameter, (parts[0][name] + parts[1][name]) / 2)


def test_early_stopping_waits_as_long_as_it_is_told(corpus: Path, tmp_path: Path) -> None:
    told = Recorder()
    settings = (
        "training.patience=2",
        "training.validate_every=1",
        "training.learning_rate=1e-9",
        "training.metric=loss",
    )
    train(recipe(corpus, "gru", "gru", *settings, "training.max_steps=50"), session(tmp_path / "run"), told)
    flags = [report.best for report in told.validations]
    assert flags[-2:] == [False, False]
    assert len(flags) < 50


def test_the_log_counts_steps_of_the_optimiser_whatever_the_accumulation(corpus: Path, tmp_path: Path) -> None:
    train(recipe(corpus, "gru", "gru", "training.accumulate=3"), session(tmp_path / "run"), Recorder())
    log = read_log(tmp_path / "run")
    assert [record["step"] for record in log if record["type"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in log if record["type"] == "valid"] == [6, 12]


@pytest.mark.parametrize("planted", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    planted: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One without the other: an infinite loss of a finite gradient, and the other way round."""
    seen: list[dict[str, bool]] = []
    honest, update, count = Objective.forward, Trainer._update, itertools.count(1)

    def forward(self: Objective, batch: Batch) -> torch.Tensor:
        told = honest(self, batch)
        if next(count) != 7:
            return told
        if planted == "loss":
            return told + math.inf
        return told + (next(self.model.parameters()).sum() * 0).sqrt()  # 0, and its gradient 0 / 0

    def watched(trainer: Trainer, loss: float) -> float:
        states = [trainer.state.model.state_dict(), trainer.state._moments()]
        before = {name: tensor.clone() for state in states for name, tensor in state.items()}
        norm = update(trainer, loss)
        after = {**trainer.state.model.state_dict(), **trainer.state._moments()}
        seen.append({name: torch.equal(before[name], after[name]) for name in before})
        return norm

    monkeypatch.setattr(Objective, "forward", forward)
    monkeypatch.setattr(Trainer, "_update", watched)
    told = Recorder()
    train(recipe(corpus), session(tmp_path / "run"), told)
    assert f"step 7, epoch 0, batch 7: the {planted} is not finite; the step is skipped" in told.warnings[0]
    assert all(seen[6].values())
    assert not any(seen[5].values())
    assert next(report for report in told.steps if report.step == 7).skipped == 1


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_step_that_was_skipped_is_a_gap_in_the_log_and_in_no_mean(
    log_every: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = f"training.log_every={log_every}", "training.learning_rate=1e-9"
    honest, count = Objective.forward, itertools.count(1)
    train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "whole"), Recorder())
    monkeypatch.setattr(
        Objective, "forward", lambda self, batch: honest(self, batch) + (math.inf if next(count) == 7 else 0.0)
    )
    train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run"), Recorder())
    whole, gap = (
        {record["step"]: record for record in read_log(tmp_path / name) if record["type"] == "train"}
        for name in ("whole", "run")
    )
    for step, record in gap.items():
        for name in ("loss", "gradient_norm"):
            if step == 7:
                assert record[name] is None
            else:
                assert record[name] == pytest.approx(whole[step][name], rel=0.05 if step == 8 else 1e-5)
    assert "NaN" not in (tmp_path / "run" / "log.jsonl").read_text()


def test_gradients_that_stay_infinite_for_a_while_take_the_run_back_to_half_the_rate(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, set(range(6, 11)))  # the steps 6 to 10, the last checkpoint being that of step 4
    told = Recorder()
    train(recipe(corpus), session(tmp_path / "run"), told)
    assert "step 10: 5 steps in a row had losses or gradients that are not finite: back to step 4" in told.warnings[-1]
    assert [report.step for report in told.steps] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 10, 11, 12]
    rates = {report.step: report.learning_rate for report in told.steps}
    assert rates[4] == 0.003
    assert rates[5] == 0.0015
    assert told.steps[-1].skipped == 5
    assert [step for step, _ in losses(tmp_path / "run")] == [2, 4, 6, 6, 8, 10, 12, 12]
    assert all(torch.isfinite(p).all() for p in Run.open(tmp_path / "run").load_model().parameters())


def test_a_run_that_went_back_and_was_killed_goes_on_as_one_that_was_not(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(corpus, "gru", "gru", "tokenizer.sampling=0.1", "model.embedding_dropout=0.3")
    bad = set(range(6, 11))
    with monkeypatch.context() as patch:
        plant(patch, bad)
        train(wanted, session(tmp_path / "straight"), Recorder())
    with monkeypatch.context() as patch:
        plant(patch, bad)
        # the second time that step 7 is done is after the way back
        signals = iter([0, signal.SIGTERM])  # 0 is no signal
        with pytest.raises(Interrupted):
            train(wanted, session(tmp_path / "killed"), Recorder({7: lambda: os.kill(os.getpid(), next(signals))}))
    train(wanted, session(tmp_path / "killed", resume=True), Recorder())
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "straight")
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")


def test_gradients_that_stay_infinite_end_the_run_with_exit_code_4(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, set(range(7, 1000)))
    told = Recorder()
    with pytest.raises(
        DivergedError, match=r"step 9: 5 steps in a row .* not finite; .* lower training.learning_rate"
    ) as caught:
        train(recipe(corpus, "gru", "gru", "training.max_steps=100"), session(tmp_path / "run"), told)
    assert caught.value.exit_code == 4
    back = [warning for warning in told.warnings if "back to step" in warning]
    assert ["back to step 4" in warning for warning in back] == [True, True, True]
    translator = Translator.load(tmp_path / "run", device="cpu")  # what was good before is kept
    assert len(list(translator.translate(["the cat sleeps ."]))) == 1


def test_a_checkpoint_that_finds_the_disk_full_is_done_without(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Recorder(fill_disk(monkeypatch, steps=range(4, 8)))
    train(recipe(corpus), session(tmp_path / "run"), told)
    assert len(told.warnings) == 2  # the checkpoint of step 4, the model of step 6
    assert all("No space left on device" in warning and "goes on" in warning for warning in told.warnings)
    train(recipe(corpus), session(tmp_path / "other"), Recorder())
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "other")


def test_going_back_while_the_disk_is_full_halves_the_rate_all_the_same(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {*range(6, 11), *range(12, 17)})  # steps 6 to 10, and the same again after one step
    told = Recorder(fill_disk(monkeypatch, steps=range(5, 7)))
    train(recipe(corpus), session(tmp_path / "run"), told)
    assert told.steps[-1].learning_rate == 0.003 / 4
    assert told.steps[-1].step == 12


def test_a_disk_that_stays_full_ends_the_run_at_the_third_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Recorder(fill_disk(monkeypatch, steps=range(4, 1000)))
    with pytest.raises(CheckpointError, match=r"cannot be written: No space left on device"):
        train(recipe(corpus), session(tmp_path / "run"), told)
    assert told.steps[-1].step == 8
    assert [path.name for path in (tmp_path / "run" / "resume").iterdir()] == ["step-0"]


def test_a_disk_that_has_room_for_models_alone_ends_the_run_at_the_third_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise CheckpointError("resume: cannot be written: No space left on device")

    told = Recorder({3: lambda: monkeypatch.setattr(TrainingState, "save", full)})
    with pytest.raises(CheckpointError, match="No space left"):
        train(recipe(corpus, "gru", "gru", "training.validate_every=2"), session(tmp_path / "run"), told)
    assert told.steps[-1].step == 12
    assert len(told.validations) == 6


def test_a_log_that_cannot_be_written_is_done_without(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Log.write

    def failing(log: Log, kind: str, report: StepReport | ValidationReport) -> None:
        if report.step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(log, kind, report)

    monkeypatch.setattr(Log, "write", failing)
    told = Recorder()
    train(recipe(corpus), session(tmp_path / "run"), told)
    assert [warning for warning in told.warnings if "log.jsonl: cannot be written: No space left" in warning]
    assert [step for step, _ in losses(tmp_path / "run")] == [2, 6, 6, 8, 10, 12, 12]


def test_half_a_line_is_taken_out_of_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path)
    report = ValidationReport(1, 2.0, 7.4, 20.0, 40.0, 0.5, 3.0, True)
    log.write("valid", report)

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if len(data) <= 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[:-20])

    log.close()
    log._stream = Full(log.path, "ab")
    with pytest.raises(OSError, match="No space left"):
        log.write("valid", report)
    assert len(read_log(tmp_path)) == 1
    assert log.path.read_bytes().endswith(b"}\n")
    log.close()


def fill_disk(monkeypatch: pytest.MonkeyPatch, steps: range) -> dict[int, Any]:
    """What to do at which step so that from the first of ``steps`` to the last no file can be written to the end."""
    fsync = os.fsync
    full = False

    def set_full(value: bool) -> None:
        nonlocal full
        full = value

    def failing(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    return {steps.start: lambda: set_full(True), steps.stop: lambda: set_full(False)}


def plant(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the loss of the given steps NaN."""
    count = itertools.count(1)
    honest = loss.token_loss

    def planted(*arguments: Any, **options: Any) -> Any:
        result = honest(*arguments, **options)
        if next(count) in steps:
            return type(result)(result.loss * math.nan, result.negative_log_likelihood)
        return result

    monkeypatch.setattr(gradients, "token_loss", planted)


def test_a_folder_that_holds_a_run_is_not_trained_over(corpus: Path, tmp_path: Path) -> None:
    train(recipe(corpus), session(tmp_path / "run"), Recorder())
    with pytest.raises(ConfigError, match=r"holds a run already; go on with --resume"):
        train(recipe(corpus), session(tmp_path / "run"), Recorder())


@pytest.mark.parametrize("name", ["recipe.toml", "target.model", "manifest.json"])
def test_files_of_ones_own_are_not_written_over(corpus: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("# mine")
    with pytest.raises(ConfigError, match=rf"run: holds {name} and is no run: that would be written over"):
        train(recipe(corpus), session(tmp_path / "run"), Recorder())
    assert [(path.name, path.read_text()) for path in (tmp_path / "run").iterdir()] == [(name, "# mine")]


def test_resuming_a_finished_run_says_so(corpus: Path, tmp_path: Path) -> None:
    train(recipe(corpus), session(tmp_path / "run"), Recorder())
    before = fingerprint(tmp_path / "run")
    told = Recorder()
    train(recipe(corpus), session(tmp_path / "run", resume=True), told)
    assert any("this run is finished: 12 steps are done" in note for note in told.notes)
    assert fingerprint(tmp_path / "run") == before


def test_a_run_that_died_before_its_average_was_made_makes_it_when_resumed(corpus: Path, tmp_path: Path) -> None:
    wanted = recipe(corpus, "gru", "gru", "training.average=2", "training.validate_every=3")
    train(wanted, session(tmp_path / "run"), Recorder())
    average = tmp_path / "run" / "models" / "average"
    before = (average / "weights.safetensors").read_bytes()
    shutil.rmtree(average)
    train(wanted, session(tmp_path / "run", resume=True), Recorder())
    assert (average / "weights.safetensors").read_bytes() == before


def test_a_signal_in_the_last_average_stops_it_and_the_resumed_run_makes_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then all steps are saved, whatever the recipe says about every how many."""
    settings = "training.average=2", "training.validate_every=3", "training.save_every=1000"
    wanted = recipe(corpus, "gru", "gru", *settings)
    train(wanted, session(tmp_path / "straight"), Recorder())

    def signalled(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return average(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "average", signalled)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 12, everything is saved"):
            train(wanted, session(tmp_path / "run"), Recorder())
    assert not (tmp_path / "run" / "models" / "average").exists()
    told = Recorder()
    train(wanted, session(tmp_path / "run", resume=True), told)
    assert not told.steps and not told.validations
    assert (tmp_path / "run" / "models" / "average").exists()
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "straight")


def test_a_longer_run_that_was_stopped_in_its_average_is_not_finished_by_the_older_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "training.average=2", "training.validate_every=3", "training.save_every=7"
    train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run"), Recorder())
    older = (tmp_path / "run" / "models" / "average" / "weights.safetensors").read_bytes()
    longer = recipe(corpus, "gru", "gru", *settings, "training.max_steps=21", "training.metric=loss")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "average", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        pid = os.fork()
        if not pid:
            train(longer, session(tmp_path / "run", resume=True, force=True), Recorder())
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    told = Recorder()
    train(longer, session(tmp_path / "run", resume=True), told)
    assert not any("this run is finished" in note for note in told.notes)
    assert (tmp_path / "run" / "models" / "average" / "weights.safetensors").read_bytes() != older
    train(longer, session(tmp_path / "run", resume=True), told)
    assert "this run is finished: 21 steps are done" in told.notes[-1]


def test_a_run_that_ran_out_of_patience_is_finished(corpus: Path, tmp_path: Path) -> None:
    settings = ("training.patience=2", "training.validate_every=1", "training.learning_rate=1e-9")
    impatient = recipe(corpus, "gru", "gru", *settings, "training.metric=loss", "training.max_steps=50")
    train(impatient, session(tmp_path / "run"), Recorder())
    before, told = fingerprint(tmp_path / "run"), Recorder()
    train(impatient, session(tmp_path / "run", resume=True), told)
    assert "this run is finished: " in told.notes[-1]
    assert fingerprint(tmp_path / "run") == before
    patient = recipe(corpus, "gru", "gru", *settings, "training.metric=loss", "training.max_steps=50")
    patient = patient.model_copy(update={"training": patient.training.model_copy(update={"patience": 4})})
    train(patient, session(tmp_path / "run", resume=True, force=True), told)
    assert told.steps


def test_what_is_left_of_a_budget_when_patience_is_out_can_be_had(corpus: Path, tmp_path: Path) -> None:
    settings = "training.budget=20", "training.learning_rate=1e-9"  # no score is better than the first
    short, told = Recorder(), Recorder()
    train(recipe(corpus, "gru", "gru", *settings, "training.patience=1"), session(tmp_path / "run"), short)
    last = short.steps[-1]
    assert last.seconds < 15
    told.at = {last.step + 2: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Interrupted):
        train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run", resume=True, force=True), told)
    assert len(told.steps) == 2


def test_a_budget_that_is_spent_already_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(recipe(corpus), session(tmp_path / "run"), Recorder({5: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    before = fingerprint(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"training.budget is for the whole run, which has taken .* give more"):
        train(
            recipe(corpus, "gru", "gru", "training.budget=0.001"),
            session(tmp_path / "run", resume=True, force=True),
            Recorder(),
        )
    assert fingerprint(tmp_path / "run") == before
    train(recipe(corpus), session(tmp_path / "run", resume=True), Recorder())


def test_the_scores_of_a_finished_run_stay_those_of_its_set(own: Path, tmp_path: Path) -> None:
    train(recipe(own), session(tmp_path / "run"), Recorder())
    lines = (own / "valid.fr").read_text().splitlines()
    (own / "valid.fr").write_text("".join(f"{line}\n" for line in lines[::-1]))
    with pytest.raises(ConfigError, match=r"this run is finished, .* nmt evaluate"):
        train(recipe(own), session(tmp_path / "run", resume=True, force=True), Recorder())
    train(recipe(own), session(tmp_path / "run", resume=True), Recorder())


def test_an_average_that_was_better_stays(corpus: Path, tmp_path: Path) -> None:
    settings = "training.average=2", "training.validate_every=3"
    train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run"), Recorder())
    one, told = Run.open(tmp_path / "run"), Recorder()
    best = one.save_model(one.load_model("average"), 0, {"bleu": 99.0, "loss": 0.1}, name="average")
    longer = recipe(corpus, "gru", "gru", *settings, "training.max_steps=15")
    train(longer, session(tmp_path / "run", resume=True, force=True), told)
    assert Run.open(tmp_path / "run").best() == best
    assert "the average that was made before is better, and stays" in told.notes


def test_a_forced_rate_is_the_one_that_is_taken(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an eighth of it, as a run would go on that has gone back three times."""
    with monkeypatch.context() as patch:
        plant(patch, set(range(3, 100)))
        with pytest.raises(DivergedError):
            train(recipe(corpus), session(tmp_path / "run"), Recorder())
    told = Recorder()
    lower = recipe(corpus, "gru", "gru", "training.learning_rate=0.001")
    train(lower, session(tmp_path / "run", resume=True, force=True), told)
    assert {report.learning_rate for report in told.steps} == {0.001}
    assert any("the learning rate is the recipe's again, and no longer 0.125 times that" in note for note in told.notes)


class Killed(BaseException):
    """What no part of a training catches: nothing is saved after it."""


def killed() -> None:
    raise Killed


def test_a_forced_rate_outlasts_a_kill_and_a_way_back(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first checkpoint that the forced run writes by itself."""
    with monkeypatch.context() as patch:
        plant(patch, set(range(3, 100)))
        with pytest.raises(DivergedError):
            train(recipe(corpus), session(tmp_path / "run"), Recorder())
    lower = recipe(corpus, "gru", "gru", "training.learning_rate=0.001")
    with pytest.raises(Killed):
        train(lower, session(tmp_path / "run", resume=True, force=True), Recorder({1: killed}))
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    told = Recorder()
    train(lower, session(tmp_path / "run", resume=True), told)
    assert {report.learning_rate for report in told.steps} == {0.001}
    told = Recorder()
    plant(monkeypatch, set(range(1, 6)))
    train(lower, session(tmp_path / "again", resume=True), told)
    assert {report.learning_rate for report in told.steps if report.step > 5} == {0.0005}
    assert any("at half the learning rate (1 of at most 3 times)" in warning for warning in told.warnings)


def test_forced_data_outlast_a_kill(own: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(recipe(own), session(tmp_path / "run"), Recorder({2: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    for language in ("en", "fr"):
        lines = (own / f"train.{language}").read_text(encoding="utf-8").splitlines()
        (own / f"train.{language}").write_text("".join(f"{line}\n" for line in lines[3:]), encoding="utf-8")
    with pytest.raises(Killed):
        train(recipe(own), session(tmp_path / "run", resume=True, force=True), Recorder({3: killed}))
    told = Recorder()
    train(recipe(own), session(tmp_path / "run", resume=True), told)
    assert told.steps[0].step == 3


def test_a_run_that_stands_at_its_last_step_is_validated_on_a_set_that_is_new(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(own, "gru", "gru", "training.average=2", "training.validate_every=3")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "average", lambda *_: killed())
        with pytest.raises(Killed):
            train(wanted, session(tmp_path / "run"), Recorder())
    lines = (own / "valid.fr").read_text().splitlines()
    (own / "valid.fr").write_text("".join(f"{line}\n" for line in lines[::-1]))
    told = Recorder()
    best = train(wanted, session(tmp_path / "run", resume=True, force=True), told)
    assert not told.steps and [report.step for report in told.validations] == [12]
    assert (best.name, best.scores["loss"]) == ("step-12", told.validations[0].loss)


def test_scores_of_another_set_are_forgotten_whenever_it_is_killed(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the state was saved, the recipe written, or the scores forgotten: what comes then is validated anew."""
    with pytest.raises(Interrupted):
        train(recipe(own), session(tmp_path / "run"), Recorder({8: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    lines = (own / "valid.fr").read_text().splitlines()
    (own / "valid.fr").write_text("".join(f"{line}\n" for line in lines[::-1]))
    for number, (place, name) in enumerate([(Run, "write"), (Run, "forget_scores"), (Trainer, "train")]):
        folder = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "run", folder)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *_: killed())
            with pytest.raises(Killed):
                train(recipe(own), session(folder, resume=True, force=True), Recorder())
        told = Recorder()
        best = train(recipe(own), session(folder, resume=True, force=True), told)
        assert told.validations[0].best
        assert [report.step for report in told.validations] == [8, 12]
        known = {report.step: report.loss for report in told.validations}
        assert best.scores["loss"] == known[best.step]


def test_another_arithmetic_has_no_scores_of_the_one_before(corpus: Path, tmp_path: Path) -> None:
    """The same weights would do for it: of a run that goes on, the old models are none of its best any more."""
    train(recipe(corpus, "transformer", "gru"), session(tmp_path / "run"), Recorder())
    other = recipe(corpus, "transformer", "gru", "model.encoder.heads=4", "training.max_steps=15")
    told = Recorder()
    best = train(other, session(tmp_path / "run", resume=True, force=True), told)
    assert [report.step for report in told.validations] == [12, 15]
    assert best.step in (12, 15) and best.scores["loss"] in {report.loss for report in told.validations}
    assert all(bool(one.scores) == (one.step in (12, 15)) for one in Run.open(tmp_path / "run").checkpoints())


@pytest.mark.parametrize("setting", ["model.encoder.heads=4", "model.encoder.positions=none", "model.encoder.window=2"])
def test_a_finished_run_is_not_made_another_model(setting: str, corpus: Path, tmp_path: Path) -> None:
    """The same weights would do for it; but its scores are those of the one that learned."""
    train(recipe(corpus, "transformer", "gru"), session(tmp_path / "run"), Recorder())
    written = (tmp_path / "run" / "recipe.toml").read_bytes()
    with pytest.raises(ConfigError, match=rf"this run is finished: {setting.partition('=')[0]}: .* more steps"):
        train(
            recipe(corpus, "transformer", "gru", setting),
            session(tmp_path / "run", resume=True, force=True),
            Recorder(),
        )
    assert (tmp_path / "run" / "recipe.toml").read_bytes() == written
    less = recipe(corpus, "transformer", "gru", "model.encoder.dropout=0.1")
    train(less, session(tmp_path / "run", resume=True, force=True), Recorder())
    assert Run.open(tmp_path / "run").recipe == less


def test_a_warm_up_that_outlasts_the_run_is_warned_of(corpus: Path, tmp_path: Path) -> None:
    for warmup, budget, warned in ((3, "0", False), (4, "0", True), (4, "2s", False)):
        told = Recorder()
        schedule = f'training.schedule={{ type = "linear", warmup_steps = {warmup} }}'
        settings = "training.max_steps=3", f"training.budget={budget}", schedule
        train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / f"{warmup}-{budget}"), told)
        assert any("never comes to training.learning_rate" in warning for warning in told.warnings) == warned


def test_two_passes_of_which_nothing_is_dropped_are_warned_of(corpus: Path, tmp_path: Path) -> None:
    for number, (dropped, warned) in enumerate(
        (("dropout=0.0", True), ("dropout=0.1", False), ("recurrent_dropout=0.1", True))
    ):
        told = Recorder()
        settings = "training.consistency=1", "training.max_steps=1", f"model.encoder.{dropped}"
        train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / str(number)), told)
        assert any("nothing is dropped" in warning for warning in told.warnings) == warned


def test_resuming_with_another_recipe_names_the_differences_and_force_goes_on(corpus: Path, tmp_path: Path) -> None:
    train(recipe(corpus), session(tmp_path / "run"), Recorder())
    longer = recipe(corpus, "gru", "gru", "training.max_steps=14")
    with pytest.raises(ConfigError, match=r"training.max_steps: 12 -> 14"):
        train(longer, session(tmp_path / "run", resume=True), Recorder())
    told = Recorder()
    train(longer, session(tmp_path / "run", resume=True, force=True), told)
    assert [report.step for report in told.steps] == [13, 14]


def test_there_must_be_a_run_to_resume(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no run to resume"):
        train(recipe(corpus), session(tmp_path / "run", resume=True), Recorder())


def test_two_trainings_in_one_folder_are_one_too_many(corpus: Path, tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(TrainingError, match=r"another training is running in this folder"):
            train(recipe(corpus), session(tmp_path / "run", resume=True), Recorder())

    train(recipe(corpus), session(tmp_path / "run"), Recorder({3: second}))


def test_where_there_are_no_locks_training_goes_on_and_says_so(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with lock.alone_in(tmp_path / "silent"):
        pass
    told: list[str] = []
    with lock.alone_in(tmp_path / "run", told.append):
        assert (tmp_path / "run").is_dir()
    assert told == [
        f"{tmp_path / 'run'}: cannot be locked (Function not implemented): see to it that no other training runs in it"
    ]
    recorder = Recorder()
    with pytest.raises(NmtError, match=r"store: cannot be locked \(Function not implemented\), .* with --store$"):
        train(recipe(corpus, "gru", "gru", "training.max_steps=1"), session(tmp_path / "run"), recorder)
    assert recorder.warnings == told


def test_signals_that_were_switched_off_stay_off() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.name == "SIGTERM"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    missing = parse_recipe("[data]\ntrain={source='nowhere.en',target='nowhere.fr'}\nvalid={source='a',target='b'}")
    with pytest.raises(TrainingError, match=r"the run folder cannot be written"):
        train(missing, session(tmp_path / "file" / "run"), Recorder())


def test_a_recipe_without_corpora_says_how_to_name_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the recipe has no data.train; .* --data"):
        train(Recipe(), session(tmp_path / "run"), Recorder())


def test_tensorboard_events_tell_what_the_log_tells(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    train(recipe(corpus, "gru", "gru", "training.tensorboard=true"), session(out), Recorder())
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [record["loss"] for record in read_log(out) if record["type"] == "valid"]
    assert [event.value for event in events.Scalars("valid/loss")] == pytest.approx(logged)


def test_events_outlive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their writer, once it has failed, fails ever after, and when it is closed."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(*arguments: Any, **options: Any) -> None:
        raise full

    shown: list[int] = []
    log = Log(tmp_path, tensorboard=True)
    for name in ("add_scalar", "close"):
        monkeypatch.setattr(log._events, name, failing)
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda self, name, value, step: shown.append(step))
    for step in (1, 2):
        log.write("valid", ValidationReport(step, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, best=True))
    assert set(shown) == {2}
    monkeypatch.setattr(log._events, "close", failing)
    log.close()
    assert len(read_log(tmp_path)) == 2


def test_tensorboard_that_is_not_there_is_missed_before_anything_is_made(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"training.tensorboard = true needs TensorBoard: pip install tensorboard, or"
    ):
        train(recipe(corpus, "gru", "gru", "training.tensorboard=true"), session(tmp_path / "run"), Recorder())
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_no_step_twice(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted, out = recipe(corpus, "gru", "gru", "training.tensorboard=true", "training.save_every=4"), tmp_path / "run"
    pid = os.fork()
    if not pid:
        train(wanted, session(out), Recorder({11: lambda: os.kill(os.getpid(), signal.SIGKILL)}))
    os.waitpid(pid, 0)
    time.sleep(1.1)  # TensorBoard tells files of events apart by the second in which they were begun
    train(wanted, session(out, resume=True), Recorder())
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    steps = [record["step"] for record in read_log(out) if record["type"] == "train"]
    assert [event.step for event in events.Scalars("train/loss")] == steps


@pytest.fixture
def own(corpus: Path, tmp_path: Path) -> Path:
    """The corpus, to write to."""
    return Path(shutil.copytree(corpus, tmp_path / "own"))


def test_a_run_that_never_came_to_a_checkpoint_is_begun_anew(corpus: Path, tmp_path: Path) -> None:
    two = ("tokenizer.joint=false", "model.tied_embeddings=2", "data.max_length=1")
    with pytest.raises(DataError, match=r"nothing is left to train on"):
        train(recipe(corpus, "gru", "gru", *two), session(tmp_path / "run"), Recorder())
    assert (tmp_path / "run" / "run.json").exists()
    (tmp_path / "run" / "resume" / ".step-0.7.tmp").mkdir(parents=True)  # killed in its first save
    with pytest.raises(CheckpointError, match=r"no resume/step-N; leave out --resume to begin anew"):
        train(recipe(corpus, "gru", "gru", *two), session(tmp_path / "run", resume=True), Recorder())
    train(recipe(corpus), session(tmp_path / "run"), Recorder())
    assert len(Run.open(tmp_path / "run").checkpoints()) == 1
    assert not (tmp_path / "run" / "target.model").exists()


def test_a_validation_set_is_read_before_anything_costly(own: Path, tmp_path: Path) -> None:
    (own / "valid.fr").write_text("\n" * 15)
    with pytest.raises(DataError, match=r"every pair has a blank side: there is nothing to validate on"):
        train(recipe(own), session(tmp_path / "run"), Recorder())
    (own / "valid.fr").write_text("un\n")
    with pytest.raises(DataError, match=r"valid.en has 15 lines, .*valid.fr has 1"):
        train(recipe(own), session(tmp_path / "run"), Recorder())
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_test_set_that_cannot_be_read_is_told_before_anything_is_tokenised(own: Path, tmp_path: Path) -> None:
    (own / "test.fr").write_text("un\n")
    told = Recorder()
    with pytest.raises(DataError, match=r"test.en has \d+ lines, .*test.fr has 1"):
        train(recipe(own), session(tmp_path / "run"), told)
    assert not any("training pairs: " in note for note in told.notes)


def test_a_forced_recipe_that_does_not_fit_leaves_the_run_as_it_was(corpus: Path, tmp_path: Path) -> None:
    train(recipe(corpus), session(tmp_path / "run"), Recorder())
    before = (tmp_path / "run" / "recipe.toml").read_bytes()
    for settings, words in (
        (["model.encoder.layers=2"], "not the weights of this recipe's model"),
        (["tokenizer.joint=false", "model.tied_embeddings=2"], "tokenizer.joint: True -> False: a run keeps its token"),
    ):
        wanted = recipe(corpus, "gru", "gru", *settings, "training.max_steps=14")
        with pytest.raises((CheckpointError, ConfigError), match=words):
            train(wanted, session(tmp_path / "run", resume=True, force=True), Recorder())
        assert (tmp_path / "run" / "recipe.toml").read_bytes() == before
        Run.open(tmp_path / "run").load_model()


def test_a_forced_recipe_whose_data_cannot_be_read_leaves_the_run_as_it_was(own: Path, tmp_path: Path) -> None:
    train(recipe(own), session(tmp_path / "run"), Recorder())
    before = (tmp_path / "run" / "recipe.toml").read_bytes()
    broken = tmp_path / "broken"
    shutil.copytree(own, broken)
    (broken / "test.fr").write_text("un\n")
    with pytest.raises(DataError, match=r"broken/test.en has \d+ lines"):
        wanted = recipe(broken, "gru", "gru", "training.max_steps=14")
        train(wanted, session(tmp_path / "run", resume=True, force=True), Recorder())
    assert (tmp_path / "run" / "recipe.toml").read_bytes() == before
    train(recipe(own), session(tmp_path / "run", resume=True), Recorder())


def test_a_run_does_not_go_on_with_other_data_unless_forced(own: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(recipe(own), session(tmp_path / "run"), Recorder({3: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    for language in ("en", "fr"):
        with (own / f"train.{language}").open("a") as file:
            file.write("one more .\n")
    words = r"not those this run began with: \S+/train.en and \S+/train.fr: changed since; --force goes on with the new"
    before = sorted((tmp_path / "store").iterdir())
    with pytest.raises(ConfigError, match=words):
        train(recipe(own), session(tmp_path / "run", resume=True), Recorder())
    assert sorted((tmp_path / "store").iterdir()) == before, "told before anything is tokenised"
    train(recipe(own), session(tmp_path / "run", resume=True, force=True), Recorder())
    train(recipe(own), session(tmp_path / "run", resume=True), Recorder())


def test_a_run_does_not_compare_scores_of_two_validation_sets_unless_forced(own: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(recipe(own), session(tmp_path / "run"), Recorder({8: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    lines = (own / "valid.fr").read_text().splitlines()
    (own / "valid.fr").write_text("".join(f"{line}\n" for line in lines[::-1]))
    words = (
        r"the validation set is not the one this run began with: \S+/valid.en and \S+/valid.fr: changed since; --force"
    )
    with pytest.raises(ConfigError, match=words):
        train(recipe(own), session(tmp_path / "run", resume=True), Recorder())
    told = Recorder()
    train(recipe(own), session(tmp_path / "run", resume=True, force=True), told)
    assert told.validations[0].best, "whatever came before was of the other set"
    train(recipe(own), session(tmp_path / "run", resume=True), Recorder())


def test_a_model_scored_on_another_set_is_no_better_than_those_that_come(own: Path, tmp_path: Path) -> None:
    """Whatever the older one's figures say, and the metric: what is kept and translates is scored on the set there is.

    The same where words are cut otherwise.
    """
    train(recipe(own), session(tmp_path / "run"), Recorder())
    one = Run.open(tmp_path / "run")
    one.save_model(one.load_model(), 6, {"bleu": 99.0, "chrf": 99.0, "loss": 0.01})
    lines = (own / "valid.fr").read_text().splitlines()
    (own / "valid.fr").write_text("".join(f"{line}\n" for line in lines[::-1]))
    train(
        recipe(own, "gru", "gru", "training.max_steps=18"),
        session(tmp_path / "run", resume=True, force=True),
        Recorder(),
    )
    assert [one.name for one in Run.open(tmp_path / "run").checkpoints()] == ["step-18"]
    again = Run.open(tmp_path / "run")
    again.save_model(again.load_model(), 18, {"bleu": 99.0, "chrf": 99.0, "loss": 0.01})
    told = Recorder()
    settings = "training.max_steps=24", "training.bleu_tokenize=char"
    train(recipe(own, "gru", "gru", *settings), session(tmp_path / "run", resume=True, force=True), told)
    assert [report.step for report in told.validations] == [18, 24] and told.validations[0].best
    known = {report.step: report.bleu for report in told.validations}
    assert again.best().scores["bleu"] == max(known.values()) == known[again.best().step]


def test_by_another_metric_the_best_is_another(corpus: Path, tmp_path: Path) -> None:
    """A perplexity below 100 is no worse than a BLEU of 10."""
    first = "training.average=3", "training.validate_every=3"
    train(recipe(corpus, "gru", "gru", *first), session(tmp_path / "run"), Recorder())
    best = min(one.scores["loss"] for one in Run.open(tmp_path / "run").checkpoints() if one.step)
    told = Recorder()
    settings = *first, "training.max_steps=15", "training.metric=loss", "training.patience=2"
    train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run", resume=True, force=True), told)
    assert [one.best for one in told.validations] == [one.loss < best for one in told.validations]
    assert told.validations[0].loss < best, "a model that is still learning"


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("decoding.on_long=error", DataError, r"line 1: \d+ pieces, more than the 3 read at once"),
        ("decoding.precision=int8", ConfigError, "precision int8 cannot be had on cpu here"),
    ],
)
def test_what_would_end_every_validation_is_told_before_the_first_step(
    setting: str, error: type[Exception], words: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.decoding.translator.LONGEST", 4)
    monkeypatch.setattr("nmt.layers.packing.has_fbgemm", lambda device: False)
    told = Recorder()
    with pytest.raises(error, match=words):
        train(recipe(corpus, "gru", "gru", setting), session(tmp_path / "run"), told)
    assert not told.steps


@pytest.mark.parametrize("error", [NmtError, RuntimeError, OSError])
def test_an_error_in_a_validation_loses_no_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def failing(*arguments: Any, **options: Any) -> Any:
        raise error("out of memory over one sentence")

    train(recipe(corpus), session(tmp_path / "straight"), Recorder())
    with monkeypatch.context() as patch:
        patch.setattr(validation.Validator, "__call__", failing)
        with pytest.raises(error, match="one sentence"):
            train(recipe(corpus), session(tmp_path / "run"), Recorder())
    assert newest(tmp_path / "run").name == "step-6"
    train(recipe(corpus), session(tmp_path / "run", resume=True), Recorder())
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "straight")


def test_an_error_behind_a_validation_does_not_have_it_counted_twice(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a patience of one, a second look at the same model would be the end."""
    wanted = recipe(corpus, "gru", "gru", "training.patience=1", "training.metric=loss")
    train(wanted, session(tmp_path / "straight"), Recorder())

    def failing(*arguments: Any) -> None:
        raise ValueError("no such figure")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw_curves", failing)
        with pytest.raises(ValueError, match="no such figure"):
            train(wanted, session(tmp_path / "run"), Recorder())
    train(wanted, session(tmp_path / "run", resume=True), Recorder())
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "straight")


def test_an_error_in_a_step_loses_none_before_it(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the batches that it had taken: three a step, the second of which fails."""
    wanted = recipe(corpus, "gru", "gru", "training.accumulate=3", "training.save_every=1000")
    train(wanted, session(tmp_path / "straight"), Recorder())
    real, calls = Objective.forward, itertools.count(1)

    def failing(self: Objective, batch: Batch) -> torch.Tensor:
        if next(calls) == 5 * 3 + 2:
            raise OSError("Server disconnected")
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", failing)
        with pytest.raises(OSError, match="disconnected"):
            train(wanted, session(tmp_path / "run"), Recorder())
    assert newest(tmp_path / "run").name == "step-5"
    train(wanted, session(tmp_path / "run", resume=True), Recorder())
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "straight")


def test_a_validation_takes_in_halves_what_memory_has_no_room_for(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(corpus, "gru", "gru", "training.max_steps=6")
    straight, halved = Recorder(), Recorder()
    train(wanted, session(tmp_path / "straight"), straight)
    real, room = loss.token_loss, 60

    def crowded(features: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if features.shape[:2].numel() > room:
            raise RuntimeError("not enough memory: you tried to allocate")
        return real(features, *arguments, **options)

    monkeypatch.setattr(validation, "token_loss", crowded)
    train(wanted, session(tmp_path / "halved"), halved)
    assert halved.validations[0].loss == pytest.approx(straight.validations[0].loss, rel=1e-6)
    room = 1
    with pytest.raises(NmtError, match=r"data.valid: out of memory over one pair of \d+ source and \d+ target tokens"):
        train(wanted, session(tmp_path / "none"), Recorder())


def test_a_signal_among_skipped_steps_does_not_keep_the_run_from_its_way_back(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written then has weights that lead nowhere; twice, so that it alone would fill the two places."""
    bad = set(range(6, 11))
    with monkeypatch.context() as patch:
        plant(patch, bad)
        train(recipe(corpus), session(tmp_path / "straight"), Recorder())
    with monkeypatch.context() as patch:
        plant(patch, bad)
        for step in (7, 8):
            stop = Recorder({step: lambda: os.kill(os.getpid(), signal.SIGTERM)})
            with pytest.raises(Interrupted):
                train(recipe(corpus), session(tmp_path / "run", resume=step > 7), stop)
        assert newest(tmp_path / "run").name == "step-8"
        told = Recorder()
        train(recipe(corpus), session(tmp_path / "run", resume=True), told)
    assert any("back to step 4, and on at half the learning rate" in warning for warning in told.warnings)
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "straight")
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")


def test_a_pipe_is_no_corpus(corpus: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.tsv")
    data = {**recipe(corpus).data.model_dump(), "train": [{"format": "tsv", "path": tmp_path / "train.tsv"}]}
    wanted = recipe(corpus).model_copy(update={"data": DataConfig.model_validate(data)})
    with pytest.raises(DataError, match=r"train.tsv: is not a file; a corpus is read more than once"):
        train(wanted, session(tmp_path / "run"), Recorder())


def test_resuming_what_is_not_there_makes_no_folder(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        train(recipe(corpus), session(tmp_path / "rnu", resume=True), Recorder())
    assert not (tmp_path / "rnu").exists()


@pytest.mark.parametrize("settings", [["model.encoder.max_positions=5"], ["tokenizer.sampling=0.1"]])
def test_positions_that_are_too_few_are_found_before_the_first_step(
    settings: list[str], corpus: Path, tmp_path: Path
) -> None:
    learned = ["model.encoder.positions=learned", "model.encoder.max_positions=40", *settings]
    told = Recorder()
    with pytest.raises(ConfigError, match=r"^model.encoder.max_positions: \d+ are too few for sentences of up to \d+ "):
        train(recipe(corpus, "transformer", "gru", *learned), session(tmp_path / "run"), told)
    assert not told.steps
    train(recipe(corpus, "transformer", "gru", *learned[:2]), session(tmp_path / "run"), told)


def test_where_sentences_are_cut_at_random_they_may_be_of_any_length(corpus: Path, tmp_path: Path) -> None:
    learned = ["model.encoder.positions=learned", "model.encoder.max_positions=40", "tokenizer.sampling=0.5"]
    with pytest.raises(
        ConfigError, match=r"max_positions: 40 are too few for sentences of any length: raise it, or set"
    ):
        train(
            recipe(corpus, "transformer", "gru", *learned, "data.max_length=0"), session(tmp_path / "run"), Recorder()
        )
    train(recipe(corpus, "transformer", "gru", *learned, "data.max_length=39"), session(tmp_path / "run"), Recorder())


def test_a_damaged_checkpoint_is_written_again_when_its_step_comes(corpus: Path, tmp_path: Path) -> None:
    train(recipe(corpus), session(tmp_path / "run"), Recorder())
    before = fingerprint(tmp_path / "run")
    (tmp_path / "run" / "resume" / "step-12" / "weights.safetensors").write_bytes(b"")
    told = Recorder()
    train(recipe(corpus), session(tmp_path / "run", resume=True), told)
    assert "step-12/weights.safetensors: damaged" in told.warnings[0]
    assert fingerprint(tmp_path / "run") == before


def test_a_damaged_checkpoint_takes_the_place_of_no_whole_one(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(recipe(corpus), session(run), Recorder())
    (run / "resume" / "step-12" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(Interrupted):
        train(recipe(corpus), session(run, resume=True), Recorder({9: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    (run / "resume" / "step-9" / "weights.safetensors").write_bytes(b"")
    told = Recorder()
    train(recipe(corpus), session(run, resume=True), told)
    assert told.steps[0].step == 9
    assert {"step-12", "step-8"} < {path.name for path in (run / "resume").iterdir()}


def test_an_average_is_no_part_of_the_next_average_and_neither_is_a_damaged_model(corpus: Path, tmp_path: Path) -> None:
    settings = ("training.average=9", "training.validate_every=3")
    train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run"), Recorder())
    (tmp_path / "run" / "models" / "step-3" / "weights.safetensors").write_bytes(b"")
    told = Recorder()
    longer = recipe(corpus, "gru", "gru", *settings, "training.max_steps=15")
    train(longer, session(tmp_path / "run", resume=True, force=True), told)
    assert "step-3/weights.safetensors: damaged" in told.warnings[-1]
    assert any(note.startswith("the average of the best 4:") for note in told.notes)  # steps 6, 9, 12 and 15


def test_a_model_that_is_no_number_when_validated_ends_with_exit_code_4(corpus: Path, tmp_path: Path) -> None:
    settings = ("training.learning_rate=1e30", "training.validate_every=1")
    words = r"validation set is not a number any more; .*did not help 3 times; lower training.learning_rate"
    with pytest.raises(DivergedError, match=words):
        train(recipe(corpus, "gru", "gru", *settings), session(tmp_path / "run"), Recorder())
