"""Phrases to use: progress against strings, search against enumeration and a slow search."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from nmt.decoding.constraints import Candidate, Phrases, met, standing
from nmt.decoding.constraints import writable as may_be_written
from nmt.decoding.request import Source
from nmt.errors import ConfigError
from tests.decoding.slow import (
    BOS,
    EOS,
    UNK,
    SlowSearch,
    Tokens,
    about,
    as_pairs,
    begun,
    config,
    enumerated,
    gained,
    letters,
    search,
    uses_all,
    writable,
)


def random_use(draw: random.Random, words: range, *, most: int = 3, longest: int = 3) -> tuple[Tokens, ...]:
    phrases = [tuple(draw.choices(words, k=draw.randint(1, longest))) for _ in range(draw.randint(1, most))]
    return tuple(phrases + phrases[:1] * (draw.random() < 0.3))


def test_which_phrases_are_met_by_hand() -> None:
    assert met((), ()) == ()
    assert met((4, 5, 6), ((5, 6), (6, 5), (4,), ())) == (True, False, True, True)
    assert met((4, 5, 6), ((4, 5), (5, 6))) == (True, True)  # phrases may overlap
    assert met((4, 4, 4), ((4, 4), (4, 4))) == (True, False)  # but not a phrase itself
    assert met((4, 4, 4, 4), ((4, 4), (5,), (4, 4))) == (True, False, True)
    assert met((4, 5), ((4, 5, 6),)) == (False,)
    assert met((4, 5, 9, 4, 5, 8), ((4, 5),), {9}) == (True,)
    assert met((4, 5, 9, 4, 5, 8), ((4, 5),), {8, 9}) == (False,)  # a longer word both times


@pytest.mark.parametrize(
    ("text", "phrases", "expected"),
    [
        ("l'homme dort .", ["homme", "dort"], [True, True]),  # behind an apostrophe there is no space
        ("le ({nom}) dort", ["{nom}", "{nom}"], [True, False]),
        ("我的房子很大。", ["房子", "大"], [True, True]),  # words without spaces
        ("das Schlosshaus", ["haus", "Schloss"], [False, False]),  # parts of a longer word
        ("Haus Hausarzt", ["Haus", "Haus"], [True, False]),
        ("%d of %d", ["%d", "%d", "%d"], [True, True, False]),
        ("的USB", ["USB"], [True]),
        ("aa-aa", ["aa", "", "a"], [True, True, False]),
        ("{width}px, 100%ig", ["{width}", "100%", "px"], [True, True, True]),
        ("रामायण पढ़ो", ["राम", "पढ़ो"], [False, True]),  # marks are part of a word
        ("cafe\u0301", ["cafe"], [False]),
        ("", ["a", ""], [False, True]),
    ],
)
def test_which_phrases_stand_in_a_text(text: str, phrases: list[str], expected: list[bool]) -> None:
    assert list(standing(text, phrases)) == expected


@pytest.mark.parametrize("seed", range(4))
def test_progress_is_what_strings_say(seed: int) -> None:
    """Every sentence of two words up to a length of nine: a token at a time, from its tokens, and by counting."""
    draw = random.Random(seed)
    use = random_use(draw, range(4, 6), longest=4)
    phrases = Phrases(use)
    progress: dict[Tokens, Tokens] = {(): phrases.start}
    for length in range(1, 10):
        for tokens in itertools.product((4, 5), repeat=length):
            progress[tokens] = phrases.advance(progress[tokens[:-1]], tokens[-1])
            assert phrases.gained(progress[tokens]) == gained(tokens, use)
            assert set(phrases.wanted(progress[tokens])) == begun(tokens, use)
            complete = phrases.gained(progress[tokens]) == phrases.total
            assert complete == all(met(tokens, use)) == uses_all(tokens, use)
            assert met(tokens, use).count(True) == sum(
                min(letters(tokens).count(letters(phrase)), use.count(phrase)) for phrase in set(use)
            )
    assert set(phrases.advance(progress[4, 5], 99)) <= {len(phrase) * n for phrase in use for n in range(3)}


@pytest.mark.parametrize("seed", range(6))
def test_what_a_word_goes_on_behind_is_not_used(seed: int) -> None:
    """Every sentence of three words up to a length of seven, two of which go on with the word before."""
    draw = random.Random(seed)
    use, continuing = random_use(draw, range(4, 7), longest=3), {5, 6}
    phrases = Phrases(use, continuing)
    progress: dict[Tokens, Tokens] = {(): phrases.start}
    for length in range(1, 8):
        for tokens in itertools.product((4, 5, 6), repeat=length):
            here = progress[tokens] = phrases.advance(progress[tokens[:-1]], tokens[-1])
            whole = sum(done - done % len(phrase) for done, phrase in zip(here[:-1], phrases.phrases, strict=True))
            times = zip(use, met(tokens, use, continuing), strict=True)
            assert whole == sum(len(phrase) for phrase, is_met in times if is_met), (tokens, use)
            assert (phrases.gained(here) == phrases.total) == (whole == phrases.total)
            assert bool(phrases.wanted(here)) == (whole < phrases.total)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_wanted_gains_a_token_at_least(seed: int) -> None:
    """So as many steps as there are tokens are enough, wherever a hypothesis stands."""
    draw = random.Random(seed)
    words = range(4, 4 + draw.randint(1, 3))
    phrases = Phrases(random_use(draw, words, most=4, longest=4))
    for _ in range(20):
        progress = phrases.start
        for token in draw.choices(words, k=draw.randint(0, 8)):
            progress = phrases.advance(progress, token)
        before = phrases.gained(progress)
        wanted = phrases.wanted(progress)
        assert (before == phrases.total) == (not wanted)
        after = [phrases.gained(phrases.advance(progress, token)) for token in wanted]
        assert not after or max(after) > before


def test_a_phrase_that_is_begun_is_gone_on_with() -> None:
    """Nothing of another phrase is offered in the middle of one."""
    phrases = Phrases([(4, 5, 6), (7,), (5, 8)])
    assert phrases.wanted(phrases.start) == [4, 5, 7]
    begun = phrases.advance(phrases.start, 4)
    assert phrases.wanted(begun) == [5]
    both = phrases.advance(begun, 5)
    assert phrases.wanted(both) == [6, 8]
    assert phrases.gained(both) == 2  # the 5 is not counted twice
    assert phrases.wanted(phrases.advance(both, 9)) == [4, 5, 7]


def test_the_beam_is_shared_out_by_hand() -> None:
    """Two banks share three places; EOS has one only where all is used, and the next one has its place then."""
    phrases = Phrases([(4,)])
    done = phrases.advance(phrases.start, 4)
    tokens = [[EOS, 5, 6, 4], [EOS, 5, 6]]
    ranks = [[-1.0, -2.0, -3.0, -9.0], [-4.0, -5.0, -6.0]]
    candidates = [
        Candidate(rank, parent, token, -1.0)
        for parent in range(2)
        for rank, token in zip(ranks[parent], tokens[parent], strict=True)
    ]
    choice = phrases.choose(candidates, [phrases.start, done], 3, eos_id=EOS)
    assert [(one.parent, one.token) for one in choice.live] == [(0, 5), (1, 5), (1, 6)]
    assert choice.ending == {1}
    assert choice.progress == [phrases.start, done, done]
    none = phrases.choose([candidates[0]], [phrases.start], 3, eos_id=EOS)
    assert (none.live, none.ending) == ([], {0})


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_wide_enough_finds_the_best_with_all_phrases(table_model: Any, seed: int) -> None:
    draw = random.Random(seed)
    model = table_model(vocabulary=7, seed=seed)
    wishes = [
        Source(
            (10 + row,) * 4,
            use=random_use(draw, range(4, 7), most=2, longest=2),
            prefix=tuple(draw.choices(range(4, 7), k=draw.randint(0, 1))),
            avoid=tuple(tuple(draw.choices(range(4, 7), k=2)) for _ in range(draw.randint(0, 1))),
        )
        for row in range(5)
    ]
    wishes += [replace(wishes[0], use=())]  # one that asks for nothing among them
    settings = config(
        beam=300,
        stopping=draw.choice(["fast", "exact"]),
        length_penalty=draw.choice(["none", "average"]),
        no_repeat_ngram=draw.choice([0, 2]),
        coverage_penalty=draw.choice([0.0, 0.4]),
    )
    for nbest in (1, 300):
        for wish, found in zip(wishes, search(model, wishes, config=settings, nbest=nbest), strict=True):
            longest = max(len(wish.tokens) + 1, len(wish.prefix) + sum(map(len, wish.use)) + 1)
            wish = writable(wish)
            expected = enumerated(model, wish, settings, longest)[:nbest]
            whole = [pair for pair in as_pairs(found) if uses_all(pair[1], wish.use)]
            assert whole == about(expected)
            assert as_pairs(found)[: len(whole)] == whole  # what has phrases missing comes after
            assert not wish.use or all(len(one.tokens) == longest - 1 for one in found[len(whole) :])


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_narrow_beam_agrees_with_a_slow_one(table_model: Any, beam: int) -> None:
    missing = 0
    for seed in range(4):
        draw = random.Random(seed)
        model = table_model(vocabulary=9, groups=8, positions=4, seed=seed)
        model.table[..., EOS] += 1.0
        wishes = [
            Source(
                (10 + row,) * draw.randint(2, 5),
                use=random_use(draw, range(4, 9)) if row % 4 else (),
                avoid=tuple(tuple(draw.choices(range(4, 9), k=1)) for _ in range(draw.randint(0, 1))),
            )
            for row in range(8)
        ]
        settings = config(beam=beam, coverage_penalty=draw.choice([0.0, 0.4]), no_repeat_ngram=draw.choice([0, 2]))
        nbest = (beam + 1) // 2
        for wish, found in zip(wishes, search(model, wishes, config=settings, nbest=nbest), strict=True):
            longest = max(len(wish.tokens) + 1, sum(map(len, wish.use)) + 1)
            expected, _ = SlowSearch(model, writable(wish), settings, longest).run(nbest)
            assert as_pairs(found) == about(expected)
            missing += not uses_all(found[0].tokens, wish.use)
    assert missing > 0  # a phrase that has a token to avoid in it, or an n-gram that is there already


@pytest.mark.parametrize("beam", [1, 3])
def test_phrases_are_used_where_there_is_only_just_room(table_model: Any, beam: int) -> None:
    """The model would rather end, has other words in mind, and the beam is narrower than the number of phrases."""
    for seed in range(6):
        draw = random.Random(seed)
        model = table_model(vocabulary=10, groups=4, positions=4, seed=seed)
        model.table[..., EOS] += 20.0
        model.table[..., 9] += 10.0
        wishes = [Source((10 + row,), use=random_use(draw, range(4, 8), most=4)) for row in range(4)]
        for wish, (found, *_) in zip(wishes, search(model, wishes, config=config(beam=beam)), strict=True):
            assert all(met(found.tokens, wish.use)), (wish.use, found.tokens)
            assert found.log_probability == pytest.approx(model.log_probability(wish.tokens[0], found.tokens))


def test_a_phrase_that_cannot_be_written_is_missing_and_the_others_are_there(table_model: Any) -> None:
    model = table_model(vocabulary=9)
    wishes = [
        Source((10,) * 6, use=((4, UNK), (5, 6))),  # UNK is never written
        Source((11,) * 6, use=((7,), (5, 6)), avoid=((7,),)),
        Source((12,) * 6, use=((4, 5), (BOS,), (6, 6))),
    ]
    found = search(model, wishes, config=config(beam=3))
    answers = [met(one.tokens, wish.use) for wish, (one,) in zip(wishes, found, strict=True)]
    assert answers == [(False, True), (False, True), (True, False, True)]
    (short,) = search(model, [Source((10,) * 6, use=((4, 5), (6, 7)))], config=config(beam=3), max_length=4)
    assert len(short[0].tokens) == 3
    assert met(short[0].tokens, ((4, 5), (6, 7))).count(True) == 1


def test_which_phrases_can_be_written_by_hand() -> None:
    use = ((4, 5), (6,), (4, 6, 7), ())
    assert may_be_written(use, (), ()) == [*use]
    assert may_be_written(use, ((6, 7),), ()) == [(4, 5), (6,), ()]
    assert may_be_written(use, ((6,), ()), {5}) == [()]


def test_a_phrase_that_cannot_be_written_does_not_change_the_translation(table_model: Any) -> None:
    """It is not waited for until the longest translation allowed."""
    model = table_model(vocabulary=9)
    model.table[..., EOS] += 2.0
    wishes = [
        Source((10,) * 6, use=((4, UNK),)),
        Source((11,) * 6, use=((7,), (5, 6)), avoid=((7,),)),
    ]
    found = search(model, wishes, config=config(beam=3))
    plain = [replace(wishes[0], use=()), replace(wishes[1], use=((5, 6),))]
    assert [as_pairs(one) for one in found] == [
        as_pairs(search(model, [wish], config=config(beam=3))[0]) for wish in plain
    ]
    assert len(found[0][0].tokens) < 6


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_word_and_a_longer_one_that_begins_with_it(table_model: Any, beam: int) -> None:
    """Tokens 7 and 8 go on with a word: 4 and 4 7 are two words, and both are used."""
    for seed in range(6):
        model = table_model(vocabulary=9, seed=seed)
        wish = Source((10,) * 9, use=((4,), (4, 7)), continuing=frozenset({7, 8}))
        ((one,),) = search(model, [wish], config=config(beam=beam))
        assert all(met(one.tokens, wish.use, wish.continuing)), one.tokens
        begun_word = replace(wish, use=((4,),), prefix=(4, 8))  # which the prefix has in a longer one only
        ((other,),) = search(model, [begun_word], config=config(beam=beam))
        assert all(met(other.tokens, begun_word.use, wish.continuing)), other.tokens


def test_phrases_in_a_prefix_are_used(table_model: Any) -> None:
    """A prefix counts, and a phrase may begin in it."""
    model = table_model(vocabulary=9)
    wish = Source((10,) * 9, prefix=(4, 5, 6), use=((4, 5), (6, 7), (5,)))
    ((one,),) = search(model, [wish], config=config(beam=4))
    assert one.tokens[:3] == (4, 5, 6)
    assert all(met(one.tokens, wish.use))
    ends = [search(model, [replace(wish, use=use)], config=config(beam=4)) for use in (((4, 5), (5,)), ())]
    assert as_pairs(ends[0][0]) == as_pairs(ends[1][0])  # once the prefix is written all is done


def test_who_has_phrases_does_not_change_the_others(table_model: Any) -> None:
    model = table_model(vocabulary=9)
    plain = [Source((10 + row,) * 5) for row in range(4)]
    wishes = [wish if row % 2 else replace(wish, use=((4, 5), (6,))) for row, wish in enumerate(plain)]
    together = search(model, wishes, config=config(beam=4), nbest=4)
    for row in (1, 3):
        assert as_pairs(together[row]) == as_pairs(search(model, plain, config=config(beam=4), nbest=4)[row])


def test_greedy_search_has_no_place_for_phrases(table_model: Any) -> None:
    with pytest.raises(ConfigError, match="greedy search cannot use phrases"):
        search(table_model(), [Source((10,), use=((4,),))], config=config(), greedy=True)
