"""Attention Is All You Need (Vaswani et al. 2017, 1706.03762).

No recurrence: every position of a layer attends to the positions it may see,

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V                                                 (equation 1)
    FFN(x) = max(0, x W_1 + b_1) W_2 + b_2                                                          (equation 2)

in the encoder to the whole source, in the decoder to the target so far and, in a second attention, to the encoder's
states. Around every such part goes a residual connection with layer normalisation, in the paper's order (``post``),
LayerNorm(x + Sublayer(x)), or in the order that trains without care (``pre``), x + Sublayer(LayerNorm(x)) with one
more normalisation at the end (Xiong et al. 2020). With ``zero_init_residual`` every Sublayer(x) is 0 at first, so that
a stack begins as the identity and each layer adds what it has learnt (Goyal et al. 2017, section 5.1, of convolutions).

Nothing of this knows in which order tokens stand. Positions are added to their embeddings (section 3.5), and every head
may learn what to add to its scores for how far apart two tokens are (Raffel et al. 2020, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nmt.config import TransformerDecoder as DecoderConfig
from nmt.config import TransformerEncoder as EncoderConfig
from nmt.layers.attention import MultiHeadAttention
from nmt.layers.dropout import Dropout
from nmt.layers.embedding import TokenEmbedding
from nmt.layers.masks import causal_mask, masked_mean, window_mask
from nmt.layers.positions import RelativePositions, build_positions
from nmt.layers.stack import Stack
from nmt.models.interface import Decoded, Encoding, Step

__all__ = ["KeysValues", "TransformerDecoder", "TransformerEncoder", "TransformerMemory", "TransformerState"]


class FeedForward(nn.Module):
    """max(0, x W_1 + b_1) W_2 + b_2 (equation 2)."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch H"]:
        outer: Tensor = self.outer(self.dropout(torch.relu(self.inner(x))))
        return outer


class Residual(nn.Module):
    """A residual connection with layer normalisation before or after the part it goes around, and dropout (5.4).

    The part reads ``enter(x)``; with what it answers, the sum is ``leave(x, answer)``.
    """

    def __init__(self, config: EncoderConfig | DecoderConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)
        self.before = config.norm == "pre"

    def enter(self, x: Float[Tensor, "B L H"]) -> Float[Tensor, "B L H"]:
        """LayerNorm(x) where the norm comes before the part, x where it comes after."""
        normed: Tensor = self.norm(x) if self.before else x
        return normed

    def leave(self, x: Float[Tensor, "B L H"], answer: Float[Tensor, "B L H"]) -> Float[Tensor, "B L H"]:
        """x + Sublayer(LayerNorm(x)), or LayerNorm(x + Sublayer(x))."""
        summed: Tensor = x + self.dropout(answer)
        return summed if self.before else self.norm(summed)


def _attention(config: EncoderConfig | DecoderConfig, state_width: int) -> MultiHeadAttention:
    return MultiHeadAttention(config.width, config.heads, state_width, config.attention_dropout)


def _relative(config: EncoderConfig | DecoderConfig, *, causal: bool) -> RelativePositions | None:
    """Shared by the layers of a stack."""
    most = config.max_relative_positions
    return RelativePositions(config.heads, most, causal=causal) if most else None


def _initialize(module: nn.Module, config: EncoderConfig | DecoderConfig) -> None:
    """Xavier for every product, keys and values being two; zero for every bias and, if asked, a part's last product."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, MultiHeadAttention):
            with torch.no_grad():
                for weight in part.key_value.weight.chunk(2):
                    nn.init.xavier_uniform_(weight)
            if config.zero_init_residual:
                nn.init.zeros_(part.output.weight)
        elif isinstance(part, FeedForward) and config.zero_init_residual:
            nn.init.zeros_(part.outer.weight)


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network (section 3.1)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attention = _attention(config, config.width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.feed_forward_dropout)
        self.around_self = Residual(config)
        self.around_feed_forward = Residual(config)

    def forward(
        self, x: Float[Tensor, "B S H"], mask: Bool[Tensor, "B 1 #S S"], bias: Float[Tensor, "A S S"] | None = None
    ) -> Float[Tensor, "B S H"]:
        y = self.around_self.enter(x)
        attended, _ = self.self_attention(y, *self.self_attention.project(y), mask, bias)
        x = self.around_self.leave(x, attended)
        transformed = self.feed_forward(self.around_feed_forward.enter(x))
        return self.around_feed_forward.leave(x, transformed)


class TransformerEncoder(nn.Module):
    """Embeddings with positions, a stack of layers, and the mean state as the summary of the sentence."""

    def __init__(self, config: EncoderConfig, embedding: TokenEmbedding) -> None:
        super().__init__()
        self.width = config.width
        self.window = config.window
        self.layers = Stack(EncoderLayer(config) for _ in range(config.layers))
        _initialize(self.layers, config)
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.embedding = embedding
        self.positions = build_positions(config.positions, config.width, config.max_positions)
        self.relative = _relative(config, causal=False)

    def forward(self, source: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Encoding:
        length = source.shape[1]
        visible = mask[:, None, None, :]
        if self.window:
            # A padding row may see no real position within its window: it sees the sentence, and nobody sees it.
            near = window_mask(length, self.window, source.device)
            visible = visible & (near | ~mask[:, None, :, None])
        x = self.embedding(source, None if self.positions is None else self.positions(0, length))
        bias = None if self.relative is None else self.relative(0, length)
        for layer in self.layers:
            x = layer(x, visible, bias)
        states = self.norm(x)
        return Encoding(states, mask, masked_mean(states, mask))


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of one attention, split into heads."""

    keys: Float[Tensor, "B A L D"]
    values: Float[Tensor, "B A L D"]

    def select(self, rows: Int[Tensor, " R"]) -> KeysValues:
        return KeysValues(self.keys.index_select(0, rows), self.values.index_select(0, rows))


@dataclass(frozen=True)
class TransformerMemory:
    """Every layer's keys and values of the source."""

    layers: tuple[KeysValues, ...]
    mask: Bool[Tensor, "B S"]

    def select(self, rows: Int[Tensor, " R"]) -> TransformerMemory:
        return TransformerMemory(tuple(layer.select(rows) for layer in self.layers), self.mask.index_select(0, rows))


@dataclass(frozen=True)
class TransformerState:
    """Every layer's keys and values of the target so far; ``length`` is the number of its tokens."""

    layers: tuple[KeysValues, ...]
    length: int

    def select(self, rows: Int[Tensor, " R"]) -> TransformerState:
        return TransformerState(tuple(layer.select(rows) for layer in self.layers), self.length)


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the source, then a feed-forward network (section 3.1)."""

    def __init__(self, config: DecoderConfig, state_width: int) -> None:
        super().__init__()
        self.self_attention = _attention(config, config.width)
        self.cross_attention = _attention(config, state_width)
        self.feed_forward = FeedForward(config.width, config.feed_forward, config.feed_forward_dropout)
        self.around_self = Residual(config)
        self.around_cross = Residual(config)
        self.around_feed_forward = Residual(config)

    def forward(
        self,
        x: Float[Tensor, "B T H"],
        past: KeysValues | None,
        mask: Bool[Tensor, "1 1 T P"],
        source: KeysValues,
        source_mask: Bool[Tensor, "B 1 1 S"],
        bias: Float[Tensor, "A T P"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], KeysValues, Float[Tensor, "B A T S"]]:
        """The layer's output, its keys and values with the past's before them, and where each head looked."""
        y = self.around_self.enter(x)
        keys, values = self.self_attention.project(y)
        if past is not None:
            keys, values = torch.cat([past.keys, keys], dim=2), torch.cat([past.values, values], dim=2)
        attended, _ = self.self_attention(y, keys, values, mask, bias)
        x = self.around_self.leave(x, attended)
        y = self.around_cross.enter(x)
        attended, weights = self.cross_attention(y, source.keys, source.values, source_mask)
        x = self.around_cross.leave(x, attended)
        transformed = self.feed_forward(self.around_feed_forward.enter(x))
        x = self.around_feed_forward.leave(x, transformed)
        return x, KeysValues(keys, values), weights


class TransformerDecoder(nn.Module):
    """Embeddings with positions and a stack of layers; a step keeps the keys and values of the steps before."""

    def __init__(self, config: DecoderConfig, embedding: TokenEmbedding, state_width: int) -> None:
        super().__init__()
        self.width = config.width
        self.heads = config.heads
        self.alignment_layer = (config.alignment_layer or max(config.layers - 1, 1)) - 1
        self.layers = Stack(DecoderLayer(config, state_width) for _ in range(config.layers))
        _initialize(self.layers, config)
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.embedding = embedding
        self.positions = build_positions(config.positions, config.width, config.max_positions)
        self.relative = _relative(config, causal=True)

    def remember(self, encoding: Encoding) -> TransformerMemory:
        """The source's keys and values of every layer."""
        layers = (KeysValues(*layer.cross_attention.project(encoding.states)) for layer in self.layers)
        return TransformerMemory(tuple(layers), encoding.mask)

    def start(self, memory: TransformerMemory) -> TransformerState:
        """Nothing written yet."""
        keys = memory.layers[0].keys
        empty = keys.new_empty(keys.shape[0], self.heads, 0, self.width // self.heads)
        return TransformerState(tuple(KeysValues(empty, empty) for _ in self.layers), 0)

    def step(self, tokens: Int[Tensor, " B"], state: TransformerState, memory: TransformerMemory) -> Step:
        features, state, attention = self._run(tokens.unsqueeze(1), state, memory)
        return Step(features.squeeze(1), state, attention.squeeze(1))

    def forward(self, target: Int[Tensor, "B T"], memory: TransformerMemory, *, attention: bool = False) -> Decoded:
        features, _, weights = self._run(target, None, memory)
        return Decoded(features, weights if attention else None)

    def _run(
        self, target: Int[Tensor, "B T"], state: TransformerState | None, memory: TransformerMemory
    ) -> tuple[Float[Tensor, "B T H"], TransformerState, Float[Tensor, "B T S"]]:
        """The new positions through all layers; ``attention`` is the mean over the heads of the alignment layer."""
        start, length = (0 if state is None else state.length), target.shape[1]
        mask = causal_mask(start + length, target.device)[None, None, start:]
        source_mask = memory.mask[:, None, None, :]
        x = self.embedding(target, None if self.positions is None else self.positions(start, length))
        bias = None if self.relative is None else self.relative(start, length)
        present: list[KeysValues] = []
        attention = None
        for number, (layer, source) in enumerate(zip(self.layers, memory.layers, strict=True)):
            past = None if state is None else state.layers[number]
            x, now, weights = layer(x, past, mask, source, source_mask, bias)
            present.append(now)
            if number == self.alignment_layer:
                attention = weights.mean(dim=1)
        assert attention is not None  # alignment_layer is one of the layers: the recipe is checked
        return self.norm(x), TransformerState(tuple(present), start + length), attention
