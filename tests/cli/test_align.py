"""``nmt align`` as a user meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nmt_cli.main import main

SOURCE = ["the black cat sleeps .", "", "the lion runs .", "the wolf"]
TARGET = ["le chat noir dort .", "", "le lion court .", ""]

Nmt = Callable[..., tuple[int, str, str]]


@pytest.fixture
def nmt(capfd: pytest.CaptureFixture[str]) -> Nmt:
    """Run a command: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return run


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a.en", SOURCE), write(tmp_path / "a.fr", TARGET)


@pytest.fixture
def align(untrained_run: Path, texts: tuple[Path, Path], nmt: Nmt) -> Nmt:
    """``nmt align RUN --source a.en --target a.fr`` and more."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return nmt("align", untrained_run, "--source", texts[0], "--target", texts[1], *arguments)

    return run


def test_a_line_in_a_line_out(align: Nmt) -> None:
    code, out, err = align("--method", "argmax")
    assert (code, err) == (0, "")
    lines = out.split("\n")
    assert len(lines) == 5
    assert lines[4] == ""
    assert lines[1] == lines[3] == "", "a blank side has no links"
    for line, source, target in zip(lines, SOURCE, TARGET, strict=False):
        links = [tuple(map(int, link.split("-"))) for link in line.split()]
        assert all(s < len(source.split()) for s, _ in links)
        assert [t for _, t in sorted(links, key=lambda link: link[1])] == list(range(len(target.split())))


def test_every_head_of_a_line(
    align: Nmt, untrained_run: Path, texts: tuple[Path, Path], tmp_path: Path, nmt: Nmt
) -> None:
    """Of given translations and of the model's own, as a picture and as numbers, beside the links."""
    code, out, err = align("--line", 1, "--heads", tmp_path / "heads.svg")
    assert code == 0 and out.count("\n") == 1
    assert err.startswith(f"{tmp_path / 'heads.svg'}: ") and (tmp_path / "heads.svg").read_bytes().startswith(b"<?xml")
    code, _, err = nmt("align", untrained_run, "--source", texts[0], "--line", 1, "--heads", tmp_path / "heads.json")
    assert code == 0, err
    kinds = json.loads((tmp_path / "heads.json").read_text(encoding="utf-8"))
    assert kinds[-1]["kind"] == "cross" and kinds[-1]["queries"][-1] == "</s>"
    for arguments, words in (
        (["--heads", "x.png"], "--heads x.png is of one line: name it with --line"),
        (["--line", 1, "--heads", "x.txt"], ".png, .svg, .pdf are drawn, and .json has the numbers, but not '.txt'"),
        (["--line", 1, "--heads", "x.svg", "--plot", "./x.svg"], "--heads x.svg is written for something else too"),
        (["--line", 2, "--heads", "x.png"], "a pair with a blank side has no attention: choose another line"),
    ):
        code, _, err = align(*arguments)
        assert code == 2 and words in err
    read = shutil.copy(texts[0], tmp_path / "text.json")
    code, _, err = nmt("align", untrained_run, "--source", read, "--line", 1, "--heads", read)
    assert code == 2 and "is read and written at once" in err


def test_links_from_a_threshold_on(align: Nmt) -> None:
    """The lower it is, the more of them; what nothing is below is all that there are."""

    def links(threshold: str) -> set[tuple[int, str]]:
        code, out, err = align("--method", "threshold", "--threshold", threshold)
        assert (code, err) == (0, "")
        return {(number, link) for number, line in enumerate(out.split("\n")) for link in line.split()}

    every, some, none = links("0"), links("0.3"), links("1")
    assert len(every) == sum(len(s.split()) * len(t.split()) for s, t in zip(SOURCE, TARGET, strict=False))
    assert none <= some < every


def test_the_models_own_translations_from_a_pipe(warm_python: str, untrained_run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.fr"
    command = [
        warm_python,
        "-m",
        "nmt",
        "align",
        str(untrained_run),
        "--format",
        "json",
        "--translations",
        str(own),
        "--beam",
        "1",
    ]
    text = "".join(f"{line}\n" for line in SOURCE)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    translations = own.read_text().split("\n")[:-1]
    assert [" ".join(one["source"]) for one in found] == SOURCE
    assert [one["target"] for one in found] == [line.split() for line in translations]
    assert translations[1] == ""
    assert done.stderr == ""


def test_a_line_is_answered_before_the_next_is_written(warm_python: str, untrained_run: Path) -> None:
    command = [warm_python, "-m", "nmt", "align", str(untrained_run), "--format", "json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for line in (b"the black cat sleeps .\n", b"the lion runs .\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["source"] == line.decode().split()
        process.stdin.write(b"the wolf\n\xff\n")  # what comes before a fault is answered
        process.stdin.close()
        assert json.loads(process.stdout.readline())["source"] == ["the", "wolf"]
        assert process.wait(timeout=30) == 3
        assert process.stderr.read().startswith(b"nmt: error: stdin:4: byte 1 is not UTF-8")


def test_soft(align: Nmt) -> None:
    code, out, _ = align("--format", "soft")
    assert code == 0
    groups = out.split("\n")[0].split(" ")
    assert [len(group.split(",")) for group in groups] == [5, 5, 5, 5, 5]
    assert out.split("\n")[1] == ""


def test_pieces(align: Nmt) -> None:
    code, out, _ = align("--units", "pieces", "--format", "json", "--line", 3)
    assert code == 0
    assert "".join(json.loads(out)["target"]).replace("▁", " ").strip() == "le lion court ."


def test_chosen_lines_in_their_order(align: Nmt) -> None:
    whole = align()[1].split("\n")
    assert align("--line", 3, "--line", 1)[1].split("\n") == [whole[2], whole[0], ""]


def test_a_chosen_line_has_its_own_number_in_what_is_said(untrained_run: Path, tmp_path: Path, nmt: Nmt) -> None:
    source = write(tmp_path / "long.en", [*SOURCE, "the cat " * 600])
    target = write(tmp_path / "long.fr", [*TARGET, "le chat"])
    code, out, err = nmt("align", untrained_run, "--source", source, "--target", target, "--line", 5, "--line", 1)
    assert (code, out.count("\n")) == (0, 2)
    assert "line 5" in err


def test_gold_prints_the_error_rate_instead(align: Nmt, tmp_path: Path) -> None:
    links = align("--method", "argmax")[1]
    gold = write(tmp_path / "gold", links.split("\n")[:4])
    code, out, err = align("--gold", gold, "--method", "argmax")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "AER|sentences:4|links:argmax|sure:9|found:9 = 0.0000 precision 1.0000 recall 1.0000"
    assert lines[1].startswith("model|run:tiny|checkpoint:step-20|weights:")
    assert len(lines) == 2


def test_gold_as_json_and_links_in_a_file(align: Nmt, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold", ["0-0 1?1", "", "3-3", ""])
    output = tmp_path / "links"
    plain = align()[1]
    code, out, _ = align("--gold", gold, "--json", "-o", output)
    found = json.loads(out)
    assert code == 0
    assert output.read_text() == plain
    assert 0 <= found["aer"] <= 1
    assert (found["sentences"], found["sure"], found["found"]) == (4, 2, len(plain.split()))
    assert found["model"]["run"] == "tiny"


def test_json_without_gold_is_one_object(align: Nmt) -> None:
    code, out, _ = align("--json")
    found = json.loads(out)
    assert code == 0
    assert [one["target"] for one in found["alignments"]] == [line.split() for line in TARGET]


def test_pictures(align: Nmt, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold", ["0-0 1?1", "", "3-3", ""])
    one, folder = tmp_path / "one.png", tmp_path / "several"
    code, out, err = align("--plot", one, "--line", 3, "--gold", gold)
    assert (code, err) == (0, f"pictures: {one}\n")
    assert out.startswith("AER|sentences:1|")
    assert one.read_bytes().startswith(b"\x89PNG")
    code, out, err = align("--plot", folder, "--plot-format", "svg", "--line", 1, "--line", 3)
    assert (code, err) == (0, f"pictures: 2 in {folder}\n")
    assert sorted(path.name for path in folder.iterdir()) == ["line-1.svg", "line-3.svg"]
    assert len(out.splitlines()) == 2, "the links as without a picture"
    assert "tiny, step-20, line 3" in (folder / "line-3.svg").read_text()


def test_a_picture_without_a_font_is_warned_of(untrained_run: Path, tmp_path: Path, nmt: Nmt) -> None:
    """Phoenician has no glyphs in the fonts that come with matplotlib, nor in most others."""
    from nmt.alignment.fonts import choose_fonts

    if not choose_fonts("𐤀𐤁")[1]:
        pytest.skip("a font for Phoenician is installed")
    source, target = write(tmp_path / "a.phn", ["𐤀𐤁 cat"]), write(tmp_path / "a.en", ["the cat"])
    code, _, err = nmt("align", untrained_run, "--source", source, "--target", target, "--plot", tmp_path / "a.png")
    assert code == 0
    assert "nmt: warning: no installed font has 𐤀𐤁 (PHOENICIAN): they are boxes; install a font that has them" in err


def test_both_directions(align: Nmt, untrained_run: Path) -> None:
    forward = [set(line.split()) for line in align()[1].split("\n")]
    code, out, _ = align("--reverse", untrained_run, "--symmetrize", "union")
    assert code == 0
    union = [set(line.split()) for line in out.split("\n")]
    assert all(one <= both for one, both in zip(forward, union, strict=True))
    assert forward != union


# --------------------------------------------------------------------------------------------------------------- faults


def test_unequal_files(align: Nmt, untrained_run: Path, texts: tuple[Path, Path], tmp_path: Path, nmt: Nmt) -> None:
    short = write(tmp_path / "short", TARGET[:3])
    code, out, err = nmt("align", untrained_run, "--source", texts[0], "--target", short)
    assert (code, out) == (3, "")
    assert err == f"nmt: error: {texts[0]} has 4 lines, {short} has 3: they must pair up line by line\n"
    code, _, err = align("--gold", short)
    assert code == 3
    assert f"{texts[0]} has 4 lines, {short} has 3" in err


def test_bad_gold(align: Nmt, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold", ["0-0", "", "0-0 1:1", ""])
    code, out, err = align("--gold", gold)
    assert (code, out) == (3, "")
    assert f"{gold}:3: '1:1' is not a link: write source-target, counted from 0" in err
    write(gold, ["0-0", "", "0-4", ""])
    code, _, err = align("--gold", gold)
    assert code == 3
    assert f"{gold}:3: the link 0-4 names target word 4, but the target has 4 words, counted from 0" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "-"], "only one file can be standard input"),
        (["--source", "a", "--gold", "b"], "--gold needs the --target"),
        (["--source", "a", "--target", "b", "--translations", "c"], "--translations are the model's own"),
        (["--source", "a", "--target", "b", "--units", "pieces", "--gold", "c"], "--units pieces has no gold links"),
        (["--source", "a", "--units", "pieces", "--reverse", "c"], "--units pieces has no gold links"),
        (["--source", "a", "--translations", "c", "-o", "c"], "--translations and --output are both c"),
        (["--source", "a", "--translations", "./x/../c", "-o", "c"], "--translations and --output are both c"),
        (["--source", "a", "--translations", "-"], "--translations - is standard output, where something else is"),
        (["--source", "a", "--translations", "-", "-o", "c", "--json"], "--translations - is standard output"),
        (["--source", "a", "--json", "--format", "soft"], "--format goes with links that are written"),
        (["--threshold", "0.5"], "--threshold goes with --method threshold"),
        (["--symmetrize", "union"], "--symmetrize goes with --reverse"),
        (["--plot-format", "svg"], "--plot-format goes with --plot"),
        (["--font", "x.ttf"], "--font goes with --plot"),
        (
            ["--target", "b", "--gold", "c", "--format", "soft"],
            "--format goes with links that are written: with --gold",
        ),
        (["--target", "b", "--beam", "3", "--alpha", "1"], "--beam goes with the model's own translations"),
        (["--method", "softmax"], "'softmax' is not one of 'grow-diag', 'argmax', 'mutual', 'threshold'"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], words: str, nmt: Nmt) -> None:
    code, out, err = nmt("align", "RUN", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_picture_is_of_one_line(align: Nmt, tmp_path: Path) -> None:
    code, _, err = align("--plot", tmp_path / "a.png")
    assert code == 2
    assert "is a picture of one line: name it with --line, or give a folder for several" in err
    code, _, err = align("--plot", tmp_path / "a.png", "--line", 1, "--plot-format", "svg")
    assert code == 2
    assert "a.png is, its ending says" in err
    code, _, err = align("--plot", tmp_path / "a.gif", "--line", 1)
    assert code == 2
    assert "a folder, or a file ending in .png, .svg, .pdf, not in '.gif'" in err


def test_a_line_that_is_not_there(align: Nmt, texts: tuple[Path, Path]) -> None:
    code, _, err = align("--line", 9)
    assert (code, err) == (2, f"nmt: error: --line 9: {texts[0]} has 4 lines\n")


def test_a_run_that_is_not_there(tmp_path: Path, texts: tuple[Path, Path], nmt: Nmt) -> None:
    code, _, err = nmt("align", tmp_path / "nowhere", "--source", texts[0])
    assert (code, err) == (1, f"nmt: error: {tmp_path / 'nowhere'}: no such run folder\n")


def test_a_font_that_is_not_there(align: Nmt, tmp_path: Path) -> None:
    code, _, err = align("--plot", tmp_path / "drawn", "--font", "Nonesuch", "-o", tmp_path / "links")
    assert code == 2
    assert "font 'Nonesuch': neither an installed font family nor a font file" in err
    assert not list(tmp_path.glob("links*")), "told before the work"


def test_no_lines_have_no_error_rate(untrained_run: Path, tmp_path: Path, nmt: Nmt) -> None:
    empty = write(tmp_path / "empty", [])
    for json_ in ([], ["--json"]):
        code, out, err = nmt("align", untrained_run, "--source", empty, "--target", empty, "--gold", empty, *json_)
        assert (code, out, err) == (3, "", f"nmt: error: {empty}: there are no lines to score\n")


def test_the_other_direction_is_a_run_too(align: Nmt, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text("{}")
    code, out, err = align("--reverse", tmp_path)
    words = "an export, which nmt translate alone takes: name the run that it is of"
    assert (code, out, err) == (1, "", f"nmt: error: {tmp_path}: {words}\n")


def test_a_copied_run_aligns_the_same(
    warm_python: str, align: Nmt, untrained_run: Path, texts: tuple[Path, Path], tmp_path: Path
) -> None:
    moved = shutil.copytree(untrained_run, tmp_path / "moved")
    command = [warm_python, "-m", "nmt", "align", str(moved), "--source", str(texts[0]), "--target", str(texts[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == align()[1]
