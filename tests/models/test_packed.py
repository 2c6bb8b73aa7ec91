"""A packed model writes what the model itself writes, for every pairing and variant, and however rows are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.layers.packing import Precision
from nmt.models import Seq2Seq
from nmt.models.packed import packed
from nmt.models.packed_cross import ManySources, OneSource
from tests.models.pairings import BOS, NINE, PAIRINGS, SENTENCES, TARGET_VOCABULARY, new_batch, new_model

every = pytest.mark.parametrize("name", PAIRINGS)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """As search is: a packed model writes over what it has made."""
    with torch.inference_mode():
        yield


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


@every
def test_steps_are_those_of_the_model(name: str) -> None:
    model, batch = new_model(name), new_batch()
    quick: Any = packed(model)
    plain_memory = model.remember(batch.source, batch.source_mask)
    memory = quick.remember(batch.source, batch.source_mask)
    plain_state, state = model.start(plain_memory), quick.start(memory)
    for tokens in batch.target_in.unbind(1):
        expected, step = model.step(tokens, plain_state, plain_memory), quick.step(tokens, state, memory)
        same(step.features, expected.features)
        same(step.attention, expected.attention)
        same(quick.logits(step.features), model.logits(expected.features))
        plain_state, state = expected.state, step.state


@every
@pytest.mark.parametrize("places", [1, 3])
def test_a_beams_life(name: str, places: int) -> None:
    """Hypotheses of one sentence next to each other, reordered at each step, sentences dropped; then any rows."""
    model, batch = new_model(name), new_batch()
    quick: Any = packed(model)
    generator = torch.Generator().manual_seed(7)
    memory = quick.remember(batch.source, batch.source_mask)
    state = quick.start(memory)
    rows = torch.arange(len(batch)).repeat_interleave(places)
    memory, state = memory.select(rows), state.select(rows)
    sources, prefixes = rows.tolist(), [[BOS] for _ in rows]
    for length in range(1, 8):
        step = quick.step(torch.tensor([prefix[-1] for prefix in prefixes]), state, memory)
        expected, looked = _forced(model, sources, prefixes)
        same(step.features, expected)
        same(step.attention[:, : looked.shape[1]], looked)
        keep = torch.arange(len(sources))
        if length < 6:  # within each sentence, as search does
            keep = keep // places * places + torch.randint(places, (len(keep),), generator=generator)
        if length in (2, 4):
            keep = keep[[row for row, source in enumerate(sources) if source not in (0, length - 1)]]
        if length >= 6:
            keep = torch.randint(len(sources), (len(sources) + 2,), generator=generator)
        memory, state = memory.select(keep), step.state.select(keep)
        sources = [sources[row] for row in keep.tolist()]
        words = torch.randint(4, TARGET_VOCABULARY, (len(sources),), generator=generator).tolist()
        prefixes = [[*prefixes[row], word] for row, word in zip(keep.tolist(), words, strict=True)]


def _forced(model: Seq2Seq, sources: list[int], prefixes: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Features and attention of the last token of each prefix, worked out from its beginning."""
    again = new_batch([(SENTENCES[one][0], prefix[1:]) for one, prefix in zip(sources, prefixes, strict=True)])
    decoded = model(again, attention=True)
    assert decoded.attention is not None
    return decoded.features[:, len(prefixes[0]) - 1], decoded.attention[:, len(prefixes[0]) - 1]


@pytest.mark.parametrize("name", ["transformer-transformer", "transformer-relative", "gru-gru", "lstm-lstm"])
def test_more_tokens_than_there_is_room_for_at_first(name: str) -> None:
    """The room for what is written grows."""
    model = new_model(name)
    batch = new_batch([([5, 6], [4 + number % 15 for number in range(40)])])
    quick: Any = packed(model)
    memory = quick.remember(batch.source, batch.source_mask)
    state = quick.start(memory)
    features = []
    for tokens in batch.target_in.unbind(1):
        step = quick.step(tokens, state, memory)
        features.append(step.features)
        state = step.state
    same(torch.stack(features, dim=1), model(batch).features)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", [name for name, config in PAIRINGS.items() if config.decoder.type == "transformer"])
def test_a_sentence_alone(name: str, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one sentence is the whole batch, its keys and values have the projections in them: if it is short and sums
    are no less exact for that, half precision's too.
    """
    model = new_model(name, dtype=torch.float64 if precision == "float32" else torch.float32)
    batch = new_batch([([5, 6, 7], [8, 9, 10, 11])])
    made = []
    for wide, kind in ((4, OneSource if precision in ("float32", "float16") else ManySources), (0, ManySources)):
        monkeypatch.setattr("nmt.models.packed_cross.WIDE", wide)
        quick: Any = packed(model, precision)
        memory = quick.remember(batch.source, batch.source_mask)
        assert {type(source) for source in memory.sources} == {kind}
        state, places, seen = quick.start(memory), 1, []
        for tokens, rows in zip(batch.target_in[0], ([0, 0, 0], [2, 0, 1], [1, 1], [1, 0], [0]), strict=True):
            step = quick.step(tokens + torch.arange(places), state, memory)
            seen += [step.features.clone(), step.attention.clone()]
            chosen, places = torch.tensor(rows), len(rows)
            memory, state = memory.select(chosen), step.state.select(chosen)
        made.append(seen)
    for one, many in zip(*made, strict=True):
        near = 1e-9 if precision == "float32" else 1e-5
        torch.testing.assert_close(one, many, rtol=near, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1000, 1), (1, 12), (1000, 12), (1, 1000), (1000, 1000)])
def test_additive_attention_of_any_size(queries: float, keys: float, dtype: torch.dtype) -> None:
    """Where a hyperbolic tangent is at its ends, and where powers would leave the numbers that there are."""
    model, batch = new_model("gru-gru", dtype=dtype), new_batch()
    decoder: Any = model.decoder
    score = decoder.score
    score.query.weight.mul_(queries / score.query.weight.abs().max())
    score.key.weight.mul_(keys / model.remember(batch.source, batch.source_mask).keys.abs().max() * 1.5)
    memory, quick = model.remember(batch.source, batch.source_mask), packed(model)
    laid_out: Any = quick.remember(batch.source, batch.source_mask)
    assert (laid_out.large is not None and bool(laid_out.large.any())) == (keys == 1000)
    state, other = model.start(memory), quick.start(laid_out)
    for tokens in batch.target_in.unbind(1):
        expected, step = model.step(tokens, state, memory), quick.step(tokens, other, laid_out)
        near = 1e-9 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(step.attention, expected.attention, rtol=near, atol=near)
        state, other = expected.state, step.state


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", ["gru-gru", "lstm-lstm"])
def test_what_was_written_before_changes_no_bit(name: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a token's embedding a recurrent decoder keeps what it has worked out, whatever was asked for with it."""
    if not kept:
        monkeypatch.setattr("nmt.models.packed_recurrent.TABLE", 0)
    batch = new_batch()
    tokens = torch.arange(TARGET_VOCABULARY)

    def first_step(quick: Any, tokens: Tensor) -> Tensor:
        memory = quick.remember(batch.source[:1], batch.source_mask[:1]).select(torch.zeros_like(tokens))
        features: Tensor = quick.step(tokens, quick.start(memory), memory).features
        return features

    model = new_model(name, dtype=torch.float32)
    fresh, used = packed(model), packed(model)
    for token in tokens.flip(0)[::3]:
        first_step(used, token.unsqueeze(0))
    expected, made = first_step(fresh, tokens), first_step(used, tokens)
    torch.testing.assert_close(made, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("precision", "error"), [("float16", 5e-3), ("bfloat16", 0.05), ("int8", 0.05)])
@pytest.mark.parametrize("name", [*NINE, "transformer-relative"])
def test_narrow_products_are_near(
    name: str, precision: Precision, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.layers.packing.SMALL", 0)
    model, batch = new_model(name, dtype=torch.float32), new_batch()
    quick: Any = packed(model, precision)
    memory = quick.remember(batch.source, batch.source_mask)
    step = quick.step(batch.target_in[:, 0], quick.start(memory), memory)
    expected = model(batch).features[:, 0]
    assert (step.features - expected).norm() < error * expected.norm()
    assert not torch.equal(step.features, expected)
