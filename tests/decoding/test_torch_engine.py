"""The engine searches with the model as it is now, laid out once, and finds what search over the model itself finds."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from nmt.config import DecodingConfig, TokenizerConfig
from nmt.data.batching import collate, pad
from nmt.data.tokenizer import Tokenizers, train_tokenizer
from nmt.decoding import torch_engine
from nmt.decoding.beam import beam_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Source
from nmt.decoding.torch_engine import TorchEngine
from nmt.layers import packing
from nmt.models import Seq2Seq, build
from tests.models.pairings import NINE, default_dtype

TEXT = ["the black cat sleeps .", "le chat noir dort .", "a dog sees it", "un chien le voit"]
SENTENCES = ((5, 6, 7, 8, 9), (30,), (12, 11, 10), (40, 41, 42, 43), (5, 5))
CONFIG = DecodingConfig(beam=3, max_ratio=0.5, max_extra=8, precision="float32")


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    one = train_tokenizer(TEXT * 3, TokenizerConfig(vocabulary=300, type="bpe"), seed=1)
    return Tokenizers(one, one)


def new_model(name: str, tokenizers: Tokenizers) -> Seq2Seq:
    with default_dtype(torch.float32):
        torch.manual_seed(5)
        model = build(NINE[name], len(tokenizers.source), len(tokenizers.target)).eval()
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    return model


def search(engine: TorchEngine, config: DecodingConfig = CONFIG) -> list[list[Hypothesis]]:
    return engine.search([Source(one) for one in SENTENCES], config, nbest=3, attention=True)


def of_the_model(model: Seq2Seq, tokenizers: Tokenizers) -> list[list[Hypothesis]]:
    pieces = tokenizers.source
    source, mask = pad([[*one, pieces.eos_id] for one in SENTENCES], pieces.pad_id)
    return beam_search(
        model, source, mask, config=CONFIG, bos_id=pieces.bos_id, eos_id=pieces.eos_id,
        forbidden=(pieces.pad_id, pieces.unk_id), nbest=3, attention=True,
    )  # fmt: skip


def same(left: list[list[Hypothesis]], right: list[list[Hypothesis]]) -> None:
    for ours, theirs in zip(left, right, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
            assert one.attention == pytest.approx(other.attention, abs=1e-5)


@pytest.mark.parametrize("name", NINE)
def test_it_finds_what_search_over_the_model_finds(name: str, tokenizers: Tokenizers) -> None:
    model = new_model(name, tokenizers)
    same(search(TorchEngine(model, tokenizers)), of_the_model(model, tokenizers))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["gru-gru", "transformer-transformer"])
def test_weights_that_changed_are_laid_out_anew(name: str, fused: bool, tokenizers: Tokenizers) -> None:
    """Search under training: after an update it is the model as it is then, and in the mode it was in."""
    model = new_model(name, tokenizers).train()
    engine = TorchEngine(model, tokenizers)
    before = search(engine)
    kept = engine.packed(CONFIG)
    assert engine.packed(CONFIG) is kept
    batch = collate([(one, one) for one in SENTENCES], range(len(SENTENCES)), pad_id=0, bos_id=2, eos_id=3)
    model.logits(model(batch).features).square().mean().backward()  # type: ignore[no-untyped-call]
    torch.optim.Adam(model.parameters(), lr=0.1, fused=fused).step()
    assert engine.packed(CONFIG) is not kept
    after = search(engine)
    assert all(module.training for module in model.modules())
    same(after, of_the_model(model.eval(), tokenizers))
    with torch.no_grad():
        model.output.weight.neg_()
    same(search(engine), of_the_model(model, tokenizers))
    assert [one[0].tokens for one in after] != [one[0].tokens for one in before]


@pytest.mark.parametrize(("precision", "error"), [("float16", 0.01), ("int8", 0.3)])
@pytest.mark.parametrize("name", ["transformer-transformer", "gru-gru", "lstm-lstm"])
def test_rounded_weights_find_much_the_same(
    name: str,
    precision: Literal["float16", "int8"],
    error: float,
    tokenizers: Tokenizers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nmt.layers.packing.SMALL", 0)
    engine = TorchEngine(new_model(name, tokenizers), tokenizers)
    exact, rounded = search(engine), search(engine, CONFIG.model_copy(update={"precision": precision}))
    again = search(engine, CONFIG.model_copy(update={"precision": precision}))
    assert [[one.score for one in ones] for ones in rounded] == [[one.score for one in ones] for ones in again]
    for ours, theirs in zip(exact, rounded, strict=True):
        assert ours[0].score == pytest.approx(theirs[0].score, abs=error)
        assert ours[0].score != theirs[0].score


def test_by_itself_a_small_model_is_rounded_and_a_large_one_is_not(
    tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_engine, "resolve_precision", packing.resolve_precision)
    monkeypatch.setattr(packing, "gains_by_bfloat16", lambda device: False)
    engine = TorchEngine(new_model("gru-gru", tokenizers), tokenizers)
    config = CONFIG.model_copy(update={"precision": "auto"})
    assert engine.resolved(config).precision == "float16"
    monkeypatch.setattr(packing, "LIGHT", 1000)
    assert engine.resolved(config).precision == "float32"


def test_where_a_phrase_cannot_be_had_the_free_search_counts(tokenizers: Tokenizers) -> None:
    """Asked for twice where nothing may stand twice: what waits for it goes on until the longest translation."""
    engine = TorchEngine(new_model("gru-gru", tokenizers), tokenizers)
    config = CONFIG.model_copy(update={"no_repeat_ngram": 1})
    ((plain,),) = engine.search([Source((5, 6, 7, 8, 9))], config, nbest=1, attention=False)
    assert plain.tokens
    wish = Source((5, 6, 7, 8, 9), use=(plain.tokens[:1],) * 2)
    ((one,),) = engine.search([wish], config, nbest=1, attention=False)
    assert one.tokens == plain.tokens
    assert one.score == pytest.approx(plain.score)
