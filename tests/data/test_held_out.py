"""One corpus as three: nothing is lost, nothing held out is met elsewhere, and the seed decides."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import TextCorpus
from nmt.data import held_out
from nmt.data.held_out import Held, hold_out, language_of
from nmt.errors import ConfigError, DataError, NmtError

Lines = list[tuple[str, str]]


def write(folder: Path, pairs: Lines) -> TextCorpus:
    folder.mkdir(parents=True, exist_ok=True)
    for side, name in enumerate(("all.en", "all.fr")):
        (folder / name).write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8", newline="")
    return TextCorpus(source=folder / "all.en", target=folder / "all.fr")


def read(folder: Path) -> dict[str, Lines]:
    found = {}
    for name in ("train", "valid", "test"):
        sides = [(folder / f"{name}.{language}") for language in ("en", "fr")]
        if sides[0].exists():
            lines = [side.read_bytes().decode().split("\n")[:-1] for side in sides]
            found[name] = list(zip(*lines, strict=True))
    return found


def split(pairs: Lines, folder: Path, **how: Any) -> tuple[dict[str, Lines], Held]:
    held = hold_out(write(folder, pairs), folder / "out", ("en", "fr"), **how)
    return read(folder / "out"), held


PAIRS = [(f"the cat {number}", f"le chat {number}") for number in range(60)]


def test_what_is_held_out_is_a_twentieth_of_it_and_the_rest_is_in_order(tmp_path: Path) -> None:
    found, held = split(PAIRS, tmp_path)
    assert held == Held({"train": 54, "valid": 3, "test": 3}, 0)
    assert {name: len(pairs) for name, pairs in found.items()} == held.pairs
    assert found["train"] == [pair for pair in PAIRS if pair in found["train"]]
    assert sorted(pair for pairs in found.values() for pair in pairs) == sorted(PAIRS)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(["", " ", "a", "b", "c d", "e", "f", "g"]), st.text("xyz \x85", max_size=3))
    ),
    valid=st.integers(0, 3),
    test=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_no_line_that_is_held_out_stands_elsewhere(
    pairs: Lines, valid: int, test: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And there is nothing to be had where it is refused: counted a second time, from what stands once."""
    folder = tmp_path_factory.mktemp("split")
    sources, targets = Counter(pair[0] for pair in pairs), Counter(pair[1] for pair in pairs)
    alone = [s for s, t in pairs if sources[s] == targets[t] == 1 and s.strip() and t.strip()]
    wanted = valid + test
    if not wanted:
        with pytest.raises(ConfigError, match="nothing is to be held out"):
            split(pairs, folder, valid=valid, test=test, seed=seed)
    elif wanted >= len(pairs) or wanted > len(alone):
        with pytest.raises(DataError, match=r"are too few to hold|that stand in it once, .* ask for fewer"):
            split(pairs, folder, valid=valid, test=test, seed=seed)
        assert not (folder / "out").exists() or not any((folder / "out").iterdir())
    else:
        found, held = split(pairs, folder, valid=valid, test=test, seed=seed)
        assert Counter(pair for part in found.values() for pair in part) == Counter(pairs)
        assert (len(found.get("valid", ())), len(found.get("test", ()))) == (valid, test)
        for name in ("valid", "test"):
            assert all(sources[s] == targets[t] == 1 for s, t in found.get(name, ()))
        assert held.passed <= len(pairs) - wanted


def test_the_seed_decides_and_more_of_the_one_leaves_the_other(tmp_path: Path) -> None:
    once, again, other, more = (
        split(PAIRS, tmp_path / name, valid=valid, test=4, seed=seed)[0]
        for name, valid, seed in (("a", 3, 1), ("b", 3, 1), ("c", 3, 2), ("d", 9, 1))
    )
    assert once == again
    assert once["test"] != other["test"]
    assert more["test"] == once["test"] and more["valid"][:3] == once["valid"]


def test_where_most_lines_are_repeated_it_looks_for_those_that_are_not(tmp_path: Path) -> None:
    """Further than at first; the test set is drawn from the whole of the corpus, not from its beginning."""
    pairs = [("yes", "oui")] * 3000
    for place in (10, 1500, 2990):
        pairs[place] = (f"line {place}", f"ligne {place}")
    found, held = split(pairs, tmp_path, valid=1, test=2)
    assert {s for name in ("valid", "test") for s, _ in found[name]} == {"line 10", "line 1500", "line 2990"}
    assert held.passed > 100


def test_compressed_files_and_their_languages(tmp_path: Path) -> None:
    corpus = write(tmp_path, PAIRS)
    packed = tmp_path / "all.en.gz"
    packed.write_bytes(gzip.compress(corpus.source.read_bytes()))
    hold_out(TextCorpus(source=packed, target=corpus.target), tmp_path / "a", ("en", "fr"))
    hold_out(corpus, tmp_path / "b", ("en", "fr"))
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert [language_of(Path(name)) for name in ("x/news.2024.fr.gz", "a.de", "readme", "a.zst")] == [
        "fr",
        "de",
        "",
        "",
    ]


def test_what_is_there_stays(tmp_path: Path) -> None:
    corpus = write(tmp_path, PAIRS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "valid.fr.gz").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"valid.fr.gz: is there already: name another folder with --out"):
        hold_out(corpus, tmp_path / "out", ("en", "fr"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["valid.fr.gz"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dev.en").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"dev.en: is there already"):
        hold_out(corpus, tmp_path / "other", ("en", "fr"))
    with pytest.raises(NmtError, match="the corpus cannot be written"):
        hold_out(corpus, corpus.source / "out", ("en", "fr"))


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write(tmp_path, PAIRS)
    with corpus.source.open("ab") as stream:
        stream.write(b"one more\n")
    with pytest.raises(DataError, match="61 lines"):
        hold_out(corpus, tmp_path / "out", ("en", "fr"))
    corpus.target.write_bytes(corpus.target.read_bytes() + b"\xff\n")
    with pytest.raises(DataError, match=r"all.fr:61: byte 1 is not UTF-8"):
        hold_out(corpus, tmp_path / "out", ("en", "fr"))

    real = held_out._writer

    class Full:
        """A disk that has room for ten lines."""

        def __init__(self, stream: Any) -> None:
            self.left = 10
            self.stream = stream

        def write(self, line: bytes) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
            self.stream.write(line)

    monkeypatch.setattr(held_out, "_writer", lambda *arguments: Full(real(*arguments)))
    with pytest.raises(NmtError, match="out: the corpus cannot be written: No space left on device"):
        hold_out(write(tmp_path, PAIRS), tmp_path / "out", ("en", "fr"))
    assert list((tmp_path / "out").iterdir()) == []
