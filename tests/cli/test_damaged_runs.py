"""A run folder that is incomplete, damaged, newer or put together of two: one line, the exit code, nothing written."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from nmt.checkpoint import Run
from nmt.config import Recipe
from nmt.data.tokenizer import Tokenizers, train_tokenizer
from nmt.models import build
from nmt_cli.main import main

FILES = (
    "run.json",
    "recipe.toml",
    "source.model",
    "manifest.json",
    "models/step-1/weights.safetensors",
    "models/step-1/scores.json",
    "models/step-1/manifest.json",
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    part = {"type": "gru", "width": 8}
    recipe = Recipe.model_validate(
        {
            "model": {"encoder": part, "decoder": part, "embedding": 8, "tied_embeddings": 0},
            "tokenizer": {"vocabulary": 280},
            "decoding": {"beam": 1, "max_ratio": 0.5, "max_extra": 1},
        }
    )
    tokenizer = train_tokenizer(["a dog", "the cat"] * 9, recipe.tokenizer, seed=1)
    torch.manual_seed(5)
    run = Run.create(tmp_path_factory.mktemp("damage") / "run", recipe, Tokenizers(tokenizer, tokenizer))
    run.save_model(build(recipe.model, len(tokenizer), len(tokenizer)), 1, {"loss": 1.0})
    return run.folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged, and something to translate beside it."""
    (tmp_path / "in").write_text("a dog\n")
    return Path(shutil.copytree(whole, tmp_path / "run"))


def fails(run: Path, capsys: Capture) -> str:
    """The line that translating with the run ends with; nothing is written, under whatever name."""
    folder = run.parent
    before = sorted(path.name for path in folder.iterdir())
    assert main(["translate", str(run), "-i", str(folder / "in"), "-o", str(folder / "out")]) == 1
    assert sorted(path.name for path in folder.iterdir()) == before
    told = capsys.readouterr()
    assert told.out == ""
    *warnings, error = told.err.splitlines()
    assert all(line.startswith("nmt: warning: ") for line in warnings)
    assert error.startswith("nmt: error: ")
    assert str(run) in error
    return error


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_at_ten_places(run: Path, capsys: Capture, name: str) -> None:
    content = (run / name).read_bytes()
    for tenth in range(10):
        (run / name).write_bytes(content[: len(content) * tenth // 10])
        fails(run, capsys)
    (run / name).write_bytes(content)
    assert main(["translate", str(run), "-i", str(run.parent / "in")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing(run: Path, capsys: Capture, name: str) -> None:
    (run / name).unlink()
    fails(run, capsys)


def test_a_run_of_a_newer_format(run: Path, capsys: Capture) -> None:
    (run / "run.json").write_text(json.dumps({"format": 99, "nmt": "9.0"}))
    assert "a run of format 99, written by nmt 9.0" in fails(run, capsys)
    assert "install a newer one" in fails(run, capsys)


def test_a_tokenizer_of_another_size(run: Path, capsys: Capture) -> None:
    """Even one that the manifest vouches for: somebody has put two runs together."""
    recipe = Recipe.model_validate({"tokenizer": {"vocabulary": 270}})
    other = train_tokenizer(["a dog", "the cat"] * 9, recipe.tokenizer, seed=1).to_bytes()
    (run / "source.model").write_bytes(other)
    assert "source.model: damaged" in fails(run, capsys)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["source.model"] = {"bytes": len(other), "sha256": sha256(other).hexdigest()}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "has shape (280, 8), the recipe's model (270, 8)" in fails(run, capsys)


def test_inputs_and_outputs_that_are_none(run: Path, capsys: Capture) -> None:
    for arguments, code, words in (
        (["-i", str(run)], 3, f"{run}: is a folder, not a file"),
        (["-i", str(run.parent / "in"), "-o", str(run)], 1, f"{run}: cannot be written: Is a directory"),
        (["-i", str(run.parent / "in"), "-o", "/dev/full"], 1, "/dev/full: cannot be written: No space left on device"),
    ):
        assert main(["translate", str(run), *arguments]) == code
        assert capsys.readouterr().err == f"nmt: error: {words}\n"
