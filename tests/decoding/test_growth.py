"""Groups of a beam: against a slow search, and what they are for."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nmt.decoding.constraints import met
from nmt.decoding.request import Source
from tests.decoding.slow import EOS, SlowSearch, about, as_pairs, config, search

WISHES = [Source((10 + row,) * length) for row, length in enumerate([6, 2, 8, 4])]


@pytest.mark.parametrize(("beam", "groups"), [(2, 2), (4, 2), (6, 3), (6, 6), (6, 2)])
@pytest.mark.parametrize("stopping", ["fast", "exact"])
def test_groups_agree_with_a_slow_search(table_model: Any, beam: int, groups: int, stopping: str) -> None:
    for seed in range(3):
        draw = random.Random(seed)
        model = table_model(vocabulary=8, groups=4, positions=5, seed=seed)
        settings = config(
            beam=beam,
            groups=groups,
            diversity=draw.choice([0.3, 2.0]),
            stopping=stopping,
            coverage_penalty=draw.choice([0.0, 0.5]),
            no_repeat_ngram=draw.choice([0, 3]),
        )
        nbest = [groups, beam, beam - 1][seed]
        for wish, found in zip(WISHES, search(model, WISHES, config=settings, nbest=nbest), strict=True):
            expected, _ = SlowSearch(model, wish, settings, len(wish.tokens) + 1).run(nbest)
            assert as_pairs(found) == about(expected)


def test_without_diversity_every_group_is_the_beam_of_one(table_model: Any) -> None:
    """All groups find the same: of one best each only the first is new, then come the seconds."""
    model = table_model(vocabulary=9)
    alone = search(model, WISHES, config=config(beam=2), nbest=2)
    groups = search(model, WISHES, config=config(beam=6, groups=3, diversity=0.0), nbest=2)
    assert [as_pairs(found) for found in groups] == [as_pairs(found) for found in alone]


def test_what_two_groups_find_does_not_count_twice(table_model: Any) -> None:
    """There are n best where there are n translations: a group does not stop at its share of them."""
    for seed in range(4):
        model = table_model(vocabulary=9, groups=4, positions=5, seed=seed)
        for diversity in (0.0, 0.1, 0.5):
            settings = config(beam=4, groups=2, diversity=diversity, stopping=["fast", "exact"][seed % 2])
            assert [len(found) for found in search(model, WISHES, config=settings, nbest=2)] == [2] * len(WISHES)


def test_groups_begin_with_different_words(table_model: Any) -> None:
    """The first tokens differ where diversity is larger than any difference of log-probabilities."""
    model = table_model(vocabulary=12)
    model.table[:, 0, ..., EOS] -= 50.0
    for nbest in (3, 4):
        settings = config(beam=4, groups=4, diversity=1e4)
        for wish, found in zip(WISHES, search(model, WISHES, config=settings, nbest=nbest), strict=True):
            assert len({one.tokens[:1] for one in found}) == nbest
            for one in found:
                assert one.log_probability == pytest.approx(model.log_probability(wish.tokens[0], one.tokens), abs=1e-5)
                assert one.score == pytest.approx(one.log_probability / (len(one.tokens) + 1))


def test_groups_may_end_together(table_model: Any) -> None:
    """EOS is not what keeps translations apart."""
    model = table_model(vocabulary=9)
    model.table[:, 1:, ..., EOS] += 50.0
    model.table[:, 0, ..., EOS] -= 50.0
    for found in search(model, WISHES[:1], config=config(beam=4, groups=4, diversity=5.0), nbest=4):
        assert [len(one.tokens) for one in found] == [1] * 4


def test_every_group_uses_the_phrases(table_model: Any) -> None:
    model = table_model(vocabulary=9)
    wishes = [Source(wish.tokens, use=((4, 5), (6,))) if row % 2 == 0 else wish for row, wish in enumerate(WISHES)]
    settings = config(beam=6, groups=3, diversity=1.0)
    for wish, found in zip(wishes, search(model, wishes, config=settings, nbest=3), strict=True):
        expected, _ = SlowSearch(model, wish, settings, len(wish.tokens) + 1).run(3)
        assert as_pairs(found) == about(expected)
        assert all(all(met(one.tokens, wish.use)) for one in found)
