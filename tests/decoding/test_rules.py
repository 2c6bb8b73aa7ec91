"""The rules of a batch against a loop over rows, phrases and n-grams."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from nmt.config import DecodingConfig
from nmt.decoding.request import Source
from nmt.decoding.rules import Rules

PAD, UNK, BOS, EOS = 0, 1, 2, 3
VOCABULARY = 9


def allowed_after(written: tuple[int, ...], source: Source, no_repeat_ngram: int) -> set[int]:
    """What may come next in one translation, from the rules' description."""
    if len(written) < len(source.prefix):
        return {source.prefix[len(written)]}
    words = set(range(VOCABULARY)) - {PAD, UNK, BOS, EOS}
    ngrams = {written[start : start + no_repeat_ngram] for start in range(len(written) - no_repeat_ngram + 1)}
    return {EOS} | {
        word
        for word in words
        if not any((*written, word)[-len(phrase) :] == phrase for phrase in source.avoid)
        and not (no_repeat_ngram and (*written, word)[-no_repeat_ngram:] in ngrams)
    }


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
            allowed_after(row, sources[sentence], no_repeat_ngram)
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
