"""All that decides how a training goes on, and its way to the disk and back.

Weights, the optimiser's moments, the schedule, the position in the data, the random generators, the best score so far
and the size of the log: a run that stops after a checkpoint and goes on from it does what it would have done.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor

from nmt.checkpoint import (
    Run,
    json_bytes,
    latest_folder,
    load_weights,
    read_json,
    read_tensors,
    remove_folder,
    step_folders,
    tensor_bytes,
    weights,
    write_folder,
)
from nmt.config import TrainingConfig
from nmt.data.batching import Mark
from nmt.distributed import ALONE, Ranks
from nmt.errors import CheckpointError
from nmt.models import Seq2Seq
from nmt.training.groups import grouped
from nmt.training.muon import Muon
from nmt.training.precision import resolve_precision
from nmt.training.schedule import Schedule

__all__ = ["Interval", "Position", "TrainingState", "new_optimizer", "new_state", "remove_older", "seed_rank"]

#: Checkpoints to go on from that are kept: the newest, and the one before in case the newest is damaged.
KEPT = 2


@dataclass
class Interval:
    """Sums over the steps since the last line of the log.

    ``loss`` and ``norm`` are those of steps that were not skipped, ``made`` of them of ``heard`` tokens.
    ``waiting`` is the seconds in which batches were made, ``places`` how many tokens they had room for on both sides,
    ``filled`` how many of these there were.
    """

    loss: float = 0.0
    tokens: int = 0
    norm: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    places: int = 0
    filled: int = 0
    made: int = 0
    heard: int = 0


@dataclass
class Position:
    """Where a training stands. ``batch`` is the place of the next batch in ``epoch``, as ``Source.plan`` counts, and
    ``mark`` what else is needed to begin there.

    ``halved`` counts how often memory ran out; since then a batch has at most ``room`` tokens, padding counted, 0 being
    no bound.
    Steps, tokens and seconds count from the run's beginning; ``skipped_in_a_row`` are the last steps, and ``waited``
    the last validations without improvement. ``twice`` says that batches go through the model twice by now
    (``training.consistency``). ``timed_steps`` to ``saved_at``, in seconds of the run, is what
    :mod:`nmt.training.pace` goes by; ``spent`` is the budget with which the run came to its end, ``finished`` the step
    after which it did, the average of the best made.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    mark: Mark | None = None
    tokens: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    halved: int = 0
    room: int = 0
    retreats: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    validated: int = 0
    best_score: float | None = None
    waited: int = 0
    twice: bool = False
    timed_steps: int = 0
    timed_seconds: float = 0.0
    validation_seconds: float = 0.0
    validated_at: float = 0.0
    saved_at: float = 0.0
    spent: float = 0.0
    finished: int = 0


class TrainingState:
    """The moving parts of a training: model, optimiser, schedule and position.

    All of it is the same in all of ``ranks``, but for the random generators, of which each process has its own.
    ``data`` names the store of token ids that the position is one in, ``corpora`` has a hash of each of its corpora,
    ``valid`` is that of the validation set, ``scored`` the metric and the tokenisation of the best score; ``unscored``
    says that no model has been validated since scores were those of another set, and what has scores has them no more.
    """

    def __init__(
        self, model: Seq2Seq, optimizer: torch.optim.Optimizer, schedule: Schedule, ranks: Ranks = ALONE
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.ranks = ranks
        self.position = Position()
        self.interval = Interval()
        self.data = ""
        self.corpora: list[str] = []
        self.valid = ""
        self.scored: dict[str, str] = {}
        self.unscored = False
        self._damaged: set[str] = set()

    def save(self, folder: Path, *, log_size: int) -> None:
        """Write ``resume/step-N`` into the run folder and drop the ones before the last two.

        The first process does it, with the generators of all: each must call this.
        """
        self.position.saved_at = self.position.seconds
        generators = self._generators()
        if not self.ranks.is_first:
            return
        target = folder / "resume" / f"step-{self.position.step}"
        state = {
            "position": asdict(self.position),
            "interval": asdict(self.interval),
            "schedule": {"factor": self.schedule.factor, "waited": self.schedule.waited},
            "log_size": log_size,
            "data": self.data,
            "corpora": self.corpora,
            "valid": self.valid,
            "scored": self.scored,
            "unscored": self.unscored,
        }
        files = {
            "weights.safetensors": tensor_bytes(weights(self.model)),
            "training.safetensors": tensor_bytes({**self._moments(), **generators}),
            "state.json": json_bytes(state),
        }
        write_folder(target, files)
        self._damaged.discard(target.name)
        remove_older(folder / "resume", KEPT, self._damaged)

    def go_back(self, folder: Path) -> tuple[int, list[str]]:
        """As :meth:`load`, from the newest checkpoint that no skipped step stands before; newer ones are removed.

        Those were written where the run was told to stop, by weights that had no finite gradient any more.
        """
        whole = (one for one in step_folders(folder / "resume") if one.name not in self._damaged)
        newer = list(itertools.takewhile(_is_astray, whole))
        self.ranks.wait()
        if self.ranks.is_first:
            for one in newer:
                remove_folder(one)
        self.ranks.wait()
        return self.load(folder)

    def load(self, folder: Path) -> tuple[int, list[str]]:
        """Go on from the newest whole checkpoint of the run folder.

        Gives the size the log had, and a sentence for every newer checkpoint that was damaged. Raises CheckpointError
        where there is nothing to go on from.
        """
        source, complaints = latest_folder(folder / "resume")
        if source is None:
            what = "; ".join(complaints) or "it has no resume/step-N; leave out --resume to begin anew"
            raise CheckpointError(f"{folder}: there is no checkpoint to go on from: {what}")
        newer = itertools.takewhile(lambda one: one != source, step_folders(folder / "resume"))
        self._damaged = {one.name for one in newer}
        state = read_json(source / "state.json")
        load_weights(self.model, read_tensors(source / "weights.safetensors"), str(source))
        tensors = read_tensors(source / "training.safetensors")
        self._load_moments(tensors)
        position = _known(Position, state["position"])
        # As it was before these were written down:
        position.setdefault("twice", self.schedule.config.consistency > 0)
        position.setdefault("finished", position["step"])
        self.position = Position(**position)
        self._load_generators(tensors)
        interval = _known(Interval, state["interval"])
        self.interval = Interval(**{"made": interval["steps"], "heard": interval["tokens"], **interval})
        self.data = str(state.get("data", ""))
        self.corpora = [str(digest) for digest in state.get("corpora", ())]
        self.valid = str(state.get("valid", ""))
        self.scored = {str(name): str(value) for name, value in state.get("scored", {}).items()}
        self.unscored = bool(state.get("unscored", False))
        (step,) = self.ranks.of_first(self.position.step)
        if step != self.position.step:
            raise CheckpointError(
                f"{source}: the first process goes on from step {step:.0f}: that checkpoint is not seen here"
            )
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
        by_muon = self.optimizer.matrices if isinstance(self.optimizer, Muon) else {}
        for name, parameter in self._names():  # those of another optimiser are left behind
            found = {}
            for key in ("momentum",) if parameter in by_muon else ("step", "exp_avg", "exp_avg_sq"):
                if (tensor := tensors.get(f"optimizer.{key}.{name}")) is not None:
                    found[key] = tensor.to(parameter.device)
            if found:
                state[parameter] = found
        self.optimizer.state.clear()
        self.optimizer.state.update(state)

    def _generators(self) -> dict[str, Tensor]:
        """The states of torch's random generators in every process."""
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return {
            _generator_name(kind, rank): state
            for kind, own in states.items()
            for rank, state in enumerate(self.ranks.gather(own))
        }

    def _load_generators(self, tensors: dict[str, Tensor]) -> None:
        """Set this process's generators; one of a rank that there was not before begins as :func:`seed_rank` says."""
        rank = self.ranks.rank
        if (state := tensors.get(_generator_name("cpu", rank))) is None:
            seed_rank(self.schedule.config.seed, rank, self.position.step)
            return
        torch.set_rng_state(state)
        if self._device.type == "cuda" and (state := tensors.get(_generator_name("cuda", rank))) is not None:
            torch.cuda.set_rng_state(state, self._device)

    @property
    def _device(self) -> torch.device:
        """Where the model is, whose generator dropout draws from."""
        return next(self.model.parameters()).device


def new_state(run: Run, device: torch.device, ranks: Ranks) -> TrainingState:
    """A model drawn from the recipe's seed, the same in all processes, its optimiser and its schedule."""
    config = run.recipe.training
    torch.manual_seed(config.seed)
    model = run.new_model().to(device)
    optimizer = new_optimizer(model, config, ranks)
    if not ranks.is_first:
        seed_rank(config.seed, ranks.rank, 0)
    return TrainingState(model, optimizer, Schedule(config), ranks)


def new_optimizer(model: Seq2Seq, config: TrainingConfig, ranks: Ranks) -> torch.optim.Optimizer:
    """The optimiser a recipe names, of all weights of the model."""
    rates: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.epsilon,
        "weight_decay": config.weight_decay,
    }
    parts = grouped(model, model.parameters(), config.embedding_rate)
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parts, fused=True, **rates)
        case "adamw":
            return torch.optim.AdamW(parts, fused=True, **rates)
        case "muon":
            dtype = resolve_precision(config.precision, next(model.parameters()).device)
            return Muon(model, ranks, embedding_rate=config.embedding_rate, dtype=dtype, **rates)
    assert_never(config.optimizer)


def _known(kind: type[Interval] | type[Position], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a checkpoint that this release knows of."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _generator_name(kind: str, rank: int) -> str:
    """The first process's are named as where there is one process only: it can go on alone."""
    return f"random.{kind}" if rank == 0 else f"random.{kind}.{rank}"


def seed_rank(seed: int, rank: int, step: int) -> None:
    """Seed the generators of a process: no two drop the same units of their batches, or the same ones twice."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1)[0]))


def remove_older(parent: Path, keep: int, damaged: Collection[str] = ()) -> None:
    """Remove all but the ``keep`` newest ``step-N`` folders, among which those astray and ``damaged`` do not count."""
    kept = 0
    for folder in step_folders(parent):
        if kept == keep:
            remove_folder(folder)
        else:
            kept += folder.name not in damaged and not _is_astray(folder)


def _is_astray(folder: Path) -> bool:
    """Whether a checkpoint was written in the middle of skipped steps."""
    try:
        return bool(read_json(folder / "state.json")["position"].get("skipped_in_a_row"))
    except (CheckpointError, KeyError, AttributeError):
        return False
