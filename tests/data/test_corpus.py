"""Corpora in every format, and what is said where one breaks its contract."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nmt.config import AnyCorpus, DataConfig, DatasetsCorpus, JsonlCorpus, TextCorpus, TsvCorpus
from nmt.data.corpus import Pair, PairStream, digest_corpus, read_eval_pairs, read_pairs, with_folder
from nmt.errors import ConfigError, DataError

ROWS = [("a cat", "un chat"), ("", "un chien"), ("NA", "null\u2028nan"), ("naïve 日本", "œuf"), ("x, y", '"y"')]
PAIRS = [Pair(*row) for row in ROWS]


def text(folder: Path, source: bytes, target: bytes) -> TextCorpus:
    (folder / "a.en").write_bytes(source)
    (folder / "a.fr").write_bytes(target)
    return TextCorpus(source=folder / "a.en", target=folder / "a.fr")


def tsv(folder: Path, content: str, **columns: int | str) -> TsvCorpus:
    (folder / "a.tsv").write_text(content, newline="")
    return TsvCorpus.model_validate({"format": "tsv", "path": folder / "a.tsv", **columns})


def jsonl(folder: Path, content: str, **fields: str) -> JsonlCorpus:
    (folder / "a.jsonl").write_text(content)
    return JsonlCorpus.model_validate({"format": "jsonl", "path": folder / "a.jsonl", **fields})


# ---------------------------------------------------------------------------------------------------------------- text


def test_text_files_pair_up_line_by_line(tmp_path: Path) -> None:
    corpus = text(
        tmp_path,
        gzip.compress("".join(f"{source}\n" for source, _ in ROWS).encode()),
        "\r\n".join(target for _, target in ROWS).encode(),  # no end of the last line
    )
    assert list(read_pairs(corpus)) == PAIRS


@pytest.mark.parametrize("more", [b"one\ntwo\nthree\n", b"one\n", b"one\ntwo\n\n"])
def test_unequal_files_are_refused_before_the_first_pair(tmp_path: Path, more: bytes) -> None:
    corpus = text(tmp_path, b"eins\nzwei\n", more)
    with pytest.raises(DataError) as caught:
        next(iter(read_pairs(corpus)))
    assert str(caught.value) == (
        f"{tmp_path}/a.en has 2 lines, {tmp_path}/a.fr has {more.count(10)}: they must pair up line by line"
    )
    assert caught.value.exit_code == 3


def test_bad_bytes_are_named_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.fr:2: byte 3 is not UTF-8"):
        list(read_pairs(text(tmp_path, b"a\nb\n", b"c\nde\xff\n")))


# ----------------------------------------------------------------------------------------------------------------- tsv


def test_tsv_by_number_and_by_name(tmp_path: Path) -> None:
    rows = "".join(f"{number}\t{source}\t{target}\n" for number, (source, target) in enumerate(ROWS))
    assert list(read_pairs(tsv(tmp_path, rows, source=2, target=3))) == PAIRS
    assert list(read_pairs(tsv(tmp_path, "id\ten\tfr\n" + rows, source="en", target="fr"))) == PAIRS
    assert list(read_pairs(tsv(tmp_path, "id\ten\tfr\n" + rows, source="en", target=3))) == PAIRS


def test_tsv_without_the_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tsv:2: column 2 is missing: the line has 1"):
        list(read_pairs(tsv(tmp_path, "a\tb\nc\n")))
    with pytest.raises(DataError, match=r"a\.tsv:1: there is no column 'de'; the first line names 'en', 'fr'"):
        list(read_pairs(tsv(tmp_path, "en\tfr\na\tb\n", source="en", target="de")))
    with pytest.raises(ConfigError, match="columns are counted from 1"):
        list(read_pairs(tsv(tmp_path, "a\tb\n", source=0)))


def test_a_blank_tsv_line_is_a_blank_pair(tmp_path: Path) -> None:
    assert list(read_pairs(tsv(tmp_path, "a\tb\n\nc\td\n"))) == [Pair("a", "b"), Pair("", ""), Pair("c", "d")]


# --------------------------------------------------------------------------------------------------------------- jsonl


def test_jsonl_with_dots_going_down(tmp_path: Path) -> None:
    flat = "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in ROWS)
    assert list(read_pairs(jsonl(tmp_path, flat))) == PAIRS
    deep = "".join(json.dumps({"translation": {"en": source, "fr": target}}) + "\n" for source, target in ROWS)
    assert list(read_pairs(jsonl(tmp_path, deep, source="translation.en", target="translation.fr"))) == PAIRS
    dotted = json.dumps({"a.b": "x", "c": "y"})
    assert list(read_pairs(jsonl(tmp_path, dotted, source="a.b", target="c"))) == [Pair("x", "y")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"source": "a"}', r"a\.jsonl:2: there is no 'target': 'target' is not among 'source'"),
        ('{"source": "a", ', r"a\.jsonl:2: not JSON: "),
        ('["a", "b"]', r"a\.jsonl:2: there is no 'source'"),
        ('{"source": 5, "target": "b"}', r"a\.jsonl:2: 'source' is not text but 5"),
        ('{"source": "\\ud800", "target": "b"}', r"a\.jsonl:2: character 1 of 'source' is half of a surrogate pair"),
        ("1" * 5_000, r"a\.jsonl:2: not JSON: "),
        ("[" * 100_000, r"a\.jsonl:2: not JSON: "),
    ],
)
def test_jsonl_that_breaks_its_contract(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(read_pairs(jsonl(tmp_path, '{"source": "a", "target": "b"}\n' + line)))


def test_jsonl_null_is_blank_and_a_sentence_is_one_line(tmp_path: Path) -> None:
    corpus = jsonl(tmp_path, '{"source": null, "target": "a\\nb\\r\\nc\\rd"}\n\n')
    assert list(read_pairs(corpus)) == [Pair("", "a b c d"), Pair("", "")]


# ------------------------------------------------------------------------------------------------------------ datasets


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_nobody_is_told_that_a_file_is_read(cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` would count what it loads, on a server of others."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    told: list[str] = []
    monkeypatch.setattr(datasets.load, "get_session", lambda: told.append("asked"))
    assert list(read_pairs(dataset(csv(tmp_path) / "train.csv")))
    assert told == []


def dataset(path: Path, **options: Any) -> DatasetsCorpus:
    return DatasetsCorpus.model_validate(
        {"format": "datasets", "dataset": str(path), "source": "en", "target": "fr", **options}
    )


def as_table() -> Any:
    import datasets

    sources, targets = zip(*ROWS, strict=True)
    return datasets.Dataset.from_dict({"en": sources, "id": range(len(ROWS)), "fr": targets})


def parquet(folder: Path) -> Path:
    as_table().to_parquet(folder / "train-0.parquet")
    return folder


def arrow(folder: Path) -> Path:
    as_table().save_to_disk(str(folder / "saved"))
    return next((folder / "saved").glob("*.arrow"))


def saved(folder: Path) -> Path:
    as_table().save_to_disk(str(folder / "saved"))
    return folder / "saved"


def csv(folder: Path) -> Path:
    as_table().to_csv(folder / "train.csv")
    return folder


def json_lines(folder: Path) -> Path:
    as_table().to_json(folder / "train.jsonl")
    return folder


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [parquet, arrow, saved, csv, json_lines])
def test_whatever_datasets_loads(tmp_path: Path, write: Callable[[Path], Path], streaming: bool) -> None:
    corpus = dataset(write(tmp_path), streaming=streaming)
    assert list(read_pairs(corpus)) == PAIRS


@pytest.mark.usefixtures("cache")
def test_datasets_nested_columns_and_nothing(tmp_path: Path) -> None:
    import datasets

    rows = [{"translation": {"en": "a", "fr": "b"}}, {"translation": {"en": None, "fr": "c\nd"}}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    corpus = dataset(tmp_path, source="translation.en", target="translation.fr")
    assert list(read_pairs(corpus)) == [Pair("a", "b"), Pair("", "c d")]


@pytest.mark.usefixtures("cache")
def test_datasets_without_the_column(tmp_path: Path) -> None:
    corpus = dataset(parquet(tmp_path), target="de")
    with pytest.raises(DataError, match=r"\(train\): there is no column 'de'; it has 'en', 'id', 'fr'"):
        list(read_pairs(corpus))
    with pytest.raises(DataError, match=r"row 1: 'id' is not text but 0"):
        list(read_pairs(dataset(tmp_path, target="id")))


@pytest.mark.usefixtures("cache")
def test_datasets_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    folder = parquet(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be loaded: Unknown split \"nosuch\""):
        list(read_pairs(dataset(folder, split="nosuch")))
    (folder / "train-0.parquet").write_bytes(b"PAR1 no more than that")
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"cannot be read: .*(Parquet|parquet)"):
            list(read_pairs(dataset(folder, streaming=streaming)))
    with pytest.raises(ConfigError, match=r"data set 'no/such-data' cannot be found"):
        list(read_pairs(dataset(Path("no/such-data"))))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("streaming", [False, True])
def test_json_of_several_forms_is_text_all_the_same(tmp_path: Path, streaming: bool) -> None:
    """``datasets`` keeps what is not of one form as JSON text, which is not what stands in it."""
    rows = [{"en": 'caf\u00e9 "a"', "fr": "b"}] * 40
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, {"en": 2024, "fr": "b"}]))
    found = read_pairs(dataset(path, streaming=streaming))
    assert [next(found) for _ in rows] == [Pair('caf\u00e9 "a"', "b")] * 40
    with pytest.raises(DataError, match=r"row 41: 'en' is not text but 2024"):
        next(found)
    stream = PairStream(dataset(path, streaming=True))
    first = stream.read(30)
    rest = PairStream(dataset(path, streaming=True), stream.mark())
    assert first + rest.read(10) == [Pair('caf\u00e9 "a"', "b")] * 40
    with pytest.raises(DataError, match=r"row 41: 'en' is not text but 2024"):
        rest.read(1)
    deep = [{"translation": {"en": "a", "fr": "b"}}] * 20 + [{"translation": {"en": "c", "fr": None, "de": [1, "x"]}}]
    path = tmp_path / "deep.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in deep))
    corpus = dataset(path, source="translation.en", target="translation.fr", streaming=streaming)
    assert list(read_pairs(corpus)) == [Pair("a", "b")] * 20 + [Pair("c", "")]


@pytest.mark.usefixtures("cache")
def test_quotes_in_tsv_are_characters_to_datasets_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('en\tfr\n"Hi\tSalut\nBye\tCiao\n"Yes\tOui\n')
    assert list(read_pairs(dataset(path))) == [Pair('"Hi', "Salut"), Pair("Bye", "Ciao"), Pair('"Yes', "Oui")]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "en,fr\n" + "a,b\n" * 50 + "a,b,c,d\n"),
        ("a.jsonl", '{"en": "a", "fr": "b"}\n' * 50 + '{"en": "a", "\n'),
    ],
)
def test_rows_that_datasets_cannot_read_are_faults_of_the_data(
    tmp_path: Path, name: str, content: str, streaming: bool
) -> None:
    (tmp_path / name).write_text(content)
    corpus = dataset(tmp_path / name, streaming=streaming)
    with pytest.raises(DataError, match="cannot be read: "):
        list(read_pairs(corpus))
    if streaming:
        with pytest.raises(DataError, match="cannot be read: "):
            PairStream(corpus).read(100)


@pytest.mark.usefixtures("cache")
def test_plain_text_is_not_left_to_datasets(tmp_path: Path) -> None:
    """Its reader makes six lines of five where there is a form feed."""
    (tmp_path / "train.txt").write_text("a\n")
    with pytest.raises(ConfigError, match="read it with format = 'text'"):
        list(read_pairs(dataset(tmp_path)))


# ------------------------------------------------------------------------------------------------------ whatever format


def test_an_evaluation_set_keeps_blank_lines_and_is_not_empty(tmp_path: Path) -> None:
    assert read_eval_pairs(text(tmp_path, b"a\n\n", b"\nb\n")) == [Pair("a", ""), Pair("", "b")]
    with pytest.raises(DataError, match=r"a\.en and .*a\.fr: there are no sentence pairs in it"):
        read_eval_pairs(text(tmp_path, b"", b""))


def corpora(folder: Path) -> Iterator[AnyCorpus]:
    yield text(folder, b"a\n", b"b\n")
    yield tsv(folder, "a\tb\n")
    yield jsonl(folder, '{"source": "a", "target": "b"}\n')
    (folder / "set").mkdir(exist_ok=True)
    yield dataset(parquet(folder / "set"))


@pytest.mark.usefixtures("cache")
def test_a_digest_is_of_the_contents_not_of_the_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = ([digest_corpus(corpus) for corpus in corpora(tmp_path / name)] for name in ("one", "two"))
    assert one == two
    assert len(set(one)) == len(one)
    assert digest_corpus(tsv(tmp_path / "one", "a\tb\n", source=2, target=1)) != one[1]
    assert digest_corpus(text(tmp_path / "one", b"a\n", b"c\n")) != one[0]
    heavy = text(tmp_path / "two", b"a\n", b"b\n").model_copy(update={"weight": 3.0})
    assert digest_corpus(heavy) == one[0]
    os.remove(tmp_path / "one" / "a.en")
    with pytest.raises(DataError, match=r"a\.en: cannot be read"):
        digest_corpus(TextCorpus(source=tmp_path / "one" / "a.en", target=tmp_path / "one" / "a.fr"))


# -------------------------------------------------------------------------------------------------------------- --data

LANGUAGES = DataConfig(source="en", target="fr", max_length=7)


@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev"])
def test_a_folder_takes_the_corpora_place(valid: str, tmp_path: Path) -> None:
    for name in ("train.en", "train.fr.gz", f"{valid}.en", f"{valid}.fr", "other.en"):
        (tmp_path / name).touch()
    data = with_folder(LANGUAGES.model_copy(update={"test": TextCorpus(source=Path("x"), target=Path("y"))}), tmp_path)
    assert data.train == (TextCorpus(source=tmp_path / "train.en", target=tmp_path / "train.fr.gz"),)
    assert data.valid == TextCorpus(source=tmp_path / f"{valid}.en", target=tmp_path / f"{valid}.fr")
    assert data.test is None
    assert data.max_length == 7


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "has no train, valid or test file ending in .en and .fr"),
        (["train.de", "train.fr"], "train.fr is there without its other side; the languages are en and fr"),
        (["train.en", "train.en.gz", "train.fr"], "both train.en and train.en.gz are there; which is meant?"),
        (["valid.en", "dev.en", "valid.fr"], "both valid.en and dev.en are there"),
    ],
)
def test_a_folder_that_leaves_questions(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        with_folder(LANGUAGES, tmp_path)
    assert words in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: there is no such folder"):
        with_folder(LANGUAGES, tmp_path / "nowhere")
