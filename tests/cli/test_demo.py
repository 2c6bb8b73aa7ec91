"""``nmt demo`` from the corpus to the commands to try next, with a model that has learnt next to nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from nmt.alignment.links import parse_gold
from nmt.checkpoint import Checkpoint, Run
from nmt.data.synthetic import write_corpus
from nmt.demo import FAMILIES, crossings, make_corpus, recipe_of
from nmt.errors import ConfigError
from nmt_cli.main import main

TINY = (
    "tokenizer.vocabulary=400",
    "training.max_steps=2",
    "training.validate_every=2",
    "training.save_every=2",
    "decoding.beam=1",
    "decoding.max_ratio=1",
    "decoding.max_extra=2",
)


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_corpus(folder, pairs=80, seed=1, valid=4, test=12)
    return folder


@pytest.fixture
def small_demo(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus where the demo's would be, which it then leaves alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_corpus, "runs/demo/corpus")


def demo(*arguments: str) -> int:
    sets = [part for one in TINY for part in ("--set", one)]
    return main(["demo", *sets, *arguments])


@pytest.mark.usefixtures("small_demo")
def test_one_family_from_corpus_to_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--family", "bahdanau") == 0
    out = capsys.readouterr().out
    assert re.search(r"^  BLEU\|nrefs:1\|case:mixed\|.*\|version:\S+ = \d+\.\d\d ", out, re.MULTILINE)
    assert re.search(r"^  chrF2\|nrefs:1\|.*\|version:\S+ = \d+\.\d\d$", out, re.MULTILINE)
    assert re.search(r"^  AER = [01]\.\d{3}, precision ", out, re.MULTILINE)
    assert len(re.findall(r"^  source     \S", out, re.MULTILINE)) == 10
    picture = Path(out.partition("where it looked: ")[2].split()[0])
    assert picture.read_text().startswith("<?xml")
    capsys.readouterr()

    assert demo("--family", "bahdanau") == 0
    again = capsys.readouterr()
    assert again.out == out
    assert "this run is finished" in again.err


@pytest.mark.usefixtures("small_demo")
def test_one_that_was_stopped_before_its_first_checkpoint_is_begun_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--family", "luong") == 0
    told = capsys.readouterr().out
    for folder in ("resume", "models"):
        shutil.rmtree(Path("runs/demo/luong") / folder)
    assert demo("--family", "luong") == 0
    assert capsys.readouterr().out == told


@pytest.mark.usefixtures("small_demo")
def test_one_with_another_recipe_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--family", "luong") == 0
    here = str(Path("runs/demo").absolute())
    assert demo("--family", "luong", "--out", here) == 0, "by whatever name"
    assert f"nmt demo --family all --out {here}" in capsys.readouterr().out
    assert demo("--family", "luong", "--set", "decoding.beam=2") == 2
    err = capsys.readouterr().err
    assert "runs/demo/luong: was begun with another recipe: decoding.beam: 1 -> 2; remove the folder, or name" in err


@pytest.mark.usefixtures("small_demo")
def test_a_signal_at_the_very_end_of_a_training_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Run.best

    def best(self: Run) -> Checkpoint:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(Run, "best", best)
    assert demo("--family", "all") == 130
    assert len(list(Path("runs/demo").iterdir())) == 2  # the corpus and one family


def test_the_corpus_is_made_once(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", pairs=30)
    assert (folder / "train.en").read_text().count("\n") == 30
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    for pairs in (None, 30):
        assert {path: path.stat().st_mtime_ns for path in make_corpus(folder, pairs=pairs).iterdir()} == before
    with pytest.raises(ConfigError, match="corpus: has 30 training pairs, not 40: give --pairs 30, or another folder"):
        make_corpus(folder, pairs=40)


def test_crossings_are_counted() -> None:
    assert crossings(parse_gold("0-0 1-1 2-2", "here")) == 0
    assert crossings(parse_gold("0-2 1-1 2-0", "here")) == 3
    assert crossings(parse_gold("0-0 0-1 1-0", "here")) == 1


@pytest.mark.usefixtures("small_demo")
def test_all_families_in_one_table_and_the_next_commands_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--family", "all") == 0
    out = capsys.readouterr().out
    rows = [line.split()[0] for line in out.partition("\nfamily ")[2].splitlines()[1:4]]
    assert rows == list(FAMILIES)
    suggested = [line.strip() for line in out.partition("Try next")[2].splitlines()[1:]]
    assert len(suggested) == 7
    commands = [line for line in suggested if line.startswith(("nmt evaluate", "nmt align"))]
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    command, _, source = next(line for line in suggested if line.startswith("nmt translate")).partition(" < ")
    assert main([*shlex.split(command)[1:], "-i", source, "--beam", "3"]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_recipes_find_the_corpus_that_the_demo_makes(family: str) -> None:
    data = recipe_of(family).data  # type: ignore[arg-type]
    assert (data.source, data.target) == ("en", "fr")
    named = [getattr(corpus, side) for corpus in (*data.train, data.valid, data.test) for side in ("source", "target")]
    splits = [Path(f"runs/demo/corpus/{name}") for name in ("train", "valid", "test")]
    assert named == [split.with_suffix(f".{language}") for split in splits for language in ("en", "fr")]
