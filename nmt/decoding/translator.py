"""Text in, text out: what stands between lines and search.

Lines are taken a window at a time, the window's sentences are sorted by length and searched in batches, and the
translations come back in the order of the lines. One line gives one translation, whatever is in it:

- a blank line gives a blank one, and the model never sees it;
- a line longer than the model can read, or longer than :data:`LONGEST` pieces, is cut into parts
  (:mod:`nmt.decoding.splitting`), whose translations are joined;
- where memory does not suffice for a batch, its halves are tried.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from nmt.checkpoint import Run
from nmt.config import DecodingConfig
from nmt.data.batching import pad
from nmt.data.tokenizer import Tokenizers
from nmt.decoding.beam import beam_search
from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.scoring import evaluating
from nmt.decoding.search import check_nbest, length_penalty
from nmt.decoding.splitting import split_line
from nmt.errors import ConfigError, NmtError, is_out_of_memory
from nmt.layers.positions import longest
from nmt.models.seq2seq import Seq2Seq

__all__ = ["LONGEST", "Translation", "Translator", "pick_device"]

LONGEST = 1024
"""Pieces of a source sentence, EOS counted; a longer line is cut into parts."""

TOGETHER = 256
"""Pieces of the parts of a line that is too long; a sentence in it is cut only where it is too long itself."""

WINDOW = 16
"""Batches a window: the more sentences are sorted by length together, the less padding."""

TOKENS_A_SENTENCE = 64
"""A batch of longer sentences holds fewer: ``batch_size`` times this many source tokens, padding counted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Translation:
    """A line and its translations, best first; a blank line has none.

    ``source_tokens`` and ``source_pieces`` are the line as the model read it, EOS left out. ``parts`` is the number of
    parts a line was cut into because it was too long. The n-th hypothesis of such a line is made of the n-th of each
    part; its log-probability is their sum, its attention theirs along the diagonal.

    Where attention was asked for, ``source_words`` names for each source token the word of ``source.split()`` it comes
    from, and ``target_words`` for each hypothesis and each of its tokens the word of ``text.split()``.
    """

    source: str
    source_tokens: tuple[int, ...]
    source_pieces: tuple[str, ...]
    hypotheses: tuple[Hypothesis, ...]
    parts: int = 1
    source_words: tuple[int, ...] = ()
    target_words: tuple[tuple[int, ...], ...] = ()

    @property
    def text(self) -> str:
        """The best translation; empty for a blank line."""
        return self.hypotheses[0].text if self.hypotheses else ""


@dataclass(frozen=True)
class _Part:
    """What is searched for on its own: a line, or a part of one that was too long.

    ``number`` is that of the line in the whole input, from 1; ``words`` says which word of the line a token comes from
    (empty without attention); ``joint`` stands between this part's translation and the next one's.
    """

    number: int
    tokens: tuple[int, ...]
    words: tuple[int, ...] = ()
    joint: str = ""


class Translator:
    """A model, its tokenizers and how to search; cheap to make around a model in memory.

    ``num_split`` counts the lines that were too long so far. Parameters and buffers are only read: what is translated
    under training leaves the model, its mode and its gradients as they were.
    """

    def __init__(
        self,
        model: Seq2Seq,
        tokenizers: Tokenizers,
        decoding: DecodingConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model
        self.tokenizers = tokenizers
        self.decoding = decoding
        self.device = torch.device(device)
        self.num_split = 0
        limits = [longest(model.encoder), longest(model.decoder)]
        self.longest_target = limits[1]
        self.longest_source = min([LONGEST, *(limit for limit in limits if limit is not None)])

    @staticmethod
    def load(folder: Path | str, *, which: str = "best", device: str = "auto", **decoding: Any) -> Translator:
        """The translator in a run folder; ``decoding`` overrides the recipe: ``Translator.load("run", beam=1)``.

        ``which`` is ``best``, ``average`` or ``step-N``; ``device`` is ``auto`` or what torch calls it. Raises
        CheckpointError for a run that cannot be read, ConfigError for an override or device that cannot be.
        """
        run = Run.open(Path(folder))
        place = pick_device(device)
        settings = _overridden(run.recipe.decoding, decoding)
        return Translator(run.load_model(which, device=str(place)), run.tokenizers, settings, place)

    @property
    def window(self) -> int:
        """How many lines are best given to :meth:`translate_window` at a time."""
        return WINDOW * self.decoding.batch_size

    def check(self, nbest: int) -> None:
        """Raise ConfigError where the beam cannot hold ``nbest`` hypotheses, before anything is read."""
        check_nbest(nbest, self.decoding)

    def translate(self, lines: Iterable[str], *, nbest: int = 1, attention: bool = False) -> Iterator[Translation]:
        """One translation a line, in order; lines are read a window ahead, and as translations are asked for.

        Raises ConfigError where ``nbest`` exceeds the beam, NmtError where the model gives no numbers or a single
        sentence does not fit into memory.
        """
        rest = iter(lines)
        first = 1
        while window := list(islice(rest, self.window)):
            yield from self.translate_window(window, nbest=nbest, attention=attention, first=first)
            first += len(window)

    def translate_window(
        self, lines: Sequence[str], *, nbest: int = 1, attention: bool = False, first: int = 1
    ) -> list[Translation]:
        """The translations of some lines, worked out together; ``first`` is the number of the first, for messages."""
        lines_parts = [self._parts(line, number, words=attention) for number, line in enumerate(lines, first)]
        parts = sorted(
            (part for line_parts in lines_parts for part in line_parts), key=lambda part: len(part.tokens), reverse=True
        )
        found: dict[int, list[Hypothesis]] = {}
        with evaluating(self.model):
            for batch in self._batches(parts):
                for part, hypotheses in zip(batch, self._search(batch, nbest, attention), strict=True):
                    found[id(part)] = hypotheses
        return [
            self._translation(line, line_parts, [found[id(part)] for part in line_parts])
            for line, line_parts in zip(lines, lines_parts, strict=True)
        ]

    def _parts(self, line: str, number: int, *, words: bool) -> list[_Part]:
        """The line as token ids: nothing for a blank one, several parts for one that is too long."""
        tokenizer = self.tokenizers.source
        if not line.strip():
            return []
        whole = self._part(line, number, words=words)
        if len(whole.tokens) < self.longest_source:
            return [whole] if whole.tokens else []
        texts = split_line(line, self.longest_source - 1, lambda text: len(tokenizer.encode(text)), together=TOGETHER)
        if not self.num_split:
            _log.warning(
                "line %d has %d pieces, more than the %d read at once: it is translated in %d parts, cut at the ends "
                "of sentences where that is possible (said once, later lines are only counted)",
                number,
                len(whole.tokens),
                self.longest_source - 1,
                len(texts),
            )
        self.num_split += 1
        starts = [0, *accumulate(map(len, texts))]
        parts = [
            self._part(text, number, words=words, before=line[:start])
            for text, start in zip(texts, starts, strict=False)
        ]
        return [part for part in parts if part.tokens]

    def _part(self, text: str, number: int, *, words: bool, before: str = "") -> _Part:
        """A line, or what of it comes after ``before``."""
        joint = " " if text[-1].isspace() else ""
        if not words:
            return _Part(number, tuple(self.tokenizers.source.encode(text)), joint=joint)
        tokens, own = self.tokenizers.source.encode_words(text)
        first = _word(before + text[: len(text) - len(text.lstrip())])
        return _Part(number, tuple(tokens), tuple(first + word for word in own), joint)

    def _batches(self, parts: Sequence[_Part]) -> Iterator[list[_Part]]:
        """Parts, the longest first, in batches of at most ``batch_size`` and of a bounded number of tokens."""
        size = self.decoding.batch_size
        start = 0
        while start < len(parts):
            length = len(parts[start].tokens) + 1
            count = max(1, min(size, size * TOKENS_A_SENTENCE // length))
            yield list(parts[start : start + count])
            start += count

    def _search(self, parts: Sequence[_Part], nbest: int, attention: bool) -> list[list[Hypothesis]]:
        """Search one batch; where memory does not suffice, its halves, down to single sentences."""
        tokenizer = self.tokenizers.target
        source, mask = pad(
            [[*part.tokens, self.tokenizers.source.eos_id] for part in parts], self.tokenizers.source.pad_id
        )
        try:
            return beam_search(
                self.model,
                source.to(self.device),
                mask.to(self.device),
                config=self.decoding,
                bos_id=tokenizer.bos_id,
                eos_id=tokenizer.eos_id,
                forbidden=(tokenizer.pad_id, tokenizer.unk_id),
                nbest=nbest,
                attention=attention,
                max_length=self.longest_target,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if len(parts) == 1:
            raise NmtError(
                f"line {parts[0].number}: out of memory over one sentence of {len(parts[0].tokens)} pieces: "
                f"use a smaller beam than {self.decoding.beam}"
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(parts) + 1) // 2
        _log.info("out of memory over %d sentences at once: going on with %d", len(parts), half)
        return self._search(parts[:half], nbest, attention) + self._search(parts[half:], nbest, attention)

    def _translation(self, line: str, parts: Sequence[_Part], found: Sequence[list[Hypothesis]]) -> Translation:
        """What search found, as text."""
        tokens = tuple(token for part in parts for token in part.tokens)
        decode = self.tokenizers.target.decode
        rows = [[replace(one, text=decode(one.tokens)) for one in row] for row in zip(*found, strict=False)]
        ranked = sorted(((self._joined(parts, row), row) for row in rows), key=lambda pair: -pair[0].score)
        return Translation(
            source=line,
            source_tokens=tokens,
            source_pieces=tuple(self.tokenizers.source.pieces(tokens)),
            hypotheses=tuple(hypothesis for hypothesis, _ in ranked),
            parts=max(1, len(parts)),
            source_words=tuple(word for part in parts for word in part.words),
            target_words=tuple(
                self._target_words(parts, row) for hypothesis, row in ranked if hypothesis.attention is not None
            ),
        )

    def _target_words(self, parts: Sequence[_Part], row: Sequence[Hypothesis]) -> tuple[int, ...]:
        """For each token the word of the whole text it belongs to."""
        words: list[int] = []
        text = ""
        for part, one in zip(parts, row, strict=True):
            words += (_word(text) + word for word in self.tokenizers.target.words(one.tokens))
            text += one.text + part.joint
        return tuple(words)

    def _joined(self, parts: Sequence[_Part], row: Sequence[Hypothesis]) -> Hypothesis:
        """One hypothesis of a line: of its only part, or of each part one, one after the other."""
        if len(row) == 1:
            return row[0]
        total = sum(one.log_probability for one in row)
        tokens = tuple(token for one in row for token in one.tokens)
        texts = [text for one, part in zip(row, parts, strict=True) for text in (one.text, part.joint)]
        attentions = [one.attention for one in row if one.attention is not None]
        return Hypothesis(
            tokens=tokens,
            log_probability=total,
            score=total / length_penalty(len(tokens) + len(row), self.decoding),
            attention=_diagonal(attentions) if attentions else None,
            text="".join(texts).strip(),
        )


def _word(before: str) -> int:
    """The index, among the words of a text, of the word that a character behind ``before`` belongs to."""
    return len(f"{before}x".split()) - 1


def _diagonal(attentions: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "T S"]:
    """Attention of the parts of a line as that of the line: one EOS stands for all, as source and as target."""
    rows = sum(attention.shape[0] - 1 for attention in attentions) + 1
    columns = sum(attention.shape[1] - 1 for attention in attentions) + 1
    whole = attentions[0].new_zeros(rows, columns)
    row = column = 0
    for attention in attentions:
        height, width = attention.shape[0] - 1, attention.shape[1] - 1
        whole[row : row + height, column : column + width] = attention[:-1, :-1]
        whole[row : row + height, -1] = attention[:-1, -1]
        row, column = row + height, column + width
    last = attentions[-1]
    whole[-1, column - last.shape[1] + 1 :] = last[-1]
    return whole


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one. Raises ConfigError where there is none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device that holds no numbers, such as meta, is none
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _overridden(decoding: DecodingConfig, changes: dict[str, Any]) -> DecodingConfig:
    """``decoding`` with some fields changed, checked as a recipe's are."""
    try:
        return DecodingConfig.model_validate({**decoding.model_dump(), **changes})
    except ValidationError as error:
        faults = (f"decoding.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError("; ".join(faults)) from error
