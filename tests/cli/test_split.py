"""``nmt split`` as a shell meets it: a corpus that ``nmt train --data`` takes, and a word for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.config import DataConfig
from nmt.data.corpus import with_folder
from nmt_cli.main import main


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    for language, word in (("en", "the cat"), ("fr", "le chat")):
        lines = [f"{word} {number // 2 if number < 10 else number}" for number in range(50)]
        (tmp_path / f"all.{language}").write_text("".join(f"{line}\n" for line in lines))
    return [str(tmp_path / "all.en"), str(tmp_path / "all.fr")]


def test_a_corpus_of_two_files(texts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "corpus"
    assert main(["split", *texts, "--out", str(out), "--valid", "5", "--test", "30"]) == 0
    said = capfd.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith(f"{out}: 15 train, 5 valid, 30 test pairs (")
    assert first.endswith("were passed over, a line of theirs stands elsewhere too)")
    assert f"nmt train --preset auto --data {out} --set data.source=en --set data.target=fr" in second
    data = with_folder(DataConfig(source="en", target="fr"), out)
    assert data.train and data.valid and data.test


def test_no_test_set_and_other_languages(texts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["split", *texts, "--out", str(tmp_path / "x"), "--test", "0", "--languages", "eng-fra", "--quiet"]
    assert main(command) == 0
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"train.eng", "train.fra", "valid.eng", "valid.fra"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--languages", "en"], 2, "--languages: en are no two languages: give them, such as --languages en-fr"),
        (["--languages", "en-../x"], 2, "--languages: en-../x are no two languages"),
        (["--valid", "-1"], 2, "--valid"),
        (["--valid", "0", "--test", "0"], 2, "nothing is to be held out: ask for some pairs with --valid or --test"),
        (["--valid", "49", "--test", "1"], 3, "50 pairs are too few to hold 50 of them out"),
        (["--valid", "45"], 3, "of 50 pairs 40 have lines that stand in it once, 47 are to be held out: ask for fewer"),
    ],
)
def test_mistakes_are_one_line(
    texts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main(["split", *texts, "--out", str(tmp_path / "x"), *arguments]) == code
    said = capfd.readouterr()
    assert words in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").iterdir())


def test_the_command_that_is_told_is_one(texts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["split", *texts, "--out", str(tmp_path / "my corpus"), "--languages", "en-nan"]) == 0
    assert (
        f"--data '{tmp_path / 'my corpus'}' --set data.source=en --set 'data.target=\"nan\"'" in capfd.readouterr().err
    )
    assert main(["split", *texts, "--out", str(tmp_path / "x"), "--valid", "0"]) == 0
    assert "train with" not in capfd.readouterr().err
    assert main(["split", "-", texts[1], "--out", str(tmp_path / "y")]) == 2
    assert "which standard input cannot be: name two files" in capfd.readouterr().err


def test_files_without_a_language_are_asked_for_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x\ny\n")
    assert main(["split", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--out", str(tmp_path / "x")]) == 2
    assert "--languages: a.txt and b.txt end in no two languages: give them" in capfd.readouterr().err
