"""How long it takes from the start of a process to what it says first."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contest import progress, say
from benchmarks.train import workload as training
from benchmarks.train.contestant_nmt import recipe
from nmt.config import Recipe
from nmt.data.synthetic import write_corpus

__all__ = ["measure", "train"]


def train(folder: Path, steps: int, *, pairs: int, pieces: int, threads: int) -> Path:
    """A run of the ``tiny`` shape, trained for so many steps on the embedded corpus, normalised behind its parts."""
    write_corpus(folder / "corpus", pairs=pairs, seed=1, valid=20, test=1)
    shape = recipe(training.SHAPES["tiny"], "auto").model_dump(mode="json", exclude_none=True)
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


def measure(run: Path, file: Path, times: int) -> list[str]:
    """Seconds by the clock of importing torch, of translating one line, of ``--help`` and ``--version``, in turns."""
    line = file.read_text(encoding="utf-8").splitlines()[0] + "\n"
    nmt = [sys.executable, "-m", "nmt"]
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "nmt translate": [*nmt, "translate", str(run), "--threads", "1"],
        "nmt --help": [*nmt, "--help"],
        "nmt --version": [*nmt, "--version"],
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(times):
        for name, command in commands.items():
            before = os.times()
            began = time.perf_counter()
            subprocess.run(command, input=line, text=True, check=True, stdout=subprocess.PIPE)
            wall, after = time.perf_counter() - began, os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            took[name].append((wall, cpu))
        progress(f"starting: {turn + 1} of {times}")
    say("")
    say("a process of                  seconds by the clock, of the processor")
    for name, both in took.items():
        say(f"{name:<24}{statistics.median(w for w, _ in both):>24.2f}{statistics.median(c for _, c in both):>14.2f}")
    pairs = list(zip(took["nmt translate"], took["import torch"], strict=True))
    over = [statistics.median(a[clock] - b[clock] for a, b in pairs) for clock in (0, 1)]
    first = f"{over[0]:.2f} s after torch is imported by the clock, {over[1]:.2f} s by processor time"
    return [f"start     the first line is translated {first}"]
