"""Scores of given translations: against a loop from the equations, against search, and in any batch the same."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.config import DecodingConfig, ModelConfig, TokenizerConfig
from nmt.data.batching import pad
from nmt.data.tokenizer import Tokenizer, Tokenizers, train_tokenizer
from nmt.decoding import scorer as module
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.scorer import PairScore, Scorer, Summary
from nmt.decoding.scoring import token_log_probabilities
from nmt.decoding.translator import Translator
from nmt.errors import ConfigError, DataError, NmtError
from nmt.models import build
from tests.models.pairings import NINE, default_dtype

PAIRS = [
    ("the black cat sleeps .", "le chat noir dort ."),
    ("a dog", "un chien"),
    ("", "le chat"),
    ("the cat", "  "),
    ("", "\t"),
    ("the tired wolf sees the cat , and the lion sings .", "le loup"),
    ("birds", "des oiseaux verts et blancs chantent , et le loup fatigué voit le chat ."),
    ("a\x00b \u2028 😀", "e\u0301 \x85 |||"),
    ("the cat", "le chat"),
]
TEXT = [line for pair in PAIRS[:2] + PAIRS[5:7] for line in pair]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXT * 3, TokenizerConfig(vocabulary=310, type="bpe"), seed=1)


def make(config: ModelConfig, tokenizer: Tokenizer, **decoding: Any) -> Translator:
    """A translator by a random model whose distributions are peaked."""
    with default_dtype(torch.float32):
        torch.manual_seed(5)
        model = build(config, len(tokenizer), len(tokenizer)).eval()
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    search = DecodingConfig.model_validate({"beam": 3, "max_ratio": 0.5, "max_extra": 4, **decoding})
    return Translator.of(model, Tokenizers(tokenizer, tokenizer), search)


@pytest.fixture(scope="module")
def translator(tokenizer: Tokenizer) -> Translator:
    return make(NINE["lstm-gru"], tokenizer, batch_size=4)


@pytest.fixture
def scorer(translator: Translator) -> Scorer:
    return Scorer(translator)


@torch.inference_mode()
def by_steps(translator: Translator, source: str, target: str) -> list[float]:
    """log p(y_t | y_<t, x), one step at a time, for the pieces of a target and for EOS."""
    tokenizers = translator.tokenizers
    bos, eos = tokenizers.target.bos_id, tokenizers.target.eos_id
    model = translator.model
    memory = model.remember(*pad([[*(tokenizers.source.encode(source) if source.strip() else []), eos]], 0))
    state, previous, logs = model.start(memory), bos, []
    for token in [*(tokenizers.target.encode(target) if target.strip() else []), eos]:
        step = model.step(torch.tensor([previous]), state, memory)
        logits = model.logits(step.features)[0].double()
        logs.append(float(logits[token]) - math.log(math.fsum(math.exp(logit) for logit in logits.tolist())))
        state, previous = step.state, token
    return logs


def assert_same(one: PairScore, other: PairScore) -> None:
    assert one.pieces == other.pieces
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    assert one.score == pytest.approx(other.score, abs=1e-4)
    assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)


@pytest.mark.parametrize("pairing", NINE)
def test_scores_against_a_loop(pairing: str, tokenizer: Tokenizer) -> None:
    translator = make(NINE[pairing], tokenizer, length_penalty="gnmt", alpha=0.6)
    for (source, target), one in zip(PAIRS, Scorer(translator).score(PAIRS), strict=True):
        if not source.strip() and not target.strip():
            assert one == PairScore(0.0, 0.0, (), ())
            continue
        logs = by_steps(translator, source, target)
        assert list(one.token_log_probabilities) == pytest.approx(logs, abs=1e-4)
        assert one.log_probability == pytest.approx(sum(logs), abs=1e-4)
        assert one.score == pytest.approx(sum(logs) / ((5 + len(logs)) / 6) ** 0.6, abs=1e-4)
        text = target if target.strip() else ""
        assert list(one.pieces) == [*tokenizer.pieces(tokenizer.encode(text)), "</s>"]


@pytest.mark.parametrize("pairing", NINE)
def test_what_search_finds_scores_as_it_says(pairing: str, tokenizer: Tokenizer) -> None:
    translator = make(NINE[pairing], tokenizer, max_extra=3)
    scorer = Scorer(translator)
    found = [
        (translation, hypothesis)
        for translation in translator.translate([source for source, _ in PAIRS if source], nbest=3)
        for hypothesis in translation.hypotheses
    ]
    forced = scorer.score_tokens([(one.source_tokens, hypothesis.tokens) for one, hypothesis in found])
    assert len(found) > 10
    for (_, hypothesis), score in zip(found, forced, strict=True):
        assert score.log_probability == pytest.approx(hypothesis.log_probability, abs=1e-4)
        assert score.score == pytest.approx(hypothesis.score, abs=1e-4)


@pytest.mark.parametrize("pairing", NINE)
def test_a_text_scores_as_its_pieces_do(pairing: str, tokenizer: Tokenizer) -> None:
    scorer = Scorer(make(NINE[pairing], tokenizer))
    pairs = [(source, target) for source, target in PAIRS if source.strip() and target.strip()]
    assert len(pairs) > 3
    pieces = [(tuple(tokenizer.encode(source)), tuple(tokenizer.encode(target))) for source, target in pairs]
    for of_text, score in zip(scorer.score_window(pairs), scorer.score_tokens(pieces), strict=True):
        assert_same(of_text, score)


@pytest.mark.parametrize("pairing", ["gru-gru", "lstm-lstm", "transformer-transformer", "transformer-gru"])
def test_no_score_knows_of_its_neighbours(pairing: str, tokenizer: Tokenizer) -> None:
    pairs = [(source, target) for source, _ in PAIRS[::2] for _, target in PAIRS[1::2]]
    alone = list(Scorer(make(NINE[pairing], tokenizer, batch_size=1)).score(pairs))
    order = random.Random(1).sample(range(len(pairs)), len(pairs))
    for size in (7, 64):
        scorer = Scorer(make(NINE[pairing], tokenizer, batch_size=size))
        for one, other in zip(scorer.score(pairs), alone, strict=True):
            assert_same(one, other)
        for row, one in zip(order, scorer.score(pairs[row] for row in order), strict=True):
            assert_same(one, alone[row])


def test_batches_are_bounded_and_lose_nothing(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_A_SENTENCE", 8)
    shapes = []

    def watched(model: Any, batch: Any) -> Any:
        shapes.append((len(batch), max(batch.source.shape[1], batch.target_out.shape[1])))
        return token_log_probabilities(model, batch)

    plain = list(scorer.score(PAIRS))
    monkeypatch.setattr(module, "token_log_probabilities", watched)
    for one, other in zip(scorer.score(PAIRS), plain, strict=True):
        assert_same(one, other)
    assert sum(rows for rows, _ in shapes) == len(PAIRS) - 1
    assert all(rows == 1 or rows * longest <= 4 * 8 for rows, longest in shapes)
    assert max(rows for rows, _ in shapes) > 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(*[st.text(max_size=5) | st.sampled_from(["", " ", "a cat"])] * 2), max_size=5))
def test_any_pairs_have_a_score_each(scorer: Scorer, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> None:
    found = list(scorer.score(pairs))
    assert len(found) == len(pairs)
    for (source, target), one in zip(pairs, found, strict=True):
        assert len(one.pieces) == len(one.token_log_probabilities)
        assert one.log_probability == pytest.approx(sum(one.token_log_probabilities))
        blank = all(not text.strip() or tokenizer.encode(text) == [] for text in (source, target))
        assert one.log_probability == 0 if blank else one.log_probability < 0


def test_blank_pairs_are_not_shown_to_the_model(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "token_log_probabilities", None)
    assert [one.log_probability for one in scorer.score([("", ""), (" ", "\u2003"), ("\t", "")])] == [0, 0, 0]
    assert scorer.num_scored == 3


def test_pairs_are_read_a_window_ahead(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmt.decoding.translator.WINDOW", 1)
    asked: list[int] = []

    def pairs() -> Iterator[tuple[str, str]]:
        for row, pair in enumerate(PAIRS):
            asked.append(row)
            yield pair

    scores = scorer.score(pairs())
    assert asked == []
    next(scores)
    assert asked == [0, 1, 2, 3]


# ----------------------------------------------------------------------------------------------------------- long pairs


def learned(tokenizer: Tokenizer) -> Translator:
    """A model with learned positions: it reads 12 tokens and writes 10."""
    part = {"type": "transformer", "width": 8, "layers": 1, "heads": 2, "feed_forward": 8, "positions": "learned"}
    parts = {"encoder": {**part, "max_positions": 12}, "decoder": {**part, "max_positions": 10}, "embedding": 8}
    return make(ModelConfig.model_validate(parts), tokenizer)


def test_a_pair_that_is_too_long_is_an_error(tokenizer: Tokenizer) -> None:
    scorer = Scorer(learned(tokenizer))
    with pytest.raises(DataError, match=r"^line 4: 80 source and 2 target pieces, more than the 11 and 9 read at once"):
        scorer.score_window([("a cat", "le chat"), ("a " * 40, "a")], first=3)
    longest = [5] * 11, [6] * 9
    assert len(scorer.score_tokens([longest])[0].pieces) == 10
    for source, target in (([5] * 12, [6]), ([5], [6] * 10)):
        with pytest.raises(DataError, match="--on-long cut"):
            scorer.score_tokens([(source, target)])


def test_a_pair_that_is_too_long_is_cut(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    scorer = Scorer(learned(tokenizer), on_long="cut")
    with caplog.at_level(logging.WARNING, logger="nmt"):
        found = scorer.score_tokens([([5] * 40, [6]), ([7], [8, 9] * 20), ([7], [8])])
    whole = scorer.score_tokens([([5] * 11, [6]), ([7], [8, 9, 8, 9, 8, 9, 8, 9, 8]), ([7], [8])])
    for one, other in zip(found, whole, strict=True):
        assert_same(one, other)
    (record,) = caplog.records
    assert record.getMessage() == (
        "line 1: 40 source and 1 target pieces, more than the 11 and 9 read at once: only its beginning is scored "
        "(said once)"
    )
    assert (scorer.num_cut, scorer.num_scored) == (2, 6)


def test_without_learned_positions_there_is_a_bound_all_the_same(scorer: Scorer) -> None:
    assert (scorer.longest_source, scorer.longest_target) == (1024, 1024)


# --------------------------------------------------------------------------------------------------------------- faults


def test_out_of_memory_halves_the_batch(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = list(scorer.score(PAIRS))
    sizes = []

    def small_memory(model: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return token_log_probabilities(model, batch)

    monkeypatch.setattr(module, "token_log_probabilities", small_memory)
    for one, other in zip(scorer.score(PAIRS), plain, strict=True):
        assert_same(one, other)
    assert sizes == [4, 2, 1, 1, 2, 1, 1, 4, 2, 1, 1, 2, 1, 1]


def test_out_of_memory_over_one_pair_names_its_line(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(model: Any, batch: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(module, "token_log_probabilities", no_memory)
    with pytest.raises(NmtError, match=r"^line 2: out of memory over one pair of 4 source and 3 target pieces"):
        list(scorer.score([("", ""), ("a cat", "le chat")]))


def test_other_errors_are_not_taken_for_memory(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Any, batch: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(module, "token_log_probabilities", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(scorer.score(PAIRS))


def test_a_model_that_gives_no_numbers(tokenizer: Tokenizer) -> None:
    translator = make(NINE["gru-gru"], tokenizer)
    with torch.no_grad():
        translator.model.output.weight[7] = math.nan
    with pytest.raises(NmtError, match=r"^line \d: the model's output is not a number: its weights are damaged"):
        list(Scorer(translator).score(PAIRS))


def test_what_has_no_model_in_memory_cannot_score(translator: Translator) -> None:
    class Elsewhere:
        takes_phrases = False
        longest_source: int | None = None
        longest_target: int | None = None

        def check(self, config: DecodingConfig, *, nbest: int, attention: bool) -> None:
            raise NotImplementedError

        def search(self, *rest: Any, **arguments: Any) -> list[list[Hypothesis]]:
            raise NotImplementedError

    with pytest.raises(ConfigError, match="this needs the run folder of one model"):
        Scorer(Translator(Elsewhere(), translator.tokenizers, translator.decoding))


# -------------------------------------------------------------------------------------------------------------- summary


def test_perplexity_is_over_tokens_and_ends(scorer: Scorer) -> None:
    scores = list(scorer.score(PAIRS))
    summary = Summary()
    summary.add(scores[:3])
    summary.add(scores[3:])
    logs = [value for one in scores for value in one.token_log_probabilities]
    assert (summary.lines, summary.tokens) == (len(PAIRS), len(logs))
    assert summary.perplexity == pytest.approx(math.prod(math.exp(-value / len(logs)) for value in logs))
    assert summary.mean_log_probability == pytest.approx(sum(logs) / len(PAIRS))


def test_there_is_no_perplexity_of_nothing() -> None:
    summary = Summary()
    summary.add([PairScore(0.0, 0.0, (), ())])
    with pytest.raises(DataError, match="there is no perplexity of no tokens"):
        _ = summary.perplexity
    summary.add([PairScore(-1e6, -1e6, ("x",), (-1e6,))])
    assert summary.perplexity == math.inf
