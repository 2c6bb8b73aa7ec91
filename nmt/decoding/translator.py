"""Text in, text out: what stands between lines and search.

Lines are taken a window at a time, the window's sentences are sorted by length and searched in batches, and the
translations come back in the order of the lines. One line gives one translation, whatever is in it:

- a blank line gives a blank one, and the model never sees it;
- a line longer than the model can read, or longer than :data:`LONGEST` pieces, is cut into parts
  (:mod:`nmt.decoding.splitting`), whose translations are joined; or, as ``on_long`` has it, only its beginning is
  translated, or it is an error;
- one of several sentences that is longer than those that the model was trained on (``data.max_length``) is cut between
  them, unless ``on_long`` is one of the others;
- where memory does not suffice for a batch, its halves are tried.

What searches is an :class:`~nmt.decoding.engine.Engine`: this module knows nothing of torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from nmt.config import DecodingConfig
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.engine import Engine
from nmt.decoding.exported import Export, is_export
from nmt.decoding.halving import in_halves
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lines import Counts, Lines, Part, Translation
from nmt.decoding.request import Request
from nmt.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from nmt.decoding.torch_engine import TorchEngine
    from nmt.models.seq2seq import Seq2Seq

__all__ = ["LONGEST", "Translation", "Translator"]

LONGEST = 1024
"""Pieces of a source sentence, EOS counted; a longer line is cut into parts."""

WINDOW = 16
"""Batches a window: the more sentences are sorted by length together, the less padding."""

TOKENS_A_SENTENCE = 64
"""A batch of longer sentences holds fewer: ``batch_size`` times this many source tokens, padding counted."""

_ONE_MODEL = "this needs the run folder of one model: exports and ensembles only translate"


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

    def __init__(self, engine: Engine, tokenizers: Tokenizers, decoding: DecodingConfig, learnt: int = 0) -> None:
        """``learnt`` is the length in pieces of the longest sentences that the model was trained on; 0 is any."""
        self.engine = engine
        self.tokenizers = tokenizers
        self.decoding = decoding
        self.learnt = learnt
        self.counts = Counts()
        limits = (LONGEST, engine.longest_source, engine.longest_target)
        self.longest_source = min(limit for limit in limits if limit is not None)

    @staticmethod
    def of(
        model: Seq2Seq,
        tokenizers: Tokenizers,
        decoding: DecodingConfig,
        device: torch.device | str = "cpu",
        learnt: int = 0,
    ) -> Translator:
        """The translator of a model in memory."""
        from nmt.decoding.torch_engine import TorchEngine

        return Translator(TorchEngine(model, tokenizers, device), tokenizers, decoding, learnt)

    @staticmethod
    def load(
        folder: Path | str,
        *others: Path | str,
        which: str = "best",
        device: str = "auto",
        threads: int = 0,
        wishes: Mapping[str, Any] | None = None,
        **decoding: Any,
    ) -> Translator:
        """The translator in a run folder or an export; ``decoding`` overrides what that says of search:
        ``Translator.load("run", beam=1)``. So do ``wishes``, which are passed over where they have no say.

        Of several run folders the models translate together (:mod:`nmt.decoding.ensemble`); they have the same
        tokenizers, and the first one's recipe says how to search. ``which`` is ``best``, ``average``, ``step-N`` or
        what ``nmt average`` called it; ``device`` is ``auto`` or what torch calls it; ``threads`` are the processor's,
        0 being all.

        Raises CheckpointError for what cannot be read, ConfigError for an override or device that cannot be, or for
        runs with other tokenizers, NmtError for an export whose library is not installed.
        """
        folders = [Path(one) for one in (folder, *others)]
        if any(map(is_export, folders)):
            return _exported(folders, which, device, threads, decoding, wishes or {})
        import torch

        from nmt.checkpoint import Run
        from nmt.decoding.ensemble import Ensemble, check_tokenizers
        from nmt.decoding.torch_engine import TorchEngine, pick_device

        if threads:
            torch.set_num_threads(threads)
        runs = [Run.open(one) for one in folders]
        check_tokenizers([(str(run.folder), run.tokenizers) for run in runs])
        place = pick_device(device)
        settings = overridden(runs[0].recipe.decoding, decoding, wishes or {})
        models = [run.load_model(which, device=str(place)) for run in runs]
        model = Ensemble(models) if others else models[0]
        engine = TorchEngine(model, runs[0].tokenizers, place)
        lengths = [run.recipe.data.max_length for run in runs]
        return Translator(engine, runs[0].tokenizers, engine.resolved(settings), min(filter(None, lengths), default=0))

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

    def measure(self, lines: Iterable[str]) -> None:
        """Raise DataError for a line that is too long where that is an error; nothing is translated."""
        reading = Lines(self.tokenizers, self.decoding, self.longest_source, Counts())
        for number, line in enumerate(lines, 1):
            reading.parts(Request(line), number, words=False)

    def translate(
        self,
        lines: Iterable[str | Request],
        *,
        nbest: int = 1,
        attention: bool = False,
        words: bool = False,
        first: int = 1,
        **decoding: Any,
    ) -> Iterator[Translation]:
        """One translation a line, in order; lines are read a window ahead, and as translations are asked for.

        Each has its ``nbest`` hypotheses, with their ``attention`` if asked for. ``first`` is the number of the first
        line, for messages. ``decoding`` overrides for this call what the translator was loaded with:
        ``translate(lines, beam=1)``.

        Raises ConfigError at once for an override that cannot be, where ``nbest`` exceeds the beam, or for a line in
        place of lines; as it goes, DataError for a line that is too long where that is an error, NmtError where the
        model gives no numbers or a single sentence does not fit into memory.
        """
        if isinstance(lines, (str, Request)):
            raise ConfigError("translate takes lines, and this is one: put it into a list")
        translator = copy.copy(self)
        translator.decoding = overridden(self.decoding, decoding)
        translator.check(nbest, attention=attention)
        return translator._windows(iter(lines), _Wanted(nbest, attention, words), first)

    def _windows(self, lines: Iterator[str | Request], wanted: _Wanted, first: int) -> Iterator[Translation]:
        """One translation a line, window by window."""
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
        reading = Lines(
            self.tokenizers, self.decoding, self.longest_source, self.counts, self.engine.longest_target, self.learnt
        )
        lines_parts = [
            reading.parts(request, number, words=wanted.words) for number, request in enumerate(requests, first)
        ]
        parts = sorted(
            (part for line_parts in lines_parts for part in line_parts), key=lambda part: len(part.tokens), reverse=True
        )
        found: dict[int, list[Hypothesis]] = {}
        for batch in self._batches(parts):
            for part, hypotheses in zip(batch, self._search(batch, wanted), strict=True):
                found[id(part)] = hypotheses
        return [
            reading.translation(request, line_parts, [found[id(part)] for part in line_parts], words=wanted.words)
            for request, line_parts in zip(requests, lines_parts, strict=True)
        ]

    # ---------------------------------------------------------------------------------------------------------- search

    def _batches(self, parts: Sequence[Part]) -> Iterator[list[Part]]:
        """Parts, the longest first, in batches of at most ``batch_size`` and of a bounded number of tokens."""
        size = self.decoding.batch_size
        start = 0
        while start < len(parts):
            length = len(parts[start].tokens) + 1
            count = max(1, min(size, size * TOKENS_A_SENTENCE // length))
            yield list(parts[start : start + count])
            start += count

    def _search(self, parts: Sequence[Part], wanted: _Wanted) -> list[list[Hypothesis]]:
        """Search one batch; where memory does not suffice, its halves, down to single sentences."""

        def search(some: Sequence[Part]) -> list[list[Hypothesis]]:
            sources = [part.source for part in some]
            return self.engine.search(sources, self.decoding, nbest=wanted.nbest, attention=wanted.attention)

        def too_much(part: Part) -> str:
            how = "shorten it"
            if self.decoding.draws:
                how = "draw fewer samples of it, or shorten it"
            elif self.decoding.beam > 1:
                how = f"use a smaller beam than {self.decoding.beam}"
            return f"line {part.number}: out of memory over one sentence of {len(part.tokens)} pieces: {how}"

        return in_halves(search, parts, too_much, "sentences")


def _exported(
    folders: Sequence[Path],
    which: str,
    device: str,
    threads: int,
    decoding: Mapping[str, Any],
    wishes: Mapping[str, Any],
) -> Translator:
    """The translator of an export; it has one model and translates alone."""
    if len(folders) > 1:
        raise ConfigError(f"{next(filter(is_export, folders))}: an export translates alone: ensembles are made of runs")
    (folder,) = folders
    if which != "best":
        raise ConfigError(f"{folder}: an export holds one model, and no checkpoint {which!r}")
    export = Export.open(folder)
    settled = export.settled()
    wishes = {name: value for name, value in wishes.items() if name not in settled}
    settings = overridden(export.decoding, decoding, wishes)
    engine = export.engine(folder, device=device, threads=threads)
    return Translator(engine, export.tokenizers, settings, export.learnt)


def overridden(
    decoding: DecodingConfig, changes: Mapping[str, Any], wishes: Mapping[str, Any] = MappingProxyType({})
) -> DecodingConfig:
    """``decoding`` with some fields changed, checked as a recipe's are; ``wishes`` likewise where they have a say.

    Raises ConfigError for a change that cannot be, or for one of ``changes`` that has no say in what is found.
    """
    base = decoding.model_dump()
    both = {**wishes, **changes}
    whole = {**base, **both}
    if whole["sampling"] or whole["mbr"] != "none":
        base["groups"] = 1  # the recipe's groups are part of the search that this is in place of
        if "groups" not in changes:
            both.pop("groups", None)
    idle = _validated({**base, **both}).idle
    for name in changes:
        if name in idle:
            why = idle[name]
            raise ConfigError(
                f"decoding.{name} has no say {why}{'' if ':' in why else ': leave it out, or change that'}"
            )
    return _validated({**base, **{name: value for name, value in both.items() if name in changes or name not in idle}})


def _validated(fields: Mapping[str, Any]) -> DecodingConfig:
    """A search of these fields. Raises ConfigError where there is none such."""
    try:
        return DecodingConfig.model_validate(fields)
    except ValidationError as error:
        faults = (
            f"{'.'.join(['decoding', *map(str, one['loc'])])}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise ConfigError("; ".join(faults)) from error
