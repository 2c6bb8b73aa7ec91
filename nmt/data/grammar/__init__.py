"""A synchronous grammar of English and French, kept as data: the words and rules are the TOML files in this folder.

========================  =========================================================================================
``nouns.toml`` ...        the words: nouns, adjectives, verbs, numbers, and all others in ``words.toml``
``forms.toml``            how the forms of a word are made from its principal parts
``phrases.toml`` ...      the rules: noun phrases (where the notation is explained), clauses, sentences, numbers
``surface.toml``          elision, contraction, and what is joined to its neighbour
========================  =========================================================================================

The code beside them knows no English and no French: :mod:`~nmt.data.grammar.lexicon` makes the forms of words,
:mod:`~nmt.data.grammar.rules` multiplies the rules out over their features, :mod:`~nmt.data.grammar.surface` writes
tokens as text, and :class:`Grammar` here draws from the whole. Everything is worked out when the grammar is loaded, so
that to draw a sentence is a few choices and some joining of lists.

What is derived together is linked: the word in a slot to itself, marked literals to each other. Words are drawn so that
the first in a list come most often, as in any language.
"""

from __future__ import annotations

import itertools
import tomllib
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from nmt.data.grammar.lexicon import LANGUAGES, Lexicon, Word
from nmt.data.grammar.rules import Item, Rule, multiply_out
from nmt.data.grammar.surface import Cell, Surface, Token
from nmt.errors import DataError

__all__ = ["Grammar", "SyntheticPair"]

START = "Sentence"

Row = list[Token]
Part = tuple[str, Item]
"""Something that stands in a rule, with its language."""
Leaf = tuple[tuple[str, ...], ...]
"""A word as one rule needs it: the tokens of each of its parts."""


class SyntheticPair(NamedTuple):
    """A sentence, its translation, and which words are linked.

    ``links`` are places in ``source.split()`` and ``target.split()``, counted from 0, in ascending order. What has
    grown together (``l'homme``, ``du``) is linked to the counterparts of both its halves.
    """

    source: str
    target: str
    links: tuple[tuple[int, int], ...]


class _Symbol:
    """A symbol ready to be drawn from: its alternatives, and their weights added up."""

    __slots__ = ("alternatives", "sums")

    def __init__(self) -> None:
        self.sums: list[float] = []
        self.alternatives: list[_Alternative] = []


class _Alternative(NamedTuple):
    """A rule ready to be used.

    It has numbered parts: those of ``fixed``, which never change; those of a word drawn from each of ``leaves``; the
    English and the French of each of ``symbols``. ``english`` and ``french`` say which parts make up the two sides.
    """

    fixed: list[Row]
    leaves: list[list[Leaf]]
    symbols: list[_Symbol]
    english: list[int]
    french: list[int]


class Grammar:
    """The grammar, compiled. That takes a moment, so :meth:`load` does it once."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        """Compile the merged tables of the TOML files; raises DataError where they do not fit together."""
        self.lexicon = Lexicon(tables)
        self._leaves: dict[tuple[str, tuple[Part, ...]], list[Leaf]] = {}
        self.rules = multiply_out(tables, self.lexicon, self._has_forms, START)
        self._symbols = {name: _Symbol() for name in self.rules}
        for name, rules in self.rules.items():
            self._symbols[name].alternatives = [self._compile(rule) for rule in rules]
            self._symbols[name].sums = list(itertools.accumulate(rule.weight for rule in rules))[:-1]
        self._surfaces = [Surface(tables[language], self.tokens(language)) for language in LANGUAGES]

    @staticmethod
    @cache
    def load() -> Grammar:
        """The grammar that comes with the package."""
        tables: dict[str, Any] = {}
        files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".toml")]
        for file in sorted(files, key=lambda file: file.name):
            for key, value in tomllib.loads(file.read_text(encoding="utf-8")).items():
                tables[key] = tables[key] + value if key in tables else value
        return Grammar(tables)

    def tokens(self, language: str) -> set[str]:
        """Every token that a line of the language can be made of, as the grammar has it (``le|l'``)."""
        found: set[str] = set()
        for (_, parts), leaves in self._leaves.items():
            for number, (side, _) in enumerate(parts):
                if side == language:
                    found.update(token for leaf in leaves for token in leaf[number])
        for rules in self.rules.values():
            found.update(item.text for rule in rules for item in rule.sides[language] if item.text)
        return found

    def sampler(self, random: Callable[[], float], symbol: str = START) -> Callable[[], SyntheticPair]:
        """A function that draws a pair at every call; ``random`` gives numbers from 0 up to but not 1."""
        start = self._symbols[symbol]
        finish = self._finish

        def expand(symbol: _Symbol) -> tuple[Row, Row]:
            fixed, leaves, symbols, english, french = symbol.alternatives[bisect(symbol.sums, random())]
            parts = fixed.copy()
            for words in leaves:
                cell: Cell = []
                chance = random()
                for tokens in words[int(chance * chance * len(words))]:  # the first in a list come most often
                    parts.append([(token, cell) for token in tokens])
            for inner in symbols:
                parts += expand(inner)
            source: Row = []
            for number in english:
                source += parts[number]
            target: Row = []
            for number in french:
                target += parts[number]
            return source, target

        return lambda: finish(*expand(start))

    def _finish(self, source: Row, target: Row) -> SyntheticPair:
        """Both rows as text, and the links that their cells imply."""
        english, french = self._surfaces
        target_words, places = french.write(target)
        for (_, cell), place in zip(target, places, strict=True):
            if cell is not None:
                cell.append(place)
        source_words, places = english.write(source)
        links = {
            (place, counterpart)
            for (_, cell), place in zip(source, places, strict=True)
            if cell is not None
            for counterpart in cell
        }
        return SyntheticPair(" ".join(source_words), " ".join(target_words), tuple(sorted(links)))

    def _compile(self, rule: Rule) -> _Alternative:
        """A rule with its words looked up and its parts numbered."""
        owners = rule.owners()
        fixed = owners.pop("", [])
        words = {owner: parts for owner, parts in owners.items() if rule.slots.get(owner) not in self._symbols}
        inner = {owner: parts for owner, parts in owners.items() if owner not in words}
        for owner, parts in inner.items():
            if [language for language, _ in parts] != list(LANGUAGES) or any(item.form for _, item in parts):
                raise DataError(f"the grammar's rule {rule.symbol} must have {rule.slots[owner]} once a side, as it is")
        in_order = itertools.chain(fixed, *words.values(), *inner.values())
        numbers = {part: number for number, part in enumerate(in_order)}
        english, french = ([numbers[side, item] for item in rule.sides[side]] for side in LANGUAGES)
        return _Alternative(
            fixed=[[(item.text, None)] for _, item in fixed],
            leaves=[self._leaf(rule.slots.get(owner, ""), parts) for owner, parts in words.items()],
            symbols=[self._symbols[rule.slots[owner]] for owner in inner],
            english=english,
            french=french,
        )

    def _has_forms(self, rule: Rule, slot: str) -> bool:
        """Whether some words have the forms that a rule asks for in a slot."""
        return bool(self._leaf(rule.slots[slot], rule.owners().get(slot, ())))

    def _leaf(self, query: str, parts: Sequence[Part]) -> list[Leaf]:
        """The words a query finds, as parts; those that lack a form are left out. Without a query, the literals."""
        key = (query, tuple(parts))
        if key not in self._leaves:
            if not query:
                self._leaves[key] = [tuple((item.text,) for _, item in parts)]
            else:
                found = ([_tokens(word, part) for part in parts] for word in self.lexicon.find(query))
                self._leaves[key] = [tuple(leaf) for leaf in found if all(leaf)]
        return self._leaves[key]


def _tokens(word: Word, part: Part) -> tuple[str, ...]:
    """The tokens of one part of a word; none where it has no such form."""
    language, item = part
    if item.text:
        return (item.text,)
    forms = word.forms[language]
    return forms.get(item.form, ()) if item.form else next(iter(forms.values()), ())
