"""Keeps memory that training will want again at once, and keeps out of it what training will not want again.

glibc hands large blocks back to the system as soon as they are freed, and every training step then pays for the same
pages again: a third to a half of the time of a small model. torch itself has no switch for it, glibc has three.

oneDNN, which makes torch's products on a processor, writes a kernel for every shape it meets and keeps the last 1,024,
half a megabyte each, scattered between the blocks of tensors. Batches of text hardly ever have the shape of another:
after an epoch glibc spends a fifth of the time of a small model looking for room between kernels that nobody will ask
for. The shapes of a few steps are enough.
"""

from __future__ import annotations

import ctypes
import os
import sys

import torch

__all__ = ["forget_most_memory", "keep_few_kernels", "keep_freed_memory", "most_memory"]

# From malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4

#: How many kernels oneDNN keeps.
KERNELS = 256


def keep_few_kernels() -> None:
    """Tell oneDNN to keep :data:`KERNELS` kernels, by the environment variable that it reads at its first product.

    A value that is there already stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for reuse; says whether it was told. Elsewhere nothing is done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in settings)


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
