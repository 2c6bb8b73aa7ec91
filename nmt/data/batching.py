"""Batches: sentence pairs as padded id tensors, and the order in which training meets them.

The order is a pure function of the seed and the epoch: which batch comes when, and with subword sampling how each
sentence is cut, depend on nothing that happened before. A run that is resumed at (epoch, place) therefore goes on as if
it had never stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nmt.data.corpus import Pair
from nmt.data.order import Bits, Epoch, mix, random_of, shuffled
from nmt.data.ragged import Numbers, Ragged
from nmt.data.store import Store
from nmt.data.tokenizer import Tokenizers

__all__ = ["Batch", "BatchSource", "Mark", "Source", "Window", "collate", "cut_anew", "pad", "seeds_of"]

Mark = dict[str, Any]
"""What is needed beside a place to begin there, ready for JSON."""

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


@runtime_checkable
class Source(Protocol):
    """Where training gets its batches from."""

    def plan(self, epoch: int, start: int = 0, mark: Mark | None = None) -> Iterator[tuple[int, Callable[[], Batch]]]:
        """The batches of an epoch from place ``start`` on, each to be made by a call: who wants one in two need not
        make the other. Beside each stands the place after it. ``mark`` is that of the place.
        """
        ...

    def mark(self, place: int) -> Mark | None:
        """What :meth:`plan` needs to begin at a place it has just come by; None where the place says it all."""
        ...


class BatchSource:
    """The batches of each epoch, in an order of which every place can be had at once.

    A batch holds as many rows as fit: rows times the longest side, EOS counted, is at most ``batch_tokens``, and there
    is at least one row. The rows of an epoch are shuffled (:class:`~nmt.data.order.Epoch`) and cut into windows of
    :data:`WINDOW` batches' worth; in a window, which is all that is ever held of the corpora, rows of like target and
    source length make a batch, and the batches are shuffled. A corpus of weight w is seen w times an epoch: a fraction
    of it is drawn anew each epoch.

    With ``sampling`` > 0 (``tokenizer.sampling`` in the recipe) each sentence is cut anew each time it is seen, and
    batches are made by the lengths that come out, so that the budget holds.

    A place in an epoch is a number: 0 is its beginning, and each batch says which one comes after it, the number of
    rows in the windows before plus that of the batches before in its own. To begin anywhere one window is read.
    """

    def __init__(
        self, store: Store, tokenizers: Tokenizers, *, batch_tokens: int, seed: int, sampling: float = 0.0
    ) -> None:
        self.store, self.tokenizers = store, tokenizers
        self.batch_tokens, self.seed, self.sampling = batch_tokens, seed, sampling
        target = tokenizers.target
        self._special = (target.pad_id, target.bos_id, target.eos_id)
        self._window = max(1, int(WINDOW * batch_tokens / (store.mean_length + 1)))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from place ``start`` on."""
        return (make() for _, make in self.plan(epoch, start))

    def mark(self, place: int) -> Mark | None:
        return None

    def plan(self, epoch: int, start: int = 0, mark: Mark | None = None) -> Iterator[tuple[int, Callable[[], Batch]]]:
        order = Epoch(self.store.corpora, random_of(self.seed, epoch))
        number, done = divmod(start, self._window)
        for first in range(number * self._window, order.size, self._window):
            window, batches = self._read(order, epoch, first)
            for count, members in enumerate(batches[done:], done + 1):
                after = first + (count if count < len(batches) else self._window)
                yield after, functools.partial(window.batch, members, self._special)
            done = 0

    def _read(self, order: Epoch, epoch: int, first: int) -> tuple[Window, list[Numbers]]:
        """The window that begins at a place, with its batches: which of its sentences go together."""
        rows, times = order.rows(first, first + self._window)
        sides = self._cut_anew(rows, times, epoch) if self.sampling else self.store.take(rows)
        window = Window(rows, *sides)
        return window, window.batches(self.batch_tokens, random_of(self.seed, epoch, first // self._window + 1))

    def _cut_anew(self, rows: Numbers, times: Numbers, epoch: int) -> tuple[Ragged, Ragged]:
        """The sentences cut into pieces at random, as a function of seed, epoch, row and time alone."""
        store = self.store
        seeds = seeds_of(self.seed, epoch, rows + times * len(store))
        return cut_anew(self.tokenizers, store.texts(rows), seeds, self.sampling, store.max_length, store.take(rows))


def seeds_of(seed: int, epoch: int, places: Numbers) -> Bits:
    """64 random bits a place, from seed, epoch and place alone."""
    return mix(places, np.uint64(random_of(seed, epoch).random_raw()))


def cut_anew(
    tokenizers: Tokenizers,
    pairs: Iterable[Pair],
    seeds: Bits,
    strength: float,
    longest: int,
    plain: tuple[Ragged, Ragged],
) -> tuple[Ragged, Ragged]:
    """Sentence pairs cut into pieces at random, each by its seed; ``plain`` are the ids that they have otherwise.

    A pair that comes out longer than ``longest`` pieces a side, if that is not 0, keeps its plain ids.
    """
    sources, targets = [], []
    for number, (pair, seed) in enumerate(zip(pairs, seeds.tolist(), strict=True)):
        source = tokenizers.source.sample(pair.source, strength, seed & 0xFFFFFFFF)
        target = tokenizers.target.sample(pair.target, strength, seed >> 32)
        if longest and max(len(source), len(target)) > longest:
            source, target = (side[number].tolist() for side in plain)  # the limit is on what the model sees
        sources.append(source)
        targets.append(target)
    return Ragged.of(sources), Ragged.of(targets)


@dataclass(frozen=True)
class Window:
    """Sentence pairs among which like lengths are sought, and which rows they are."""

    rows: Numbers
    source: Ragged
    target: Ragged

    @property
    def lengths(self) -> tuple[Numbers, Numbers]:
        """Source and target lengths, EOS counted."""
        return self.source.lengths + 1, self.target.lengths + 1

    def batches(self, budget: int, random: np.random.Philox) -> list[Numbers]:
        """Which of its sentences go together, in random order; each batch has at most ``budget`` places a side."""
        batches = _bucket(*self.lengths, budget, random)
        return [batches[i] for i in shuffled(random, len(batches))]

    def batch(self, members: Numbers, special: tuple[int, int, int]) -> Batch:
        """Some members as a batch."""
        return _assemble(self.source.take(members), self.target.take(members), self.rows[members], special)


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
