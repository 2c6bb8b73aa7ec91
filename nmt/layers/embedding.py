"""Tokens to vectors."""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor, nn

from nmt.layers.dropout import Dropout

__all__ = ["TokenEmbedding", "new_embedding"]


def new_embedding(vocabulary: int, width: int) -> nn.Embedding:
    """A (V, E) table of variance 1 / E, so that it can serve as an output layer too (Press and Wolf 2017)."""
    table = nn.Embedding(vocabulary, width)
    nn.init.normal_(table.weight, std=1.0 / math.sqrt(width))
    return table


class TokenEmbedding(nn.Module):
    """Looks tokens up in a table that source, target and output layer may share, then drops out.

    ``word_dropout`` is the share of tokens whose vector is zeroed as a whole, so that a model learns to do without any
    one word (Gal and Ghahramani 2016, section 4.2; position by position as Sennrich et al., WMT 2016); ``dropout`` is
    that of single units. ``scale`` multiplies the vectors: sqrt(E) in a transformer, which brings them to variance 1
    beside the positions (Vaswani et al. 2017, section 3.4), 1 elsewhere.
    """

    def __init__(
        self, table: nn.Embedding, *, scale: float = 1.0, dropout: float = 0.0, word_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.table = table
        self.scale = scale
        self.dropout = Dropout(dropout)
        self.word_dropout = Dropout(word_dropout)

    @property
    def width(self) -> int:
        """E."""
        return self.table.embedding_dim

    def forward(
        self, tokens: Int[Tensor, "*batch"], positions: Float[Tensor, "L E"] | None = None
    ) -> Float[Tensor, "*batch E"]:
        """The vectors of ``tokens``, ``positions`` added before dropout where there are any."""
        vectors: Tensor = self.table(tokens)
        if self.scale != 1.0:
            vectors = vectors * self.scale
        if self.training and self.word_dropout.probability:
            vectors = vectors * self.word_dropout(vectors.new_ones(*tokens.shape, 1))
        if positions is not None:
            vectors = vectors + positions
        dropped: Tensor = self.dropout(vectors)
        return dropped
