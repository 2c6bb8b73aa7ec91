"""Batches: sentence pairs as padded id tensors, and the order in which training meets them.

The order is a pure function of the seed and the epoch: which batch comes when, and with subword sampling how each
sentence is cut, depend on nothing that happened before. A run that is resumed at (epoch, batch) therefore goes on as if
it had never stopped. Random numbers are Philox's raw ones, which no version of numpy draws otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nmt.data.ragged import Numbers, Ragged
from nmt.data.store import Store
from nmt.data.tokenizer import Tokenizers

__all__ = ["Batch", "BatchSource", "collate", "pad"]

WINDOW = 128
"""Sentences of like length are sought among about this many batches' worth of shuffled ones."""

FEW = 16
"""With fewer batches in a window, no batch is cut short for the sake of variety."""


@dataclass(frozen=True)
class Batch:
    """Sentence pairs as tensors, built once: nothing downstream looks for pad ids.

    A source ends with EOS. ``target_in`` starts with BOS, ``target_out`` ends with EOS, the rest is the same: position
    t of ``target_in`` is read to predict position t of ``target_out``. Masks are True where the token is real. ``rows``
    says which pair of the corpus each row is.
    """

    source: Int[Tensor, "B S"]
    source_mask: Bool[Tensor, "B S"]
    target_in: Int[Tensor, "B T"]
    target_out: Int[Tensor, "B T"]
    target_mask: Bool[Tensor, "B T"]
    rows: Int[Tensor, " B"]

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return Batch(
            source=self.source.to(device, non_blocking=True),
            source_mask=self.source_mask.to(device, non_blocking=True),
            target_in=self.target_in.to(device, non_blocking=True),
            target_out=self.target_out.to(device, non_blocking=True),
            target_mask=self.target_mask.to(device, non_blocking=True),
            rows=self.rows.to(device, non_blocking=True),
        )

    def halves(self) -> tuple[Batch, Batch]:
        """The first half of its rows, and the rest. Raises ValueError where there is one row only."""
        middle = len(self) // 2
        if not middle:
            raise ValueError("a batch of one row has no halves")
        parts = [getattr(self, field.name) for field in fields(self)]
        return Batch(*(part[:middle] for part in parts)), Batch(*(part[middle:] for part in parts))

    def twice(self) -> Batch:
        """All rows, and all of them again."""
        return Batch(*(torch.cat([getattr(self, field.name)] * 2) for field in fields(self)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def padded_tokens(self) -> int:
        """Rows times the longest side, padding counted: what ``training.batch_tokens`` bounds."""
        return len(self) * max(self.source.shape[1], self.target_in.shape[1])

    @property
    def target_tokens(self) -> int:
        """The number of tokens to predict, EOS counted, padding not."""
        return int(self.target_mask.sum())


def pad(sequences: Sequence[Sequence[int]], value: int) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Sequences as one (B, L) id tensor filled up with ``value``, and its (B, L) mask, L being the longest length."""
    ids, mask = Ragged.of(sequences).fill(value)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def collate(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], rows: Sequence[int], *, pad_id: int, bos_id: int, eos_id: int
) -> Batch:
    """Pairs of plain token ids (no BOS, no EOS yet) as a :class:`Batch`."""
    source = Ragged.of([source for source, _ in pairs])
    target = Ragged.of([target for _, target in pairs])
    return _assemble(source, target, np.asarray(rows, dtype=np.int64), (pad_id, bos_id, eos_id))


def _assemble(source: Ragged, target: Ragged, rows: Numbers, special: tuple[int, int, int]) -> Batch:
    """A batch of plain ids a side; ``special`` are the ids of padding, BOS and EOS."""
    pad_id, bos_id, eos_id = special
    each = np.arange(len(rows))
    source_ids, source_mask = source.fill(pad_id, extra=1)
    source_ids[each, source.lengths], source_mask[each, source.lengths] = eos_id, True
    target_out, target_mask = target.fill(pad_id, extra=1)
    target_in = np.concatenate([np.full((len(rows), 1), bos_id), target_out[:, :-1]], axis=1)
    target_out[each, target.lengths], target_mask[each, target.lengths] = eos_id, True
    return Batch(*map(torch.from_numpy, (source_ids, source_mask, target_in, target_out, target_mask, rows)))


# --------------------------------------------------------------------------------------------------------------- order


class BatchSource:
    """The batches of each epoch, by number.

    A batch holds as many rows as fit: rows times the longest side, EOS counted, is at most ``batch_tokens``, and there
    is at least one row. The rows of an epoch are shuffled and cut into windows of :data:`WINDOW` batches' worth; in a
    window rows of like target and source length make a batch, and the batches are shuffled. A corpus of weight w is
    seen w times an epoch: a fraction of it is drawn anew each epoch.

    With ``sampling`` > 0 (``tokenizer.sampling`` in the recipe) each sentence is cut anew each time it is seen, and
    batches are made by the lengths that come out, so that the budget holds. To begin in the middle of an epoch the
    sentences before are then cut again, some ten thousand a second; without sampling it takes no time.
    """

    def __init__(
        self, store: Store, tokenizers: Tokenizers, *, batch_tokens: int, seed: int, sampling: float = 0.0
    ) -> None:
        self.store, self.tokenizers = store, tokenizers
        self.batch_tokens, self.seed, self.sampling = batch_tokens, seed, sampling
        target = tokenizers.target
        self._special = (target.pad_id, target.bos_id, target.eos_id)
        mean = float(np.maximum(store.source.lengths, store.target.lengths).mean()) + 1
        self._window = max(1, int(WINDOW * batch_tokens / mean))
        self._counted: tuple[int, int] | None = None

    def num_batches(self, epoch: int) -> int:
        """How many batches an epoch has; with sampling all of it is cut to know."""
        if self._counted is None or self._counted[0] != epoch:
            self._counted = epoch, sum(len(batches) for _, batches in self._windows(epoch))
        return self._counted[1]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``start`` on."""
        return (make() for make in self.plan(epoch, start))

    def plan(self, epoch: int, start: int = 0) -> Iterator[Callable[[], Batch]]:
        """The same batches, each to be made by a call: who wants one in two need not make the other."""
        for window, batches in self._windows(epoch):
            for members in batches[start:]:
                yield functools.partial(window.batch, members, self._special)
            start = max(0, start - len(batches))

    def _windows(self, epoch: int) -> Iterator[tuple[_Window, list[Numbers]]]:
        """The windows of an epoch, each with its batches: which of its sentences go together."""
        places = _epoch_places(self.store, _random(self.seed, epoch))
        for number, first in enumerate(range(0, len(places), self._window), 1):
            chosen = places[first : first + self._window]
            rows = chosen % len(self.store)
            if self.sampling:
                window = _Window(rows, np.arange(len(rows)), *self._cut_anew(chosen, epoch))
            else:
                window = _Window(rows, rows, self.store.source, self.store.target)
            random = _random(self.seed, epoch, number)
            batches = _bucket(*window.lengths, self.batch_tokens, random)
            yield window, [batches[i] for i in _shuffled(random, len(batches))]

    def _cut_anew(self, places: Numbers, epoch: int) -> tuple[Ragged, Ragged]:
        """The sentences cut into pieces at random, as a function of seed, epoch and place alone."""
        store, tokenizers = self.store, self.tokenizers
        sources, targets = [], []
        seeds = _mix(self.seed, epoch, places)
        for place, seed in zip(places.tolist(), seeds.tolist(), strict=True):
            row = place % len(store)
            text = store.text(row)
            source = tokenizers.source.sample(text.source, self.sampling, seed & 0xFFFFFFFF)
            target = tokenizers.target.sample(text.target, self.sampling, seed >> 32)
            if store.max_length and max(len(source), len(target)) > store.max_length:
                source, target = (ids.tolist() for ids in store.ids(row))  # the limit is on what the model sees
            sources.append(source)
            targets.append(target)
        return Ragged.of(sources), Ragged.of(targets)


@dataclass(frozen=True)
class _Window:
    """Sentence pairs among which like lengths are sought: the rows they are, and where in two ragged arrays."""

    rows: Numbers
    places: Numbers
    source: Ragged
    target: Ragged

    @property
    def lengths(self) -> tuple[Numbers, Numbers]:
        """Source and target lengths, EOS counted."""
        source, target = (
            side.offsets[self.places + 1] - side.offsets[self.places] + 1 for side in (self.source, self.target)
        )
        return source, target

    def batch(self, members: Numbers, special: tuple[int, int, int]) -> Batch:
        """Some members as a batch."""
        places = self.places[members]
        return _assemble(self.source.take(places), self.target.take(places), self.rows[members], special)


def _epoch_places(store: Store, random: np.random.Philox) -> Numbers:
    """What an epoch sees, shuffled: rows, the second time a row is seen counted from the number of rows on, and so on.

    A corpus of weight 2.5 gives all its rows twice and half of them, drawn, once more.
    """
    parts = []
    for corpus in store.corpora:
        rows = np.arange(corpus.start, corpus.stop)
        whole = int(corpus.weight)
        parts += [rows + time * len(store) for time in range(whole)]
        drawn = math.ceil((corpus.weight - whole) * len(rows))
        parts.append(rows[_shuffled(random, len(rows))[:drawn]] + whole * len(store))
    places = np.concatenate(parts)
    return places[_shuffled(random, len(places))]


def _bucket(source: Numbers, target: Numbers, budget: int, random: np.random.Philox) -> list[Numbers]:
    """Sentences of like lengths in batches of at most ``budget`` places a side; in each, indices into the lengths.

    They are sorted by target, then source length, the source going up and down in turn: so there is no leap where the
    target grows by one. The first batch, of the shortest, takes a random share of the budget, or else the same
    sentences would meet in every epoch; where there are few batches it is not worth one more.
    """
    order = np.lexsort((np.where(target % 2, source, -source), target))
    longest = np.maximum(source, target)[order]
    share = random.random_raw() / 2**64 if longest.sum() > FEW * budget else 1.0
    batches, first, room = [], 0, int(share * budget)
    while first < len(order):
        widest = np.maximum.accumulate(longest[first : first + max(1, room // int(longest[first]))])
        fits = max(1, int(np.count_nonzero(widest * np.arange(1, len(widest) + 1) <= room)))
        batches.append(order[first : first + fits])
        first, room = first + fits, budget
    return batches


# -------------------------------------------------------------------------------------------------------------- chance


def _random(seed: int, *numbers: int) -> np.random.Philox:
    """A stream of random bits for one purpose; other numbers, other streams."""
    return np.random.Philox(np.random.SeedSequence([seed, *numbers]))


def _shuffled(random: np.random.Philox, number: int) -> Numbers:
    """The numbers below ``number`` in random order."""
    return np.argsort(random.random_raw(number), kind="stable")


def _mix(seed: int, epoch: int, places: Numbers) -> npt.NDArray[np.uint64]:
    """64 random bits a place, from seed, epoch and place alone (the finaliser of SplitMix64, Steele et al. 2014)."""
    bits = np.uint64(_random(seed, epoch).random_raw()) + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))
