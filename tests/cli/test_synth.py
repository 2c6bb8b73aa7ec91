"""``nmt synth`` as a shell meets it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from nmt_cli.main import main

NMT = Path(sys.executable).with_name("nmt")


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def test_writes_a_corpus_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "corpus"
    assert main(["synth", "--pairs", "1200", "--valid", "40", "--test", "30", "--seed", "1", "--out", str(out)]) == 0
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"{out}: 1,200 train, 40 valid, 30 test pairs; ")
    assert shown.err.count("\n") == 1
    assert len((out / "train.align").read_text().splitlines()) == 1200


def test_quiet_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "--pairs", "5", "--out", str(tmp_path / "corpus"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    for name, hash_seed in (("a", "1"), ("b", "2")):
        subprocess.run(
            [NMT, "synth", "--pairs", "100", "--seed", "5", "--out", tmp_path / name],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": hash_seed},
        )
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_defaults_are_500_to_validate_and_to_test_on(tmp_path: Path) -> None:
    main(["synth", "--pairs", "10", "--out", str(tmp_path)])
    assert [(tmp_path / f"{split}.fr").read_text().count("\n") for split in ("valid", "test")] == [500, 500]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--pairs", "10"], "Missing option '--out'"),
        (["--pairs", "0", "--out", "new"], "pairs 0: give 1 or more"),
        (["--seed", "-1", "--out", "new"], "seed -1: give 0 or more"),
        (["--pairs", "9" * 30, "--out", "new"], "more than 100,000,000 pairs are more than the grammar is made for"),
        (["--pairs", "many", "--out", "new"], "should be a valid integer"),
        (["--out", "."], "holds 'mine.txt', which is no part of a corpus"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main(["synth", *arguments]) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("nmt: error: ") and message in shown.err
    assert shown.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
