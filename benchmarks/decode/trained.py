"""A run of the ``tiny`` shape, trained on the spot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.contest import progress
from benchmarks.train import workload
from benchmarks.train.contestant_nmt import recipe
from nmt.config import Recipe
from nmt.data.synthetic import write_corpus

__all__ = ["train"]


def train(folder: Path, steps: int, *, pairs: int, pieces: int, threads: int) -> Path:
    """A run of the ``tiny`` shape, trained for so many steps on the embedded corpus, normalised behind its parts."""
    write_corpus(folder / "corpus", pairs=pairs, seed=1, valid=20, test=1)
    shape = recipe(workload.SHAPES["tiny"], "auto").model_dump(mode="json", exclude_none=True)
    for side in ("encoder", "decoder"):
        shape["model"][side]["norm"] = "post"
    sides = {
        name: {"format": "text", "source": f"{folder}/corpus/{name}.en", "target": f"{folder}/corpus/{name}.fr"}
        for name in ("train", "valid")
    }
    training_part = {"max_steps": steps, "batch_tokens": 1024, "learning_rate": 0.002, "validate_every": steps}
    schedule = {"type": "linear", "warmup_steps": max(1, steps // 5)}
    whole = Recipe.model_validate(
        {
            "model": shape["model"],
            "data": {"source": "en", "target": "fr", **sides},
            "tokenizer": {"type": "bpe", "vocabulary": pieces},
            "training": {**training_part, "save_every": steps, "validation_beam": 1, "schedule": schedule},
        }
    )
    path = folder / "tiny.toml"
    path.write_text(whole.to_toml(), encoding="utf-8")
    progress(f"training a model for {steps} steps")
    command = ["train", str(path), "--out", str(folder / "run"), "--threads", str(threads), "--quiet"]
    subprocess.run([sys.executable, "-m", "nmt", *command], check=True)
    return folder / "run"
