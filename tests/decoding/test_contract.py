"""What search and scoring promise of every model: each encoder under each decoder."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.config import AnyDecoder, AnyEncoder, DecodingConfig, ModelConfig
from nmt.data.batching import collate, pad
from nmt.decoding.beam import beam_search
from nmt.decoding.constraints import met
from nmt.decoding.greedy import greedy_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Source
from nmt.decoding.scoring import evaluating, score, token_log_probabilities
from nmt.models import Seq2Seq, build
from tests.models.pairings import kinds

PAD, UNK, BOS, EOS = 0, 1, 2, 3
VOCABULARY = 24
ENCODERS: dict[str, dict[str, Any]] = {
    "gru": {"type": "gru", "width": 16},
    "lstm": {"type": "lstm", "width": 16, "layers": 2},
    "transformer": {"type": "transformer", "width": 16, "layers": 2, "heads": 2, "feed_forward": 32},
}
DECODERS: dict[str, dict[str, Any]] = {
    "gru": {"type": "gru", "width": 16, "layers": 2},
    "lstm": {"type": "lstm", "width": 16},
    "transformer": {"type": "transformer", "width": 16, "layers": 2, "heads": 2, "feed_forward": 32},
}
SETTINGS = DecodingConfig(beam=4, max_ratio=1.0, max_extra=3)
LENGTHS = [5, 1, 9, 3, 7, 5, 2]


def model_of(encoder: str, decoder: str) -> Seq2Seq:
    """A random model in evaluation mode whose distributions are peaked: close calls would test rounding, not search."""
    torch.manual_seed(3)
    config = ModelConfig.model_validate(
        {"encoder": ENCODERS[encoder], "decoder": DECODERS[decoder], "embedding": 16, "tied_embeddings": 0}
    )
    model = build(config, VOCABULARY, VOCABULARY).eval()
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    return model


@pytest.fixture(params=[(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS], ids="-".join)
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    return model_of(*request.param)


def test_every_encoder_and_every_decoder_is_here() -> None:
    assert set(ENCODERS) == kinds(AnyEncoder)
    assert set(DECODERS) == kinds(AnyDecoder)


def sentences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def sources(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    return pad([[*row, EOS] for row in rows], PAD)


def search(model: Seq2Seq, rows: list[list[int]], **arguments: Any) -> list[list[Hypothesis]]:
    source, mask = sources(rows)
    settings: dict[str, Any] = {"config": SETTINGS, "bos_id": BOS, "eos_id": EOS, "forbidden": (PAD, UNK), **arguments}
    return beam_search(model, source, mask, **settings)


def assert_same(one: Hypothesis, other: Hypothesis) -> None:
    assert one.tokens == other.tokens
    assert one.score == pytest.approx(other.score, abs=1e-5)
    assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    if one.attention is not None:
        assert other.attention is not None
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-5, rtol=1e-4)


def test_a_beam_of_one_is_greedy(model: Seq2Seq) -> None:
    source, mask = sources(sentences())
    one = SETTINGS.model_copy(update={"beam": 1})
    greedy = greedy_search(
        model, source, mask, config=one, bos_id=BOS, eos_id=EOS, forbidden=(PAD, UNK), attention=True
    )
    for (beam,), (other,) in zip(search(model, sentences(), config=one, attention=True), greedy, strict=True):
        assert_same(beam, other)


def test_a_batch_is_its_sentences(model: Seq2Seq) -> None:
    together = search(model, sentences(), nbest=3, attention=True)
    for row, expected in zip(sentences(), together, strict=True):
        (alone,) = search(model, [row], nbest=3, attention=True)
        assert len(alone) == len(expected)
        for one, other in zip(alone, expected, strict=True):
            assert_same(one, other)


def test_the_order_of_a_batch_does_not_matter(model: Seq2Seq) -> None:
    rows = sentences()
    for one, other in zip(search(model, rows), reversed(search(model, rows[::-1])), strict=True):
        assert_same(one[0], other[0])


def test_padding_does_not_matter(model: Seq2Seq) -> None:
    source, mask = sources(sentences())
    wider = torch.nn.functional.pad(source, (0, 6), value=7), torch.nn.functional.pad(mask, (0, 6), value=False)
    with torch.inference_mode():
        padded = beam_search(
            model, *wider, config=SETTINGS, bos_id=BOS, eos_id=EOS, forbidden=(PAD, UNK), attention=True
        )
    for (one,), (other,) in zip(padded, search(model, sentences(), attention=True), strict=True):
        assert_same(one, other)


def wishes(count: int) -> list[Source]:
    """Sentences that ask for everything there is, each for something else."""
    draw = random.Random(5)

    def phrase(longest: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(4, VOCABULARY), k=draw.randint(1, longest)))

    return [
        Source(
            tokens=tuple(draw.choices(range(4, VOCABULARY), k=draw.randint(1, 6))),
            prefix=phrase(2) if draw.random() < 0.5 else (),
            use=tuple(phrase(2) for _ in range(draw.randint(0, 2))),
            avoid=tuple(phrase(1) for _ in range(draw.randint(0, 3))),
        )
        for _ in range(count)
    ]


EVERYTHING = DecodingConfig(
    beam=4, groups=2, max_ratio=1.0, max_extra=3, coverage_penalty=0.2, stopping="exact", no_repeat_ngram=2
)


def test_with_every_feature_a_batch_is_its_sentences(model: Seq2Seq) -> None:
    """In batches of 64, 7 and 1, which are in another order."""
    asked = wishes(64)
    together = search_all(model, asked)
    order = list(range(64))
    random.Random(7).shuffle(order)
    batches = [order[start : start + 7] for start in range(0, 21, 7)] + [[row] for row in order[:4]]
    for batch in batches:
        for row, found in zip(batch, search_all(model, [asked[row] for row in batch]), strict=True):
            for one, other in zip(found, together[row], strict=True):
                assert_same(one, other)


def test_with_every_feature_translations_are_as_asked_and_score_as_they_say(model: Seq2Seq) -> None:
    asked = wishes(12)
    found = search_all(model, asked)
    pairs = [(list(wish.tokens), one.tokens) for wish, ones in zip(asked, found, strict=True) for one in ones]
    batch = collate(pairs, range(len(pairs)), pad_id=PAD, bos_id=BOS, eos_id=EOS)
    with torch.inference_mode():
        attention = model(batch, attention=True).attention
    totals = iter(zip(score(model, batch).tolist(), attention, strict=True))
    for wish, ones in zip(asked, found, strict=True):
        assert 2 <= len(ones) <= 3  # groups may have found the same
        for one in ones:
            written, forced = one.tokens, len(wish.prefix)
            assert written[:forced] == wish.prefix
            assert not {token for (token,) in wish.avoid} & set(written[forced:])
            pieces = list(itertools.pairwise(written))
            assert all(pieces.index(pair) == at for at, pair in enumerate(pieces) if at + 1 >= forced)
            total, looked = next(totals)
            assert one.log_probability == pytest.approx(total, abs=1e-4)
            read = looked[: len(written) + 1, : len(wish.tokens)].sum(dim=0).clamp(max=1.0)
            expected = total / (len(written) + 1) + 0.2 * float(read.log().sum())
            assert one.score == pytest.approx(expected, abs=1e-4)
        free = [phrase for phrase in wish.use if not set(phrase) & {token for (token,) in wish.avoid}]
        assert all(met(ones[0].tokens, free)) or wish.prefix


def search_all(model: Seq2Seq, asked: list[Source]) -> list[list[Hypothesis]]:
    return search(model, [list(one.tokens) for one in asked], config=EVERYTHING, sources=asked, nbest=3, attention=True)


def test_what_search_finds_scores_as_it_says(model: Seq2Seq) -> None:
    found = search(model, sentences(), nbest=4)
    pairs = [(row, one.tokens) for row, ones in zip(sentences(), found, strict=True) for one in ones]
    batch = collate(pairs, range(len(pairs)), pad_id=PAD, bos_id=BOS, eos_id=EOS)
    expected = torch.tensor([one.log_probability for ones in found for one in ones])
    torch.testing.assert_close(score(model, batch), expected, atol=1e-4, rtol=1e-5)
    tokens = token_log_probabilities(model, batch)
    for row, one in zip(tokens, (one for ones in found for one in ones), strict=True):
        assert one.token_log_probabilities == pytest.approx(row[: len(one.tokens) + 1].tolist(), abs=1e-4)
    assert (tokens[~batch.target_mask] == 0).all()
    assert (tokens[batch.target_mask] < 0).all()


def test_attention_is_that_of_the_forced_translation(model: Seq2Seq) -> None:
    found = search(model, sentences(), nbest=2, attention=True)
    pairs = [(row, one.tokens) for row, ones in zip(sentences(), found, strict=True) for one in ones]
    batch = collate(pairs, range(len(pairs)), pad_id=PAD, bos_id=BOS, eos_id=EOS)
    with torch.inference_mode():
        forced = model(batch, attention=True).attention
    assert forced is not None
    for row, one in enumerate(one for ones in found for one in ones):
        assert one.attention is not None
        height, width = one.attention.shape
        np.testing.assert_allclose(one.attention, forced[row, :height, :width].numpy(), atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(one.attention.sum(axis=1), 1, rtol=1e-5)


def test_hypotheses_are_sorted_and_distinct(model: Seq2Seq) -> None:
    for length, hypotheses in zip(LENGTHS, search(model, sentences(), nbest=4), strict=True):
        scores = [one.score for one in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({one.tokens for one in hypotheses}) == len(hypotheses) == 4
        assert all(len(one.tokens) + 1 <= length + 1 + 3 for one in hypotheses)
        assert not {PAD, UNK, BOS, EOS} & {token for one in hypotheses for token in one.tokens}


def test_scores_against_a_loop(model: Seq2Seq) -> None:
    """The sum of log p(y_t | y_<t, x), one pair and one step at a time."""
    pairs = [([5, 6, 7], [8, 9]), ([4, 4, 4, 4, 4], []), ([10], [11, 12, 13, 14, 15])]
    batch = collate(pairs, range(3), pad_id=PAD, bos_id=BOS, eos_id=EOS)
    expected = []
    with torch.inference_mode():
        for source, target in pairs:
            ids, mask = sources([source])
            memory = model.remember(ids, mask)
            state, previous, total = model.start(memory), BOS, 0.0
            for token in [*target, EOS]:
                step = model.step(torch.tensor([previous]), state, memory)
                total += float(model.logits(step.features).log_softmax(dim=-1)[0, token])
                state, previous = step.state, token
            expected.append(total)
    assert score(model, batch).tolist() == pytest.approx(expected, abs=1e-4)


def test_scoring_by_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gru", "gru")
    pairs = [([5, 6, 7], [8] * 9), ([4, 4], [5, 6])]
    batch = collate(pairs, range(2), pad_id=PAD, bos_id=BOS, eos_id=EOS)
    whole = score(model, batch)
    monkeypatch.setattr("nmt.decoding.scoring.CHUNK", 3)
    torch.testing.assert_close(score(model, batch), whole)


def test_scoring_leaves_modes_and_gradients_as_they_were() -> None:
    model = model_of("transformer", "gru").train()
    list(model.modules())[-1].eval()
    modes = [module.training for module in model.modules()]
    batch = collate([([5, 6, 7], [8, 9])], [0], pad_id=PAD, bos_id=BOS, eos_id=EOS)
    assert torch.equal(score(model, batch), score(model, batch))  # no dropout
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluating(model.modules()):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("encoder", ENCODERS)
def test_training_goes_on_after_a_search_longer_than_all_before(encoder: str) -> None:
    """What a module works out under inference mode and keeps must not stand in the way of a gradient."""
    model = model_of(encoder, "transformer")
    rows = [[5] * 300]
    found = search(model, rows, config=SETTINGS.model_copy(update={"beam": 1, "max_extra": 0}))
    target = list(found[0][0].tokens) + [5] * (290 - len(found[0][0].tokens))
    batch = collate([(rows[0], target)], [0], pad_id=PAD, bos_id=BOS, eos_id=EOS)
    model.train()
    model(batch).features.sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if name.startswith("enc"))
