"""Cross-entropy with label smoothing, worked out without ever holding all logits.

For a target y and logits z over V tokens the loss of a token is

    (1 - e) * -log p(y)  +  e * mean_v -log p(v),        p = softmax(z)

(Szegedy et al. 2016, section 7, in the form of ``torch.nn.functional.cross_entropy``). Its gradient in z is p - q, with
q = e / V everywhere and 1 - e more on y, so that a chunk of rows can give its loss and its share of the gradients of
features and output layer in one pass and be forgotten: of the (B T, V) logits only a chunk exists at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["TokenLoss", "perplexity", "token_loss"]

#: Logits held at a time, in numbers: 16 MiB of float32, which stays in a processor's cache.
CHUNK_NUMBERS = 4 * 2**20


@dataclass(frozen=True)
class TokenLoss:
    """Sums over the real tokens of a batch: what is minimised, and the plain negative log-likelihood beside it.

    Both are in nats; ``negative_log_likelihood`` carries no gradient.
    """

    loss: Float[Tensor, ""]
    negative_log_likelihood: Float[Tensor, ""]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of losses, its gradients made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, smoothing: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        need_gradient = features.requires_grad or weight.requires_grad
        vocabulary = weight.shape[0]
        narrow_features, narrow_weight = features.detach().to(dtype), weight.detach().to(dtype)
        feature_gradient = torch.empty_like(features) if need_gradient else None
        weight_gradient = torch.zeros_like(weight) if need_gradient else None
        loss = features.new_zeros((), dtype=torch.float64)
        nll = features.new_zeros((), dtype=torch.float64)
        rows = max(1, CHUNK_NUMBERS // vocabulary)
        for start in range(0, len(targets), rows):
            piece = slice(start, start + rows)
            target = targets[piece].unsqueeze(1)
            logits = functional.linear(narrow_features[piece], narrow_weight).to(_wide(features))
            logits.sub_(logits.amax(dim=1, keepdim=True))
            of_target, of_all = logits.gather(1, target), logits.mean(dim=1, keepdim=True)
            total = logits.exp_().sum(dim=1, keepdim=True)  # from here on ``logits`` holds exp(z - max z)
            normalizer = total.log()
            token_nll = normalizer - of_target
            nll += token_nll.sum()
            loss += (1 - smoothing) * token_nll.sum() + smoothing * (normalizer - of_all).sum()
            if feature_gradient is not None and weight_gradient is not None:
                gradient = logits.div_(total).sub_(smoothing / vocabulary)  # p - q, where y's own share of q follows
                gradient.scatter_add_(1, target, gradient.new_full(target.shape, smoothing - 1.0))
                narrow = gradient.to(dtype)
                feature_gradient[piece] = narrow @ narrow_weight
                weight_gradient += narrow.t() @ narrow_features[piece]
        ctx.save_for_backward(feature_gradient, weight_gradient)
        nll = nll.to(_wide(features))
        ctx.mark_non_differentiable(nll)
        return loss.to(_wide(features)), nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        feature_gradient, weight_gradient = ctx.saved_tensors
        scale = gradients[0]
        return feature_gradient * scale, weight_gradient * scale, None, None, None


def _wide(features: Tensor) -> torch.dtype:
    """The type to take exponentials in: double stays double, all else is float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def token_loss(
    features: Float[Tensor, "B T H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    smoothing: float = 0.0,
) -> TokenLoss:
    """The loss of every real target token, summed. Under autocast the products are made in its type."""
    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype
    with torch.autocast(kind, enabled=False):
        real = mask.flatten().nonzero().squeeze(1)
        chosen = features.flatten(0, 1).index_select(0, real)
        loss, nll = _ChunkedCrossEntropy.apply(chosen, weight, targets.flatten()[real], smoothing, dtype)  # type: ignore[no-untyped-call]
    return TokenLoss(loss, nll)


def perplexity(negative_log_likelihood: float, tokens: int) -> float:
    """exp of the mean negative log-likelihood a token; infinite where that is too large to say."""
    mean = negative_log_likelihood / max(tokens, 1)
    return math.exp(mean) if mean < 700 else math.inf
