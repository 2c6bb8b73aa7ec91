"""``nmt tokenize`` as a shell meets it."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

NMT = Path(sys.executable).with_name("nmt")


def nmt(*arguments: str | Path, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([NMT, *arguments], input=text, capture_output=True, timeout=60, env=kept, check=False)


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "joint.model"
    done = nmt("tokenize", "train", corpus / "train.en", corpus / "train.fr", "--vocabulary", "330", "-o", path)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert b"joint.model: " in done.stderr and b"330 bpe pieces" in done.stderr
    return path


def test_pieces_and_back(model: Path) -> None:
    lines = "le chat noir\n\n  d\u00e9j\u00e0 \u65e5\u672c\u2028x\r\nno end".encode()
    cut = nmt("tokenize", "encode", model, text=lines)
    assert cut.returncode == 0, cut.stderr
    first, second, *_ = cut.stdout.decode().split("\n")
    assert first.startswith("▁le ▁chat ▁") and second == ""
    assert cut.stdout.count(b"\n") == 4
    back = nmt("tokenize", "decode", model, text=cut.stdout)
    assert back.stdout.decode() == "le chat noir\n\ndéjà 日本 x\nno end\n"


def test_ids_and_back_through_files(model: Path, tmp_path: Path) -> None:
    source, ids, out = tmp_path / "in.gz", tmp_path / "ids.gz", tmp_path / "out"
    source.write_bytes(gzip.compress(b"the cat sleeps .\nthe dog eats .\n"))
    assert nmt("tokenize", "encode", model, "--ids", "-i", source, "-o", ids).returncode == 0
    assert all(word.isdigit() for word in gzip.decompress(ids.read_bytes()).split())
    assert nmt("tokenize", "decode", model, "--ids", "-i", ids, "-o", out).returncode == 0
    assert out.read_text() == "the cat sleeps .\nthe dog eats .\n"


def test_a_tokenizer_is_trained_as_it_is_said(corpus: Path, tmp_path: Path) -> None:
    """Its kind, what it makes of characters, and which of these it knows."""
    path = tmp_path / "x.model"
    how = ["--type", "unigram", "--normalization", "nfkc_cf", "--vocabulary", "32", "--no-byte-fallback"]
    done = nmt("tokenize", "train", corpus / "train.en", *how, "-o", path)
    assert b"32 unigram pieces" in done.stderr
    one, other = (nmt("tokenize", "encode", path, text=text).stdout for text in (b"THE CAT\n", b"the cat\n"))
    assert one == other != b"\n"
    rare = tmp_path / "rare.en"
    rare.write_text("the cat sees the dog , and a bird sings .\n" * 200 + "q\n", encoding="utf-8")
    known = {}
    for share in ("1.0", "0.99"):
        how = ["--vocabulary", "32", "--no-byte-fallback", "--character-coverage", share]
        done = nmt("tokenize", "train", rare, *how, "-o", path)
        assert done.returncode == 0, done.stderr
        known[share] = nmt("tokenize", "encode", path, "--ids", text=b"q\n").stdout.split()
    assert b"1" in known["0.99"] and b"1" not in known["1.0"]


def test_a_seed_of_nothing_is_refused(model: Path) -> None:
    done = nmt("tokenize", "encode", model, "--seed", "2", text=b"a\n")
    assert done.returncode == 2
    assert b"--seed is about what --sampling draws: give that too, such as --sampling 0.1" in done.stderr


def test_sampling_is_the_same_for_a_seed_and_other_for_each_line(model: Path) -> None:
    lines = b"le chat noir voit le chat\n" * 20
    one, again, other = (
        nmt("tokenize", "encode", model, "--sampling", "0.3", "--seed", seed, text=lines).stdout for seed in "112"
    )
    assert one == again != other
    assert len(set(one.splitlines())) > 10
    assert nmt("tokenize", "decode", model, text=one).stdout == lines


def test_standard_input_trains_as_a_file_does(model: Path, corpus: Path, tmp_path: Path) -> None:
    both = (corpus / "train.en").read_bytes() + (corpus / "train.fr").read_bytes()
    done = nmt("tokenize", "train", "--vocabulary", "330", "-o", tmp_path / "x.model", "--quiet", text=both)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "x.model").read_bytes() == model.read_bytes()


def test_standard_output_takes_a_model(model: Path, corpus: Path) -> None:
    done = nmt("tokenize", "train", corpus / "train.en", corpus / "train.fr", "--vocabulary", "330", "-o", "-")
    assert (done.returncode, done.stdout) == (0, model.read_bytes())
    assert done.stderr.startswith(b"stdout: ")


def test_a_run_folder_has_its_tokenizer(untrained_run: Path) -> None:
    cut = nmt("tokenize", "encode", untrained_run, "--side", "target", text=b"le chat\n")
    assert cut.stdout.decode() == "▁le ▁chat\n"


def test_a_model_has_no_sides(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("encode", "decode"):
        done = nmt("tokenize", verb, model, "--side", "target", text=b"le chat\n")
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"--side is about a run folder: {model} is one tokenizer; leave it out" in done.stderr.decode()
    monkeypatch.setenv("NMT_SIDE", "target")
    assert nmt("tokenize", "encode", model, text=b"le chat\n").stdout.decode() == "▁le ▁chat\n"


def test_a_variable_for_translating_does_not_cut_at_random(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nmt("tokenize", "encode", model, text=b"le chat noir dort\n" * 9).stdout
    monkeypatch.setenv("NMT_SAMPLING", "1")
    assert nmt("tokenize", "encode", model, text=b"le chat noir dort\n" * 9).stdout == plain


@pytest.mark.parametrize(
    ("arguments", "text", "code", "words"),
    [
        (["encode", "nowhere.model"], b"", 1, "nowhere.model: the tokenizer cannot be read: No such file"),
        (["encode", "MODEL"], b"a\n\xff\n", 3, "stdin:2: byte 1 is not UTF-8: 0xff"),
        (["decode", "MODEL", "--ids"], b"5\n6 x\n", 3, "stdin:2: 'x' is no id of this vocabulary of 330"),
        (["decode", "MODEL", "--ids"], b"330\n", 3, "stdin:1: '330' is no id"),
        (["decode", "MODEL", "--ids"], b"9" * 5000, 3, "stdin:1: '99999999999999999999' is no id"),
        (["train", "-o", "OUT"], b"too short\n", 2, "8000 pieces are more than this text can give; set it to "),
        (["train", "-o", "OUT"], b"\n\n", 3, "there is no text to train a tokenizer on: every line is blank"),
        (["train", "-o", "OUT", "nowhere.txt"], b"", 3, "nowhere.txt: cannot be read: No such file"),
        (["train", "-o", "OUT", "--vocabulary", "5"], b"", 2, "--vocabulary"),
        (["train", "-o", "nowhere/x.model"], b"a\n", 1, "nowhere/x.model: cannot be written: No such file"),
        ([], b"", 2, "Missing command"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(
    model: Path, tmp_path: Path, arguments: list[str], text: bytes, code: int, words: str
) -> None:
    places = {"MODEL": str(model), "OUT": str(tmp_path / "out.model")}
    done = nmt("tokenize", *(places.get(argument, argument) for argument in arguments), text=text)
    assert done.returncode == code, done.stderr
    assert words in done.stderr.decode() and done.stderr.count(b"\n") == 1
    assert not (tmp_path / "out.model").exists()


def test_a_tokenizer_does_not_take_the_place_of_its_text(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a b c\n" * 50)
    done = nmt("tokenize", "train", str(text), "-o", str(text), "--vocabulary", "300")
    assert done.returncode == 2 and b"is read and written at once" in done.stderr
    assert text.read_text() == "a b c\n" * 50


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_text_does_not_take_the_place_of_its_tokenizer(model: Path, tmp_path: Path, verb: str) -> None:
    mine = tmp_path / "mine.model"
    mine.write_bytes(model.read_bytes())
    done = nmt("tokenize", verb, mine, "-o", mine, text=b"le chat\n")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1) and b"is read and written at once" in done.stderr
    assert mine.read_bytes() == model.read_bytes()


def test_bad_bytes_can_be_replaced(model: Path) -> None:
    cut = nmt("tokenize", "encode", model, "--on-bad-bytes", "replace", text=b"a\n\xff\nb\n")
    assert cut.returncode == 0 and cut.stdout.count(b"\n") == 3
