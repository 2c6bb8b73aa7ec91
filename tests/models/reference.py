"""The three papers as slow programs: one sentence, one position, one head after another, in double precision.

Written from the equations, to be compared with the toolkit. Nothing here is batched, padded, masked or cached, and
nothing is shared with the toolkit but the recipe and the weights: vectors are numpy arrays, sentences are lists of
them, and what may not be looked at is not in the list.

``drop`` stands wherever dropout does. Given as a function that bends every element, it shows that the toolkit drops out
at the same places and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nmt.config import GruDecoder, GruEncoder, LstmDecoder, LstmEncoder, ModelConfig
from nmt.config import TransformerDecoder as TransformerDecoderConfig
from nmt.config import TransformerEncoder as TransformerEncoderConfig

Vector = NDArray[np.float64]
Weights = Mapping[str, Vector]
Drop = Callable[[Vector], Vector]


@dataclass(frozen=True)
class Answer:
    """What the model says of one pair of sentences: a row for each target token read."""

    states: list[Vector]
    final: Vector
    features: list[Vector]
    attention: list[Vector]
    logits: list[Vector]


def kept(x: Vector) -> Vector:
    """No dropout."""
    return x


def translate(
    config: ModelConfig, model: nn.Module, source: Sequence[int], target: Sequence[int], drop: Drop = kept
) -> Answer:
    """Read ``source`` (EOS last), then ``target`` (BOS first)."""
    weights = {name: array.detach().numpy().astype(np.float64) for name, array in model.state_dict().items()}
    encoder, decoder = _under(weights, "encoder"), _under(weights, "decoder")
    match config.encoder:
        case GruEncoder() | LstmEncoder():
            states, summary = encode_recurrent(config.encoder, encoder, source, drop)
        case TransformerEncoderConfig():
            states = encode_transformer(config.encoder, encoder, source, drop)
            summary = np.mean(states, axis=0)
        case _:
            assert_never(config.encoder)
    match config.decoder:
        case GruDecoder():
            features, attention = decode_bahdanau(config.decoder, decoder, states, summary, target, drop)
        case LstmDecoder():
            features, attention = decode_luong(config.decoder, decoder, states, summary, target, drop)
        case TransformerDecoderConfig():
            features, attention = decode_transformer(config.decoder, decoder, states, target, drop)
        case _:
            assert_never(config.decoder)
    logits = [weights["output.weight"] @ feature for feature in features]
    return Answer(states, summary, features, attention, logits)


def _under(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(f"{prefix}."): array for name, array in weights.items() if name.startswith(f"{prefix}.")}


def product(weights: Weights, name: str, x: Vector) -> Vector:
    """W x + b, or W x where there is no b."""
    result: Vector = weights[f"{name}.weight"] @ x
    return result + weights[f"{name}.bias"] if f"{name}.bias" in weights else result


def sigmoid(x: Vector) -> Vector:
    result: Vector = 1.0 / (1.0 + np.exp(-x))
    return result


def softmax(x: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(x)) for value in x]
    return [power / math.fsum(powers) for power in powers]


def weighted(weights: Sequence[float], values: Sequence[Vector]) -> Vector:
    total = np.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * value
    return total


# ------------------------------------------------------------------------------------------------------ recurrent cells


def gru(w: Vector, u: Vector, b: Vector, c: Vector, x: Vector, h: Vector) -> Vector:
    """Cho et al. 2014, equations 5 to 8, the reset gate applied to the finished product; gates stacked r, z, n."""
    w_r, w_z, w_n = np.split(w, 3)
    u_r, u_z, u_n = np.split(u, 3)
    b_r, b_z, b_n = np.split(b, 3)
    c_r, c_z, c_n = np.split(c, 3)
    reset = sigmoid(w_r @ x + b_r + u_r @ h + c_r)
    update = sigmoid(w_z @ x + b_z + u_z @ h + c_z)
    candidate = np.tanh(w_n @ x + b_n + reset * (u_n @ h + c_n))
    result: Vector = update * h + (1.0 - update) * candidate
    return result


def lstm(w: Vector, u: Vector, b: Vector, d: Vector, x: Vector, h: Vector, c: Vector) -> tuple[Vector, Vector]:
    """Input, forget and output gates, no peepholes; gates stacked i, f, g, o."""
    w_i, w_f, w_g, w_o = np.split(w, 4)
    u_i, u_f, u_g, u_o = np.split(u, 4)
    b_i, b_f, b_g, b_o = np.split(b, 4)
    d_i, d_f, d_g, d_o = np.split(d, 4)
    remember = sigmoid(w_f @ x + b_f + u_f @ h + d_f)
    admit = sigmoid(w_i @ x + b_i + u_i @ h + d_i)
    show = sigmoid(w_o @ x + b_o + u_o @ h + d_o)
    cell = remember * c + admit * np.tanh(w_g @ x + b_g + u_g @ h + d_g)
    return show * np.tanh(cell), cell


def encode_recurrent(
    config: GruEncoder | LstmEncoder, weights: Weights, tokens: Sequence[int], drop: Drop
) -> tuple[list[Vector], Vector]:
    """h_j = [forward h_j ; backward h_j] layer upon layer, and the last state of each direction (Bahdanau 3.2).

    With bridging the word stands beside what is said of it: [h_j ; E x_j] (Kuang et al. 2018), and the mean in the end.
    """
    embedded = states = [drop(weights["embedding.table.weight"][token]) for token in tokens]
    width = config.width // (2 if config.bidirectional else 1)
    final: list[Vector] = []
    for layer in range(config.layers):
        directions, final = [], []
        for suffix in ("", "_reverse") if config.bidirectional else ("",):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            w, u, b, d = (weights[f"rnn.{name}_l{layer}{suffix}"] for name in names)
            hidden, cell, seen = np.zeros(width), np.zeros(width), []
            for state in reversed(states) if suffix else states:
                match config:
                    case GruEncoder():
                        hidden = gru(w, u, b, d, state, hidden)
                    case LstmEncoder():
                        hidden, cell = lstm(w, u, b, d, state, hidden, cell)
                seen.append(hidden)
            final.append(hidden)
            directions.append(list(reversed(seen)) if suffix else seen)
        states = [np.concatenate(parts) for parts in zip(*directions, strict=True)]
    if not config.bridging:
        return [drop(state) for state in states], np.concatenate(final)
    bridged = [np.concatenate([drop(state), word]) for state, word in zip(states, embedded, strict=True)]
    return bridged, np.concatenate([*final, np.mean(embedded, axis=0)])


# ------------------------------------------------------------------------------------------------------------ attention


def energy(config: GruDecoder | LstmDecoder, weights: Weights, query: Vector, state: Vector) -> float:
    """The score of one query with one annotation."""
    match config.attention:
        case "additive":  # v . tanh(W s_{i-1} + U h_j): Bahdanau et al. 2015, A.1.2
            hidden = np.tanh(product(weights, "score.query", query) + product(weights, "score.key", state))
            return float(product(weights, "score.energy", hidden)[0])
        case "dot":  # h_t . h_s: Luong et al. 2015, 3.1
            return float(query @ state)
        case "general":  # h_t . W h_s
            return float(query @ weights["score.key.weight"] @ state)
        case "scaled-dot":
            return float(query @ state) / math.sqrt(len(state))
    assert_never(config.attention)


def look(
    config: GruDecoder | LstmDecoder, weights: Weights, query: Vector, states: Sequence[Vector]
) -> tuple[Vector, Vector]:
    """c_i and alpha_i."""
    alpha = softmax([energy(config, weights, query, state) for state in states])
    return weighted(alpha, states), np.array(alpha)


# ------------------------------------------------------------------------------------------------- Bahdanau et al. 2015


def _cell(weights: Weights, layer: int) -> tuple[Vector, Vector, Vector, Vector]:
    name = "first" if layer == 0 else f"above.{layer - 1}"
    w, u = weights[f"{name}.input.weight"], weights[f"{name}.hidden.weight"]
    return w, u, weights[f"{name}.input.bias"], weights[f"{name}.hidden.bias"]


def decode_bahdanau(
    config: GruDecoder, weights: Weights, states: Sequence[Vector], summary: Vector, tokens: Sequence[int], drop: Drop
) -> tuple[list[Vector], list[Vector]]:
    """Attend with s_{i-1}, move with [E y_{i-1} ; c_i], read out by maxout (3.1 and A.2.2).

    A conditional GRU moves with E y_{i-1}, attends, and moves with c_i (Sennrich et al. 2017, section 2).
    """
    hidden = np.split(np.tanh(product(weights, "bridge", summary)), config.layers)
    features, attention = [], []
    for token in tokens:
        embedded = drop(weights["embedding.table.weight"][token])
        w, u, b, c = _cell(weights, 0)
        of_context = weights["context.weight"]
        if config.conditional:
            half = gru(w, u, b, c, embedded, hidden[0])
            context, alpha = look(config, weights, half, states)
            no_bias = np.zeros(len(of_context))
            moved = [gru(of_context, weights["second.weight"], no_bias, weights["second.bias"], context, half)]
        else:
            context, alpha = look(config, weights, hidden[-1], states)
            w = np.concatenate([w, of_context], axis=1)
            moved = [gru(w, u, b, c, np.concatenate([embedded, context]), hidden[0])]
        for layer in range(1, config.layers):
            moved.append(gru(*_cell(weights, layer), drop(moved[-1]), hidden[layer]))
        hidden = moved
        # U_o s_i + V_o E y_{i-1} + C_o c_i, of which every two halves compete.
        width = len(hidden[-1])
        matrix = weights["readout.weight"]
        u_o, v_o, c_o = np.split(matrix, [width, width + len(embedded)], axis=1)
        readout = u_o @ hidden[-1] + v_o @ embedded + c_o @ context + weights["readout.bias"]
        pairs = len(readout) // 2
        features.append(drop(np.array([max(readout[j], readout[j + pairs]) for j in range(pairs)])))
        attention.append(alpha)
    return features, attention


# ---------------------------------------------------------------------------------------------------- Luong et al. 2015


def decode_luong(
    config: LstmDecoder, weights: Weights, states: Sequence[Vector], summary: Vector, tokens: Sequence[int], drop: Drop
) -> tuple[list[Vector], list[Vector]]:
    """Move with [E y_{t-1} ; h~_{t-1}], attend with h_t, h~_t = tanh(W_c [c_t ; h_t]) (3.1 and 3.3)."""
    parts = np.split(product(weights, "bridge", summary), 2 * config.layers)
    hidden, cell = [np.tanh(part) for part in parts[: config.layers]], parts[config.layers :]
    attentional = np.zeros(config.width)
    features, attention = [], []
    for token in tokens:
        x = drop(weights["embedding.table.weight"][token])
        for layer in range(config.layers):
            w, u, b, d = _cell(weights, layer)
            if layer == 0 and config.input_feeding:
                w, x = np.concatenate([w, weights["feed.weight"]], axis=1), np.concatenate([x, attentional])
            hidden[layer], cell[layer] = lstm(w, u, b, d, x, hidden[layer], cell[layer])
            x = drop(hidden[layer])
        context, alpha = look(config, weights, hidden[-1], states)
        attentional = np.tanh(weights["attentional.weight"] @ np.concatenate([context, hidden[-1]]))
        features.append(drop(attentional))
        attention.append(alpha)
    return features, attention


# -------------------------------------------------------------------------------------------------- Vaswani et al. 2017


def position(number: int, width: int) -> Vector:
    """Sines first, then cosines, of position ``number`` + 1 over wavelengths from 2 pi to 10000 * 2 pi (3.5)."""
    half = width // 2
    angles = [(number + 1) / 10000.0 ** (i / (half - 1)) for i in range(half)]
    return np.array([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])


def embed(
    config: TransformerEncoderConfig | TransformerDecoderConfig, weights: Weights, tokens: Sequence[int], drop: Drop
) -> list[Vector]:
    """sqrt(d_model) E x_i + position i (3.4 and 3.5)."""
    vectors = []
    for number, token in enumerate(tokens):
        match config.positions:
            case "sinusoidal":
                where = position(number, config.width)
            case "learned":
                where = weights["positions.weight"][number]
            case "none":
                where = np.zeros(config.width)
        vectors.append(drop(math.sqrt(config.width) * weights["embedding.table.weight"][token] + where))
    return vectors


def layer_norm(weights: Weights, name: str, x: Vector) -> Vector:
    mean = math.fsum(x) / len(x)
    variance = math.fsum((value - mean) ** 2 for value in x) / len(x)
    normed = np.array([(value - mean) / math.sqrt(variance + 1e-5) for value in x])
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def multi_head(
    weights: Weights,
    name: str,
    heads: int,
    query: Vector,
    states: Sequence[Vector],
    drop: Drop,
    biases: Sequence[Vector] = (),
) -> tuple[Vector, list[Vector]]:
    """Concat(head_1 .. head_A) W^O, head_a = softmax(q_a K_a^T / sqrt(d)) V_a (equation 1, 3.2.2).

    ``biases`` are what each state has added to its score, a number a head.
    """
    q = product(weights, f"{name}.query", query)
    projected = [np.split(product(weights, f"{name}.key_value", state), 2) for state in states]
    size = len(q) // heads
    outputs, looked = [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = [float(q[part] @ key[part]) / math.sqrt(size) for key, _ in projected]
        if biases:
            scores = [score + bias[head] for score, bias in zip(scores, biases, strict=True)]
        alpha = np.array(softmax(scores))
        outputs.append(weighted(list(drop(alpha)), [value[part] for _, value in projected]))
        looked.append(alpha)
    return product(weights, f"{name}.output", np.concatenate(outputs)), looked


def feed_forward(weights: Weights, name: str, x: Vector, drop: Drop) -> Vector:
    """max(0, x W_1 + b_1) W_2 + b_2 (equation 2)."""
    return product(weights, f"{name}.outer", drop(np.maximum(0.0, product(weights, f"{name}.inner", x))))


def enter(norm: str, weights: Weights, name: str, xs: list[Vector]) -> list[Vector]:
    """What a part reads: x as it is in the paper, LayerNorm(x) where norms come first."""
    return [layer_norm(weights, f"{name}.norm", x) for x in xs] if norm == "pre" else xs


def leave(norm: str, weights: Weights, name: str, xs: list[Vector], ys: list[Vector], drop: Drop) -> list[Vector]:
    """LayerNorm(x + Sublayer(x)) (3.1), or x + Sublayer(LayerNorm(x)) (Xiong et al. 2020); dropout as in 5.4."""
    sums = [x + drop(y) for x, y in zip(xs, ys, strict=True)]
    return sums if norm == "pre" else [layer_norm(weights, f"{name}.norm", x) for x in sums]


def neighbours(length: int, i: int, window: int) -> list[int]:
    """The ``window`` places on either side of the i-th and itself; all of them where ``window`` is 0."""
    return [j for j in range(length) if abs(i - j) <= window or not window]


def self_attend(
    config: TransformerEncoderConfig | TransformerDecoderConfig,
    weights: Weights,
    number: int,
    ys: list[Vector],
    i: int,
    places: list[int],
    drop: Drop,
) -> Vector:
    """What position i finds at these places. Relative positions add to the score of key j: the row of the table for
    j - i, as far as the table goes, a number a head (Raffel et al. 2020, 2.1; Shaw et al. 2018, 3.2).
    """
    most = config.max_relative_positions
    rows = [max(-most, min(most, j - i)) + most for j in places]
    biases = [weights["relative.table.weight"][row] for row in rows] if most else []
    layer = _under(weights, f"layers.{number}")
    return multi_head(layer, "self_attention", config.heads, ys[i], [ys[j] for j in places], drop, biases)[0]


def encode_transformer(
    config: TransformerEncoderConfig, weights: Weights, tokens: Sequence[int], drop: Drop
) -> list[Vector]:
    """Every position looks at every other, or at its neighbours."""
    norm = config.norm
    xs = embed(config, weights, tokens, drop)
    for number in range(config.layers):
        layer = _under(weights, f"layers.{number}")
        ys = enter(norm, layer, "around_self", xs)
        ys = [
            self_attend(config, weights, number, ys, i, neighbours(len(ys), i, config.window), drop)
            for i in range(len(ys))
        ]
        xs = leave(norm, layer, "around_self", xs, ys, drop)
        ys = [feed_forward(layer, "feed_forward", y, drop) for y in enter(norm, layer, "around_feed_forward", xs)]
        xs = leave(norm, layer, "around_feed_forward", xs, ys, drop)
    return [layer_norm(weights, "norm", x) for x in xs] if norm == "pre" else xs


def decode_transformer(
    config: TransformerDecoderConfig, weights: Weights, states: Sequence[Vector], tokens: Sequence[int], drop: Drop
) -> tuple[list[Vector], list[Vector]]:
    """Position t looks at positions 0 .. t of the target, then at the source.

    The attention shown is the mean over the heads of one layer: the last but one, unless the recipe says otherwise.
    """
    norm, heads = config.norm, config.heads
    shown = config.alignment_layer or max(config.layers - 1, 1)
    attention: list[Vector] = []
    xs = embed(config, weights, tokens, drop)
    for number in range(config.layers):
        layer = _under(weights, f"layers.{number}")
        ys = enter(norm, layer, "around_self", xs)
        ys = [self_attend(config, weights, number, ys, t, list(range(t + 1)), drop) for t in range(len(ys))]
        xs = leave(norm, layer, "around_self", xs, ys, drop)
        looked = [
            multi_head(layer, "cross_attention", heads, y, states, drop) for y in enter(norm, layer, "around_cross", xs)
        ]
        xs = leave(norm, layer, "around_cross", xs, [attended for attended, _ in looked], drop)
        ys = [feed_forward(layer, "feed_forward", y, drop) for y in enter(norm, layer, "around_feed_forward", xs)]
        xs = leave(norm, layer, "around_feed_forward", xs, ys, drop)
        if number + 1 == shown:
            attention = [np.mean(alphas, axis=0) for _, alphas in looked]
    features = [layer_norm(weights, "norm", x) for x in xs] if norm == "pre" else xs
    return features, attention
