"""An ensemble against enumeration, against the mean of its members in plain Python, and against a single model."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.config import DecodingConfig, ModelConfig
from nmt.data.batching import pad
from nmt.data.tokenizer import Tokenizer, Tokenizers
from nmt.decoding.beam import beam_search
from nmt.decoding.ensemble import Ensemble, check_tokenizers
from nmt.decoding.greedy import greedy_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty
from nmt.decoding.sampling import sample
from nmt.decoding.scoring import evaluating
from nmt.decoding.search import Searchable
from nmt.errors import ConfigError
from nmt.layers.positions import longest
from nmt.models import Seq2Seq, build

PAD, UNK, BOS, EOS = 0, 1, 2, 3
IDS: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "forbidden": (PAD, UNK)}
PARTS: dict[str, dict[str, Any]] = {
    "gru": {"type": "gru", "width": 16},
    "lstm": {"type": "lstm", "width": 16},
    "transformer": {"type": "transformer", "width": 16, "layers": 2, "heads": 2, "feed_forward": 32},
}
VOCABULARY = 24


def config(**changes: Any) -> DecodingConfig:
    return DecodingConfig.model_validate({"max_ratio": 1.0, "max_extra": 0, **changes})


def sources(*lengths: int) -> tuple[Tensor, Tensor]:
    return pad([[10 + row] * length for row, length in enumerate(lengths)], PAD)


def model_of(
    encoder: str, decoder: str, *, seed: int = 3, target: int = VOCABULARY, source: int = VOCABULARY
) -> Seq2Seq:
    torch.manual_seed(seed)
    shape = {"encoder": PARTS[encoder], "decoder": PARTS[decoder], "embedding": 16, "tied_embeddings": 0}
    model = build(ModelConfig.model_validate(shape), source, target).eval()
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    return model


def search(model: Searchable, *lengths: int, **arguments: Any) -> list[list[Hypothesis]]:
    return beam_search(model, *sources(*lengths), **{"config": config(beam=4), "attention": True, **IDS, **arguments})


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]], *, within: float) -> None:
    for ones, others in zip(found, expected, strict=True):
        assert [one.tokens for one in ones] == [one.tokens for one in others]
        assert [one.score for one in ones] == pytest.approx([one.score for one in others], abs=within)
        for one, other in zip(ones, others, strict=True):
            assert one.attention is not None and other.attention is not None
            np.testing.assert_allclose(one.attention, other.attention, atol=within)


# --------------------------------------------------------------------------------------------------------- by the table


def mean_log_probability(models: list[Any], group: int, tokens: tuple[int, ...], *, eos: bool = True) -> float:
    """The logarithm of what the mean of the models' probabilities gives ``tokens`` (and then EOS), token by token."""
    total = 0.0
    for length, token in enumerate([*tokens, EOS] if eos else tokens):
        shares = []
        for model in models:
            row = model._rows(model.table, group, tokens[:length])[-1]
            shares.append(math.exp(row[token]) / sum(map(math.exp, row)))
        total += math.log(sum(shares) / len(shares))
    return total


@pytest.mark.parametrize("number", [2, 3])
def test_a_beam_wide_enough_finds_what_enumeration_finds(table_model: Any, number: int) -> None:
    models = [table_model(seed=seed) for seed in range(number)]
    longest_of = [5, 3, 1]
    settings = config(beam=31)  # two words, four of them at most: 31 sentences
    found = search(Ensemble(models), *longest_of, config=settings, nbest=31)
    for group, (limit, hypotheses) in enumerate(zip(longest_of, found, strict=True)):
        every = [tokens for length in range(limit) for tokens in itertools.product((4, 5), repeat=length)]
        scores = {tokens: mean_log_probability(models, group + 10, tokens) for tokens in every}
        ranked = sorted(every, key=lambda tokens: -scores[tokens] / length_penalty(len(tokens) + 1, settings))
        assert [one.tokens for one in hypotheses] == ranked
        for one in hypotheses:
            assert one.log_probability == pytest.approx(scores[one.tokens])
            looks = [model.attention_of(group + 10, one.tokens, limit) for model in models]
            assert one.attention is not None
            np.testing.assert_allclose(one.attention, sum(looks).numpy() / number, rtol=1e-5)


def test_what_it_says_of_a_token_is_the_mean(table_model: Any) -> None:
    """Probabilities as they stand: search would norm them all the same."""
    models = [table_model(seed=seed) for seed in range(3)]
    ensemble = Ensemble(models)
    memory = ensemble.remember(*sources(3, 2))
    step = ensemble.step(torch.full((2,), BOS), ensemble.start(memory), memory)
    for group, row in enumerate(ensemble.logits(step.features).exp().tolist()):
        shares = [torch.tensor(model._rows(model.table, group + 10, ())[-1]).softmax(dim=0) for model in models]
        assert row == pytest.approx(torch.stack(shares).mean(dim=0).tolist(), rel=1e-5)


def test_no_member_can_rule_a_token_out(table_model: Any) -> None:
    """A mean of logarithms would: it is a mean of probabilities."""
    models = [table_model(seed=seed) for seed in range(2)]
    for model, word in zip(models, (4, 5), strict=True):
        model.table[:, :1, ..., word] += 40.0
        model.table[:, :1, ..., EOS] = -torch.inf
        model.table[:, :1, ..., 9 - word] = -torch.inf
    ((best, second),) = search(Ensemble(models), 2, config=config(beam=2), nbest=2)
    assert {best.tokens, second.tokens} == {(4,), (5,)}
    assert best.log_probability == pytest.approx(mean_log_probability(models, 10, best.tokens))
    assert best.log_probability > math.log(0.5) - 2.0


# ---------------------------------------------------------------------------------------------------------- real models


@pytest.mark.parametrize("encoder, decoder", list(itertools.product(PARTS, PARTS)))
@pytest.mark.parametrize("times", [1, 2])
def test_of_one_and_of_equals_it_is_the_model(encoder: str, decoder: str, times: int) -> None:
    model = model_of(encoder, decoder)
    assert_same(search(Ensemble([model] * times), 5, 2, 7), search(model, 5, 2, 7), within=1e-5)


def test_families_together_against_a_loop() -> None:
    """The mean of what each member says of the translation that all wrote, worked out one step at a time."""
    pairings = [("gru", "gru"), ("lstm", "lstm"), ("transformer", "transformer"), ("transformer", "gru")]
    models = [model_of(encoder, decoder, seed=seed) for seed, (encoder, decoder) in enumerate(pairings)]
    ensemble = Ensemble(models)
    lengths = 5, 2
    found = search(ensemble, *lengths, nbest=2)
    with torch.inference_mode():
        for row, hypotheses in enumerate(found):
            source = torch.full((1, lengths[row]), 10 + row)
            for one in hypotheses:
                total = 0.0
                states = [model.start(model.remember(source, source > 0)) for model in models]
                for previous, token in zip((BOS, *one.tokens), (*one.tokens, EOS), strict=True):
                    shares = []
                    for place, model in enumerate(models):
                        step = model.step(torch.tensor([previous]), states[place], model.remember(source, source > 0))
                        states[place] = step.state
                        shares.append(float(model.logits(step.features).softmax(dim=-1)[0, token]))
                    total += math.log(sum(shares) / len(shares))
                assert one.log_probability == pytest.approx(total, abs=1e-4)


def test_every_search_takes_it() -> None:
    ensemble = Ensemble([model_of("gru", "gru"), model_of("transformer", "lstm")])
    source, mask = sources(5, 2, 7)
    greedy = greedy_search(ensemble, source, mask, config=config(), **IDS)
    coldest = sample(ensemble, source, mask, config=config(top_k=1), **IDS)
    single = search(ensemble, 5, 2, 7, config=config(beam=1))
    assert [one.tokens for (one,) in greedy] == [one.tokens for (one,) in coldest] == [one.tokens for (one,) in single]


def test_its_members_are_evaluated_and_measured_with_it() -> None:
    parts = {
        "encoder": {**PARTS["transformer"], "positions": "learned", "max_positions": 12},
        "decoder": PARTS["gru"],
        "embedding": 16,
    }
    short = build(ModelConfig.model_validate({**parts, "tied_embeddings": 0}), VOCABULARY, VOCABULARY)
    ensemble = Ensemble([model_of("gru", "gru").train(), short.train()])
    assert (longest(ensemble.encoder), longest(ensemble.decoder)) == (12, None)
    with evaluating(ensemble.modules()):
        assert not any(module.training for module in short.modules())
    assert all(module.training for module in short.modules())


# ------------------------------------------------------------------------------------------------------ what is refused


def test_members_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="an ensemble needs a model at least"):
        Ensemble([])
    with pytest.raises(
        ConfigError, match="model 2 of the ensemble has a target vocabulary of 30 pieces, the first one of 24"
    ):
        Ensemble([model_of("gru", "gru"), model_of("gru", "lstm", target=30)])
    with pytest.raises(
        ConfigError, match="model 3 of the ensemble has a source vocabulary of 31 pieces, the first one of 24"
    ):
        Ensemble([model_of("gru", "gru")] * 2 + [model_of("transformer", "gru", source=31)])


def test_the_run_with_another_tokenizer_is_named(tokenizers: tuple[Tokenizer, Tokenizer]) -> None:
    one, other = tokenizers
    again = Tokenizer(one.to_bytes())
    check_tokenizers([("runs/a", Tokenizers(one, one))])
    check_tokenizers([("runs/a", Tokenizers(one, one)), ("runs/b", Tokenizers(again, again))])
    runs = [("runs/a", Tokenizers(one, one)), ("runs/b", Tokenizers(one, again)), ("runs/c", Tokenizers(one, other))]
    with pytest.raises(ConfigError) as caught:
        check_tokenizers(runs)
    assert str(caught.value) == (
        f"runs/c: its target tokenizer, {other.name} of {len(other)} pieces, is not that of runs/a, {one.name} of "
        f"{len(one)} pieces: runs that translate together are trained with the same tokenizer.source_model and "
        f"tokenizer.target_model"
    )


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Tokenizer, Tokenizer]:
    from nmt.config import TokenizerConfig
    from nmt.data.tokenizer import train_tokenizer

    lines = ["the black cat sees the white horse", "a green bird sings for the tired dog"] * 10
    small, large = (
        train_tokenizer(lines, TokenizerConfig(vocabulary=vocabulary, byte_fallback=False), seed=1)
        for vocabulary in (40, 50)
    )
    return small, large
