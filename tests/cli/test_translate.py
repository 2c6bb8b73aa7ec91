"""``nmt translate`` as a shell meets it: parity, streams, formats, and every way a pipe can end."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from nmt.checkpoint import Run
from nmt.config import Recipe
from nmt.data.tokenizer import Tokenizers, train_tokenizer
from nmt.decoding.translator import Translation, Translator
from nmt.errors import DataError, Interrupted
from nmt_cli.main import main
from nmt_cli.streaming import WholeLines, input_windows
from nmt_cli.streams import STANDARD
from tests.cli.random_run import random_run

NMT = Path(sys.executable).with_name("nmt")
LINES = ["the black cat sleeps .", "", "a dog", "the tired wolf sees the cat .", "  ", "birds"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a small random model: what it writes makes no sense and is the same every time."""
    return random_run(tmp_path_factory.mktemp("translate") / "run", LINES * 3, beam=3, max_extra=4, batch_size=4)


@pytest.fixture(scope="module")
def expected(run: Path) -> list[Translation]:
    return list(Translator.load(run, device="cpu").translate(LINES, nbest=3, attention=True))


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def text_of(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, "OMP_NUM_THREADS": "1", "PATH": f"{NMT.parent}:{os.environ['PATH']}"}


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, env=environment(), check=False
    )


Capture = pytest.CaptureFixture[bytes]


# ----------------------------------------------------------------------------------------------------- lines and files


def test_a_line_for_a_line(run: Path, expected: list[Translation], tmp_path: Path, capfdbinary: Capture) -> None:
    source = write(tmp_path / "in", text_of(LINES))
    assert main(["translate", str(run), "-i", source]) == 0
    assert capfdbinary.readouterr().out == text_of([one.text for one in expected])
    assert [bool(one.text) for one in expected] == [True, False, True, True, False, True]


def test_odd_bytes_keep_the_count(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    source = "a\x00b\r\n\r\n\u2028x\u2029\x85\x0b\x0c\x1c\rdog\n\ufeff\n\n😀 e\u0301 العربية\nno end".encode()
    assert main(["translate", str(run), "-i", write(tmp_path / "in", source)]) == 0
    assert capfdbinary.readouterr().out.count(b"\n") == source.count(b"\n") + 1


def test_compressed_files_in_and_out(run: Path, expected: list[Translation], tmp_path: Path) -> None:
    source = write(tmp_path / "in.txt", gzip.compress(text_of(LINES)))
    assert main(["translate", str(run), "-i", source, "-o", str(tmp_path / "out.zst")]) == 0
    written = zstandard.ZstdDecompressor().stream_reader((tmp_path / "out.zst").read_bytes()).read()
    assert written == text_of([one.text for one in expected])


def test_nbest_lists_in_moses_form(
    run: Path, expected: list[Translation], tmp_path: Path, capfdbinary: Capture
) -> None:
    source = write(tmp_path / "in", text_of(LINES))
    assert main(["translate", str(run), "-i", source, "--nbest", "3"]) == 0
    rows = [line.split(" ||| ") for line in capfdbinary.readouterr().out.decode().split("\n")[:-1]]
    assert [row[0] for row in rows] == [str(n) for n, one in enumerate(expected) for _ in one.hypotheses or [None]]
    for number, one in enumerate(expected):
        own = [row for row in rows if row[0] == str(number)]
        if not one.hypotheses:
            assert own == [[str(number), "", "logprob= 0.0000", "0.0000"]]
            continue
        assert [row[1] for row in own] == [hypothesis.text for hypothesis in one.hypotheses]
        for row, hypothesis in zip(own, one.hypotheses, strict=True):
            assert row[2].startswith("logprob= ")
            assert float(row[2].removeprefix("logprob= ")) == pytest.approx(hypothesis.log_probability, abs=1e-3)
            assert float(row[3]) == pytest.approx(hypothesis.score, abs=1e-3)


@pytest.mark.parametrize("nbest", [[], ["--nbest", "2"]])
def test_links_stand_behind_the_text(
    run: Path, expected: list[Translation], tmp_path: Path, capfdbinary: Capture, nbest: list[str]
) -> None:
    source = write(tmp_path / "in", text_of(LINES))
    assert main(["translate", str(run), "-i", source, "--align", "hard", *nbest]) == 0
    rows = [line.split(" ||| ") for line in capfdbinary.readouterr().out.decode().split("\n")[:-1]]
    if nbest:
        rows = [row[1:] for row in rows if row[0] != "1" and row[0] != "4"][::2]
        assert all(len(row) == 4 for row in rows)
    else:
        assert rows[1] == rows[4] == ["", ""]
        rows = [row for row in rows if row != ["", ""]]
    for row, one in zip(rows, (one for one in expected if one.hypotheses), strict=True):
        assert row[0] == one.text
        links = [tuple(map(int, link.split("-"))) for link in row[1].split()]
        # Every word of the translation looks somewhere.
        assert {target for _, target in links} == set(range(len(one.text.split())))
        assert all(source < len(one.source.split()) for source, _ in links)
        attention = one.hypotheses[0].attention
        assert attention is not None
        pieces = [piece for piece, word in enumerate(one.target_words[0]) if word == 0]
        looked = attention[pieces, :-1].sum(axis=0)
        by_word = [
            sum(float(looked[piece]) for piece, word in enumerate(one.source_words) if word == index)
            for index in range(len(one.source.split()))
        ]
        assert (by_word.index(max(by_word)), 0) in links


def test_links_are_those_of_nmt_align(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    source = write(tmp_path / "in", text_of(LINES))
    assert main(["translate", str(run), "-i", source, "--align", "hard"]) == 0
    links = [line.split(b" ||| ")[1] for line in capfdbinary.readouterr().out.split(b"\n")[:-1]]
    assert main(["align", str(run), "--source", source]) == 0
    assert capfdbinary.readouterr().out.split(b"\n")[:-1] == links


def test_options_of_search(run: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in", text_of(LINES))
    greedy = Translator.load(run, device="cpu", beam=1, max_extra=9)
    wanted = text_of([one.text for one in greedy.translate(LINES)])
    assert main(["translate", str(run), "-i", source, "--beam", "1", "--max-extra", "9", "--batch-size", "2"]) == 0
    assert capfdbinary.readouterr().out == wanted
    monkeypatch.setenv("NMT_BEAM", "1")
    monkeypatch.setenv("NMT_MAX_EXTRA", "9")
    assert main(["translate", str(run), "-i", source]) == 0
    assert capfdbinary.readouterr().out == wanted


def test_variables_that_have_no_say_are_passed_over(
    run: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be meant for other verbs; given by hand they are refused."""
    source = write(tmp_path / "in", text_of(LINES))
    command = ["translate", str(run), "-i", source]
    assert main(command) == main([*command, "--sampling", "--seed", "7"]) == 0
    plain = capfdbinary.readouterr().out
    for name, value in {"SEED": "7", "ALIGN_UNITS": "pieces", "MBR_SAMPLES": "9"}.items():
        monkeypatch.setenv(f"NMT_{name}", value)
    assert main(command) == 0
    monkeypatch.setenv("NMT_BEAM", "4")
    assert main([*command, "--sampling"]) == 0
    assert capfdbinary.readouterr().out == plain
    for given, words in (
        (["--top-k", "3"], b"decoding.top_k has no say"),
        (["--align-units", "words"], b"--align-units"),
    ):
        assert main([*command, *given]) == 2
        assert words in capfdbinary.readouterr().err


def test_long_lines_are_said_and_counted(
    run: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.decoding.translator.LONGEST", 30)
    source = write(tmp_path / "in", text_of(["a dog", "the cat sleeps . " * 9, "birds", "the black cat . " * 9]))
    assert main(["translate", str(run), "-i", source]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out.count(b"\n") == 4
    warning, note = captured.err.decode().splitlines()
    assert re.fullmatch(
        r"nmt: warning: line 2 has \d+ pieces, more than the 29 read at once: .* in \d+ parts.*", warning
    )
    assert note == "translated in parts, being too long: 2 of 4 lines"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--nbest", "9"], 2, "nbest 9 needs a beam of at least 9, not 3: set --beam 9"),
        (["--beam", "0"], 2, "'--beam'"),
        (["--max-ratio", "-1"], 2, "decoding.max_ratio: Input should be greater than 0"),
        (["--checkpoint", "step-7"], 1, "no checkpoint 'step-7'; there are: step-1"),
        (["--device", "abacus"], 2, "device 'abacus' cannot be used"),
        (["-i", "missing.txt"], 3, "missing.txt: cannot be read: No such file or directory"),
        (["-i", "."], 3, ".: is a folder, not a file"),
        (["-o", "in"], 2, "in: is read and written at once: name another file for the output"),
        (["--device", "meta"], 2, "device 'meta' cannot be used"),
        (["--threads", "100000000"], 2, "Invalid value for '--threads'"),
        (
            ["--max-extra", "99999999999999999999"],
            2,
            "decoding.max_extra: a number larger than 2147483647",
        ),
        (["-o", "missing/out.txt"], 1, "missing/out.txt: cannot be written: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(
    run: Path,
    tmp_path: Path,
    capfdbinary: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in", text_of(LINES))
    assert main(["translate", str(run), "-i", "in", *arguments]) == code
    captured = capfdbinary.readouterr()
    assert captured.out == b""
    assert captured.err.decode().startswith("nmt: error: ")
    assert words in captured.err.decode()
    assert captured.err.count(b"\n") == 1


def test_a_file_is_not_emptied_before_it_is_read(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    write(tmp_path / "in", text_of(LINES))
    (tmp_path / "other").symlink_to("in")
    assert main(["translate", str(run), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "other")]) == 2
    assert (tmp_path / "in").read_bytes() == text_of(LINES)


def test_a_run_that_is_not_there(tmp_path: Path, capfdbinary: Capture) -> None:
    assert main(["translate", str(tmp_path / "nowhere")]) == 1
    assert capfdbinary.readouterr().err.decode() == f"nmt: error: {tmp_path / 'nowhere'}: no such run folder\n"


def test_bytes_that_are_not_utf8(run: Path, expected: list[Translation], tmp_path: Path, capfdbinary: Capture) -> None:
    source = write(tmp_path / "in", text_of(LINES[:3]) + b"caf\xe9\n" + text_of(LINES[4:]))
    assert main(["translate", str(run), "-i", source]) == 3
    captured = capfdbinary.readouterr()
    assert captured.out == text_of([one.text for one in expected[:3]])
    assert f"{source}:4: byte 4 is not UTF-8".encode() in captured.err
    assert main(["translate", str(run), "-i", source, "--on-bad-bytes", "replace"]) == 0
    lines = capfdbinary.readouterr().out.split(b"\n")
    assert lines[:3] == [one.text.encode() for one in expected[:3]]
    assert len(lines) == 7


# ------------------------------------------------------------------------------------------------------------ the pipe


def test_a_line_is_answered_before_the_next_is_written(run: Path, expected: list[Translation]) -> None:
    with subprocess.Popen(
        [str(NMT), "translate", str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(text_of(LINES[:1]))
        assert process.stdout.readline() == text_of([expected[0].text])
        process.stdin.write(text_of(LINES[1:3]) + b"the tired wo")
        assert process.stdout.readline() == b"\n"
        assert process.stdout.readline() == text_of([expected[2].text])
        process.stdin.write(b"lf sees the cat .\n")
        assert process.stdout.readline() == text_of([expected[3].text])
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
        assert process.stdout.read() == b""
        assert process.stderr.read() == b"nmt: error: terminated: what was written ends with a whole line\n"


def test_what_other_verbs_need_is_not_imported(run: Path, expected: list[Translation]) -> None:
    heavy = {"rich", "sacrebleu", "datasets", "matplotlib", "tensorboard", "ctranslate2", "onnxruntime", "pyarrow"}
    ours = {
        "nmt.alignment",
        "nmt.data.words",
        "nmt.evaluation",
        "nmt.export",
        "nmt.training",
        "nmt_cli.commands.train",
    }
    program = (
        "import sys, importlib.metadata; from nmt_cli.main import main; "
        "import torch; torch_needs = set(sys.modules); code = main(); "
        f"print(sorted(({heavy | ours} - torch_needs) & set(sys.modules)), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "translate", str(run)],
        input=text_of(LINES[:1]),
        capture_output=True,
        check=True,
        env=environment(),
    )
    assert done.stdout.decode() == f"{expected[0].text}\n[] 0\n"


def test_a_closed_pipe_ends_silently(run: Path) -> None:
    done = shell(f"yes 'a dog' | head -3000 | nmt translate {run} --beam 1 | head -2; echo ${{PIPESTATUS[2]}}")
    first, second, code = done.stdout.splitlines()
    assert first == second
    assert (code, done.stderr) == ("141", "")


def test_a_full_stdout_is_an_error(run: Path) -> None:
    done = shell(f"printf 'a dog\\nbirds\\n' | nmt translate {run} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "nmt: error: standard output: No space left on device\n"


def test_a_closed_stdin_is_an_error(run: Path) -> None:
    done = shell(f"nmt translate {run} <&-")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nmt: error: standard input is closed: there is nothing to read from\n"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], Any]]:
    """Puts a pipe in the place of stdin and gives what writes into it; nothing closes it."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield lambda content: os.close(writing) if content == b"" else os.write(writing, content)


def test_windows_hold_what_has_arrived(pipe: Callable[[bytes], Any]) -> None:
    windows = input_windows(STANDARD, 3)
    pipe(b"a\nb\n")
    assert next(windows) == ["a", "b"]
    pipe(b"c\nd\ne\nf\ng")  # the last line has no end yet: it is not there
    assert next(windows) == ["c", "d", "e"]
    assert next(windows) == ["f"]
    pipe(b"\n\nh")
    assert next(windows) == ["g", ""]
    pipe(b"")
    assert list(windows) == [["h"]]


def test_windows_out_of_a_compressed_pipe(pipe: Callable[[bytes], Any]) -> None:
    pipe(gzip.compress(b"a\n\nb\n"))
    pipe(b"")
    assert [line for window in input_windows(STANDARD, 2) for line in window] == ["a", "", "b"]


def test_windows_come_before_the_fault_that_follows_them(pipe: Callable[[bytes], Any]) -> None:
    pipe(b"a\nb\n\xff\n")
    pipe(b"")
    windows = input_windows(STANDARD, 9)
    assert next(windows) == ["a", "b"]
    with pytest.raises(DataError, match="stdin:3: byte 1 is not UTF-8"):
        next(windows)


def test_windows_of_a_file_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"a\nb\nc\nd\n")
    assert list(input_windows(path, 3)) == [["a", "b", "c"], ["d"]]
    with path.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert list(input_windows(STANDARD, 3)) == [["a", "b", "c"], ["d"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_line(number: int) -> None:
    written = []
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as raised, WholeLines() as lines:
        with lines.whole():
            written.append("half")
            os.kill(os.getpid(), number)
            written.append("whole")
        written.append("never")
    assert written == ["half", "whole"]
    assert raised.value.exit_code == 128 + number
    assert signal.getsignal(number) == before


def test_a_signal_between_lines_is_obeyed_at_once() -> None:
    with pytest.raises(Interrupted, match="interrupted"), WholeLines():
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was not obeyed")


# ------------------------------------------------------------------------------------------------- what search is told


def translated(run: Path, tmp_path: Path, capfdbinary: Capture, *arguments: str, lines: list[str] = LINES) -> list[str]:
    source = write(tmp_path / "in", text_of(lines))
    assert main(["translate", str(run), "-i", source, *arguments]) == 0
    return capfdbinary.readouterr().out.decode().split("\n")[:-1]


def test_the_forms_agree_with_each_other(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    told = [*("--nbest", "2"), "--scores", "--confidence", "--align", "hard"]
    moses = [line.split(" ||| ") for line in translated(run, tmp_path, capfdbinary, *told)]
    tsv = [line.split("\t") for line in translated(run, tmp_path, capfdbinary, *told, "--format", "tsv")]
    objects = [json.dumps({"source": line, "n": n}) if line.strip() else "" for n, line in enumerate(LINES)]
    answers = translated(run, tmp_path, capfdbinary, *told, "--format", "jsonl", lines=objects)
    assert [bool(answer) for answer in answers] == [bool(line.strip()) for line in LINES]
    assert [row[0] for row in tsv] == [row[0] for row in moses]
    for by_bars, by_tabs in zip(moses, tsv, strict=True):
        number, text, links, confidence, logprob, score = by_bars
        assert by_tabs[2:] == [
            text,
            logprob.removeprefix("logprob= "),
            score,
            confidence.removeprefix("confidence=").strip(),
            links,
        ]
        if answers[int(number)]:
            answer = json.loads(answers[int(number)])
            assert answer["n"] == int(number)
            one = answer["nbest"][int(by_tabs[1]) - 1]
            assert (one["translation"], f"{one['logprob']:.4f}") == (text, by_tabs[3])
            assert " ".join(f"{source}-{target}" for source, target in one["alignment"]) == links
            assert [f"{value:.4f}" for value in one["confidence"]] == confidence.split()[1:]
            assert len(one["confidence"]) == len(text.split())


def test_confidence_is_the_probability_of_a_word(run: Path, expected: list[Translation]) -> None:
    """Of all words and EOS together it is that of the translation."""
    for one in expected:
        for hypothesis in one.hypotheses:
            assert len(hypothesis.token_log_probabilities) == len(hypothesis.tokens) + 1
            assert sum(hypothesis.token_log_probabilities) == pytest.approx(hypothesis.log_probability, abs=1e-4)


def test_constraints_are_met_or_told(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    lines = ["the black cat sleeps .\tthe wolf\tcat\tbirds", "a dog", "birds\tcat ||| dog"]
    found = translated(run, tmp_path, capfdbinary, "--constraints", "--max-extra", "9", "--beam", "8", lines=lines)
    assert found[0].startswith("birds")
    assert "the wolf" in found[0]
    assert "cat" not in found[0]
    assert found[1] == translated(run, tmp_path, capfdbinary, "--max-extra", "9", "--beam", "8", lines=["a dog"])[0]
    assert "cat" in found[2]
    assert "dog" in found[2]
    # A blank line stays blank.
    source = write(tmp_path / "in", text_of(["\ta dog ||| cat"]))
    assert main(["translate", str(run), "-i", source, "--constraints"]) == 0
    told = capfdbinary.readouterr()
    assert told.out == b"\n"
    assert b"should use and does not: 2;" in told.err
    # A sample uses a phrase by chance only.
    source = write(tmp_path / "in", text_of(['{"source": "a dog", "use": ["the tired wolf"]}']))
    command = ["translate", str(run), "-i", source, "--format", "jsonl", "--constraints", "--sampling"]
    assert main(command) == 0
    told = capfdbinary.readouterr()
    assert json.loads(told.out)["unmet"] == ["the tired wolf"]
    assert (
        told.err == b"nmt: warning: phrases that a translation should use and does not: 1; --format jsonl names them\n"
    )


def test_a_glossary_settles_how_terms_are_translated(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """As the same phrases in columns do, line by line; with columns too it has both."""
    glossary = write(tmp_path / "terms.tsv", text_of(["cat\tthe wolf", "tired dog\tbirds", "sings"]))
    lines = ["the black cat sleeps .", "a dog", "", "the tired  dog sings ."]
    columns = ["the black cat sleeps .\tthe wolf", "a dog", "", "the tired  dog sings .\tbirds ||| sings"]
    options = ("--max-extra", "9", "--beam", "8")
    found = translated(run, tmp_path, capfdbinary, "--glossary", str(glossary), *options, lines=lines)
    assert found == translated(run, tmp_path, capfdbinary, "--constraints", *options, lines=columns)
    assert "the wolf" in found[0]
    assert found != translated(run, tmp_path, capfdbinary, *options, lines=lines)
    both = ("--glossary", str(glossary), "--constraints", *options)
    assert translated(run, tmp_path, capfdbinary, *both, lines=["a cat\tbirds"]) == translated(
        run, tmp_path, capfdbinary, "--constraints", *options, lines=["a cat\tbirds ||| the wolf"]
    )


def test_what_is_to_be_kept_stands_in_the_translation(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    """As the same phrases in columns do; a glossary beside it has its terms, and none in what is kept."""
    glossary = write(tmp_path / "terms.tsv", text_of(["cat\tthe wolf"]))
    lines = ["the black cat-7 sleeps .", "a dog", "a cat"]
    columns = ["the black cat-7 sleeps .\tcat-7", "a dog", "a cat"]
    options = ("--max-extra", "9", "--beam", "8")
    kept = translated(run, tmp_path, capfdbinary, "--keep", r"\w+-\d+", *options, lines=lines)
    assert kept == translated(run, tmp_path, capfdbinary, "--constraints", *options, lines=columns)
    assert "cat-7" in kept[0]
    both = translated(
        run, tmp_path, capfdbinary, "--keep", r"\w+-\d+", "--glossary", str(glossary), *options, lines=lines
    )
    assert both[:2] == kept[:2]
    assert "the wolf" in both[2]
    source = write(tmp_path / "in", text_of(["a dog"]))
    assert main(["translate", str(run), "-i", source, "--keep", "["]) == 2
    assert b"nmt: error: keep: '[' is no regular expression: unterminated character set" in capfdbinary.readouterr().err


def test_a_term_that_is_not_used_is_told(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    glossary = write(tmp_path / "terms.tsv", text_of(["dog\tthe tired wolf"]))
    source = write(tmp_path / "in", text_of(['{"source": "a dog", "unmet": ["of another time"]}']))
    command = ["translate", str(run), "-i", source, "--format", "jsonl", "--glossary", str(glossary), "--sampling"]
    assert main(command) == 0
    told = capfdbinary.readouterr()
    assert json.loads(told.out)["unmet"] == ["the tired wolf"]
    assert b"should use and does not: 1;" in told.err


def test_a_glossary_that_is_none_ends_translation_before_anything_is_written(
    run: Path, tmp_path: Path, capfdbinary: Capture
) -> None:
    source, out = write(tmp_path / "in", text_of(["a dog"])), tmp_path / "out"
    glossary = write(tmp_path / "terms.tsv", text_of(["dog\tchien\tchiot"]))
    assert main(["translate", str(run), "-i", source, "-o", str(out), "--glossary", glossary]) == 3
    told = capfdbinary.readouterr()
    assert told.err == f"nmt: error: {glossary}:1: 3 columns: there are a term and its translation\n".encode()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
    assert main(["translate", str(run), "--glossary", "-"]) == 2
    assert b"--glossary -: name a file; standard input has the text" in capfdbinary.readouterr().err
    write(tmp_path / "terms.tsv", text_of(["dog\tchien"]))
    assert main(["translate", str(run), "-i", source, "-o", glossary, "--glossary", glossary]) == 2
    assert b"is read and written at once" in capfdbinary.readouterr().err


def test_samples_groups_and_risk_through_the_shell(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    samples = translated(run, tmp_path, capfdbinary, "--sampling", "--nbest", "4", "--seed", "3")
    assert samples == translated(run, tmp_path, capfdbinary, "--sampling", "--nbest", "4", "--seed", "3")
    assert samples != translated(run, tmp_path, capfdbinary, "--sampling", "--nbest", "4", "--seed", "4")
    sharp = translated(run, tmp_path, capfdbinary, "--sampling", "--top-k", "1")
    assert sharp == translated(run, tmp_path, capfdbinary, "--beam", "1")
    groups = translated(run, tmp_path, capfdbinary, "--beam", "4", "--groups", "4", "--nbest", "4", "--diversity", "9")
    assert len(groups) == 4 * 4 + 2
    risk = translated(run, tmp_path, capfdbinary, "--mbr", "chrf", "--mbr-samples", "5", "--scores")
    assert all(0 <= float(line.split(" ||| ")[2]) <= 100 for line in risk)


def test_an_ensemble_of_one_run_twice_is_the_run(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    alone = translated(run, tmp_path, capfdbinary)
    assert translated(run, tmp_path, capfdbinary, str(run)) == alone


def test_lines_that_are_too_long_are_cut_or_refused(
    run: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.decoding.translator.LONGEST", 30)
    source = write(tmp_path / "in", text_of(["a dog", "the cat sleeps . " * 9]))
    assert main(["translate", str(run), "-i", source, "--on-long", "cut"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out.count(b"\n") == 2
    assert b"the rest of it is not translated" in captured.err
    assert b"cut off, being too long: 1 of 2 lines" in captured.err
    assert main(["translate", str(run), "-i", source, "--on-long", "error"]) == 3
    captured = capfdbinary.readouterr()
    assert re.search(rb"line 2: \d+ pieces, more than the 29 read at once; shorten it", captured.err)
    assert captured.out.count(b"\n") == 1  # the line before it


def test_a_line_at_a_time_out_of_a_file(
    run: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is written before the next is searched for."""
    real, sizes, written = Translator.translate_window, list[int](), list[int]()
    part = tmp_path / "out.part"

    def watched(translator: Translator, requests: Any, **how: Any) -> Any:
        sizes.append(len(requests))
        written.append(part.read_bytes().count(b"\n") if part.exists() else 0)
        return real(translator, requests, **how)

    monkeypatch.setattr(Translator, "translate_window", watched)
    whole = translated(run, tmp_path, capfdbinary)
    assert sizes == [len(LINES)]
    sizes.clear()
    assert translated(run, tmp_path, capfdbinary, "--line-buffered") == whole
    assert sizes == [1] * len(LINES)
    written.clear()
    source = write(tmp_path / "in", text_of(LINES))
    assert main(["translate", str(run), "-i", source, "-o", str(tmp_path / "out"), "--line-buffered"]) == 0
    assert written == list(range(len(LINES)))
    assert (tmp_path / "out").read_text(encoding="utf-8").split("\n")[:-1] == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "text", "--nbest", "2"], "--format text has one translation a line: write --nbest as moses"),
        (["--align", "often"], "--align often: say hard, soft, or the least attention of a link, such as 0.3"),
        (["--align-units", "pieces"], "--align-units says what --align links: give that too, such as --align hard"),
        (["--align", "nan"], "--align nan: say hard, soft"),
        (["--top-p", "0.5"], "decoding.top_p has no say without sampling or mbr"),
        (["--sampling", "--beam", "2"], "decoding.beam has no say with sampling or mbr"),
        (["--mbr-samples", "9"], "decoding.mbr_samples has no say without mbr"),
        (["--diversity", "1"], "decoding.diversity has no say in a beam of one group"),
        (["--groups", "2"], "decoding: groups 2 must divide the beam of 3"),
        (["--sampling", "--nbest", "1000000000000"], "nbest 1000000000000: no more than 10000 hypotheses a line"),
        (["--mbr", "chrf", "--nbest", "99"], "nbest 99 of 32 samples: set --mbr-samples 99 or more"),
    ],
)
def test_what_search_cannot_be_told(
    run: Path, tmp_path: Path, capfdbinary: Capture, arguments: list[str], words: str
) -> None:
    source = write(tmp_path / "in", text_of(LINES))
    assert main(["translate", str(run), "-i", source, *arguments]) == 2
    captured = capfdbinary.readouterr()
    assert words in captured.err.decode()
    assert (captured.out, captured.err.count(b"\n")) == (b"", 1)


def test_a_line_that_is_no_json_ends_behind_the_lines_before_it(
    run: Path, tmp_path: Path, capfdbinary: Capture
) -> None:
    source = write(tmp_path / "in", b'{"source": "a dog"}\n\n{"source": 1}\n{"source": "birds"}\n')
    assert main(["translate", str(run), "-i", source, "--format", "jsonl"]) == 3
    captured = capfdbinary.readouterr()
    assert captured.out.count(b"\n") == 2
    assert f'{source}:3: not a JSON object with the text to translate as "source"'.encode() in captured.err


def test_runs_with_other_tokenizers_are_no_ensemble(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    recipe = Recipe.model_validate({"tokenizer": {"vocabulary": 290}})
    changed = train_tokenizer(LINES * 3, recipe.tokenizer, seed=1)
    Run(Path(other), Run.open(Path(other)).recipe, Tokenizers(changed, changed)).write()
    assert main(["translate", str(run), str(other), "-i", os.devnull]) == 2
    assert f"{other}: its source tokenizer" in capfdbinary.readouterr().err.decode()
