"""The scores are sacreBLEU's own: its command, run as a user runs it, is the reference here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, get_args

import pytest

from nmt.errors import ConfigError, DataError
from nmt.evaluation.metrics import (
    ALL_METRICS,
    Score,
    Tokenization,
    compare,
    default_tokenization,
    evaluate,
    looks_tokenized,
)

HYPOTHESES = [
    "Two young men are playing football in the rain.",
    "A dog jumps over the fence ,",
    "",
    "Das Mädchen (im roten Kleid) liest \u2028 ein Buch!  ",
    "價格是 100 元，很便宜。",
    "the cat &quot;sat&quot; on the mat .",
]
REFERENCES = [
    "Two young men play football in the rain.",
    "A brown dog is jumping over a fence,",
    "Nothing at all",
    "Das kleine Mädchen im roten Kleid liest ein Buch.",
    "它的價格是 100 元。",
    'The cat "sat" on the mat.',
]
OTHERS = [
    "Two boys play soccer while it rains.",
    "The dog jumps over the fence.",
    "",
    "Ein Mädchen liest.",
    "價格很便宜",
    "On the mat sat the cat.",
]


def sacrebleu_command(folder: Path, references: list[list[str]], *flags: str) -> list[dict[str, Any]]:
    """What ``sacrebleu ... --format json`` prints, with 12 digits."""
    names = []
    for number, lines in enumerate(references):
        names.append(str(folder / f"reference{number}"))
        Path(names[-1]).write_bytes("".join(f"{line}\n" for line in lines).encode())
    (folder / "hypotheses").write_bytes("".join(f"{line}\n" for line in HYPOTHESES).encode())
    command = [sys.executable, "-m", "sacrebleu", *names, "-i", str(folder / "hypotheses"), "-w", "12", *flags]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return printed if isinstance(printed, list) else [printed]


def assert_same(score: Score, printed: dict[str, Any]) -> None:
    assert score.name == printed["name"]
    assert score.signature == printed["signature"]
    assert float(f"{score.value:.12f}") == printed["score"]
    assert score.detail == printed.get("verbose_score", "")


def test_equal_to_the_command(tmp_path: Path) -> None:
    bleu, chrf, ter = sacrebleu_command(tmp_path, [REFERENCES], "-m", "bleu", "chrf", "ter")
    (chrf_words,) = sacrebleu_command(tmp_path, [REFERENCES], "-m", "chrf", "--chrf-word-order", "2")
    scores = evaluate(HYPOTHESES, [REFERENCES])
    assert [score.name for score in scores] == ["BLEU", "chrF2", "chrF2++", "TER"]
    for score, printed in zip(scores, (bleu, chrf, chrf_words, ter), strict=True):
        assert_same(score, printed)
        assert 0 < score.value < 100


def test_a_comparison_is_that_of_the_command(tmp_path: Path) -> None:
    """Its p-values, means and intervals, and its random numbers."""
    worse = [line[: len(line) // 2] for line in HYPOTHESES]
    (tmp_path / "worse").write_bytes("".join(f"{line}\n" for line in worse).encode())
    flags = ("-m", "bleu", "chrf", "ter", "--paired-bs", "--paired-bs-n", "200", "--lowercase")
    for text, name in ((HYPOTHESES, "hypotheses"), (REFERENCES, "reference0")):
        (tmp_path / name).write_bytes("".join(f"{line}\n" for line in text).encode())
    texts = [str(tmp_path / name) for name in ("reference0", "worse", "hypotheses")]
    command = [sys.executable, "-m", "sacrebleu", texts[0], "-i", *texts[1:], *flags, "-w", "6", "--format", "text"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    table = re.findall(r"([\d.]+) \(([\d.]+) ± ([\d.]+)\)", printed)  # the baseline's row, then the system's
    chances = re.findall(r"\(p = ([\d.]+)\)", printed)
    found = compare(HYPOTHESES, worse, [REFERENCES], samples=200, metrics=("bleu", "chrf", "ter"), lowercase=True)
    assert [one.name for one in found] == ["BLEU", "chrF2", "TER"]
    for one, first, second, chance in zip(found, table[:3], table[3:], chances, strict=True):
        assert f"{one.baseline:.6f}" == first[0]
        assert (f"{one.value:.6f}", f"{one.mean:.6f}", f"{one.interval:.6f}") == second
        assert f"{one.p_value:.4f}" == chance and 0 < one.p_value < 1
        assert f" {one.signature}\n" in printed
    with pytest.raises(DataError, match="5 hypotheses, but the reference has 6 lines"):
        compare(HYPOTHESES, worse[:-1], [REFERENCES])
    bleu = found[0]
    assert bleu.line(1).startswith(f"BLEU|{bleu.signature} = {bleu.value:.1f} against {bleu.baseline:.1f}: +")


def test_equal_to_the_command_with_several_references_and_all_its_flags(tmp_path: Path) -> None:
    flags = ("--lowercase", "--tokenize", "intl", "--chrf-lowercase", "--ter-case-sensitive")
    printed = sacrebleu_command(tmp_path, [REFERENCES, OTHERS], "-m", "bleu", "chrf", "ter", *flags)
    words = ("-m", "chrf", "--chrf-word-order", "2", "--chrf-lowercase")
    printed += sacrebleu_command(tmp_path, [REFERENCES, OTHERS], *words)
    scores = evaluate(
        HYPOTHESES,
        [REFERENCES, OTHERS],
        metrics=("bleu", "chrf", "ter", "chrf++"),
        tokenize="intl",
        lowercase=True,
        chrf_lowercase=True,
        ter_case_sensitive=True,
    )
    for score, line in zip(scores, printed, strict=True):
        assert_same(score, line)
        assert "nrefs:2" in score.signature


@pytest.mark.parametrize("tokenize", ["none", "zh", "char", "ja-mecab", "ko-mecab"])
def test_equal_to_the_command_however_words_are_cut(tokenize: Tokenization, tmp_path: Path) -> None:
    if tokenize.endswith("mecab"):
        pytest.importorskip("MeCab" if tokenize.startswith("ja") else "mecab_ko")
    (printed,) = sacrebleu_command(tmp_path, [REFERENCES], "--tokenize", tokenize)
    (score,) = evaluate(HYPOTHESES, [REFERENCES], metrics=("bleu",), tokenize=tokenize)
    assert_same(score, printed)


def test_the_line_is_the_one_the_command_prints(tmp_path: Path) -> None:
    files = tmp_path / "hypotheses", tmp_path / "reference"
    for file, lines in zip(files, (HYPOTHESES, REFERENCES), strict=True):
        file.write_bytes("".join(f"{line}\n" for line in lines).encode())
    command = [sys.executable, "-m", "sacrebleu", str(files[1]), "-i", str(files[0]), "-w", "2", "--format", "text"]
    printed = subprocess.run([*command, "-m", "bleu", "ter"], check=True, capture_output=True, text=True).stdout
    scores = evaluate(HYPOTHESES, [REFERENCES], metrics=("bleu", "ter"))
    assert [line.strip() for line in printed.splitlines()] == [score.line() for score in scores]


def test_as_dict_is_json_with_the_commands_keys() -> None:
    bleu, ter = evaluate(HYPOTHESES, [REFERENCES], metrics=("bleu", "ter"))
    assert json.loads(json.dumps(bleu.as_dict())) == {
        "name": "BLEU",
        "score": bleu.value,
        "signature": bleu.signature,
        "verbose_score": bleu.detail,
    }
    assert set(ter.as_dict()) == {"name", "score", "signature"}


def test_every_tokenisation_is_on_offer() -> None:
    from sacrebleu.metrics.bleu import BLEU

    assert set(get_args(Tokenization)) == set(BLEU.TOKENIZERS)


def test_perfect_translations() -> None:
    scores = {score.name: score.value for score in evaluate(REFERENCES, [REFERENCES])}
    assert scores == {"BLEU": pytest.approx(100), "chrF2": 100, "chrF2++": 100, "TER": 0}


def test_unequal_lengths_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match="2 hypotheses, but the reference has 3 lines") as caught:
        evaluate(["a b c d", "e f g h"], [["a b c d", "e f g h", "i"]])
    assert caught.value.exit_code == 3
    with pytest.raises(DataError, match="2 hypotheses, but reference 2 has 1 lines"):
        evaluate(["a", "b"], [["a", "b"], ["a"]])


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="no lines to score"):
        evaluate([], [[]])
    with pytest.raises(DataError, match="no reference"):
        evaluate(["a"], [])


def test_a_flat_list_of_references_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write \[references\]"):
        evaluate(["a", "b"], ["a", "b"])


def test_a_tokenisation_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    with pytest.raises(ConfigError, match=r"'ja-mecab' is not installed: pip install 'sacrebleu\[ja\]'") as caught:
        evaluate(["ねこ"], [["ねこ"]], metrics=("bleu",), tokenize="ja-mecab")
    assert caught.value.exit_code == 2


def test_a_tokenisation_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.download_file", no_network)
    with pytest.raises(
        ConfigError, match=r"'flores200' needs a model that sacreBLEU could not fetch .*no route to host"
    ):
        evaluate(["a"], [["a"]], metrics=("bleu",), tokenize="flores200")


def test_default_tokenisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    assert default_tokenization("de") == "13a"
    assert default_tokenization("zh") == "zh"
    assert default_tokenization("zh-Hant") == default_tokenization("zh_CN") == "zh"
    assert default_tokenization("ja") == "char"
    assert default_tokenization("target") == "13a"
    assert default_tokenization("zho_Hans") == default_tokenization("cmn") == "zh"
    assert default_tokenization("jpn_Jpan") == "char"
    assert default_tokenization("deu_Latn") == "13a"


def test_looks_tokenized() -> None:
    assert looks_tokenized(["A dog ."] * 100)
    assert not looks_tokenized(["A dog ."] * 99 + ["A dog."] * 900)


def test_nothing_is_said_on_the_way(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(["A dog ."] * 200, [["A dog ."] * 200], metrics=ALL_METRICS, tokenize="none")
    assert capfd.readouterr() == ("", "")
