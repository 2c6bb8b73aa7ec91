"""Where a model looks: attention between the words of sentence pairs, its own translations or somebody else's.

A given translation is forced: the model reads it word by word and is asked, at each, where it looks to predict the
next. The attention of piece t is thus the attention from which piece t was predicted, as in search.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from nmt.alignment.links import Links, Method, Symmetrization, extract, symmetrize, to_words
from nmt.data.tokenizer import Tokenizer
from nmt.decoding.translator import LONGEST, Translation, Translator
from nmt.errors import ConfigError, check_choice

__all__ = ["Aligner", "Alignment", "LinkRule", "Linked", "Units"]

Units = Literal["words", "pieces"]
"""What is aligned: words as ``line.split()`` gives them, or the subword pieces themselves."""

WINDOW = 512
"""Pairs that are sorted by length together."""

BATCH_TOKENS = 4096
"""The most source and target tokens of a batch, padding counted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alignment:
    """A sentence pair and where the model looked: ``attention[t, s]`` is what target word t gave source word s.

    A row sums to at most 1: what went to the source's end of sentence is left out. A pair with a blank side has no
    attention: a matrix without rows, or without columns, or of zeros.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    attention: Float[np.ndarray, "T S"]

    @staticmethod
    def of(translation: Translation, place: int = 0, *, units: Units = "words") -> Alignment:
        """Where the model looked when it wrote a translation's hypothesis at ``place``, the best one being at 0.

        Raises ConfigError where the translator was not asked for attention, and for ``units`` that are none.
        """
        check_choice("units", units, get_args(Units))
        source = _spelt(units, translation.source_pieces, translation.source, translation.source_words)
        if not translation.hypotheses:
            return _unseen(source, _Side((), ()))
        found = translation.hypotheses[place]
        if found.attention is None:
            raise ConfigError("an alignment needs attention: translate with attention=True")
        pieces, words = translation.target_pieces[place], translation.target_words[place]
        return _alignment(source, _spelt(units, pieces, found.text, words), found.attention.astype(np.float64))


@dataclass(frozen=True)
class LinkRule:
    """How links are read off attention: see :func:`~nmt.alignment.links.extract` and ``symmetrize``.

    Raises ConfigError for a method or a symmetrization that is none.
    """

    method: Method = "grow-diag"
    threshold: float = 0.3
    symmetrization: Symmetrization = "grow-diag-final-and"

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Method))
        check_choice("symmetrization", self.symmetrization, get_args(Symmetrization))

    def __call__(self, forward: Alignment, backward: Alignment | None = None) -> Links:
        """The links of an alignment, joined with those of the pair turned round where it is given."""
        links = extract(forward.attention, self.method, threshold=self.threshold)
        if backward is None:
            return links
        turned = extract(backward.attention, self.method, threshold=self.threshold)
        return symmetrize(links, frozenset((source, target) for target, source in turned), self.symmetrization)

    def sign(self, *, both: bool = False) -> str:
        """The rule for a signature, such as ``threshold[0.3]+union``; ``both`` for two directions."""
        method = f"threshold[{self.threshold:g}]" if self.method == "threshold" else self.method
        return f"{method}+{self.symmetrization}" if both else method


@dataclass(frozen=True)
class Linked:
    """An alignment and its links; ``translation`` is the target side as text, given or the model's own."""

    alignment: Alignment
    links: Links
    translation: str


@dataclass(frozen=True)
class _Side:
    """One side of a pair: what is aligned of it, which of these each piece belongs to, and its ids for the model."""

    words: tuple[str, ...]
    word_of: Sequence[int]
    ids: Sequence[int] = ()


class Aligner:
    """Attention between words by one model; the translator says which, and searches where there is no translation.

    ``num_skipped`` counts the pairs that were too long to be read. Raises ConfigError for ``units`` that are none.
    """

    def __init__(self, translator: Translator, *, units: Units = "words") -> None:
        check_choice("units", units, get_args(Units))
        self.translator = translator
        self.units = units
        self.num_skipped = 0

    @staticmethod
    def load(
        folder: Path | str, *, units: Units = "words", which: str = "best", device: str = "auto", **decoding: Any
    ) -> Aligner:
        """The aligner in a run folder; the arguments and errors are those of ``Translator.load``."""
        return Aligner(Translator.load(folder, which=which, device=device, **decoding), units=units)

    def align(self, pairs: Iterable[tuple[str, str]], *, first: int = 1) -> Iterator[Alignment]:
        """One alignment a (source, target) pair of lines, in order; pairs are read a window ahead.

        A pair that is longer than the model can read at once has no attention: a warning is logged, by its number, that
        of the ``first`` being given.
        """
        rest = iter(pairs)
        tokenizers = self.translator.tokenizers
        while window := list(islice(rest, WINDOW)):
            sides = [
                (self._side(tokenizers.source, source), self._side(tokenizers.target, target))
                for source, target in window
            ]
            yield from self._window(sides, first)
            first += len(window)

    def translate(self, lines: Iterable[str], *, first: int = 1) -> Iterator[tuple[Translation, Alignment]]:
        """The model's own translation of each line, and where it looked when it wrote it.

        ``first`` is the number of the first line, for messages.
        """
        for translation in self.translator.translate(lines, attention=True, first=first):
            yield translation, Alignment.of(translation, units=self.units)

    def link(
        self,
        lines: Iterable[str],
        targets: Iterable[str] | None = None,
        *,
        rule: LinkRule = LinkRule(),
        reverse: Aligner | None = None,
        first: int = 1,
    ) -> Iterator[Linked]:
        """Links between ``lines`` and ``targets``, or the model's own translations where there are none.

        ``reverse`` is an aligner of the other direction: the links of both are joined. There have to be as many
        targets as lines. ``first`` is the number of the first line, for messages.
        """
        results: Iterator[tuple[Alignment, tuple[str, str]]]
        if targets is None:
            results = ((alignment, (one.source, one.text)) for one, alignment in self.translate(lines, first=first))
        else:
            pairs, texts = tee(zip(lines, targets, strict=True))
            results = zip(self.align(pairs, first=first), texts, strict=True)
        if reverse is None:
            for alignment, (_, text) in results:
                yield Linked(alignment, rule(alignment), text)
            return
        results, again = tee(results)
        backward = reverse.align(((target, source) for _, (source, target) in again), first=first)
        for (alignment, (_, text)), turned in zip(results, backward, strict=True):
            yield Linked(alignment, rule(alignment, turned), text)

    def _window(self, sides: Sequence[tuple[_Side, _Side]], first: int) -> list[Alignment]:
        """Some pairs, in batches of similar length; those with a blank side are not shown to the model."""
        found: dict[int, Alignment] = {}
        real = []
        for row, (source, target) in enumerate(sides):
            if source.ids and target.ids and self._fits(first + row, source, target):
                real.append(row)
            else:
                found[row] = _unseen(source, target)
        from nmt.decoding.scoring import evaluating

        real.sort(key=lambda row: (len(sides[row][0].ids), len(sides[row][1].ids)), reverse=True)
        with evaluating(self.translator.model.modules()):
            while real:
                source, target = sides[real[0]]
                room = BATCH_TOKENS // (len(source.ids) + len(target.ids) + 2)
                count = max(1, min(room, self.translator.decoding.batch_size))
                batch, real = real[:count], real[count:]
                for row, alignment in zip(batch, self._batch([sides[row] for row in batch]), strict=True):
                    found[row] = alignment
        return [found[row] for row in range(len(sides))]

    def _batch(self, sides: Sequence[tuple[_Side, _Side]]) -> list[Alignment]:
        """Pairs forced through the model together."""
        import torch

        from nmt.data.batching import collate

        tokenizer, device = self.translator.tokenizers.target, self.translator.device
        batch = collate(
            [(source.ids, target.ids) for source, target in sides],
            range(len(sides)),
            pad_id=tokenizer.pad_id,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
        ).to(device)
        with torch.inference_mode():
            attention = self.translator.model(batch, attention=True).attention
        assert attention is not None, "the model was asked for its attention"
        return [
            _alignment(source, target, row[: len(target.ids) + 1, : len(source.ids) + 1])
            for row, (source, target) in zip(attention.double().cpu().numpy(), sides, strict=True)
        ]

    def _side(self, tokenizer: Tokenizer, line: str) -> _Side:
        """A line as it came."""
        ids, word_of = tokenizer.encode_words(line)
        return _spelt(self.units, tokenizer.pieces(ids), line, word_of, ids)

    def _fits(self, number: int, source: _Side, target: _Side) -> bool:
        """Whether the model can read a pair at once. Says so the first time that one cannot, and counts the others."""
        longest_source, longest_target = (
            self.translator.longest_source,
            self.translator.engine.longest_target or LONGEST,
        )
        if len(source.ids) < longest_source and len(target.ids) < longest_target:
            return True
        if not self.num_skipped:
            _log.warning(
                "line %d has %d source and %d target pieces, more than the %d and %d read at once: it gets no links "
                "(said once)",
                number,
                len(source.ids),
                len(target.ids),
                longest_source - 1,
                longest_target - 1,
            )
        self.num_skipped += 1
        return False


def _spelt(units: Units, pieces: Sequence[str], text: str, word_of: Sequence[int], ids: Sequence[int] = ()) -> _Side:
    """Pieces and the text they spell, with the word that each belongs to."""
    if units == "pieces":
        return _Side(tuple(pieces), range(len(pieces)), ids)
    return _Side(tuple(text.split()), word_of, ids)


def _alignment(source: _Side, target: _Side, attention: Float[np.ndarray, "T S"]) -> Alignment:
    """Attention between pieces as attention between words."""
    if not source.words or not target.words:
        return _unseen(source, target)
    words = to_words(attention, source.word_of, target.word_of, len(source.words), len(target.words))
    return Alignment(source.words, target.words, words)


def _unseen(source: _Side, target: _Side) -> Alignment:
    """A pair that the model was not shown."""
    return Alignment(source.words, target.words, np.zeros((len(target.words), len(source.words))))
