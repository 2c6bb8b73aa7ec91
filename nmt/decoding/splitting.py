"""Lines that are too long for the model, cut where it hurts least."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

__all__ = ["split_line"]

_SENTENCE_END = re.compile(
    r"""(?<=[.!?\u2026\u061f\u06d4\u0964\u0965\u1362\u104b\u17d4])["'\u2019\u201d\u00bb)\]]*\s+  # spaced scripts
        | (?<=[\u3002\uff01\uff1f\uff0e])[\u201d\u300d\u300f\uff09]*\s*                          # unspaced ones
    """,
    re.VERBOSE,
)
_WHITE_SPACE = re.compile(r"\s+")


def split_line(line: str, longest: int, length: Callable[[str], int], *, together: int = 0) -> list[str]:
    """Cut ``line`` into parts of at most ``longest`` pieces as ``length`` counts them; joined they are the line.

    Cuts are made behind the ends of sentences; a sentence that is too long is cut at white space, a word that is too
    long anywhere, before a combining mark only where it has nothing else. Neighbouring sentences, and the words of one
    that is cut, stay in one part while it has no more than ``together`` pieces (``longest``, if 0). Only a single
    character is left as it is, however many pieces it has.
    """
    together = min(together or longest, longest)
    parts: list[str] = []
    run: list[str] = []  # of sentences that fit
    for sentence in _cut(line, _SENTENCE_END):
        if length(sentence) <= longest:
            run.append(sentence)
            continue
        words = [piece for word in _cut(sentence, _WHITE_SPACE) for piece in _halves(word, together, length)]
        parts += _packed(run, together, length) + _packed(words, together, length)
        run = []
    parts += _packed(run, together, length)
    # A tokenizer may see more in two units together than in each alone.
    return [piece for part in parts for piece in _halves(part, longest, length)]


def _packed(units: Sequence[str], together: int, length: Callable[[str], int]) -> list[str]:
    """Neighbouring units put together while they have no more than ``together`` pieces."""
    parts: list[str] = []
    room = 0
    for unit in units:
        size = length(unit)
        if parts and size <= room:
            parts[-1] += unit
            room -= size
        else:
            parts.append(unit)
            room = together - size
    return parts


def _cut(text: str, end: re.Pattern[str]) -> Iterator[str]:
    """``text`` cut behind every match of ``end``; nothing is lost."""
    start = 0
    for match in end.finditer(text):
        if start < match.end():
            yield text[start : match.end()]
            start = match.end()
    if start < len(text):
        yield text[start:]


def _halves(text: str, longest: int, length: Callable[[str], int]) -> Iterator[str]:
    """``text`` halved, and its halves, until all fit."""
    if len(text) < 2 or length(text) <= longest:
        yield text
        return
    half = len(text) // 2
    right = next((place for place in range(half, len(text)) if not unicodedata.combining(text[place])), None)
    left = next((place for place in range(half - 1, 0, -1) if not unicodedata.combining(text[place])), None)
    middle = right or left or half
    yield from _halves(text[:middle], longest, length)
    yield from _halves(text[middle:], longest, length)
