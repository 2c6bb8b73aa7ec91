"""The ONNX engine: nmt's own searches over graphs, which find what they find over the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nmt.checkpoint import write_folder
from nmt.decoding.request import Request
from nmt.decoding.translator import Translator
from nmt.errors import CheckpointError, ConfigError
from nmt.export.onnx import convert
from tests.decoding.test_ctranslate2 import assert_same
from tests.export.tiny import LINES, TRANSFORMER, export_of, model_of, recipe_of, tokenizers

GRU = {"type": "gru", "width": 16}
LSTM = {"type": "lstm", "width": 16}
PARTS = {"gru": GRU, "lstm": LSTM, "transformer": TRANSFORMER}


def write(folder: Path, encoder: str, decoder: str) -> tuple[Translator, Path]:
    pair, recipe = tokenizers(joint=False), recipe_of(PARTS[encoder], PARTS[decoder], 0)
    model = model_of(recipe.model, pair)
    write_folder(folder, export_of(recipe, "onnx", pair).files() | convert(model, "none"))
    return Translator.of(model, pair, recipe.decoding), folder


@pytest.mark.parametrize("encoder", PARTS)
@pytest.mark.parametrize("decoder", PARTS)
def test_lines_scores_and_attention_are_those_of_torch(tmp_path: Path, encoder: str, decoder: str) -> None:
    ours, folder = write(tmp_path / "x", encoder, decoder)
    expected = list(ours.translate(LINES, nbest=3, attention=True))
    assert any(one.text for one in expected)
    for batch_size in (1, 7):
        theirs = Translator.load(folder, device="cpu", threads=1, batch_size=batch_size)
        assert_same(expected, list(theirs.translate(LINES, nbest=3, attention=True)))


@pytest.mark.parametrize(
    "how",
    [
        {"length_penalty": "gnmt", "coverage_penalty": 0.2},
        {"stopping": "exact", "no_repeat_ngram": 2},
        {"groups": 2},
        {"sampling": True, "top_k": 5},
        {"mbr": "chrf", "mbr_samples": 4},
    ],
    ids=lambda how: "-".join(how),
)
def test_every_search_is_there(tmp_path: Path, how: dict[str, Any]) -> None:
    ours, folder = write(tmp_path / "x", "lstm", "transformer")
    ours = Translator(ours.engine, ours.tokenizers, ours.decoding.model_copy(update=how))
    lines: list[str | Request] = [*LINES[:3]]
    if not how.keys() & {"sampling", "mbr", "groups"}:
        lines.append(Request(LINES[0], prefix="le", use=("chat",), avoid=("noir",)))
    assert_same(list(ours.translate(lines)), list(Translator.load(folder, threads=1, **how).translate(lines)))


def test_memory_that_does_not_suffice_is_known_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By onnxruntime's words: a batch is then tried in halves."""
    _, folder = write(tmp_path / "x", "gru", "gru")
    theirs: Any = Translator.load(folder, device="cpu", threads=1, batch_size=8)
    graph = theirs.engine._engine.model._remember
    session, sizes = graph._session, []

    class Small:
        def run(self, names: list[str], tensors: dict[str, Any]) -> Any:
            sizes.append(len(tensors["source"]))
            if sizes[-1] > 2:
                raise Exception("Non-zero status code: Failed to allocate memory for requested buffer of size 8")
            return session.run(names, tensors)

    expected = [one.text for one in theirs.translate(LINES)]
    monkeypatch.setattr(graph, "_session", Small())
    assert [one.text for one in theirs.translate(LINES)] == expected
    assert max(sizes) > 2


def test_it_runs_on_the_processor_only(tmp_path: Path) -> None:
    _, folder = write(tmp_path / "x", "gru", "gru")
    with pytest.raises(ConfigError, match="device 'cuda' cannot be used: exports to onnx run on the processor"):
        Translator.load(folder, device="cuda")
    with pytest.raises(ConfigError, match="--precision int8: this export is of float32; leave it out, or export again"):
        Translator.load(folder, precision="int8").check()


def test_graphs_that_are_none_are_found(tmp_path: Path) -> None:
    pair, recipe = tokenizers(joint=False), recipe_of(GRU, GRU, 0)
    files = {"remember.onnx": b"\0" * 40, "step.onnx": b"\0" * 40}
    write_folder(tmp_path / "x", export_of(recipe, "onnx", pair).files() | files)
    with pytest.raises(CheckpointError, match="x: onnxruntime cannot read it"):
        Translator.load(tmp_path / "x")
