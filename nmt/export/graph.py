"""An ONNX graph under construction: operators, the weights they use, and the layers that all families share.

Every value is a name; a call of :class:`Graph` adds an operator and gives the name of what it computes. Graphs are
written by hand, from the equations of the modules, rather than traced: ONNX's own GRU and LSTM take the lengths of the
sentences in a batch, which a traced recurrent layer has fixed, and nothing depends on a version of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from nmt.layers.attention import MultiHeadAttention
from nmt.layers.embedding import TokenEmbedding
from nmt.layers.positions import LearnedPositions, SinusoidalPositions

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Array", "Graph"]

Array = np.ndarray[Any, np.dtype[Any]]

OPSET = 18
IR_VERSION = 10

MINUS_INFINITY = np.float32(-np.inf)


class Graph:
    """A graph that grows; ``names`` are those of the model's parameters, under which their values are kept."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._nodes: list[Any] = []
        self._weights: dict[str, Array] = {}
        self._count = 0

    # ------------------------------------------------------------------------------------------------------- operators

    def __call__(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """What an operator with one output computes, under ``name`` if it is to have one."""
        (output,) = self.several(operator, *inputs, names=[name or self._fresh(operator)], **attributes)
        return output

    def several(self, operator: str, *inputs: str, names: Sequence[str], **attributes: Any) -> Sequence[str]:
        """What an operator with several outputs computes; one whose name is empty is not made."""
        from onnx import helper

        self._nodes.append(helper.make_node(operator, list(inputs), list(names), **attributes))
        return names

    def split(self, x: str, parts: int, axis: int = -1) -> list[str]:
        """``x`` in parts of one size."""
        names = [self._fresh("Split") for _ in range(parts)]
        return list(self.several("Split", x, names=names, axis=axis, num_outputs=parts))

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A number, or a list of numbers, that is part of the graph."""
        array = np.array(value, dtype=dtype)
        for name, known in self._weights.items():
            if name.startswith("constant.") and known.dtype == array.dtype and np.array_equal(known, array):
                if known.shape == array.shape:
                    return name
        name = self._fresh("constant")
        self._weights[name] = array
        return name

    def weight(self, parameter: Tensor, *, transposed: bool = False) -> str:
        """A parameter, kept once however often it is used."""
        name = self._names[id(parameter)] + (".transposed" if transposed else "")
        if name not in self._weights:
            values = values_of(parameter)
            self._weights[name] = np.ascontiguousarray(values.T) if transposed else values
        return name

    def array(self, name: str, values: Array) -> str:
        """Values made of several parameters, under a name of their own."""
        self._weights[name] = values
        return name

    def named(self, x: str, name: str) -> str:
        """``x`` under a name that the outside knows it by."""
        return self("Identity", x, name=name)

    def size(self, x: str, axis: int) -> str:
        """The length of one dimension, as a list of one number."""
        return self("Shape", x, start=axis, end=axis + 1)

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}.{self._count}"

    def model(self, inputs: Mapping[str, tuple[Any, Sequence[str | int]]], outputs: Sequence[str]) -> ModelProto:
        """The finished graph; ``inputs`` have types and shapes, a letter standing for a length that varies."""
        from onnx import TensorProto, checker, helper, numpy_helper

        graph = helper.make_graph(
            self._nodes,
            "nmt",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [
                helper.make_tensor_value_info(name, TensorProto.BOOL if name == "memory.mask" else TensorProto.FLOAT, None)
                for name in outputs
            ],
            [numpy_helper.from_array(values, name) for name, values in self._weights.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="nmt"
        )
        checker.check_model(model)
        return model

    # ---------------------------------------------------------------------------------------------------------- layers

    def linear(self, layer: nn.Linear, x: str) -> str:
        """x W^T + b."""
        product = self("MatMul", x, self.weight(layer.weight, transposed=True))
        return product if layer.bias is None else self("Add", product, self.weight(layer.bias))

    def norm(self, layer: nn.Module, x: str) -> str:
        """Layer normalisation; ``x`` itself where there is none."""
        if not isinstance(layer, nn.LayerNorm):
            return x
        return self("LayerNormalization", x, self.weight(layer.weight), self.weight(layer.bias), epsilon=layer.eps)

    def embed(self, embedding: TokenEmbedding, tokens: str, positions: str | None = None) -> str:
        """The vectors of tokens, positions added where there are any."""
        vectors = self("Gather", self.weight(embedding.table.weight), tokens)
        if embedding.scale != 1.0:
            vectors = self("Mul", vectors, self.constant(embedding.scale, np.float32))
        return vectors if positions is None else self("Add", vectors, positions)

    def positions(self, module: SinusoidalPositions | LearnedPositions, start: str, length: str) -> str:
        """The vectors of positions ``start`` to ``start + length``, both lists of one number."""
        first, last = (self("Squeeze", x) for x in (start, self("Add", start, length)))
        places = self("Range", first, last, self.constant(1))
        if isinstance(module, LearnedPositions):
            return self("Gather", self.weight(module.weight), places)
        half = module.width // 2
        frequencies = np.exp(np.arange(half) * -(math.log(10000.0) / max(half - 1, 1)))
        numbers = self("Cast", self("Add", places, self.constant(1)), to=_type(np.float64))
        angles = self("Mul", self("Unsqueeze", numbers, self.constant([1])), self.constant(frequencies, np.float64))
        # In double precision, as the module has them; of the two functions runtimes have the sine alone in it.
        quarter = self("Add", angles, self.constant(math.pi / 2, np.float64))
        waves = self("Concat", self("Sin", angles), self("Sin", quarter), axis=1)
        return self("Cast", waves, to=_type(np.float32))

    def heads(self, x: str, heads: int) -> str:
        """(B, L, H) as (B, A, L, D)."""
        width = self("Reshape", x, self.constant([0, 0, heads, -1]))
        return self("Transpose", width, perm=[0, 2, 1, 3])

    def project(self, attention: MultiHeadAttention, x: str) -> tuple[str, str]:
        """Keys and values of every head."""
        keys, values = self.split(self.linear(attention.key_value, x), 2)
        return self.heads(keys, attention.heads), self.heads(values, attention.heads)

    def attend(
        self, attention: MultiHeadAttention, query: str, keys: str, values: str, mask: str | None
    ) -> tuple[str, str]:
        """The attended values (B, T, H), and where each head looked (B, A, T, S)."""
        width = attention.query.out_features
        scale = self.constant(math.sqrt(width // attention.heads), np.float32)
        queries = self("Div", self.heads(self.linear(attention.query, query), attention.heads), scale)
        scores = self("MatMul", queries, self("Transpose", keys, perm=[0, 1, 3, 2]))
        if mask is not None:
            scores = self("Where", mask, scores, self.constant(MINUS_INFINITY, np.float32))
        weights = self("Softmax", scores, axis=-1)
        context = self("Transpose", self("MatMul", weights, values), perm=[0, 2, 1, 3])
        return self.linear(attention.output, self("Reshape", context, self.constant([0, 0, width]))), weights


def values_of(parameter: Tensor) -> Array:
    """The values of a parameter in single precision, in memory of their own."""
    return np.array(parameter.detach().float().cpu().numpy(), copy=True)


def _type(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
