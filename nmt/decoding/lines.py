"""A line as what is searched for: its parts, of which there is one unless it is too long, and what is found for them.

A line becomes token ids of the source; what its translation has to be like becomes ids of the target. What search finds
becomes text again, and the hypotheses of several parts become one of the line.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from nmt.config import DecodingConfig
from nmt.data.text import in_word
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.constraints import used
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty
from nmt.decoding.request import Request, Source
from nmt.decoding.splitting import split_line
from nmt.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

__all__ = ["Counts", "Lines", "Part", "Translation"]

TOGETHER = 256
"""Pieces of the parts of a line that is too long; a sentence in it is cut only where it is too long itself."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Translation:
    """A line and its translations, best first; a blank line has none.

    ``source_tokens`` and ``source_pieces`` are the line as the model read it, EOS left out; ``target_pieces`` has for
    each hypothesis its tokens' pieces, where ``words`` or attention were asked for. ``parts`` is the number of parts a
    line was cut into because it was too long. The n-th hypothesis of such a line is made of the n-th of each
    part; its log-probability is their sum, its attention theirs along the diagonal.

    Where ``words`` or attention were asked for, ``source_words`` names for each source token the word of
    ``source.split()`` it comes from, and ``target_words`` for each hypothesis and each of its tokens the word of
    ``text.split()``. ``unmet`` has for each hypothesis the phrases it should have used and does not.
    """

    source: str
    source_tokens: tuple[int, ...]
    source_pieces: tuple[str, ...]
    hypotheses: tuple[Hypothesis, ...]
    parts: int = 1
    source_words: tuple[int, ...] = ()
    target_words: tuple[tuple[int, ...], ...] = ()
    unmet: tuple[tuple[str, ...], ...] = ()
    target_pieces: tuple[tuple[str, ...], ...] = ()

    @property
    def text(self) -> str:
        """The best translation; empty for a blank line."""
        return self.hypotheses[0].text if self.hypotheses else ""


@dataclass(frozen=True)
class Part:
    """What is searched for on its own: a line, or a part of one that was too long.

    ``number`` is that of the line in the whole input, from 1; ``words`` says which word of the line a token comes from
    (empty where nobody asks); ``joint`` stands between this part's translation and the next one's; ``text`` is that of
    the source, ``terms`` are the phrases that a glossary has this part use.
    """

    number: int
    source: Source
    words: tuple[int, ...] = ()
    joint: str = ""
    text: str = ""
    terms: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the model reads, without EOS."""
        return self.source.tokens


@dataclass
class Counts:
    """What a translator met so far: lines cut into parts, lines cut off, phrases that could not be used."""

    split: int = 0
    cut: int = 0
    unmet: int = 0


class Lines:
    """Makes parts of lines, of at most ``longest`` tokens with EOS, and translations of what was found for them.

    ``longest_target`` is the longest that a translation may be, EOS counted, if the model has such a limit. ``learnt``
    is how long the sentences were that it was trained on, if they were of bounded length: where lines that are too long
    are split, one that is longer than that and has several sentences is translated in parts, too.
    """

    def __init__(
        self,
        tokenizers: Tokenizers,
        decoding: DecodingConfig,
        longest: int,
        counts: Counts,
        longest_target: int | None = None,
        learnt: int = 0,
    ) -> None:
        self.tokenizers = tokenizers
        self.decoding = decoding
        self.longest = longest
        self.learnt = learnt
        self.longest_target = longest_target
        self.counts = counts

    def parts(self, request: Request, number: int, *, words: bool) -> list[Part]:
        """The line as token ids: nothing for a blank one, several parts for one that is too long."""
        line = request.text
        if not line.strip():
            return []
        whole = self._part(line, number, words)
        if len(whole.tokens) < self.longest:
            is_new = 0 < self.learnt < len(whole.tokens) and self.decoding.on_long == "split"
            return self._ask(self._split(line, whole, words) if is_new else [whole], request) if whole.tokens else []
        match self.decoding.on_long:
            case "error":
                raise DataError(
                    f"line {number}: {len(whole.tokens)} pieces, more than the {self.longest - 1} read at once; "
                    "shorten it, or have it split or cut by --on-long"
                )
            case "cut":
                return self._ask([self._beginning(whole)], request)
            case "split":
                return self._ask(self._split(line, whole, words), request)

    def _beginning(self, whole: Part) -> Part:
        """As much of a line that is too long as is read at once."""
        limit = self.longest - 1
        if not self.counts.cut:
            _log.warning(
                "line %d has %d pieces, more than the %d read at once: the rest of it is not translated (said once)",
                whole.number,
                len(whole.tokens),
                limit,
            )
        self.counts.cut += 1
        tokens = whole.tokens[:limit]
        text = self.tokenizers.source.decode(tokens)
        if whole.tokens[limit:] and whole.tokens[limit] in self.tokenizers.source.continuing:
            while text and in_word(text[-1]):  # half a word is no term
                text = text[:-1]
        return replace(whole, source=Source(tokens), words=whole.words[:limit], text=text)

    def _split(self, line: str, whole: Part, words: bool) -> list[Part]:
        """A line that is too long as parts that are not, but for single sentences that can be read at once."""
        encode, limit = self.tokenizers.source.encode, self.longest - 1
        together = min(TOGETHER, self.learnt or TOGETHER) if len(whole.tokens) > limit else self.learnt
        texts = split_line(line, limit, lambda text: len(encode(text)), together=together)
        if len(texts) == 1:
            return [whole]
        if not self.counts.split:
            _log.warning(
                "line %d has %d pieces, more than %s: it is translated in %d parts, cut at the ends of sentences where "
                "that is possible (said once)",
                whole.number,
                len(whole.tokens),
                f"the {limit} read at once" if len(whole.tokens) > limit else f"the {self.learnt} of training",
                len(texts),
            )
        self.counts.split += 1
        starts = [0, *accumulate(map(len, texts))]
        parts = [
            self._part(text, whole.number, words, before=line[:start])
            for text, start in zip(texts, starts, strict=False)
        ]
        return [part for part in parts if part.tokens]

    def _part(self, text: str, number: int, words: bool, *, before: str = "") -> Part:
        """A line, or what of it comes after ``before``."""
        joint = " " if text[-1].isspace() else ""
        if not words:
            return Part(number, Source(tuple(self.tokenizers.source.encode(text))), joint=joint, text=text)
        tokens, own = self.tokenizers.source.encode_words(text)
        first = _word(before + text[: len(text) - len(text.lstrip())])
        return Part(number, Source(tuple(tokens)), tuple(first + word for word in own), joint, text)

    def _ask(self, parts: list[Part], request: Request) -> list[Part]:
        """The parts with what is asked of their translations: the first has what it begins with, and the phrases.

        What a glossary asks for is asked of the part that has the term.
        """
        if request.is_plain or not parts:
            return parts
        avoid = self._phrases(request.avoid)
        prefix = tuple(self.tokenizers.target.encode(request.prefix))
        if self.longest_target is not None and len(prefix) >= self.longest_target:
            raise DataError(
                f"line {parts[0].number}: a translation cannot begin with a prefix of {len(prefix)} pieces: the model "
                f"writes {self.longest_target - 1} at most, give it a shorter one"
            )
        asked = []
        for place, part in enumerate(parts):
            own = request.use if place == 0 else ()
            terms = () if request.glossary is None else self._new(request.glossary.phrases(part.text), own)
            source = replace(
                part.source,
                prefix=prefix if place == 0 else (),
                use=self._phrases((*own, *terms)),
                continuing=self.tokenizers.target.continuing if own or terms else frozenset(),
                avoid=avoid,
            )
            asked.append(replace(part, source=source, terms=terms))
        return asked

    def _new(self, terms: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
        """Those of the terms that are not asked for by what has the same pieces: by ``own`` phrases, or by others.

        A term that is there n times is asked for n times in all.
        """
        encode = self.tokenizers.target.encode
        asked = Counter(tuple(encode(phrase)) for phrase in own)
        new: list[str] = []
        for term, times in Counter(terms).items():
            tokens = tuple(encode(term))
            more = max(0, times - asked[tokens])
            asked[tokens] += more
            new += [term] * more
        return tuple(new)

    def _phrases(self, phrases: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Phrases as the target's pieces; blank ones ask for nothing."""
        return tuple(tuple(tokens) for phrase in phrases if (tokens := self.tokenizers.target.encode(phrase)))

    def translation(
        self, request: Request, parts: Sequence[Part], found: Sequence[list[Hypothesis]], *, words: bool
    ) -> Translation:
        """What search found, as text."""
        tokens = tuple(token for part in parts for token in part.tokens)
        decode = self.tokenizers.target.decode
        rows = [[replace(one, text=decode(one.tokens)) for one in row] for row in zip(*found, strict=False)]
        ranked = [(self._joined(parts, row), row) for row in rows]
        if len(parts) > 1:  # those of one part are in their order already
            ranked.sort(key=lambda pair: (len(self._unmet(request, parts, pair[1])), -pair[0].score))
        asks = request.use or any(part.terms for part in parts)
        unmet = tuple(self._unmet(request, parts, row) for _, row in ranked) if asks else ()
        self.counts.unmet += len(unmet[0] if unmet else request.use)  # a blank line uses none
        return Translation(
            source=request.text,
            source_tokens=tokens,
            source_pieces=tuple(self.tokenizers.source.pieces(tokens)),
            hypotheses=tuple(hypothesis for hypothesis, _ in ranked),
            parts=max(1, len(parts)),
            source_words=tuple(word for part in parts for word in part.words),
            target_words=tuple(self._target_words(parts, row) for _, row in ranked) if words else (),
            unmet=unmet,
            target_pieces=tuple(tuple(self.tokenizers.target.pieces(one.tokens)) for one, _ in ranked) if words else (),
        )

    def _unmet(self, request: Request, parts: Sequence[Part], row: Sequence[Hypothesis]) -> tuple[str, ...]:
        """The phrases that a translation, of each part one, should have used and does not."""
        first = [*request.use, *parts[0].terms], [token for one in row for token in one.tokens]
        wishes = [first, *(([*part.terms], [*one.tokens]) for part, one in zip(parts[1:], row[1:], strict=True))]
        target = self.tokenizers.target
        missing: list[str] = []
        for phrases, tokens in wishes:
            found = used(target, tokens, [target.encode(phrase) for phrase in phrases]) if phrases else ()
            missing += (phrase for phrase, is_met in zip(phrases, found, strict=True) if not is_met)
        return tuple(missing)

    def _target_words(self, parts: Sequence[Part], row: Sequence[Hypothesis]) -> tuple[int, ...]:
        """For each token the word of the whole text it belongs to; one of which nothing is seen, to that before it."""
        words: list[int] = []
        text = ""
        for part, one in zip(parts, row, strict=True):
            words += (_word(text) + word for word in self.tokenizers.target.words(one.tokens))
            text += one.text + part.joint
        last = max(len(text.split()) - 1, 0)
        return tuple(min(word, last) for word in words)

    def _joined(self, parts: Sequence[Part], row: Sequence[Hypothesis]) -> Hypothesis:
        """One hypothesis of a line: of its only part, or of each part one, one after the other.

        The logarithms of the parts' EOS count together, as that of the line's.
        """
        if len(row) == 1:
            return row[0]
        total = sum(one.log_probability for one in row)
        tokens = tuple(token for one in row for token in one.tokens)
        texts = [text for one, part in zip(row, parts, strict=True) for text in (one.text, part.joint)]
        attentions = [one.attention for one in row if one.attention is not None]
        each = [one.token_log_probabilities for one in row]
        return Hypothesis(
            tokens=tokens,
            log_probability=total,
            score=self._score(row, total, len(tokens) + len(row)),
            attention=_diagonal(attentions) if attentions else None,
            text="".join(texts).strip(),
            token_log_probabilities=(*(value for one in each for value in one[:-1]), sum(one[-1] for one in each))
            if all(each)
            else (),
        )

    def _score(self, row: Sequence[Hypothesis], total: float, length: int) -> float:
        """The score of a line in parts: coverage penalties add up, and of expected utilities it is the mean."""
        if self.decoding.mbr != "none":
            return sum(one.score for one in row) / len(row)
        penalties = (
            one.score - one.log_probability / length_penalty(len(one.tokens) + 1, self.decoding) for one in row
        )
        covered = sum(penalties) if self.decoding.coverage_penalty else 0.0
        return total / length_penalty(length, self.decoding) + covered


def _word(before: str) -> int:
    """The index, among the words of a text, of the word that a character behind ``before`` belongs to."""
    return len(f"{before}x".split()) - 1


def _diagonal(attentions: Sequence[Float[np.ndarray, "_ _"]]) -> Float[np.ndarray, "T S"]:
    """Attention of the parts of a line as that of the line: one EOS stands for all, as source and as target."""
    import numpy as np

    rows = sum(attention.shape[0] - 1 for attention in attentions) + 1
    columns = sum(attention.shape[1] - 1 for attention in attentions) + 1
    whole = np.zeros((rows, columns), attentions[0].dtype)
    row = column = 0
    for attention in attentions:
        height, width = attention.shape[0] - 1, attention.shape[1] - 1
        whole[row : row + height, column : column + width] = attention[:-1, :-1]
        whole[row : row + height, -1] = attention[:-1, -1]
        row, column = row + height, column + width
    last = attentions[-1]
    whole[-1, column - last.shape[1] + 1 :] = last[-1]
    return whole
