"""Batches: what is in them, the order they come in, and how little of them is padding."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from nmt.config import DataConfig, TextCorpus, TokenizerConfig
from nmt.data import batching
from nmt.data.batching import Batch, BatchSource, collate, pad
from nmt.data.order import Permutation, random_of
from nmt.data.ragged import Numbers, Ragged
from nmt.data.store import CorpusRows, Store, prepare
from nmt.data.tokenizer import Tokenizer, Tokenizers, train_tokenizer


def test_pad() -> None:
    ids, mask = pad([[5, 6], [], [7]], 9)
    assert ids.tolist() == [[5, 6], [9, 9], [7, 9]] and ids.dtype == torch.long
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    assert [tensor.shape for tensor in pad([], 0)] == [(0, 0), (0, 0)]


def test_collate() -> None:
    batch = collate([([5, 6], [7]), ([8], [4, 5, 6])], [30, 10], pad_id=0, bos_id=2, eos_id=3)
    assert batch.source.tolist() == [[5, 6, 3], [8, 3, 0]]
    assert batch.source_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.target_in.tolist() == [[2, 7, 0, 0], [2, 4, 5, 6]]
    assert batch.target_out.tolist() == [[7, 3, 0, 0], [4, 5, 6, 3]]
    assert batch.target_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.rows.tolist() == [30, 10]
    assert len(batch) == 2 and batch.target_tokens == 6


# --------------------------------------------------------------------------------------------------------------- order


class FakeStore(Store):
    """Rows of given lengths whose ids all are 100 + row; ``corpora`` as (rows, weight)."""

    def __init__(self, source: np.ndarray[Any, Any], target: np.ndarray[Any, Any], *corpora: tuple[int, float]) -> None:
        self.source, self.target = (
            Ragged.of([[100 + row] * length for row, length in enumerate(side.tolist())]) for side in (source, target)
        )
        self.max_length, start = 0, 0
        self.mean_length = float(np.maximum(source, target).mean())
        self._maps = []
        self.corpora = ()
        for rows, weight in corpora or ((len(source), 1.0),):
            self.corpora += (CorpusRows(start, start + rows, weight),)
            start += rows


class FakeTokenizer(Tokenizer):
    def __init__(self) -> None:
        self.pad_id, self.bos_id, self.eos_id = 0, 2, 3


def source_of(store: Store, *, batch_tokens: int = 1000, seed: int = 1) -> BatchSource:
    return BatchSource(store, Tokenizers(FakeTokenizer(), FakeTokenizer()), batch_tokens=batch_tokens, seed=seed)


def lengths(number: int, seed: int = 1) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Like those of sentences: a long tail, the two sides alike."""
    random = np.random.default_rng(seed)
    source = 1 + random.gamma(3.0, 6.0, number)
    return source.astype(int), np.maximum(1, source * random.normal(1.1, 0.2, number)).astype(int)


def shape(batch: Batch) -> int:
    return len(batch) * max(batch.source.shape[1], batch.target_in.shape[1])


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


def test_every_pair_comes_once_an_epoch_within_the_budget() -> None:
    store = FakeStore(*lengths(3000))
    batches = list(source_of(store).batches(0))
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(3000))
    assert max(map(shape, batches)) <= 1000
    for batch in batches:
        for n, row in enumerate(batch.rows.tolist()):
            length = len(store.source[row])
            assert batch.source[n].tolist()[: length + 1] == [100 + row] * length + [3]
            assert int(batch.source_mask[n].sum()) == length + 1
            assert int(batch.target_mask[n].sum()) == len(store.target[row]) + 1


def test_little_of_a_batch_is_padding_or_left_empty() -> None:
    batches = list(source_of(FakeStore(*lengths(20_000)), batch_tokens=4096).batches(0))
    places = sum(batch.source_mask.numel() + batch.target_mask.numel() for batch in batches)
    real = sum(int(batch.source_mask.sum() + batch.target_mask.sum()) for batch in batches)
    assert 1 - real / places < 0.10
    assert sum(map(shape, batches)) / len(batches) > 0.9 * 4096


def test_a_pair_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    batches = list(source_of(FakeStore(np.array([3, 50, 2]), np.array([3, 9, 2])), batch_tokens=20).batches(0))
    assert sorted(map(sorted, rows_of(batches))) == [[0, 2], [1]]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    store = FakeStore(*lengths(2000))
    first = rows_of(list(source_of(store).batches(3)))
    assert rows_of(list(source_of(store).batches(3))) == first
    others = [list(source_of(store).batches(4)), list(source_of(store, seed=2).batches(3))]
    for other in map(rows_of, others):
        assert other != first
        assert sorted(itertools.chain(*other)) == sorted(itertools.chain(*first)) == list(range(2000))
        assert len({frozenset(rows) for rows in other} & {frozenset(rows) for rows in first}) < len(first) / 2


def test_the_order_is_the_same_in_every_version() -> None:
    """Else a run begun with one could not be resumed with another."""
    rows = np.arange(40)
    source = source_of(FakeStore(1 + rows * 7 % 23, 1 + rows * 5 % 19), batch_tokens=100)
    assert rows_of(list(source.batches(1)))[:3] == [[36, 2, 21, 25], [3, 26, 7, 30], [19, 38, 0, 23, 4]]
    assert Permutation(1000, random_of(1, 2))(np.arange(5)).tolist() == [826, 770, 208, 579, 492]


@pytest.mark.parametrize("window", [2, 128])
def test_an_epoch_can_begin_anywhere(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "WINDOW", window)
    source = source_of(FakeStore(*lengths(1000)))
    whole = rows_of(list(source.batches(2)))
    places = [place for place, _ in source.plan(2)]
    assert len(places) == len(whole) and places == sorted(set(places)) and places[0] == 1
    for number, start in enumerate([0, *places]):
        assert rows_of(list(source.batches(2, start))) == whole[number:]


def test_to_begin_late_is_to_read_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "WINDOW", 4)
    store = FakeStore(*lengths(3000))
    source = source_of(store)
    places = [place for place, _ in source.plan(0)]
    read: list[int] = []

    def take(rows: Numbers) -> tuple[Ragged, Ragged]:
        read.append(len(rows))
        return Store.take(store, rows)

    monkeypatch.setattr(store, "take", take)
    next(source.batches(0, places[-5]))
    assert len(read) == 1 and read[0] < 500


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000, 12_345])
def test_a_permutation_has_every_number_once_wherever_it_is_asked(size: int) -> None:
    permutation = Permutation(size, random_of(1, 2))
    whole = permutation(np.arange(size))
    assert sorted(whole.tolist()) == list(range(size))
    assert permutation(np.array([size // 2, 0])).tolist() == [whole[size // 2], whole[0]]
    if size > 10:
        assert Permutation(size, random_of(1, 3))(np.arange(size)).tolist() != whole.tolist()


def test_a_permutation_looks_random() -> None:
    """Every number goes everywhere, neighbours part, and what comes next to what depends on the seed."""
    size, seeds = 40, 1000
    at = np.zeros((size, size))
    follows = 0
    for seed in range(seeds):
        whole = Permutation(size, random_of(seed))(np.arange(size))
        at[np.arange(size), whole] += 1
        follows += int(np.count_nonzero(np.diff(whole) == 1))
    chi_square = float(((at - seeds / size) ** 2 / (seeds / size)).sum())
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)
    expected = seeds * (size - 1) / size
    assert abs(follows - expected) < 5 * np.sqrt(expected)
    large = Permutation(100_000, random_of(1))(np.arange(100_000))
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(large, np.arange(100_000))[0, 1]) < 0.02


def test_batches_come_in_no_order_of_length() -> None:
    widths = [batch.target_in.shape[1] for batch in source_of(FakeStore(*lengths(5000))).batches(0)]
    assert abs(np.corrcoef(widths, range(len(widths)))[0, 1]) < 0.3


def test_weights_are_times_an_epoch_and_fractions_are_drawn_anew() -> None:
    store = FakeStore(*lengths(400), (100, 2.0), (200, 0.25), (100, 1.5))
    source = source_of(store)
    drawn = []
    for epoch in range(2):
        seen = Counter(row for batch in source.batches(epoch) for row in batch.rows.tolist())
        assert {seen[row] for row in range(100)} == {2}
        assert sum(seen[row] for row in range(100, 300)) == 50 and max(seen[row] for row in range(100, 300)) == 1
        assert Counter(seen[row] for row in range(300, 400)) == {1: 50, 2: 50}
        drawn.append({row for row in range(100, 300) if seen[row]})
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("rows", "weight", "seen"), [(100, 2.2, 220), (1000, 1.3, 1300), (10, 1.1, 11), (10, 0.33, 4), (10, 1e-8, 1)]
)
def test_a_weight_is_taken_as_it_is_written(rows: int, weight: float, seen: int) -> None:
    source = source_of(FakeStore(*lengths(rows), (rows, weight)))
    assert sum(len(batch.rows) for batch in source.batches(0)) == seen


# ------------------------------------------------------------------------------------------------------------ sampling


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Tokenizers]:
    folder = tmp_path_factory.mktemp("real")
    words = "banana bandana cabana panama an a band nana manana cabaret bar ban".split(" ")  # noqa: SIM905
    lines = [" ".join(words[(i * k) % len(words)] for k in range(1, 3 + i % 9)) for i in range(300)]
    (folder / "x").write_text("".join(f"{line}\n" for line in lines))
    (folder / "y").write_text("".join(f"{line.title()}\n" for line in lines))
    joint = train_tokenizer(lines, TokenizerConfig(vocabulary=290), seed=1)
    tokenizers = Tokenizers(joint, joint)
    corpus = TextCorpus(source=folder / "x", target=folder / "y", weight=2.0)
    return prepare(DataConfig(train=(corpus,), max_length=40), tokenizers, folder / "store"), tokenizers


def texts(batch: Batch, tokenizers: Tokenizers) -> list[tuple[str, str]]:
    return [
        (
            tokenizers.source.decode(batch.source[n][batch.source_mask[n]].tolist()),
            tokenizers.target.decode(batch.target_out[n][batch.target_mask[n]].tolist()),
        )
        for n in range(len(batch))
    ]


def test_sampled_batches_hold_the_same_text_in_other_pieces(real: tuple[Store, Tokenizers]) -> None:
    store, tokenizers = real
    sampled = BatchSource(store, tokenizers, batch_tokens=400, seed=1, sampling=0.2)
    cuts: dict[int, set[tuple[int, ...]]] = {row: set() for row in range(300)}
    for epoch in range(3):
        batches = list(sampled.batches(epoch))
        assert max(map(shape, batches)) <= 400
        assert max(batch.target_in.shape[1] for batch in batches) <= 41
        assert Counter(row for batch in batches for row in batch.rows.tolist()) == dict.fromkeys(range(300), 2)
        for batch in batches:
            for n, row in enumerate(batch.rows.tolist()):
                pair = store.text(row)
                assert texts(batch, tokenizers)[n] == (pair.source, pair.target)
                cuts[row].add(tuple(batch.source[n][batch.source_mask[n]].tolist()))
    assert sum(len(ways) > 2 for ways in cuts.values()) > 200  # the two times of one epoch are cut in two ways


def test_sampled_epochs_repeat_and_can_begin_anywhere(
    real: tuple[Store, Tokenizers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "WINDOW", 5)

    def ids(start: int = 0, epoch: int = 1) -> list[Any]:
        source = BatchSource(*real, batch_tokens=400, seed=1, sampling=0.2)
        return [(batch.rows.tolist(), batch.source.tolist()) for batch in source.batches(epoch, start)]

    whole = ids()
    assert ids() == whole and ids(epoch=2) != whole
    places = [place for place, _ in BatchSource(*real, batch_tokens=400, seed=1, sampling=0.2).plan(1)]
    for number in (1, 7, len(whole) - 1):
        assert ids(places[number - 1]) == whole[number:]


def test_without_sampling_the_ids_are_those_of_the_store(real: tuple[Store, Tokenizers]) -> None:
    store, tokenizers = real
    for batch in BatchSource(store, tokenizers, batch_tokens=400, seed=1).batches(0):
        for n, row in enumerate(batch.rows.tolist()):
            assert batch.source[n][batch.source_mask[n]].tolist() == [*store.ids(row)[0].tolist(), 3]


def test_halves_of_a_batch_are_its_rows_in_order() -> None:
    pairs = [([5, 6, 7], [8]), ([4], [5, 6]), ([9], [])]
    whole = collate(pairs, [7, 8, 9], pad_id=0, bos_id=2, eos_id=3)
    assert whole.padded_tokens == 3 * 4
    first, rest = whole.halves()
    assert (first.rows.tolist(), rest.rows.tolist()) == ([7], [8, 9])
    for field in dataclasses.fields(whole):
        parts = [getattr(first, field.name), getattr(rest, field.name)]
        assert torch.equal(torch.cat(parts), getattr(whole, field.name))
    with pytest.raises(ValueError, match="one row"):
        first.halves()
    assert whole.twice().rows.tolist() == [7, 8, 9, 7, 8, 9]
    assert torch.equal(whole.twice().halves()[1].source, whole.source)
