"""The recurrent decoders, token by token and nothing else: what their own modules compute, laid out for search.

- The hypotheses of a sentence share its annotations: they are several queries of one attention.
- Products of one input are one product, and so are two products that are added up.
- What the first layer and the readout make of a token's embedding depends on the token alone, and is kept.
- Of the keys of additive attention their powers are kept: :mod:`nmt.layers.additive`.
- tanh x = 2 sigmoid(2x) - 1, which a processor has done in a fifth of the time: weights are twice as large where a
  hyperbolic tangent follows, so that of an LSTM's gates there is one sigmoid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nmt.layers.additive import powers, reciprocals
from nmt.layers.attention import AdditiveScore, Score, attend
from nmt.layers.embedding import TokenEmbedding
from nmt.layers.packing import Precision, Product, pack, pack_layers
from nmt.layers.recurrent import GruCell, LstmCell
from nmt.models.bahdanau import BahdanauDecoder, GruState
from nmt.models.interface import Encoding, Step
from nmt.models.luong import LstmState, LuongDecoder
from nmt.models.packed_memory import Sharing
from nmt.models.recurrent import RecurrentMemory

__all__ = ["PackedBahdanauDecoder", "PackedLuongDecoder", "PackedRecurrentMemory"]

BLOCK = 16
"""Tokens, neighbours in the vocabulary, whose embeddings' products are made together."""

TABLE = 2**25
"""Numbers that a table of embeddings' products may have: 128 MiB in single precision."""


@dataclass(frozen=True)
class PackedRecurrentMemory:
    """A :class:`~nmt.models.recurrent.RecurrentMemory` of sentences that hypotheses share.

    ``powers`` are those of its keys, None where no score asks for them; ``large`` says which sentences have keys that
    are too large for it, None where none has.
    """

    sharing: Sharing
    sentences: RecurrentMemory
    powers: Float[Tensor, "B S K"] | None = None
    large: Bool[Tensor, " B"] | None = None

    def select(self, rows: Int[Tensor, " R"]) -> PackedRecurrentMemory:
        sharing, chosen = self.sharing.select(rows)
        if chosen is None:
            return replace(self, sharing=sharing)
        powers, large = (None if part is None else part.index_select(0, chosen) for part in (self.powers, self.large))
        return PackedRecurrentMemory(sharing, self.sentences.select(chosen), powers, large)


class _OfTokens:
    """Products of the embeddings of tokens, kept once they are made.

    They are made for a block of tokens at a time, the same whichever of them is asked for first: a product of other
    rows has other roundings, and what a token's numbers are must not depend on what was translated before.
    """

    def __init__(self, embedding: TokenEmbedding, weight: Float[Tensor, "G E"], bias: Tensor | None) -> None:
        self.embedding = embedding
        self.product = pack(weight, bias, "float32")
        count = embedding.table.num_embeddings
        self.is_kept = count * len(weight) <= TABLE and weight.device.type == "cpu"
        self.table = weight.detach().new_empty(count if self.is_kept else 0, len(weight))
        self.is_known = np.zeros(math.ceil(count / BLOCK), dtype=np.bool_)

    def __call__(self, tokens: Int[Tensor, " R"]) -> Float[Tensor, "R G"]:
        if not self.is_kept:
            return self.product(self.embedding(tokens))
        blocks = tokens.numpy() // BLOCK
        is_known = self.is_known[blocks]
        if not is_known.all():
            for block in np.unique(blocks[~is_known]).tolist():
                here = slice(block * BLOCK, (block + 1) * BLOCK)
                self.table[here] = self.product(self.embedding.table.weight[here] * self.embedding.scale)
                self.is_known[block] = True
        return self.table.index_select(0, tokens)


class _Attention:
    """A score whose query is already projected where it is additive, and the context that comes of it."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.energy = score.energy.weight[0].detach() if isinstance(score, AdditiveScore) else None

    def remember(self, sentences: RecurrentMemory) -> PackedRecurrentMemory:
        """The memory of a batch of sentences, each of which has one row yet."""
        sharing = Sharing(len(sentences.states))
        if self.energy is None:
            return PackedRecurrentMemory(sharing, sentences)
        made, large = powers(sentences.keys)
        return PackedRecurrentMemory(sharing, sentences, made, large if large.any() else None)

    def __call__(
        self, queries: Float[Tensor, "R Q"], memory: PackedRecurrentMemory
    ) -> tuple[Float[Tensor, "R C"], Float[Tensor, "R S"]]:
        sentences = memory.sentences
        several = queries.view(memory.sharing.count, memory.sharing.places, -1)
        if self.energy is None or memory.powers is None:
            scores = self.score(several, sentences.keys)
        else:
            # The sum of v_h is the same for all keys: softmax does not see it.
            scores = reciprocals(several, memory.powers) @ (-2 * self.energy)
            if memory.large is not None:
                added = (several.unsqueeze(2) + sentences.keys.unsqueeze(1)).tanh_() @ self.energy
                scores = torch.where(memory.large[:, None, None], added, scores)
        context, weights = attend(scores, sentences.states, sentences.mask.unsqueeze(1))
        return context.flatten(0, 1), weights.flatten(0, 1)


def _doubled(rows: Float[Tensor, "G ..."], gates: int) -> Float[Tensor, "G ..."]:
    """Rows of the weight or bias of a product for all ``gates``, those of the third, the candidate, twice as large."""
    width = len(rows) // gates
    first, candidate, last = rows.detach().tensor_split([2 * width, 3 * width])
    return torch.cat([first, 2 * candidate, last])


def _moves(layer: nn.Linear, gates: int) -> tuple[Float[Tensor, "G I"], Float[Tensor, " G"]]:
    """Weight and bias of such a product."""
    return _doubled(layer.weight, gates), _doubled(layer.bias, gates)


def _tangent(sigmoid: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
    """tanh x from sigmoid(2x), which is written over."""
    return sigmoid.mul_(2).sub_(1)


def _gru_move(
    projected: Float[Tensor, "R G"], recurrent: Float[Tensor, "R G"], hidden: Float[Tensor, "R H"]
) -> Float[Tensor, "R H"]:
    """:func:`~nmt.layers.recurrent.gru_move` from products that :func:`_moves` gives."""
    both = 2 * hidden.shape[1]
    reset, update = (projected[:, :both] + recurrent[:, :both]).sigmoid_().chunk(2, dim=1)
    candidate = _tangent(torch.addcmul(projected[:, both:], reset, recurrent[:, both:]).sigmoid_())
    return torch.lerp(candidate, hidden, update)


def _lstm_move(
    gates: Float[Tensor, "R G"], cell: Float[Tensor, "R H"]
) -> tuple[Float[Tensor, "R H"], Float[Tensor, "R H"]]:
    """:func:`~nmt.layers.recurrent.lstm_move` from products that :func:`_moves` gives, and twice the cell for it.

    ``gates`` are written over.
    """
    i, f, g, o = gates.sigmoid_().chunk(4, dim=1)
    cell = (f * cell).addcmul_(i, g, value=4).sub_(i, alpha=2)  # 2 (f c + i tanh)
    return _tangent(cell.sigmoid()).mul_(o), cell


class PackedBahdanauDecoder:
    """:class:`~nmt.models.bahdanau.BahdanauDecoder`, for writing only."""

    def __init__(self, decoder: BahdanauDecoder, precision: Precision) -> None:
        self.decoder = decoder
        self.width = decoder.first.width
        self.attention = _Attention(decoder.score)
        widths = [self.width, decoder.embedding.width, decoder.context.in_features]
        of_hidden, of_embedded, of_context = torch.split(decoder.readout.weight, widths, dim=1)
        first, second = decoder.first, decoder.second
        self.of_tokens = _OfTokens(
            decoder.embedding, *_beside(_moves(first.input, 3), (of_embedded, decoder.readout.bias))
        )
        # Where the state that asks is the state that moves, one product makes the query and the gates: with one layer,
        # and in a conditional GRU, where a state made of the last target token alone (``before``) does both.
        query = decoder.score.query if isinstance(decoder.score, AdditiveScore) else None
        moves = _moves(first.hidden if second is None else second, 3)
        self.before = None if second is None else pack(*_moves(first.hidden, 3), precision)
        self.asks_itself = query is not None and (second is not None or not decoder.above)
        self.query: Product | None = None
        if query is not None:
            if self.asks_itself:
                moves = _beside(moves, (query.weight, query.bias))
            else:
                self.query = pack(query.weight, query.bias, precision)
        self.of_moving = pack(*moves, precision)
        self.of_context = pack(torch.cat([_doubled(decoder.context.weight, 3), of_context]), None, precision)
        self.above = [_Layer(cell, 3, precision) for cell in decoder.above]
        self.of_hidden = pack(of_hidden, None, precision)

    def remember(self, encoding: Encoding) -> PackedRecurrentMemory:
        return self.attention.remember(self.decoder.remember(encoding))

    def start(self, memory: PackedRecurrentMemory) -> GruState:
        return self.decoder.start(memory.sentences).select(_rows(memory))

    def step(self, tokens: Int[Tensor, " R"], state: GruState, memory: PackedRecurrentMemory) -> Step:
        gates = 3 * self.width
        of_tokens = self.of_tokens(tokens)
        moving, queries, of_token = state.hidden[0], state.hidden[-1], of_tokens[:, :gates]
        if self.before is not None:
            moving = queries = _gru_move(of_token, self.before(moving), moving)
        recurrent = self.of_moving(moving)
        if self.asks_itself:
            queries = recurrent[:, gates:]
        elif self.query is not None:
            queries = self.query(queries)
        context, weights = self.attention(queries, memory)
        of_context = self.of_context(context)
        into = of_context[:, :gates] if self.before is not None else of_token + of_context[:, :gates]
        below = _gru_move(into, recurrent[:, :gates], moving)
        hidden = [below]
        for layer, previous in zip(self.above, state.hidden[1:], strict=True):
            below = _gru_move(layer.input(below), layer.hidden(previous), previous)
            hidden.append(below)
        pairs = self.of_hidden(below).add_(of_tokens[:, gates:]).add_(of_context[:, gates:])
        return Step(torch.maximum(*pairs.chunk(2, dim=1)), GruState(tuple(hidden)), weights)


class PackedLuongDecoder:
    """:class:`~nmt.models.luong.LuongDecoder`, for writing only. Cells in its states are twice as large."""

    def __init__(self, decoder: LuongDecoder, precision: Precision) -> None:
        self.decoder = decoder
        self.attention = _Attention(decoder.score)
        first = decoder.first
        self.of_tokens = _OfTokens(decoder.embedding, *_moves(first.input, 4))
        weight, bias = _moves(first.hidden, 4)
        if decoder.feed is not None:
            weight = torch.cat([weight, _doubled(decoder.feed.weight, 4)], dim=1)
        self.of_first = pack(weight, bias, precision)
        self.query = pack_layers([decoder.score.query], precision) if isinstance(decoder.score, AdditiveScore) else None
        self.above = [_Layer(cell, 4, precision) for cell in decoder.above]
        self.attentional = pack(2 * decoder.attentional.weight, None, precision)

    def remember(self, encoding: Encoding) -> PackedRecurrentMemory:
        return self.attention.remember(self.decoder.remember(encoding))

    def start(self, memory: PackedRecurrentMemory) -> LstmState:
        state = self.decoder.start(memory.sentences)
        return replace(state, cell=tuple(2 * cell for cell in state.cell)).select(_rows(memory))

    def step(self, tokens: Int[Tensor, " R"], state: LstmState, memory: PackedRecurrentMemory) -> Step:
        before = state.hidden[0]
        if self.decoder.input_feeding:
            before = torch.cat([before, state.attentional], dim=1)
        below, cell = _lstm_move(self.of_first(before).add_(self.of_tokens(tokens)), state.cell[0])
        hidden, cells = [below], [cell]
        for layer, previous, previous_cell in zip(self.above, state.hidden[1:], state.cell[1:], strict=True):
            below, cell = _lstm_move(layer.input(below).add_(layer.hidden(previous)), previous_cell)
            hidden.append(below)
            cells.append(cell)
        context, weights = self.attention(below if self.query is None else self.query(below), memory)
        attentional = _tangent(self.attentional(torch.cat([context, below], dim=1)).sigmoid_())
        return Step(attentional, LstmState(tuple(hidden), tuple(cells), attentional), weights)


class _Layer:
    """The two products of a layer above the first."""

    def __init__(self, cell: GruCell | LstmCell, gates: int, precision: Precision) -> None:
        self.input: Product = pack(*_moves(cell.input, gates), precision)
        self.hidden: Product = pack(*_moves(cell.hidden, gates), precision)


def _beside(*products: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Weights and biases of several products of one input as those of one, whose results stand side by side."""
    weights, biases = zip(*products, strict=True)
    return torch.cat(weights), torch.cat(biases)


def _rows(memory: PackedRecurrentMemory) -> Int[Tensor, " R"]:
    """Which sentence each row belongs to."""
    count, places = memory.sharing.count, memory.sharing.places
    return torch.arange(count, device=memory.sentences.final.device).repeat_interleave(places)
