"""Batches of a corpus that is read as it comes: nothing of it is kept, and it may be larger than any disk.

A stream is read a window at a time, and only within a window are sentences shuffled and those of like length put
together: a corpus whose sentences stand in order, by domain or length, wants to be shuffled before. Where a window
begins is known to ``datasets``, whose own state of the stream (``IterableDataset.state_dict``) is the mark that a
checkpoint keeps: training goes on from there to the very same batches.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from nmt.config import DataConfig
from nmt.data.batching import WINDOW, Batch, Mark, Window, cut_anew, seeds_of
from nmt.data.corpus import Chunk, Pair, PairStream, describe
from nmt.data.filters import Filters
from nmt.data.order import random_of
from nmt.data.preparing import Preparer
from nmt.data.tokenizer import Tokenizers
from nmt.errors import DataError

__all__ = ["StreamSource"]

TOKENS = 24
"""Tokens that a pair is taken to have on its longer side when a window is measured out."""


class StreamSource:
    """The batches of each pass over a stream; see :class:`~nmt.data.batching.BatchSource`, whose promises it keeps.

    A place is the number of pairs in the windows before, whatever the filters made of them, plus that of the batches
    before in its own window. What the filters make of the first window that is read goes to ``note``.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizers: Tokenizers,
        *,
        batch_tokens: int,
        seed: int,
        sampling: float = 0.0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        corpus = data.stream
        assert corpus is not None
        self.corpus, self.tokenizers = corpus, tokenizers
        self.batch_tokens, self.seed, self.sampling = batch_tokens, seed, sampling
        self.max_length = data.max_length
        target = tokenizers.target
        self._special = (target.pad_id, target.bos_id, target.eos_id)
        self._prepare, self._filters, self._note = Preparer(data, tokenizers), Filters(data), note
        self._window = max(1, WINDOW * batch_tokens // TOKENS)
        self._marks: dict[int, Mark | None] = {}

    def mark(self, place: int) -> Mark | None:
        """The state of the stream where the window begins that holds a place which :meth:`plan` has just come by."""
        return self._marks.get(place // self._window * self._window)

    def plan(self, epoch: int, start: int = 0, mark: Mark | None = None) -> Iterator[tuple[int, Callable[[], Batch]]]:
        """The batches of a pass from place ``start`` on, each to be made by a call, and beside each the place after it.

        Raises DataError for a stream that cannot be read, or of which the filters leave nothing.
        """
        number, done = divmod(start, self._window)
        stream = PairStream(self.corpus, mark)
        if mark is None and number:
            stream.read(number * self._window)
        self._marks = {number * self._window: mark}
        empty = start == 0
        for first in itertools.count(number * self._window, self._window):
            window = self._read(stream, epoch, first)
            if window is None:
                break
            self._marks = {first: self._marks[first], first + self._window: stream.mark()}
            batches = window.batches(self.batch_tokens, random_of(self.seed, epoch, first // self._window + 1))
            for count, members in enumerate(batches[done:], done + 1):
                empty = False
                after = first + (count if count < len(batches) else self._window)
                yield after, functools.partial(window.batch, members, self._special)
            done = 0
        if empty:
            raise DataError(f"{describe(self.corpus)}: nothing is left to train on; {self._filters.report.text()}")

    def _read(self, stream: PairStream, epoch: int, first: int) -> Window | None:
        """The next window, which begins at a place; None where the stream has ended."""
        pairs = stream.read(self._window)
        if not pairs:
            return None
        source, target = "\n".join(pair.source for pair in pairs), "\n".join(pair.target for pair in pairs)
        prepared = self._prepare(Chunk(source.encode(), target.encode(), first + 1, None))
        fresh = self._filters.report.read == 0
        keep = self._filters.keep(prepared.read, prepared.reasons)
        if fresh:
            self._note(f"the first window of {describe(self.corpus)}: {self._filters.report.text()}")
        kept = np.flatnonzero(keep)
        ids = prepared.source_ids.take(kept), prepared.target_ids.take(kept)
        if self.sampling:
            sides = prepared.source_text, prepared.target_text
            texts = (Pair(*(side[row].tobytes().decode() for side in sides)) for row in kept.tolist())
            seeds = seeds_of(self.seed, epoch, first + kept)
            ids = cut_anew(self.tokenizers, texts, seeds, self.sampling, self.max_length, ids)
        return Window(first + kept, *ids)
