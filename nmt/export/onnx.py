"""Any encoder and any decoder as two ONNX graphs, for a search that knows nothing of what is in them.

``remember.onnx``
    reads ``source`` (B, S) and ``mask`` (B, S) once a batch and gives the decoder's memory of it (``memory.*``) and the
    state that it starts from (``state.*``), all with a row a sentence;
``step.onnx``
    takes ``tokens`` (R), the previous ones, with the memory and the state of their rows, and gives ``logits`` (R, V),
    ``attention`` (R, S) and the next state (``next.*``).

Each function here is the equations of a module of :mod:`nmt.models`, under its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never, cast

import numpy as np
from torch import nn

from nmt.errors import ConfigError
from nmt.export.graph import MINUS_INFINITY, Array, Graph, type_of, values_of
from nmt.layers.attention import AdditiveScore, AnyScore, DotScore, GeneralScore, ScaledDotScore
from nmt.layers.recurrent import LstmCell
from nmt.models import AnyDecoderModule, AnyEncoderModule, Seq2Seq
from nmt.models.bahdanau import BahdanauDecoder, BahdanauEncoder
from nmt.models.luong import LuongDecoder, LuongEncoder
from nmt.models.recurrent import RecurrentEncoder
from nmt.models.transformer import DecoderLayer, FeedForward, Residual, TransformerDecoder, TransformerEncoder

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["QUANTIZATIONS", "convert", "remember_graph", "step_graph"]

QUANTIZATIONS = ("none", "int8")
"""``int8``: tables and products in 8 bits, what is multiplied being rounded as it comes; recurrent encoders stay."""


def convert(model: Seq2Seq, quantization: str) -> dict[str, bytes]:
    """The two graphs of a model, by file name. Raises ConfigError for an unknown ``quantization``."""
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f"--quantize {quantization}: for onnx it is one of {', '.join(QUANTIZATIONS)}")
    narrow = quantization == "int8"
    graphs = {
        "remember.onnx": remember_graph(model, narrow=narrow),
        "step.onnx": step_graph(model, narrow=narrow),
    }
    return {name: graph.SerializeToString() for name, graph in graphs.items()}


# ------------------------------------------------------------------------------------------------------------ encoders


def remember_graph(model: Seq2Seq, *, narrow: bool = False) -> ModelProto:
    """The encoder, and everything in the decoder that depends on the source only."""
    encoder, decoder = _parts(model)
    graph = Graph(model, narrow=narrow)
    match encoder:
        case BahdanauEncoder() | LuongEncoder():
            states, final = _recurrent_encoder(graph, encoder)
        case TransformerEncoder():
            states, final = _transformer_encoder(graph, encoder)
        case _:
            assert_never(encoder)
    match decoder:
        case BahdanauDecoder():
            outputs = _gru_start(graph, decoder, states, final)
        case LuongDecoder():
            outputs = _lstm_start(graph, decoder, states, final)
        case TransformerDecoder():
            outputs = _transformer_start(graph, decoder, states)
        case _:
            assert_never(decoder)
    outputs[graph.named("mask", "memory.mask")] = "BS"
    return graph.model({"source": "BS", "mask": "BS"}, outputs)


def _parts(model: Seq2Seq) -> tuple[AnyEncoderModule, AnyDecoderModule]:
    """What build makes."""
    return cast(AnyEncoderModule, model.encoder), cast(AnyDecoderModule, model.decoder)


def _recurrent_encoder(graph: Graph, encoder: RecurrentEncoder) -> tuple[str, str]:
    """The states of the top layer (B, S, H) and its last ones (B, H), whatever the lengths are; embeddings beside."""
    rnn = encoder.rnn
    width = rnn.hidden_size * (2 if rnn.bidirectional else 1)
    lengths = graph("ReduceSum", graph("Cast", "mask", to=type_of(np.int32)), graph.constant([1]), keepdims=0)
    embedded = graph.embed(encoder.embedding, "source")
    x = graph("Transpose", embedded, perm=[1, 0, 2])
    last = ""
    for layer in range(rnn.num_layers):
        weights = [graph.array(f"encoder.rnn.{layer}.{part}", values) for part, values in _packed(rnn, layer).items()]
        x, last = graph.several(
            "LSTM" if isinstance(rnn, nn.LSTM) else "GRU",
            *(x, *weights, lengths),
            names=[f"encoder.states.{layer}", f"encoder.last.{layer}"],
            hidden_size=rnn.hidden_size,
            direction="bidirectional" if rnn.bidirectional else "forward",
            **({} if isinstance(rnn, nn.LSTM) else {"linear_before_reset": 1}),
        )
        x = graph("Reshape", graph("Transpose", x, perm=[0, 2, 1, 3]), graph.constant([0, 0, width]))
    states = graph("Transpose", x, perm=[1, 0, 2])
    final = graph("Reshape", graph("Transpose", last, perm=[1, 0, 2]), graph.constant([0, width]))
    if encoder.bridging:
        states = graph("Concat", states, embedded, axis=2)
        final = graph("Concat", final, _mean(graph, embedded), axis=1)
    return states, final


def _packed(rnn: nn.GRU | nn.LSTM, layer: int) -> dict[str, Array]:
    """A layer's weights of both directions, the gates in ONNX's order: z r n for a GRU, i o f g for an LSTM."""
    order = [0, 3, 1, 2] if isinstance(rnn, nn.LSTM) else [1, 0, 2]

    def of(kind: str) -> Array:
        names = [f"{kind}_l{layer}{end}" for end in (("", "_reverse") if rnn.bidirectional else ("",))]
        values = [np.split(values_of(getattr(rnn, name)), len(order)) for name in names]
        return np.stack([np.concatenate([gates[place] for place in order]) for gates in values])

    biases = np.concatenate([of("bias_ih"), of("bias_hh")], axis=1)
    return {"input": of("weight_ih"), "hidden": of("weight_hh"), "bias": biases}


def _transformer_encoder(graph: Graph, encoder: TransformerEncoder) -> tuple[str, str]:
    """The states of the last layer (B, S, H) and their means over the sentences (B, H)."""
    length = graph.size("source", 1)
    visible = graph("Unsqueeze", "mask", graph.constant([1, 2]))
    bias = None
    if encoder.window or encoder.relative is not None:
        place = graph("Range", graph.constant(0), graph("Squeeze", length), graph.constant(1))
        distances = graph("Sub", *(graph("Unsqueeze", place, graph.constant([axis])) for axis in (0, 1)))
        bias = None if encoder.relative is None else graph.relative(encoder.relative, distances)
    if encoder.window:
        near = graph("LessOrEqual", graph("Abs", distances), graph.constant(encoder.window))
        padding = graph("Not", graph("Unsqueeze", "mask", graph.constant([1, 3])))
        visible = graph("And", visible, graph("Or", near, padding))
    x = graph.embed(encoder.embedding, "source", graph.positions(encoder.positions, graph.constant([0]), length))
    for layer in encoder.layers:
        y = _enter(graph, layer.around_self, x)
        attended, _ = graph.attend(layer.self_attention, y, *graph.project(layer.self_attention, y), visible, bias)
        x = _leave(graph, layer.around_self, x, attended)
        x = _feed_forward(graph, layer.feed_forward, layer.around_feed_forward, x)
    states = graph.norm(encoder.norm, x)
    return states, _mean(graph, states)


def _mean(graph: Graph, states: str) -> str:
    """The mean (B, H) of what has a row (B, S, H) for every word."""
    real = graph("Cast", graph("Unsqueeze", "mask", graph.constant([2])), to=type_of(np.float32))
    sums = [graph("ReduceSum", y, graph.constant([1]), keepdims=0) for y in (graph("Mul", states, real), real)]
    return graph("Div", *sums)


def _enter(graph: Graph, around: Residual, x: str) -> str:
    return graph.norm(around.norm, x) if around.before else x


def _leave(graph: Graph, around: Residual, x: str, answer: str) -> str:
    summed = graph("Add", x, answer)
    return summed if around.before else graph.norm(around.norm, summed)


def _feed_forward(graph: Graph, part: FeedForward, around: Residual, x: str) -> str:
    inner = graph("Relu", graph.linear(part.inner, _enter(graph, around, x)))
    return _leave(graph, around, x, graph.linear(part.outer, inner))


# --------------------------------------------------------------------------------------------- what decoders start from


def _remembered(graph: Graph, score: AnyScore, states: str) -> dict[str, str]:
    """The memory of a recurrent decoder: states, and keys where they are not the states themselves."""
    outputs = {graph.named(states, "memory.states"): "BSH"}
    if (key := _key(score)) is not None:
        outputs[graph.named(graph.linear(key, states), "memory.keys")] = "BSK"
    return outputs


def _key(score: AnyScore) -> nn.Linear | None:
    """What makes keys of states; None where these are the keys."""
    match score:
        case AdditiveScore() | GeneralScore():
            return score.key
        case DotScore() | ScaledDotScore():
            return None
    assert_never(score)


def _gru_start(graph: Graph, decoder: BahdanauDecoder, states: str, final: str) -> dict[str, str]:
    layers = 1 + len(decoder.above)
    start = graph.split(graph("Tanh", graph.linear(decoder.bridge, final)), layers)
    hidden = {graph.named(part, f"state.hidden.{layer}"): "BW" for layer, part in enumerate(start)}
    return _remembered(graph, decoder.score, states) | hidden


def _lstm_start(graph: Graph, decoder: LuongDecoder, states: str, final: str) -> dict[str, str]:
    layers = 1 + len(decoder.above)
    parts = graph.split(graph.linear(decoder.bridge, final), 2 * layers)
    state = [graph("Tanh", hidden, name=f"state.hidden.{layer}") for layer, hidden in enumerate(parts[:layers])]
    state += [graph.named(cell, f"state.cell.{layer}") for layer, cell in enumerate(parts[layers:])]
    if decoder.feed is not None:
        state.append(graph("Mul", state[0], graph.constant(0.0, np.float32), name="state.attentional"))
    return _remembered(graph, decoder.score, states) | dict.fromkeys(state, "BW")


def _transformer_start(graph: Graph, decoder: TransformerDecoder, states: str) -> dict[str, str]:
    outputs: dict[str, str] = {}
    rest = graph.constant([decoder.heads, 0, decoder.width // decoder.heads])
    nothing = graph("ConstantOfShape", graph("Concat", graph.size(states, 0), rest, axis=0))
    for number, layer in enumerate(decoder.layers):
        for part, values in zip(("keys", "values"), graph.project(layer.cross_attention, states), strict=True):
            outputs[graph.named(values, f"memory.{part}.{number}")] = "BASD"
            outputs[graph.named(nothing, f"state.{part}.{number}")] = "BATD"
    return outputs


# ------------------------------------------------------------------------------------------------------------ decoders


def step_graph(model: Seq2Seq, *, narrow: bool = False) -> ModelProto:
    """One step of the decoder and the output layer."""
    _, decoder = _parts(model)
    graph = Graph(model, narrow=narrow)
    match decoder:
        case BahdanauDecoder():
            features, attention, state = _gru_step(graph, decoder)
        case LuongDecoder():
            features, attention, state = _lstm_step(graph, decoder)
        case TransformerDecoder():
            features, attention, state = _transformer_step(graph, decoder)
        case _:
            assert_never(decoder)
    graph.output(model.output, features)
    graph.named(attention, "attention")
    caches = isinstance(decoder, TransformerDecoder)
    outputs = {"logits": "RV", "attention": "RS", **dict.fromkeys(state, "RAPD" if caches else "RW")}
    inputs = {"tokens": "R", "memory.mask": "RS"}
    for name in state:
        inputs[name.replace("next.", "state.")] = "RATD" if caches else "RW"
        if caches:
            inputs[name.replace("next.", "memory.")] = "RASD"
    if not isinstance(decoder, TransformerDecoder):
        inputs["memory.states"] = "RSH"
        if _key(decoder.score) is not None:
            inputs["memory.keys"] = "RSK"
    return graph.model(inputs, outputs)


def _gru_step(graph: Graph, decoder: BahdanauDecoder) -> tuple[str, str, list[str]]:
    hidden = [f"state.hidden.{layer}" for layer in range(1 + len(decoder.above))]
    embedded = graph.embed(decoder.embedding, "tokens")
    projected = graph.linear(decoder.first.input, embedded)
    if decoder.second is None:
        context, attention = _look(graph, decoder.score, hidden[-1])
        projected = graph("Add", projected, graph.linear(decoder.context, context))
        below = _gru_move(graph, projected, decoder.first.hidden, hidden[0], name="next.hidden.0")
    else:
        moved = _gru_move(graph, projected, decoder.first.hidden, hidden[0])
        context, attention = _look(graph, decoder.score, moved)
        below = _gru_move(graph, graph.linear(decoder.context, context), decoder.second, moved, name="next.hidden.0")
    state = [below]
    for layer, cell in enumerate(decoder.above, start=1):
        projected = graph.linear(cell.input, below)
        below = _gru_move(graph, projected, cell.hidden, hidden[layer], name=f"next.hidden.{layer}")
        state.append(below)
    read = graph.linear(decoder.readout, graph("Concat", below, embedded, context, axis=1))
    pairs = graph("Reshape", read, graph.constant([0, 2, decoder.width]))
    return graph("ReduceMax", pairs, graph.constant([1]), keepdims=0), attention, state


def _gru_move(graph: Graph, projected: str, recurrent: nn.Linear, hidden: str, *, name: str = "") -> str:
    (p_r, p_z, p_n), (u_r, u_z, u_n) = graph.split(projected, 3), graph.split(graph.linear(recurrent, hidden), 3)
    reset, update = (graph("Sigmoid", graph("Add", p, u)) for p, u in ((p_r, u_r), (p_z, u_z)))
    candidate = graph("Tanh", graph("Add", p_n, graph("Mul", reset, u_n)))
    return graph("Add", candidate, graph("Mul", update, graph("Sub", hidden, candidate)), name=name)


def _lstm_step(graph: Graph, decoder: LuongDecoder) -> tuple[str, str, list[str]]:
    cells = [decoder.first, *decoder.above]
    projected = graph.linear(decoder.first.input, graph.embed(decoder.embedding, "tokens"))
    if decoder.feed is not None:
        projected = graph("Add", projected, graph.linear(decoder.feed, "state.attentional"))
    below, state = "", []
    for layer, cell in enumerate(cells):
        projected = graph.linear(cell.input, below) if layer else projected
        below, kept = _lstm_cell(graph, cell, projected, layer)
        state += [below, kept]
    context, attention = _look(graph, decoder.score, below)
    both = graph("Concat", context, below, axis=1)
    attentional = graph("Tanh", graph.linear(decoder.attentional, both), name="next.attentional")
    return attentional, attention, [*state, *([attentional] if decoder.feed is not None else [])]


def _lstm_cell(graph: Graph, cell: LstmCell, projected: str, layer: int) -> tuple[str, str]:
    gates = graph("Add", projected, graph.linear(cell.hidden, f"state.hidden.{layer}"))
    i, f, g, o = graph.split(gates, 4)
    kept = graph("Mul", graph("Sigmoid", f), f"state.cell.{layer}")
    new = graph("Mul", graph("Sigmoid", i), graph("Tanh", g))
    memory = graph("Add", kept, new, name=f"next.cell.{layer}")
    return graph("Mul", graph("Sigmoid", o), graph("Tanh", memory), name=f"next.hidden.{layer}"), memory


def _look(graph: Graph, score: AnyScore, query: str) -> tuple[str, str]:
    """The context (R, H) of a query (R, Q), and where it looked (R, S)."""
    last = graph.constant([2])
    keys = "memory.states" if _key(score) is None else "memory.keys"
    match score:
        case AdditiveScore():
            asked = graph("Unsqueeze", graph.linear(score.query, query), graph.constant([1]))
            scores = graph.linear(score.energy, graph("Tanh", graph("Add", asked, keys)))
        case DotScore() | ScaledDotScore() | GeneralScore():
            scores = graph("MatMul", keys, graph("Unsqueeze", query, last))
        case _:
            assert_never(score)
    scores = graph("Squeeze", scores, last)
    if isinstance(score, ScaledDotScore):
        width = graph("Cast", graph.size(query, 1), to=type_of(np.float32))
        scores = graph("Div", scores, graph("Sqrt", width))
    masked = graph("Where", "memory.mask", scores, graph.constant(MINUS_INFINITY, np.float32))
    weights = graph("Softmax", masked, axis=-1)
    context = graph("MatMul", graph("Unsqueeze", weights, graph.constant([1])), "memory.states")
    return graph("Squeeze", context, graph.constant([1])), weights


def _transformer_step(graph: Graph, decoder: TransformerDecoder) -> tuple[str, str, list[str]]:
    written = graph.size("state.keys.0", 2)
    positions = graph.positions(decoder.positions, written, graph.constant([1]))
    tokens = graph("Unsqueeze", "tokens", graph.constant([1]))
    x = graph.embed(decoder.embedding, tokens, positions)
    bias = None
    if decoder.relative is not None:
        last = graph("Squeeze", written)
        place = graph("Range", graph.constant(0), graph("Add", last, graph.constant(1)), graph.constant(1))
        bias = graph.relative(decoder.relative, graph("Unsqueeze", graph("Sub", place, last), graph.constant([0])))
    state: list[str] = []
    attention = ""
    for number, layer in enumerate(decoder.layers):
        x, weights = _transformer_layer(graph, layer, number, x, bias)
        state += [f"next.keys.{number}", f"next.values.{number}"]
        if number == decoder.alignment_layer:
            mean = graph("ReduceMean", weights, graph.constant([1]), keepdims=0)
            attention = graph("Squeeze", mean, graph.constant([1]))
    features = graph("Squeeze", graph.norm(decoder.norm, x), graph.constant([1]))
    return features, attention, state


def _transformer_layer(graph: Graph, layer: DecoderLayer, number: int, x: str, bias: str | None) -> tuple[str, str]:
    y = _enter(graph, layer.around_self, x)
    keys, values = (
        graph("Concat", f"state.{part}.{number}", now, axis=2, name=f"next.{part}.{number}")
        for part, now in zip(("keys", "values"), graph.project(layer.self_attention, y), strict=True)
    )
    attended, _ = graph.attend(layer.self_attention, y, keys, values, None, bias)
    x = _leave(graph, layer.around_self, x, attended)
    mask = graph("Unsqueeze", "memory.mask", graph.constant([1, 2]))
    memory = (f"memory.keys.{number}", f"memory.values.{number}")
    attended, weights = graph.attend(layer.cross_attention, _enter(graph, layer.around_cross, x), *memory, mask)
    x = _leave(graph, layer.around_cross, x, attended)
    return _feed_forward(graph, layer.feed_forward, layer.around_feed_forward, x), weights
