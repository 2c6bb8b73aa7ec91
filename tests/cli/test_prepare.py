"""nmt prepare as a shell meets it: what it makes is what training finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.data import ahead
from nmt.data.filters import find_overlaps
from nmt.errors import NmtError
from nmt_cli.main import main
from tests.training.recipes import small_recipe


@pytest.fixture
def recipe(corpus: Path, tmp_path: Path) -> str:
    small = small_recipe(corpus, "gru", "gru")
    data = small.data.model_copy(update={"valid": small.data.train[0]})
    (tmp_path / "small.toml").write_text(small.model_copy(update={"data": data}).to_toml())
    return str(tmp_path / "small.toml")


def test_training_finds_all_that_was_prepared(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ["--store", str(tmp_path / "store")]
    assert main(["prepare", recipe, *store, "--workers", "1"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "tokenizer of" in told.err and "training pairs: 120 of 120 kept" in told.err
    assert "120 of 120 pairs also stand in data.train" in told.err
    assert told.err.splitlines()[-1].endswith(": ready for nmt train")

    def never(*_: object, **__: object) -> None:
        raise NmtError("made again")

    for module, name in (("ahead", "train_tokenizers"), ("ahead", "find_overlaps"), ("store", "build")):
        monkeypatch.setattr(f"nmt.data.{module}.{name}", never)
    before = sorted((tmp_path / "store").iterdir())
    short = ["--set", "training.max_steps=1", "--set", "training.validate_every=1", "--device", "cpu"]
    assert main(["train", recipe, *store, *short, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert "120 of 120 pairs also stand in data.train" in told.err
    assert "training a" not in told.err
    assert sorted((tmp_path / "store").iterdir()) == before
    assert main(["prepare", recipe, *store]) == 0
    assert main(["prepare", recipe, *store, "--set", "training.seed=5"]) == 1  # another tokenizer
    assert "made again" in capsys.readouterr().err


def test_what_is_kept_damaged_is_made_again(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "store")]
    assert main(["prepare", recipe, *store]) == 0
    for pattern in ("*.tokenizers", "*.overlaps.json"):
        (kept,) = (tmp_path / "store").glob(pattern)
        whole = kept.read_bytes()
        kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert main(["prepare", recipe, *store]) == 0
        assert kept.read_bytes() == whole
    assert capsys.readouterr().err.count("tokenizer of") == 2


def test_overlaps_are_those_of_the_held_out_sets(corpus: Path, tmp_path: Path) -> None:
    data = small_recipe(corpus, "gru", "gru").data
    leaking = data.model_copy(update={"test": data.train[0]})
    for one in (data, leaking, leaking):
        assert ahead.ready_overlaps(one, tmp_path) == find_overlaps(one)
    assert ahead.ready_overlaps(leaking, tmp_path)
    assert ahead.ready_overlaps(leaking.model_copy(update={"drop_held_out": True}), tmp_path) == []


def test_what_cannot_be_prepared_is_refused_in_a_line(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(tmp_path / "nowhere.toml")]) == 2
    (tmp_path / "empty.toml").write_text("")
    assert main(["prepare", str(tmp_path / "empty.toml")]) == 2
    assert "the recipe has no data.train" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["prepare", recipe, "--store", str(tmp_path / "file" / "x")]) == 1
    err = capsys.readouterr().err
    assert "file/x: token ids cannot be written there: Not a directory; name another folder with --store" in err
    assert "training a joint" not in err, "before a tokenizer is trained"


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_held_out_set_that_cannot_be_read_is_told_before_anything_is_tokenised(
    recipe: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    broken = f'data.{split} = {{ source = "{corpus / "train.en"}", target = "{tmp_path / "typo"}" }}'
    assert main(["prepare", recipe, "--store", str(tmp_path / "store"), "--set", broken]) == 3
    err = capsys.readouterr().err
    assert "typo: cannot be read" in err and "training a joint" not in err
    assert not (tmp_path / "store").exists()
