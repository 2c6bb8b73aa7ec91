"""Cross-entropy with label smoothing, worked out without ever holding all logits.

For a target y and logits z over V tokens the loss of a token is

    (1 - e) * -log p(y)  +  e * mean_v -log p(v),        p = softmax(z)

(Szegedy et al. 2016, section 7, in the form of ``torch.nn.functional.cross_entropy``). Its gradient in z is p - q, with
q = e / V everywhere and 1 - e more on y, so that a chunk of rows can give its loss and its share of the gradients of
features and output layer in one pass and be forgotten: of the (B T, V) logits only a chunk exists at a time.

With consistency a there are two passes over the same targets, with other units dropped, that give p and r; beside the
mean of their losses stands how far they are apart (R-Drop: Liang et al. 2021, equations 2 to 4, here for one token)

    (CE(p) + CE(r)) / 2  +  a / 2 * (KL(p || r) + KL(r || p)) / 2

With d = z_p - z_r, the difference of the logits, the divergences sum to E_p[d] - E_r[d], whose gradient is
p (d - E_p[d]) + p - r in the logits of p, and r (E_r[d] - d) + r - p in those of r: log p - log r differs from d by the
same for every token, and that is gone with the mean.
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

#: Rows whose logits exist at a time. All full chunks have one shape, which a processor's kernels are made for once;
#: they stay in its cache. A GPU wants fewer and larger products.
CHUNK_ROWS = 512
GPU_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class TokenLoss:
    """Sums over the real tokens of a batch: what is minimised, and the plain negative log-likelihood beside it.

    Both are in nats; ``negative_log_likelihood`` carries no gradient.
    """

    loss: Float[Tensor, ""]
    negative_log_likelihood: Float[Tensor, ""]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of losses, its gradients made on the way forward where they are ``wanted``."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        consistency: float,
        dtype: torch.dtype,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        passes, vocabulary = len(features), weight.shape[0]
        rows = max(1, (CHUNK_ROWS if features.device.type == "cpu" else GPU_CHUNK_ROWS) // passes)
        narrow_features, narrow_weight = features.detach().to(dtype), weight.detach().to(dtype)
        feature_gradient = torch.empty_like(features) if wanted else None
        weight_gradient = torch.zeros_like(weight) if wanted else None
        nll = features.new_zeros((), dtype=torch.float64)
        of_targets, apart = torch.zeros_like(nll), torch.zeros_like(nll)
        for start in range(0, len(targets), rows):
            piece = slice(start, start + rows)
            target = targets[piece].repeat(passes).unsqueeze(1)
            chunk = narrow_features[:, piece].flatten(0, 1)
            logits = functional.linear(chunk, narrow_weight)
            of_target = logits.gather(1, target).double()
            of_targets += of_target.sum()
            if feature_gradient is None or weight_gradient is None:
                nll += (logits.to(_wide(features)).logsumexp(dim=1, keepdim=True).double() - of_target).sum()
                if consistency:
                    apart += _pull_together(logits.softmax(dim=1), logits, consistency / 2)
                continue
            largest = logits.amax(dim=1, keepdim=True)
            probabilities = logits.softmax(dim=1)
            # log sum_v exp(z_v) from the likeliest token: its probability is never too small to say
            normalizer = largest.double() - probabilities.amax(dim=1, keepdim=True).double().log()
            nll += (normalizer - of_target).sum()
            gradient = probabilities
            if consistency:
                apart += _pull_together(gradient, logits, consistency / 2)
            # p - q, but for the e / V that q has everywhere, which is taken off below
            at_target = torch.arange(len(target), device=target.device), target.squeeze(1)
            gradient[at_target] -= 1.0 - smoothing
            feature_gradient[:, piece] = (gradient @ narrow_weight).view(passes, -1, weight.shape[1])
            weight_gradient += gradient.t() @ chunk
        sums = features.detach().sum(dim=(0, 1)), weight.detach().sum(dim=0)
        if feature_gradient is not None and weight_gradient is not None:
            feature_gradient.sub_(sums[1], alpha=smoothing / vocabulary)
            weight_gradient.sub_(sums[0], alpha=smoothing / vocabulary)
        # -mean_v log p(v) = -log p(y) + z_y - mean_v z_v
        of_all = sums[0].double() @ sums[1].double() / vocabulary
        loss = (nll + smoothing * (of_targets - of_all) + consistency / 2 * apart) / passes
        ctx.save_for_backward(feature_gradient, weight_gradient)
        ctx.passes = passes
        nll = (nll / passes).to(_wide(features))
        ctx.mark_non_differentiable(nll)
        return loss.to(_wide(features)), nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        feature_gradient, weight_gradient = ctx.saved_tensors
        scale = gradients[0] / ctx.passes
        return feature_gradient * scale, weight_gradient * scale, None, None, None, None, None


def _pull_together(probabilities: Tensor, logits: Tensor, share: float) -> Tensor:
    """KL(p || r) + KL(r || p), summed over the rows; its gradient in the logits, times ``share``, is added to them.

    The first half of the rows gives p, the second r. Everything is as wide as a row, and of one type: what is slow here
    is memory.
    """
    (first, second), d = probabilities.chunk(2), torch.sub(*logits.chunk(2))
    pulls = first * d, second * d
    means = [one.sum(dim=1, keepdim=True) for one in pulls]
    pulls[0].sub_(second)
    pulls[1].add_(first)
    first.mul_(1 + share - share * means[0]).add_(pulls[0], alpha=share)
    second.mul_(1 + share + share * means[1]).sub_(pulls[1], alpha=share)
    return (means[0].double() - means[1].double()).sum()


def _wide(features: Tensor) -> torch.dtype:
    """The type to take exponentials in: double stays double, all else is float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def token_loss(
    features: Float[Tensor, "R T H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    smoothing: float = 0.0,
    consistency: float = 0.0,
) -> TokenLoss:
    """The loss of every real target token, summed. Under autocast the products are made in its type.

    R is B; above a ``consistency`` of 0 it is 2 B: the features of all targets, and those of a second pass over them.
    """
    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype
    with torch.autocast(kind, enabled=False):
        real = mask.flatten().nonzero().squeeze(1)
        chosen = features.view(-1, targets.numel(), features.shape[-1]).index_select(1, real)
        loss, nll = _ChunkedCrossEntropy.apply(
            chosen, weight, targets.flatten()[real], smoothing, consistency, dtype, torch.is_grad_enabled()
        )  # type: ignore[no-untyped-call]
    return TokenLoss(loss, nll)


def perplexity(negative_log_likelihood: float, tokens: int) -> float:
    """exp of the mean negative log-likelihood a token; infinite where that is too large to say."""
    mean = negative_log_likelihood / max(tokens, 1)
    return math.exp(mean) if mean < 700 else math.inf
