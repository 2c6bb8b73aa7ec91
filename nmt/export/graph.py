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
from nmt.layers.positions import LearnedPositions, RelativePositions, SinusoidalPositions

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["MINUS_INFINITY", "Array", "Graph", "type_of", "values_of"]

Array = np.ndarray[Any, np.dtype[Any]]

OPSET = 18
IR_VERSION = 10

MINUS_INFINITY = np.float32(-np.inf)


class Graph:
    """A graph that grows; it keeps the parameters of ``model`` under the names they have there.

    With ``narrow`` tables and the matrices of products are kept in 8 bits, with a scale for each of their rows.
    """

    def __init__(self, model: nn.Module, *, narrow: bool = False) -> None:
        self._narrow = narrow
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._nodes: list[Any] = []
        self._weights: dict[str, Array] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
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
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._fresh("constant")
            self._weights[self._constants[key]] = array
        return self._constants[key]

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

    def model(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> ModelProto:
        """The finished graph. Each value has a shape of letters; a letter is a length, the same wherever it stands."""
        from onnx import checker, helper, numpy_helper

        def described(values: Mapping[str, str]) -> list[Any]:
            return [helper.make_tensor_value_info(name, _kind(name), list(shape)) for name, shape in values.items()]

        weights = [numpy_helper.from_array(values, name) for name, values in self._weights.items()]
        graph = helper.make_graph(self._nodes, "nmt", described(inputs), described(outputs), weights)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="nmt")
        checker.check_model(model)
        return model

    # ---------------------------------------------------------------------------------------------------------- layers

    def linear(self, layer: nn.Linear, x: str, *, name: str = "") -> str:
        """x W^T + b."""
        bias: Tensor | None = layer.bias
        product = self._narrow_product(layer.weight, x) if self._narrow else self._product(layer.weight, x)
        return self("Sum", product, *([] if bias is None else [self.weight(bias)]), name=name)

    def output(self, layer: nn.Linear, features: str) -> str:
        """The ``logits`` (R, V); a matrix that is the table of the embedding is not kept a second time."""
        if self._narrow:
            return self.linear(layer, features, name="logits")
        return self("Gemm", features, self.weight(layer.weight), name="logits", transB=1)

    def _product(self, matrix: Tensor, x: str) -> str:
        return self("MatMul", x, self.weight(matrix, transposed=True))

    def _narrow_product(self, matrix: Tensor, x: str) -> str:
        """x W^T in whole numbers: each row of x by its own scale, so that no row depends on those beside it.

        Bytes without sign by bytes with sign is what processors are quick at: x lies around 128. Of a weight's 8 bits 7
        are used: without instructions made for it, products are added up in pairs of 16 bits, which 2 * 255 * 63 fits.
        """
        weights, scales = self._rows(matrix, levels=63, transposed=True)
        largest = self("ReduceMax", self("Abs", x), self.constant([-1]), keepdims=1)
        tiny = self.constant(1e-20, np.float32)
        scale = self("Div", self("Max", largest, tiny), self.constant(127, np.float32))
        middle = self("Add", self("Div", x, scale), self.constant(128, np.float32))
        whole = self("Cast", self("Round", middle), to=type_of(np.uint8))
        product = self("MatMulInteger", whole, weights, self.constant(128, np.uint8))
        return self("Mul", self("Mul", self("Cast", product, to=type_of(np.float32)), scales), scale)

    def _rows(self, matrix: Tensor, *, levels: int, transposed: bool = False) -> tuple[str, str]:
        """A matrix in whole numbers from -``levels`` to ``levels``, and for each row what one of them is worth."""
        name = f"{self._names[id(matrix)]}.{levels}"
        if name not in self._weights:
            values = values_of(matrix)
            scales = np.maximum(np.abs(values).max(axis=1), np.float32(1e-20)) / np.float32(levels)
            whole = np.rint(values / scales[:, None]).astype(np.int8)
            self._weights[name] = np.ascontiguousarray(whole.T) if transposed else whole
            self._weights[f"{name}.scales"] = scales
        return name, f"{name}.scales"

    def norm(self, layer: nn.Module, x: str) -> str:
        """Layer normalisation; ``x`` itself where there is none."""
        if not isinstance(layer, nn.LayerNorm):
            return x
        return self("LayerNormalization", x, self.weight(layer.weight), self.weight(layer.bias), epsilon=layer.eps)

    def embed(self, embedding: TokenEmbedding, tokens: str, positions: str | None = None) -> str:
        """The vectors of tokens, positions added where there are any."""
        table = embedding.table.weight
        if self._narrow:
            whole, scales = (self("Gather", part, tokens) for part in self._rows(table, levels=127))
            widened = self("Cast", whole, to=type_of(np.float32))
            vectors = self("Mul", widened, self("Unsqueeze", scales, self.constant([-1])))
        else:
            vectors = self("Gather", self.weight(table), tokens)
        if embedding.scale != 1.0:
            vectors = self("Mul", vectors, self.constant(embedding.scale, np.float32))
        return vectors if positions is None else self("Add", vectors, positions)

    def positions(self, module: SinusoidalPositions | LearnedPositions | None, start: str, length: str) -> str | None:
        """The vectors of positions ``start`` to ``start + length``, both lists of one number; None where there are
        none.
        """
        if module is None:
            return None
        first, last = (self("Squeeze", x) for x in (start, self("Add", start, length)))
        places = self("Range", first, last, self.constant(1))
        if isinstance(module, LearnedPositions):
            return self("Gather", self.weight(module.weight), places)
        half = module.width // 2
        frequencies = np.exp(np.arange(half) * -(math.log(10000.0) / max(half - 1, 1)))
        numbers = self("Cast", self("Add", places, self.constant(1)), to=type_of(np.float64))
        angles = self("Mul", self("Unsqueeze", numbers, self.constant([1])), self.constant(frequencies, np.float64))
        # In double precision, as the module has them; of the two functions runtimes have the sine alone in it.
        quarter = self("Add", angles, self.constant(math.pi / 2, np.float64))
        waves = self("Concat", self("Sin", angles), self("Sin", quarter), axis=1)
        return self("Cast", waves, to=type_of(np.float32))

    def relative(self, module: RelativePositions, distances: str) -> str:
        """What is added to scores (A, T, P) for distances (T, P)."""
        most = self.constant(module.most)
        rows = self("Add", self("Clip", distances, self.constant(-module.most), most), most)
        return self("Transpose", self("Gather", self.weight(module.table.weight), rows), perm=[2, 0, 1])

    def heads(self, x: str, heads: int) -> str:
        """(B, L, H) as (B, A, L, D)."""
        width = self("Reshape", x, self.constant([0, 0, heads, -1]))
        return self("Transpose", width, perm=[0, 2, 1, 3])

    def project(self, attention: MultiHeadAttention, x: str) -> tuple[str, str]:
        """Keys and values of every head."""
        keys, values = self.split(self.linear(attention.key_value, x), 2)
        return self.heads(keys, attention.heads), self.heads(values, attention.heads)

    def attend(
        self,
        attention: MultiHeadAttention,
        query: str,
        keys: str,
        values: str,
        mask: str | None,
        bias: str | None = None,
    ) -> tuple[str, str]:
        """The attended values (B, T, H), and where each head looked (B, A, T, S); a bias is added to scores."""
        width = attention.query.out_features
        scale = self.constant(math.sqrt(width // attention.heads), np.float32)
        queries = self("Div", self.heads(self.linear(attention.query, query), attention.heads), scale)
        scores = self("MatMul", queries, self("Transpose", keys, perm=[0, 1, 3, 2]))
        if bias is not None:
            scores = self("Add", scores, bias)
        if mask is not None:
            scores = self("Where", mask, scores, self.constant(MINUS_INFINITY, np.float32))
        weights = self("Softmax", scores, axis=-1)
        context = self("Transpose", self("MatMul", weights, values), perm=[0, 2, 1, 3])
        return self.linear(attention.output, self("Reshape", context, self.constant([0, 0, width]))), weights


def values_of(parameter: Tensor) -> Array:
    """The values of a parameter in single precision, in memory of their own."""
    return np.array(parameter.detach().float().cpu().numpy(), copy=True)


def type_of(dtype: Any) -> int:
    """ONNX's number of a type."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _kind(name: str) -> int:
    """The type of what goes in or out: ids, masks, and numbers."""
    return type_of(np.int64 if name in ("source", "tokens") else np.bool_ if name.endswith("mask") else np.float32)
