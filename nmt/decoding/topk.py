"""The largest few of many: exact, and faster than sorting out the whole vocabulary.

In two stages: cut a row into chunks, take the maximum of each, and look further only into the k chunks with the largest
maxima. Each of the k largest values lies in one of these: a chunk left out has a maximum that is no larger than k other
values. Maxima cost a fraction of ``torch.topk`` over the row.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nmt.decoding.search import on_host

__all__ = ["first_of_rows", "top_k", "top_k_on_host"]

CHUNK = 64
"""Neighbours whose maximum the first stage takes."""

FEW = 32_768
"""So few values, all rows together, are looked through as they are: a second stage costs more calls than it saves."""


def top_k(values: Float[Tensor, "R V"], k: int) -> tuple[Float[Tensor, "R K"], Int[Tensor, "R K"]]:
    """The ``k`` largest values of each row and where they stand, largest first, equal ones by position.

    ``topk`` leaves the order of equal ones open.
    """
    best, at, chunks = _largest(values, k)
    positions = at if chunks is None else chunks.gather(1, at // CHUNK) * CHUNK + at % CHUNK
    positions, order = positions.sort(dim=1)
    best, by_value = best.gather(1, order).sort(dim=1, descending=True, stable=True)
    return best, positions.gather(1, by_value)


def top_k_on_host(values: Float[Tensor, "R V"], k: int) -> tuple[Float[np.ndarray, "R K"], Int[np.ndarray, "R K"]]:
    """The same, off the device as soon as there are few numbers left: the rest is done sooner there."""
    largest, where, looked_into = _largest(values, k)
    best, positions = on_host(largest), on_host(where)
    if looked_into is not None:
        chunks = on_host(looked_into)
        positions = chunks.take(positions // CHUNK + first_of_rows(chunks)) * CHUNK + positions % CHUNK
    if (best[:, 1:] == best[:, :-1]).any():
        order = np.lexsort((positions, -best)) + first_of_rows(best)
        best, positions = best.take(order), positions.take(order)
    return best, positions


def _largest(
    values: Float[Tensor, "R V"], k: int
) -> tuple[Float[Tensor, "R K"], Int[Tensor, "R K"], Int[Tensor, "R C"] | None]:
    """The largest values, largest first, and where they stand in the chunks of these numbers, or else in the row."""
    rows, width = values.shape
    count = width // CHUNK
    if count < 4 * k or values.numel() < FEW:
        best, at = values.topk(min(k, width))
        return best, at, None
    body = count * CHUNK
    table = values[:, :body].view(rows, count, CHUNK)
    chunks = table.amax(dim=2).topk(k, sorted=False).indices
    candidates = table.gather(1, chunks.unsqueeze(2).expand(-1, -1, CHUNK)).flatten(1)
    if body < width:  # the last one is shorter
        candidates = torch.cat([candidates, values[:, body:]], dim=1)
        chunks = torch.nn.functional.pad(chunks, (0, 1), value=count)
    best, at = candidates.topk(k)
    return best, at, chunks


def first_of_rows(table: np.ndarray) -> Int[np.ndarray, "R 1"]:
    """Where each row of a table begins when its rows stand one behind the other, as ``take`` counts them."""
    return np.arange(0, table.size, table.shape[1])[:, None]
