"""The rules of a batch against a loop over rows, phrases and n-grams."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from nmt.config import DecodingConfig
from nmt.decoding.lengths import longest_for
from nmt.decoding.request import Source
from nmt.decoding.rules import Rules
from nmt.errors import NmtError
from tests.decoding.slow import (
    BOS,
    EOS,
    PAD,
    UNK,
    SlowSearch,
    Tokens,
    allowed_after,
    as_pairs,
    config,
    enumerated,
    score,
    search,
)

VOCABULARY = 9


def rules_of(sources: list[Source], **changes: Any) -> Rules:
    return Rules.of(
        sources,
        DecodingConfig.model_validate(changes),
        bos_id=BOS,
        eos_id=EOS,
        forbidden=(PAD, UNK),
        device=torch.device("cpu"),
    )


def allowed(rules: Rules, written: list[tuple[int, ...]], sentences: list[int]) -> list[set[int]]:
    """What ``rules`` leave of random logits, all of it untouched."""
    logits = torch.randn(len(written), VOCABULARY)
    after = logits.clone()
    rules.forbid_(after, torch.tensor(written, dtype=torch.long).view(len(written), -1), torch.tensor(sentences))
    kept = after > -math.inf
    assert torch.equal(after[kept], logits[kept])
    return [set(row.nonzero().squeeze(1).tolist()) for row in kept]


@pytest.mark.parametrize("no_repeat_ngram", [0, 1, 2, 3])
def test_rules_are_those_of_a_loop(no_repeat_ngram: int) -> None:
    draw = random.Random(no_repeat_ngram)

    def phrase(longest: int, shortest: int = 1) -> tuple[int, ...]:
        return tuple(draw.choices(range(EOS + 1, VOCABULARY), k=draw.randint(shortest, longest)))

    taken = 0
    for _ in range(60):
        sources = [
            Source(
                tokens=(5,),
                prefix=phrase(3, 0) if draw.random() < 0.5 else (),
                avoid=tuple(phrase(3) for _ in range(draw.randint(0, 3))),
            )
            for _ in range(4)
        ]
        length = draw.randint(0, 6)
        sentences = draw.choices(range(4), k=7)
        written = [
            (*sources[sentence].prefix, *draw.choices(range(EOS + 1, VOCABULARY), k=length))[:length]
            for sentence in sentences
        ]
        expected = [
            allowed_after(row, sources[sentence], no_repeat_ngram, VOCABULARY)
            for row, sentence in zip(written, sentences, strict=True)
        ]
        assert allowed(rules_of(sources, no_repeat_ngram=no_repeat_ngram), written, sentences) == expected
        taken += sum(len(row) < VOCABULARY - 3 for row in expected)
    assert taken > 60


def test_a_prefix_may_have_in_it_what_other_rules_take_away() -> None:
    sources = [Source((5,), prefix=(4, 4, UNK, 6), avoid=((4,), (UNK, 6), (8,)))]
    rules = rules_of(sources, no_repeat_ngram=1)
    assert allowed(rules, [(4,)], [0]) == [{4}]
    assert allowed(rules, [(4, 4)], [0]) == [{UNK}]
    assert allowed(rules, [(4, 4, UNK)], [0]) == [{6}]
    assert allowed(rules, [(4, 4, UNK, 6)], [0]) == [{EOS, 5, 7}]


def test_no_rule_but_a_prefix_takes_eos_away() -> None:
    sources = [Source((5,), avoid=((EOS,), (4, EOS))), Source((5,), prefix=(4, 5))]
    rules = rules_of(sources)
    assert [EOS in row for row in allowed(rules, [(4,), (4,)], [0, 1])] == [True, False]
    rules = Rules.of([], DecodingConfig(), bos_id=BOS, eos_id=EOS, forbidden=(EOS,), device=torch.device("cpu"))
    assert rules.never.tolist() == [BOS]


def test_only_rules_that_are_there_cost_something() -> None:
    assert rules_of([]).is_plain
    assert rules_of([Source((5, 6), use=((4,),))]).is_plain
    assert not rules_of([Source((5, 6), avoid=((4,),))]).is_plain
    assert not rules_of([Source((5, 6)), Source((5,), prefix=(4,))]).is_plain
    assert not rules_of([], no_repeat_ngram=2).is_plain
    assert rules_of([Source((5, 6), avoid=((),))]).is_plain  # an empty phrase is none


def random_wishes(draw: random.Random, count: int, vocabulary: int) -> list[Source]:
    def phrase(longest: int) -> Tokens:
        return tuple(draw.choices(range(EOS + 1, vocabulary), k=draw.randint(1, longest)))

    return [
        Source(
            tokens=(10 + row,) * draw.randint(2, 6),
            prefix=phrase(2) if draw.random() < 0.5 else (),
            avoid=tuple(phrase(2) for _ in range(draw.randint(0, 2))),
        )
        for row in range(count)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_wide_enough_finds_the_best_that_may_be_written(table_model: Any, seed: int) -> None:
    """Of three words, sentences of at most six tokens: the whole beam holds every one."""
    draw = random.Random(seed)
    model = table_model(vocabulary=7, seed=seed)
    wishes = [replace(wish, tokens=wish.tokens[:4]) for wish in random_wishes(draw, 5, 7)]
    settings = config(beam=300, no_repeat_ngram=draw.randint(0, 3), length_penalty=draw.choice(["none", "average"]))
    for wish, found in zip(wishes, search(model, wishes, config=settings, nbest=300), strict=True):
        expected = enumerated(model, wish, settings, len(wish.tokens) + 1)
        assert [one.tokens for one in found] == [tokens for _, tokens in expected]
        assert [one.score for one in found] == pytest.approx([value for value, _ in expected])


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_narrow_beam_agrees_with_a_slow_one(table_model: Any, beam: int) -> None:
    for seed in range(3):
        draw = random.Random(seed)
        model = table_model(vocabulary=8, groups=8, positions=4, seed=seed)
        wishes = random_wishes(draw, 8, 8)
        settings = config(beam=beam, no_repeat_ngram=draw.randint(0, 2), max_extra=3)
        nbest = (beam + 1) // 2
        for wish, found in zip(wishes, search(model, wishes, config=settings, nbest=nbest), strict=True):
            slow = SlowSearch(model, wish, settings, len(wish.tokens) + 4, late=True)
            assert as_pairs(found) == [(pytest.approx(value), tokens) for value, tokens in slow.run(nbest)[0]]


def test_a_beam_of_one_is_greedy_under_every_rule(table_model: Any) -> None:
    for seed in range(5):
        draw = random.Random(seed)
        model = table_model(vocabulary=9, groups=8, positions=4, seed=seed)
        wishes = random_wishes(draw, 8, 9)
        settings = config(beam=1, no_repeat_ngram=draw.randint(0, 2), max_extra=3, coverage_penalty=0.3)
        greedy = search(model, wishes, config=settings, greedy=True)
        for (one,), (other,) in zip(search(model, wishes, config=settings), greedy, strict=True):
            assert one.tokens == other.tokens
            assert one.score == pytest.approx(other.score, abs=1e-6)
            assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities)


def test_a_forced_prefix_counts_as_the_model_scores_it(table_model: Any) -> None:
    """However unlikely: its log-probabilities are those of forced tokens."""
    model = table_model(vocabulary=7)
    model.table[..., 6] -= 20.0
    wish = Source((10, 5, 5, 5), prefix=(6, 6, UNK))
    (found,) = search(model, [wish], config=config(beam=3), nbest=3)
    assert len(found) == 3
    for one in found:
        assert one.tokens[:3] == (6, 6, UNK)
        assert all(value < -15 for value in one.token_log_probabilities[:2])
        assert one.log_probability == pytest.approx(model.log_probability(10, one.tokens))
        assert one.score == pytest.approx(score(model, (*one.tokens, EOS), wish, config()))


def test_a_prefix_has_room_and_eos_waits_for_its_end(table_model: Any) -> None:
    model = table_model()
    model.table[..., EOS] += 30.0
    wish = Source((10,), prefix=(4, 5, 4, 4, 5))
    for greedy in (False, True):
        ((one,),) = search(model, [wish], config=config(beam=1), greedy=greedy)
        assert one.tokens == wish.prefix
        with pytest.raises(NmtError, match="prefix of 5 tokens: the model writes 4 at most"):
            search(model, [wish], config=config(beam=1), max_length=5, greedy=greedy)


def test_room_for_what_is_asked_by_hand() -> None:
    settings = config(max_ratio=2.0, max_extra=1)
    assert longest_for(Source((5,)), 2, settings) == 5
    assert longest_for(Source((5,), prefix=(4,) * 7), 2, settings) == 8
    assert longest_for(Source((5,), prefix=(4, 4), use=((4, 5), (6,))), 2, settings) == 6
    assert longest_for(Source((5,), prefix=(4, 4), use=((4, 5), (6,))), 2, settings, 4) == 4
    assert longest_for(Source((5,), prefix=(4,)), 2, settings, 2) == 2


def test_where_nothing_may_be_written_any_more_a_translation_ends(table_model: Any) -> None:
    """Two words, none of them twice: five translations, however long the beam and the limit."""
    model = table_model()
    (found,) = search(model, [Source((10,) * 9)], config=config(beam=8, no_repeat_ngram=1), nbest=8)
    assert {one.tokens for one in found} == {(), (4,), (5,), (4, 5), (5, 4)}


def test_behind_a_phrase_to_use_no_word_goes_on() -> None:
    """Tokens 8 and 9 go on with a word; where a prefix is forced it is written all the same."""
    free = frozenset({8, 9})
    sources = [
        Source((), use=((4, 5), (6,)), continuing=free),
        Source((), use=((5,),), continuing=free, prefix=(5, 8)),
        Source(()),
    ]
    rules = Rules.of(sources, DecodingConfig(), bos_id=BOS, eos_id=EOS, device=torch.device("cpu"))
    assert not rules.is_plain
    for written, sentence, allowed in (
        ([4, 5], 0, False),
        ([5, 4], 0, True),
        ([7, 6], 0, False),
        ([6, 7], 0, True),
        ([5, 8], 1, True),
        ([7, 5], 1, False),
        ([4, 5], 2, True),
    ):
        logits = torch.zeros(1, 12)
        rules.forbid_(logits, torch.tensor([written]), torch.tensor([sentence]))
        assert (logits[0, [8, 9]] == 0).tolist() == [allowed, allowed], (written, sentence)
        assert logits[0, EOS] == 0
    nested = [Source((), use=((4, 5), (3, 4, 5, 8, 9)), continuing=free), Source((), use=((6,),), continuing=free)]
    rules = Rules.of(nested, DecodingConfig(), bos_id=BOS, eos_id=EOS, device=torch.device("cpu"))
    logits = torch.zeros(2, 12)
    rules.forbid_(logits, torch.tensor([[4, 5], [5, 6]]), torch.tensor([0, 1]))
    assert (logits[:, [8, 9]] == 0).tolist() == [[True, False], [False, False]]  # the other phrase goes on with 8
    rules = Rules.of(sources, DecodingConfig(), bos_id=BOS, eos_id=EOS, device=torch.device("cpu"))
    forced = torch.zeros(1, 12)
    rules.forbid_(forced, torch.tensor([[5]]), torch.tensor([1]))
    assert (forced[0] == 0).nonzero().flatten().tolist() == [8]
