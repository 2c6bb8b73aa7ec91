"""Run folders: whole or not there, and damage is found before it is used."""

from __future__ import annotations

import errno
import io
import json
import os
import pickletools
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt import checkpoint
from nmt.checkpoint import Run, check_folder, goodness, latest_folder, recover, weights, write_folder
from nmt.config import DataConfig, Recipe, TextCorpus, parse_recipe
from nmt.data.tokenizer import Tokenizer, Tokenizers, train_tokenizers
from nmt.errors import CheckpointError

RECIPE = """
[tokenizer]
vocabulary = 300
[model]
embedding = 16
encoder = { type = "gru", width = 16 }
decoder = { type = "gru", width = 16 }
"""
FILES = {"a.bin": bytes(range(256)) * 4, "b.json": b'{"b": 1}'}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(RECIPE)


@pytest.fixture(scope="module")
def tokenizers(corpus: Path, recipe: Recipe) -> Tokenizers:
    data = DataConfig(train=(TextCorpus(source=corpus / "train.en", target=corpus / "train.fr"),))
    return train_tokenizers(data, recipe.tokenizer, seed=1)


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe, tokenizers: Tokenizers) -> Run:
    """A run with two models of unequal merit."""
    run = Run.create(tmp_path / "run", recipe, tokenizers)
    for step, bleu in ((10, 30.0), (20, 20.0)):
        torch.manual_seed(step)
        run.save_model(run.new_model(), step, {"bleu": bleu, "loss": 1.0})
    return run


def test_a_run_comes_back_as_it_was_written(run: Run, recipe: Recipe, tokenizers: Tokenizers) -> None:
    again = Run.open(run.folder)
    assert again.recipe == recipe
    assert again.tokenizers == tokenizers
    assert again.tokenizers.source is again.tokenizers.target
    torch.manual_seed(10)
    expected = weights(again.new_model())
    model = again.load_model()
    assert not model.training
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, expected[name])


def test_the_best_checkpoint_is_the_one_the_metric_ranks_first(run: Run) -> None:
    assert run.best().name == "step-10"
    assert [one.name for one in run.checkpoints()] == ["step-10", "step-20"]
    assert run.checkpoint("step-20").scores["bleu"] == 20
    run.keep_best(1)
    assert [one.name for one in run.checkpoints()] == ["step-10"]


def test_a_loss_is_better_smaller_and_a_missing_score_is_the_worst() -> None:
    assert goodness("loss", {"loss": 1.0}) > goodness("loss", {"loss": 2.0})
    assert goodness("bleu", {"bleu": 2.0}) > goodness("bleu", {"bleu": 1.0})
    assert goodness("bleu", {"bleu": float("nan")}) == goodness("bleu", {}) == float("-inf")


def as_a_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("text")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda run: shutil.rmtree(run), r"no such run folder"),
        (lambda run: as_a_file(run), r"a file, not a run folder"),
        (lambda run: (run / "export.json").touch(), r"an export, which nmt translate alone takes"),
        (lambda run: (run / "run.json").unlink(), r"not a run folder: it has no run.json"),
        (lambda run: (run / "run.json").write_text('{"format": 99, "nmt": "9.9"}'), r"format 99, written by nmt 9.9"),
        (lambda run: (run / "run.json").write_text("{"), r"run.json: damaged: not JSON"),
        (lambda run: (run / "manifest.json").unlink(), r"manifest.json: cannot be read"),
        (lambda run: (run / "source.model").unlink(), r"source.model: missing from the checkpoint"),
        (lambda run: (run / "recipe.toml").write_text("[model]"), r"recipe.toml: damaged: 7 bytes where there were"),
        (lambda run: shutil.rmtree(run / "models"), r"no model has been saved in this run yet"),
    ],
)
def test_a_broken_run_is_one_line(run: Run, break_it: Callable[[Path], Any], words: str) -> None:
    break_it(run.folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        Run.open(run.folder).load_model()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_not_there_names_those_that_are(run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint 'step-7'; there are: step-10, step-20"):
        run.checkpoint("step-7")


def test_every_truncation_and_every_flipped_bit_is_found(run: Run) -> None:
    """In every file of a run; what leaves a manifest saying the same, as a tab for a space, is no damage."""
    write_folder(run.folder / "resume" / "step-20", FILES)
    draw = random.Random(5)
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(files) == 4 + 2 * 3 + 3
    for path in files:
        whole = path.read_bytes()
        listed = json.loads(whole) if path.name == "manifest.json" else None
        for _ in range(100):
            damaged = bytearray(whole)
            if draw.random() < 0.5:
                del damaged[draw.randrange(len(whole)) :]
            else:
                damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            if listed is None:
                with pytest.raises(CheckpointError, match=re.escape(str(path))):
                    check_folder(path.parent)
            elif not says(damaged, listed):
                with pytest.raises(CheckpointError, match=re.escape(str(path.parent))):
                    check_folder(path.parent)
        path.write_bytes(whole)
        check_folder(path.parent)


def says(manifest: bytearray, listed: dict[str, Any]) -> bool:
    """Whether the manifest, damaged as it is, says nothing that is not so."""
    try:
        content = json.loads(manifest.decode())
    except ValueError:
        return False
    entries = content.items() if isinstance(content, dict) else ()
    return bool(content) and all(
        isinstance(entry, dict) and listed.get(name, {}).items() <= entry.items() and name in listed
        for name, entry in entries
    )


def test_a_pickle_is_refused_and_does_nothing(run: Run, tmp_path: Path) -> None:
    """One that a manifest vouches for: whoever can plant the one can write the other."""
    planted = f"cos\nsystem\n(S'touch {tmp_path}/done'\ntR.".encode()
    folder = run.folder / "models" / "step-10"
    write_folder(folder, {"weights.safetensors": planted, "scores.json": (folder / "scores.json").read_bytes()})
    with pytest.raises(CheckpointError, match=r"step-10/weights.safetensors: damaged"):
        run.load_model()
    (run.folder / "source.model").write_bytes(planted)
    with pytest.raises(CheckpointError, match=r"source.model: damaged"):
        Run.open(run.folder)
    with pytest.raises(CheckpointError, match=r"source.model: not a SentencePiece model"):
        Tokenizer.load(run.folder / "source.model")
    assert not (tmp_path / "done").exists()


def test_weights_of_another_shape_are_refused(run: Run, tokenizers: Tokenizers, tmp_path: Path) -> None:
    wider = parse_recipe(RECIPE, overrides=["model.encoder.width=32"])
    other = Run.create(tmp_path / "other", wider, tokenizers)
    shutil.copytree(run.folder / "models", other.folder / "models")
    with pytest.raises(CheckpointError, match=r"has shape .* the recipe's model"):
        other.load_model()


def test_a_folder_is_written_whole_and_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "step-1"
    write_folder(folder, FILES)
    check_folder(folder)
    write_folder(folder, {"a.bin": b"new"})
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "manifest.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["step-1"]


def test_files_are_flushed_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(descriptor: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def record_rename(path: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    write_folder(tmp_path / "step-1", FILES)
    at = calls.index("rename")
    assert {"fsync a.bin", "fsync b.json", "fsync manifest.json"} <= set(calls[:at])
    assert calls[at - 1].startswith("fsync .step-1")
    assert calls[at + 1 :] == [f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("call", range(5), ids=["a file", "a file", "manifest", "folder", "parent"])
def test_whenever_writing_fails_the_old_folder_stays_and_no_temporary_one(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "step-1"
    write_folder(folder, FILES)
    left = iter(range(call, -1, -1))
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if next(left, 1) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(CheckpointError, match=r"No space left on device \(.* MB needed, .* MB free\)"):
        write_folder(folder, {"a.bin": b"new", "b.json": b"{}"})
    check_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_what_a_killed_process_left_is_in_nobody_s_way(tmp_path: Path) -> None:
    """In a container every process may have the same number, and so the same temporary name."""
    for left in (f".step-1.{os.getpid()}.tmp", ".step-7.99.tmp", ".step-1.99.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "weights").write_bytes(b"half")
    write_folder(tmp_path / "step-1", FILES)
    check_folder(tmp_path / "step-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".step-7.99.tmp", "step-1"]
    recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


@pytest.mark.parametrize("sweep", [lambda parent: write_folder(parent / "step-1", FILES), recover])
def test_what_others_have_hidden_there_stays(tmp_path: Path, sweep: Callable[[Path], None]) -> None:
    """An export is written wherever its user likes: into a home, say."""
    (tmp_path / "data").mkdir()
    for name in (".data.old", ".cache.tmp", ".ssh.old", ".step-1.tmp", ".step-1.x.old", ".step-1..tmp"):
        (tmp_path / name).mkdir()
    for name in (".bashrc.old", ".notes.tmp"):
        (tmp_path / name).touch()
    before = {path.name for path in tmp_path.iterdir()}
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {"step-1"} == before


def test_a_folder_that_stepped_aside_comes_back_and_what_was_being_removed_does_not(tmp_path: Path) -> None:
    for name in ("step-1", "step-2", "step-3"):
        write_folder(tmp_path / name, FILES)
    (tmp_path / "step-1").rename(tmp_path / ".step-1.99.tmp")
    (tmp_path / "step-2").rename(tmp_path / ".step-2.99.old")
    shutil.copytree(tmp_path / "step-3", tmp_path / ".step-3.99.old")
    recover(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-3"]
    check_folder(tmp_path / "step-2")


@pytest.mark.parametrize("content", ["{}", '{"a.bin": 7}', '{"a.bin": {"bytes": 3}}', "[" * 100_000])
def test_a_manifest_that_lists_nothing_vouches_for_nothing(tmp_path: Path, content: str) -> None:
    write_folder(tmp_path / "step-1", FILES)
    (tmp_path / "step-1" / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged: "):
        check_folder(tmp_path / "step-1")


@pytest.mark.parametrize("content", ["", "{}", '{"step": "x", "scores": {}}', '{"step": 1, "scores": 5}'])
def test_a_model_with_damaged_scores_is_named_and_left_out(
    run: Run, content: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint._log.parent, "propagate", True)
    (run.folder / "models" / "step-10" / "scores.json").write_text(content)
    assert run.best().name == "step-20"
    assert "step-10 is left out: its scores.json is damaged" in caplog.text


def test_the_newest_whole_checkpoint_is_used_and_the_damaged_one_named(tmp_path: Path) -> None:
    for step in (8, 9, 10):
        write_folder(tmp_path / f"step-{step}", FILES)
    (tmp_path / "step-10" / "a.bin").write_bytes(b"short")
    folder, complaints = latest_folder(tmp_path)
    assert folder == tmp_path / "step-9"
    assert len(complaints) == 1
    assert "step-10/a.bin: damaged: 5 bytes where there were 1024" in complaints[0]
    assert latest_folder(tmp_path / "nothing") == (None, [])


def test_two_tokenizers_are_two_files(tmp_path: Path, corpus: Path) -> None:
    data = DataConfig(train=(TextCorpus(source=corpus / "train.en", target=corpus / "train.fr"),))
    apart = parse_recipe(RECIPE, overrides=["tokenizer.joint=false", "model.tied_embeddings=2"])
    both = train_tokenizers(data, apart.tokenizer, seed=1)
    Run.create(tmp_path / "run", apart, both)
    again = Run.open(tmp_path / "run")
    assert again.tokenizers == both
    assert again.tokenizers.source != again.tokenizers.target


def test_nothing_in_a_run_is_a_pickle(run: Run) -> None:
    assert json.loads((run.folder / "run.json").read_text())["format"] == checkpoint.FORMAT
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".toml", ".model", ".safetensors"}
    for path in files:
        with pytest.raises(Exception):  # noqa: B017 - whatever pickletools says, it is not "this is a pickle"
            pickletools.dis(path.read_bytes(), out=io.StringIO())
