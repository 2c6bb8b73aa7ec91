"""Terms whose translation is settled: where a line has one, its translation has to use what the glossary says."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path

from nmt.data.text import UNSPACED, read_lines
from nmt.errors import ConfigError, DataError

__all__ = ["Glossary"]


class Glossary:
    """Terms of the source, each with its translation.

    A term is found as whole words, whatever space stands between them, and as it is written or with a capital in front,
    as where it begins a sentence; its translation is asked for as it is written. Apostrophes and hyphens part words; in
    scripts without spaces every character is a word. Characters that look alike are alike (Unicode's form NFKC). Of the
    terms that begin at one word the longest is taken, and the search goes on behind it.

    What the regular expression ``keep`` (one of Python's) matches is its own translation, such as a link or ``{name}``,
    as often as it is there, and no term is looked for within it. Of a line that is translated in parts each is looked
    at by itself. Raises DataError as :meth:`add` does, and ConfigError for no such expression.
    """

    def __init__(self, translations: Mapping[str, str] | None = None, *, keep: str = "") -> None:
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of what Python may read otherwise
                self._keep = re.compile(keep) if keep else None
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(f"keep: {keep!r} is no regular expression: {error}") from error
        self._terms: dict[str, dict[tuple[str, ...], str]] = {}
        for term, translation in (translations or {}).items():
            self.add(term, translation)

    @classmethod
    def read(cls, path: Path | str, *, keep: str = "") -> Glossary:
        """A glossary in a file: a term a line, a tab, its translation; a term alone is kept as it is.

        Blank lines say nothing. Raises ConfigError for ``keep`` that is no regular expression; DataError, with file and
        line, for what :meth:`add` does not take, for a line of more columns, for what is no text, and for a file
        without terms.
        """
        glossary, path = cls(keep=keep), Path(path)
        for number, line in enumerate(read_lines(path), 1):
            if not line.strip():
                continue
            term, *more = line.split("\t")
            if len(more) > 1:
                raise DataError(f"{path}:{number}: {len(more) + 1} columns: there are a term and its translation")
            try:
                glossary.add(term, *(more or [term]))
            except DataError as error:
                raise DataError(f"{path}:{number}: {error}") from error
        if not glossary._terms:
            raise DataError(f"{path}: has no terms: a line is a term, a tab and its translation")
        return glossary

    def __bool__(self) -> bool:
        """Whether there is anything that it may ask for."""
        return bool(self._terms) or self._keep is not None

    def add(self, term: str, translation: str) -> None:
        """Settle one more term. Raises DataError for a blank one, for none, and for a second, other translation."""
        words, translation = tuple(_words(term)), " ".join(translation.split())
        if not words or not translation:
            raise DataError(f"no {'translation' if words else 'term'}; without the tab a term is kept as it is")
        before = self._terms.setdefault(words[0], {}).setdefault(words, translation)
        if before != translation:
            raise DataError(f'"{term.strip()}" is "{translation}" here and "{before}" before: leave one out')

    def phrases(self, text: str) -> tuple[str, ...]:
        """What a translation of ``text`` has to use: what is kept, as often as it is there, then translations of terms.

        A translation is there once, however often its term is, and where the first of its terms is.
        """
        kept: list[str] = []
        stretches = [text]
        if self._keep is not None:
            matches = [match for match in self._keep.finditer(text) if match[0].strip()]
            kept = [" ".join(match[0].split()) for match in matches]
            starts, ends = [0, *(match.end() for match in matches)], [*(match.start() for match in matches), len(text)]
            stretches = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        found: dict[str, None] = {}
        for words in map(_words, stretches):
            place = 0
            while place < len(words):
                length, translation = self._longest(words, place)
                if length:
                    found[translation] = None
                place += length or 1
        return (*kept, *(translation for translation in found if translation not in kept))

    def _longest(self, words: list[str], place: int) -> tuple[int, str]:
        """How many words the longest term at ``place`` has, and its translation; 0 where there is none."""
        first = words[place]
        longest = 0, ""
        small = _SMALL.get(first[0], first[0].lower())
        for spelt in dict.fromkeys((first, first[0].lower() + first[1:], small + first[1:])):
            for term, translation in self._terms.get(spelt, {}).items():
                if len(term) > longest[0] and words[place + 1 : place + len(term)] == [*term[1:]]:
                    longest = len(term), translation
        return longest


ZERO_WIDTH_SPACE = "\u200b"

_SMALL = {"\u0130": "i", "I": "\u0131"}
"""What Turkish capitals are in small letters."""

_ALIKE = str.maketrans("\u2019\u2010", "'-")
"""Typographic apostrophes and hyphens: NFKC leaves them as they are."""


def _words(text: str) -> list[str]:
    """Runs of letters and digits, and every other character but space by itself, each with the marks on it.

    Of characters that are not seen a zero-width space is a space, and the others are not there.
    """
    words: list[str] = []
    goes_on = after_space = False
    for character in unicodedata.normalize("NFKC", text).translate(_ALIKE):
        kind = unicodedata.category(character)
        if character.isspace() or character == ZERO_WIDTH_SPACE:
            goes_on, after_space = False, True
            continue
        if kind == "Cf":
            continue
        is_letter = kind[0] in "LN" and not UNSPACED.match(character)
        if words and not after_space and ((goes_on and is_letter) or kind[0] == "M"):
            words[-1] += character
        else:
            words.append(character)
            goes_on = is_letter
        after_space = False
    return words
