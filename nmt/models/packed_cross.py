"""A Transformer's attention to the source, token by token and nothing else, laid out for search.

- The hypotheses of a sentence share its keys and values: they are several queries of one attention.
- Where one sentence is translated alone, what projects queries is multiplied into its keys and what projects the answer
  into its values: two products are left of four, and they are as wide as the sentence is long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nmt.layers.attention import MultiHeadAttention
from nmt.layers.packing import Precision, as_multiplied, pack, pack_layers

__all__ = ["CrossAttention", "ManySources", "OneSource", "Source", "of_sentences"]

WIDE = 2
"""How many times as wide as the model the products of one sentence may be: of a longer one, four narrow products."""


class CrossAttention:
    """:class:`~nmt.layers.attention.MultiHeadAttention` to sources that are known before the first query."""

    def __init__(self, attention: MultiHeadAttention, precision: Precision) -> None:
        self.heads = attention.heads
        # What attention works on it works on in the type of products; queries are divided by sqrt(D) beforehand.
        scale = (attention.query.out_features // attention.heads) ** -0.5
        queries, query_bias = attention.query.weight.detach() * scale, attention.query.bias.detach() * scale
        self.query = pack(queries, query_bias, precision, narrow=True)
        self.key_value = pack_layers([attention.key_value], precision, few=False, narrow=True)
        self.output = pack_layers([attention.output], precision)
        query, output = (as_multiplied(weight, precision) for weight in (queries, attention.output.weight))
        # Of each head: (A H D), (A D), (A D H). Rounding what comes out of a product once more, or not, is another
        # precision, so where that is done nothing is multiplied into anything.
        self.projections = (
            None
            if query is None or output is None
            else (
                query.view(self.heads, -1, query.shape[1]).transpose(1, 2),
                query_bias.view(self.heads, -1),
                output.t().view(self.heads, -1, len(output)),
                attention.output.bias.detach() / self.heads,
            )
        )

    def remember(self, states: Float[Tensor, "B S H"], *, is_whole: bool) -> Source:
        """The sources with these encoder states; ``is_whole`` says that none of them is padded."""
        count, length, _ = states.shape
        made = self.key_value(states.flatten(0, 1)).view(count, length, 2, self.heads, -1)
        keys, values = made.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
        keys = keys.transpose(1, 2).contiguous()
        width = self.heads * keys.shape[1]
        if self.projections is None or count > 1 or not is_whole or self.heads * length > WIDE * width:
            return ManySources(self, keys, values.contiguous())
        query, query_bias, output, output_bias = self.projections
        return OneSource(
            self.heads,
            torch.bmm(query, keys).transpose(0, 1).reshape(width, -1),
            torch.bmm(query_bias.unsqueeze(1), keys).flatten(),
            (torch.bmm(values, output) + output_bias).flatten(0, 1),
        )


@dataclass(frozen=True)
class ManySources:
    """One layer's keys and values; a sentence once for all its hypotheses."""

    attention: CrossAttention
    keys: Float[Tensor, "BA D S"]
    values: Float[Tensor, "BA S D"]

    def select(self, sentences: Int[Tensor, " B"]) -> ManySources:
        """The given sentences."""
        heads = self.attention.heads
        keys, values = (of_sentences(part, sentences, heads) for part in (self.keys, self.values))
        return replace(self, keys=keys, values=values)

    def add(
        self, x: Float[Tensor, "R H"], entered: Float[Tensor, "R H"], places: int, mask: Float[Tensor, "BA 1 S"] | None
    ) -> tuple[Float[Tensor, "R H"], Float[Tensor, "BA n S"]]:
        """``x`` and what is found for the queries of ``entered``, in one, and where each head looked.

        A sentence has n = ``places`` rows. ``mask`` is 0 where a token is real and -inf where it is not.
        """
        rows, width = x.shape
        heads = self.attention.heads
        queries = self.attention.query(entered)
        if places == rows:  # of one sentence: the product takes the heads as they stand
            queries = queries.view(rows, heads, -1).transpose(0, 1)
        else:
            queries = queries.view(-1, places, heads, width // heads).transpose(1, 2)
            queries = queries.reshape(-1, places, width // heads)
        scores = torch.bmm(queries, self.keys) if mask is None else torch.baddbmm(mask, queries, self.keys)
        weights = scores.softmax(dim=-1)
        attended = torch.bmm(weights, self.values)
        if places == rows:
            attended = attended.transpose(0, 1).reshape(rows, width)
        else:
            attended = attended.view(-1, heads, places, width // heads).transpose(1, 2).reshape(rows, width)
        return self.attention.output(attended).add_(x), weights


@dataclass(frozen=True)
class OneSource:
    """One layer's keys and values of the only sentence, projections multiplied in.

    With queries x W^Q_a + b^Q_a, divided by sqrt(D), head a scores x (W^Q_a K_a^T) + b^Q_a K_a^T, and with its weights
    w_a the answer is sum_a w_a (V_a W^O_a) + b^O; since each w_a adds up to 1, rows of V_a W^O_a have their share of
    b^O in them.
    """

    heads: int
    keys: Float[Tensor, "H AS"]
    bias: Float[Tensor, " AS"]
    values: Float[Tensor, "AS H"]

    def select(self, sentences: Int[Tensor, " B"]) -> OneSource:
        """The sentence, which is the only one, whoever asks for it."""
        return self

    def add(
        self, x: Float[Tensor, "R H"], entered: Float[Tensor, "R H"], places: int, mask: Float[Tensor, "BA 1 S"] | None
    ) -> tuple[Float[Tensor, "R H"], Float[Tensor, "A R S"]]:
        """As :meth:`ManySources.add`; nothing is masked."""
        rows = len(x)
        scores = torch.addmm(self.bias, entered, self.keys).view(rows, self.heads, -1)
        weights = scores.softmax(dim=-1)
        return torch.addmm(x, weights.view(rows, -1), self.values), weights.transpose(0, 1)


Source: TypeAlias = ManySources | OneSource


def of_sentences(part: Float[Tensor, "BA L W"], sentences: Int[Tensor, " C"], heads: int) -> Float[Tensor, "CA L W"]:
    """What belongs to the given sentences, of each of which there is a matrix a head."""
    return part.view(-1, heads, *part.shape[1:]).index_select(0, sentences).flatten(0, 1)
