"""The ids of many lines at once, several times as fast as SentencePiece gives them: a word is cut once.

BPE cuts each word by itself where no piece spans two, and text has few words that it has not had before. Normalising,
which knows no words, is left to SentencePiece, line by line. A line with anything in it that might be cut otherwise
than word by word goes to SentencePiece whole, and so does all text of a unigram model, whose cuts of a word may depend,
by the rounding of sums, on what stands before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.data.ragged import Ragged

__all__ = ["Encoder"]

REMEMBERED = 200_000
"""After so many words what is remembered is forgotten, to bound memory."""

LONGEST = 48
"""Longer words, which hardly ever come again, are not remembered: their lines go to SentencePiece."""

SPACE = "\u2581"


class Encoder:
    """Encodes lines with the pieces of one SentencePiece model; ``dtype``, of two or four bytes, is the type of ids."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        code = "H" if len(processor) <= 1 << 16 else "I"
        self.dtype: np.dtype[Any] = np.dtype(code)
        self._code = code
        self._words = _Words(processor, code) if _cuts_words(processor) else None

    def __call__(self, texts: Sequence[str]) -> Ragged:
        """The ids of each text, without BOS and EOS, in one flat array."""
        if self._words is None:
            found = [self._whole(text) for text in self._processor.encode(list(texts), num_threads=1)]
        else:
            found = []
            look_up = self._words.__getitem__
            for text, normal in zip(texts, self._processor.normalize(list(texts)), strict=True):
                try:
                    found.append(b"".join(map(look_up, normal.split(SPACE)[1:])))
                except _OtherwiseError:
                    found.append(self._whole(self._processor.encode(text)))
        offsets = np.zeros(len(found) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, found), dtype=np.int64, count=len(found)), out=offsets[1:])
        flat: npt.NDArray[Any] = np.frombuffer(b"".join(found), dtype=self.dtype)
        return Ragged(flat, offsets // self.dtype.itemsize)

    def _whole(self, ids: Sequence[int]) -> bytes:
        return array(self._code, ids).tobytes()


class _OtherwiseError(Exception):
    """A word that cannot be cut by itself."""


class _Words(dict[str, bytes]):
    """The ids of each word met so far, as bytes; of a new one they are found out."""

    def __init__(self, processor: Any, code: str) -> None:
        super().__init__()
        self._processor, self._code = processor, code

    def __missing__(self, word: str) -> bytes:
        """Cut a word. Raises _OtherwiseError where it is not certain that a line would cut it the same."""
        if len(word) > LONGEST or self._processor.normalize(word) != SPACE + word:
            raise _OtherwiseError
        if len(self) >= REMEMBERED:
            self.clear()
        ids = self[word] = array(self._code, self._processor.encode(word)).tobytes()
        return ids


def _cuts_words(processor: Any) -> bool:
    """Whether a model is BPE and cuts words one by one, each with the one space before it.

    That is so where every line begins with a space, no piece has one behind its front, and a space is a known piece.
    """
    special = (processor.is_control, processor.is_unknown, processor.is_byte)
    normal = [i for i in range(len(processor)) if not any(is_special(i) for is_special in special)]
    return (
        all(processor.get_score(i).is_integer() for i in normal)
        and not any(SPACE in processor.id_to_piece(i)[1:] for i in normal)
        and not processor.is_unknown(processor.piece_to_id(SPACE))
        and processor.normalize("a") == f"{SPACE}a"
    )
