"""``nmt evaluate`` as a user meets it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmt.checkpoint import Run
from nmt_cli.main import main

NMT = Path(sys.executable).with_name("nmt")
HYPOTHESES = ["The cat sat on the mat .", "", "Ein Mädchen \u2028 liest (ein Buch)!", "zwei"]
REFERENCES = ["The cat sits on the mat.", "Nothing", "Das Mädchen liest ein Buch.", "Zwei"]

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
def hypotheses(tmp_path: Path) -> Path:
    return write(tmp_path / "hypotheses", HYPOTHESES)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write(tmp_path / "reference", REFERENCES)


@pytest.fixture
def run(untrained_run: Path, tmp_path: Path) -> Path:
    """A run folder of the test's own."""
    return Path(shutil.copytree(untrained_run, tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------------- files alone


def test_variables_for_a_run_are_passed_over(
    hypotheses: Path, reference: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nmt("evaluate", "--hypotheses", hypotheses, "--reference", reference)
    for name, value in {"DATA": "nowhere", "OUTPUT": "out", "SEED": "7", "SPLIT": "valid"}.items():
        monkeypatch.setenv(f"NMT_{name}", value)
    assert nmt("evaluate", "--hypotheses", hypotheses, "--reference", reference) == plain
    assert plain[0] == 0


@pytest.mark.parametrize("flags", [[], ["--lowercase"], ["--tokenize", "none"], ["--tokenize", "char"]])
def test_prints_what_sacrebleu_prints(flags: list[str], hypotheses: Path, reference: Path, nmt: Nmt) -> None:
    files = [str(reference), "-i", str(hypotheses)]
    command = [sys.executable, "-m", "sacrebleu", *files, "--format", "text", "-w", "7", *flags]
    printed = subprocess.run([*command, "-m", "bleu", "chrf", "ter"], check=True, capture_output=True, text=True).stdout
    theirs = [line.strip() for line in printed.splitlines()]
    code, out, err = nmt("evaluate", "--hypotheses", hypotheses, "--reference", reference, "--width", 7, *flags)
    ours = out.splitlines()
    assert (code, err) == (0, "")
    assert [ours[0], ours[1], ours[3]] == theirs
    assert ours[2].startswith("chrF2++|")
    assert len(ours) == 4


def test_against_other_translations(hypotheses: Path, reference: Path, tmp_path: Path, nmt: Nmt) -> None:
    """A line more a metric; what is no better than itself differs by nothing."""
    worse = write(tmp_path / "worse", [line[: len(line) // 2] for line in HYPOTHESES])
    command = ["evaluate", "--hypotheses", hypotheses, "--reference", reference, "-m", "bleu", "-m", "chrf"]
    code, out, err = nmt(*command, "--against", worse)
    assert (code, err) == (0, "")
    first, second, *others = out.splitlines()
    assert first.startswith("BLEU|nrefs:1|case:mixed") and second.startswith("chrF2|") and len(others) == 2
    assert re.search(r"^BLEU\|.*\|bs:1000\|seed:12345.* = [\d.]+ against [\d.]+: \+[\d.]+, p = 0\.\d{4}, ", others[0])
    code, out, _ = nmt(*command, "--against", hypotheses, "--json")
    told = json.loads(out)
    assert told["against"] == str(hypotheses)
    assert [(one["name"], one["difference"]) for one in told["comparisons"]] == [("BLEU", 0.0), ("chrF2", 0.0)]
    assert [one["p_value"] for one in told["comparisons"]] == [1.0, 1.0]
    short = write(tmp_path / "short", HYPOTHESES[:-1])
    code, _, err = nmt(*command, "--against", short)
    assert code == 3 and f"{short} has {len(HYPOTHESES) - 1} lines, and {len(HYPOTHESES)} are to be compared" in err
    code, _, err = nmt(*command, "--against", tmp_path)
    assert code == 2 and "a run translates, and there is nothing to translate: give a RUN too" in err


def test_against_another_run(run: Path, untrained_run: Path, tmp_path: Path, nmt: Nmt) -> None:
    other = Path(shutil.copytree(untrained_run, tmp_path / "other"))
    model = Run.open(other).load_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-1)
    Run.open(other).save_model(model, 21, {"bleu": 99.0})
    files = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    code, out, err = nmt("evaluate", run, "--against", other, "-m", "chrf", "--beam", "1", "--json")
    assert code == 0, err
    told = json.loads(out)
    (one,) = told["comparisons"]
    assert one["value"] == pytest.approx(told["scores"][0]["score"])
    code, out, err = nmt("evaluate", other, "-m", "chrf", "--beam", "1", "--json")
    assert one["baseline"] == pytest.approx(json.loads(out)["scores"][0]["score"])
    assert one["difference"] == pytest.approx(one["value"] - one["baseline"]) and one["difference"] != 0
    shutil.rmtree(other / "evaluations")
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == files
    code, out, err = nmt("evaluate", run, "--against", tmp_path, "-m", "chrf")
    assert (code, out) == (1, "") and "not a run folder" in err


def test_no_model_no_torch(hypotheses: Path, reference: Path) -> None:
    """A file is scored without the libraries that only a model needs."""
    program = (
        "import sys; from nmt_cli.main import main; code = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'datasets', 'matplotlib'} & sys.modules.keys())); sys.exit(code)"
    )
    arguments = ["evaluate", "--hypotheses", str(hypotheses), "--reference", str(reference), "-m", "bleu"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_json(hypotheses: Path, reference: Path, nmt: Nmt) -> None:
    code, out, _ = nmt("evaluate", "--hypotheses", hypotheses, "-r", reference, "--json", "-m", "chrf", "-m", "bleu")
    found = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert [score["name"] for score in found["scores"]] == ["BLEU", "chrF2"]
    assert found["lines"] == 4
    assert found["scores"][0]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")


def test_several_references_from_compressed_files_and_a_pipe(tmp_path: Path, reference: Path) -> None:
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(reference.read_bytes()))
    command = [str(NMT), "evaluate", "--hypotheses", "-", "-r", str(reference), "-r", str(packed), "--metric", "BLEU"]
    text = "".join(f"{line}\n" for line in HYPOTHESES)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("BLEU|nrefs:2|")


def test_unequal_files_end_with_3_and_both_numbers(hypotheses: Path, tmp_path: Path, nmt: Nmt) -> None:
    short = write(tmp_path / "short", REFERENCES[:3])
    code, out, err = nmt("evaluate", "--hypotheses", hypotheses, "--reference", short)
    assert (code, out) == (3, "")
    assert err == f"nmt: error: {hypotheses} has 4 lines, {short} has 3: they must pair up line by line\n"


def test_bad_bytes(tmp_path: Path, reference: Path, nmt: Nmt) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"a\nb\n\xff\nd\n")
    code, out, err = nmt("evaluate", "--hypotheses", bad, "--reference", reference)
    assert (code, out) == (3, "")
    assert f"{bad}:3: byte 1 is not UTF-8" in err
    assert nmt("evaluate", "--hypotheses", bad, "--reference", reference, "--on-bad-bytes", "replace")[0] == 0


def test_empty_and_missing_files(tmp_path: Path, reference: Path, nmt: Nmt) -> None:
    empty = write(tmp_path / "empty", [])
    code, _, err = nmt("evaluate", "--hypotheses", empty, "--reference", empty)
    assert (code, err) == (3, f"nmt: error: {empty}: there are no lines to score\n")
    code, _, err = nmt("evaluate", "--hypotheses", tmp_path / "nowhere", "--reference", reference)
    assert code == 3
    assert "nowhere: cannot be read: No such file" in err


def test_tokenised_text_is_noticed(tmp_path: Path, nmt: Nmt) -> None:
    text = write(tmp_path / "text", ["A dog ."] * 100)
    code, _, err = nmt("evaluate", "--hypotheses", text, "--reference", text, "-m", "bleu")
    assert code == 0
    assert err.startswith("nmt: warning: many lines end in ' .'")
    assert nmt("evaluate", "--hypotheses", text, "--reference", text, "-m", "bleu", "--tokenize", "none")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a RUN to translate with, or --hypotheses to score"),
        (["RUN", "--hypotheses", "a", "--reference", "b"], "give a RUN to translate with, or --hypotheses to score"),
        (["--hypotheses", "a"], "--hypotheses needs a --reference"),
        (["--hypotheses", "a", "--reference", "b", "--source", "c"], "--source, --data and --output go with a RUN"),
        (["--hypotheses", "-", "--reference", "-"], "only one file can be standard input"),
        (["--hypotheses", "a", "--reference", "b", "-m", "meteor"], "the metrics are bleu, chrf, chrf++, ter"),
        (["--hypotheses", "a", "--reference", "b", "--tokenize", "14a"], "'14a' is not one of 'none', 'zh', '13a'"),
        (["RUN", "--source", "a"], "--source and --reference go together"),
        (["RUN", "--reference", "a"], "--source and --reference go together"),
        (["RUN", "--source", "a", "--reference", "b", "--data", "c"], "--source and --data both name"),
        (["RUN", "-o", "scores.json"], "name the file of the translations"),
        (["RUN", "-o", "-"], "standard output is for the scores"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], words: str, nmt: Nmt) -> None:
    code, out, err = nmt("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------- a run


def test_the_recipes_test_set(run: Path, corpus: Path, nmt: Nmt) -> None:
    code, out, err = nmt("evaluate", run)
    lines = out.splitlines()
    assert code == 0
    assert [line.partition("|")[0] for line in lines] == ["BLEU", "chrF2", "chrF2++", "TER", "model", "search"]
    assert lines[4].startswith("model|run:run|checkpoint:step-20|weights:")
    assert lines[5] == "search|beam:2|length_penalty:average|alpha:1.0|max_ratio:2.0|max_extra:5|precision:float32"
    kept = run / "evaluations" / "test.step-20.beam2.hyp"
    assert err == f"translations: {kept}\n"
    assert kept.read_bytes().count(b"\n") == 15
    assert sorted(path.name for path in kept.parent.iterdir()) == ["test.step-20.beam2.hyp", "test.step-20.beam2.json"]

    again = nmt("evaluate", "--hypotheses", kept, "--reference", corpus / "test.fr")[1].splitlines()
    assert again == lines[:4], "what was kept is what was scored"


def test_weights_sign_themselves(run: Path, nmt: Nmt) -> None:
    import hashlib

    digest = hashlib.sha256((run / "models" / "step-10" / "weights.safetensors").read_bytes()).hexdigest()
    out = nmt("evaluate", run, "--checkpoint", "step-10", "-m", "bleu")[1]
    assert f"|checkpoint:step-10|weights:{digest[:12]}|" in out
    nmt("evaluate", run, "-m", "bleu")
    kept = {path.name: path.read_text() for path in (run / "evaluations").glob("*.hyp")}
    assert kept["test.step-10.beam2.hyp"] != kept["test.step-20.beam2.hyp"]


def test_json_of_a_run_is_what_is_kept(run: Path, nmt: Nmt) -> None:
    code, out, _ = nmt("evaluate", run, "--json", "--beam", 1, "--split", "valid", "--alpha", 0.5)
    found = json.loads(out)
    assert code == 0
    assert found["set"] == "valid"
    assert found["search"]["beam"] == "1"
    assert found["search"]["alpha"] == "0.5"
    assert found == json.loads((run / "evaluations" / "valid.step-20.beam1.alpha=0.5.json").read_text())


def test_a_folder_of_ones_own(run: Path, corpus: Path, tmp_path: Path, nmt: Nmt) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for language in ("en", "fr"):
        write(own / f"test.{language}", (corpus / f"valid.{language}").read_text().splitlines()[:3])
        write(own / f"train.{language}", ["a"])
    code, out, _ = nmt("evaluate", run, "--data", own, "--json", "-m", "bleu")
    assert code == 0
    found = json.loads(out)
    assert (found["set"], found["lines"]) == ("test-own", 3)  # `nmt runs` shows none for that of the run itself


def test_another_search_is_kept_beside_the_first(run: Path, nmt: Nmt) -> None:
    for flags in ([], ["--alpha", "0.5"], ["--alpha", "0.5", "--coverage-penalty", "0.2", "--batch-size", "3"]):
        assert nmt("evaluate", run, "--beam", 2, "-m", "bleu", *flags)[0] == 0
    kept = {path.name.removesuffix(".json") for path in (run / "evaluations").glob("*.json")}
    first = "test.step-20.beam2"
    assert kept == {first, f"{first}.alpha=0.5", f"{first}.alpha=0.5.coverage_penalty=0.2"}


def test_sets_of_one_name_are_kept_apart(run: Path, tmp_path: Path, nmt: Nmt) -> None:
    """The file of a user's that is called ``test`` is not the recipe's test set, nor is it that of another folder."""
    bleu = nmt("evaluate", run, "--json", "-m", "bleu")[1]
    kept = {path: path.read_bytes() for path in (run / "evaluations").iterdir()}
    for number, line in enumerate(("the cat sleeps .", "the lion runs .")):
        folder = tmp_path / str(number)
        folder.mkdir()
        source, reference = write(folder / "test", [line]), write(folder / "test.fr", ["le chat dort ."])
        assert nmt("evaluate", run, "--source", source, "--reference", reference, "-m", "bleu")[0] == 0
    assert len(list((run / "evaluations").glob("test*.json"))) == 3
    assert {path: path.read_bytes() for path in kept} == kept
    assert f"{json.loads(bleu)['scores'][0]['score']:.2f}" == nmt("runs", run)[1].split()[-1]


def test_precisions_are_kept_apart(run: Path, nmt: Nmt) -> None:
    for precision in ("float32", "float16"):
        assert nmt("evaluate", run, "-m", "bleu", "--precision", precision)[0] == 0
    names = {path.name for path in (run / "evaluations").glob("*.json")}
    assert names == {"test.step-20.beam2.json", "test.step-20.beam2.precision=float16.json"}  # float32 is the recipe's


def test_other_scores_of_the_same_translations_stay(run: Path, nmt: Nmt) -> None:
    before = json.loads(nmt("evaluate", run, "-m", "bleu", "--json")[1])["scores"]
    printed = json.loads(nmt("evaluate", run, "-m", "ter", "--json")[1])["scores"]
    lower = json.loads(nmt("evaluate", run, "-m", "bleu", "--lowercase", "--tokenize", "char", "--json")[1])["scores"]
    assert [score["name"] for score in printed] == ["TER"]
    (kept,) = (run / "evaluations").glob("*.json")
    assert json.loads(kept.read_text())["scores"] == [*lower, *printed, *before]
    assert nmt("runs", run)[1].split()[-1] == f"{before[0]['score']:.2f}", "words cut as in validation, and cased"
    kept.with_suffix(".hyp").write_text("another\n")  # scores of other translations do not
    nmt("evaluate", run, "-m", "ter")
    assert json.loads(kept.read_text())["scores"] == printed


def test_a_tokenisation_that_is_not_there_is_told_before_anything_is_translated(
    run: Path, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    monkeypatch.setattr("nmt.decoding.translator.Translator.translate", None)
    code, _, err = nmt("evaluate", run, "--tokenize", "ja-mecab")
    assert code == 2 and "'ja-mecab' is not installed" in err
    assert not (run / "evaluations").exists()


def test_a_signal_leaves_nothing_half_written(run: Path, corpus: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "long.en", (corpus / "train.en").read_text().splitlines() * 50)
    command = [NMT, "evaluate", run, "--source", source, "--reference", source, "--beam", "20", "-m", "bleu"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        while not list(run.glob("evaluations/.*.part")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert (process.returncode, err) == (143, "nmt: error: terminated: there are no scores\n")
    assert not list((run / "evaluations").iterdir())


def test_files_of_ones_own(run: Path, corpus: Path, tmp_path: Path, nmt: Nmt) -> None:
    source = write(tmp_path / "news.en", ["the cat sleeps .", "", "the lion runs ."])
    reference = write(tmp_path / "news.fr", ["le chat dort .", "", "le lion court ."])
    output = tmp_path / "kept.txt"
    code, out, err = nmt("evaluate", run, "--source", source, "--reference", reference, "-o", output, "--json")
    assert (code, err) == (0, f"translations: {output}\n")
    assert output.read_text().split("\n")[1] == "", "a blank line stays blank"
    found = json.loads(out)
    assert (found["set"], found["lines"], found["translations"]) == ("news.en", 3, str(output))
    assert json.loads((tmp_path / "kept.txt.json").read_text()) == found
    assert not (run / "evaluations").exists()


def test_what_is_read_is_not_written_and_a_folder_is_no_file(run: Path, tmp_path: Path, nmt: Nmt) -> None:
    source, reference = write(tmp_path / "a", ["the cat"]), write(tmp_path / "b.json", ["le chat"])
    files = ("--source", source, "--reference", reference)
    for output, place in ((source, source), (tmp_path / "b", reference)):
        code, _, err = nmt("evaluate", run, *files, "-o", output)
        assert (code, err) == (
            2,
            f"nmt: error: {place}: is read and written at once: name another file for the output\n",
        )
    code, _, err = nmt("evaluate", run, *files, "-o", tmp_path)
    assert (code, err) == (1, f"nmt: error: {tmp_path}: cannot be written: Is a directory\n")
    code, out, _ = nmt("evaluate", run, *files, "-o", "/dev/null", "-m", "bleu")
    assert (code, "BLEU" in out) == (0, True)
    assert not Path("/dev/null").is_file() and not Path("/dev/null.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.json", "run"]


def test_the_recipes_own_sets_are_not_written_over(run: Path, corpus: Path, tmp_path: Path, nmt: Nmt) -> None:
    own = Path(shutil.copytree(corpus, tmp_path / "own"))
    before = (own / "test.fr").read_bytes()
    code, _, err = nmt("evaluate", run, "--data", own, "-o", own / "test.fr")
    assert (code, err) == (
        2,
        f"nmt: error: {own / 'test.fr'}: is read and written at once: name another file for the output\n",
    )
    assert (own / "test.fr").read_bytes() == before


def test_bytes_that_are_no_text_may_stand_in_a_recipes_set(run: Path, corpus: Path, tmp_path: Path, nmt: Nmt) -> None:
    own = Path(shutil.copytree(corpus, tmp_path / "own"))
    (own / "test.en").write_bytes(b"the \xff\n" + (own / "test.en").read_bytes().split(b"\n", 1)[1])
    code, _, err = nmt("evaluate", run, "--data", own, "-m", "bleu")
    assert code == 3 and "test.en:1: byte 5 is not UTF-8" in err
    assert nmt("evaluate", run, "--data", own, "-m", "bleu", "--on-bad-bytes", "replace")[0] == 0


def test_tokenised_text_is_no_fault_where_words_are_not_cut(tmp_path: Path, nmt: Nmt) -> None:
    lines = write(tmp_path / "tokenised", ["the cat sleeps ."] * 100)
    for flags in (["--tokenize", "none"], ["-m", "chrf"]):
        assert nmt("evaluate", "--hypotheses", lines, "-r", lines, *flags)[2] == ""
    assert "--tokenize none" in nmt("evaluate", "--hypotheses", lines, "-r", lines)[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--hypotheses", "a", "-r", "b", "-m", "chrf", "--tokenize", "zh"],
            "--tokenize is about bleu, which --metric",
        ),
        (
            ["--hypotheses", "a", "-r", "b", "-m", "bleu", "--chrf-lowercase"],
            "--chrf-lowercase is about chrf and chrf++",
        ),
        (["--hypotheses", "a", "-r", "b", "--json", "--width", "4"], "--width is about figures in lines"),
        (["--hypotheses", "a", "-r", "b", "--beam", "3", "--alpha", "1"], "--beam and --alpha: about translating"),
        (["--hypotheses", "a", "-r", "b", "--checkpoint", "step-1"], "--checkpoint: about translating"),
        (["--hypotheses", "a", "-r", "b", "--split", "valid"], "--split names a set of the recipe"),
        (["RUN", "--source", "a", "-r", "b", "--split", "valid"], "--split names a set of the recipe"),
    ],
)
def test_options_that_would_have_no_say(arguments: list[str], words: str, nmt: Nmt) -> None:
    code, out, err = nmt("evaluate", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_unequal_files_are_found_before_anything_is_translated(run: Path, tmp_path: Path, nmt: Nmt) -> None:
    source, reference = write(tmp_path / "a", ["x"] * 3), write(tmp_path / "b", ["x"] * 4)
    code, _, err = nmt("evaluate", run, "--source", source, "--reference", reference)
    assert (code, err) == (3, f"nmt: error: {source} has 3 lines, {reference} has 4: they must pair up line by line\n")
    assert not (run / "evaluations").exists()


def test_a_run_without_a_set(run: Path, nmt: Nmt, tmp_path: Path) -> None:
    from nmt.checkpoint import Run
    from nmt.config import DataConfig

    opened = Run.open(run)
    data = DataConfig(source="en", target="fr", train=opened.recipe.data.train)
    bare = Run.create(tmp_path / "bare", opened.recipe.model_copy(update={"data": data}), opened.tokenizers)
    bare.save_model(opened.load_model(), 1, {"bleu": 1.0})
    code, _, err = nmt("evaluate", bare.folder)
    assert code == 2
    assert "the recipe has no [data.test]: name the text with --source and --reference, or a folder with --data" in err
    write(tmp_path / "valid.en", ["a"])
    write(tmp_path / "valid.fr", ["a"])
    code, _, err = nmt("evaluate", bare.folder, "--data", tmp_path)
    assert (code, err) == (2, f"nmt: error: --data {tmp_path}: has no test files ending in .en and .fr\n")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_names_that_are_not_utf8(warm_python: str, run: Path) -> None:
    """The run's own, and that of the translations; weights are read by a name that is."""
    folder = run.rename(run.with_name("caf\udce9"))
    command = [warm_python, "-m", "nmt", "evaluate", ".", "--split", "valid", "--beam", "1", "-o", "th\udce9"]
    for _ in range(2):  # the second finds the scores of the first
        done = subprocess.run(
            command, capture_output=True, cwd=folder, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "model|run:caf\ufffd|".encode() in done.stdout
        assert done.stderr == b"translations: th\\udce9\n"
        kept = json.loads((folder / "th\udce9.json").read_text(encoding="utf-8"))
        assert (kept["model"]["run"], kept["translations"]) == ("caf\ufffd", "th\udce9")


def test_what_is_not_there(run: Path, tmp_path: Path, nmt: Nmt) -> None:
    code, _, err = nmt("evaluate", tmp_path / "nowhere")
    assert (code, err) == (1, f"nmt: error: {tmp_path / 'nowhere'}: no such run folder\n")
    code, _, err = nmt("evaluate", run, "--checkpoint", "step-7")
    assert code == 1
    assert "no checkpoint 'step-7'; there are: step-10, step-20" in err


def test_a_damaged_model(run: Path, nmt: Nmt) -> None:
    weights = run / "models" / "step-20" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    code, out, err = nmt("evaluate", run)
    assert (code, out) == (1, "")
    assert "weights.safetensors: damaged: its SHA-256 is not the one it was written with" in err
