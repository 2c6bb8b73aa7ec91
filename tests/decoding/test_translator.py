"""Text in, text out: a line for a line, in order, whatever the lines are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.checkpoint import Run
from nmt.config import DecodingConfig, ModelConfig, Recipe, TokenizerConfig
from nmt.data.batching import collate
from nmt.data.tokenizer import Tokenizer, Tokenizers, train_tokenizer
from nmt.decoding import torch_engine
from nmt.decoding import translator as module
from nmt.decoding.beam import beam_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.scoring import score
from nmt.decoding.translator import Translator
from nmt.errors import CheckpointError, ConfigError, NmtError
from nmt.models import Seq2Seq, build

LINES = [
    "the black cat sleeps .",
    "a dog",
    "the tired wolf sees the cat , and the lion sings .",
    "birds",
    "the white horse runs .",
    "green green green green",
    "no",
]
ODD = [
    "", " ", "\t", "\u3000", "\u00a0", "\ufeff", "\u200b", "\u2028", "\x85", "\x0b\x0c\x1c", "\x00", "a\x00b",
    "a\rb", "\r", "\u0301", "e\u0301\u0301", "\u202eabc", "العربية ", "我爱你", "😀👩‍👩‍👧", "\U0010ffff", "▁", "▁▁ ▁",
    "<unk> <s> </s> <pad>", "<0x0A>", "|||", "½ ﬁ Å", "x" * 300,
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(LINES * 3, TokenizerConfig(vocabulary=300, type="bpe"), seed=1)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Seq2Seq:
    torch.manual_seed(5)
    width = {"width": 16, "dropout": 0.5}
    config = {"encoder": {"type": "gru", **width}, "decoder": {"type": "gru", **width}, "embedding": 16}
    model = build(ModelConfig.model_validate({**config, "tied_embeddings": 0}), len(tokenizer), len(tokenizer))
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    return model.eval()


@pytest.fixture
def translator(model: Seq2Seq, tokenizer: Tokenizer) -> Translator:
    return make(model, tokenizer)


def make(model: Seq2Seq, tokenizer: Tokenizer, **decoding: Any) -> Translator:
    search = DecodingConfig.model_validate({"beam": 3, "max_ratio": 0.5, "max_extra": 4, "batch_size": 4, **decoding})
    return Translator.of(model, Tokenizers(tokenizer, tokenizer), search)


def test_odd_lines_give_a_line_each(translator: Translator) -> None:
    found = list(translator.translate(ODD))
    assert [one.source for one in found] == ODD
    for one in found:
        assert not set("\n\r") & set(one.text)
        assert one.text == "" or one.source.strip()
        assert bool(one.hypotheses) == bool(one.source_tokens)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.text(max_size=12) | st.sampled_from(["", " ", "a cat"]), max_size=9))
def test_any_lines_give_a_line_each(translator: Translator, lines: list[str]) -> None:
    found = list(translator.translate(lines))
    assert [one.source for one in found] == lines
    assert not set("\n\r") & set("".join(one.text for one in found))


def test_blank_lines_are_blank_and_change_nothing(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [one.text for one in translator.translate(LINES)]
    mixed = [line for one in LINES for line in ("", one, "  \t")]
    assert [one.text for one in translator.translate(mixed)] == [line for one in plain for line in ("", one, "")]
    monkeypatch.setattr(torch_engine, "beam_search", None)
    assert [one.text for one in translator.translate(["", " ", "\u2003"])] == ["", "", ""]


def test_an_end_of_line_made_of_bytes_is_a_space(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_from = 4  # pieces 0 to 3 are special, byte pieces follow in order
    tokens = tuple(bytes_from + byte for byte in b"A\n\rB")

    def search(model: Any, source: Any, *rest: Any, **arguments: Any) -> Any:
        return [[Hypothesis(tokens, -1.0, -1.0)] for _ in source]

    monkeypatch.setattr(torch_engine, "beam_search", search)
    assert [one.text for one in translator.translate(["a", "dog"])] == ["A  B", "A  B"]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_does_not_matter(
    translator: Translator, model: Seq2Seq, tokenizer: Tokenizer, batch_size: int
) -> None:
    other = make(model, tokenizer, batch_size=batch_size)
    for one, two in zip(translator.translate(LINES, nbest=3), other.translate(LINES, nbest=3), strict=True):
        assert [hypothesis.text for hypothesis in one.hypotheses] == [hypothesis.text for hypothesis in two.hypotheses]
        expected = pytest.approx([hypothesis.score for hypothesis in two.hypotheses], abs=1e-5)
        assert [hypothesis.score for hypothesis in one.hypotheses] == expected


def test_lines_are_read_a_window_ahead(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 1)
    asked = []

    def lines() -> Iterator[str]:
        for line in LINES:
            asked.append(line)
            yield line

    translations = translator.translate(lines())
    assert asked == []
    assert next(translations).source == LINES[0]
    assert asked == LINES[:4]


def test_scores_attention_and_pieces_belong_together(translator: Translator, tokenizer: Tokenizer) -> None:
    for one in translator.translate(LINES, nbest=2, attention=True):
        assert "".join(one.source_pieces).replace("▁", " ").strip() == one.source
        pairs = [(one.source_tokens, hypothesis.tokens) for hypothesis in one.hypotheses]
        ids = {"pad_id": tokenizer.pad_id, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
        scores = score(translator.model, collate(pairs, [0, 1], **ids)).tolist()
        assert scores == pytest.approx([hypothesis.log_probability for hypothesis in one.hypotheses], abs=1e-4)
        for hypothesis in one.hypotheses:
            assert hypothesis.attention is not None
            assert hypothesis.attention.shape == (len(hypothesis.tokens) + 1, len(one.source_tokens) + 1)
            assert hypothesis.text == tokenizer.decode(hypothesis.tokens)
        assert one.source_words == tuple(tokenizer.encode_words(one.source)[1])
        assert one.target_words == tuple(tuple(tokenizer.words(other.tokens)) for other in one.hypotheses)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    ],
)
def test_out_of_memory_halves_the_batch(
    translator: Translator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plain = [one.text for one in translator.translate(LINES)]
    sizes = []

    def small_memory(model: Any, source: Any, *rest: Any, **arguments: Any) -> Any:
        sizes.append(len(source))
        if len(source) > 1:
            raise error
        return beam_search(model, source, *rest, **arguments)

    monkeypatch.setattr(torch_engine, "beam_search", small_memory)
    assert [one.text for one in translator.translate(LINES)] == plain
    assert sizes == [4, 2, 1, 1, 2, 1, 1, 3, 2, 1, 1, 1]


def test_out_of_memory_over_one_sentence_names_its_line(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(model: Any, source: Any, *rest: Any, **arguments: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch_engine, "beam_search", no_memory)
    with pytest.raises(NmtError, match=r"^line 2: out of memory over one sentence of \d+ pieces: use a smaller beam"):
        list(translator.translate(["", "a dog"]))


def test_other_errors_of_the_model_are_not_taken_for_memory(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*rest: Any, **arguments: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(torch_engine, "beam_search", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(translator.translate(LINES))


def test_a_line_that_is_too_long_is_translated_in_parts(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator.longest_source = 24
    monkeypatch.setattr(module, "TOGETHER", 1)
    sentences = ["the black cat sleeps .", "the dog sees the lion !", "a bird sings ."]
    long = " ".join(sentences)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
    monkeypatch.setattr(module._log, "handlers", [handler])
    found = list(translator.translate(["a cat", long, "a dog", long], nbest=3, attention=True))
    parts = list(translator.translate(sentences, nbest=3))
    assert [one.parts for one in found] == [1, 3, 1, 3]
    assert found[1].text == " ".join(one.text for one in parts).strip()
    assert found[1].source_tokens == tuple(token for one in parts for token in one.source_tokens)
    best = found[1].hypotheses[0]
    assert best.log_probability == pytest.approx(sum(one.hypotheses[0].log_probability for one in parts), abs=1e-4)
    scores = [hypothesis.score for hypothesis in found[1].hypotheses]
    assert scores == sorted(scores, reverse=True)
    assert best.attention is not None
    assert best.attention.shape == (len(best.tokens) + 1, len(found[1].source_tokens) + 1)
    np.testing.assert_allclose(best.attention.sum(axis=1), 1, rtol=1e-5)
    first = len(parts[0].hypotheses[0].tokens), len(parts[0].source_tokens)
    assert np.count_nonzero(best.attention[: first[0], first[1] : -1]) == 0
    # Words: those of the whole line, counted on from part to part.
    assert len(found[1].source_words) == len(found[1].source_tokens)
    assert found[1].source_words[0] == 0
    assert found[1].source_words[first[1]] == len(sentences[0].split())
    assert found[1].source_words[-1] == len(long.split()) - 1
    for hypothesis, words in zip(found[1].hypotheses, found[1].target_words, strict=True):
        assert len(words) == len(hypothesis.tokens)
        assert list(words) == sorted(words)
        assert words[-1] == len(hypothesis.text.split()) - 1
    assert translator.counts.split == 2
    (warning,) = said
    assert warning.startswith("WARNING line 2 has ")
    assert "more than the 23 read at once: it is translated in 3 parts" in warning


def test_learned_positions_bound_what_is_read_and_written(tokenizer: Tokenizer) -> None:
    part = {"type": "transformer", "width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "positions": "learned"}
    parts = {"encoder": {**part, "max_positions": 12}, "decoder": {**part, "max_positions": 10}, "embedding": 16}
    model = build(ModelConfig.model_validate(parts), len(tokenizer), len(tokenizer)).eval()
    translator = make(model, tokenizer, max_extra=100)
    assert (translator.longest_source, translator.engine.longest_target) == (10, 10)
    (found,) = translator.translate(["the black cat sees the white horse and the bird ."])
    assert found.parts > 1
    assert found.text


def test_a_model_in_training_stays_as_it_was(model: Seq2Seq, tokenizer: Tokenizer) -> None:
    translator = make(model, tokenizer)
    expected = [one.text for one in translator.translate(LINES)]
    model.train()
    try:
        model.encoder.dropout.eval()  # type: ignore[attr-defined]
        modes = [part.training for part in model.modules()]
        assert [one.text for one in translator.translate(LINES)] == expected
        assert [part.training for part in model.modules()] == modes
    finally:
        model.eval()


def test_no_lines_no_translations(translator: Translator) -> None:
    assert list(translator.translate([])) == []


def test_loading_a_run(model: Seq2Seq, tokenizer: Tokenizer, tmp_path: Path) -> None:
    shape = {"encoder": {"type": "gru", "width": 16}, "decoder": {"type": "gru", "width": 16}, "embedding": 16}
    recipe = Recipe.model_validate(
        {"model": {**shape, "tied_embeddings": 0}, "tokenizer": {"vocabulary": 300}, "decoding": {"beam": 2}}
    )
    run = Run.create(tmp_path / "run", recipe, Tokenizers(tokenizer, tokenizer))
    with pytest.raises(CheckpointError, match="no model has been saved"):
        Translator.load(run.folder)
    run.save_model(model, 10, {"loss": 1.0})
    loaded = Translator.load(run.folder, device="cpu", max_ratio=0.5, max_extra=4)
    assert loaded.decoding == recipe.decoding.model_copy(update={"max_ratio": 0.5, "max_extra": 4})
    expected = [one.text for one in make(model, tokenizer, beam=2).translate(LINES)]
    assert [one.text for one in loaded.translate(LINES)] == expected
    with pytest.raises(ConfigError, match=r"decoding\.beam: .* greater than or equal to 1"):
        Translator.load(run.folder, beam=0)
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        Translator.load(run.folder, device="abacus")
    with pytest.raises(CheckpointError, match="no such run folder"):
        Translator.load(tmp_path / "elsewhere")
