"""Training in two processes: what one process would have done, agreed in every decision, and exact across a crash.

torchrun starts this file as a script, once, for all scenarios; the tests look at the runs that it left. What a run in
one process gives is worked out here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nmt.checkpoint import Run
from nmt.config import Recipe
from nmt.decoding.sharing import Sharing
from nmt.distributed import ALONE, Ranks, joined
from nmt.errors import ConfigError, Interrupted, NmtError, TrainingError
from nmt.training import loop, session
from nmt.training.gradients import Objective
from nmt.training.report import SilentReporter, StepReport, read_log
from nmt.training.session import Session, train
from nmt.training.validation import Validator
from tests.training.recipes import PAIRINGS, memory_for, newest, small_recipe

SHORT = (
    "training.max_steps=8",
    "training.validate_every=4",
    "training.save_every=3",
    "training.log_every=1",
    "training.average=2",
)
CHANCE = (
    *("tokenizer.sampling=0.1", "model.encoder.dropout=0.2", "model.decoder.dropout=0.2"),
    "model.decoder.recurrent_dropout=0.2",
)


def recipe(corpus: Path, encoder: str = "gru", decoder: str = "gru", *settings: str) -> Recipe:
    return small_recipe(corpus, encoder, decoder, *SHORT, *settings)


class Alarm(SilentReporter):
    """Sends this process a signal when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, report: StepReport, total: int | None) -> None:
        if report.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


# ---------------------------------------------------------------------------------------- what runs in both processes


def scenarios(corpus: Path, folder: Path, ranks: Ranks) -> None:
    """Every run that the tests look at; what each process saw is left as JSON beside them."""
    seen: dict[str, Any] = {}
    loop.draw_curves = lambda records, path: None  # type: ignore[attr-defined]  # nine tenths of the time of a short run

    def run(name: str, wanted: Recipe, reporter: Any = None, **options: Any) -> None:
        where = Session(folder / name, device="cpu", store=folder / "store", **options)
        train(wanted, where, reporter or SilentReporter(), ranks)

    for encoder, decoder in PAIRINGS:
        run(f"{encoder}-{decoder}", recipe(corpus, encoder, decoder))

    looked = session.check

    def late(wanted: Recipe, where: Session) -> None:
        time.sleep(0.5)  # in which the first would have begun to write
        seen["found"] = sorted(path.name for path in where.folder.glob("*"))
        looked(wanted, where)

    if not ranks.is_first:
        session.check = late  # type: ignore[assignment]
    run("late", recipe(corpus, "gru", "gru", "training.max_steps=1"))
    session.check = looked

    run("accumulated", recipe(corpus, "gru", "gru", "training.accumulate=2"))
    run("muon", recipe(corpus, "lstm", "transformer", "training.optimizer=muon"))

    run("straight", recipe(corpus, "transformer", "gru", *CHANCE))
    try:
        # the second process alone hears the signal
        run("stopped", recipe(corpus, "transformer", "gru", *CHANCE), None if ranks.is_first else Alarm(5))
    except Interrupted as error:
        seen["interrupted"] = str(error)
    run("stopped", recipe(corpus, "transformer", "gru", *CHANCE), resume=True)

    run("begun", recipe(corpus, "gru", "gru", "training.max_steps=1"))
    if ranks.is_first:
        shutil.copytree(folder / "begun", folder / "more")
        one = Session(folder / "more", device="cpu", store=folder / "store", resume=True, force=True)
        train(recipe(corpus, "gru", "gru", "training.max_steps=3"), one, SilentReporter())
    ranks.wait()
    run("more", recipe(corpus, "gru", "gru", "training.max_steps=6"), resume=True, force=True)

    run("budget", recipe(corpus, "gru", "gru", "training.budget=4"))

    with memory_for(10**9 if ranks.is_first else 100) as asked:
        run("tight", recipe(corpus, "lstm", "transformer"))
    seen["most"] = max(asked)

    real = Validator.__call__
    if ranks.is_first:
        Validator.__call__ = impossible  # type: ignore[assignment, method-assign]
    with contextlib.suppress(NmtError):
        run("unvalidated", recipe(corpus, "gru", "gru", "training.save_every=1000"))
    Validator.__call__ = real  # type: ignore[method-assign]

    seen["unlike"] = []
    for setting in ("training.clip_norm=2", "training.precision=bfloat16"):
        try:
            run(f"unlike-{setting}", recipe(corpus, "gru", "gru", *([] if ranks.is_first else [setting])))
        except ConfigError as error:
            seen["unlike"].append(str(error))

    with planted(set() if ranks.is_first else set(range(6, 11))):
        run("diverging", recipe(corpus, "gru", "gru", "training.max_steps=12"))
    seen["told"] = ranks.tell("é" * 3 if ranks.is_first else "not this"), ranks.tell("")
    seen["collected"] = ranks.collect("ü" * ranks.rank), ranks.collect("")
    windows = [["a", "b", "c"], ["d"], ["e", "f"]] if ranks.is_first else []
    with Sharing(ranks) as sharing:
        seen["shared"] = list(sharing.out(windows, numbered))
    seen["broken"] = []
    with contextlib.suppress(ZeroDivisionError), Sharing(ranks) as sharing:
        for texts in sharing.out(fails(), lambda lines, first: [f"{ranks.rank}" for _ in lines]):
            seen["broken"].append(texts)
    seen["left"] = []
    with contextlib.suppress(ZeroDivisionError), Sharing(ranks) as sharing:
        for texts in sharing.out([["a", "b"], ["c"]], lambda lines, first: [*lines]):
            seen["left"].append(texts)
            if ranks.is_first:
                raise ZeroDivisionError
    with Sharing(ranks) as sharing:  # nothing was asked of it
        seen["idle"] = [] if ranks.is_first else list(sharing.out([], lambda lines, first: [*lines]))
    seen["total"] = ranks.total(ranks.rank + 1, 0.5)
    seen["of_first"] = ranks.of_first(ranks.rank + 7.0)
    seen["gathered"] = [one.tolist() for one in ranks.gather(torch.tensor([ranks.rank, 5]))]
    (folder / f"seen-{ranks.rank}.json").write_text(json.dumps(seen))


def numbered(lines: Sequence[str], first: int) -> list[str]:
    return [f"{number} {line}" for number, line in enumerate(lines, first)]


def impossible(*_: object) -> Any:
    raise NmtError("out of memory over one sentence")


def fails() -> Iterator[list[str]]:
    yield ["one", "two"]
    raise ZeroDivisionError


@contextlib.contextmanager
def planted(bad: set[int]) -> Iterator[None]:
    """The loss is infinite in the calls of these numbers."""
    real, calls = Objective.forward, itertools.count(1)
    Objective.forward = lambda self, batch: real(self, batch) * (math.inf if next(calls) in bad else 1)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Objective.forward = real  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined() as everybody:
        scenarios(Path(sys.argv[1]), Path(sys.argv[2]), everybody)


# ----------------------------------------------------------------------------------------------------------- the tests


def torchrun(python: str, *command: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Two processes of ``command``, which find the tests' own modules."""
    prefix = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    own = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONFAULTHANDLER": "1"}
    environment = {**os.environ, **own, **(environment or {})}
    return subprocess.Popen(
        [*prefix, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture(scope="module")
def runs(warm_python: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs that two processes made."""
    folder = tmp_path_factory.mktemp("two")
    process = torchrun(warm_python, __file__, corpus, folder)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return folder


def seen(runs: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs / f"seen-{rank}.json").read_text())
    return found


def alone(folder: Path, wanted: Recipe, **options: Any) -> Path:
    train(wanted, Session(folder, device="cpu", store=folder.parent / "store", **options), SilentReporter())
    return folder


def figures(folder: Path, kind: str, name: str) -> list[float]:
    return [float(record[name]) for record in read_log(folder) if record["type"] == kind]


def state_of(folder: Path) -> dict[str, Any]:
    """The position after the last step, times left out."""
    position = json.loads((newest(folder) / "state.json").read_text())["position"]
    return {key: value for key, value in position.items() if "seconds" not in key}


def fingerprint(folder: Path) -> list[str]:
    names = ("weights.safetensors", "training.safetensors")
    return [hashlib.sha256((newest(folder) / name).read_bytes()).hexdigest() for name in names]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRINGS)
def test_two_processes_do_what_one_does_with_twice_the_batches(
    encoder: str, decoder: str, runs: Path, corpus: Path, tmp_path: Path
) -> None:
    """Losses agree to 1e-4 of their size: the sums of the gradients are rounded in another order."""
    one = alone(tmp_path / "one", recipe(corpus, encoder, decoder, "training.accumulate=2"))
    two = runs / f"{encoder}-{decoder}"
    for kind, name in (("train", "loss"), ("train", "gradient_norm"), ("train", "tokens"), ("valid", "loss")):
        assert figures(two, kind, name) == pytest.approx(figures(one, kind, name), rel=1e-4), (kind, name)
    ours, theirs = (Run.open(folder).load_model().state_dict() for folder in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=2e-4)
    assert state_of(one).keys() == state_of(two).keys()
    for key in ("step", "epoch", "batch", "tokens", "validated", "skipped"):
        assert state_of(one)[key] == state_of(two)[key]


def test_nothing_is_written_before_every_process_has_looked_at_the_folder(runs: Path) -> None:
    assert seen(runs, 1)["found"] == []


def test_processes_accumulate_batches_of_their_own(runs: Path, corpus: Path, tmp_path: Path) -> None:
    one = alone(tmp_path / "one", recipe(corpus, "gru", "gru", "training.accumulate=4"))
    assert figures(runs / "accumulated", "train", "loss") == pytest.approx(figures(one, "train", "loss"), rel=1e-4)


def test_processes_share_out_what_muon_costs(runs: Path, corpus: Path, tmp_path: Path) -> None:
    settings = ("training.accumulate=2", "training.optimizer=muon")
    one = alone(tmp_path / "one", recipe(corpus, "lstm", "transformer", *settings))
    for kind in ("train", "valid"):
        assert figures(runs / "muon", kind, "loss") == pytest.approx(figures(one, kind, "loss"), rel=1e-3)


def test_a_signal_to_one_stops_both_after_the_same_step_and_they_go_on_as_if_it_had_not(runs: Path) -> None:
    for rank, heard in enumerate(("a signal to another process", "SIGTERM")):
        assert f"stopped by {heard} after step 5, everything is saved" in seen(runs, rank)["interrupted"]
    assert fingerprint(runs / "stopped") == fingerprint(runs / "straight")
    assert figures(runs / "stopped", "train", "loss") == figures(runs / "straight", "train", "loss")


def test_each_process_has_chance_of_its_own(runs: Path) -> None:
    """From the start: what they draw later differs with their batches anyway."""
    drawn = load_file(runs / "begun" / "resume" / "step-0" / "training.safetensors")
    assert not torch.equal(drawn["random.cpu"], drawn["random.cpu.1"])


def test_both_end_when_a_budget_is_spent(runs: Path) -> None:
    state = state_of(runs / "budget")
    assert state["spent"] == 4
    assert state["step"] > 0


def test_gradients_that_are_infinite_in_one_process_take_both_back(runs: Path) -> None:
    state = state_of(runs / "diverging")
    assert (state["step"], state["retreats"], state["skipped"]) == (12, 1, 5)
    assert all(torch.isfinite(p).all() for p in Run.open(runs / "diverging").load_model().parameters())


def test_a_validation_that_fails_in_the_first_process_loses_no_step(runs: Path) -> None:
    assert newest(runs / "unvalidated").name == "step-4"


def test_processes_that_are_not_alike_are_told_of_in_each(runs: Path) -> None:
    for rank in (0, 1):
        words = [one.partition(": start")[0] for one in seen(runs, rank)["unlike"]]
        assert words == [
            "process 1 of 2 has another recipe than the first",
            "process 1 of 2 has another recipe and another training.precision than the first",
        ]


def test_a_run_goes_on_in_one_process_and_then_in_two(runs: Path) -> None:
    assert state_of(runs / "more")["step"] == 6
    assert figures(runs / "more", "train", "step") == [1, 2, 3, 4, 5, 6]


def test_a_run_of_two_processes_goes_on_in_one(runs: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "stopped", folder)
    longer = recipe(corpus, "transformer", "gru", *CHANCE, "training.max_steps=12")
    alone(folder, longer, resume=True, force=True)
    assert state_of(folder)["step"] == 12
    assert len(figures(folder, "train", "loss")) == 12


def test_numbers_are_agreed_on(runs: Path) -> None:
    for rank in (0, 1):
        assert seen(runs, rank)["total"] == [3, 1]
        assert seen(runs, rank)["of_first"] == [7]
        assert seen(runs, rank)["gathered"] == [[0, 5], [1, 5]]


def test_lines_are_shared_out_and_come_back_in_order(runs: Path) -> None:
    for rank in (0, 1):
        assert seen(runs, rank)["told"] == ["ééé", ""]
        assert seen(runs, rank)["collected"] == [["", "ü"], ["", ""]]
        assert seen(runs, rank)["shared"] == [["1 a", "2 b", "3 c"], ["4 d"], ["5 e", "6 f"]]
        assert seen(runs, rank)["broken"] == [["0", "1"]]
        assert seen(runs, rank)["left"] == [["a", "b"]]
        assert seen(runs, rank)["idle"] == []


@pytest.mark.parametrize("options", [(), ("--nbest", "2", "--align", "hard")])
def test_two_processes_translate_what_one_does(
    options: tuple[str, ...], warm_python: str, runs: Path, corpus: Path, tmp_path: Path
) -> None:
    lines = [*(corpus / "test.en").read_text().splitlines(), "", "the cat " * 600, "x"] * 3
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in lines))
    model = runs / "gru-transformer"
    verb = ("-m", "nmt", "translate", model, "-i", tmp_path / "in", "--batch-size", "2", "--max-ratio", "0.2", *options)
    process = torchrun(warm_python, *verb, "-o", tmp_path / "two")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    one = subprocess.run([warm_python, *map(str, verb)], capture_output=True, text=True, check=True)
    pairs = zip((tmp_path / "two").read_text().split("\n"), one.stdout.split("\n"), strict=True)
    for ours, theirs in pairs:
        for mine, other in zip(ours.split(" ||| "), theirs.split(" ||| "), strict=True):
            if re.fullmatch(r"(logprob= )?-\d+\.\d+", other):  # sums are rounded in another order
                mine, other = (text.removeprefix("logprob= ") for text in (mine, other))
                assert float(mine) == pytest.approx(float(other), abs=1e-3)
            else:
                assert mine == other
    note = "translated in parts, being too long: 3 of"
    assert note in one.stderr
    assert told.count(note) == 1


def test_a_process_whose_memory_is_small_goes_on_with_halves_and_the_losses_are_the_same(runs: Path) -> None:
    """And all halve from then on: what is said, counted and saved is so for each."""
    tight, roomy = (figures(runs / name, "train", "loss") for name in ("tight", "lstm-transformer"))
    assert tight == pytest.approx(roomy, rel=1e-4)
    assert seen(runs, 1)["most"] > 100  # it was tried
    assert figures(runs / "tight", "train", "halved")[-1] > 0
    assert state_of(runs / "tight")["room"] <= 100


def test_a_process_that_is_killed_ends_the_other_and_the_run_goes_on_as_if_it_had_not(
    warm_python: str, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(recipe(corpus, "lstm", "lstm", *CHANCE[1:]).to_toml())

    def start(python: str, name: str, *options: str) -> subprocess.Popen[str]:
        verb = ("-m", "nmt", "train", tmp_path / "recipe.toml", "--out", tmp_path / name)
        return torchrun(
            python,
            *verb,
            # long enough for the kill to come before a validation, which talks to nobody and is not cut short
            *("--set", "training.max_steps=120", "--set", "training.validate_every=60"),
            *options,
            environment={"XDG_CACHE_HOME": str(tmp_path)},
        )

    def finish(process: subprocess.Popen[str]) -> str:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        return told

    killed = start(sys.executable, "killed")
    until(lambda: len(read_log(tmp_path / "killed")) > 10)
    workers = children_of(killed.pid)
    os.kill(workers[1], signal.SIGKILL)
    began = time.monotonic()
    _, told = killed.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert killed.returncode != 0
    assert "nmt: error: process 0 of 2: the others cannot be reached any more" in told, told
    told = finish(start(warm_python, "killed", "--resume"))
    assert told.count("best: ") == 1  # one of two speaks
    finish(start(warm_python, "straight"))
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "straight")
    assert figures(tmp_path / "killed", "train", "loss") == figures(tmp_path / "straight", "train", "loss")


def until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """The processes that torchrun started, the first first."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return sorted(int(number) for number in listed.stdout.split())


def test_a_single_process_agrees_with_itself() -> None:
    assert ALONE.total(1.5, 2) == (1.5, 2)
    assert ALONE.of_first(3.0) == (3.0,)
    assert [one.tolist() for one in ALONE.gather(torch.tensor([1]))] == [[1]]
    model = torch.nn.Linear(2, 2)
    assert ALONE.parallel(model) is model
    ALONE.wait()
    with ALONE.first_leads(), ALONE.local_gradients(model):
        pass


def test_an_environment_without_torchrun_is_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined() as ranks:
        assert ranks is ALONE


def test_an_environment_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE=many in the environment"), joined():
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE=2 in the environment, but .*RANK"), joined():
        pass


@pytest.mark.parametrize(("name", "message"), [("cuda", "has no GPU: there are 1;"), ("cuda:0", "cannot share it")])
def test_processes_for_which_there_is_no_gpu_are_told(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path
) -> None:
    second = Ranks()
    second.rank, second.size, second.local = 1, 2, 1
    monkeypatch.setattr("nmt.training.session.pick_device", torch.device)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match=message):
        train(recipe(corpus), Session(tmp_path / "run", device=name), SilentReporter(), second)


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that believes to be the first of two; what SIGTERM does is as before afterwards."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *given, **options: None)
    monkeypatch.setattr("torch.distributed.new_group", lambda **options: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_process_that_torchrun_ends_because_another_died_says_so_first(met: None) -> None:
    with pytest.raises(TrainingError, match="process 0 of 2: the others cannot be reached any more") as told, joined():
        try:
            raise RuntimeError("[gloo] Connection closed by peer")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
    assert "Connection closed" in str(told.value.__cause__)
    os.kill(os.getpid(), signal.SIGTERM)  # comes too late: the process is about to say it and end


def test_a_process_that_is_ended_for_no_such_reason_is_interrupted(met: None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="terminated") as told, joined():
        os.kill(os.getpid(), signal.SIGTERM)
    assert told.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
