"""Trainings that are killed, at random moments and at chosen calls of the system, and gone on with.

One process imports torch and forks for every life of a run, so that a kill costs no start. As a script, for as many
kills as one has time for, it prints what it found as JSON and ends with 1 where a killed run differs from the straight
one::

    python -m tests.training.crashes --kills 20 --steps 400
    python -m tests.training.crashes --every-call gru
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nmt.checkpoint import Run, check_folder, latest_folder, recover, write_folder
from nmt.config import Recipe, parse_recipe
from nmt.data.tokenizer import Tokenizers
from nmt.errors import CheckpointError, Interrupted
from nmt.training import loop
from nmt.training.report import SilentReporter, read_log
from nmt.training.session import Session, train
from tests.training.recipes import small_recipe

__all__ = ["FAMILIES", "GRACEFUL"]

#: The families, each under another schedule: what a schedule remembers has to come back too.
FAMILIES = {
    "gru": "{type='plateau',patience=1}",
    "lstm": "{type='cosine',warmup_steps=5}",
    "transformer": "{type='inverse-sqrt',warmup_steps=10}",
}
CHANCE = (
    "tokenizer.sampling=0.1",
    "model.encoder.dropout=0.2",
    "model.decoder.dropout=0.2",
    "model.embedding_dropout=0.1",
    "training.consistency=1",
    "training.consistency_start=0.5",
)
RECURRENT_CHANCE = ("model.encoder.recurrent_dropout=0.1", "model.decoder.recurrent_dropout=0.1")
#: Figures that are other ones each time, however exact the run.
TIMES = {
    *("seconds", "cpu_seconds", "elapsed", "waiting", "memory", "tokens_per_second"),
    *("timed_seconds", "validation_seconds", "validated_at", "saved_at"),
}
GRACEFUL = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}


def family_recipe(corpus: Path, family: str, steps: int) -> Recipe:
    """All that chance and memory have a part in: dropout, subword sampling, an average, patience, a schedule."""
    every = max(3, steps // 20)
    round_ = () if family == "transformer" else RECURRENT_CHANCE
    return small_recipe(
        corpus, family, family, *CHANCE, *round_,
        f"training.max_steps={steps}", f"training.validate_every={2 * every}", f"training.save_every={every}",
        "training.log_every=1", "training.average=2", f"training.patience={steps}", "training.metric=bleu",
        "training.validation_beam=1", f"training.schedule={FAMILIES[family]}",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ lives and ends


class Calls:
    """The calls by which this process changes what is below ``root``; it dies of SIGKILL at call number ``last``.

    A write is cut in half where it dies before its fsync. For a process that was forked: there is no way back.
    """

    def __init__(self, root: Path, last: int = 0) -> None:
        self.root, self.last = os.fspath(root), last
        self.made: list[str] = []

    def install(self) -> Calls:
        fsync = os.fsync

        def watched(descriptor: int) -> None:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                if len(self.made) + 1 == self.last:
                    os.truncate(name, os.fstat(descriptor).st_size // 2)
                self._call(f"write {Path(name).name}")
            fsync(descriptor)
            self._call(f"fsync {Path(name).name}")

        os.fsync = watched  # type: ignore[assignment]
        sys.addaudithook(self._heard)
        return self

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        kinds = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
        if event not in kinds and not (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        with contextlib.suppress(TypeError):  # a descriptor
            path = os.fsdecode(arguments[0])
            if path.startswith(self.root) or (event in {"os.remove", "os.rmdir"} and not path.startswith("/")):
                self._call(f"{event.removeprefix('os.')} {Path(path).name}")

    def _call(self, name: str) -> None:
        self.made.append(name)
        if len(self.made) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def born(action: Callable[[], None]) -> int:
    """A process of its own that does ``action``; its exit code is that which the command would have."""
    if pid := os.fork():
        return pid
    code = 99
    try:
        action()
        code = 0
    except Interrupted as error:
        code = error.exit_code
    except KeyboardInterrupt:  # there was nothing to save yet
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """How it ended: its exit code, or minus the number of the signal it died of."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def go_on(recipe: Recipe, folder: Path) -> None:
    """Go on with a run, or begin it where going on is answered with that advice."""
    store = folder.with_name(f"{folder.name}.store")
    try:
        train(recipe, Session(folder, device="cpu", store=store, resume=True), SilentReporter())
    except CheckpointError as error:
        if "leave out --resume" not in str(error):
            raise
        train(recipe, Session(folder, device="cpu", store=store), SilentReporter())


def until_done(recipe: Recipe, folder: Path, record: Path | None = None) -> None:
    """Go on to the end in a process of its own; with ``record`` its calls are written there."""

    def life() -> None:
        calls = Calls(folder.parent).install() if record else None
        go_on(recipe, folder)
        if calls and record:
            record.write_text(json.dumps(calls.made))

    if code := ended(born(life)):
        raise RuntimeError(f"{folder}: a run that nobody killed ended with {code}")


# ------------------------------------------------------------------------------------------------------- what was left


def evidence(folder: Path) -> dict[str, Any]:
    """What a run has come to, times left out: equal means equal to the last bit."""
    newest = folder / "resume" / newest_name(folder)
    check_folder(newest)
    state = json.loads((newest / "state.json").read_text())
    models = sorted(path for path in (folder / "models").iterdir())
    return {
        "newest": newest.name,
        **{f"position.{key}": value for key, value in untimed(state["position"]).items()},
        "interval": untimed(state["interval"]),
        "schedule": state["schedule"],
        **{name: sha256(newest / name) for name in ("weights.safetensors", "training.safetensors")},
        "models": [path.name for path in models],
        **{f"{path.name}'s weights": sha256(path / "weights.safetensors") for path in models},
        **{f"{path.name}'s scores": json.loads((path / "scores.json").read_text()) for path in models},
        "log": [untimed(record) for record in read_log(folder)],
        "left over": [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock"],
    }


def newest_name(folder: Path) -> str:
    names = [path.name for path in (folder / "resume").glob("step-*")]
    return max(names, key=lambda name: int(name.removeprefix("step-")), default="")


def untimed(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key not in TIMES}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


# ----------------------------------------------------------------------------------------------------------- scenarios


def killed_runs(corpus: Path, folder: Path, family: str, steps: int, kills: int, seed: int) -> dict[str, Any]:
    """A straight run, and runs that are killed so many times before they are let come to their end.

    Half of the kills come at a random moment, half at a random call; between them there are signals that ask politely,
    and ``lost`` are the steps that these cost.
    """
    recipe = family_recipe(corpus, family, steps)
    draw = random.Random(f"{family} {seed}")
    straight = folder / family / "straight" / "run"
    straight.parent.mkdir(parents=True)
    began = time.monotonic()
    until_done(recipe, straight, straight.parent / "calls.json")
    duration = time.monotonic() - began
    calls = len(json.loads((straight.parent / "calls.json").read_text()))
    expected = evidence(straight)
    found: dict[str, Any] = {"kills": [], "signals": [], "lost": [], "runs": 0, "differences": [], "straight": expected}

    def checked(run: Path) -> None:
        found["runs"] += 1
        found["differences"] += differences(evidence(run), expected)
        shutil.rmtree(run.parent)

    run = folder / family / "0" / "run"
    lives = 0
    while len(found["kills"]) < kills:
        run.parent.mkdir(exist_ok=True)
        by_call, polite = lives % 3 == 1, lives % 3 == 2
        lives += 1
        last = draw.randrange(1, max(2, 2 * calls // kills)) if by_call else 0
        how = draw.choice(list(GRACEFUL)) if polite else signal.SIGKILL

        def life(run: Path = run, last: int = last) -> None:
            if last:
                Calls(run.parent, last).install()
            go_on(recipe, run)

        pid = born(life)
        if not last:
            time.sleep(draw.uniform(0, 2 * duration / kills))
            os.kill(pid, how)
        code = ended(pid)
        if code == 0:
            checked(run)
            run = folder / family / str(lives) / "run"
        elif polite:
            # before training has begun there is nothing to save, and the signal is what it is without us
            found["signals"].append([how.name, code])
            if code == GRACEFUL[how] and (steps_told := [r["step"] for r in read_log(run) if r["type"] == "train"]):
                found["lost"].append(steps_told[-1] - int(newest_name(run).removeprefix("step-")))
        else:
            found["kills"].append([f"call {last}" if last else "moment", code, newest_name(run)])
    run.parent.mkdir(exist_ok=True)
    until_done(recipe, run)
    checked(run)
    return found


def calls_of_a_training(corpus: Path, folder: Path, family: str, steps: int) -> dict[str, Any]:
    """A run of so few steps for every call that one makes, killed there and gone on with."""
    recipe = family_recipe(corpus, family, steps)
    straight = folder / "straight" / "run"
    straight.parent.mkdir(parents=True)
    until_done(recipe, straight, straight.parent / "calls.json")
    calls = json.loads((straight.parent / "calls.json").read_text())
    expected = evidence(straight)
    found: dict[str, Any] = {"calls": len(calls), "differences": []}
    for last, name in enumerate(calls, 1):
        run = folder / str(last) / "run"
        run.parent.mkdir()

        def life(run: Path = run, last: int = last) -> None:
            Calls(run.parent, last).install()
            go_on(recipe, run)

        if (code := ended(born(life))) != -signal.SIGKILL:
            found["differences"].append([last, name, f"ended with {code}"])
        until_done(recipe, run)
        found["differences"] += [[last, name, key] for key in differences(evidence(run), expected)]
        shutil.rmtree(run.parent)
    return found


OLD, NEW = {"a.bin": b"old" * 999, "b.json": b"{}"}, {"a.bin": b"new" * 999, "b.json": b'{"b": 1}'}


def calls_of_a_save(folder: Path, target: str) -> list[list[Any]]:
    """For every call of a save as ``target``, beside or instead of an older ``step-1``: what is found afterwards.

    That is the call, how the process ended, which folder is the newest whole one and what is in it, what was complained
    of, and what there is after the next save.
    """

    def prepared(name: str) -> Path:
        parent = folder / name
        write_folder(parent / "step-1", OLD)
        return parent

    def record() -> None:
        parent = prepared("record")
        calls = Calls(parent).install()
        write_folder(parent / target, NEW)
        (folder / "calls.json").write_text(json.dumps(calls.made))

    assert ended(born(record)) == 0
    found: list[list[Any]] = []
    for last, name in enumerate(json.loads((folder / "calls.json").read_text()), 1):
        parent = prepared(str(last))

        def life(parent: Path = parent, last: int = last) -> None:
            Calls(parent, last).install()
            write_folder(parent / target, NEW)

        code = ended(born(life))
        recover(parent)
        newest, complaints = latest_folder(parent)
        content = "" if newest is None else (newest / "a.bin").read_bytes()[:3].decode()
        write_folder(parent / "step-3", NEW)
        left = sorted(path.name for path in parent.iterdir())
        found.append([name, code, newest.name if newest else "", content, complaints, left])
    return found


def calls_of_new_recipes(folder: Path, tokenizers: Tokenizers) -> list[list[Any]]:
    """For every call of putting another recipe into a run: how the process ended, and the recipe's steps afterwards."""
    old, new = (parse_recipe("", overrides=[f"training.max_steps={steps}"]) for steps in (1000, 20))

    def record() -> None:
        Run.create(folder / "record", old, tokenizers)
        calls = Calls(folder / "record").install()
        Run(folder / "record", new, tokenizers).write()
        (folder / "calls.json").write_text(json.dumps(calls.made))

    assert ended(born(record)) == 0
    found: list[list[Any]] = []
    for last, name in enumerate(json.loads((folder / "calls.json").read_text()), 1):
        run = folder / str(last)
        Run.create(run, old, tokenizers)

        def life(run: Path = run, last: int = last) -> None:
            Calls(run, last).install()
            Run(run, new, tokenizers).write()

        code = ended(born(life))
        steps = Run.open(run).recipe.training.max_steps
        ended(born(life))  # and killed there once more, where it had been killed before
        assert Run.open(run).recipe.training.max_steps in (1000, 20)
        Run(run, new, tokenizers).write()
        after = Run.open(run).recipe.training.max_steps
        found.append([name, code, steps, after, sorted(path.name for path in run.iterdir())])
    return found


# ------------------------------------------------------------------------------------------------------------- a script


def warm(corpus: Path, folder: Path) -> Tokenizers:
    """Import and make whatever a training imports and makes once, so that the forked ones find it."""
    torch.set_num_threads(1)
    loop.draw_curves = lambda records, path: None  # type: ignore[attr-defined]  # takes longer than all the rest
    recipe = small_recipe(corpus, "gru", "gru", "training.max_steps=1", "training.validation_beam=1")
    train(recipe, Session(folder / "warm", device="cpu", store=folder / "store"), SilentReporter())
    return Run.open(folder / "warm").tokenizers


def main() -> int:
    """Run what was asked for; print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills a family (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="steps of a run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which random moments (default: %(default)s)")
    parser.add_argument("--every-call", choices=FAMILIES, help="a run of this family for every call that it makes")
    parser.add_argument("--corpus", type=Path, help="train.en, train.fr, valid.en, valid.fr (default: a small one)")
    parser.add_argument("--calls-of-a-save", action="store_true", help="kill at every call of a save too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus: Path = options.corpus or small_corpus(folder / "corpus")
        tokenizers = warm(corpus, folder)
        found: dict[str, Any] = {}
        if options.every_call:
            found[options.every_call] = calls_of_a_training(corpus, folder / "calls", options.every_call, 6)
        else:
            for family in FAMILIES:
                kills = options.kills
                found[family] = killed_runs(corpus, folder, family, options.steps, kills, options.seed)
        if options.calls_of_a_save:
            for target in ("step-1", "step-2"):
                found[target] = calls_of_a_save(folder / f"saves-{target}", target)
            found["recipes"] = calls_of_new_recipes(folder / "recipes", tokenizers)
    print(json.dumps(found))
    return 1 if any(found[family]["differences"] for family in FAMILIES if family in found) else 0


def small_corpus(folder: Path) -> Path:
    """The corpus that the tests train on."""
    from tests.conftest import write_small_corpus

    folder.mkdir()
    return write_small_corpus(folder)


if __name__ == "__main__":
    sys.exit(main())
