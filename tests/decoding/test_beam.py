"""Search against exhaustive enumeration, against a slow beam search in plain Python, and against itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.config import DecodingConfig
from nmt.data.batching import pad
from nmt.decoding.beam import beam_search
from nmt.decoding.greedy import greedy_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_target
from nmt.decoding.request import Source
from nmt.errors import ConfigError, NmtError
from tests.decoding.slow import SlowSearch

PAD, UNK, BOS, EOS = 0, 1, 2, 3
PENALTIES = [("none", 1.0), ("average", 1.0), ("average", 0.6), ("gnmt", 0.6), ("gnmt", 2.0)]


def config(**changes: Any) -> DecodingConfig:
    return DecodingConfig.model_validate({"max_ratio": 1.0, "max_extra": 0, **changes})


def sources(*lengths: int) -> tuple[Tensor, Tensor]:
    """Sources of the given lengths, the first token of each naming its table."""
    return pad([[10 + row] * length for row, length in enumerate(lengths)], PAD)


def search(model: Any, *lengths: int, greedy: bool = False, **arguments: Any) -> list[list[Hypothesis]]:
    source, mask = sources(*lengths)
    settings = {"bos_id": BOS, "eos_id": EOS, "forbidden": (PAD, UNK), **arguments}
    return greedy_search(model, source, mask, **settings) if greedy else beam_search(model, source, mask, **settings)


def slow_beam_search(
    model: Any, group: int, longest: int, settings: DecodingConfig, nbest: int
) -> list[tuple[float, tuple[int, ...]]]:
    """The module's docstring again, one hypothesis at a time, stopping late: (score, tokens), best first."""
    return slow_steps(model, group, longest, settings, nbest, exact=False)[0]


def slow_steps(
    model: Any, group: int, longest: int, settings: DecodingConfig, nbest: int, *, exact: bool
) -> tuple[list[tuple[float, tuple[int, ...]]], int]:
    """The same with the number of steps taken; ``exact`` stops as soon as the nbest cannot be overtaken."""
    live: list[tuple[int, ...]] = [()]
    ended: list[tuple[float, tuple[int, ...]]] = []

    def end(tokens: tuple[int, ...]) -> None:
        total = model.log_probability(group, tokens)
        ended.append((total / length_penalty(len(tokens) + 1, settings), tokens))

    for length in range(1, longest + 1):
        if length == longest:
            for tokens in live:
                end(tokens)
            break
        grown = [(*tokens, token) for tokens in live for token in range(EOS, model.vocabulary)]
        grown.sort(key=lambda tokens: -model.log_probability(group, tokens, eos=False))
        for tokens in grown[: settings.beam]:
            if tokens[-1] == EOS:
                end(tokens[:-1])
        live = [tokens for tokens in grown if tokens[-1] != EOS][: settings.beam]
        if len(ended) < nbest:
            continue
        total = model.log_probability(group, live[0], eos=False)
        last_chosen = sorted(ended, reverse=True)[nbest - 1][0]
        if len(ended) >= settings.beam and total / length_penalty(length, settings) <= last_chosen:
            break
        if exact and total / length_penalty(longest, settings) <= last_chosen:
            break
    return sorted(ended, key=lambda pair: -pair[0]), length


@pytest.mark.parametrize(("penalty", "alpha"), PENALTIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_wide_enough_finds_what_enumeration_finds(
    table_model: Any, penalty: str, alpha: float, seed: int
) -> None:
    model = table_model(seed=seed)
    longest = [5, 3, 1, 4]
    settings = config(beam=31, length_penalty=penalty, alpha=alpha)  # two words, four of them at most: 31 sentences
    found = search(model, *longest, config=settings, nbest=31)
    for group, (limit, hypotheses) in enumerate(zip(longest, found, strict=True)):
        expected = sorted(
            (
                (total / length_penalty(len(tokens) + 1, settings), tokens)
                for tokens, total in model.every(group + 10, limit).items()
            ),
            reverse=True,
        )
        assert [hypothesis.tokens for hypothesis in hypotheses] == [tokens for _, tokens in expected]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx([score for score, _ in expected])
        for hypothesis in hypotheses:
            total = model.log_probability(group + 10, hypothesis.tokens)
            assert hypothesis.log_probability == pytest.approx(total)


@pytest.mark.parametrize(("penalty", "alpha"), PENALTIES)
@pytest.mark.parametrize("beam", [1, 2, 3, 7])
def test_a_narrow_beam_agrees_with_a_slow_one(table_model: Any, penalty: str, alpha: float, beam: int) -> None:
    for seed, nbest in itertools.product(range(3), {1, (beam + 1) // 2, beam}):
        model = table_model(vocabulary=9, groups=8, positions=5, seed=seed)
        settings = config(beam=beam, length_penalty=penalty, alpha=alpha)
        longest = [12, 2, 7, 9, 1, 8, 8, 20]
        for group, (limit, hypotheses) in enumerate(
            zip(longest, search(model, *longest, config=settings, nbest=nbest), strict=True)
        ):
            expected = slow_beam_search(model, group + 10, limit, settings, nbest)[:nbest]
            assert [hypothesis.tokens for hypothesis in hypotheses] == [tokens for _, tokens in expected]
            assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx([score for score, _ in expected])


def test_a_beam_of_one_is_greedy(table_model: Any) -> None:
    for seed, (penalty, alpha) in itertools.product(range(4), PENALTIES):
        model = table_model(vocabulary=20, seed=seed)
        settings = config(beam=1, length_penalty=penalty, alpha=alpha, max_extra=3)
        beams = search(model, 9, 3, 6, 1, config=settings)
        greedy = search(model, 9, 3, 6, 1, config=settings, greedy=True)
        assert [one.tokens for (one,) in beams] == [one.tokens for (one,) in greedy]
        assert [one.score for (one,) in beams] == pytest.approx([one.score for (one,) in greedy])


@pytest.mark.parametrize("nbest", [1, 4])
def test_a_sentence_does_not_know_its_neighbours(table_model: Any, nbest: int) -> None:
    model = table_model(vocabulary=12)
    settings = config(beam=4)
    together = search(model, 7, 2, 15, 4, config=settings, nbest=nbest, attention=True)
    for row, length in enumerate([7, 2, 15, 4]):
        source = torch.tensor([[10 + row] * length])
        (alone,) = beam_search(
            model,
            source,
            source > 0,
            config=settings,
            bos_id=BOS,
            eos_id=EOS,
            forbidden=(PAD, UNK),
            nbest=nbest,
            attention=True,
        )
        assert [one.tokens for one in alone] == [one.tokens for one in together[row]]
        assert [one.score for one in alone] == [one.score for one in together[row]]
        for one, other in zip(alone, together[row], strict=True):
            assert one.attention is not None and other.attention is not None
            np.testing.assert_allclose(one.attention, other.attention, rtol=1e-5, atol=1e-6)


def test_attention_follows_its_hypothesis(table_model: Any) -> None:
    model = table_model(vocabulary=12)
    for greedy in (False, True):
        nbest = {} if greedy else {"nbest": 4}
        found = search(model, 7, 2, 15, 4, config=config(beam=4), attention=True, greedy=greedy, **nbest)
        for row, (length, hypotheses) in enumerate(zip([7, 2, 15, 4], found, strict=True)):
            for hypothesis in hypotheses:
                assert hypothesis.attention is not None
                assert hypothesis.attention.shape == (len(hypothesis.tokens) + 1, length)
                expected = model.attention_of(10 + row, hypothesis.tokens, length)
                np.testing.assert_allclose(hypothesis.attention, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_hypotheses_are_sorted_distinct_and_within_the_limit(table_model: Any) -> None:
    for seed in range(5):
        model = table_model(vocabulary=12, seed=seed)
        found = search(model, 7, 2, 15, 4, config=config(beam=6), nbest=6)
        for length, hypotheses in zip([7, 2, 15, 4], found, strict=True):
            scores = [hypothesis.score for hypothesis in hypotheses]
            assert scores == sorted(scores, reverse=True)
            assert len({hypothesis.tokens for hypothesis in hypotheses}) == len(hypotheses) == 6
            for hypothesis in hypotheses:
                assert len(hypothesis.tokens) + 1 <= length
                assert not {PAD, UNK, BOS, EOS} & set(hypothesis.tokens)


@pytest.mark.parametrize("greedy", [False, True])
def test_every_token_has_its_log_probability(table_model: Any, greedy: bool) -> None:
    model = table_model(vocabulary=12)
    nbest = {} if greedy else {"nbest": 4}
    for row, found in enumerate(search(model, 7, 2, 15, 4, config=config(beam=4), greedy=greedy, **nbest)):
        for one in found:
            expected = [
                model.next_log_probabilities(10 + row, one.tokens[:t])[token]
                for t, token in enumerate([*one.tokens, EOS])
            ]
            assert one.token_log_probabilities == pytest.approx(expected)
            assert one.log_probability == sum(one.token_log_probabilities)


@pytest.mark.parametrize(("penalty", "alpha"), PENALTIES)
def test_exact_stopping_loses_nothing(table_model: Any, penalty: str, alpha: float) -> None:
    """What is found is what a search that goes on to the longest translation finds, and more than what fast finds."""
    lost = 0
    for seed in range(12):
        model = table_model(vocabulary=7, groups=1, positions=5, seed=seed)
        settings = config(beam=2, length_penalty=penalty, alpha=alpha, stopping="exact")
        wish = Source((10,) * 8)
        ((found,),) = search(model, 9, config=settings)
        ((value, tokens),), _ = SlowSearch(model, wish, settings, 9, late=True).run(1)
        assert found.tokens == tokens
        assert found.score == pytest.approx(value)
        ((fast,),) = search(model, 9, config=settings.model_copy(update={"stopping": "fast"}))
        assert fast.score <= found.score + 1e-9
        lost += fast.tokens != found.tokens
    assert lost > 0 or penalty == "none" or alpha < 1


def test_forbidden_tokens_keep_their_probability(table_model: Any) -> None:
    """A token that may not be written still takes its share: scores are the model's own."""
    model = table_model()
    model.table[..., UNK] += 10.0
    (hypotheses,) = search(model, 4, config=config(beam=2))
    assert UNK not in hypotheses[0].tokens
    assert hypotheses[0].log_probability == pytest.approx(model.log_probability(10, hypotheses[0].tokens))
    assert hypotheses[0].log_probability < -9.0


def test_a_sentence_that_never_ends_is_ended_at_its_limit(table_model: Any) -> None:
    model = table_model()
    model.table[..., EOS] -= 30.0
    for greedy in (False, True):
        ((hypothesis, *_),) = search(model, 4, config=config(beam=2), greedy=greedy)
        assert len(hypothesis.tokens) == 3
        assert hypothesis.log_probability == pytest.approx(model.log_probability(10, hypothesis.tokens))
        ((hypothesis, *_),) = search(model, 4, config=config(beam=2), max_length=2, greedy=greedy)
        assert len(hypothesis.tokens) == 1


def test_finished_sentences_leave_the_batch(table_model: Any) -> None:
    model = table_model()
    model.table[..., EOS] -= 30.0
    search(model, 2, 6, 4, config=config(beam=2))
    assert model.steps == [3, 6, 4, 4, 2, 2]


def test_search_stops_when_nothing_can_overtake(table_model: Any) -> None:
    """With the whole probability on one short sentence no other can catch up, however long it grows."""
    model = table_model()
    model.table[:, :1, ..., 4] += 40.0
    model.table[:, 1:, ..., EOS] += 40.0
    search(model, 50, config=config(beam=2, length_penalty="average"))
    assert len(model.steps) <= 3


@pytest.mark.parametrize(("penalty", "alpha"), PENALTIES)
def test_search_stops_at_the_first_step_that_allows_it(table_model: Any, penalty: str, alpha: float) -> None:
    saved = 0
    for seed, nbest in itertools.product(range(12), [1, 2]):
        model = table_model(vocabulary=7, groups=1, positions=5, seed=seed)
        settings = config(beam=4, length_penalty=penalty, alpha=alpha)
        search(model, 7, config=settings, nbest=nbest)
        steps = slow_steps(model, 10, 7, settings, nbest, exact=True)[1]
        assert len(model.steps) == steps
        saved += slow_steps(model, 10, 7, settings, nbest, exact=False)[1] - steps
    assert saved > 0


def test_a_model_that_is_sure_of_a_long_sentence_is_heard_out(table_model: Any) -> None:
    """However often the second place of the beam ends on the way, the first is the translation."""
    model = table_model(positions=8)
    model.table[:, :7, ..., 4] += 10.0
    model.table[:, 7:, ..., EOS] += 10.0
    ((best,),) = search(model, 20, config=config(beam=2))
    ((greedy,),) = search(model, 20, config=config(beam=1), greedy=True)
    assert best.tokens == greedy.tokens == (4,) * 7


def test_equal_scores_go_to_the_smaller_token(table_model: Any) -> None:
    model = table_model(vocabulary=7)
    model.table[...] = 0.0
    model.table[..., EOS] = -5.0
    (hypotheses,) = search(model, 3, config=config(beam=3), nbest=3)
    assert [hypothesis.tokens for hypothesis in hypotheses] == [(4, 4), (4, 5), (4, 6)]
    ((greedy,),) = search(model, 3, config=config(beam=1), greedy=True)
    assert greedy.tokens == (4, 4)


def test_no_sources_no_translations(table_model: Any) -> None:
    empty = torch.zeros(0, 0, dtype=torch.long)
    assert beam_search(table_model(), empty, empty > 0, config=config(), bos_id=BOS, eos_id=EOS) == []
    assert greedy_search(table_model(), empty, empty > 0, config=config(), bos_id=BOS, eos_id=EOS) == []


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_output_that_is_not_a_number_is_one_clear_error(table_model: Any, greedy: bool, value: float) -> None:
    model = table_model()
    model.table[1, 1, ..., 4] = value
    with pytest.raises(NmtError, match="not a number at target token 2: its weights are damaged"):
        search(model, 5, 5, 5, 5, config=config(beam=2), greedy=greedy)


def test_more_hypotheses_than_beams_are_refused(table_model: Any) -> None:
    with pytest.raises(ConfigError, match="nbest 3 needs a beam of at least 3, not 2: set --beam 3"):
        search(table_model(), 5, config=config(beam=2), nbest=3)


def test_length_penalties_by_hand() -> None:
    assert length_penalty(9, config(length_penalty="none")) == 1.0
    assert length_penalty(9, config(length_penalty="average")) == 9.0
    assert length_penalty(9, config(length_penalty="average", alpha=0.5)) == 3.0
    assert length_penalty(7, config(length_penalty="gnmt", alpha=2.0)) == 4.0  # ((5 + 7) / 6) ** 2


def test_longest_target_by_hand() -> None:
    assert longest_target(10, config(max_ratio=1.5, max_extra=4)) == 19
    assert longest_target(10, config(max_ratio=1.5, max_extra=4), 12) == 12
    assert longest_target(1, config(max_ratio=0.1, max_extra=0)) == 1
