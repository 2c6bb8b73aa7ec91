"""What a model makes of given translations: text pairs in, log-probabilities out.

Pairs are taken a window at a time, the window's pairs are sorted by length and forced through the model in batches
(:func:`~nmt.decoding.scoring.token_log_probabilities`), and the scores come back in the order of the pairs. One pair
gives one score, whatever is in it:

- a blank target is the empty translation: its score is log p(EOS | source);
- a blank source is the empty sentence, which the model reads as EOS alone;
- where both are blank the score is 0: a blank line has one translation, which is blank and certain, as in
  :mod:`nmt.decoding.translator`, and the model never sees it (blank is also what the tokenizer keeps nothing of);
- a side that is longer than the model reads at once is an error, or as ``on_long`` has it cut: the beginnings are then
  scored as if they were all;
- where memory does not suffice for a batch, its halves are tried.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from nmt.data.batching import collate
from nmt.data.tokenizer import Tokenizer
from nmt.decoding.halving import in_halves
from nmt.decoding.lengths import length_penalty
from nmt.decoding.scoring import token_log_probabilities
from nmt.decoding.translator import LONGEST, TOKENS_A_SENTENCE, Translator
from nmt.errors import DataError, NmtError, check_choice, is_out_of_memory

__all__ = ["OnLong", "PairScore", "Scorer", "Summary"]

OnLong = Literal["error", "cut"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairScore:
    """What a model makes of one target, given its source.

    ``token_log_probabilities`` are natural logarithms, one a piece of ``pieces``, of which EOS is the last;
    ``log_probability`` is their sum and ``score`` that sum after length normalisation, as hypotheses are ranked by it
    (a coverage penalty has no part in it). Of two blank lines there are no pieces.
    """

    log_probability: float
    score: float
    pieces: tuple[str, ...]
    token_log_probabilities: tuple[float, ...]


@dataclass
class Summary:
    """Scores added up: pairs, target tokens with an EOS for each pair that is not blank, and their logarithms."""

    lines: int = 0
    tokens: int = 0
    log_probability: float = 0.0

    def add(self, scores: Iterable[PairScore]) -> None:
        """Count some more."""
        for one in scores:
            self.lines += 1
            self.tokens += len(one.pieces)
            self.log_probability += one.log_probability

    @property
    def perplexity(self) -> float:
        """exp(-log p / tokens), EOS counted. Raises DataError where there are no tokens."""
        if not self.tokens:
            raise DataError("there is no perplexity of no tokens: every line is blank, or there is none")
        mean = -self.log_probability / self.tokens
        return math.exp(mean) if mean < 700 else math.inf

    @property
    def mean_log_probability(self) -> float:
        """The log-probability of a line, on average; 0 where there is none."""
        return self.log_probability / max(1, self.lines)


@dataclass(frozen=True)
class _Pair:
    """Token ids of a pair, without EOS; ``row`` is its place in the window, ``number`` that in the whole input."""

    row: int
    number: int
    source: Sequence[int]
    target: Sequence[int]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens that the model reads on either side."""
        return len(self.source) + 1, len(self.target) + 1


@dataclass
class Scorer:
    """Log-probabilities of translations by one model, the translator's.

    ``num_scored`` counts the pairs so far, ``num_cut`` those of them that were too long and cut.

    Raises ConfigError for a translator that has no model in memory: one of an export, or of several runs; and for an
    ``on_long`` that is none.
    """

    translator: Translator
    on_long: OnLong = "error"
    num_scored: int = field(default=0, init=False)
    num_cut: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_choice("on_long", self.on_long, get_args(OnLong))
        self.model = self.translator.model
        engine = self.translator.engine
        self.longest_source, self.longest_target = (
            LONGEST if limit is None else min(limit, LONGEST)
            for limit in (engine.longest_source, engine.longest_target)
        )

    @staticmethod
    def load(
        folder: Path | str, *, on_long: OnLong = "error", which: str = "best", device: str = "auto", **decoding: Any
    ) -> Scorer:
        """The scorer in a run folder; the other arguments and the errors are those of ``Translator.load``.

        Of the recipe only the length penalty counts, whichever way it would have translations found.
        """
        idle = {"mbr": "none", "precision": "auto"}
        return Scorer(Translator.load(folder, which=which, device=device, **{**idle, **decoding}), on_long)

    @property
    def window(self) -> int:
        """How many pairs are best given to :meth:`score_window` at a time."""
        return self.translator.window

    def score(self, pairs: Iterable[tuple[str, str]]) -> Iterator[PairScore]:
        """One score a (source, target) pair of lines, in order; pairs are read a window ahead.

        Raises DataError for a pair that is too long where that is an error, NmtError where the model gives no numbers
        or a single pair does not fit into memory.
        """
        rest, first = iter(pairs), 1
        while window := list(islice(rest, self.window)):
            yield from self.score_window(window, first=first)
            first += len(window)

    def score_window(self, pairs: Sequence[tuple[str, str]], *, first: int = 1) -> list[PairScore]:
        """The scores of some pairs, worked out together; ``first`` is the number of the first, for messages."""
        tokenizers = self.translator.tokenizers
        return self.score_tokens(
            [(_encode(tokenizers.source, source), _encode(tokenizers.target, target)) for source, target in pairs],
            first=first,
        )

    def score_tokens(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, first: int = 1) -> list[PairScore]:
        """The same for token ids without EOS. What search wrote may be cut into other pieces than its text is."""
        found = {row: PairScore(0.0, 0.0, (), ()) for row in range(len(pairs))}
        real = [
            self._fitting(_Pair(row, first + row, source, target))
            for row, (source, target) in enumerate(pairs)
            if len(source) or len(target)
        ]
        for batch in self._batches(sorted(real, key=lambda pair: pair.lengths, reverse=True)):
            for pair, logs in zip(batch, self._forced(batch), strict=True):
                found[pair.row] = self._result(pair, logs)
        self.num_scored += len(pairs)
        return [found[row] for row in range(len(pairs))]

    def _fitting(self, pair: _Pair) -> _Pair:
        """The pair, or as much of it as is read at once."""
        most = self.longest_source - 1, self.longest_target - 1
        if len(pair.source) <= most[0] and len(pair.target) <= most[1]:
            return pair
        told = (
            f"line {pair.number}: {len(pair.source)} source and {len(pair.target)} target pieces, more than the "
            f"{most[0]} and {most[1]} read at once"
        )
        if self.on_long == "error":
            raise DataError(f"{told}; shorten it, or have it cut by --on-long cut")
        if not self.num_cut:
            _log.warning("%s: only its beginning is scored (said once)", told)
        self.num_cut += 1
        return _Pair(pair.row, pair.number, pair.source[: most[0]], pair.target[: most[1]])

    def _batches(self, pairs: Sequence[_Pair]) -> Iterator[list[_Pair]]:
        """Pairs of like length, at most ``batch_size`` together and of a bounded number of tokens, padding counted."""
        size = self.translator.decoding.batch_size
        batch: list[_Pair] = []
        widest = (0, 0)
        for pair in pairs:
            wider = max(widest[0], pair.lengths[0]), max(widest[1], pair.lengths[1])
            if batch and (len(batch) == size or (len(batch) + 1) * max(wider) > size * TOKENS_A_SENTENCE):
                yield batch
                batch, wider = [], pair.lengths
            batch.append(pair)
            widest = wider
        if batch:
            yield batch

    def _forced(self, pairs: Sequence[_Pair]) -> list[list[float]]:
        """The logarithms of every target token and EOS; where memory does not suffice, by halves, down to one pair."""

        def too_much(pair: _Pair) -> str:
            return (
                f"line {pair.number}: out of memory over one pair of {len(pair.source)} source and {len(pair.target)} "
                f"target pieces: shorten it"
            )

        return in_halves(self._batch, pairs, too_much, "pairs")

    def _batch(self, pairs: Sequence[_Pair]) -> list[list[float]]:
        """Pairs forced through the model together."""
        tokenizer = self.translator.tokenizers.target
        batch = collate(
            [(pair.source, pair.target) for pair in pairs],
            range(len(pairs)),
            pad_id=tokenizer.pad_id,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
        ).to(self.translator.device)
        try:
            rows = token_log_probabilities(self.model, batch).double().cpu()
        except RuntimeError as error:
            if is_out_of_memory(error) and self.translator.device.type == "cuda":
                torch.cuda.empty_cache()
            raise
        if not torch.isfinite(rows).all():
            raise NmtError(
                f"line {pairs[int((~torch.isfinite(rows)).any(dim=1).nonzero()[0])].number}: the model's output is "
                "not a number: its weights are damaged or its training diverged"
            )
        return [row[: pair.lengths[1]].tolist() for row, pair in zip(rows, pairs, strict=True)]

    def _result(self, pair: _Pair, logs: Sequence[float]) -> PairScore:
        tokenizer = self.translator.tokenizers.target
        total = math.fsum(logs)
        return PairScore(
            log_probability=total,
            score=total / length_penalty(len(logs), self.translator.decoding),
            pieces=tuple(tokenizer.pieces([*pair.target, tokenizer.eos_id])),
            token_log_probabilities=tuple(logs),
        )


def _encode(tokenizer: Tokenizer, line: str) -> list[int]:
    """The ids of a line; none where it is blank, as in translation."""
    return tokenizer.encode(line) if line.strip() else []
