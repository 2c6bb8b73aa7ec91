"""The Transformer, token by token and nothing else: what :mod:`nmt.models.transformer` computes, laid out for search.

- Queries, keys and values of one input are one product.
- Attention to the source is :mod:`nmt.models.packed_cross`'s.
- Keys and values of what is written stand in one tensor for all layers, a row of it a token. They are written where
  they belong, and when search goes on from other hypotheses only tokens that differ are copied: hypotheses of a
  sentence have most of what is written in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from nmt.layers.masks import masked_mean, window_mask
from nmt.layers.packing import Precision, pack, pack_layers, pack_rectified
from nmt.models.interface import Encoding, Step
from nmt.models.packed_cross import CrossAttention, Source, of_sentences
from nmt.models.packed_memory import Sharing
from nmt.models.transformer import (
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    Residual,
    TransformerDecoder,
    TransformerEncoder,
)

__all__ = ["PackedTransformerDecoder", "PackedTransformerEncoder", "PackedTransformerMemory", "Written"]

BLOCK = 16
"""Tokens by which the room for what is written grows."""

FEW = 16
"""Hypotheses that are sooner copied than compared."""


class _Residual:
    """:class:`~nmt.models.transformer.Residual` without dropout; what it is answered is written over."""

    def __init__(self, residual: Residual) -> None:
        self.before = residual.before
        self.norm = _Norm(residual.norm)

    def enter(self, x: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
        return self.norm(x) if self.before else x

    def leave(self, x: Float[Tensor, "R H"], answer: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
        return self.end(answer.add_(x))

    def end(self, summed: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
        return summed if self.before else self.norm(summed)


class _Norm:
    """Layer normalisation, or nothing at all."""

    def __init__(self, norm: nn.LayerNorm | nn.Identity) -> None:
        # Looked up once: a module takes longer to find its weights than to use them on a few rows.
        self.how = (
            (norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
            if isinstance(norm, nn.LayerNorm)
            else None
        )

    def __call__(self, x: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
        return x if self.how is None else torch.layer_norm(x, *self.how)


class _FeedForward:
    """max(0, x W_1 + b_1) W_2 + b_2."""

    def __init__(self, part: FeedForward, precision: Precision, *, few: bool = True) -> None:
        self.inner = pack_rectified(part.inner, precision, few=few)
        self.outer = pack_layers([part.outer], precision, few=few)

    def __call__(self, x: Float[Tensor, "R H"]) -> Float[Tensor, "R H"]:
        return self.outer(self.inner(x))


class _EncoderLayer:
    """:class:`~nmt.models.transformer.EncoderLayer` over the rows of all sentences.

    Its mask says what may be looked at, or what is added to scores: -inf where nothing may.
    """

    def __init__(self, layer: EncoderLayer, precision: Precision) -> None:
        attention = layer.self_attention
        self.heads = attention.heads
        self.all = pack_layers([attention.query, attention.key_value], precision, few=False)
        self.output = pack_layers([attention.output], precision, few=False)
        self.feed_forward = _FeedForward(layer.feed_forward, precision, few=False)
        self.around_self = _Residual(layer.around_self)
        self.around_feed_forward = _Residual(layer.around_feed_forward)

    def __call__(
        self, x: Float[Tensor, "R H"], count: int, mask: Shaped[Tensor, "#B #A #S S"] | None
    ) -> Float[Tensor, "R H"]:
        made = self.all(self.around_self.enter(x)).view(count, -1, 3, self.heads, x.shape[1] // self.heads)
        queries, keys, values = made.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(queries, keys, values, mask)
        x = self.around_self.leave(x, self.output(attended.transpose(1, 2).reshape(x.shape)))
        return self.around_feed_forward.leave(x, self.feed_forward(self.around_feed_forward.enter(x)))


class PackedTransformerEncoder:
    """:class:`~nmt.models.transformer.TransformerEncoder`, for reading only."""

    def __init__(self, encoder: TransformerEncoder, precision: Precision) -> None:
        self.encoder = encoder
        self.layers = [_EncoderLayer(layer, precision) for layer in encoder.layers]
        self.norm = _Norm(encoder.norm)

    def __call__(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Encoding:
        count, length = source.shape
        window = self.encoder.window
        visible = None if mask.all() else mask[:, None, None, :]
        if window:
            # As in the encoder itself: who is padding sees the sentence, and nobody sees it.
            near = window_mask(length, window, source.device)
            visible = mask[:, None, None, :] & (near | ~mask[:, None, :, None])
        if self.encoder.relative is not None:
            bias = self.encoder.relative(0, length).unsqueeze(0)
            visible = bias if visible is None else bias.masked_fill(~visible, -math.inf)
        positions = None if self.encoder.positions is None else self.encoder.positions(0, length)
        x = self.encoder.embedding(source, positions).flatten(0, 1)
        for layer in self.layers:
            x = layer(x, count, visible)
        states = self.norm(x).view(count, length, -1)
        return Encoding(states, mask, masked_mean(states, mask))


@dataclass(frozen=True)
class PackedTransformerMemory:
    """Every layer's view of the source; a sentence once for all its hypotheses.

    ``mask`` is 0 where a token is real and -inf where it is not, None where all are.
    """

    sharing: Sharing
    heads: int
    sources: tuple[Source, ...]
    mask: Float[Tensor, "BA 1 S"] | None

    def select(self, rows: Int[Tensor, " R"]) -> PackedTransformerMemory:
        sharing, sentences = self.sharing.select(rows)
        if sentences is None:
            return replace(self, sharing=sharing)
        sources = tuple(source.select(sentences) for source in self.sources)
        mask = None if self.mask is None else of_sentences(self.mask, sentences, self.heads)
        return replace(self, sharing=sharing, sources=sources, mask=mask)


class Written:
    """Keys and values of the ``length`` tokens that each of R hypotheses has so far.

    ``room`` (2N L R H) holds them for the N layers, keys and values in turns; ``origins`` (L R) tells two tokens of one
    position apart, None where there are so few hypotheses that they are copied as they are, into ``spare`` if that is
    there. Used up by :meth:`select` and by the step that takes it: both write over what is there.
    """

    def __init__(
        self,
        room: Float[Tensor, "N L R H"],
        length: int,
        *,
        origins: Int[Tensor, "L R"] | None = None,
        spare: Float[Tensor, "N L R H"] | None = None,
    ) -> None:
        self.room = room
        self.length = length
        if origins is None and room.shape[2] > FEW:
            origins = torch.arange(room.shape[2], device=room.device).repeat(room.shape[1], 1)
        self.origins = origins
        self.spare = spare

    def longer(self) -> Written:
        """The same, with room for one more token, which is not there yet."""
        room, origins, spare = self.room, self.origins, self.spare
        if self.length == room.shape[1]:
            room, spare = torch.cat([room, room.new_empty(len(room), BLOCK, *room.shape[2:])], dim=1), None
            if origins is not None:
                origins = torch.cat([origins, origins.new_empty(BLOCK, origins.shape[1])])
        if origins is not None:
            torch.arange(origins.shape[1], out=origins[self.length])
        return Written(room, self.length + 1, origins=origins, spare=spare)

    def select(self, rows: Int[Tensor, " R"]) -> Written:
        """What the given rows have written, in that order."""
        room, origins, length = self.room, self.origins, self.length
        longest, count = room.shape[1:3]
        if len(rows) != count:
            chosen = None if origins is None or len(rows) <= FEW else origins.index_select(1, rows)
            kept = room.new_empty(len(room), longest, len(rows), room.shape[3])
            for before, after in zip(room[:, :length].unbind(0), kept[:, :length].unbind(0), strict=True):
                torch.index_select(before, 1, rows, out=after)
            return Written(kept, length, origins=chosen)
        if origins is None:
            spare = torch.empty_like(room) if self.spare is None else self.spare
            return Written(torch.index_select(room, 2, rows, out=spare), length, spare=room)
        wanted = origins[:length].index_select(1, rows)
        places = (wanted != origins[:length]).flatten().nonzero().squeeze(1)
        of_row = places % count
        sources = places - of_row + rows[of_row]
        flat = room.view(len(room), longest * count, -1)
        flat.index_copy_(1, places, flat.index_select(1, sources))
        origins[:length] = wanted
        return Written(room, length, origins=origins)


class _DecoderLayer:
    """:class:`~nmt.models.transformer.DecoderLayer`, one token a row."""

    def __init__(self, layer: DecoderLayer, precision: Precision) -> None:
        attention = layer.self_attention
        self.heads = attention.heads
        query, key_value, scale = (
            attention.query,
            attention.key_value,
            (attention.output.in_features // attention.heads) ** -0.5,
        )
        weights = torch.cat([query.weight * scale, key_value.weight])
        self.all = pack(weights, torch.cat([query.bias * scale, key_value.bias]), precision, narrow=True)
        self.output = pack_layers([attention.output], precision)
        self.cross = CrossAttention(layer.cross_attention, precision)
        self.feed_forward = _FeedForward(layer.feed_forward, precision)
        self.around_self = _Residual(layer.around_self)
        self.around_cross = _Residual(layer.around_cross)
        self.around_feed_forward = _Residual(layer.around_feed_forward)

    def __call__(
        self,
        x: Float[Tensor, "R H"],
        past: Float[Tensor, "2 L R A D"],
        last: Float[Tensor, "2 R A D"],
        bias: Float[Tensor, "L 1 A 1"] | None,
        source: Source,
        memory: PackedTransformerMemory,
    ) -> tuple[Float[Tensor, "R H"], Float[Tensor, "BA n S"]]:
        """The layer's output, and where each head looked; ``last`` of the keys and values of ``past`` are written,
        ``bias`` is added to the scores of keys.
        """
        rows, width = x.shape
        keys, values = past.unbind(0)
        made = self.all(self.around_self.enter(x)).view(rows, 3, self.heads, -1).transpose(0, 1)
        last.copy_(made[1:])
        # One query a row is too little for a product of matrices, whose calls would cost more than the sums.
        scores = (keys * made[0]).sum(dim=-1, keepdim=True)
        weights = (scores if bias is None else scores.add_(bias)).softmax(dim=0)
        attended = (values * weights).sum(dim=0).view(rows, width)
        x = self.around_self.leave(x, self.output(attended))
        summed, weights = source.add(x, self.around_cross.enter(x), memory.sharing.places, memory.mask)
        x = self.around_cross.end(summed)
        return self.around_feed_forward.leave(x, self.feed_forward(self.around_feed_forward.enter(x))), weights


class _Looked(Step):
    """A step whose ``attention``, the mean of where its heads looked, is worked out when it is asked for."""

    weights: Float[Tensor, "BA n S"]
    heads: int

    def __init__(
        self, features: Float[Tensor, "R H"], state: Written, weights: Float[Tensor, "BA n S"], heads: int
    ) -> None:
        vars(self).update(features=features, state=state, weights=weights, heads=heads)

    @cached_property
    def attention(self) -> Float[Tensor, "R S"]:
        """A distribution over the source a row."""
        weights = self.weights.to(self.features.dtype)
        return weights.view(-1, self.heads, *weights.shape[1:]).mean(dim=1).flatten(0, 1)


class PackedTransformerDecoder:
    """:class:`~nmt.models.transformer.TransformerDecoder`, for writing only."""

    def __init__(self, decoder: TransformerDecoder, precision: Precision) -> None:
        self.width, self.heads, self.alignment_layer = decoder.width, decoder.heads, decoder.alignment_layer
        self.table, self.scale = decoder.embedding.table.weight.detach(), decoder.embedding.scale
        self.positions, self.relative = decoder.positions, decoder.relative
        self.layers = [_DecoderLayer(layer, precision) for layer in decoder.layers]
        self.norm = _Norm(decoder.norm)

    def embed(self, tokens: Int[Tensor, " R"], position: int) -> Float[Tensor, "R H"]:
        """The vectors of tokens that all stand at ``position``."""
        vectors = self.table.index_select(0, tokens)
        if self.positions is None:
            return vectors.mul_(self.scale)
        return torch.add(self.positions(position, 1), vectors, alpha=self.scale)

    def remember(self, encoding: Encoding) -> PackedTransformerMemory:
        states, real = encoding.states, encoding.mask
        mask = None
        if not real.all():
            mask = states.new_zeros(real.shape).masked_fill_(~real, -math.inf)
            mask = mask.repeat_interleave(self.heads, dim=0).unsqueeze(1)
        sources = tuple(layer.cross.remember(states, is_whole=mask is None) for layer in self.layers)
        mask = None if mask is None else mask.to(sources[0].keys.dtype)
        return PackedTransformerMemory(Sharing(len(states)), self.heads, sources, mask)

    def start(self, memory: PackedTransformerMemory) -> Written:
        count = memory.sharing.count * memory.sharing.places
        return Written(memory.sources[0].keys.new_empty(2 * len(self.layers), BLOCK, count, self.width), 0)

    def step(self, tokens: Int[Tensor, " R"], state: Written, memory: PackedTransformerMemory) -> Step:
        written = state.longer()
        position, heads = written.length - 1, self.heads
        room = written.room.view(len(self.layers), 2, *written.room.shape[1:3], heads, -1)
        past, last = room[:, :, : written.length].unbind(0), room[:, :, position].unbind(0)
        x = self.embed(tokens, position)
        bias = None
        if self.relative is not None:
            bias = self.relative(position, 1).permute(2, 1, 0).unsqueeze(3).to(room.dtype)
        looked: Tensor | None = None
        for number, (layer, source) in enumerate(zip(self.layers, memory.sources, strict=True)):
            x, weights = layer(x, past[number], last[number], bias, source, memory)
            if number == self.alignment_layer:
                looked = weights
        assert looked is not None  # alignment_layer is one of the layers: the recipe is checked
        return _Looked(self.norm(x), written, looked, heads)
