"""Muon: steps along the orthogonal matrix nearest to the momentum, for weights that multiply (Jordan et al. 2024).

Adam looks at each number of a gradient by itself. A weight matrix is a map, and what it does in its weaker directions
drowns in a few strong ones; the nearest orthogonal matrix to its gradient, U V^T of the singular value decomposition
U S V^T, moves all directions alike. What is no product, embeddings, the output layer, biases and norms, goes by Adam.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nmt.distributed import ALONE, Ranks
from nmt.models import Seq2Seq
from nmt.training.groups import grouped, token_tables

__all__ = ["Muon", "hidden_matrices", "orthogonalized"]

#: A Newton-Schulz step is a x + b (x x^T) x + c (x x^T)^2 x. These three lift small singular values fastest: after five
#: steps those above 0.002 of the matrix's Frobenius norm are between 0.68 and 1.21 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
MOMENTUM = 0.95
#: The root mean square of a matrix's step is this share of the rate, where a step of Adam's has 0.2 to 0.4 of it (Liu
#: et al. 2025, section 2.2). On Multi30k 0.4 comes further than 0.2 and 0.8.
SHARE = 0.4


def orthogonalized(matrices: Float[Tensor, "N R C"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "N R C"]:
    """About U V^T of every matrix U S V^T, by five Newton-Schulz steps (Jordan et al. 2024); zero stays zero.

    The products are made in ``dtype``, in which the matrices are returned: bfloat16 is enough (Jordan et al. 2024).
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if is_tall else matrices
    x: Tensor = (wide / wide.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)).to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def hidden_matrices(model: Seq2Seq) -> Iterator[tuple[Tensor, int]]:
    """Every weight that multiplies states, and how many matrices it holds one below the other.

    The output layer is none of them: its rows are tokens, as those of an embedding are.
    """
    stacked: dict[Tensor, int] = {}
    for module in model.modules():
        for name, parts in getattr(module, "stacked", {}).items():
            if (layer := getattr(module, name)) is not None:
                stacked[layer.weight] = parts
    tables = token_tables(model)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight not in tables and min(module.weight.shape) > 1:
            yield module.weight, stacked.get(module.weight, 1)
        elif isinstance(module, nn.GRU | nn.LSTM):
            gates = 4 if isinstance(module, nn.LSTM) else 3
            yield from ((weight, gates) for name, weight in module.named_parameters() if "weight" in name)


class Muon(torch.optim.Optimizer):
    """Muon for the hidden matrices of a model, AdamW for the rest, at one learning rate.

    A matrix of R x C moves by ``SHARE`` sqrt(max(R, C)) times the rate, which has the root mean square of ``SHARE``
    times the rate whatever its shape (Liu et al. 2025, section 2.2), so that what was a good rate for Adam is one here.
    ``weight_decay`` is decoupled (Loshchilov and Hutter 2019), in both; tables of tokens move at ``embedding_rate``
    times the rate (:func:`nmt.training.groups.grouped`). On a processor each of the ``ranks`` makes its share of a
    step's orthogonal matrices. On GPUs each makes all of them, which keeps weights the same to the last bit where the
    GPUs are of one kind.

    Orthogonal matrices are made in ``dtype``, all else is float32.

    ``matrices`` says of each weight that goes by Muon how many matrices it holds. The state of both optimisers is in
    ``state``, by parameter; it is saved and loaded there, ``load_state_dict`` is not for it.
    """

    def __init__(
        self,
        model: Seq2Seq,
        ranks: Ranks = ALONE,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        embedding_rate: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._ranks, self._dtype = ranks, dtype
        self.matrices = dict(hidden_matrices(model))
        rest = [parameter for parameter in model.parameters() if parameter not in self.matrices]
        of_rest = grouped(model, rest, embedding_rate)
        super().__init__([{"params": list(self.matrices), "factor": 1.0}], {"lr": lr, "weight_decay": weight_decay})
        self._adam = torch.optim.AdamW(of_rest, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self._adam.state = self.state
        self.param_groups += self._adam.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient; there is no closure to be called."""
        self._adam.step()
        group = self.param_groups[0]
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        moved.sort(key=self._shape)
        for shape, same in groupby(moved, self._shape):
            self._move(list(same), shape, group["lr"], group["weight_decay"])

    def _shape(self, weight: Tensor) -> tuple[int, int]:
        """Rows and columns of each matrix in a weight."""
        return weight.shape[0] // self.matrices[weight], weight.shape[1]

    def _move(self, weights: list[Tensor], shape: tuple[int, int], rate: float, decay: float) -> None:
        """Move weights whose matrices have one shape."""
        ahead = []
        for weight in weights:
            gradient = weight.grad
            assert gradient is not None
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            momentum = state["momentum"]
            momentum.lerp_(gradient, 1 - MOMENTUM)
            ahead.append(gradient.lerp(momentum, MOMENTUM))  # Nesterov's
        steps = self._orthogonalized(torch.cat(ahead).view(-1, *shape))
        step = rate * SHARE * math.sqrt(max(shape))
        parts = torch.split(steps, [self.matrices[weight] for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.mul_(1 - rate * decay).sub_(part.reshape_as(weight), alpha=step)

    def _orthogonalized(self, matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
        """:func:`orthogonalized`, shared out among the processes."""
        if self._ranks.size == 1 or matrices.is_cuda:
            return orthogonalized(matrices, self._dtype).to(matrices.dtype)
        share = -(-len(matrices) // self._ranks.size)
        own = matrices[self._ranks.rank * share :][:share]
        padded = matrices.new_zeros(share, *matrices.shape[1:], dtype=self._dtype)
        padded[: len(own)] = orthogonalized(own, self._dtype)
        return torch.cat(self._ranks.gather(padded))[: len(matrices)].to(matrices.dtype)
