"""Batches: sentence pairs as padded id tensors, and the order in which training meets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Batch", "collate", "pad"]


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

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def target_tokens(self) -> int:
        """The number of tokens to predict, EOS counted, padding not."""
        return int(self.target_mask.sum())


def pad(sequences: Sequence[Sequence[int]], value: int) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Sequences as one (B, L) id tensor filled up with ``value``, and its (B, L) mask, L being the longest length."""
    length = max((len(sequence) for sequence in sequences), default=0)
    ids = torch.full((len(sequences), length), value, dtype=torch.long)
    mask = torch.zeros((len(sequences), length), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = True
    return ids, mask


def collate(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], rows: Sequence[int], *, pad_id: int, bos_id: int, eos_id: int
) -> Batch:
    """Pairs of plain token ids (no BOS, no EOS yet) as a :class:`Batch`."""
    source, source_mask = pad([[*source, eos_id] for source, _ in pairs], pad_id)
    target_in, target_mask = pad([[bos_id, *target] for _, target in pairs], pad_id)
    target_out, _ = pad([[*target, eos_id] for _, target in pairs], pad_id)
    return Batch(source, source_mask, target_in, target_out, target_mask, torch.as_tensor(rows, dtype=torch.long))
