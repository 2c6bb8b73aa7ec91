"""Token ids on disk: what goes in comes out, nothing half-written is ever used, nothing is done twice."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt.config import DataConfig, TextCorpus, TokenizerConfig
from nmt.data import store as module
from nmt.data import workers as workers_module
from nmt.data import writing
from nmt.data.corpus import Pair, digest_corpus
from nmt.data.ragged import Ragged
from nmt.data.store import CorpusRows, Store, name_of, prepare
from nmt.data.tokenizer import Tokenizer, Tokenizers, train_tokenizer
from nmt.errors import DataError, NmtError

ROWS = [(f"a small cat number {i}", f"un petit chat numéro {i} 日") for i in range(30)]


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    lines = [line for row in ROWS for line in row]
    joint = train_tokenizer(lines, TokenizerConfig(vocabulary=310), seed=1)
    return Tokenizers(joint, joint)


def corpus(folder: Path, name: str, rows: list[tuple[str, str]], **options: Any) -> TextCorpus:
    folder.mkdir(exist_ok=True)
    for side, lines in (("en", [row[0] for row in rows]), ("fr", [row[1] for row in rows])):
        (folder / f"{name}.{side}").write_text("".join(f"{line}\n" for line in lines))
    return TextCorpus(source=folder / f"{name}.en", target=folder / f"{name}.fr", **options)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return DataConfig(
        train=(
            corpus(tmp_path / "in", "one", [*ROWS[:10], ("", "x"), ROWS[0]], weight=2.0),
            corpus(tmp_path / "in", "two", [*ROWS[10:], ("long " * 300, "y")]),
        ),
        drop_duplicates=True,
    )


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "CHUNK", 4)
    monkeypatch.setattr(writing, "PART", 8)
    monkeypatch.setattr(module, "SLICE", 4)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Where stores have been built."""
    places: list[Path] = []
    build = writing.build

    def noting(place: Path, *others: Any) -> None:
        places.append(place)
        build(place, *others)

    monkeypatch.setattr(module, "build", noting)
    yield places


def test_what_goes_in_comes_out(tmp_path: Path, data: DataConfig, tokenizers: Tokenizers) -> None:
    store = prepare(data, tokenizers, tmp_path / "store")
    assert len(store) == 30
    for row, (source, target) in enumerate(ROWS):
        assert store.text(row) == Pair(source, target)
        ids = store.ids(row)
        assert ids[0].tolist() == tokenizers.source.encode(source)
        assert ids[1].tolist() == tokenizers.target.encode(target)
    assert [pair.source for pair in store.texts(np.array([7, 7, 2]))] == [ROWS[row][0] for row in (7, 7, 2)]
    lengths = [(len(store.source[row]), len(store.target[row])) for row in range(30)]
    assert store.longest == (max(one for one, _ in lengths), max(two for _, two in lengths))
    assert store.mean_length == pytest.approx(sum(map(max, lengths)) / 30)
    assert store.corpora == (CorpusRows(0, 10, 2.0), CorpusRows(10, 30, 1.0))
    assert store.report.text() == (
        "training pairs: 30 of 33 kept, dropped 1 with a blank side, 1 seen before, 1 longer than data.max_length"
    )


def test_ids_take_two_bytes_and_are_mapped_not_read(tmp_path: Path, data: DataConfig, tokenizers: Tokenizers) -> None:
    store = prepare(data, tokenizers, tmp_path / "store")
    assert (store.folder / "source.ids").stat().st_size == 2 * store.source.lengths.sum()
    assert store.source.flat.base is not None and not store.source.flat.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        store.source.flat[0] = 1


def test_rows_are_taken_in_the_order_they_are_asked_for_in(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers
) -> None:
    store = prepare(data, tokenizers, tmp_path / "store")
    rows = np.array([29, 0, 17, 17, 3, 28, 1, 4, 9])
    for taken, side in zip(store.take(rows), (store.source, store.target), strict=True):
        assert [taken[n].tolist() for n in range(len(rows))] == [side[row].tolist() for row in rows]


def test_progress_counts_pairs_read(tmp_path: Path, data: DataConfig, tokenizers: Tokenizers) -> None:
    seen: list[tuple[int, int | None]] = []
    prepare(data, tokenizers, tmp_path / "store", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (33, 33) and seen[0] == (4, 33)


def test_the_same_is_not_made_twice(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, built: list[Path]
) -> None:
    first = prepare(data, tokenizers, tmp_path / "store")
    weights = data.model_copy(update={"train": tuple(one.model_copy(update={"weight": 0.5}) for one in data.train)})
    again = prepare(weights, tokenizers, tmp_path / "store")
    assert len(built) == 1 and again.folder == first.folder
    assert [rows.weight for rows in again.corpora] == [0.5, 0.5]
    assert again.report == first.report


def test_another_corpus_filter_or_tokenizer_makes_another(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, built: list[Path]
) -> None:
    other = train_tokenizer([source for source, _ in ROWS], TokenizerConfig(vocabulary=300), seed=1)
    prepare(data, tokenizers, tmp_path / "store")
    prepare(data.model_copy(update={"max_length": 0}), tokenizers, tmp_path / "store")
    prepare(data, Tokenizers(other, tokenizers.target), tmp_path / "store")
    prepare(data, Tokenizers(tokenizers.source, other), tmp_path / "store")
    (tmp_path / "in" / "one.en").write_text((tmp_path / "in" / "one.en").read_text().replace("0", "zero"))
    prepare(data, tokenizers, tmp_path / "store")
    assert len(set(built)) == 5


@pytest.mark.parametrize("name", ["source.ids", "target.places", "manifest.json"])
def test_a_store_that_is_not_whole_is_made_anew(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, built: list[Path], name: str
) -> None:
    folder = prepare(data, tokenizers, tmp_path / "store").folder
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(DataError, match="not a whole store"):
        Store(folder, data)
    assert len(prepare(data, tokenizers, tmp_path / "store")) == 30
    (folder / name).unlink()
    assert len(prepare(data, tokenizers, tmp_path / "store")) == 30
    assert len(built) == 3


def test_a_store_of_another_format_is_made_anew(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, built: list[Path]
) -> None:
    folder = prepare(data, tokenizers, tmp_path / "store").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 0}))
    prepare(data, tokenizers, tmp_path / "store")
    assert len(built) == 2


def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(writing._Column, "write", full)
        with pytest.raises(NmtError, match="store: token ids cannot be written there: No space left on device"):
            prepare(data, tokenizers, tmp_path / "store")
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]
    (tmp_path / "in" / "two.fr").write_bytes(b"caf\xe9\n" * 21)
    with pytest.raises(DataError, match=r"two\.fr:1: byte 4"):
        prepare(data, tokenizers, tmp_path / "store")
    assert all(path.suffix == ".lock" for path in (tmp_path / "store").iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path, data: DataConfig, tokenizers: Tokenizers) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NmtError, match=r"file/x: token ids cannot be written there: Not a directory"):
        prepare(data, tokenizers, tmp_path / "file" / "x")


def test_a_corpus_of_which_nothing_is_left(tmp_path: Path, tokenizers: Tokenizers) -> None:
    data = DataConfig(train=(corpus(tmp_path, "one", [("", "x"), ("y", "")]),))
    with pytest.raises(DataError) as caught:
        prepare(data, tokenizers, tmp_path / "store")
    assert str(caught.value) == (
        "data.train: nothing is left to train on; training pairs: 0 of 2 kept, dropped 2 with a blank side"
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from nmt.config import DataConfig
from nmt.data import store as module, writing
from nmt.data.tokenizer import Tokenizer, Tokenizers
writing.CHUNK, writing.PART = 4, 8
def dying(act):
    def do(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return act(*arguments, **options)
    return do
writing._Column.write = dying(writing._Column.write)
writing.os.fsync = dying(os.fsync)
Path.rename = dying(Path.rename)
tokenizer = Tokenizer.load(Path(sys.argv[2]))
data = DataConfig.model_validate_json(sys.argv[1])
for left in map(int, sys.argv[4:]):
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        continue
    folder = Path(sys.argv[3]) / str(left)
    module.prepare(data, Tokenizers(tokenizer, tokenizer), folder, workers=1)
    os._exit(0)
"""


WHOLE = 98
"""The writes, syncs and renames of a whole store of these corpora."""


def kill(data: DataConfig, tokenizers: Tokenizers, folder: Path, *calls: int) -> list[int]:
    """Have a preparing killed after so many writes, syncs and renames, each in the folder of that name; exit codes."""
    tokenizers.source.save(folder / "x.model")
    arguments = [data.model_dump_json(), str(folder / "x.model"), str(folder), *map(str, calls)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True, capture_output=True, text=True)
    return [int(line) for line in done.stdout.splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_kill_anywhere_and_the_next_one_makes_it_whole(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers
) -> None:
    """At writes, at syncs, before and after renames, most of all towards the end; once twice in a row."""
    wanted = contents(prepare(data, tokenizers, tmp_path / "sound").folder)
    calls = sorted({*range(0, WHOLE, 7), *range(WHOLE - 8, WHOLE + 1)})
    assert kill(data, tokenizers, tmp_path, *calls) == [-signal.SIGKILL] * (len(calls) - 1) + [0]
    assert kill(data, tokenizers, tmp_path, 42) == [-signal.SIGKILL]
    for number in calls:
        seen: list[int] = []
        store = prepare(data, tokenizers, tmp_path / str(number), progress=lambda done, _: seen.append(done))  # noqa: B023
        assert contents(store.folder) == wanted
        assert sorted(path.name for path in store.folder.parent.iterdir()) == [
            store.folder.name,
            f"{store.folder.name}.lock",
        ]
        if number > 70 and seen:
            assert seen[0] > 16, "what was finished is not done again"


def test_one_that_was_stopped_before_there_was_a_reason_is_gone_on_with(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers
) -> None:
    stop(data, tokenizers, tmp_path / "store")
    (journal,) = (tmp_path / "store").glob("*/journal.json")
    content = json.loads(journal.read_text())
    del content["report"]["dropped"]["held_out"]
    journal.write_text(json.dumps(content))
    store = prepare(data, tokenizers, tmp_path / "store")
    assert contents(store.folder) == contents(prepare(data, tokenizers, tmp_path / "other").folder)


def test_a_part_that_is_damaged_is_done_again(tmp_path: Path, data: DataConfig, tokenizers: Tokenizers) -> None:
    wanted = contents(prepare(data, tokenizers, tmp_path / "sound").folder)
    for damage in ("source.ids", "journal.json"):
        stop(data, tokenizers, tmp_path / "store")
        (partial,) = (tmp_path / "store").glob("*.partial")
        (partial / damage).write_bytes((partial / damage).read_bytes()[:5])
        store = prepare(data, tokenizers, tmp_path / "store")
        assert contents(store.folder) == wanted
        shutil.rmtree(store.folder)


@pytest.mark.parametrize("missing", [1, 8, 24])
def test_a_worker_killed_while_it_answers_is_known_for_it(missing: int) -> None:
    """Wherever its answer ends; what is missing could be taken for arrays of nothing."""
    stream = io.BytesIO()
    workers_module._send(stream, {"read": 2}, [np.arange(3), np.arange(2, dtype=np.uint8), np.arange(1)])
    whole = stream.getvalue()
    assert [len(array) for array in workers_module._receive(io.BytesIO(whole))[1]] == [3, 2, 1]
    with pytest.raises(EOFError):
        workers_module._receive(io.BytesIO(whole[:-missing]))


def stop(data: DataConfig, tokenizers: Tokenizers, folder: Path, workers: int = 1) -> None:
    """Have a preparing end by Ctrl-C after its second part."""

    def progress(done: int, total: int | None) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(data, tokenizers, folder, workers=workers, progress=progress)


# ------------------------------------------------------------------------------------------------------ many processes


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks are enough for other processes to work on them."""
    monkeypatch.setattr(writing, "FEW", 8)


def test_as_many_processes_as_one_likes_make_the_same(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, many: None
) -> None:
    apart = Tokenizers(tokenizers.source, Tokenizer(tokenizers.target.to_bytes()))
    wanted = contents(prepare(data, tokenizers, tmp_path / "one", workers=1).folder)
    assert contents(prepare(data, apart, tmp_path / "two", workers=2).folder) == wanted
    stop(data, tokenizers, tmp_path / "store", workers=2)
    assert contents(prepare(data, tokenizers, tmp_path / "store", workers=1).folder) == wanted


@pytest.mark.parametrize("workers", [1, 2])
def test_pairs_of_held_out_lines_are_left_out_and_other_sets_make_another_store(
    workers: int, tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, many: None
) -> None:
    valid = corpus(tmp_path / "in", "valid", [(ROWS[3][0], "other")])
    dropping = data.model_copy(update={"valid": valid, "drop_held_out": True})
    store = prepare(dropping, tokenizers, tmp_path / "store", workers=workers)
    assert [pair.source for pair in store.texts(np.arange(len(store)))] == [one for one, _ in ROWS if one != ROWS[3][0]]
    assert "1 sharing a line with data.valid or data.test" in store.report.text()
    test = corpus(tmp_path / "in", "test", [("other", ROWS[5][1])])
    more = prepare(dropping.model_copy(update={"test": test}), tokenizers, tmp_path / "store", workers=workers)
    assert more.folder != store.folder
    assert len(more) == len(store) - sum(other == ROWS[5][1] for _, other in ROWS)
    keeping = dropping.model_copy(update={"drop_held_out": False})
    digests = [digest_corpus(one) for one in data.train]
    parts = {
        "format": writing.FORMAT,
        "corpora": digests,
        "tokenizers": [tokenizers.source.digest, tokenizers.target.digest],
        "filters": [data.max_length, data.max_ratio, data.drop_duplicates],
    }
    before_there_was_the_option = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    assert name_of(keeping, tokenizers, digests) == before_there_was_the_option


def test_what_a_process_finds_wrong_is_said_as_one_process_would(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, many: None
) -> None:
    lines = (tmp_path / "in" / "two.fr").read_bytes().split(b"\n")
    (tmp_path / "in" / "two.fr").write_bytes(b"\n".join([*lines[:13], b"caf\xe9", *lines[14:]]))
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"two\.fr:14: byte 4 is not UTF-8"):
            prepare(data, tokenizers, tmp_path / "store", workers=workers)
        assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_a_process_that_dies_is_told_of_and_nothing_half_written_is_used(
    tmp_path: Path, data: DataConfig, tokenizers: Tokenizers, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = "import os, sys; sys.stdin.buffer.readline(); os.kill(os.getpid(), 9)"
    with monkeypatch.context() as patch:
        patch.setattr(workers_module, "START", deadly)
        with pytest.raises(NmtError, match=r"a process that was preparing pairs has ended \(exit code -9\)"):
            prepare(data, tokenizers, tmp_path / "store", workers=2)
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]
    assert len(prepare(data, tokenizers, tmp_path / "store", workers=1)) == 30


def test_a_process_that_prepares_imports_no_torch() -> None:
    code = "import sys, nmt.data.workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_at_once_make_one_store(tmp_path: Path, data: DataConfig, tokenizers: Tokenizers) -> None:
    code = KILLED.replace("os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])", "child").replace("/ str(left)", "")
    tokenizers.source.save(tmp_path / "x.model")
    arguments = [data.model_dump_json(), str(tmp_path / "x.model"), str(tmp_path / "store"), "-1", "-1", "-1"]
    code += "assert [os.wait()[1] for _ in range(3)] == [0, 0, 0]"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
    assert len(prepare(data, tokenizers, tmp_path / "store")) == 30
    assert not list((tmp_path / "store").glob("*.partial"))


# -------------------------------------------------------------------------------------------------------------- ragged


def test_rows_of_a_ragged_array() -> None:
    ragged = Ragged.of([[1, 2, 3], [], [4]])
    assert len(ragged) == 3 and ragged.lengths.tolist() == [3, 0, 1]
    assert [ragged[row].tolist() for row in range(3)] == [[1, 2, 3], [], [4]]
    taken = ragged.take(np.array([2, 0, 0, 1]))
    assert [taken[row].tolist() for row in range(4)] == [[4], [1, 2, 3], [1, 2, 3], []]
    joined = Ragged.joined([ragged, taken])
    assert [joined[row].tolist() for row in range(7)] == [[1, 2, 3], [], [4], [4], [1, 2, 3], [1, 2, 3], []]
    selected = joined.select(np.array([False, True, False, True, False, True, False]))
    assert [selected[row].tolist() for row in range(3)] == [[], [4], [1, 2, 3]]
    ids, mask = taken.fill(9, extra=1)
    assert ids.tolist() == [[4, 9, 9, 9], [1, 2, 3, 9], [1, 2, 3, 9], [9, 9, 9, 9]]
    assert mask.tolist() == [[n < length for n in range(4)] for length in (1, 3, 3, 0)]
