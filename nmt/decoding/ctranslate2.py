"""Search by CTranslate2: a Transformer that was exported, translated without torch.

It searches as nmt does where it can, and says so where it cannot:

- it takes the same beam, the same length normalisation (a score of log-probability over n**alpha, n counting EOS; for
  another normalisation its whole beam is ranked anew), and never writes what nmt never writes;
- its beam is done when it has found as many translations as it holds. nmt goes on while a live one is better than
  those, which in a few lines of a thousand finds another translation;
- one call of it has one longest target: a sentence that ran past its own is searched again;
- it takes the norm of probabilities over what may be written, where nmt takes it over the whole vocabulary, and keeps
  no probabilities of single tokens: what it found is scored once more, forced, by the same model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmt.config import DecodingConfig
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.engine import check_nbest
from nmt.decoding.exported import Export, threads_or_all
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.lengths import length_penalty, longest_target
from nmt.decoding.request import Source
from nmt.errors import CheckpointError, ConfigError, NmtError, is_out_of_memory

if TYPE_CHECKING:
    import ctranslate2

__all__ = ["CTranslate2Engine"]

FORCED_TOKENS = 1024
"""Tokens scored at a time: their logits over the whole vocabulary are held at once."""


class CTranslate2Engine:
    """The engine of an export to CTranslate2."""

    def __init__(self, export: Export, folder: Path, *, device: str = "auto", threads: int = 0) -> None:
        self.longest_source = export.longest_source
        self.longest_target = export.longest_target
        self._pieces = _Pieces(export.tokenizers)
        self._model = _load(folder, device, threads_or_all(threads))

    def check(self, config: DecodingConfig, *, nbest: int, attention: bool) -> None:
        """Raise ConfigError for a search that CTranslate2 has not."""
        cannot = {
            "--coverage-penalty": config.coverage_penalty > 0,
            "--stopping exact": config.stopping == "exact",
            "--groups": config.groups > 1,
            "--sampling": config.sampling,
            "--mbr": config.mbr != "none",
        }
        for flag, is_asked in cannot.items():
            if is_asked:
                raise ConfigError(
                    f"{flag}: CTranslate2 cannot; use the run itself or an export to onnx, or leave it out"
                )
        check_nbest(nbest, config)

    def search(
        self, sources: Sequence[Source], config: DecodingConfig, *, nbest: int, attention: bool
    ) -> list[list[Hypothesis]]:
        self.check(config, nbest=nbest, attention=attention)
        if any(source.use for source in sources):
            raise ConfigError("phrases to use: CTranslate2 cannot; use the run itself or an export to onnx")
        limits = [longest_target(len(source.tokens) + 1, config, self.longest_target) for source in sources]
        return _Search(self._model, self._pieces, sources, limits, config, nbest, attention).run()


class _Pieces:
    """CTranslate2 is handed pieces and answers in pieces; nmt has ids."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        source, target = tokenizers.source, tokenizers.target
        self._source = source.pieces(range(len(source)))
        self._target = target.pieces(range(len(target)))
        self._ids = {piece: number for number, piece in enumerate(self._target)}
        self._source_end, self._target_end = self._source[source.eos_id], self._target[target.eos_id]
        self.never = [self.target([number]) for number in (target.pad_id, target.bos_id)]  # and the unknown piece

    def source(self, tokens: Iterable[int]) -> list[str]:
        """A source as the model reads it, EOS behind it."""
        return [*(self._source[token] for token in tokens), self._source_end]

    def target(self, tokens: Iterable[int]) -> list[str]:
        return [self._target[token] for token in tokens]

    def found(self, pieces: Sequence[str], attention: list[list[float]]) -> _Found:
        """A translation as CTranslate2 gives it."""
        is_ended = pieces[-1:] == [self._target_end]
        return _Found(tuple(self._ids[piece] for piece in pieces[: len(pieces) - is_ended]), is_ended, attention)


@dataclass(frozen=True)
class _Found:
    """A translation, whether EOS was written behind it, and where it looked: a row for each of these, if asked for."""

    tokens: tuple[int, ...]
    is_ended: bool
    attention: list[list[float]]


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
        # Other normalisations than its own rank what the whole beam has found.
        wanted = self.config.beam if self.config.length_penalty == "gnmt" else self.nbest
        for rows in _grouped(range(len(self.sources)), self._needs):
            longest = max(self.limits[row] for row in rows)
            found |= self._find(rows, longest, wanted)
            again = [row for row in rows if self._is_late(row, found[row])]
            for late in _grouped(again, lambda row: self.limits[row]):
                if (self.limits[late[0]], self.config.beam) != (longest, wanted):
                    found |= self._find(late, self.limits[late[0]], self.config.beam)
        return self._scored(found)

    def _is_late(self, row: int, found: Sequence[_Found]) -> bool:
        """Whether some translation ran past its limit, or was cut there: what is cut is ranked without its EOS."""
        return any(not one.is_ended or len(one.tokens) >= self.limits[row] for one in found)

    def _needs(self, row: int) -> tuple[bool, tuple[tuple[int, ...], ...]]:
        """What is the same for all sources of one call: a call that has a prefix treats those without differently."""
        return bool(self.sources[row].prefix), self.sources[row].avoid

    def _find(self, rows: Sequence[int], longest: int, wanted: int) -> dict[int, list[_Found]]:
        """``wanted`` translations that CTranslate2 finds for each source; what is too long is cut, and has no EOS."""
        if longest == 1:
            return {row: [_Found((), False, [])] for row in rows}
        config = self.config
        avoid = [self.pieces.target(phrase) for phrase in self.sources[rows[0]].avoid if phrase]
        prefixes = [self.pieces.target(self.sources[row].prefix) for row in rows]
        results = self.model.translate_batch(
            [self.pieces.source(self.sources[row].tokens) for row in rows],
            prefixes if any(prefixes) else None,
            max_input_length=0,
            max_decoding_length=longest - 1,
            min_decoding_length=0,
            beam_size=config.beam,
            length_penalty=0.0 if config.length_penalty == "none" else config.alpha,
            num_hypotheses=wanted,
            no_repeat_ngram_size=config.no_repeat_ngram,
            suppress_sequences=[*self.pieces.never, *avoid],
            disable_unk=True,
            return_attention=self.attention,
            return_end_token=True,
        )
        return {row: self._distinct(result) for row, result in zip(rows, results, strict=True)}

    def _distinct(self, result: ctranslate2.TranslationResult) -> list[_Found]:
        """What was found for one source; a prefix longer than the longest target comes back many times."""
        rows = result.attention or [[]] * len(result.hypotheses)
        found = (self.pieces.found(one, looked) for one, looked in zip(result.hypotheses, rows, strict=True))
        return list({one.tokens: one for one in found}.values())

    def _scored(self, found: dict[int, list[_Found]]) -> list[list[Hypothesis]]:
        """The best of what was found, by the probabilities that the model gives them when they are forced on it."""
        pairs = [(row, one) for row in range(len(self.sources)) for one in found[row]]
        results = self.model.score_batch(
            [self.pieces.source(self.sources[row].tokens) for row, _ in pairs],
            [self.pieces.target(one.tokens) for _, one in pairs],
            max_input_length=0,
            max_batch_size=FORCED_TOKENS,
            batch_type="tokens",
        )
        ranked: list[list[Hypothesis]] = [[] for _ in self.sources]
        for (row, one), result in zip(pairs, results, strict=True):
            each = tuple(result.log_probs)
            total = math.fsum(each)
            if not math.isfinite(total):
                raise NmtError("the model's output is not a number: its weights are damaged or its training diverged")
            score = total / length_penalty(len(each), self.config)
            looked = self._looked(row, one) if self.attention else None
            ranked[row].append(Hypothesis(one.tokens, total, score, looked, token_log_probabilities=each))
        return [sorted(ones, key=lambda one: -one.score)[: self.nbest] for ones in ranked]

    def _looked(self, row: int, one: _Found) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Attention, with the row of an EOS that was forced: there is none until the model is to write what follows."""
        rows = one.attention
        if not one.is_ended:
            (result,) = self.model.translate_batch(
                [self.pieces.source(self.sources[row].tokens)],
                [self.pieces.target(one.tokens)],
                beam_size=1,
                max_input_length=0,
                max_decoding_length=len(one.tokens) + 1,
                min_decoding_length=0,
                return_attention=True,
                return_end_token=True,
            )
            rows = result.attention[0]
        return np.array(rows, dtype=np.float32)


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

    kind, _, number = device.partition(":")
    level = ctranslate2.get_log_level()
    ctranslate2.set_log_level(logging.ERROR)  # a type that the processor has not is widened: no need to say so
    try:
        return ctranslate2.Translator(
            str(folder),
            device=kind,
            device_index=int(number) if number.isdecimal() else 0,
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
