"""n-best lists in Moses form, anybody's, with our scores added: ``id ||| text ||| features ||| score``.

An id names a line of the source, counted from 0; the hypotheses of a line stand together, and the lists in the order
of the lines. Other fields may stand behind the text (links, as Marian has them) and behind the score (links, as Moses
has them). The features are the first field behind the text that names one (``LM0= -1``, or ``lm: -1`` as Moses once
wrote) and has a number behind it, which is the score; without any names they are the field right behind the text. All
else stays as it is, to the last space.

Source: "n-best list" in the manual of Moses (Koehn et al. 2007).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nmt.decoding.scorer import PairScore, Scorer
from nmt.errors import DataError

__all__ = ["Entry", "NbestReader", "rescore"]

BAR = "|||"
_BAR = re.compile(r"(?<![^ ])\|\|\|(?![^ ])")
_NAME = re.compile(r"(?<!\S)[^\s=:]+[=:]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One line of a list; ``number`` is the line's, from 1, ``id`` that of the source's line, from 0.

    ``fields`` are what stands between the bars, spaces and all; the one of the features is ``place``, the next one is
    the score.
    """

    number: int
    id: int
    text: str
    fields: tuple[str, ...]
    place: int

    def has_feature(self, name: str) -> bool:
        """Whether the line has a feature of that name already."""
        return any(word.startswith(f"{name}=") for word in self.fields[self.place].split())

    def with_feature(self, name: str, value: float, score: float | None = None) -> str:
        """The line with one more feature, and with another score where one is given."""
        fields = list(self.fields)
        features = fields[self.place]
        fields[self.place] = f"{features.rstrip()} {name}= {value:z.4f}{' ' if features[-1:] == ' ' else ''}"
        if score is not None:
            old = fields[self.place + 1]
            fields[self.place + 1] = old.replace(old.strip(), f"{score:z.4f}")
        return BAR.join(fields)


class NbestReader:
    """Reads the lines of one list over a source of ``num_sources`` lines; ``name`` stands for it in messages."""

    def __init__(self, name: str, num_sources: int) -> None:
        self.name = name
        self.num_sources = num_sources
        self._last = 0

    def __call__(self, line: str, number: int) -> Entry:
        """Line ``number`` of the list. Raises DataError, with file and line, for what is no line of one."""
        where = f"{self.name}:{number}"
        fields = _BAR.split(line)
        if len(fields) < 4:
            raise DataError(f"{where}: {len(fields)} fields: a line is id {BAR} text {BAR} features {BAR} score")
        digits = fields[0].strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise DataError(f"{where}: the id {digits[:20]!r} is not a number: it names a line of the source, from 0")
        if int(digits) >= self.num_sources:
            raise DataError(
                f"{where}: id {int(digits)}, but the source has {self.num_sources} lines, which are counted from 0"
            )
        if int(digits) < self._last:
            raise DataError(
                f"{where}: id {int(digits)} behind id {self._last}: lists stand in the order of the source's lines"
            )
        self._last = int(digits)
        text = fields[1].removeprefix(" ").removesuffix(" ")
        return Entry(number, self._last, text, tuple(fields), _features(fields, where))


def _features(fields: Sequence[str], where: str) -> int:
    """Which field has the features, the score being the next."""
    scored = [place for place in range(2, len(fields) - 1) if _NUMBER.fullmatch(fields[place + 1].strip()) is not None]
    named = [place for place in scored if _NAME.search(fields[place])]
    if not named and 2 not in scored:
        raise DataError(f"{where}: no features with a number behind them, which would be the score")
    return named[0] if named else 2


def rescore(
    windows: Iterable[Sequence[Entry]], scorer: Scorer, sources: Sequence[str], *, feature: str, rerank: bool = False
) -> Iterator[list[str]]:
    """The lines with the log-probability our model gives them as ``feature``, in the order that they came in.

    With ``rerank``, each list best first by the normalised score, which stands as its score; of equals the earlier
    comes first. The lines of a list are then held back until the next one begins. Raises what scoring does.
    """
    for window in _whole_lists(windows) if rerank else windows:
        scores = scorer.score_window([(sources[one.id], one.text) for one in window], first=window[0].number)
        rows: list[tuple[Entry, PairScore]] = list(zip(window, scores, strict=True))
        if rerank:
            rows.sort(key=lambda row: (row[0].id, -row[1].score))
        yield [
            entry.with_feature(feature, score.log_probability, score.score if rerank else None) for entry, score in rows
        ]


def _whole_lists(windows: Iterable[Sequence[Entry]]) -> Iterator[list[Entry]]:
    """The same entries in windows that end with the end of a list."""
    held: list[Entry] = []
    for window in windows:
        held += window
        lists = [list(group) for _, group in itertools.groupby(held, key=lambda one: one.id)]
        held = lists.pop() if lists else []
        if lists:
            yield [one for group in lists for one in group]
    if held:
        yield held
