"""Text in, text out: a line for a line, in order, whatever the lines are."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from nmt.decoding import lines as lines_module
from nmt.decoding import torch_engine
from nmt.decoding import translator as module
from nmt.decoding.beam import beam_search
from nmt.decoding.constraints import met, used
from nmt.decoding.glossary import Glossary
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lines import Counts, Lines, Part
from nmt.decoding.request import Request, Source
from nmt.decoding.scoring import score
from nmt.decoding.translator import Translator, overridden
from nmt.errors import CheckpointError, ConfigError, DataError, NmtError
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
    with pytest.raises(NmtError, match=r"^line 2: out of memory over one sentence of \d+ pieces: shorten it$"):
        list(translator.translate(["", "a dog"], beam=1))


def test_a_prefix_too_long_for_the_model_names_its_line(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translator.engine, "longest_target", 4)
    lines = [Request("a dog"), Request("a dog", prefix="un chien noir et un chat")]
    with pytest.raises(
        DataError, match=r"^line 2: a translation cannot begin with a prefix of \d+ pieces: the model w"
    ):
        list(translator.translate(lines))


def test_one_translation_a_line_is_the_least(translator: Translator) -> None:
    with pytest.raises(ConfigError, match="nbest 0: a line has one translation at least"):
        translator.translate(["a dog"], nbest=0)


def test_a_line_of_nothing_but_marks_is_split_too(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator, "longest_source", 20)
    (one,) = translator.translate(["a" + "\u0301" * 300])
    assert one.parts > 1


def test_other_errors_of_the_model_are_not_taken_for_memory(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*rest: Any, **arguments: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(torch_engine, "beam_search", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(translator.translate(LINES))


PARTED = ["the black cat sleeps .", "the dog sees the lion !", "a bird sings ."]
"""Sentences that in one line are too long for ``of_short_lines``, and are translated one by one."""


@pytest.fixture
def of_short_lines(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> Translator:
    translator.longest_source = 24
    monkeypatch.setattr(lines_module, "TOGETHER", 1)
    return translator


def test_a_line_that_is_too_long_is_translated_in_parts(
    of_short_lines: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator, sentences = of_short_lines, PARTED
    long = " ".join(sentences)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
    monkeypatch.setattr(lines_module._log, "handlers", [handler])
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


def test_a_line_longer_than_those_of_training_is_cut_between_its_sentences(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = ["the black cat sleeps .", "the dog sees the lion ! a bird sings .", "no"]
    sizes = [len(translator.tokenizers.source.encode(one)) for one in sentences]
    translator.learnt = max(sizes)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(lines_module._log, "handlers", [handler])
    long, one = (
        " ".join(sentences),
        "the black cat sees the white horse and the bird sees the lion and the cat sleeps .",
    )
    assert len(translator.tokenizers.source.encode(one)) > translator.learnt
    found = list(translator.translate([long, one, *sentences]))
    assert [line.parts for line in found] == [3 if sizes[1] + sizes[2] > max(sizes) else 2, 1, 1, 1, 1]
    assert found[0].text.startswith(found[2].text)
    assert len(said) == 1 and f"more than the {max(sizes)} of training: it is translated in" in said[0]
    (whole,) = translator.translate([long], on_long="cut")
    assert whole.parts == 1
    translator.learnt = 0
    assert next(translator.translate([long])).parts == 1


def test_what_a_glossary_asks_for_is_asked_of_the_part_that_has_the_term(of_short_lines: Translator) -> None:
    translator, sentences = of_short_lines, PARTED
    terms = Glossary({"lion": "le loup", "bird": "le loup"})
    given = [Request(" ".join(sentences), use=("vert",), glossary=terms)]
    given += [Request(one, use=("vert",) if one == sentences[0] else (), glossary=terms) for one in sentences]
    whole, *parts = translator.translate(given, beam=8, max_extra=9)
    assert whole.parts == 3
    assert whole.unmet[0] == ()
    assert ["le loup" in one.text for one in parts] == [False, True, True]
    assert whole.text == " ".join(one.text for one in parts).strip()
    # What is cut off asks for nothing, and what a part lacks it does not get from another.
    (cut,) = translator.translate([Request(" ".join([*sentences[::2], "lion " * 20]), glossary=terms)], on_long="cut")
    assert cut.text.count("loup") == 1
    short = Request(" ".join(sentences), glossary=terms)
    (sampled,) = translator.translate([short], sampling=True, temperature=0.01)
    assert sampled.text.count("le loup") + len(sampled.unmet[0]) == 2


@pytest.mark.parametrize("spelt", ["le  loup", "le loup ", "l\uff45 loup"])
def test_a_phrase_that_the_request_has_is_not_asked_for_twice(translator: Translator, spelt: str) -> None:
    """Nor is one that is spelt otherwise and has the same pieces."""
    for wish in (
        Request("a dog", use=(spelt,), glossary=Glossary({"dog": "le loup"})),
        Request("a dog cat", glossary=Glossary({"dog": "le loup", "cat": spelt})),
    ):
        (found,) = translator.translate([wish], beam=8, max_extra=9)
        assert found.text.count("le loup") == 1
        assert found.unmet == ((),)


def test_what_is_kept_stands_as_often_as_in_the_source(translator: Translator) -> None:
    lines = [Request(text, use=use, glossary=Glossary(keep="le")) for text, use in (("le le", ()), ("le le", ("le",)))]
    for found in translator.translate(lines, beam=8, max_extra=9):
        assert len(re.findall(r"\ble\b", found.text)) == 2
        assert found.unmet == ((),)
    (sampled,) = translator.translate(lines[:1], sampling=True, temperature=0.01)
    assert min(2, len(re.findall(r"\ble\b", sampled.text))) + len(sampled.unmet[0]) == 2


@pytest.mark.parametrize(("word", "is_asked"), [("dogs", False), ("dog", True)])
def test_a_word_that_is_cut_is_no_term(translator: Translator, tokenizer: Tokenizer, word: str, is_asked: bool) -> None:
    translator.longest_source = len(tokenizer.encode("a dog")) + 1  # of "dogs" the end is not read
    (found,) = translator.translate([Request(f"a {word} sleeps", glossary=Glossary({"dog": "le"}))], on_long="cut")
    assert found.source_pieces[-1].endswith("g")
    assert bool(found.unmet) == is_asked


def test_a_phrase_is_used_in_whatever_pieces_it_is_written(tokenizer: Tokenizer) -> None:
    encode = tokenizer.encode
    for text in ("the lion sleeps", "(lion)", "l'lion", "lionlion"):
        assert used(tokenizer, encode(text), [encode("lion")]) == (text != "lionlion",)
    assert not met(encode("(lion)"), [encode("lion")])[0]  # whose pieces are others


def test_a_free_translation_that_has_the_phrase_in_other_pieces_counts(tokenizer: Tokenizer) -> None:
    texts = {"( lion )": -2.0, "(lion)": -1.0}
    spelt = [Hypothesis(tuple(tokenizer.encode(text)), score, score) for text, score in texts.items()]
    source = Source((), use=(tuple(tokenizer.encode("lion")),), continuing=tokenizer.continuing)
    assert torch_engine._best_of(source, spelt[:1], spelt[1:], 1, tokenizer) == spelt[1:]


def test_a_piece_of_which_nothing_is_seen_belongs_to_a_word_that_is_there(tokenizer: Tokenizer) -> None:
    """Even where it is all that a part of a line became."""
    lines = Lines(Tokenizers(tokenizer, tokenizer), DecodingConfig(), 24, Counts())
    cat, blank = tuple(tokenizer.encode("the cat")), (tokenizer.piece_id("\u2581"),)
    parts = [Part(1, Source(cat), joint=" "), Part(1, Source(cat))]
    found = [
        [Hypothesis(tokens, -1.0, -1.0, token_log_probabilities=(-0.1,) * (len(tokens) + 1))] for tokens in (cat, blank)
    ]
    made = lines.translation(Request("x"), parts, found, words=True)
    assert made.hypotheses[0].text == "the cat"
    assert made.target_words[0][-1] == 1 and max(made.target_words[0]) == 1
    nothing = lines.translation(Request("x"), parts[:1], found[1:], words=True)
    assert (nothing.hypotheses[0].text, nothing.target_words) == ("", ((0,),))


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
    assert loaded.decoding == recipe.decoding.model_copy(
        update={"max_ratio": 0.5, "max_extra": 4, "precision": "float32"}
    )
    assert loaded.learnt == recipe.data.max_length == 250
    expected = [one.text for one in make(model, tokenizer, beam=2).translate(LINES)]
    assert [one.text for one in loaded.translate(LINES)] == expected
    with pytest.raises(ConfigError, match=r"decoding\.beam: .* greater than or equal to 1"):
        Translator.load(run.folder, beam=0)
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        Translator.load(run.folder, device="abacus")
    with pytest.raises(CheckpointError, match="no such run folder"):
        Translator.load(tmp_path / "elsewhere")


# ---------------------------------------------------------------------------------------------------- ranks and scores


def test_a_phrase_that_is_missing_ranks_behind(
    translator: Translator, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the scores are, of a line and of one that is translated in parts."""
    dog, cat = (Hypothesis(tuple(tokenizer.encode(text)), -9.0, -3.0) for text in ("a dog", "a cat"))
    cat = Hypothesis(cat.tokens, -1.0, -1.0)

    def search(model: Any, source: Any, *rest: Any, sources: Any, **arguments: Any) -> Any:
        return [[dog, cat] if wish.use else [cat, cat] for wish in sources]

    monkeypatch.setattr(torch_engine, "beam_search", search)
    (found,) = translator.translate([Request("birds", use=("dog",))], nbest=2)
    assert ([one.text for one in found.hypotheses], found.unmet) == (["a dog", "a cat"], ((), ("dog",)))
    translator.longest_source = 12
    (found,) = translator.translate([Request("the black cat sleeps . no birds .", use=("dog",))], nbest=2)
    assert found.parts > 1
    assert found.unmet == ((), ("dog",))
    assert found.hypotheses[0].score < found.hypotheses[1].score


@pytest.mark.parametrize("how", [{}, {"coverage_penalty": 0.7}, {"mbr": "chrf", "mbr_samples": 4}, {"sampling": True}])
def test_the_score_of_parts_follows_the_rule_of_each(
    model: Seq2Seq, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    monkeypatch.setattr(lines_module, "TOGETHER", 1)
    translator = make(model, tokenizer, length_penalty="gnmt", alpha=0.6, **how)
    translator.longest_source = 24
    sentences = ["the black cat sleeps .", "the dog sees the lion !"]
    (found,) = translator.translate([" ".join(sentences)], attention=True)
    parts = [one.hypotheses[0] for one in translator.translate(sentences, attention=True)]
    assert found.parts == 2
    (best,) = found.hypotheses
    length = len(best.tokens) + 2
    if "mbr" in how:
        assert best.score == pytest.approx(np.mean([one.score for one in parts]))
        return
    expected = sum(one.log_probability for one in parts) / ((5 + length) / 6) ** 0.6
    if "coverage_penalty" in how:
        for one in parts:
            assert one.attention is not None
            expected += 0.7 * np.log(one.attention.sum(axis=0)[:-1].clip(max=1)).sum()
    assert best.score == pytest.approx(expected, abs=1e-4)


# ------------------------------------------------------------------------------------------------ what may be asked for


def test_a_call_may_override_what_was_loaded(translator: Translator, model: Seq2Seq, tokenizer: Tokenizer) -> None:
    for changes in ({"beam": 1}, {"sampling": True, "seed": 7}, {"max_ratio": 0.3}):
        expected = [one.text for one in make(model, tokenizer, **changes).translate(LINES)]
        assert [one.text for one in translator.translate(LINES, **changes)] == expected
    assert translator.decoding.beam == 3


def test_mistakes_are_told_at_once(translator: Translator) -> None:
    """Before anything is read, and not when the first translation is asked for."""
    lines = iter(LINES)
    with pytest.raises(ConfigError, match="nbest 9 needs a beam of at least 9, not 3"):
        translator.translate(lines, nbest=9)
    with pytest.raises(ConfigError, match=r"decoding\.beem: Extra inputs"):
        translator.translate(lines, beem=9)
    with pytest.raises(ConfigError, match="translate takes lines, and this is one: put it into a list"):
        translator.translate("a dog")
    assert next(lines) == LINES[0]
    with pytest.raises(ConfigError, match=r"Request: use takes phrases, and 'the cat' is one: put it into a tuple"):
        Request("a dog", use="the cat")
    assert Request("a dog", avoid=["the cat"]).avoid == ("the cat",)


def test_the_recipes_groups_do_not_stand_in_the_way_of_samples() -> None:
    recipe = DecodingConfig(beam=4, groups=2)
    for drawn in ({"sampling": True}, {"mbr": "bleu"}):
        assert overridden(recipe, drawn).groups == 1
        with pytest.raises(ConfigError, match="groups belong to beam search, sampling and mbr draw instead"):
            overridden(recipe, {**drawn, "groups": 2})
    assert overridden(recipe, {"seed": 3, "sampling": True}).seed == 3
    assert overridden(recipe, {"beam": 6}).groups == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mbr": "chrf", "alpha": 0.5}, r"decoding\.alpha has no say with mbr: leave it out, or change that"),
        ({"mbr": "chrf", "sampling": True}, r"decoding\.sampling has no say with mbr: leave it out, or change that"),
        ({"length_penalty": "none", "alpha": 0.5}, r"decoding\.alpha has no say without a length_penalty: leave it"),
        ({"sampling": True, "stopping": "exact"}, r"decoding\.stopping has no say with sampling or mbr"),
        ({"diversity": 2.0}, r"decoding\.diversity has no say in a beam of one group: set groups, such as 2$"),
    ],
)
def test_what_would_have_no_say_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        overridden(DecodingConfig(), changes)


@pytest.mark.parametrize(
    ("recipe", "changes", "wishes", "found"),
    [
        ({}, {}, {"seed": 7, "mbr_samples": 9, "diversity": 2.0}, {}),
        ({}, {"sampling": True}, {"seed": 7, "beam": 4, "groups": 2}, {"sampling": True, "seed": 7}),
        ({"beam": 4, "groups": 2}, {}, {"sampling": True, "beam": 6}, {"beam": 4, "sampling": True}),
        ({"mbr": "chrf"}, {}, {"groups": 5, "alpha": 0.5}, {"mbr": "chrf"}),
        ({}, {"mbr": "bleu"}, {"sampling": True, "mbr_samples": 9}, {"mbr": "bleu", "mbr_samples": 9}),
        (
            {},
            {"beam": 3},
            {"beam": 4, "alpha": 0.5, "stopping": "exact"},
            {"beam": 3, "alpha": 0.5, "stopping": "exact"},
        ),
    ],
)
def test_a_wish_is_passed_over_where_it_has_no_say(
    recipe: dict[str, Any], changes: dict[str, Any], wishes: dict[str, Any], found: dict[str, Any]
) -> None:
    assert overridden(DecodingConfig(**recipe), changes, wishes) == DecodingConfig(**found)


def test_a_wish_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decoding\.beam: Input should be"):
        overridden(DecodingConfig(), {}, {"beam": 0})
    with pytest.raises(ConfigError, match=r"decoding\.beam has no say with sampling or mbr"):
        overridden(DecodingConfig(), {"beam": 4}, {"sampling": True})


def test_a_signature_names_what_has_a_say() -> None:
    from nmt.evaluation.signature import sign_search

    lengths = {"max_ratio": "2.0", "max_extra": "20", "precision": "auto"}  # a translator knows what auto comes to
    assert sign_search(DecodingConfig()) == {"beam": "5", "length_penalty": "average", "alpha": "1.0", **lengths}
    drawn = {"temperature": "1.0", "top_k": "0", "top_p": "1.0", "epsilon": "0.0", "seed": "1"}
    risk = sign_search(DecodingConfig(mbr="chrf", coverage_penalty=0.5))
    assert risk == {**drawn, "mbr": "chrf", "mbr_samples": "32", **lengths}
    groups = sign_search(DecodingConfig(beam=4, groups=2, length_penalty="none", top_k=9))
    assert groups == {"beam": "4", "length_penalty": "none", "groups": "2", "diversity": "0.5", **lengths}


# ------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("family", ["gru", "lstm", "transformer"])
def test_threads_share_a_translator(tokenizer: Tokenizer, family: str) -> None:
    """Each finds what it finds alone, whatever the others do at the same time, and in other ways."""
    torch.manual_seed(3)
    part = {"type": family, "width": 16, **({"layers": 1, "heads": 2} if family == "transformer" else {})}
    shape = {"encoder": part, "decoder": part, "embedding": 16, "tied_embeddings": 0}
    model = build(ModelConfig.model_validate(shape), len(tokenizer), len(tokenizer)).eval()
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    ways: list[dict[str, Any]] = [
        {"nbest": 3, "attention": True},
        {"beam": 1},
        {"sampling": True, "nbest": 2},
    ]
    lines = LINES[:3]

    def found(translator: Translator, way: dict[str, Any]) -> list[Any]:
        return [
            (hypothesis.text, round(hypothesis.score, 3))
            for one in translator.translate(lines, **way)
            for hypothesis in one.hypotheses
        ]

    expected = [found(make(model, tokenizer), way) for way in ways]
    shared = make(build_again(model, shape, tokenizer), tokenizer)
    together = threading.Barrier(len(ways))

    def work(number: int) -> list[list[Any]]:
        together.wait(timeout=60)
        return [found(shared, ways[(number + turn) % len(ways)]) for turn in range(len(ways))]

    with ThreadPoolExecutor(len(ways)) as pool:
        for number, results in enumerate(pool.map(work, range(len(ways)))):
            assert results == [expected[(number + turn) % len(ways)] for turn in range(len(ways))]


def build_again(model: Seq2Seq, shape: dict[str, Any], tokenizer: Tokenizer) -> Seq2Seq:
    """The same model as nobody has used it yet."""
    fresh = build(ModelConfig.model_validate(shape), len(tokenizer), len(tokenizer)).eval()
    fresh.load_state_dict(model.state_dict())
    return fresh


def test_a_phrase_to_use_is_no_part_of_a_longer_word(model: Seq2Seq, tokenizer: Tokenizer) -> None:
    translator = make(model, tokenizer, beam=4, max_extra=12)
    requests = [Request(line, use=(phrase,)) for line in LINES[:4] for phrase in ("dog", "the cat", "bird", "no")]
    for request, found in zip(requests, translator.translate(requests, nbest=4), strict=True):
        assert found.unmet[0] == ()
        for one, unmet in zip(found.hypotheses, found.unmet, strict=True):
            is_there = re.search(rf"(?<!\S){re.escape(request.use[0])}(?![^\W_])", one.text)
            assert bool(is_there) == (not unmet), (request.use, one.text)


def test_a_phrase_that_would_be_used_anyway_costs_nothing(model: Seq2Seq, tokenizer: Tokenizer) -> None:
    """The beam that is shared out among phrases may lose it; what is found without them is among the answers."""
    translator, compared = make(model, tokenizer, beam=2, max_extra=12), 0
    for free in translator.translate(LINES, nbest=2):
        for best in free.hypotheses:
            words = best.text.split()
            requests = [Request(free.source, use=tuple(words[:count])) for count in range(1, len(words))]
            for request, found in zip(requests, translator.translate(requests), strict=True):
                wanted = [tokenizer.encode(phrase) for phrase in request.use]
                if all(met(best.tokens, wanted, tokenizer.continuing)):
                    compared += 1
                    assert (found.unmet[0], found.hypotheses[0].score >= best.score - 1e-6) == ((), True)
    assert compared > 5
