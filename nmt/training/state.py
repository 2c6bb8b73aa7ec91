"""All that decides how a training goes on, and its way to the disk and back.

Weights, the optimiser's moments, the schedule, the position in the data, the random generators, the best score so far
and the size of the log: a run that stops after a checkpoint and goes on from it does what it would have done.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt.checkpoint import (
    json_bytes,
    latest_folder,
    load_weights,
    read_json,
    read_tensors,
    tensor_bytes,
    weights,
    write_folder,
)
from nmt.errors import CheckpointError
from nmt.models import Seq2Seq
from nmt.training.schedule import Schedule

__all__ = ["Interval", "Position", "TrainingState", "remove_older"]

#: Checkpoints to go on from that are kept: the newest, and the one before in case the newest is damaged.
KEPT = 2


@dataclass
class Interval:
    """Sums over the steps since the last line of the log."""

    loss: float = 0.0
    tokens: int = 0
    norm: float = 0.0
    steps: int = 0
    seconds: float = 0.0


@dataclass
class Position:
    """Where a training stands. ``batch`` is the next batch of ``epoch``; the rest counts from the run's beginning.

    ``spent`` is the budget with which the run came to its end.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    retreats: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    validated: int = 0
    best_step: int = 0
    best_score: float | None = None
    waited: int = 0
    spent: float = 0.0


class TrainingState:
    """The moving parts of a training: model, optimiser, schedule and position.

    ``data`` names the store of token ids that the position is one in.
    """

    def __init__(self, model: Seq2Seq, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.position = Position()
        self.interval = Interval()
        self.data = ""

    def save(self, folder: Path, *, log_size: int) -> Path:
        """Write ``resume/step-N`` into the run folder and drop the ones before the last two."""
        target = folder / "resume" / f"step-{self.position.step}"
        state = {
            "position": asdict(self.position),
            "interval": asdict(self.interval),
            "schedule": {"factor": self.schedule.factor, "waited": self.schedule.waited},
            "log_size": log_size,
            "data": self.data,
        }
        files = {
            "weights.safetensors": tensor_bytes(weights(self.model)),
            "training.safetensors": tensor_bytes({**self._moments(), **_generators()}),
            "state.json": json_bytes(state),
        }
        write_folder(target, files)
        remove_older(folder / "resume", KEPT)
        return target

    def load(self, folder: Path) -> tuple[int, list[str]]:
        """Go on from the newest whole checkpoint of the run folder.

        Gives the size the log had, and a sentence for every newer checkpoint that was damaged. Raises CheckpointError
        where there is nothing to go on from.
        """
        source, complaints = latest_folder(folder / "resume")
        if source is None:
            what = "; ".join(complaints) or "it has no resume/step-N; leave out --resume to begin anew"
            raise CheckpointError(f"{folder}: there is no checkpoint to go on from: {what}")
        state = read_json(source / "state.json")
        load_weights(self.model, read_tensors(source / "weights.safetensors"), str(source))
        tensors = read_tensors(source / "training.safetensors")
        self._load_moments(tensors)
        _load_generators(tensors)
        self.position = Position(**state["position"])
        self.interval = Interval(**state["interval"])
        self.data = str(state.get("data", ""))
        self.schedule.factor = float(state["schedule"]["factor"])
        self.schedule.waited = int(state["schedule"]["waited"])
        return int(state["log_size"]), complaints

    def _names(self) -> Iterable[tuple[str, Tensor]]:
        return self.model.named_parameters()

    def _moments(self) -> dict[str, Tensor]:
        """The optimiser's state by parameter name."""
        return {
            f"optimizer.{key}.{name}": value
            for name, parameter in self._names()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _load_moments(self, tensors: dict[str, Tensor]) -> None:
        state: dict[Tensor, dict[str, Any]] = {}
        for name, parameter in self._names():
            found = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (tensor := tensors.get(f"optimizer.{key}.{name}")) is not None:
                    found[key] = tensor.to(parameter.device) if key != "step" else tensor
            if found:
                state[parameter] = found
        self.optimizer.state.clear()
        self.optimizer.state.update(state)


def _generators() -> dict[str, Tensor]:
    """The states of torch's random generators."""
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def _load_generators(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])


def remove_older(parent: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest ``step-N`` folders."""
    folders = [path for path in parent.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    folders.sort(key=lambda path: int(path.name.removeprefix("step-")), reverse=True)
    for folder in folders[keep:]:
        shutil.rmtree(folder, ignore_errors=True)
