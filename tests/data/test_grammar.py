"""The engine of the grammar, on grammars of a few lines: it knows no language but what the tables say."""

from __future__ import annotations

import random
import tomllib

import pytest

from nmt.data.grammar import Grammar, SyntheticPair
from nmt.errors import DataError

SMALL = """
[features]
g = { m = 1, f = 1 }
n = { s = 1, p = 1 }

[en]
vowels = "aeiou"
spoken_vowel = ["hour"]
spoken_consonant = []

[fr]
vowels = "aeiouh"
spoken_vowel = []
spoken_consonant = ["héros"]
[fr.contractions]
"de le" = "du"

[forms.noun.en]
parts = ["s", "p"]
p = { of = "s", endings = { y = "ies", "" = "s" } }
[forms.noun.fr]
parts = ["s", "p"]
p = { of = "s", endings = { al = "aux", s = "s", "" = "s" } }
[forms.article.fr]
parts = ["ms", "fs", "mp", "fp"]

[[noun]]
tags = "m"
words = [["horse", "cheval"], ["hero heroes", "héros"]]
[[noun]]
tags = "f"
words = [["city", "ville", "place"]]
[[article]]
words = [["the", "le|l' la|l' les les"]]
"""

PHRASE = """
[[symbol]]
name = "Phrase {n}"
rules = [{ A = "article", N = "noun {g}", en = "A N.{n}", fr = "A.{g}{n} N.{n}" }]
"""

SENTENCE = """
[[symbol]]
name = "Sentence"
rules = [{ P = "Phrase {n}", en = "P ?", fr = "P ?" }]
"""


def grammar(*more: str) -> Grammar:
    return Grammar(tomllib.loads("\n".join([SMALL, *more])))


def drawn(grammar: Grammar, count: int = 300) -> set[SyntheticPair]:
    sample = grammar.sampler(random.Random(1).random)
    return {sample() for _ in range(count)}


def test_words_agree_and_are_linked_to_themselves() -> None:
    assert drawn(grammar(PHRASE, SENTENCE)) == {
        SyntheticPair("The horse?", "Le cheval?", ((0, 0), (1, 1))),
        SyntheticPair("The horses?", "Les chevaux?", ((0, 0), (1, 1))),
        SyntheticPair("The hero?", "Le héros?", ((0, 0), (1, 1))),
        SyntheticPair("The heroes?", "Les héros?", ((0, 0), (1, 1))),
        SyntheticPair("The city?", "La ville?", ((0, 0), (1, 1))),
        SyntheticPair("The cities?", "Les villes?", ((0, 0), (1, 1))),
    }


def only(rule: str, *more: str) -> SyntheticPair:
    """What a grammar of one rule and one outcome derives."""
    (pair,) = drawn(grammar(f'[[symbol]]\nname = "Sentence"\nrules = [{rule}]', *more), 20)
    return pair


@pytest.mark.parametrize(
    "rule, pair",
    [
        # literals: linked by a mark, or not at all
        ('{ en = "a~x b c~y", fr = "d~y e~x" }', ("A b c", "D e", ((0, 1), (2, 0)))),
        ('{ en = "not~x go", fr = "ne~x va pas~x" }', ("Not go", "Ne va pas", ((0, 0), (0, 2)))),
        # linked to the word in a slot
        ('{ N = "noun f", en = "go~N N.s", fr = "N.s" }', ("Go city", "Ville", ((0, 0), (1, 0)))),
        # elision joins two words and their links; a hero is spared
        ('{ en = "the~x house~y", fr = "le|l\'~x homme~y" }', ("The house", "L'homme", ((0, 0), (1, 0)))),
        ('{ en = "the~x hero~y", fr = "le|l\'~x héros~y" }', ("The hero", "Le héros", ((0, 0), (1, 1)))),
        # contraction, but not of what is elided
        ('{ en = "of~x the~y x~z", fr = "de~x le|l\'~y roi~z" }', ("Of the x", "Du roi", ((0, 0), (1, 0), (2, 1)))),
        (
            '{ en = "of~x the~y x~z", fr = "de~x le|l\'~y homme~z" }',
            ("Of the x", "De l'homme", ((0, 0), (1, 1), (2, 1))),
        ),
        # the other language has its own rules
        ('{ en = "a|an hour", fr = "le" }', ("An hour", "Le", ())),
        ('{ en = "a|an city", fr = "le" }', ("A city", "Le", ())),
        # joined to the word before, or to the next
        ('{ en = "he~x go~y , so", fr = "va~y -il~x , b" }', ("He go, so", "Va-il, b", ((0, 0), (1, 0)))),
        ('{ en = "twenty-~x two~y", fr = "vingt-~x deux~y" }', ("Twenty-two", "Vingt-deux", ((0, 0),))),
    ],
)
def test_rules(rule: str, pair: tuple[object, ...]) -> None:
    assert only(rule) == pair


def test_order_is_free_and_a_word_may_stand_twice() -> None:
    rule = '{ A = "noun place", B = "article", en = "A.s B", fr = "B.fs A.s B.fs" }'
    assert only(rule) == ("City the", "La ville la", ((0, 1), (1, 0), (1, 2)))


def test_weights_are_kept_whatever_the_features() -> None:
    """The first rule stands for six words and the second for one, and yet they share alike."""
    rules = '{ weight = 1, N = "noun {g}", en = "N.{n}", fr = "N.{n}" }, { weight = 1, en = "x", fr = "x" }'
    sample = grammar(f'[[symbol]]\nname = "Sentence"\nrules = [{rules}]').sampler(random.Random(1).random)
    share = sum(sample().source == "X" for _ in range(4000)) / 4000
    assert share == pytest.approx(0.5, abs=0.03)


def test_the_first_words_of_a_list_come_most_often() -> None:
    rule = '{ N = "noun m", en = "N.s", fr = "N.s" }'
    sample = grammar(f'[[symbol]]\nname = "Sentence"\nrules = [{rule}]').sampler(random.Random(1).random)
    share = sum(sample().source == "Horse" for _ in range(4000)) / 4000
    assert share == pytest.approx(0.5**0.5, abs=0.03)


def test_alternatives_that_no_word_fits_are_dropped() -> None:
    assert only('{ N = "noun place {g}", en = "N.s", fr = "N.s" }') == ("City", "Ville", ((0, 0),))


@pytest.mark.parametrize(
    "rules, message",
    [
        ('{ N = "noun n", en = "N", fr = "N" }', "rules that derive nothing"),
        ('{ N = "Nobody", en = "N", fr = "N" }', "rules that derive nothing"),
        ('{ N = "noun", en = "N.q", fr = "N.s" }', "rules that derive nothing"),
        ('{ where = { g = "m" }, en = "x", fr = "x" }', "limits g, which it lacks"),
        ('{ N = "Sentence", en = "N N", fr = "N" }, { en = "x", fr = "x" }', None),
        ('{ N = "Sentence", en = "N", fr = "x" }, { en = "x", fr = "x" }', "once a side"),
    ],
)
def test_a_grammar_that_cannot_be_meant_is_refused(rules: str, message: str | None) -> None:
    if message is None:
        assert drawn(grammar(f'[[symbol]]\nname = "Sentence"\nrules = [{rules}]'), 1)
        return
    with pytest.raises(DataError, match=message):
        grammar(f'[[symbol]]\nname = "Sentence"\nrules = [{rules}]')


def test_a_word_with_too_many_parts_is_refused() -> None:
    with pytest.raises(DataError, match="'a b c' has more than its parts s p"):
        grammar('[[noun]]\nwords = [["a b c", "x"]]', SENTENCE, PHRASE)
