"""Products with weights that will not change any more, for search: the weight is laid out once for the processor.

=========  =======================================================================================================
float32    the reference; the layout is oneDNN's where that pays, and sums differ by what their order makes
float16    weights rounded to 11 bits of mantissa, all else in single precision: as quick as float32 for many rows, two
           to five times as quick for a few, the weights being half as large and laid out for it
bfloat16   both factors rounded to 8 bits of mantissa, and biases; sums in single precision, rounded to as many: for
           processors that multiply these
int8       large weights rounded to 8 bits, a scale a row of the weight; what comes in too, a scale a row: a sentence's
           numbers never depend on its neighbours'
=========  =======================================================================================================
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nmt.errors import ConfigError

__all__ = [
    "Precision",
    "Product",
    "as_multiplied",
    "gains_by_bfloat16",
    "has_fbgemm",
    "multiplies_bfloat16",
    "pack",
    "pack_layers",
    "pack_rectified",
    "resolve_precision",
]

Precision: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]

#: x (R, I) to x W^T + b (R, O), a new tensor; x may be in the type that products are made in.
Product: TypeAlias = Callable[[Tensor], Tensor]

LARGE = 2**18
"""Elements of a weight from which oneDNN's layout pays for its dearer call."""

LIGHT = 2**23
"""Weights that models may have for ``auto`` to choose float16: laying out more would be felt as a command starts."""

SLIGHT = 2**22
"""Weights that a model may have for ``auto`` to leave it in float32 where there is bfloat16: a Transformer of two
million is no quicker with that, for most of its time goes to calls, and rounding what comes in takes more of them.
Recurrent models of thirteen million, the next that were measured, are up to twice as quick."""

SMALL = 2**17
"""Elements of a weight below which rounding to int8 takes the time that its product saves."""


def resolve_precision(
    wanted: Literal["auto", "float32", "float16", "bfloat16", "int8"], device: torch.device, weights: Sequence[int]
) -> Precision:
    """The precision that a name means on ``device``, for models of so many ``weights`` each.

    ``auto`` is bfloat16 where a CPU multiplies it sooner, but for small models, for which it is no quicker there than
    float32; float16 for small models on other processors for which there is FBGEMM (x86 with AVX2), and float32
    elsewhere, the GPU included: search waits there for kernels to start, not for products. Raises ConfigError for
    float16 and int8 on a GPU, or where there is no FBGEMM.
    """
    if wanted == "auto":
        if device.type == "cpu" and gains_by_bfloat16(device):
            return "bfloat16" if max(weights) > SLIGHT else "float32"
        return "float16" if has_fbgemm(device) and sum(weights) <= LIGHT else "float32"
    if wanted in ("float16", "int8") and not has_fbgemm(device):
        raise ConfigError(f"precision {wanted} cannot be had on {device.type} here: use float32 or bfloat16")
    return wanted


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether there are units for it: AMX or AVX-512 BF16 on a CPU, Ampere and later on a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _has("amx_bf16", "avx512_bf16")


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are made sooner than in float32.

    Matrix units do (AMX, a GPU's), and AVX-512 BF16 of AMD's processors, which takes half the time. Intel's takes up to
    twice as long: an instruction for pairs of bfloat16 starts there half as often as one for single numbers, and all
    pairs have to be laid out for it. Such a processor shows up where a virtual machine hides AMX.
    """
    if device.type != "cpu" or _has("amx_bf16"):
        return multiplies_bfloat16(device)
    return _has("avx512_bf16") and not str(_capabilities().get("cpu_name", "")).startswith("Intel")


def has_fbgemm(device: torch.device) -> bool:
    """Whether torch has FBGEMM's products for it: on x86 with AVX2."""
    return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines


def _has_onednn(device: torch.device) -> bool:
    return device.type == "cpu" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _has(*features: str) -> bool:
    """Whether the processor has any of them; older torch cannot tell, and is taken to have none."""
    capabilities = _capabilities()
    return any(capabilities.get(feature) for feature in features)


def _capabilities() -> Mapping[str, object]:
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def pack_layers(
    layers: Sequence[nn.Linear], precision: Precision, *, few: bool = True, narrow: bool = False
) -> Product:
    """The products of several layers with one input, side by side, as one; if several, each has a bias."""
    if len(layers) == 1:
        return pack(layers[0].weight, layers[0].bias, precision, few=few, narrow=narrow)
    weight = torch.cat(tuple(layer.weight for layer in layers))
    return pack(weight, torch.cat(tuple(layer.bias for layer in layers)), precision, few=few, narrow=narrow)


def pack_rectified(layer: nn.Linear, precision: Precision, *, few: bool = True) -> Product:
    """max(0, x W^T + b), for another product to take: it may come in the type that products are made in."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    if precision == "bfloat16":
        return _rounded(weight, bias, rectified=True)
    product = pack(weight, bias, precision, few=few)
    return lambda x: product(x).relu_()


def pack(
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None,
    precision: Precision,
    *,
    few: bool = True,
    narrow: bool = False,
) -> Product:
    """x W^T + b with this weight as it is now. Where nothing is gained by another layout, it is the weight itself.

    ``few`` says that it is multiplied by a few rows at a time, and often, ``narrow`` that what comes of it may stay in
    the type that products are made in.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if precision == "bfloat16":
        return _rounded(weight, bias, narrow=narrow)
    if weight.dtype == torch.float32:
        if precision == "int8" and weight.numel() >= SMALL:
            return _Int8(weight, bias)
        if precision == "float16":
            rounded = _halved(weight)
            if few and rounded is not weight:
                return _fbgemm(rounded, bias)
            weight = rounded
    if weight.numel() >= LARGE and weight.dtype == torch.float32 and _has_onednn(weight.device):
        return _laid_out(weight, bias)
    return _plain(weight, bias)


def as_multiplied(weight: Float[Tensor, "O I"], precision: Precision) -> Float[Tensor, "O I"] | None:
    """The weight by which :func:`pack` multiplies, where its product rounds nothing else; None where it does."""
    if precision in ("bfloat16", "int8"):
        return None
    weight = weight.detach()
    return _halved(weight) if precision == "float16" and weight.dtype == torch.float32 else weight


def _halved(weight: Tensor) -> Tensor:
    """The weight in half precision, as single; the weight itself where that cannot hold it."""
    rounded = weight.half().float()
    return rounded if rounded.isfinite().all() else weight


def _rounded(weight: Tensor, bias: Tensor | None, *, rectified: bool = False, narrow: bool = False) -> Product:
    """The product in bfloat16, its sums, with the bias, rounded to that once: what is ``rectified`` or ``narrow`` stays
    in it.
    """
    rounded, rounded_bias = weight.bfloat16(), None if bias is None else bias.bfloat16()
    made_in = torch.bfloat16 if rectified or narrow else weight.dtype
    if _has_onednn(weight.device) and multiplies_bfloat16(weight.device):
        multiply = torch.ops.mkldnn._linear_pointwise
        laid_out, then = torch.ops.mkldnn._reorder_linear_weight(rounded), "relu" if rectified else "none"
        return lambda x: multiply(x.bfloat16(), laid_out, rounded_bias, then, [], "").to(made_in)

    def product(x: Tensor) -> Tensor:
        made = functional.linear(x.bfloat16(), rounded, rounded_bias)
        return (made.relu_() if rectified else made).to(made_in)

    return product


def _fbgemm(weight: Tensor, bias: Tensor | None) -> Product:
    """The product with a weight in half precision, under the older of its two names while torch has that: what the
    newer one spends on a call is more than a small product takes.
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    with _as_fbgemm():
        if hasattr(torch, "fbgemm_linear_fp16_weight_fp32_activation"):
            laid_out = torch.fbgemm_pack_gemm_matrix_fp16(weight)
            older = torch.fbgemm_linear_fp16_weight_fp32_activation
            older(weight.new_zeros(1, weight.shape[1]), laid_out, bias)  # what torch has to say of it is said now
            return lambda x: older(x, laid_out, bias)
        both = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    newer = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: newer(x, both)


_one_at_a_time = threading.Lock()


@contextmanager
def _as_fbgemm() -> Iterator[None]:
    """Weights are laid out by FBGEMM in its ``with`` block; that torch means to part with some of it is not said.

    The engine and the filters of warnings are the whole process's: one thread at a time changes them.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            yield
        finally:
            torch.backends.quantized.engine = engine


def _plain(weight: Tensor, bias: Tensor | None) -> Product:
    # With a few rows it takes a fifth to two fifths less where the numbers that one of x's meets stand together.
    transposed = weight.t().contiguous() if weight.device.type == "cpu" else weight.t()
    return (lambda x: torch.mm(x, transposed)) if bias is None else (lambda x: torch.addmm(bias, x, transposed))


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
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with _as_fbgemm():
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            self.weight = torch.ops.quantized.linear_prepack(rounded, None)

    def __call__(self, x: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        scales = x.abs().amax(dim=1, keepdim=True).clamp_min_(1e-30)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / scales, 1 / self.levels, self.levels + 1, self.weight
        )
        return product.mul_(scales) if self.bias is None else torch.addcmul(self.bias, product, scales, out=product)
