"""What a recipe says of training reaches the weights: rates, clipping, seeds, smoothing, types and the beam."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint import Run
from nmt.data.batching import Batch
from nmt.decoding.beam import beam_search
from nmt.training.gradients import Objective
from nmt.training.report import SilentReporter, StepReport
from nmt.training.schedule import Schedule
from nmt.training.session import Session, train
from tests.training.recipes import newest
from tests.training.recipes import small_recipe as recipe


class Losses(SilentReporter):
    """Keeps the mean loss of every line of the log."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def stepped(self, report: StepReport, total: int | None) -> None:
        self.losses.append(report.loss)


def run(corpus: Path, folder: Path, *settings: str) -> list[float]:
    """Train a small model; gives the losses as they were told."""
    told = Losses()
    wanted = recipe(corpus, "gru", "gru", *settings)
    train(wanted, Session(folder, device="cpu", store=folder.parent / "store"), told)
    return told.losses


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[torch.optim.Optimizer], None]) -> None:
    """Have a look at the optimiser before each of its steps."""
    real = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any) -> Any:
        look(self)
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)


def test_every_weight_moves_at_the_rate_of_its_step(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = 'training.schedule={ type = "linear", warmup_steps = 4 }', "training.embedding_rate=3"
    seen: list[dict[float, float]] = []
    watch(monkeypatch, lambda optimizer: seen.append({one["factor"]: one["lr"] for one in optimizer.param_groups}))
    run(corpus, tmp_path / "run", *settings)
    schedule = Schedule(recipe(corpus, "gru", "gru", *settings).training)
    rates = [schedule.learning_rate(step, 12) for step in range(1, 13)]
    assert rates[0] < rates[3] > rates[-1]
    assert [one[1.0] for one in seen] == pytest.approx(rates)
    assert [one[3.0] for one in seen] == pytest.approx([3 * rate for rate in rates])


@pytest.mark.parametrize(("most", "clipped"), [("0.01", True), ("0", False)])
def test_gradients_are_no_longer_than_they_may_be(
    most: str, clipped: bool, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[float] = []

    def look(optimizer: torch.optim.Optimizer) -> None:
        every = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
        lengths.append(float(torch.stack([one.norm() for one in every if one is not None]).norm()))

    watch(monkeypatch, look)
    run(corpus, tmp_path / "run", f"training.clip_norm={most}")
    if clipped:
        assert lengths == pytest.approx([0.01] * 12, rel=1e-3)
    else:
        assert min(lengths) > 0.1


@pytest.mark.parametrize("what", ["weights", "batches"])
def test_the_seed_decides(what: str, corpus: Path, tmp_path: Path) -> None:
    """With tokenizers of another run, and for batches with its weights too, nothing else is of the seed."""
    run(corpus, tmp_path / "first")
    same = [f"tokenizer.{side}_model={tmp_path / 'first' / 'source.model'}" for side in ("source", "target")]
    if what == "batches":
        same += [f"training.finetune_from={tmp_path / 'first'}"]
    weights, losses = {}, {}
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        settings = f"training.seed={seed}", "training.learning_rate=1e-30", "training.batch_tokens=64"
        losses[name] = run(corpus, tmp_path / name, *same, *settings)
        weights[name] = hashlib.sha256((newest(tmp_path / name) / "weights.safetensors").read_bytes()).hexdigest()
    assert (weights["one"], losses["one"]) == (weights["again"], losses["again"])
    assert losses["one"] != losses["two"]
    assert (weights["one"] == weights["two"]) == (what == "batches")


def test_smoothing_is_in_the_loss(corpus: Path, tmp_path: Path) -> None:
    plain, smooth = (run(corpus, tmp_path / share, f"training.label_smoothing={share}") for share in ("0.0", "0.3"))
    assert plain[0] != pytest.approx(smooth[0], rel=1e-4)
    assert plain[-1] < smooth[-1]


@pytest.mark.parametrize(("own", "beam"), [(0, 2), (1, 1), (3, 3)])
def test_validation_has_a_beam_of_its_own(
    own: int, beam: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams: set[int] = set()
    real = beam_search

    def watched(*arguments: Any, **how: Any) -> Any:
        beams.add(how["config"].beam)
        return real(*arguments, **how)

    monkeypatch.setattr("nmt.decoding.torch_engine.beam_search", watched)
    run(corpus, tmp_path / "run", f"training.validation_beam={own}")
    assert beams == {beam}


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("bfloat16", True)])
def test_products_are_of_the_type_that_is_said(
    precision: str, rounded: bool, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[bool] = set()
    real = Objective.forward

    def watched(self: Objective, batch: Batch) -> torch.Tensor:
        seen.add(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
        return real(self, batch)

    monkeypatch.setattr(Objective, "forward", watched)
    run(corpus, tmp_path / "run", f"training.precision={precision}", "training.max_steps=2")
    assert seen == {rounded}
    assert all(one.dtype == torch.float32 for one in Run.open(tmp_path / "run").load_model().parameters())
