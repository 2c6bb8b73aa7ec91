"""``nmt score`` as a shell meets it: parity, streams, forms, n-best lists of others, and every way a pipe can end."""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.checkpoint import Run
from nmt.decoding.scorer import PairScore, Scorer
from nmt_cli.main import main

STORED = Path(__file__).parent.parent / "runs"
SOURCE = ["the black cat sleeps .", "", "the lion runs .", "the wolf", "", "a\u2028b\x85 \x0c😀"]
TARGET = ["le chat noir dort .", "", "le lion court .", " ", "le loup", "e\u0301 \x1c ||| =x"]

Capture = pytest.CaptureFixture[bytes]
Stdin = Callable[[bytes], None]


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def text_of(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """The options that name both sides."""
    source, target = write(tmp_path / "a.en", text_of(SOURCE)), write(tmp_path / "a.fr", text_of(TARGET))
    return ["--source", source, "--target", target]


@pytest.fixture(scope="module")
def expected(untrained_run: Path) -> list[PairScore]:
    return list(Scorer.load(untrained_run, device="cpu").score(zip(SOURCE, TARGET, strict=True)))


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Puts bytes where stdin is."""
    with ExitStack() as files:

        def put(content: bytes) -> None:
            stream = files.enter_context(Path(write(tmp_path / "stdin", content)).open())
            monkeypatch.setattr(sys, "stdin", stream)

        yield put


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, "OMP_NUM_THREADS": "1"}


def shell(python: str, command: str) -> subprocess.CompletedProcess[str]:
    """A bash line in which ``nmt`` is ours."""
    return subprocess.run(
        ["bash", "-c", f'nmt() {{ {python} -m nmt "$@"; }}; {command}'],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )


def numbers(out: bytes) -> list[float]:
    return [float(line) for line in out.decode().split("\n")[:-1]]


# ------------------------------------------------------------------------------------------------------ lines and forms


def test_a_score_for_a_line(
    untrained_run: Path, texts: list[str], expected: list[PairScore], capfdbinary: Capture
) -> None:
    assert main(["score", str(untrained_run), *texts]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out == text_of([f"{one.log_probability:.4f}" for one in expected])
    assert captured.err == b""
    assert numbers(captured.out)[1] == 0.0
    assert main(["score", str(untrained_run), *texts, "--normalize", "--alpha", "0.5", "--batch-size", "1"]) == 0
    normal = [one.log_probability / max(1, len(one.pieces)) ** 0.5 for one in expected]
    assert numbers(capfdbinary.readouterr().out) == pytest.approx(normal, abs=1e-4)


def test_variables_that_have_no_say_are_passed_over(
    untrained_run: Path, texts: list[str], tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of other verbs, such as translate's --nbest, those of other forms, and what two files have no need of."""
    assert main(["score", str(untrained_run), *texts]) == 0
    plain = capfdbinary.readouterr().out
    for name, value in {"ON_LONG": "split", "NBEST": "3", "FEATURE": "x=", "INPUT": str(tmp_path / "pairs")}.items():
        monkeypatch.setenv(f"NMT_{name}", value)
    assert main(["score", str(untrained_run), *texts]) == 0
    captured = capfdbinary.readouterr()
    assert (captured.out, captured.err) == (plain, b"")
    for name in ("JSON", "NORMALIZE", "TOKENS"):
        monkeypatch.setenv(f"NMT_{name}", "1")
    monkeypatch.delenv("NMT_FEATURE")
    lists = Path(tmp_path / "lists")
    lists.write_text(f"0 ||| {TARGET[0]} ||| a= 1 ||| 0.5\n")
    assert main(["score", str(untrained_run), *texts[:2], "--nbest", str(lists)]) == 0
    assert b"||| a= 1 logprob= " in capfdbinary.readouterr().out


def test_pairs_out_of_one_file(
    untrained_run: Path, tmp_path: Path, texts: list[str], capfdbinary: Capture, stdin: Stdin
) -> None:
    assert main(["score", str(untrained_run), *texts]) == 0
    plain = capfdbinary.readouterr().out
    pairs = text_of([f"{source}\t{target}" for source, target in zip(SOURCE, TARGET, strict=True)])
    stdin(pairs)
    assert main(["score", str(untrained_run)]) == 0
    assert capfdbinary.readouterr().out == plain
    packed, out = write(tmp_path / "pairs", gzip.compress(pairs)), tmp_path / "out.gz"
    assert main(["score", str(untrained_run), "-i", packed, "-o", str(out)]) == 0
    assert capfdbinary.readouterr().out == b""
    assert gzip.decompress(out.read_bytes()) == plain


LINE = st.text(st.characters(exclude_characters="\t\n", exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(LINE | st.just("\x00\r"), LINE | st.sampled_from(["", "\x85", "le\r"])), max_size=4))
def test_any_text_keeps_the_count(
    untrained_run: Path, tmp_path: Path, capfdbinary: Capture, pairs: list[tuple[str, str]]
) -> None:
    joined = write(tmp_path / "pairs", text_of(["\t".join(pair) for pair in pairs]))
    assert main(["score", str(untrained_run), "-i", joined]) == 0
    together = numbers(capfdbinary.readouterr().out)
    assert len(together) == len(pairs)
    source = write(tmp_path / "a", text_of([source for source, _ in pairs]))
    target = write(tmp_path / "b", text_of([target for _, target in pairs]))
    assert main(["score", str(untrained_run), "--source", source, "--target", target]) == 0
    assert len(numbers(capfdbinary.readouterr().out)) == len(pairs)


def test_tokens_stand_in_columns(
    untrained_run: Path, texts: list[str], expected: list[PairScore], capfdbinary: Capture
) -> None:
    assert main(["score", str(untrained_run), *texts, "--tokens"]) == 0
    lines = capfdbinary.readouterr().out.decode().split("\n")[:-1]
    assert lines[1] == "0.0000"
    for line, one in zip(lines, expected, strict=True):
        total, *columns = line.split("\t")
        assert float(total) == pytest.approx(one.log_probability, abs=1e-4)
        logs, pieces = [column.split(" ", 1)[0] for column in columns], [column.split(" ", 1)[1] for column in columns]
        assert tuple(pieces) == one.pieces
        assert [float(log) for log in logs] == pytest.approx(list(one.token_log_probabilities), abs=1e-4)
    assert lines[3].endswith(" </s>")
    assert len(lines[3].split("\t")) == 2


def test_a_piece_ends_no_column() -> None:
    from nmt_cli.commands.score import _render

    one = PairScore(-2.5, -1.25, ("a \tb=", "\n|||\r"), (-2.0, -0.5))
    assert _render(one, False, True) == "-2.5000\t-2.0000 a <0x09>b=\t-0.5000 <0x0A>|||<0x0D>"
    assert _render(PairScore(-1e-9, 0.0, (), ()), False, True) == "0.0000"


def test_json(untrained_run: Path, texts: list[str], expected: list[PairScore], capfdbinary: Capture) -> None:
    assert main(["score", str(untrained_run), *texts, "--json", "--tokens"]) == 0
    for line, one in zip(capfdbinary.readouterr().out.decode().split("\n"), expected, strict=False):
        found = json.loads(line)
        assert found.pop("pieces") == list(one.pieces)
        assert found.pop("piece_logprobs") == pytest.approx(list(one.token_log_probabilities), abs=1e-5)
        assert found == pytest.approx({"logprob": one.log_probability, "score": one.score, "tokens": len(one.pieces)})
    assert main(["score", str(untrained_run), *texts, "--json"]) == 0
    assert set(json.loads(capfdbinary.readouterr().out.split(b"\n")[0])) == {"logprob", "score", "tokens"}


def test_summary(untrained_run: Path, texts: list[str], expected: list[PairScore], capfdbinary: Capture) -> None:
    total, tokens = sum(one.log_probability for one in expected), sum(len(one.pieces) for one in expected)
    assert main(["score", str(untrained_run), *texts, "--summary", "--json"]) == 0
    found = json.loads(capfdbinary.readouterr().out)
    assert found.pop("perplexity") == pytest.approx(math.exp(-total / tokens))
    assert found.pop("logprob") == pytest.approx(total / 6)
    assert (found["lines"], found["tokens"], found["model"]["run"]) == (6, tokens, "tiny")
    assert main(["score", str(untrained_run), *texts, "--summary", "--checkpoint", "step-20"]) == 0
    (line,) = capfdbinary.readouterr().out.decode().splitlines()
    weights = found["model"]["weights"]
    assert line.startswith(
        f"perplexity|lines:6|tokens:{tokens}|eos:counted|run:tiny|checkpoint:step-20|weights:{weights}|nmt:"
    )
    assert line.endswith(f" = {math.exp(-total / tokens):.4f} logprob {total / 6:.4f} a line")


def test_a_long_pair_is_an_error_or_cut(
    untrained_run: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.decoding.scorer.LONGEST", 12)
    pairs = write(tmp_path / "pairs", text_of(["cat\tchat", f"a\t{'b ' * 20}", "a\tb", f"{'a ' * 20}\tb"]))
    assert main(["score", str(untrained_run), "-i", pairs]) == 3
    captured = capfdbinary.readouterr()
    assert len(numbers(captured.out)) == 1  # what comes before it is scored
    assert captured.err.startswith(b"nmt: error: line 2: ")
    assert b"more than the 11 and 11 read at once; shorten it, or have it cut by --on-long cut" in captured.err
    assert main(["score", str(untrained_run), "-i", pairs, "--on-long", "cut"]) == 0
    captured = capfdbinary.readouterr()
    assert len(numbers(captured.out)) == 4
    warning, note = captured.err.decode().splitlines()
    assert warning.startswith("nmt: warning: line 2: ")
    assert note == "cut off, being too long: 2 of 4 pairs"


# --------------------------------------------------------------------------------------------------------------- faults


def test_unequal_files_are_told_before_anything_is_scored(
    untrained_run: Path, texts: list[str], tmp_path: Path, capfdbinary: Capture, stdin: Stdin
) -> None:
    short = write(tmp_path / "short", text_of(TARGET[:3]))
    for arguments, name in (([*texts[:3], short], short), ([*texts[:3], "-"], "stdin")):
        stdin(text_of(TARGET[:3]))
        assert main(["score", str(untrained_run / "no-such-run"), *arguments]) == 3
        captured = capfdbinary.readouterr()
        assert captured.out == b""
        assert captured.err.decode() == (
            f"nmt: error: {texts[1]} has 6 lines, {name} has 3: they must pair up line by line\n"
        )


def test_files_that_are_read_once_only(untrained_run: Path, texts: list[str], capfdbinary: Capture) -> None:
    assert main(["score", str(untrained_run), *texts]) == 0
    plain = capfdbinary.readouterr().out.decode()
    done = shell(sys.executable, f"nmt score {untrained_run} --source <(cat {texts[1]}) --target - < {texts[3]}")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", plain)


@pytest.mark.parametrize(("line", "tabs"), [("one side", 0), ("", 0), ("a\tb\tc", 2)])
def test_a_line_is_source_tab_target(
    untrained_run: Path, tmp_path: Path, capfdbinary: Capture, line: str, tabs: int
) -> None:
    pairs = write(tmp_path / "pairs", text_of(["a\tb", "\t", line, "c\td"]))
    assert main(["score", str(untrained_run), "-i", pairs]) == 3
    captured = capfdbinary.readouterr()
    assert len(numbers(captured.out)) == 2
    assert captured.err.decode() == f"nmt: error: {pairs}:3: {tabs} tabs: a line is source, one tab, target\n"


@pytest.mark.parametrize("side", [0, 1])
def test_bytes_that_are_not_utf8(untrained_run: Path, tmp_path: Path, capfdbinary: Capture, side: int) -> None:
    good, bad = text_of(["a", "b", "c", "d"]), b"a\nb\ncaf\xe9\nd\n"
    files = [write(tmp_path / "a", bad if side == 0 else good), write(tmp_path / "b", bad if side == 1 else good)]
    command = ["score", str(untrained_run), "--source", files[0], "--target", files[1]]
    assert main(command) == 3
    captured = capfdbinary.readouterr()
    assert len(numbers(captured.out)) == 2
    assert f"{files[side]}:3: byte 4 is not UTF-8".encode() in captured.err
    assert main([*command, "--on-bad-bytes", "replace"]) == 0
    assert len(numbers(capfdbinary.readouterr().out)) == 4
    pairs = write(tmp_path / "pairs", b"a\tb\n\xff\tc\n")
    assert main(["score", str(untrained_run), "-i", pairs]) == 3
    captured = capfdbinary.readouterr()
    assert len(numbers(captured.out)) == 1
    assert f"{pairs}:2: byte 1 is not UTF-8".encode() in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--source", "a"], 2, "--source goes with --target or --nbest"),
        (["--target", "a"], 2, "--source goes with --target or --nbest"),
        (["--nbest", "a"], 2, "--source goes with --target or --nbest"),
        (["--source", "a", "--target", "b", "--nbest", "c"], 2, "--target and --nbest both have the translations"),
        (["--source", "a", "--target", "b", "-i", "c"], 2, "leave out --source, or --input"),
        (["--source", "-", "--target", "-"], 2, "only one file can be standard input"),
        (["--source", "-", "--nbest", "-"], 2, "only one file can be standard input"),
        (["--source", "a", "--nbest", "b", "--tokens", "--json"], 2, "leave out --tokens and --json"),
        (["--rerank"], 2, "--feature and --rerank go with --nbest"),
        (["--feature", "x"], 2, "--feature and --rerank go with --nbest"),
        (["--source", "a", "--nbest", "b", "--feature", "a b"], 2, "a name without spaces"),
        (["--source", "a", "--nbest", "b", "--feature", "x="], 2, "a name without spaces"),
        (["--json", "--normalize"], 2, "--json has both scores"),
        (["--summary", "--tokens"], 2, "--tokens and --summary are two answers"),
        (["--source", "missing", "--target", "a.en"], 3, "missing: cannot be read: No such file or directory"),
        (["--source", ".", "--target", "a.en"], 3, ".: is a folder, not a file"),
        (["-i", "a.en", "-o", "a.en"], 2, "a.en: is read and written at once"),
        (["-i", "empty", "--summary"], 3, "there is no perplexity of no tokens"),
        (["-i", "empty", "--checkpoint", "step-7"], 1, "no checkpoint 'step-7'; there are: step-10, step-20"),
        (["-i", "empty", "-o", "missing/out"], 1, "missing/out: cannot be written: No such file or directory"),
        (["-i", "empty", "--alpha", "0.6"], 2, "--length-penalty and --alpha are about normalised scores"),
        (["-i", "empty", "--json", "--alpha", "99"], 2, "decoding.alpha: Input should be less than or equal to 10"),
        (["--on-long", "split"], 2, "'split' is not one of 'error', 'cut'"),
    ],
)
def test_mistakes_are_one_line(
    untrained_run: Path,
    tmp_path: Path,
    capfdbinary: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.en", text_of(SOURCE))
    write(tmp_path / "empty", b"")
    assert main(["score", str(untrained_run), *arguments]) == code
    captured = capfdbinary.readouterr()
    assert captured.out == b""
    assert captured.err.decode().startswith("nmt: error: ")
    assert words in captured.err.decode()
    assert captured.err.count(b"\n") == 1
    assert (tmp_path / "a.en").read_bytes() == text_of(SOURCE)


def test_a_run_that_is_not_there(tmp_path: Path, texts: list[str], capfdbinary: Capture) -> None:
    assert main(["score", str(tmp_path / "nowhere"), *texts]) == 1
    assert capfdbinary.readouterr().err.decode() == f"nmt: error: {tmp_path / 'nowhere'}: no such run folder\n"


# --------------------------------------------------------------------------------------------------------- n-best lists


@pytest.mark.parametrize("family", ["bahdanau", "luong", "transformer"])
def test_our_own_lists_get_their_own_scores(family: str, tmp_path: Path, capfdbinary: Capture) -> None:
    """But for hypotheses that search wrote in other pieces than their text is cut into: they are less likely so."""
    run, source = str(STORED / "0.1.0" / family), str(STORED / "corpus" / "train.en")
    assert main(["translate", run, "-i", source, "--nbest", "4"]) == 0
    own = capfdbinary.readouterr().out
    listed = write(tmp_path / "list", own)
    assert main(["score", run, "--source", source, "--nbest", listed, "--feature", "again"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.err == b""
    same = 0
    for before, after in zip(own.decode().split("\n")[:-1], captured.out.decode().split("\n")[:-1], strict=True):
        fields = after.split(" ||| ")
        features = dict(zip(fields[2].split()[::2], map(float, fields[2].split()[1::2]), strict=True))
        assert " ||| ".join([*fields[:2], f"logprob= {features['logprob=']:.4f}", fields[3]]) == before
        same += features["again="] == pytest.approx(features["logprob="], abs=1.01e-4)
    assert same >= 0.8 * own.count(b"\n")
    best = [line for line in captured.out.decode().split("\n") if line and is_first(line, own.decode())]
    assert len(best) == 16


def is_first(line: str, own: str) -> bool:
    """Whether a rescored line is the first of its list and has the score it had."""
    number, text, features, _ = line.split(" ||| ")
    first = next(one for one in own.split("\n") if one.startswith(f"{number} ||| "))
    values = features.split()
    return first.split(" ||| ")[1] == text and float(values[1]) == pytest.approx(float(values[3]), abs=1.01e-4)


def test_reranking(tmp_path: Path, capfdbinary: Capture) -> None:
    run = str(STORED / "0.1.0" / "transformer")
    source = write(tmp_path / "a.en", text_of(["the cat sleeps", "the dog eats", "the cat eats"]))
    lines = [
        "0 ||| le chien mange ||| LM0= -1 ||| -1.5 ||| 0-0",
        "0 ||| le chat dort ||| LM0= -2 ||| -2.5 ||| 0-0 1-1",
        "2 ||| le chat mange ||| LM0= -3 ||| -3.5 |||",
    ]
    listed = write(tmp_path / "list", text_of(lines))
    assert main(["score", run, "--source", source, "--nbest", listed, "--rerank"]) == 0
    captured = capfdbinary.readouterr()
    rows = [line.split(" ||| ") for line in captured.out.decode().split("\n")[:-1]]
    assert [(row[0], row[1]) for row in rows] == [
        ("0", "le chat dort"),
        ("0", "le chien mange"),
        ("2", "le chat mange"),
    ]
    scorer = Scorer.load(run, device="cpu")
    for row, source_line in zip(rows, ("the cat sleeps", "the cat sleeps", "the cat eats"), strict=True):
        (score,) = scorer.score_window([(source_line, row[1])])
        name, value = row[2].split()[2:]
        assert name == "logprob="
        assert float(value) == pytest.approx(score.log_probability, abs=1e-4)
        assert float(row[3].removesuffix(" |||")) == pytest.approx(score.score, abs=1e-4)
    assert rows[0][4] == "0-0 1-1"
    assert rows[2][3].endswith(" |||")


def test_a_feature_that_is_there_already_is_told_once(
    untrained_run: Path, tmp_path: Path, capfdbinary: Capture, stdin: Stdin
) -> None:
    source = write(tmp_path / "a.en", text_of(SOURCE))
    stdin(text_of(["0 ||| le chat ||| logprob= -1 ||| -1", "0 ||| le ||| logprob= -1 ||| -1"]))
    assert main(["score", str(untrained_run), "--source", source, "--nbest", "-"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out.count(b"logprob= ") == 4
    assert captured.err.decode() == (
        "nmt: warning: stdin:1: has a feature logprob= already: ours stands last; --feature gives it another name "
        "(said once)\n"
    )


def test_a_line_that_is_none_of_a_list(untrained_run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    source = write(tmp_path / "a.en", text_of(SOURCE))
    listed = write(tmp_path / "list", text_of(["5 ||| le chat ||| F= -1 ||| -1", "6 ||| le chat ||| F= -1 ||| -1"]))
    command = ["score", str(untrained_run), "--source", source, "--nbest", listed]
    assert main(command) == 3
    captured = capfdbinary.readouterr()
    assert captured.out.startswith(b"5 ||| le chat ||| F= -1 logprob= -")
    assert captured.err.decode() == (
        f"nmt: error: {listed}:2: id 6, but the source has 6 lines, which are counted from 0\n"
    )
    assert main([*command, "--rerank"]) == 3
    assert capfdbinary.readouterr().out == b""
    # A file gets its name when it is whole.
    out = tmp_path / "out"
    assert main([*command, "-o", str(out)]) == 3
    said = capfdbinary.readouterr().err.decode()
    assert said.endswith(f"counted from 0; what was written before is in {out}.part\n")
    assert not out.exists()


# ------------------------------------------------------------------------------------------------------------- the pipe


def test_a_line_is_answered_before_the_next_is_written(
    warm_python: str, untrained_run: Path, expected: list[PairScore]
) -> None:
    with subprocess.Popen(
        [warm_python, "-m", "nmt", "score", str(untrained_run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{SOURCE[0]}\t{TARGET[0]}\n".encode())
        assert float(process.stdout.readline()) == pytest.approx(expected[0].log_probability, abs=1e-4)
        process.stdin.write(f"\t\n{SOURCE[2]}\t".encode())
        assert process.stdout.readline() == b"0.0000\n"
        process.stdin.write(f"{TARGET[2]}\n".encode())
        assert float(process.stdout.readline()) == pytest.approx(expected[2].log_probability, abs=1e-4)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
        assert process.stdout.read() == b""
        assert process.stderr.read() == b"nmt: error: terminated: what was written ends with a whole line\n"


def test_a_closed_pipe_ends_silently(warm_python: str, untrained_run: Path) -> None:
    done = shell(
        warm_python,
        f"yes $'a dog\\tun chien' | head -3000 | nmt score {untrained_run} | head -2; echo ${{PIPESTATUS[2]}}",
    )
    first, second, code = done.stdout.splitlines()
    assert first == second
    assert (code, done.stderr) == ("141", "")


def test_a_full_stdout_is_an_error(warm_python: str, untrained_run: Path) -> None:
    done = shell(warm_python, f"printf 'a dog\\tun chien\\n' | nmt score {untrained_run} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "nmt: error: standard output: No space left on device\n"


def test_the_precision_of_search_is_not_asked_for(
    untrained_run: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced translations are in single precision, also where the processor has not what the recipe searches in."""
    monkeypatch.setattr("nmt.layers.packing.has_fbgemm", lambda device: False)
    monkeypatch.delenv("NMT_PRECISION", raising=False)
    own = Run.open(Path(shutil.copytree(untrained_run, tmp_path / "run")))
    decoding = own.recipe.decoding.model_copy(update={"precision": "int8"})
    Run(own.folder, own.recipe.model_copy(update={"decoding": decoding}), own.tokenizers).write()
    assert main(["translate", str(own.folder), "-i", texts[1]]) == 2
    assert main(["score", str(own.folder), *texts]) == 0
    assert main(["align", str(own.folder), *texts, "--batch-size", "1"]) == 0
