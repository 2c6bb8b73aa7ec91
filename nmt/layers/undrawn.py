"""A model whose weights come out of a file need not draw them first: most of making a small one is drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Undrawn"]


class Undrawn(TorchFunctionMode):
    """Within its ``with`` block nothing is drawn: what should be random is zero.

    The generator of random numbers stays as it was.
    """

    DRAWING = frozenset({nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What torch calls in place of ``func``."""
        given = kwargs or {}
        if func not in self.DRAWING:
            return func(*args, **given)
        tensor: Tensor = args[0] if args else given["tensor"]
        return tensor.detach().zero_()
