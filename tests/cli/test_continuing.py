"""Output that has its name when it is whole, and interrupted output that ends with the bytes of one that was not."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nmt.data.text import LineWriter, read_lines
from nmt.errors import ConfigError, DataError, Interrupted, NmtError
from nmt.formats import Style
from nmt_cli.continuing import PROBES, Begun, look_back, whole_output
from nmt_cli.main import main
from nmt_cli.streams import STANDARD, check_input
from tests.cli.random_run import random_run

NMT = Path(sys.executable).with_name("nmt")
WORDS = ["the", "black", "cat", "sleeps", "", "a dog", "birds see", "wolf"]
LINES = [" ".join(WORDS[(7 * row + place) % len(WORDS)] for place in range(row % 4)) for row in range(40)]

Capture = pytest.CaptureFixture[bytes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a small random model and windows of 16 lines."""
    return random_run(tmp_path_factory.mktemp("continue") / "run", WORDS * 9, 290, beam=2, max_extra=3, batch_size=1)


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "in"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return str(path)


# --------------------------------------------------------------------------------------------------------- whole output


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("older\n")
    with whole_output(path) as writer:
        writer.write("new")
        writer.flush()
        assert path.read_text() == "older\n"
        assert (tmp_path / "out.part").read_text() == "new\n"
    assert path.read_text() == "new\n"
    assert os.listdir(tmp_path) == ["out"]


def test_what_was_written_before_an_error_is_kept_and_told(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(NmtError) as told, whole_output(path) as writer:
        writer.write("one")
        raise NmtError("broken")
    assert str(told.value) == f"broken; what was written before is in {path}.part, go on with --continue-from {path}"
    assert not path.exists()
    assert (tmp_path / "out.part").read_text() == "one\n"
    with pytest.raises(DataError, match=r"^nothing yet$"), whole_output(tmp_path / "empty"):
        raise DataError("nothing yet")
    assert os.listdir(tmp_path) == ["out.part"]


@pytest.mark.parametrize("lines", [10, 20_000])  # the disk is found full at the end, or on the way
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_full_disk_says_how_to_go_on(tmp_path: Path, lines: int, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 if lines == 10 else 30_000, hard))
    try:
        with pytest.raises(NmtError) as told, whole_output(path) as writer:
            for number in range(lines):
                writer.write(f"{number * number * 7919:x}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    where = f"what was written before is in {path}.part, go on with --continue-from {path}"
    assert str(told.value) == f"{path}: cannot be written: File too large; {where}"
    assert not path.exists()


def test_what_is_no_file_is_written_as_it_is(tmp_path: Path, capfdbinary: Capture) -> None:
    with whole_output(Path("/dev/null")) as writer:
        writer.write("one")
    with whole_output(STANDARD) as writer:
        writer.write("two")
    assert capfdbinary.readouterr().out == b"two\n"
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        with whole_output(tmp_path / "pipe") as writer:
            writer.write("three")
        assert reader.stdout is not None
        assert reader.stdout.read() == b"three\n"


def test_a_reader_that_leaves_a_named_pipe_is_no_fault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        subprocess.Popen(["head", "-c", "1", tmp_path / "pipe"], stdout=subprocess.DEVNULL),
        pytest.raises(BrokenPipeError),
        whole_output(tmp_path / "pipe") as writer,
    ):
        for _ in range(1000):  # more than a pipe holds
            writer.write("x" * 100_000)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("older\n")
    (tmp_path / "out").symlink_to("there/file")
    with whole_output(tmp_path / "out") as writer:
        writer.write("new")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new\n"
    assert os.listdir(tmp_path / "there") == ["file"]


def test_a_link_to_itself_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    with (
        pytest.raises(NmtError, match=r"out: cannot be written: the link leads to itself$"),
        whole_output(tmp_path / "out"),
    ):
        raise AssertionError("was opened")
    assert os.listdir(tmp_path) == ["out"]


def test_an_input_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x\n")
    (tmp_path / "out").symlink_to("in")
    with (
        pytest.raises(ConfigError, match="is read and written at once"),
        whole_output(tmp_path / "out", inputs=[tmp_path / "in"]),
    ):
        raise AssertionError("was opened")


def test_an_input_that_is_not_there_costs_nothing_that_is(tmp_path: Path) -> None:
    (tmp_path / "out.part").write_text("hours of work\n")
    with (
        pytest.raises(DataError, match="typo: cannot be read"),
        whole_output(tmp_path / "out", inputs=[tmp_path / "typo"]),
    ):
        raise AssertionError("was opened")
    assert (tmp_path / "out.part").read_text() == "hours of work\n"


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("interrupted", signal.SIGINT)])
def test_what_was_interrupted_is_kept_where_it_can_be_gone_on_with(
    tmp_path: Path, resumable: bool, error: BaseException
) -> None:
    for lines, left in ((0, []), (1, ["out.part"] if resumable else [])):
        with pytest.raises(type(error)), whole_output(tmp_path / "out", resumable=resumable) as writer:
            for _ in range(lines):
                writer.write("x")
            raise error
        assert os.listdir(tmp_path) == left


def test_a_name_that_cannot_be_looked_at_is_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        check_input(tmp_path / ("x" * 300))


def test_nor_is_one_that_is_called_what_the_output_is_called_until_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "out.part").write_text("x\n")
    with (
        pytest.raises(ConfigError, match=r"out\.part: is read and written at once"),
        whole_output(tmp_path / "out", inputs=[tmp_path / "out.part"]),
    ):
        raise AssertionError("was opened")
    assert (tmp_path / "out.part").read_text() == "x\n"


@pytest.mark.parametrize("name", ["out", "out.part", "out.gz", "out.gz.part"])
@pytest.mark.parametrize("error", [DataError("broken"), KeyboardInterrupt()])
def test_what_is_gone_on_with_stays_as_it_is_until_there_is_more(
    tmp_path: Path, name: str, error: BaseException
) -> None:
    path, whole = tmp_path / name, tmp_path / name.removesuffix(".part")
    path.write_bytes(gzip.compress(b"one\ntwo\n") if "gz" in name else b"one\ntwo\n")
    content = path.read_bytes()
    with pytest.raises(type(error)), whole_output(whole, kept=0):
        raise error
    assert (os.listdir(tmp_path), path.read_bytes()) == ([name], content)
    with pytest.raises(type(error)), whole_output(whole, kept=1) as writer:
        writer.write("three")
        raise error
    assert os.listdir(tmp_path) == [f"{whole.name}.part"]
    with whole_output(whole, kept=1):
        pass  # there was nothing more to come
    content = whole.read_bytes()
    assert (gzip.decompress(content) if "gz" in name else content) == b"one\n"
    assert os.listdir(tmp_path) == [whole.name]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no /dev/shm")
def test_a_file_in_memory_is_a_file() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "out"
        with whole_output(path) as writer:
            writer.write("one")
            writer.flush()
            assert os.listdir(folder) == ["out.part"]
        assert path.read_text() == "one\n"


# ------------------------------------------------------------------------------------------------------------ look back


TEXT, MOSES, LISTS = Style(), Style("moses", nbest=2), Style("tsv", nbest=2)


@pytest.mark.parametrize(
    ("content", "style", "expected"),
    [
        ("", TEXT, Begun()),
        ("a\nb\nc\n", TEXT, Begun()),
        ("a\nb\nc\nd\n", TEXT, Begun(4, 4)),
        ("a\nb\nc\nd\nhalf", TEXT, Begun(4, 4)),
        ("a\nb\nc\nhalf", TEXT, Begun()),
        ("a\n" * 9, TEXT, Begun(8, 8)),
        ("".join(f"{n} ||| a ||| x ||| y\n{n} ||| b ||| x ||| y\n" for n in range(5)), MOSES, Begun(4, 8)),
        ("".join(f"{n}\t1\ta\n{n}\t2\tb\n" for n in range(4)), LISTS, Begun()),  # the last list may lack some
        ("".join(f"{n}\t1\ta ||| b\n" for n in range(5)), LISTS, Begun(4, 4)),
        ("".join(f"{n} ||| a ||| x ||| y\n" for n in range(9)) + "9 |||", MOSES, Begun(8, 8)),
        ("".join(f"{n} |||  ||| x ||| y\n" for n in range(5)), MOSES, Begun(4, 4)),
        ("a ||| b\t\n" * 4, TEXT, Begun(4, 4)),
        ('{"source": "a"}\n\n' * 2, Style("jsonl"), Begun(4, 4)),
    ],
)
def test_only_whole_windows_count(tmp_path: Path, content: str, style: Style, expected: Begun) -> None:
    (tmp_path / "out").write_text(content)
    found = look_back(tmp_path / "out", 4, style)
    assert (found.lines, found.kept) == (expected.lines, expected.kept)
    lines = content.split("\n")[: found.kept]
    if style.is_list:  # the best of each
        lines = [next(each) for _, each in itertools.groupby(lines, lambda line: line.split()[0])]
    assert found.last == tuple(lines[-PROBES:])


def test_the_unfinished_file_goes_before_the_name(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a\n" * 8)
    (tmp_path / "out.part").write_text("a\n" * 4)
    found = look_back(tmp_path / "out", 4, TEXT)
    assert (found.lines, found.kept) == (4, 4)


@pytest.mark.parametrize(
    ("content", "style"),
    [
        ("a\nb\n", MOSES),
        ("a\nb\n", LISTS),
        ("0\t1\ta\n", MOSES),
        ("0 ||| a ||| x ||| y\n", LISTS),
        ("0 ||| a ||| x ||| y\n", Style("moses", align="hard")),
        ("a\nb\n", Style("jsonl")),
        ("0 ||| a ||| x ||| y\n", Style("jsonl")),
        ("a\nb\n", Style("tsv", scores=True)),
        ("0\t1\ta\n", Style("tsv")),
        ("a\n", Style(confidence=True)),
    ],
)
def test_another_format_is_refused(tmp_path: Path, content: str, style: Style) -> None:
    (tmp_path / "out").write_text(content)
    with pytest.raises(DataError, match=r"out:1: was written in another format, or with other options"):
        look_back(tmp_path / "out", 4, style)


@pytest.mark.parametrize("numbers", [(1, 2), (0, 1, 0), (0, 2)])
def test_a_list_that_is_not_of_one_output_is_refused(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    (tmp_path / "out").write_text("".join(f"{number} ||| a ||| x ||| y\n" for number in numbers))
    with pytest.raises(DataError, match=r"has the number \d, where \d comes next: is it one output"):
        look_back(tmp_path / "out", 4, MOSES)


# ------------------------------------------------------------------------------------------------------------- commands

FORMS = {
    "text": ["--align", "hard", "--scores"],
    "moses": ["--nbest", "2"],
    "rounded": ["--scores", "--precision", "float16"],
    "tsv": ["--format", "tsv", "--nbest", "2", "--confidence"],
    "one": ["--format", "tsv", "--scores"],
}


@pytest.mark.parametrize(
    ("form", "ending"), [("text", ""), ("rounded", ""), ("moses", ""), ("tsv", ""), ("one", ""), ("moses", ".gz")]
)
def test_wherever_it_stops_it_ends_with_the_same_bytes(
    warm_python: str, run: Path, source: str, tmp_path: Path, form: str, ending: str
) -> None:
    whole, out = tmp_path / f"whole{ending}", tmp_path / f"out{ending}"
    command = ["translate", str(run), "-i", source, *FORMS[form]]
    assert main([*command, "-o", str(whole)]) == 0
    expected = whole.read_bytes()
    for share in (0.0, 0.47, 0.999):
        out.unlink(missing_ok=True)
        (tmp_path / f"out{ending}.part").write_bytes(expected[: int(share * len(expected))])
        subprocess.run([warm_python, "-m", "nmt", *command, "--continue-from", out], check=True)
        assert sorted(os.listdir(tmp_path)) == sorted(["in", whole.name, out.name])
        assert list(read_lines(out)) == list(read_lines(whole))
        assert ending or out.read_bytes() == expected


def test_a_redirection_that_was_killed_is_gone_on_with(run: Path, source: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    with (
        out.open("wb") as stream,
        subprocess.Popen(
            [NMT, "translate", run, "-i", source, "--beam", "2", "--quiet"], stdout=stream, env=environment
        ) as process,
    ):
        while out.stat().st_size < 20 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert main(["translate", str(run), "-i", source, "--continue-from", str(out)]) == 0
    assert main(["translate", str(run), "-i", source, "-o", str(tmp_path / "whole")]) == 0
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_json_lines_go_on_too(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text("".join(f'{{"id": {row}, "source": "{line}"}}\n' for row, line in enumerate(LINES)))
    command = ["translate", str(run), "-i", str(source), "--format", "jsonl", "--scores", "--batch-size", "2"]
    assert main([*command, "-o", str(tmp_path / "whole")]) == 0
    expected = (tmp_path / "whole").read_bytes()
    (tmp_path / "out").write_bytes(expected[: len(expected) // 2])
    assert main([*command, "--continue-from", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == expected


def test_samples_are_known_again_by_the_best_of_them(run: Path, source: str, tmp_path: Path) -> None:
    lines = [json.dumps({"source": line}) for line in Path(source).read_text().splitlines()]
    (tmp_path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))
    sampling = ["--sampling", "--nbest", "8", "--temperature", "3", "--batch-size", "1"]
    command = ["translate", str(run), "-i", str(tmp_path / "in.jsonl"), "--format", "jsonl", *sampling]
    assert main([*command, "-o", str(tmp_path / "whole")]) == 0
    expected = (tmp_path / "whole").read_bytes()
    (tmp_path / "out").write_bytes(b"".join(expected.splitlines(keepends=True)[:35]))
    assert main([*command, "--continue-from", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == expected


def test_a_fault_in_the_input_leaves_what_is_done(run: Path, tmp_path: Path, capfdbinary: Capture) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"".join(line.encode() + b"\n" for line in LINES[:25]) + b"\xff\nthe cat\n")
    assert main(["translate", str(run), "-i", str(source), "-o", str(out)]) == 3
    told = capfdbinary.readouterr().err.decode()
    assert told == (
        f"nmt: error: {source}:26: byte 1 is not UTF-8: 0xff (invalid start byte); convert the text to UTF-8; what was "
        f"written before is in {out}.part, go on with --continue-from {out}\n"
    )
    assert (tmp_path / "out.part").read_bytes().count(b"\n") == 25
    source.write_bytes(b"".join(line.encode() + b"\n" for line in LINES))
    assert main(["translate", str(run), "-i", str(source), "--continue-from", str(out)]) == 0
    assert main(["translate", str(run), "-i", str(source), "-o", str(tmp_path / "whole")]) == 0
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_whole_lines_and_says_how_to_go_on(
    warm_python: str, run: Path, source: str, tmp_path: Path, number: int
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out, part = tmp_path / "out", tmp_path / "out.part"
    with subprocess.Popen(
        [warm_python, "-m", "nmt", "translate", run, "-o", out, "--line-buffered"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(b"the cat\na dog\n")
        process.stdin.flush()
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        told = process.stderr.read().decode()
        assert process.wait(timeout=30) == 128 + number
    assert not out.exists()
    assert part.read_bytes().endswith(b"\n")
    assert f"go on with --continue-from {out}" in told


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--continue-from", "nowhere"], 3, "nowhere: cannot be read: No such file or directory"),
        (["--continue-from", "-"], 2, "--continue-from -: name the file that was being written"),
        (["--continue-from", "."], 2, "--continue-from .: name the file that was being written"),
        (["--continue-from", "begun.part"], 2, "begun.part: name it as it will be called when it is whole: begun"),
        (["--continue-from", "out", "-o", "other"], 2, "--output other is not what --continue-from out goes on with"),
        (["--continue-from", "long"], 3, "in: ends after 40 lines, but 192 are said to be done: is it another text?"),
        (
            ["--continue-from", "long", "--nbest", "2"],
            3,
            "long:1: was written in another format, or with other options",
        ),
    ],
)
def test_mistakes_are_one_line(
    run: Path,
    source: str,
    tmp_path: Path,
    capfdbinary: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long").write_text("x\n" * 200)
    (tmp_path / "begun.part").touch()
    assert main(["translate", str(run), "-i", "in", *arguments]) == code
    told = capfdbinary.readouterr()
    assert words in told.err.decode()
    assert (told.out, told.err.count(b"\n")) == (b"", 1)
    assert (tmp_path / "long").read_text() == "x\n" * 200
    assert not (tmp_path / "long.part").exists()


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--scores"],
        ["--format", "tsv", "--scores"],
        ["--format", "jsonl"],
        ["--nbest", "2"],
        ["--nbest", "2", "--format", "tsv"],
        ["--nbest", "2", "--format", "jsonl"],
    ],
)
def test_what_is_of_another_text_is_not_gone_on_with(
    run: Path, source: str, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    is_json = "jsonl" in flags
    texts = Path(source).read_text().splitlines(), [f"{' '.join(reversed(WORDS))} {row} birds" for row in range(40)]
    for name, lines in zip(("own", "other"), texts, strict=True):
        wrapped = [json.dumps({"source": line}) if is_json else line for line in lines]
        Path(name).write_text("".join(f"{line}\n" for line in wrapped))
    command = ["translate", str(run), *flags]
    assert main([*command, "-i", "own", "-o", "out"]) == 0
    whole = Path("out").read_bytes()
    Path("out").write_bytes(b"".join(whole.splitlines(keepends=True)[:35]))
    begun = Path("out").read_bytes()
    assert main([*command, "-i", "other", "--continue-from", "out"]) == 3
    told = capfdbinary.readouterr().err.decode()
    assert "out: its last lines are no translations of what stands there in other: is it of another text" in told
    assert (sorted(os.listdir()), Path("out").read_bytes()) == (["in", "other", "out", "own"], begun)
    assert main([*command, "-i", "own", "--continue-from", "out"]) == 0
    assert Path("out").read_bytes() == whole


def test_a_cut_archive_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.gz"
    with whole_output(path) as writer:
        for number in range(5000):
            writer.write(f"{number * number}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    begun = look_back(path, 100, TEXT)
    assert 1000 < begun.lines < 5000
    with whole_output(path, kept=begun.kept) as writer:
        writer.write("new")
    assert gzip.decompress(path.read_bytes()).decode().split("\n")[:-1] == [
        *(f"{number * number}" for number in range(begun.lines)),
        "new",
    ]


def test_a_writer_may_be_called_otherwise(tmp_path: Path) -> None:
    writer = LineWriter.open(tmp_path / "part", name=tmp_path / "out.gz")
    writer.write("x")
    writer.close()
    assert gzip.decompress((tmp_path / "part").read_bytes()) == b"x\n"
