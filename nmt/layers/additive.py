"""The score of additive attention without a hyperbolic tangent for every pair of a query and a key.

Of v . tanh(q + k) (Bahdanau et al. 2015, appendix A.1.2) there are as many tangents as queries times keys times units.
Since tanh x = 1 - 2 / (1 + e^2x), with

    r = 1 / (1 + e^2q e^2k),    v . tanh(q + k) = sum_h v_h - 2 sum_h v_h r_h,    d tanh(q + k) / dq = 4 r (1 - r)

the powers are of queries and of keys by themselves, and a pair is left a product and a quotient, which a processor has
done in a sixth of the time. A query whose power is no number any more, or 0, has a tangent of 1, or -1, with every
key that :func:`powers` takes, and that is what comes out.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Pairs", "current_pass", "powers", "reciprocals"]

LARGEST = 20.0
"""The largest key whose power is multiplied: from 22 on a tangent is 1, in double precision too."""


def powers(keys: Float[Tensor, "B S K"]) -> tuple[Float[Tensor, "B S K"], Bool[Tensor, " B"]]:
    """e^2k, in single precision at least, and in which sentences a key is so large that it had better be added to
    queries, or no number.
    """
    large = ~(keys.abs().amax(dim=(1, 2)) <= LARGEST)
    return (2 * keys.to(torch.promote_types(keys.dtype, torch.float32))).exp_(), large


def reciprocals(queries: Float[Tensor, "B T K"], powers: Float[Tensor, "B S K"]) -> Float[Tensor, "B T S K"]:
    """r of every pair, from the powers of keys."""
    of_queries = (2 * queries.to(powers.dtype)).exp_().unsqueeze(2)
    return torch.addcmul(powers.new_ones(()), of_queries, powers.unsqueeze(1)).reciprocal_()


def current_pass() -> int:
    """The pass back through a graph that is under way; no two have the same number."""
    return int(torch._C._current_graph_task_id())


class Pairs:
    """The keys of a loop over queries. Gradients of keys and of v are added up on the way back through the loop.

    In front of the loop stands a node of the graph, as in :mod:`nmt.layers.products`, that hands them on.
    """

    def __init__(
        self, keys: Float[Tensor, "B S K"], powers: Float[Tensor, "B S K"], energy: Float[Tensor, "1 K"]
    ) -> None:
        self.keys, self.powers = keys, powers  # keys are kept: what is gone could lend its id to another
        weights = energy.detach()[0].to(powers.dtype)
        self.sum, self.twice_less, self.four_times = weights.sum(), -2 * weights, 4 * weights
        self.of_keys: Tensor | None = None
        self.of_energy: Tensor = torch.zeros_like(weights)
        self._pass = -1
        self.front: Tensor = _Front.apply(keys, energy, self)  # type: ignore[no-untyped-call]

    def scores(self, queries: Float[Tensor, "B T K"]) -> Float[Tensor, "B T S"]:
        """v . tanh(q + k) of every pair, in single precision at least."""
        scores: Tensor = _Scores.apply(queries, self.front, self)  # type: ignore[no-untyped-call]
        return scores

    def add(self, reciprocals: Float[Tensor, "B T S K"], slopes: Float[Tensor, "B T S K"], gradient: Tensor) -> None:
        """What one turn of the loop has for keys and v: ``gradient`` (B, T, S) is that of its scores."""
        if self._pass != (current := current_pass()):  # one that came no further than the loop may have left something
            self._pass, self.of_keys, self.of_energy = current, None, torch.zeros_like(self.of_energy)
        self.of_energy += gradient.sum() - 2 * (gradient.flatten() @ reciprocals.flatten(0, 2))
        if self.of_keys is None:
            self.of_keys = torch.zeros_like(self.powers)
        for one, slope in zip(gradient.unbind(1), slopes.unbind(1), strict=True):
            self.of_keys.addcmul_(one.unsqueeze(2), slope)

    def collected(self) -> tuple[Tensor | None, Tensor]:
        """The gradients of keys and v, from all turns that have left theirs."""
        of_keys, of_energy = self.of_keys, self.of_energy
        self.of_keys, self.of_energy = None, torch.zeros_like(of_energy)
        return None if of_keys is None else (of_keys * self.four_times).to(self.keys.dtype), of_energy.unsqueeze(0)


class _Front(torch.autograd.Function):
    """Stands between keys and loop: a number that means nothing, on which every turn depends."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, energy: Tensor, pairs: Pairs) -> Tensor:
        # Weakly, for that has this node: without a circle it is gone when the loop is.
        ctx.pairs, ctx.dtype = weakref.ref(pairs), energy.dtype
        return energy.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        of_keys, of_energy = ctx.pairs().collected()  # which the turns have
        return of_keys, of_energy.to(ctx.dtype), None


class _Scores(torch.autograd.Function):
    """The scores of one turn."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, front: Tensor, pairs: Pairs) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            found = reciprocals(queries, pairs.powers)
            ctx.save_for_backward(found)
            ctx.pairs, ctx.dtype = pairs, queries.dtype
            return (found @ pairs.twice_less).add_(pairs.sum)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (found,), (gradient,) = ctx.saved_tensors, gradients
        with torch.autocast(found.device.type, enabled=False):
            slopes = torch.addcmul(found, found, found, value=-1)
            ctx.pairs.add(found, slopes, gradient)
            of_queries = (gradient.unsqueeze(2) @ slopes).squeeze(2) * ctx.pairs.four_times
        return of_queries.to(ctx.dtype), gradient.new_zeros(()), None
