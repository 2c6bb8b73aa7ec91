"""Keeps out of memory what training will not want again, and says how much there was.

oneDNN, which makes torch's products on a processor, writes a kernel for every shape it meets and keeps the last 1,024,
half a megabyte each, scattered between the blocks of tensors. Batches of text hardly ever have the shape of another:
after an epoch glibc spends a fifth of the time of a small model looking for room between kernels that nobody will ask
for. The shapes of a few steps are enough.
"""

from __future__ import annotations

import os
import sys

import torch

__all__ = ["forget_most_memory", "keep_few_kernels", "most_memory"]

#: How many kernels oneDNN keeps.
KERNELS = 256


def keep_few_kernels() -> None:
    """Tell oneDNN to keep :data:`KERNELS` kernels, by the environment variable that it reads at its first product.

    A value that is there already stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def forget_most_memory(device: torch.device) -> None:
    """Have :func:`most_memory` count anew on a GPU; a process's own cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def most_memory(device: torch.device) -> int:
    """The most bytes that were ever held: by tensors on a GPU, by this process on a processor; 0 where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
