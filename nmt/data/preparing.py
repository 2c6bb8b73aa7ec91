"""What is done to a chunk of pairs on its way into a store; it needs no other chunk, so that many can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nmt.config import DataConfig
from nmt.data.corpus import Chunk
from nmt.data.filters import Hashes, HeldOutLines, Reasons, hash_texts, is_blank, judge
from nmt.data.ragged import Ragged
from nmt.data.tokenizer import Tokenizers

__all__ = ["Prepared", "Preparer"]


@dataclass(frozen=True)
class Prepared:
    """A chunk of ``read`` pairs without those that have a blank side: R are left.

    Attributes:
        reasons: (R) why each would be dropped by itself, as :func:`~nmt.data.filters.judge` says.
        hashes: (R) the hash of each pair's text; none where duplicates are kept.
        source_ids, target_ids, source_text, target_text: (R) rows each, the texts in bytes of UTF-8.
    """

    read: int
    reasons: Reasons
    hashes: Hashes
    source_ids: Ragged
    target_ids: Ragged
    source_text: Ragged
    target_text: Ragged


class Preparer:
    """Tokenises chunks by a recipe's tokenizers and finds what its filters ask for.

    Where they ask for the lines of held-out sets: raises ConfigError where there are none, DataError where they cannot
    be read.
    """

    def __init__(self, data: DataConfig, tokenizers: Tokenizers) -> None:
        self._data, self._tokenizers = data, tokenizers
        self._held_out = HeldOutLines(data) if data.drop_held_out else None

    def __call__(self, chunk: Chunk) -> Prepared:
        """Prepare a chunk. Raises DataError, with file and line, for bytes that are not UTF-8."""
        sources, targets = chunk.lines()
        read = len(sources)
        if any(map(is_blank, sources)) or any(map(is_blank, targets)):
            real = [pair for pair in zip(sources, targets, strict=True) if not any(map(is_blank, pair))]
            sources, targets = [source for source, _ in real], [target for _, target in real]
        source_ids = self._tokenizers.source.encode_batch(sources)
        target_ids = self._tokenizers.target.encode_batch(targets)
        source_bytes, target_bytes = ([text.encode() for text in side] for side in (sources, targets))
        held_out = None if self._held_out is None else self._held_out.have(sources, targets)
        pairs = zip(source_bytes, target_bytes, strict=True) if self._data.drop_duplicates else ()
        return Prepared(
            read,
            judge(source_ids.lengths, target_ids.lengths, self._data, held_out),
            hash_texts(b"%b\n%b" % pair for pair in pairs),
            source_ids,
            target_ids,
            _in_bytes(source_bytes),
            _in_bytes(target_bytes),
        )


def _in_bytes(texts: Sequence[bytes]) -> Ragged:
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)), out=offsets[1:])
    return Ragged(np.frombuffer(b"".join(texts), dtype=np.uint8), offsets)
