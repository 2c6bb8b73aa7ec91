"""The gradients of a step: the same however it is cut into batches, and cut as small as memory asks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nmt.data.batching import Batch, collate
from nmt.errors import TrainingError
from nmt.layers.dropout import Dropout
from nmt.models import build
from nmt.training.gradients import Gradients, Objective
from nmt.training.report import SilentReporter, read_log
from nmt.training.schedule import Schedule
from nmt.training.session import Session, train
from nmt.training.state import TrainingState
from tests.training.recipes import memory_for, small_recipe

PAIRS = [([5, 6, 7], [8, 9]), ([4], [5, 6, 7, 8, 9, 10]), ([9, 9], [4]), ([7, 5], [4, 4])]


class Warnings(SilentReporter):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def batch(*numbers: int) -> Batch:
    chosen = [PAIRS[number] for number in numbers]
    return collate(chosen, range(len(chosen)), pad_id=0, bos_id=2, eos_id=3)


@pytest.fixture
def gradients(corpus: Path) -> Gradients:
    recipe = small_recipe(corpus, "gru", "transformer")
    torch.manual_seed(3)
    model = build(recipe.model, 40, 40).double()
    state = TrainingState(model, torch.optim.Adam(model.parameters()), Schedule(recipe.training))
    return Gradients(state, Objective(model, 0.1), torch.float32)


def made(gradients: Gradients, batches: list[Batch]) -> tuple[tuple[float, int], list[torch.Tensor]]:
    """The loss and tokens that are told of, and the gradients."""
    gradients.state.model.zero_grad()
    told = gradients.backward(batches)
    return told, [one.grad.clone() for one in gradients.state.model.parameters() if one.grad is not None]


def test_accumulated_batches_give_the_gradient_of_one_large_batch(gradients: Gradients) -> None:
    """However a step's pairs fall into batches, its gradient is that of the mean over all their tokens."""
    (loss, tokens), whole = made(gradients, [batch(0, 1, 2, 3)])
    assert tokens == sum(len(target) + 1 for _, target in PAIRS)
    for parts in ([batch(0), batch(1, 2, 3)], [batch(3), batch(1), batch(0, 2)]):
        (in_parts, counted), accumulated = made(gradients, parts)
        torch.testing.assert_close(accumulated, whole)
        assert counted == tokens
        assert in_parts == pytest.approx(loss)


def test_two_passes_that_drop_nothing_are_consistent(gradients: Gradients) -> None:
    (loss, tokens), wanted = made(gradients, [batch(0, 1, 2, 3)])
    twice = Gradients(gradients.state, Objective(gradients.state.model, 0.1, consistency=5.0), torch.float32)
    (again, counted), found = made(twice, [batch(0, 1, 2, 3)])
    torch.testing.assert_close(found, wanted)
    assert counted == tokens
    assert again == pytest.approx(loss)


def test_two_passes_that_drop_units_are_apart(gradients: Gradients) -> None:
    model = gradients.state.model.train()
    for module in model.modules():
        if isinstance(module, Dropout):
            module.__init__(0.3)  # type: ignore[misc]
    losses = []
    for consistency in (1e-9, 5.0):
        torch.manual_seed(1)
        twice = Gradients(gradients.state, Objective(model, 0.1, consistency), torch.float32)
        (loss, _), _ = made(twice, [batch(0, 1, 2, 3)])
        losses.append(loss)
    assert losses[1] > 1.05 * losses[0]


def test_a_step_that_runs_out_of_memory_on_the_way_has_the_same_gradient(gradients: Gradients) -> None:
    """The first batch fits and has had its backward pass when the second does not fit."""
    parts = [batch(2), batch(0, 1, 3)]
    (loss, tokens), whole = made(gradients, parts)
    with memory_for(14) as asked:
        (halved, counted), again = made(gradients, parts)
    torch.testing.assert_close(again, whole)
    assert counted == tokens
    assert halved == pytest.approx(loss)
    assert (asked[0], asked[1]) == (3, 21)
    assert gradients.state.position.room == 10
    assert gradients.halvings == 1
    assert [len(one) for one in gradients.fitted([batch(0, 1, 3), batch(0, 2, 3)])] == [1, 1, 1, 1, 2]


def test_only_the_batch_that_did_not_fit_says_how_much_does(gradients: Gradients) -> None:
    long = batch(1)  # alone in its batch: there is nothing to halve, whatever else is in the step
    with memory_for(6), pytest.raises(TrainingError, match=r"out of memory over one sentence pair of 7 tokens: lower"):
        gradients.backward([batch(2, 2), long])
    assert gradients.state.position.room == 0


def test_memory_that_runs_out_where_processes_meet_ends_the_run_with_what_to_do(
    gradients: Gradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are in the same backward pass, and wait for what can no longer be made."""
    honest = Objective.forward

    def forward(self: Objective, batch: Batch) -> torch.Tensor:
        def no_room(_: torch.Tensor) -> None:
            raise torch.OutOfMemoryError("there is no room")

        loss = honest(self, batch)
        loss.register_hook(no_room)  # type: ignore[no-untyped-call]
        return loss

    monkeypatch.setattr(Objective, "forward", forward)
    monkeypatch.setattr(
        gradients,
        "ranks",
        SimpleNamespace(
            size=2,
            total=lambda *values: values,
            wait=lambda: None,
            local_gradients=lambda _: contextlib.nullcontext(),
        ),
    )
    words = "over 21 tokens: go on from the last checkpoint with --resume --force --set training.batch_tokens=10"
    with pytest.raises(TrainingError, match=words):
        gradients.backward([batch(0, 1, 3)])


def test_an_error_that_is_none_of_memory_is_not_tried_again(
    gradients: Gradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(self: Objective, batch: Batch) -> torch.Tensor:
        calls.append(batch)
        raise RuntimeError("the shapes do not fit")

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(RuntimeError, match="the shapes do not fit"):
        gradients.backward([batch(0, 1)])
    assert len(calls) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_short_of_memory_has_the_losses_of_one_that_is_not(accumulate: int, corpus: Path, tmp_path: Path) -> None:
    settings = f"training.accumulate={accumulate}", "training.log_every=1"
    wanted, told = small_recipe(corpus, "gru", "transformer", *settings), Warnings()
    for name, room, reporter in (("roomy", 10**9, SilentReporter()), ("tight", 100, told)):
        with memory_for(room) as asked:
            train(wanted, Session(tmp_path / name, device="cpu", store=tmp_path / "store"), reporter)
    roomy, tight = (
        [record for record in read_log(tmp_path / name) if record["type"] == "train"] for name in ("roomy", "tight")
    )
    assert [record["loss"] for record in tight] == pytest.approx([record["loss"] for record in roomy], rel=1e-4)
    assert [record["tokens"] for record in tight] == [record["tokens"] for record in roomy]
    assert roomy[-1]["halved"] == 0
    times = tight[-1]["halved"]
    assert 0 < times < 4
    assert 0 < sum("out of memory: going on with batches of at most" in text for text in told.texts) <= times
    assert sum(tokens > 100 for tokens in asked) == times  # those after it are cut before they are tried


def test_a_run_that_goes_on_remembers_what_memory_has_room_for(corpus: Path, tmp_path: Path) -> None:
    short = small_recipe(corpus, "gru", "gru", "training.max_steps=4")
    longer = small_recipe(corpus, "gru", "gru", "training.max_steps=8")
    options = {"device": "cpu", "store": tmp_path / "store"}
    with memory_for(100) as asked:
        train(short, Session(tmp_path / "run", **options), SilentReporter())  # type: ignore[arg-type]
        asked.clear()
        again = Session(tmp_path / "run", resume=True, force=True, **options)  # type: ignore[arg-type]
        train(longer, again, SilentReporter())
    assert len(asked) > 4
    assert max(asked) <= 100
