"""``nmt train`` as a user drives it: from text to a translator, stopped and gone on with, refused in a line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from nmt.distributed import Ranks
from nmt.errors import Interrupted
from nmt.training.report import SilentReporter
from nmt_cli.main import main
from nmt_cli.training import TerminalReporter, reporting

RECIPE = """
[data]
source = "en"
target = "fr"
[tokenizer]
vocabulary = 330
[model]
embedding = 16
encoder = { type = "gru", width = 16 }
decoder = { type = "gru", width = 16 }
[training]
max_steps = 6
batch_tokens = 512
validate_every = 3
save_every = 3
log_every = 1
learning_rate = 0.01
precision = "float32"
[decoding]
beam = 1
max_extra = 2
precision = "float32"
"""


@pytest.fixture
def folder(tmp_path: Path, corpus: Path) -> Path:
    """A working folder with a recipe and a corpus in it."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), "TERM": "dumb"}


def nmt(python: str, folder: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "nmt", *arguments],
        cwd=folder, env=environment(folder), input=text, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@dataclass
class Done:
    returncode: int
    stderr: str


Here = Callable[..., Done]


@pytest.fixture
def here(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command in this process: for what ends in a line it is not worth to start one and have it import torch."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    def run(*arguments: str) -> Done:
        code = main(arguments)
        return Done(code, capfd.readouterr().err)

    return run


def train(python: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return nmt(python, folder, "train", "recipe.toml", "--data", "corpus", *arguments)


@pytest.mark.slow
def test_from_a_folder_of_text_to_a_pipe(warm_python: str, folder: Path) -> None:
    """The run lies where it is said to, is quiet on stdout, and translates a line for a line."""
    done = train(sys.executable, folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert "training pairs: 120 of 120 kept" in done.stderr
    assert "step 3: loss" in done.stderr and "step 6: loss" in done.stderr
    assert "translate with: nmt translate runs/recipe" in done.stderr
    assert "\r" not in done.stderr
    shutil.rmtree(folder / "corpus")
    shutil.rmtree(folder / "cache")
    piped = nmt(warm_python, folder, "translate", "runs/recipe", text="the cat sleeps .\n\nthe dog eats .\n")
    assert piped.returncode == 0, piped.stderr
    lines = piped.stdout.split("\n")
    assert len(lines) == 4 and lines[1] == "" and lines[3] == ""

    again = nmt(warm_python, folder, "train", "recipe.toml", "--data", "corpus")
    assert again.returncode == 2  # the corpus is gone
    assert again.stderr.count("\n") == 1


def test_a_run_is_fine_tuned_on_other_text(here: Here, folder: Path) -> None:
    """By the recipe that it has, into a folder beside it; or by one of one's own; and gone on with."""
    assert here("train", "recipe.toml", "--data", "corpus", "--quiet").returncode == 0
    (folder / "field").mkdir()
    for split in ("train", "valid"):
        for language in ("en", "fr"):
            lines = (folder / "corpus" / f"{split}.{language}").read_text(encoding="utf-8").splitlines()[::2]
            (folder / "field" / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    command = ["train", "--finetune-from", "runs/recipe", "--data", "field", "--set", "training.max_steps=3"]
    done = here(*command)
    assert done.returncode == 0, done.stderr
    assert "begins as runs/recipe/models/step-" in done.stderr and "step 0: loss" in done.stderr
    written = (folder / "runs" / "recipe-finetuned" / "recipe.toml").read_text(encoding="utf-8")
    assert 'finetune_from = "runs/recipe"' in written and 'source_model = "runs/recipe/source.model"' in written
    again = here(*command, "--out", "runs/recipe-finetuned", "--resume")
    assert again.returncode == 0 and "this run is finished: 3 steps are done" in again.stderr
    done = here("train", "recipe.toml", *command[1:], "--out", "runs/own")
    assert done.returncode == 0, done.stderr
    for more, words in (
        (["--preset", "auto"], "--preset chooses a model, and --finetune-from has one: leave one of them out"),
        (["--set", "model.decoder.width=32"], "training.finetune_from: runs/recipe is another model than the recipe's"),
    ):
        refused = here(*command, "--out", "runs/new", *more)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert words in refused.stderr
    nowhere = here("train", "--finetune-from", "nowhere", "--data", "field")
    assert (nowhere.returncode, nowhere.stderr) == (1, "nmt: error: nowhere: no such run folder\n")


@pytest.mark.slow
def test_a_recipe_is_chosen_for_a_corpus_and_a_time(warm_python: str, folder: Path) -> None:
    settings = [f"--set={one}" for one in ("data.source=en", "data.target=fr", "training.precision=float32")]
    done = nmt(
        warm_python,
        folder,
        "train",
        "--preset",
        "auto",
        "--data",
        "corpus",
        "--budget",
        "5s",
        "--out",
        "run",
        *settings,
    )
    assert done.returncode == 0, done.stderr
    assert "run/auto.toml: the recipe that was chosen, with reasons" in done.stderr
    chosen = (folder / "run" / "auto.toml").read_text(encoding="utf-8")
    assert "# Chosen by nmt train --preset auto for 120 sentence pairs, on cpu" in chosen
    shown = nmt(warm_python, folder, "config", "run/auto.toml")
    assert shown.returncode == 0, shown.stderr
    assert "5.0" in shown.stdout
    again = nmt(warm_python, folder, "train", "--preset", "auto", "--out", "run", "--resume")
    assert (again.returncode, again.stdout) == (2, "")
    assert "leave --preset out" in again.stderr


@pytest.mark.slow
def test_a_budget_of_seconds_is_trained_for_to_the_end_of_the_schedule(warm_python: str, folder: Path) -> None:
    done = train(warm_python, folder, "--out", "run", "--budget", "10s")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    rates = [record["learning_rate"] for record in records if record["type"] == "train"]
    assert len(rates) > 6  # the recipe's max_steps
    assert rates[-1] < 0.1 * max(rates)
    assert records[-1]["type"] == "valid"
    assert "best: run/models/step-" in done.stderr

    again = train(warm_python, folder, "--out", "run", "--resume", "--budget", "10s")
    assert again.returncode == 0, again.stderr
    assert "this run is finished" in again.stderr


@pytest.mark.slow
def test_a_signal_saves_and_resume_goes_on(warm_python: str, folder: Path) -> None:
    long = ("--set", "training.max_steps=100000", "--set", "training.validate_every=100000")
    command = [warm_python, "-m", "nmt", "train", "recipe.toml", "--data", "corpus", "--out", "run", *long]
    with subprocess.Popen(command, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True) as process:
        log = folder / "run" / "log.jsonl"
        patience = time.monotonic() + 100
        while not (log.exists() and log.read_bytes().count(b"\n") >= 4):
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM after step" in said and "go on with: nmt train --resume --out run" in said
    steps = log.read_bytes().count(b"\n")
    newest = max((folder / "run" / "resume").iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    assert newest.name == f"step-{steps}"

    changed = train(warm_python, folder, "--out", "run", "--resume", "--set", f"training.max_steps={steps + 2}")
    assert changed.returncode == 2
    assert f"training.max_steps: 100000 -> {steps + 2}" in changed.stderr
    finished = nmt(
        warm_python, folder, "train", "--out", "run", "--resume", "--force", "--set", f"training.max_steps={steps + 2}"
    )
    assert finished.returncode == 0, finished.stderr
    assert f"run began with: training.max_steps: 100000 -> {steps + 2}\n" in finished.stderr
    assert f"run: going on from step {steps}\n" in finished.stderr
    assert log.read_bytes().count(b'"train"') == steps + 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "nowhere.toml"), 2, "nowhere.toml: the recipe cannot be read"),
        (("train", "recipe.toml"), 2, "the recipe has no data.train"),
        (("train", "recipe.toml", "--data", "nowhere"), 2, "nowhere"),
        (("train", "recipe.toml", "--data", "corpus", "--set", "training.max_stepz=3"), 2, "did you mean 'max_steps'?"),
        (("train", "recipe.toml", "--data", "corpus", "--set", "data.target='de'"), 2, "the languages are en and de"),
        (("train", "recipe.toml", "--data", "corpus", "--out", "corpus/train.en/run"), 1, "cannot be written"),
        (("train", "recipe.toml", "--data", "corpus", "--resume"), 1, "there is no run to resume"),
        (("train", "--resume", "--out", "nowhere"), 1, "nowhere: there is no run to resume"),
        (("train", "--data", "corpus"), 2, "which recipe?"),
        (("train", "recipe.toml", "--data", "corpus", "--budget", "soon"), 2, "training.budget"),
        (("train", "recipe.toml", "--data", "corpus", "--device", "abacus"), 2, "abacus"),
        (("train", "recipe.toml", "--data", "corpus", "--set", "tokenizer.vocabulary=30000"), 2, "set it to"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(
    here: Here, folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = here(*arguments)
    assert done.returncode == code, done.stderr
    last = done.stderr.rstrip("\n").split("\n")[-1]
    assert words in last
    assert last.startswith("nmt: error: ")
    assert "Traceback" not in done.stderr
    assert not (folder / "runs" / "recipe" / "run.json").exists()


def test_unequal_files_are_refused_with_both_numbers(here: Here, folder: Path) -> None:
    with (folder / "corpus" / "train.fr").open("a") as stream:
        stream.write("une ligne de trop .\n")
    done = here("train", "recipe.toml", "--data", "corpus")
    assert done.returncode == 3
    assert "120" in done.stderr and "121" in done.stderr


def test_bytes_that_are_not_utf8_are_named_by_file_line_and_byte(here: Here, folder: Path) -> None:
    path = folder / "corpus" / "train.fr"
    lines = path.read_bytes().split(b"\n")
    lines[6] = b"le caf\xe9 dort ."
    path.write_bytes(b"\n".join(lines))
    done = here("train", "recipe.toml", "--data", "corpus")
    assert done.returncode == 3
    assert "train.fr:7" in done.stderr


def test_on_a_terminal_a_live_line_has_step_loss_rate_and_time_left(warm_python: str, folder: Path) -> None:
    """Through a pseudo-terminal, as a person sees it."""
    import pty

    parent, child = pty.openpty()
    command = [
        warm_python,
        "-m",
        "nmt",
        "train",
        "recipe.toml",
        "--data",
        "corpus",
        "--set",
        "training.max_steps=40",
        "--set",
        "training.validate_every=20",
    ]
    with subprocess.Popen(
        command, cwd=folder, env={**environment(folder), "TERM": "xterm", "COLUMNS": "120"}, stderr=child
    ) as process:
        os.close(child)
        seen = b""
        while True:
            try:
                part = os.read(parent, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(parent)
    assert process.returncode == 0
    live = [line for line in seen.decode().replace("\x1b[K", "").split("\r") if line.startswith("training ")]
    whole = re.compile(r"training \d+/40 steps +\d+% +loss \d\.\d+ +[\d,]+ tokens/s .* \d+:\d\d left")
    assert any(whole.search(line) for line in live), live


def test_of_several_processes_the_first_alone_tells() -> None:
    first, second = Ranks(), Ranks()
    second.rank = 1
    with reporting(first) as reporter:
        assert isinstance(reporter, TerminalReporter)
    with pytest.raises(typer.Exit) as left, reporting(second) as reporter:
        assert isinstance(reporter, SilentReporter)
        raise Interrupted("stopped", signal.SIGTERM)
    assert left.value.exit_code == 143
    with pytest.raises(Interrupted), reporting(first):
        raise Interrupted("stopped", signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "x.toml", "--force"], "--force is about resuming: give --resume too"),
        (["race", "x.toml", "--budget", "1m", "--force"], "--force is about resuming: give --resume too"),
        (["train", "x.toml", "--budget", "0m"], "--budget 0m: give a time such as 30m or 2h"),
    ],
)
def test_options_that_would_have_no_say(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the recipe is looked for, which is not there."""
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
