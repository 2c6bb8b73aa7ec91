"""Which model and which search a figure belongs to, so that it can be told from all others and had again."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nmt import __version__
from nmt.checkpoint import MANIFEST, Checkpoint, Run, read_json
from nmt.config import DecodingConfig
from nmt.errors import CheckpointError

__all__ = ["sign", "sign_model", "sign_search"]


def sign_model(run: Run, checkpoint: Checkpoint) -> dict[str, str]:
    """The run's name, the checkpoint's, and the beginning of the SHA-256 of its weights.

    Where the name is not UTF-8 it has U+FFFD: a signature is text.

    Raises CheckpointError for a checkpoint without a manifest.
    """
    weights = read_json(checkpoint.folder / MANIFEST).get("weights.safetensors")
    if not isinstance(weights, dict):
        raise CheckpointError(f"{checkpoint.folder / MANIFEST}: damaged: it names no weights")
    return {
        "run": os.fsencode(run.folder.resolve().name).decode("utf-8", "replace"),
        "checkpoint": checkpoint.name,
        "weights": str(weights["sha256"])[:12],
        "nmt": __version__,
    }


_SIGNED = {
    *("beam", "length_penalty", "alpha", "max_ratio", "max_extra", "diversity"),
    *("precision", "temperature", "top_k", "top_p", "epsilon", "seed", "mbr_samples"),
}
"""What is signed wherever it has a say; the rest where it is not as usual."""


def sign_search(decoding: DecodingConfig) -> dict[str, str]:
    """What of the search has a say in what is found: the beam or what is drawn, and whatever else is switched on.

    How many sentences are searched at once has no say.
    """
    idle, defaults = decoding.idle, DecodingConfig()
    return {
        name: f"{value}"
        for name, value in decoding.model_dump(exclude={"batch_size"}).items()
        if name not in idle and (name in _SIGNED or value != getattr(defaults, name))
    }


def sign(name: str, parts: Mapping[str, str]) -> str:
    """A signature as sacreBLEU writes its own: ``name|key:value|key:value``."""
    return "|".join([name, *(f"{key}:{value}" for key, value in parts.items())])
