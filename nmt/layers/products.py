"""The products of a loop over positions, with matrices that are the same at every step.

Left to itself, automatic differentiation makes a gradient of the matrix's size at every step, and adds it to those of
the steps before: with a few hundred rows a step that is more writing than multiplying. The sum of x_t^T g_t over all
steps, where x_t went in and g_t is the gradient of what came out, is one product X^T G of all their rows:
:class:`LoopProducts` keeps x_t and g_t on the way back through the loop, and makes it at the loop's beginning.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nmt.layers.additive import Pairs, current_pass, powers
from nmt.layers.dropout import DroppedLinear

__all__ = ["PLAIN", "LoopProducts", "Products"]


class Products:
    """Products as torch makes them, each by itself."""

    def linear(self, layer: nn.Linear, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """x W^T + b."""
        product: Tensor = layer(x)
        return product

    def dot(self, queries: Float[Tensor, "B T Q"], keys: Float[Tensor, "B S Q"]) -> Float[Tensor, "B T S"]:
        """Every query of a sentence times every key."""
        return torch.matmul(queries, keys.transpose(1, 2).to(queries.dtype))

    def weigh(self, weights: Float[Tensor, "B T S"], values: Float[Tensor, "B S H"]) -> Float[Tensor, "B T H"]:
        """The sums of the values of a sentence by each row of weights."""
        return torch.matmul(weights.to(values.dtype), values)

    def additive(
        self, queries: Float[Tensor, "B T K"], keys: Float[Tensor, "B S K"], energy: nn.Linear
    ) -> Float[Tensor, "B T S"]:
        """v . tanh(q + k) of every query and every key of a sentence, v being the weight of ``energy``."""
        scores: Tensor = energy(torch.tanh(queries.unsqueeze(2) + keys.unsqueeze(1)))
        return scores.squeeze(-1)


#: Outside of loops.
PLAIN = Products()


class LoopProducts(Products):
    """The products of one loop; the gradients of weights, keys and values are made once for all its steps.

    These are known by being the same objects at every step. Gradients cannot be differentiated again.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], _Factor] = {}
        self._pairs: dict[int, Pairs | None] = {}

    def linear(self, layer: nn.Linear, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        known = self._known.get((id(layer.weight), True))
        if known is None:
            matrix = layer.matrix() if isinstance(layer, DroppedLinear) else layer.weight
            known = self._known[id(layer.weight), True] = _Factor(matrix, layer.bias, True)
        product = known(x.flatten(0, -2))
        return product.view(*x.shape[:-1], -1)

    def dot(self, queries: Float[Tensor, "B T Q"], keys: Float[Tensor, "B S Q"]) -> Float[Tensor, "B T S"]:
        return self._of(keys, transposed=True)(queries)

    def weigh(self, weights: Float[Tensor, "B T S"], values: Float[Tensor, "B S H"]) -> Float[Tensor, "B T H"]:
        return self._of(values, transposed=False)(weights)

    def additive(
        self, queries: Float[Tensor, "B T K"], keys: Float[Tensor, "B S K"], energy: nn.Linear
    ) -> Float[Tensor, "B T S"]:
        if id(keys) not in self._pairs:
            made, large = powers(keys.detach())
            self._pairs[id(keys)] = None if large.any() else Pairs(keys, made, energy.weight)
        pairs = self._pairs[id(keys)]
        return super().additive(queries, keys, energy) if pairs is None else pairs.scores(queries)

    def _of(self, matrix: Tensor, *, transposed: bool) -> _Factor:
        known = self._known.get((id(matrix), transposed))
        if known is None:
            known = self._known[id(matrix), transposed] = _Factor(matrix, None, transposed)
        return known


class _Factor:
    """The right factor of a product at every step: ``matrix`` (.., I, O), or (.., O, I) where it is ``transposed``.

    In front of the loop stands a node of the graph that hands the gradients on to ``matrix`` and ``bias``. All steps
    are behind it, so that it is reached when each has left its rows and their gradients.
    """

    def __init__(self, matrix: Tensor, bias: Tensor | None, transposed: bool) -> None:
        self.matrix, self.transposed = matrix, transposed  # kept: what is gone could lend its id to another
        kind = matrix.device.type
        autocasts = torch.is_autocast_enabled(kind)
        narrow = matrix.detach().to(torch.get_autocast_dtype(kind) if autocasts else matrix.dtype)
        self.factor = narrow.transpose(-1, -2) if transposed else narrow
        self.bias = bias if bias is None else bias.detach().to(narrow.dtype)
        self._left: list[tuple[Tensor, Tensor]] = []
        self._pass = -1
        self.front: Tensor = _Front.apply(matrix, bias, self)  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = _Step.apply(x, self.front, self)  # type: ignore[no-untyped-call]
        return product

    def leave(self, rows: Tensor, gradient: Tensor) -> None:
        """Keep what a step multiplied and the gradient of what came of it, for the pass that is under way."""
        if self._pass != (current := current_pass()):  # one that came no further than the loop may have left something
            self._pass, self._left = current, []
        self._left.append((rows, gradient))

    def collected(self) -> tuple[Tensor, Tensor | None]:
        """The gradients of matrix and bias, from all steps that have left theirs."""
        rows, gradients = (torch.cat(parts, dim=-2) for parts in zip(*self._left, strict=True))
        self._left = []
        left, right = (gradients, rows) if self.transposed else (rows, gradients)
        of_bias = None if self.bias is None else gradients.sum(dim=0, dtype=self.matrix.dtype)
        return (left.transpose(-1, -2) @ right).to(self.matrix.dtype), of_bias


class _Front(torch.autograd.Function):
    """Stands between the matrix and the loop: a number that means nothing, on which every step depends."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, bias: Tensor | None, factor: _Factor) -> Tensor:
        ctx.factor = weakref.ref(factor)  # which has this node: without a circle it is gone when the loop is
        return matrix.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return *ctx.factor().collected(), None  # which the steps have


class _Step(torch.autograd.Function):
    """One product; its way back leaves what the matrix's gradient is made of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, front: Tensor, factor: _Factor) -> Tensor:
        narrow = x.to(factor.factor.dtype)
        ctx.save_for_backward(narrow)
        ctx.factor, ctx.dtype = factor, x.dtype
        if factor.bias is not None:
            return torch.addmm(factor.bias, narrow, factor.factor)
        return torch.matmul(narrow, factor.factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (rows,), (gradient,) = ctx.saved_tensors, gradients
        ctx.factor.leave(rows, gradient)
        back = torch.matmul(gradient, ctx.factor.factor.transpose(-1, -2))
        return back.to(ctx.dtype), gradient.new_zeros(()), None
