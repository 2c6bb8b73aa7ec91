"""``nmt race`` as a shell meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmt.config import parse_recipe
from nmt_cli.main import main
from tests.training.recipes import small_recipe


@pytest.fixture
def files(corpus: Path, tmp_path: Path) -> list[str]:
    """Two recipes as files."""
    for name in ("gru", "lstm"):
        (tmp_path / f"{name}.toml").write_text(small_recipe(corpus, name, name).to_toml())
    return [str(tmp_path / f"{name}.toml") for name in ("gru", "lstm")]


def test_a_table_on_stdout_and_a_picture(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--out", str(tmp_path / "race"), "--store", str(tmp_path / "store")]
    assert main(["race", *files, "--budget", "1s", "--device", "cpu", *where]) == 0
    told = capsys.readouterr()
    head, *rows = told.out.splitlines()
    assert head.split()[:3] == ["recipe", "runs", "BLEU"]
    assert sorted(row.split()[0] for row in rows) == ["gru", "lstm"]
    assert f"picture: {tmp_path / 'race' / 'race.svg'}" in told.err
    assert (tmp_path / "race" / "race.svg").stat().st_size > 1000
    assert main(["race", *files, "--budget", "1s", *where]) == 2
    assert "holds a run already; go on with --resume" in capsys.readouterr().err
    assert main(["race", *files, "--budget", "1s", *where, "--resume"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(told.out.splitlines())


def test_the_test_set_is_scored_if_asked_for(
    files: list[str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--out", str(tmp_path / "race"), "--store", str(tmp_path / "store"), "--device", "cpu"]
    assert main(["race", files[0], "--budget", "1s", "--test", *where]) == 0
    told = capsys.readouterr()
    assert "test BLEU  test chrF2" in told.out.splitlines()[0]
    assert "test set: nrefs:1|case:mixed|" in told.err
    assert len(list((tmp_path / "race" / "gru" / "seed-1" / "evaluations").glob("test.*.json"))) == 1
    without = parse_recipe(Path(files[0]).read_text()).model_copy()
    data = without.data.model_copy(update={"test": None})
    (tmp_path / "none.toml").write_text(without.model_copy(update={"data": data}).to_toml())
    assert main(["race", str(tmp_path / "none.toml"), "--budget", "1s", "--test", "--out", str(tmp_path / "no")]) == 2
    assert "none: has no data.test, which --test asks for" in capsys.readouterr().err
    for side in ("en", "fr"):
        (tmp_path / f"empty.{side}").write_text("")
    empty = {"source": str(tmp_path / "empty.en"), "target": str(tmp_path / "empty.fr")}
    setting = f"data.test={{source={empty['source']!r}, target={empty['target']!r}}}"
    assert main(["race", files[0], "--budget", "1h", "--test", "--out", str(tmp_path / "no"), "--set", setting]) == 3
    assert "there are no sentence pairs in it" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_raced_is_refused_in_a_line(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["race", files[0]]) == 2
    assert "--budget" in capsys.readouterr().err
    assert main(["race", files[0], "--budget", "soon"]) == 2
    assert "soon" in capsys.readouterr().err
    assert main(["race", files[0], files[0], "--budget", "1s"]) == 2
    assert "two recipes of the race are called" in capsys.readouterr().err
    assert main(["race", str(tmp_path / "nowhere.toml"), "--budget", "1s"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
