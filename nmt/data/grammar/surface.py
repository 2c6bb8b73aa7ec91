"""From a row of tokens to the words of a line: elision, contraction, joined words, a capital at the front.

One pass from left to right, driven by the tables of ``surface.toml``. What a word begins with does not depend on which
of its two shapes it takes, so one look ahead is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Cell", "Surface", "Token"]

Cell = list[int]
"""What a piece of the one language shares with its translation; filled with the places of its French words."""

Token = tuple[str, Cell | None]
"""The text of a token as the grammar has it (``le|l'``), and its cell; None where it has no counterpart."""


class _Special(NamedTuple):
    """How a token that is not simply a word of its own is written.

    ``before_vowel`` replaces ``text`` before a vowel, or before the words of ``only`` where that is given; ``joins``
    says that it is joined to the word before, and ``after_vowel``, where there is one, what it is after a and e.
    """

    text: str
    before_vowel: str
    only: frozenset[str] | None
    joins: bool
    after_vowel: str


class Surface:
    """How one language is written; ``tokens`` are all that the grammar can produce."""

    def __init__(self, table: Mapping[str, Any], tokens: Iterable[str]) -> None:
        known = sorted(set(tokens))
        self._vowels = frozenset(token for token in known if _begins_with_vowel(token, table))
        self._specials = {token: special for token in known if (special := _special(token, table)) is not None}
        self._contractions = {
            (first, second): contracted
            for pair, contracted in table.get("contractions", {}).items()
            for first, second in [pair.split()]
        }

    def write(self, tokens: Sequence[Token]) -> tuple[list[str], list[int]]:
        """The words of the line, and for every token the place of the word it is part of."""
        words: list[str] = []
        places: list[int] = []
        joins = False
        specials, contractions = self._specials, self._contractions
        last = len(tokens) - 1
        for position, (text, _) in enumerate(tokens):
            special = specials.get(text)
            if special is not None:
                joins = joins or special.joins
                text = self._shape(special, words, tokens[position + 1][0] if position < last else "")
            if joins:
                words[-1] += text
            elif words and (words[-1], text) in contractions:
                words[-1] = contractions[words[-1], text]
            else:
                words.append(text)
            joins = special is not None and text[-1] in "'-"
            places.append(len(words) - 1)
        words[0] = words[0][0].upper() + words[0][1:]
        return words, places

    def _shape(self, special: _Special, words: Sequence[str], following: str) -> str:
        """How a special token is written between the words so far and the token that follows."""
        if special.only is not None:
            return special.before_vowel if following in special.only else special.text
        if special.after_vowel:
            return special.after_vowel if words[-1][-1] in "ae" else special.text
        return special.before_vowel if following in self._vowels else special.text


def _special(token: str, table: Mapping[str, Any]) -> _Special | None:
    """What is special about a token; None for a word like any other."""
    text, _, before_vowel = token.partition("|")
    joins = token[0] in "'-,.?"
    if not before_vowel and not joins and text[-1] not in "'-":
        return None
    only = table.get("only_before", {}).get(token)
    return _Special(
        text=text,
        before_vowel=before_vowel or text,
        only=frozenset(only) if only is not None else None,
        joins=joins,
        after_vowel=table.get("after_vowel", {}).get(token, ""),
    )


def _begins_with_vowel(token: str, table: Mapping[str, Any]) -> bool:
    text = token.partition("|")[0]
    if text in table["spoken_vowel"]:
        return True
    return text[0].lower() in table["vowels"] and text not in table["spoken_consonant"]
