"""Search by CTranslate2: a Transformer that was exported, translated without torch.

It searches as nmt does where it can, and says so where it cannot:

- it takes the same beam, and never writes what nmt never writes; what it finds is ranked by nmt's own score;
- it is done when a number of translations have ended, however good a live one is, and a model that is sure of itself
  ends often on what stands in the last places of its beam. So it is made to look for more, and of what it finds later
  that is taken which nmt would have gone on for;
- one call of it has one longest target: a sentence that ran past its own is searched again;
- it takes the norm of probabilities over what may be written, where nmt takes it over the whole vocabulary, and keeps
  no probabilities of single tokens: what it found is scored once more, forced, by the same model, as is attention.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.config import DecodingConfig
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.engine import check_nbest
from nmt.decoding.exported import Export, check_precision, threads_or_all
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_for
from nmt.decoding.request import Source
from nmt.errors import CheckpointError, ConfigError, NmtError, is_out_of_memory

if TYPE_CHECKING:
    import ctranslate2

__all__ = ["PLAIN", "CTranslate2Engine", "cannot"]

PATIENCE = 2
"""CTranslate2 stops when so many beams full of translations have ended."""

FORCED_TOKENS = 1024
"""Tokens scored at a time: their logits over the whole vocabulary are held at once."""


PLAIN: dict[str, Any] = {"coverage_penalty": 0.0, "stopping": "fast", "groups": 1, "sampling": False, "mbr": "none"}
"""What CTranslate2 has one way of only, or none: that way."""


def cannot(config: DecodingConfig) -> list[str]:
    """What of a search CTranslate2 cannot do, by the names of the fields."""
    return [name for name, plain in PLAIN.items() if getattr(config, name) != plain]


class CTranslate2Engine:
    """The engine of an export to CTranslate2."""

    takes_phrases = False

    def __init__(self, export: Export, folder: Path, *, device: str = "auto", threads: int = 0) -> None:
        self.longest_source = export.longest_source
        self.longest_target = export.longest_target
        self._quantization = export.quantization
        self._pieces = _Pieces(export.tokenizers)
        self._model = _load(folder, device, threads_or_all(threads))

    def check(self, config: DecodingConfig, *, nbest: int, attention: bool) -> None:
        """Raise ConfigError for a search that CTranslate2 has not, or for numbers that the export has not."""
        for name in cannot(config):
            flag = "--stopping exact" if name == "stopping" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag}: CTranslate2 cannot; use the run itself or an export to onnx, or leave it out")
        check_nbest(nbest, config)
        check_precision(self._quantization, config)

    def search(
        self, sources: Sequence[Source], config: DecodingConfig, *, nbest: int, attention: bool
    ) -> list[list[Hypothesis]]:
        self.check(config, nbest=nbest, attention=attention)
        if any(source.use for source in sources):
            raise ConfigError("phrases to use: CTranslate2 cannot; use the run itself or an export to onnx")
        limits = [longest_for(source, len(source.tokens) + 1, config, self.longest_target) for source in sources]
        return _Search(self._model, self._pieces, sources, limits, config, nbest, attention).run()


class _Pieces:
    """CTranslate2 is handed pieces and answers in pieces; nmt has ids. Each is looked up when it first occurs."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        source, target = tokenizers.source, tokenizers.target
        self._source, self._target = cache(source.piece), cache(target.piece)
        self._id = cache(target.piece_id)
        self._source_end, self._target_end = source.piece(source.eos_id), target.piece(target.eos_id)
        self.never = [self.target([number]) for number in (target.pad_id, target.bos_id)]  # and the unknown piece

    def source(self, tokens: Iterable[int]) -> list[str]:
        """A source as the model reads it, EOS behind it."""
        return [*map(self._source, tokens), self._source_end]

    def target(self, tokens: Iterable[int]) -> list[str]:
        return list(map(self._target, tokens))

    def read(self, pieces: Sequence[str]) -> tuple[tuple[int, ...], bool]:
        """The ids of a translation, and whether EOS stood behind them."""
        is_ended = pieces[-1:] == [self._target_end]
        return tuple(map(self._id, pieces[: len(pieces) - is_ended])), is_ended


@dataclass(frozen=True)
class _Found:
    """A translation, whether EOS was written behind it, and its log-probability as search came by it."""

    tokens: tuple[int, ...]
    is_ended: bool
    estimate: float


@dataclass(frozen=True)
class _Search:
    """One search: a batch of sources, the longest target of each, EOS counted, and what is wanted."""

    model: ctranslate2.Translator
    pieces: _Pieces
    sources: Sequence[Source]
    limits: Sequence[int]
    config: DecodingConfig
    nbest: int
    attention: bool

    def run(self) -> list[list[Hypothesis]]:
        found: dict[int, list[_Found]] = {}
        for rows in _grouped(range(len(self.sources)), self._needs):
            longest = max(self.limits[row] for row in rows)
            found |= self._find(rows, longest)
            late = [row for row in rows if self._is_late(row, found[row])]
            for again in _grouped(late, lambda row: self.limits[row]):
                found |= self._find(again, self.limits[again[0]])
        kept = {row: [one for one in found[row] if len(one.tokens) < self.limits[row]] for row in found}
        pairs = [(row, one) for row in range(len(self.sources)) for one in self._candidates(kept[row])]
        scored: list[list[Hypothesis]] = [[] for _ in self.sources]
        for (row, _), hypothesis in zip(pairs, self._scored(pairs), strict=True):
            scored[row].append(hypothesis)
        settled = [self._settled(kept[row], ones) for row, ones in enumerate(scored)]
        return self._looking(settled) if self.attention else settled

    def _needs(self, row: int) -> tuple[bool, tuple[tuple[int, ...], ...]]:
        """What is the same for all sources of one call: a call that has a prefix treats those without differently."""
        return bool(self.sources[row].prefix), self.sources[row].avoid

    def _is_late(self, row: int, found: list[_Found]) -> bool:
        """Whether one that may be among the best ran past the longest target of its own source."""
        return any(len(one.tokens) >= self.limits[row] for one in self._candidates(found))

    def _find(self, rows: Sequence[int], longest: int) -> dict[int, list[_Found]]:
        """What CTranslate2 finds for some sources in one call; what is too long is cut, and has no EOS."""
        if longest == 1:
            return {row: [_Found((), False, 0.0)] for row in rows}
        config = self.config
        alpha = 0.0 if config.length_penalty == "none" else config.alpha
        patience = PATIENCE if config.beam > 1 else 1
        avoid = [self.pieces.target(phrase) for phrase in self.sources[rows[0]].avoid if phrase]
        prefixes = [self.pieces.target(self.sources[row].prefix) for row in rows]
        results = self.model.translate_batch(
            [self.pieces.source(self.sources[row].tokens) for row in rows],
            prefixes if any(prefixes) else None,
            max_input_length=0,
            max_decoding_length=longest - 1,
            min_decoding_length=0,
            beam_size=config.beam,
            patience=patience,
            num_hypotheses=patience * config.beam,
            length_penalty=alpha,
            no_repeat_ngram_size=config.no_repeat_ngram,
            suppress_sequences=[*self.pieces.never, *avoid],
            disable_unk=True,
            return_scores=True,
            return_end_token=True,
        )
        return {row: self._distinct(result, alpha) for row, result in zip(rows, results, strict=True)}

    def _distinct(self, result: ctranslate2.TranslationResult, alpha: float) -> list[_Found]:
        """What was found for one source; a prefix longer than the longest target comes back many times."""
        found: dict[tuple[int, ...], _Found] = {}
        for pieces, score in zip(result.hypotheses, result.scores, strict=True):
            tokens, is_ended = self.pieces.read(pieces)
            found.setdefault(tokens, _Found(tokens, is_ended, score * max(len(pieces), 1) ** alpha))
        return list(found.values())

    def _candidates(self, found: list[_Found]) -> list[_Found]:
        """Those that may be among the best: of all, and of those found before the beam was full of ended ones.

        What was cut has no EOS in its estimate: if it seems good all are candidates.
        """
        ranked = sorted(found, key=lambda one: -one.estimate / length_penalty(len(one.tokens) + 1, self.config))
        full = _full(found, self.config.beam)
        early = [one for one in ranked if len(one.tokens) < full][: self.nbest]
        best = ranked[: self.nbest]
        if not all(one.is_ended for one in (*best, *early)):
            return ranked
        return [*best, *(one for one in early if one not in best)]

    def _settled(self, found: list[_Found], scored: list[Hypothesis]) -> list[Hypothesis]:
        """The best, as nmt's own search would have it.

        When as many have ended as the beam holds it goes on only for the sake of one that is better so far, by the
        length it has. So what ended later counts only if it was that.
        """
        ranked = sorted(scored, key=lambda one: -one.score)
        full = _full(found, self.config.beam)
        early = [one for one in ranked if len(one.tokens) < full][: self.nbest]
        bar = early[-1].score if len(early) == self.nbest else -math.inf
        for one in ranked[: self.nbest]:
            if len(one.tokens) >= full:
                so_far = math.fsum(one.token_log_probabilities[:full]) / length_penalty(full, self.config)
                if so_far > bar:
                    return ranked[: self.nbest]
        return early

    def _scored(self, pairs: Sequence[tuple[int, _Found]]) -> list[Hypothesis]:
        """Translations with the probabilities that the model gives them when they are forced on it."""
        results = self.model.score_batch(
            [self.pieces.source(self.sources[row].tokens) for row, _ in pairs],
            [self.pieces.target(one.tokens) for _, one in pairs],
            max_input_length=0,
            max_batch_size=FORCED_TOKENS,
            batch_type="tokens",
        )
        hypotheses = []
        for (_, one), result in zip(pairs, results, strict=True):
            each = tuple(result.log_probs)
            total = math.fsum(each)
            if not math.isfinite(total):
                raise NmtError("the model's output is not a number: its weights are damaged or its training diverged")
            score = total / length_penalty(len(each), self.config)
            hypotheses.append(Hypothesis(one.tokens, total, score, token_log_probabilities=each))
        return hypotheses

    def _looking(self, settled: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
        """Translations with their attention: they are forced on the model once more, by a beam of one.

        CTranslate2 4.8 mixes up the sentences of a batch in the first row of what a wider beam looked at.
        """
        import numpy as np

        pairs = [(row, one) for row, ones in enumerate(settled) for one in ones]
        results = self.model.translate_batch(
            [self.pieces.source(self.sources[row].tokens) for row, _ in pairs],
            [self.pieces.target(one.tokens) for _, one in pairs],
            max_input_length=0,
            max_decoding_length=max(len(one.tokens) for _, one in pairs) + 1,
            min_decoding_length=0,
            beam_size=1,
            return_attention=True,
            return_end_token=True,
        )
        looked: list[list[Hypothesis]] = [[] for _ in settled]
        for (row, one), result in zip(pairs, results, strict=True):
            attention = np.array(result.attention[0][: len(one.tokens) + 1], dtype=np.float32)
            looked[row].append(replace(one, attention=attention))
        return looked


def _full(found: Sequence[_Found], beam: int) -> int:
    """The step at which as many had ended as the beam holds; a translation ends at the step that writes its EOS."""
    steps = sorted(len(one.tokens) + 1 for one in found)
    return steps[min(beam, len(steps)) - 1]


def _grouped(rows: Iterable[int], key: Callable[[int], Any]) -> list[list[int]]:
    """Rows with the same key together, the groups in the order of their first rows."""
    groups: dict[Any, list[int]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _load(folder: Path, device: str, threads: int) -> ctranslate2.Translator:
    """The model in a folder.

    Raises ConfigError for a device that cannot be used, CheckpointError for a model that cannot be read.
    """
    import ctranslate2

    kind, mark, number = device.partition(":")
    if mark and not number.isdecimal():
        raise ConfigError(f"device {device!r} cannot be used: what follows {kind}: is a number, such as {kind}:0")
    level = ctranslate2.get_log_level()
    ctranslate2.set_log_level(logging.ERROR)  # a type that the processor has not is widened: no need to say so
    try:
        return ctranslate2.Translator(
            str(folder),
            device=kind,
            device_index=int(number or 0),
            intra_threads=threads,
            inter_threads=1,
        )
    except ValueError as error:
        raise ConfigError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        if kind not in ("cpu", "auto"):
            raise ConfigError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        raise CheckpointError(f"{folder}: CTranslate2 cannot read it: {str(error).splitlines()[0]}") from error
    finally:
        ctranslate2.set_log_level(level)
