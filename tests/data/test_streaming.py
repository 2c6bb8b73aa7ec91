"""A corpus that is read as it comes: every pair once a pass, and the same batches from any place on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from nmt.config import DataConfig, DatasetsCorpus, TextCorpus, TokenizerConfig, parse_recipe
from nmt.data import batching, streaming
from nmt.data.ahead import prepare_ahead
from nmt.data.batching import Batch, Mark
from nmt.data.streaming import StreamSource
from nmt.data.tokenizer import Tokenizers, train_tokenizer
from nmt.errors import ConfigError, DataError

WORDS = ("banana", "bandana", "cabana", "panama", "an", "a", "band", "nana", "manana", "cabaret", "bar", "ban")
LINES = [f"{number} " + " ".join(WORDS[number * k % 12] for k in range(1, 3 + number % 9)) for number in range(300)]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Some ten windows a pass; what datasets caches goes with the test."""
    monkeypatch.setattr(streaming, "WINDOW", 2)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    joint = train_tokenizer(LINES, TokenizerConfig(vocabulary=290), seed=1)
    return Tokenizers(joint, joint)


def rows() -> list[dict[str, str]]:
    """Every seventh pair has a blank side."""
    return [{"en": line, "fr": line.upper() if number % 7 else " "} for number, line in enumerate(LINES)]


def json_lines(folder: Path) -> Path:
    for part in range(3):
        lines = [json.dumps(row) for row in rows()[part * 100 : part * 100 + 100]]
        (folder / f"train-{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def parquet(folder: Path) -> Path:
    for part in range(3):
        datasets.Dataset.from_list(rows()[part * 100 : part * 100 + 100]).to_parquet(folder / f"train-{part}.parquet")
    return folder


def saved(folder: Path) -> Path:
    datasets.Dataset.from_list(rows()).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def stream_of(folder: Path, **values: Any) -> DataConfig:
    corpus = DatasetsCorpus(format="datasets", dataset=str(folder), source="en", target="fr", streaming=True)
    return DataConfig(train=(corpus,), **values)


def source_of(data: DataConfig, tokenizers: Tokenizers, **values: Any) -> StreamSource:
    return StreamSource(data, tokenizers, **{"batch_tokens": 400, "seed": 1, **values})


def passed(source: StreamSource, epoch: int, start: int = 0, mark: Mark | None = None) -> list[tuple[int, Mark, Any]]:
    """Every batch of a pass with the place after it and its mark, by way of JSON, as a checkpoint has it."""
    found = []
    for place, make in source.plan(epoch, start, mark):
        batch = make()
        found.append((place, json.loads(json.dumps(source.mark(place))), contents(batch)))
    return found


def contents(batch: Batch) -> tuple[list[int], list[list[int]], list[list[int]]]:
    return batch.rows.tolist(), batch.source.tolist(), batch.target_out.tolist()


def texts(batch: Batch, tokenizers: Tokenizers) -> list[tuple[str, str]]:
    sides = ((batch.source, batch.source_mask), (batch.target_out, batch.target_mask))
    ids = ([row[real].tolist() for row, real in zip(*side, strict=True)] for side in sides)
    return [
        (tokenizers.source.decode(source), tokenizers.target.decode(target))
        for source, target in zip(*ids, strict=True)
    ]


@pytest.mark.parametrize("sampling", [0.0, 0.2])
@pytest.mark.parametrize("write", [json_lines, parquet, saved])
def test_a_pass_has_every_pair_once_and_no_blank_one(
    tmp_path: Path, tokenizers: Tokenizers, write: Callable[[Path], Path], sampling: float
) -> None:
    said: list[str] = []
    source = source_of(stream_of(write(tmp_path)), tokenizers, sampling=sampling, note=said.append)
    batches = [make() for _, make in source.plan(0)]
    assert max(len(batch) * max(batch.source.shape[1], batch.target_in.shape[1]) for batch in batches) <= 400
    seen = Counter(pair for batch in batches for pair in texts(batch, tokenizers))
    assert seen == Counter((row["en"], row["fr"]) for row in rows() if row["fr"] != " ")
    (one,) = said
    assert (
        one.startswith("the first window of ") and "training pairs: 28 of 33 kept, dropped 5 with a blank side" in one
    )


def test_held_out_lines_are_left_out_of_a_stream(tmp_path: Path, tokenizers: Tokenizers) -> None:
    (tmp_path / "held").mkdir()
    for side, line in (("en", LINES[1]), ("fr", "other")):
        (tmp_path / "held" / f"valid.{side}").write_text(f"{line}\n")
    valid = TextCorpus(source=tmp_path / "held" / "valid.en", target=tmp_path / "held" / "valid.fr")
    (tmp_path / "in").mkdir()
    source = source_of(stream_of(json_lines(tmp_path / "in"), valid=valid, drop_held_out=True), tokenizers)
    seen = Counter(pair for _, make in source.plan(0) for pair in texts(make(), tokenizers))
    assert seen == Counter((row["en"], row["fr"]) for row in rows() if row["fr"] != " " and row["en"] != LINES[1])


@pytest.mark.parametrize(("write", "sampling"), [(json_lines, 0.2), (parquet, 0.0), (saved, 0.2)])
def test_a_pass_can_be_gone_on_with_from_any_batch(
    tmp_path: Path, tokenizers: Tokenizers, write: Callable[[Path], Path], sampling: float
) -> None:
    data = stream_of(write(tmp_path))
    whole = passed(source_of(data, tokenizers, sampling=sampling), 1)
    assert len(whole) > 12
    batches = [(place, batch) for place, _, batch in whole]
    for done in (1, 2, 7, len(batches) // 2, len(batches) - 1, len(batches)):
        place, mark, _ = whole[done - 1]
        rest = passed(source_of(data, tokenizers, sampling=sampling), 1, place, mark)
        assert [(place, batch) for place, _, batch in rest] == batches[done:]


def test_a_pass_can_be_stopped_after_every_batch(tmp_path: Path, tokenizers: Tokenizers) -> None:
    data = stream_of(json_lines(tmp_path))
    place, mark, found = 0, None, []
    while True:
        source = source_of(data, tokenizers)
        stream = source.plan(0, place, mark)
        try:
            place, make = next(stream)
        except StopIteration:
            break
        mark = json.loads(json.dumps(source.mark(place)))
        found.append(contents(make()))
    assert found == [batch for _, _, batch in passed(source_of(data, tokenizers), 0)]


def test_a_place_without_its_mark_is_read_up_to(tmp_path: Path, tokenizers: Tokenizers) -> None:
    data = stream_of(json_lines(tmp_path))
    whole = passed(source_of(data, tokenizers), 0)
    place = whole[7][0]
    assert [batch for _, _, batch in passed(source_of(data, tokenizers), 0, place)] == [one for _, _, one in whole[8:]]


def test_passes_differ_and_repeat_under_a_seed(tmp_path: Path, tokenizers: Tokenizers) -> None:
    data = stream_of(json_lines(tmp_path))
    first, second = (passed(source_of(data, tokenizers), epoch) for epoch in (0, 1))
    assert first != second
    assert passed(source_of(data, tokenizers), 0) == first
    assert passed(source_of(data, tokenizers, seed=2), 0) != first


def test_a_stream_of_which_nothing_is_left_is_refused(tmp_path: Path, tokenizers: Tokenizers) -> None:
    (tmp_path / "train.jsonl").write_text('{"en": "a", "fr": ""}\n' * 50)
    with pytest.raises(DataError, match="nothing is left to train on; training pairs: 0 of 50 kept, dropped 50 with a"):
        passed(source_of(stream_of(tmp_path), tokenizers), 0)


def test_what_is_wrong_in_a_stream_is_said_with_its_row(tmp_path: Path, tokenizers: Tokenizers) -> None:
    (tmp_path / "train.jsonl").write_text('{"en": "a", "fr": "b"}\n{"en": "a", "fr": 7}\n')
    with pytest.raises(DataError, match=r"row 2: 'fr' is not text|cannot be read"):
        passed(source_of(stream_of(tmp_path), tokenizers), 0)
    corpus = DatasetsCorpus(format="datasets", dataset=str(tmp_path), source="en", target="de", streaming=True)
    with pytest.raises(DataError, match=r"row 1: there is no 'de'|cannot be read"):
        passed(source_of(DataConfig(train=(corpus,)), tokenizers), 0)


def test_what_a_stream_cannot_do_the_recipe_cannot_ask_for() -> None:
    stream = {"format": "datasets", "dataset": "x", "source": "en", "target": "fr", "streaming": True}
    for train, rest in (([stream, stream], ""), ([{**stream, "weight": 2.0}], ""), ([stream], "drop_duplicates")):
        listed = ", ".join(
            "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in one.items()) + " }" for one in train
        )
        text = f"[data]\ntrain = [{listed}]\n" + (f"{rest} = true\n" if rest else "")
        with pytest.raises(
            ConfigError, match=r"data: (a streamed training corpus is the only one|drop_duplicates needs)"
        ):
            parse_recipe(text)


def test_there_is_nothing_to_prepare(tmp_path: Path) -> None:
    recipe = parse_recipe("").model_copy(update={"data": stream_of(json_lines(tmp_path))})
    with pytest.raises(ConfigError, match="nothing of it can be ready: set streaming = false"):
        prepare_ahead(recipe, tmp_path / "store")
    assert batching.WINDOW > 2
