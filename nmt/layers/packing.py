"""Products with weights that will not change any more, for search: the weight is laid out once for the processor.

=========  =======================================================================================================
float32    the reference; the layout is oneDNN's where that pays, and sums differ by what their order makes
bfloat16   both factors rounded to 8 bits of mantissa, sums in single precision: for processors that multiply these
int8       large weights rounded to 8 bits, a scale a row of the weight; what comes in too, a scale a row: a sentence's
           numbers never depend on its neighbours'
=========  =======================================================================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nmt.errors import ConfigError

__all__ = ["Precision", "Product", "multiplies_bfloat16", "pack", "pack_layers", "resolve_precision"]

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]

#: x (R, I) to x W^T + b (R, O), a new tensor.
Product: TypeAlias = Callable[[Tensor], Tensor]

LARGE = 2**18
"""Elements of a weight from which oneDNN's layout pays for its dearer call."""

SMALL = 2**17
"""Elements of a weight below which rounding to int8 takes the time that its product saves."""


def resolve_precision(wanted: Literal["auto", "float32", "bfloat16", "int8"], device: torch.device) -> Precision:
    """The precision that a name means on ``device``.

    ``auto`` is bfloat16 where a CPU multiplies it, and float32 elsewhere, the GPU included: search waits there for
    kernels to start, not for products. Raises ConfigError for int8 on a GPU.
    """
    if wanted == "auto":
        return "bfloat16" if device.type == "cpu" and multiplies_bfloat16(device) else "float32"
    if wanted == "int8" and (device.type != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines):
        raise ConfigError(f"precision int8 cannot be had on {device.type} here: use float32 or bfloat16")
    return wanted


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether there are units for it: AMX or AVX-512 BF16 on a CPU, Ampere and later on a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _has("amx_bf16", "avx512_bf16")


def _has(*features: str) -> bool:
    """Whether the processor has any of them; older torch cannot tell, and is taken to have none."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(feature) for feature in features)


def pack_layers(layers: Sequence[nn.Linear], precision: Precision) -> Product:
    """The products of several layers with one input, side by side, as one; if several, each has a bias."""
    if len(layers) == 1:
        return pack(layers[0].weight, layers[0].bias, precision)
    weight = torch.cat(tuple(layer.weight for layer in layers))
    return pack(weight, torch.cat(tuple(layer.bias for layer in layers)), precision)


def pack(weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None, precision: Precision) -> Product:
    """x W^T + b with this weight as it is now. Where nothing is gained by another layout, it is the weight itself."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if precision == "bfloat16":
        return _rounded(weight.bfloat16(), bias)
    if precision == "int8" and weight.dtype == torch.float32 and weight.numel() >= SMALL:
        return _Int8(weight, bias)
    is_large = weight.numel() >= LARGE and weight.dtype == torch.float32 and weight.device.type == "cpu"
    if is_large and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return _laid_out(weight, bias)
    transposed = weight.t()
    return (lambda x: torch.mm(x, transposed)) if bias is None else (lambda x: torch.addmm(bias, x, transposed))


def _rounded(weight: Tensor, bias: Tensor | None) -> Product:
    def product(x: Tensor) -> Tensor:
        wide = functional.linear(x.bfloat16(), weight).to(x.dtype)
        return wide if bias is None else wide.add_(bias)

    return product


def _laid_out(weight: Tensor, bias: Tensor | None) -> Product:
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)

    def product(x: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
        return made

    return product


class _Int8:
    """x W^T + b with s_r q_r for the rows of x and a scale a row of W: integers are multiplied, sums are exact.

    What comes in is rounded to 8 bits where the processor adds products of bytes without loss (VNNI); elsewhere two
    products that are added in 16 bits must fit there, which leaves 7.
    """

    def __init__(self, weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None) -> None:
        self.bias = bias
        self.levels = 127 if _has("avx512_vnni", "avx_vnni", "amx_int8") else 63
        scales = weight.abs().amax(dim=1).clamp_min(1e-30).double() / 127
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            with warnings.catch_warnings():  # torch means to part with tensors of integers; the product stays
                warnings.simplefilter("ignore", UserWarning)
                zeros = torch.zeros(len(scales), dtype=torch.long)
                rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
                self.weight = torch.ops.quantized.linear_prepack(rounded, None)
        finally:
            torch.backends.quantized.engine = engine

    def __call__(self, x: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        scales = x.abs().amax(dim=1, keepdim=True).clamp_min_(1e-30)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / scales, 1 / self.levels, self.levels + 1, self.weight
        )
        return product.mul_(scales) if self.bias is None else torch.addcmul(self.bias, product, scales, out=product)
