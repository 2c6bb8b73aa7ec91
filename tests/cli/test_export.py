"""nmt export as a shell meets it: from a trained run to an export that translates, and every way that can end."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nmt.checkpoint import MANIFEST, Run, json_bytes, write_folder
from nmt.decoding.exported import EXPORT, Export
from nmt.decoding.translator import Translator
from nmt.errors import CheckpointError
from nmt.export.parity import Parity
from nmt_cli.main import main
from tests.export.tiny import LINES, TRANSFORMER, recipe_of, run_of

HERE = Path(__file__).parent.parent / "runs"
TRAINED = HERE / "0.1.0"
SOURCE = HERE / "corpus" / "train.en"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained transformer for both engines."""
    folder = tmp_path_factory.mktemp("exports")
    for kind in ("ctranslate2", "onnx"):
        done = main(
            ["export", str(TRAINED / "transformer"), "--to", kind, "--out", str(folder / kind), "--source", str(SOURCE)]
        )
        assert done == 0
    return {kind: folder / kind for kind in ("ctranslate2", "onnx")}


@pytest.mark.parametrize("kind", ["ctranslate2", "onnx"])
def test_an_export_translates_as_the_run_did_when_it_was_trained(
    exports: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    moved = shutil.copytree(exports[kind], tmp_path / "moved")
    assert main(["translate", str(moved), "-i", str(SOURCE), "-o", str(tmp_path / "out"), "--threads", "1"]) == 0
    assert (tmp_path / "out").read_bytes() == SOURCE.with_suffix(".fr").read_bytes()


def test_links_are_those_of_the_run(exports: dict[str, Path], tmp_path: Path) -> None:
    written = []
    for number, folder in enumerate((TRAINED / "transformer", *exports.values())):
        out = tmp_path / str(number)
        assert main(["translate", str(folder), "-i", str(SOURCE), "-o", str(out), "--align", "hard"]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("family", ["bahdanau", "luong"])
def test_recurrent_runs_go_to_onnx(family: str, tmp_path: Path, capsys: Capture) -> None:
    run, out = TRAINED / family, tmp_path / "out"
    assert main(["export", str(run), "--to", "onnx", "--out", str(out), "--source", str(SOURCE)]) == 0
    lines = len(SOURCE.read_text().splitlines())
    assert f"checked on {lines} lines: {lines} equal to the run's, BLEU 100.00" in capsys.readouterr().out
    assert main(["export", str(run), "--to", "ctranslate2", "--out", str(tmp_path / "other")]) == 2
    kind = {"bahdanau": "gru", "luong": "lstm"}[family]
    assert f"CTranslate2 cannot run a {kind} encoder: export it with --to onnx" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["ctranslate2", "onnx"])
def test_a_quantised_export_says_how_far_it_is_off(kind: str, tmp_path: Path, capsys: Capture) -> None:
    command = ["export", str(TRAINED / "transformer"), "--to", kind, "--quantize", "int8", "--out", str(tmp_path / "x")]
    assert main([*command, "--source", str(SOURCE), "--check", "4"]) == 0
    assert "checked on 4 lines: " in capsys.readouterr().out
    assert json.loads((tmp_path / "x" / EXPORT).read_text())["quantization"] == "int8"


def test_the_validation_set_is_what_it_is_checked_on(tmp_path: Path, corpus: Path, capsys: Capture) -> None:
    recipe = recipe_of(TRANSFORMER, TRANSFORMER, 3)
    valid = {"source": str(corpus / "valid.en"), "target": str(corpus / "valid.fr")}
    data = recipe.data.model_validate({"valid": valid})
    run = run_of(tmp_path / "run", recipe.model_copy(update={"data": data}))
    assert main(["export", str(run.folder), "--to", "ctranslate2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{run.folder}/exports/ctranslate2: 0.") and "checked on 15 lines: 15 equal" in said
    assert Export.open(run.folder / "exports" / "ctranslate2").run["run"] == "run"
    (valid_gone := tmp_path / "gone").mkdir()
    lost = {name: str(valid_gone / Path(path).name) for name, path in valid.items()}
    data = recipe.data.model_validate({"valid": lost})
    other = run_of(tmp_path / "other", recipe.model_copy(update={"data": data}))
    assert main(["export", str(other.folder), "--to", "ctranslate2"]) == 0
    told = capsys.readouterr()
    assert "the run's validation set cannot be read, name another text with --source" in told.err
    assert "nothing was checked" in told.out
    bare = run_of(tmp_path / "bare", recipe.model_copy(update={"data": recipe.data.model_validate({})}))
    assert main(["export", str(bare.folder), "--to", "ctranslate2"]) == 0
    words = "the run's recipe has no validation set: name a text to compare with --source"
    assert capsys.readouterr().err == f"nmt: warning: {words}\n"


def test_a_search_that_ctranslate2_has_not_is_left_out_of_its_export(tmp_path: Path, capsys: Capture) -> None:
    recipe = recipe_of(TRANSFORMER, TRANSFORMER, 3)
    decoding = recipe.decoding.model_copy(update={"stopping": "exact", "coverage_penalty": 0.2})
    run, out = run_of(tmp_path / "run", recipe.model_copy(update={"decoding": decoding})), tmp_path / "out"
    assert main(["export", str(run.folder), "--to", "ctranslate2", "--out", str(out), "--source", str(SOURCE)]) == 0
    said = capsys.readouterr().err
    for name in ("coverage_penalty", "stopping"):
        assert f"nmt: warning: the recipe's decoding.{name}: CTranslate2 cannot; the export searches without" in said
    export = Export.open(out)
    assert (export.decoding.stopping, export.decoding.coverage_penalty) == ("fast", 0)
    assert export.learnt == Translator.load(out).learnt == recipe.data.max_length
    assert main(["translate", str(out), "-i", str(SOURCE), "-o", str(tmp_path / "text")]) == 0


def test_an_export_that_translates_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A sign lost on the way: what would be written is whole, and wrong."""
    from nmt.export import ctranslate2

    convert = ctranslate2.convert

    def other(model, config, *rest):  # type: ignore[no-untyped-def]
        model.encoder.layers[0].self_attention.output.weight.data.mul_(-1)
        made = convert(model, config, *rest)
        model.encoder.layers[0].self_attention.output.weight.data.mul_(-1)
        return made

    monkeypatch.setattr(ctranslate2, "convert", other)
    command = ["export", str(TRAINED / "transformer"), "--to", "ctranslate2", "--out", str(tmp_path / "exports" / "x")]
    assert main([*command, "--source", str(SOURCE)]) == 1
    assert "does not translate as the run does, and was not written: checked on" in capsys.readouterr().err
    assert list((tmp_path / "exports").iterdir()) == []


def test_what_stands_in_the_place_is_left_alone(tmp_path: Path, exports: dict[str, Path], capsys: Capture) -> None:
    place = shutil.copytree(exports["onnx"], tmp_path / "x")
    command = ["export", str(TRAINED / "luong"), "--to", "onnx", "--check", "0", "--out"]
    assert main([*command, str(place)]) == 2
    assert "there is an export already: replace it with --force" in capsys.readouterr().err
    assert main([*command, str(place), "--force"]) == 0
    assert Export.open(place).run["run"] == "luong"
    assert main([*command, str(HERE / "corpus"), "--force"]) == 2
    assert "there is something else in that place" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["ctranslate2", "onnx"])
def test_a_missing_library_is_named(
    kind: str, exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, {"ctranslate2": "ctranslate2", "onnx": "onnxruntime"}[kind], None)
    for command in (
        ["translate", str(exports[kind]), "-i", str(SOURCE), "-o", str(tmp_path / "out")],
        ["export", str(TRAINED / "transformer"), "--to", kind, "--out", str(tmp_path / "x")],
    ):
        assert main(command) == 1
        told = capsys.readouterr().err.strip()
        packages = {"ctranslate2": "ctranslate2", "onnx": "onnx onnxruntime"}[kind]
        assert told.endswith(f": pip install {packages}") and "\n" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["ctranslate2", "onnx"])
def test_a_damaged_export_is_found(kind: str, exports: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    """Each file cut at ten places, and gone."""
    folder = shutil.copytree(exports[kind], tmp_path / "x")
    (tmp_path / "in").write_text(f"{LINES[0]}\n")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in range(10):
            path.write_bytes(whole[: len(whole) * place // 10])
            with pytest.raises(CheckpointError) as raised:
                Translator.load(folder)
            assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
        path.unlink()
        with pytest.raises(CheckpointError):
            Translator.load(folder)
        assert main(["translate", str(folder), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
        told = capsys.readouterr()
        assert told.err.count("\n") == 1 and not told.out and not (tmp_path / "out").exists()
        path.write_bytes(whole)


def test_exports_of_tomorrow_and_of_others_are_told_apart(exports: dict[str, Path], tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in exports["onnx"].iterdir() if path.name != MANIFEST}
    said = json.loads(files[EXPORT])
    for change, message in (
        ({"format": 2, "nmt": "9.0"}, "an export of format 2, written by nmt 9.0; this nmt .* reads up to 1"),
        ({"kind": "abacus"}, "an export for 'abacus', which this nmt .* cannot run"),
        ({"longest_source": "long"}, r"export\.json: damaged"),
        ({"decoding": {"beam": 0}}, r"export\.json: damaged"),
        ({"run": 3}, r"export\.json: damaged"),
        ({"joint": False}, r"target\.model: the tokenizer cannot be read"),
    ):
        write_folder(tmp_path / "x", files | {EXPORT: json_bytes(said | change)})
        with pytest.raises(CheckpointError, match=message):
            Translator.load(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"not an export: it has no export\.json"):
        Export.open(TRAINED / "luong")


def test_what_counts_as_the_same() -> None:
    """A line may differ in any case; where scores differ, or are no numbers, all is wrong."""
    from nmt.errors import NmtError

    for kind, parity in (
        ("ctranslate2", Parity(200, 196, 1e-5, 98.0)),
        ("onnx", Parity(200, 198, 1e-5, 98.0)),
        ("onnx", Parity(4, 3, 1e-5, 98.0)),
    ):
        parity.require(kind)  # type: ignore[arg-type]
    for kind, parity in (
        ("ctranslate2", Parity(200, 195, 1e-5, 98.0)),
        ("onnx", Parity(200, 197, 1e-5, 98.0)),
        ("onnx", Parity(4, 2, 1e-5, 98.0)),
        ("onnx", Parity(200, 200, 2e-3, 100.0)),
        ("onnx", Parity(200, 200, float("inf"), 100.0)),
    ):
        with pytest.raises(NmtError, match="does not translate as the run does"):
            parity.require(kind)  # type: ignore[arg-type]


def test_run_folders_hold_their_exports(tmp_path: Path) -> None:
    """A run is still one with exports in it, and another checkpoint can be exported beside."""
    run = run_of(tmp_path / "run", recipe_of(TRANSFORMER, TRANSFORMER, 0))
    for name in ("step-10", "best"):
        out = str(tmp_path / name)
        command = ["export", str(run.folder), "--to", "onnx", "--checkpoint", name, "--check", "0"]
        assert main(command if name == "best" else [*command, "--out", out]) == 0
    assert Run.open(run.folder).best().name == "step-10"


def test_a_glossary_is_for_engines_that_can_use_phrases(
    exports: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand it is refused before anything is translated; a variable may be meant for others and is passed over."""
    (tmp_path / "in").write_text("a cat\n")
    (tmp_path / "terms").write_text("dog\tle loup\n")
    command = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    glossary = ["--glossary", str(tmp_path / "terms")]
    assert main(["translate", str(exports["ctranslate2"]), *command, *glossary]) == 2
    assert "--glossary: CTranslate2 cannot; use the run itself" in capsys.readouterr().err
    assert main(["translate", str(exports["ctranslate2"]), *command, "--keep", "a"]) == 2
    assert "--keep: CTranslate2 cannot; use the run itself" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("NMT_GLOSSARY", str(tmp_path / "terms"))
    (tmp_path / "in").write_text("a dog\n")
    assert main(["translate", str(exports["ctranslate2"]), *command]) == 0
    assert "le loup" not in (tmp_path / "out").read_text()
    assert main(["translate", str(exports["onnx"]), *command]) == 0
    assert "le loup" in (tmp_path / "out").read_text()


def test_what_is_compared_has_to_be_something(tmp_path: Path, capsys: Capture) -> None:
    run = run_of(tmp_path / "run", recipe_of(TRANSFORMER, TRANSFORMER, 0))
    (tmp_path / "empty").touch()
    command = ["export", str(run.folder), "--to", "onnx", "--source", str(tmp_path / "empty")]
    assert main([*command, "--check", "0"]) == 2
    assert "is what would be compared: leave it out, or --check 0" in capsys.readouterr().err
    assert main(command) == 3
    assert "empty: there are no lines to compare" in capsys.readouterr().err
    assert not (run.folder / "exports").exists()


def test_an_export_lies_where_a_link_leads(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", recipe_of(TRANSFORMER, TRANSFORMER, 0))
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large")
    command = ["export", str(run.folder), "--to", "onnx", "--out", str(tmp_path / "link"), "--check", "0"]
    for flags in ([], ["--force"]):
        assert main([*command, *flags]) == 0
        assert (tmp_path / "link").is_symlink() and (tmp_path / "large" / EXPORT).is_file()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "link", "run"]


def test_an_engine_is_tried_in_as_many_threads_as_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "run", recipe_of(TRANSFORMER, TRANSFORMER, 0))
    asked: list[int] = []
    load = Translator.load

    def heard(*given: Any, **how: Any) -> Translator:
        asked.append(how["threads"])
        return load(*given, **how)

    monkeypatch.setattr(Translator, "load", heard)
    assert main(["export", str(run.folder), "--to", "onnx", "--check", "0", "--threads", "1"]) == 0
    assert asked == [1]


def test_the_folder_one_works_in_is_not_put_in_anothers_place(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (".", "..", str(tmp_path)):
        assert main(["export", str(TRAINED / "transformer"), "--to", "onnx", "--out", place, "--check", "0"]) == 2
        assert (
            capsys.readouterr().err
            == f"nmt: error: {place}: you are in it; name a new folder with --out, such as ./export\n"
        )
    assert not list(tmp_path.iterdir())
