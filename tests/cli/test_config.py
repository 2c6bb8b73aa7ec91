"""``nmt config``: what it prints is the recipe, and each value says where it came from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nmt.config import load_recipe, parse_recipe
from nmt_cli.main import main


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[data]\nsource = "en"\n[data.train]\nsource = "a.en"\ntarget = "a.fr"\n'
        '[model]\nencoder = "gru"\ntied_embeddings = 0\n[model.decoder]\ntype = "lstm"\nattention = "general"\n'
        "[training]\nmax_steps = 7\n"
    )
    return path


def origins(text: str) -> dict[str, str]:
    """``[table] key`` to the comment behind its value."""
    found, table = {}, ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif line:
            value, _, comment = line.rpartition("  # ")
            found[f"{table}.{value.partition(' = ')[0]}"] = comment
    return found


def test_what_it_prints_is_the_recipe(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["training.betas=[0.8, 0.9]", "model.decoder.layers=2"]
    assert main(["config", str(recipe), "--set", overrides[0], "--set", overrides[1]]) == 0
    printed = capsys.readouterr().out
    assert parse_recipe(printed) == load_recipe(recipe, overrides)


def test_every_value_says_where_it_came_from(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["training.schedule=cosine", "model.decoder={type='lstm', layers=2, attention='general'}", "data.target=fr"]
    assert main(["config", str(recipe), *(part for one in sets for part in ("--set", one))]) == 0
    found = origins(capsys.readouterr().out)
    from_recipe = {
        "data.source",
        "data.train.source",
        "data.train.target",
        "model.encoder.type",
        "model.tied_embeddings",
        "training.max_steps",
    }
    from_flag = {
        "training.schedule.type",
        "model.decoder.type",
        "model.decoder.layers",
        "model.decoder.attention",
        "data.target",
    }
    assert {key for key, origin in found.items() if origin == str(recipe)} == from_recipe
    assert {key for key, origin in found.items() if origin == "--set"} == from_flag
    assert {origin for key, origin in found.items() if key not in from_recipe | from_flag} == {"default"}


def test_a_table_that_is_replaced_leaves_no_origins_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[training]\nschedule = { type = 'linear', warmup_steps = 200 }\nmax_steps = 7\n")
    assert main(["config", str(path), "--set", "training.schedule=cosine"]) == 0
    found = origins(capsys.readouterr().out)
    assert found["training.schedule.type"] == "--set"
    assert found["training.schedule.warmup_steps"] == "default"
    assert found["training.max_steps"] == str(path)


def test_the_environment_is_named(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NMT_SET", "training.max_steps=8 decoding.beam=3")
    assert main(["config", str(recipe)]) == 0
    found = origins(capsys.readouterr().out)
    assert {key for key, origin in found.items() if origin == "NMT_SET"} == {"training.max_steps", "decoding.beam"}


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="there is no /dev/fd here")
def test_a_recipe_out_of_a_pipe_says_where_it_came_from_too(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is read twice is empty the second time."""
    reading, writing = os.pipe()
    os.write(writing, recipe.read_bytes())
    os.close(writing)
    assert main(["config", f"/dev/fd/{reading}"]) == 0
    os.close(reading)
    assert origins(capsys.readouterr().out)["training.max_steps"] == f"/dev/fd/{reading}"


def test_json(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", str(recipe), "--json", "--set", "decoding.beam=3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["decoding"]["beam"] == 3
    assert printed["training"]["max_steps"] == 7


def test_a_wrong_recipe_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[training]\nmax_stepz = 7\n")
    assert main(["config", str(path)]) == 2
    captured = capsys.readouterr()
    line = f"nmt: error: {path}: training.max_stepz: unknown key, did you mean 'max_steps'?\n"
    assert (captured.out, captured.err) == ("", line)


def test_a_recipe_of_a_windows_editor_is_shown_too(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_bytes(b"\xef\xbb\xbf" + recipe.read_bytes().replace(b"\n", b"\r\n"))
    assert main(["config", str(recipe)]) == 0
    assert parse_recipe(capsys.readouterr().out) == load_recipe(recipe)
