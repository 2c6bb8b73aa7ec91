"""Text in, text out: what stands between lines and search.

Lines are taken a window at a time, the window's sentences are sorted by length and searched in batches, and the
translations come back in the order of the lines. One line gives one translation, whatever is in it:

- a blank line gives a blank one, and the model never sees it;
- a line longer than the model can read, or longer than :data:`LONGEST` pieces, is cut into parts
  (:mod:`nmt.decoding.splitting`), whose translations are joined; or, as ``on_long`` has it, only its beginning is
  translated, or it is an error;
- where memory does not suffice for a batch, its halves are tried.

What searches is an :class:`~nmt.decoding.engine.Engine`: this module knows nothing of torch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from nmt.config import DecodingConfig
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.constraints import met
from nmt.decoding.engine import Engine
from nmt.decoding.exported import Export, is_export
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty
from nmt.decoding.request import Request, Source
from nmt.decoding.splitting import split_line
from nmt.errors import ConfigError, DataError, NmtError, is_out_of_memory

if TYPE_CHECKING:
    import torch

    from nmt.decoding.torch_engine import TorchEngine
    from nmt.models.seq2seq import Seq2Seq

__all__ = ["LONGEST", "Translation", "Translator"]

LONGEST = 1024
"""Pieces of a source sentence, EOS counted; a longer line is cut into parts."""

TOGETHER = 256
"""Pieces of the parts of a line that is too long; a sentence in it is cut only where it is too long itself."""

WINDOW = 16
"""Batches a window: the more sentences are sorted by length together, the less padding."""

TOKENS_A_SENTENCE = 64
"""A batch of longer sentences holds fewer: ``batch_size`` times this many source tokens, padding counted."""

_ONE_MODEL = "this needs the run folder of one model: exports and ensembles only translate"

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
class _Part:
    """What is searched for on its own: a line, or a part of one that was too long.

    ``number`` is that of the line in the whole input, from 1; ``words`` says which word of the line a token comes from
    (empty where nobody asks); ``joint`` stands between this part's translation and the next one's.
    """

    number: int
    source: Source
    words: tuple[int, ...] = ()
    joint: str = ""

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the model reads, without EOS."""
        return self.source.tokens


@dataclass
class Counts:
    """What :class:`Translator` met so far: lines cut into parts, lines cut off, phrases that could not be used."""

    split: int = 0
    cut: int = 0
    unmet: int = 0


@dataclass(frozen=True)
class _Wanted:
    """What a caller of :meth:`Translator.translate` asked for."""

    nbest: int = 1
    attention: bool = False
    words: bool = False


class Translator:
    """What searches, the tokenizers, and how to search; cheap to make around a model in memory.

    Several threads may translate with one translator whose model is in evaluation mode, as a loaded one is. ``counts``
    are for one at a time.
    """

    def __init__(self, engine: Engine, tokenizers: Tokenizers, decoding: DecodingConfig) -> None:
        self.engine = engine
        self.tokenizers = tokenizers
        self.decoding = decoding
        self.counts = Counts()
        limits = (LONGEST, engine.longest_source, engine.longest_target)
        self.longest_source = min(limit for limit in limits if limit is not None)

    @staticmethod
    def of(
        model: Seq2Seq, tokenizers: Tokenizers, decoding: DecodingConfig, device: torch.device | str = "cpu"
    ) -> Translator:
        """The translator of a model in memory."""
        from nmt.decoding.torch_engine import TorchEngine

        return Translator(TorchEngine(model, tokenizers, device), tokenizers, decoding)

    @staticmethod
    def load(
        folder: Path | str,
        *others: Path | str,
        which: str = "best",
        device: str = "auto",
        threads: int = 0,
        **decoding: Any,
    ) -> Translator:
        """The translator in a run folder or an export; ``decoding`` overrides what that says of search:
        ``Translator.load("run", beam=1)``.

        Of several run folders the models translate together (:mod:`nmt.decoding.ensemble`); they have the same
        tokenizers, and the first one's recipe says how to search. ``which`` is ``best``, ``average``, ``step-N`` or
        what ``nmt average`` called it; ``device`` is ``auto`` or what torch calls it; ``threads`` are the processor's,
        0 being all.

        Raises CheckpointError for what cannot be read, ConfigError for an override or device that cannot be, or for
        runs with other tokenizers, NmtError for an export whose library is not installed.
        """
        folders = [Path(one) for one in (folder, *others)]
        if any(map(is_export, folders)):
            return _exported(folders, which, device, threads, decoding)
        import torch

        from nmt.checkpoint import Run
        from nmt.decoding.ensemble import Ensemble, check_tokenizers
        from nmt.decoding.torch_engine import TorchEngine, pick_device

        if threads:
            torch.set_num_threads(threads)
        runs = [Run.open(one) for one in folders]
        check_tokenizers([(str(run.folder), run.tokenizers) for run in runs])
        place = pick_device(device)
        settings = overridden(runs[0].recipe.decoding, decoding)
        models = [run.load_model(which, device=str(place)) for run in runs]
        model = Ensemble(models) if others else models[0]
        engine = TorchEngine(model, runs[0].tokenizers, place)
        return Translator(engine, runs[0].tokenizers, engine.resolved(settings))

    @property
    def model(self) -> Seq2Seq:
        """The one model in memory. Raises ConfigError where there is none: for exports and ensembles."""
        engine = self._torch
        if not engine.is_one_model:
            raise ConfigError(_ONE_MODEL)
        return cast("Seq2Seq", engine.model)

    @property
    def device(self) -> torch.device:
        """Where :attr:`model` is."""
        return self._torch.device

    @property
    def _torch(self) -> TorchEngine:
        from nmt.decoding.torch_engine import TorchEngine

        if not isinstance(self.engine, TorchEngine):
            raise ConfigError(_ONE_MODEL)
        return self.engine

    @property
    def window(self) -> int:
        """How many lines are best given to :meth:`translate_window` at a time."""
        return WINDOW * self.decoding.batch_size

    def check(self, nbest: int = 1, *, attention: bool = False) -> None:
        """Raise ConfigError for what cannot be searched for as it is asked, before anything is read."""
        self.engine.check(self.decoding, nbest=nbest, attention=attention)

    def translate(
        self,
        lines: Iterable[str | Request],
        *,
        nbest: int = 1,
        attention: bool = False,
        words: bool = False,
        **decoding: Any,
    ) -> Iterator[Translation]:
        """One translation a line, in order; lines are read a window ahead, and as translations are asked for.

        Each has its ``nbest`` hypotheses, with their ``attention`` if asked for. ``decoding`` overrides for this call
        what the translator was loaded with: ``translate(lines, beam=1)``.

        Raises ConfigError at once for an override that cannot be, where ``nbest`` exceeds the beam, or for a line in
        place of lines; as it goes, DataError for a line that is too long where that is an error, NmtError where the
        model gives no numbers or a single sentence does not fit into memory.
        """
        if isinstance(lines, (str, Request)):
            raise ConfigError("translate takes lines, and this is one: put it into a list")
        translator = copy.copy(self)
        translator.decoding = overridden(self.decoding, decoding)
        translator.check(nbest, attention=attention)
        return translator._windows(iter(lines), _Wanted(nbest, attention, words))

    def _windows(self, lines: Iterator[str | Request], wanted: _Wanted) -> Iterator[Translation]:
        """One translation a line, window by window."""
        first = 1
        while window := list(islice(lines, self.window)):
            yield from self.translate_window(
                window, nbest=wanted.nbest, attention=wanted.attention, words=wanted.words, first=first
            )
            first += len(window)

    def translate_window(
        self,
        lines: Sequence[str | Request],
        *,
        nbest: int = 1,
        attention: bool = False,
        words: bool = False,
        first: int = 1,
    ) -> list[Translation]:
        """The translations of some lines, worked out together; ``first`` is the number of the first, for messages."""
        wanted = _Wanted(nbest, attention, words or attention)
        self.check(nbest, attention=attention)
        requests = [line if isinstance(line, Request) else Request(line) for line in lines]
        lines_parts = [self._parts(request, number, wanted) for number, request in enumerate(requests, first)]
        parts = sorted(
            (part for line_parts in lines_parts for part in line_parts), key=lambda part: len(part.tokens), reverse=True
        )
        found: dict[int, list[Hypothesis]] = {}
        for batch in self._batches(parts):
            for part, hypotheses in zip(batch, self._search(batch, wanted), strict=True):
                found[id(part)] = hypotheses
        return [
            self._translation(request, line_parts, [found[id(part)] for part in line_parts], wanted)
            for request, line_parts in zip(requests, lines_parts, strict=True)
        ]

    # ------------------------------------------------------------------------------------------------- lines to parts

    def _parts(self, request: Request, number: int, wanted: _Wanted) -> list[_Part]:
        """The line as token ids: nothing for a blank one, several parts for one that is too long."""
        line = request.text
        if not line.strip():
            return []
        whole = self._part(line, number, wanted)
        if len(whole.tokens) < self.longest_source:
            return self._ask([whole], request) if whole.tokens else []
        match self.decoding.on_long:
            case "error":
                raise DataError(
                    f"line {number}: {len(whole.tokens)} pieces, more than the {self.longest_source - 1} read at once; "
                    "shorten it, or have it split or cut by --on-long"
                )
            case "cut":
                return self._ask([self._beginning(whole)], request)
            case "split":
                return self._ask(self._split(line, whole, wanted), request)

    def _beginning(self, whole: _Part) -> _Part:
        """As much of a line that is too long as is read at once."""
        limit = self.longest_source - 1
        if not self.counts.cut:
            _log.warning(
                "line %d has %d pieces, more than the %d read at once: the rest of it is not translated (said once, "
                "later lines are only counted)",
                whole.number,
                len(whole.tokens),
                limit,
            )
        self.counts.cut += 1
        return replace(whole, source=Source(whole.tokens[:limit]), words=whole.words[:limit])

    def _split(self, line: str, whole: _Part, wanted: _Wanted) -> list[_Part]:
        """A line that is too long as parts that are not."""
        encode, limit = self.tokenizers.source.encode, self.longest_source - 1
        texts = split_line(line, limit, lambda text: len(encode(text)), together=TOGETHER)
        if not self.counts.split:
            _log.warning(
                "line %d has %d pieces, more than the %d read at once: it is translated in %d parts, cut at the ends "
                "of sentences where that is possible (said once, later lines are only counted)",
                whole.number,
                len(whole.tokens),
                limit,
                len(texts),
            )
        self.counts.split += 1
        starts = [0, *accumulate(map(len, texts))]
        parts = [
            self._part(text, whole.number, wanted, before=line[:start])
            for text, start in zip(texts, starts, strict=False)
        ]
        return [part for part in parts if part.tokens]

    def _part(self, text: str, number: int, wanted: _Wanted, *, before: str = "") -> _Part:
        """A line, or what of it comes after ``before``."""
        joint = " " if text[-1].isspace() else ""
        if not wanted.words:
            return _Part(number, Source(tuple(self.tokenizers.source.encode(text))), joint=joint)
        tokens, own = self.tokenizers.source.encode_words(text)
        first = _word(before + text[: len(text) - len(text.lstrip())])
        return _Part(number, Source(tuple(tokens)), tuple(first + word for word in own), joint)

    def _ask(self, parts: list[_Part], request: Request) -> list[_Part]:
        """The parts with what is asked of their translations: the first has what it begins with, and the phrases."""
        if request.is_plain or not parts:
            return parts
        avoid = self._phrases(request.avoid)
        first = replace(
            parts[0].source,
            prefix=tuple(self.tokenizers.target.encode(request.prefix)),
            use=self._phrases(request.use),
            continuing=self.tokenizers.target.continuing if request.use else frozenset(),
            avoid=avoid,
        )
        rest = [replace(part, source=replace(part.source, avoid=avoid)) for part in parts[1:]]
        return [replace(parts[0], source=first), *rest]

    def _phrases(self, phrases: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Phrases as the target's pieces; blank ones ask for nothing."""
        return tuple(tuple(tokens) for phrase in phrases if (tokens := self.tokenizers.target.encode(phrase)))

    # ---------------------------------------------------------------------------------------------------------- search

    def _batches(self, parts: Sequence[_Part]) -> Iterator[list[_Part]]:
        """Parts, the longest first, in batches of at most ``batch_size`` and of a bounded number of tokens."""
        size = self.decoding.batch_size
        start = 0
        while start < len(parts):
            length = len(parts[start].tokens) + 1
            count = max(1, min(size, size * TOKENS_A_SENTENCE // length))
            yield list(parts[start : start + count])
            start += count

    def _search(self, parts: Sequence[_Part], wanted: _Wanted) -> list[list[Hypothesis]]:
        """Search one batch; where memory does not suffice, its halves, down to single sentences."""
        try:
            return self.engine.search(
                [part.source for part in parts], self.decoding, nbest=wanted.nbest, attention=wanted.attention
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if len(parts) == 1:
            raise NmtError(
                f"line {parts[0].number}: out of memory over one sentence of {len(parts[0].tokens)} pieces: "
                f"use a smaller beam than {self.decoding.beam}"
            )
        half = (len(parts) + 1) // 2
        _log.info("out of memory over %d sentences at once: going on with %d", len(parts), half)
        return self._search(parts[:half], wanted) + self._search(parts[half:], wanted)

    # -------------------------------------------------------------------------------------------------- parts to lines

    def _translation(
        self, request: Request, parts: Sequence[_Part], found: Sequence[list[Hypothesis]], wanted: _Wanted
    ) -> Translation:
        """What search found, as text."""
        tokens = tuple(token for part in parts for token in part.tokens)
        decode = self.tokenizers.target.decode
        rows = [[replace(one, text=decode(one.tokens)) for one in row] for row in zip(*found, strict=False)]
        ranked = [(self._joined(parts, row), row) for row in rows]
        if len(parts) > 1:  # those of one part are in their order already
            ranked.sort(key=lambda pair: (len(self._unmet(request, pair[0])), -pair[0].score))
        unmet = tuple(self._unmet(request, one) for one, _ in ranked) if request.use else ()
        self.counts.unmet += len(unmet[0] if unmet else request.use)  # a blank line uses none
        return Translation(
            source=request.text,
            source_tokens=tokens,
            source_pieces=tuple(self.tokenizers.source.pieces(tokens)),
            hypotheses=tuple(hypothesis for hypothesis, _ in ranked),
            parts=max(1, len(parts)),
            source_words=tuple(word for part in parts for word in part.words),
            target_words=tuple(self._target_words(parts, row) for _, row in ranked) if wanted.words else (),
            unmet=unmet,
            target_pieces=tuple(tuple(self.tokenizers.target.pieces(one.tokens)) for one, _ in ranked)
            if wanted.words
            else (),
        )

    def _unmet(self, request: Request, hypothesis: Hypothesis) -> tuple[str, ...]:
        """The phrases that a translation should have used and does not."""
        target = self.tokenizers.target
        found = met(hypothesis.tokens, [target.encode(phrase) for phrase in request.use], target.continuing)
        return tuple(phrase for phrase, is_met in zip(request.use, found, strict=True) if not is_met)

    def _target_words(self, parts: Sequence[_Part], row: Sequence[Hypothesis]) -> tuple[int, ...]:
        """For each token the word of the whole text it belongs to."""
        words: list[int] = []
        text = ""
        for part, one in zip(parts, row, strict=True):
            words += (_word(text) + word for word in self.tokenizers.target.words(one.tokens))
            text += one.text + part.joint
        return tuple(words)

    def _joined(self, parts: Sequence[_Part], row: Sequence[Hypothesis]) -> Hypothesis:
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


def _exported(folders: Sequence[Path], which: str, device: str, threads: int, decoding: dict[str, Any]) -> Translator:
    """The translator of an export; it has one model and translates alone."""
    if len(folders) > 1:
        raise ConfigError(f"{next(filter(is_export, folders))}: an export translates alone: ensembles are made of runs")
    (folder,) = folders
    if which != "best":
        raise ConfigError(f"{folder}: an export holds one model, and no checkpoint {which!r}")
    export = Export.open(folder)
    settings = overridden(export.decoding, decoding)
    return Translator(export.engine(folder, device=device, threads=threads), export.tokenizers, settings)


def _word(before: str) -> int:
    """The index, among the words of a text, of the word that a character behind ``before`` belongs to."""
    return len(f"{before}x".split()) - 1


def _diagonal(attentions: Sequence[Float[np.ndarray, "_ _"]]) -> Float[np.ndarray, "T S"]:
    """Attention of the parts of a line as that of the line: one EOS stands for all, as source and as target."""
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


def overridden(decoding: DecodingConfig, changes: dict[str, Any]) -> DecodingConfig:
    """``decoding`` with some fields changed, checked as a recipe's are.

    Raises ConfigError for a change that cannot be, or that has no say in what is found.
    """
    base = decoding.model_dump()
    if changes.get("sampling") or changes.get("mbr", "none") != "none":
        base["groups"] = 1  # the recipe's groups are part of the search that this is in place of
    try:
        changed = DecodingConfig.model_validate({**base, **changes})
    except ValidationError as error:
        faults = (
            f"{'.'.join(['decoding', *map(str, one['loc'])])}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise ConfigError("; ".join(faults)) from error
    for name in changes:
        if name in changed.idle:
            why = changed.idle[name]
            raise ConfigError(
                f"decoding.{name} has no say {why}{'' if ':' in why else ': leave it out, or change that'}"
            )
    return changed
