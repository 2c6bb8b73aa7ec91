"""The picture of a run's learning curves."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from nmt.errors import ConfigError
from nmt.training.curves import BLUE, ORANGE, draw_curves

SVG = "{http://www.w3.org/2000/svg}"


def log(steps: int) -> list[dict[str, object]]:
    """The records of a run with a report every 10 steps and a validation every 50."""
    records: list[dict[str, object]] = []
    for step in range(10, steps + 1, 10):
        rates = {"learning_rate": step / 1e6, "gradient_norm": 1.0, "tokens_per_second": 5000.0}
        records.append({"type": "train", "step": step, "loss": 1 + 50 / step, **rates})
        if step % 50 == 0:
            # The loss turns at 150, BLEU does not.
            figures = {"loss": 2 + abs(step - 150) / 100, "bleu": step / 10, "chrf": 30 + step / 10}
            records.append({"type": "valid", "step": step, **figures})
    return records


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ElementTree.parse(path).iter(f"{SVG}text")]


def lines(path: Path, colour: str) -> list[int]:
    """How many points each curve of a colour is drawn through, in the order of the panels."""
    curves = []
    for element in ElementTree.parse(path).iter(f"{SVG}path"):
        style = element.get("style", "")
        if f"stroke: {colour}" in style and "stroke-width: 1.3" in style and "clip-path" in element.attrib:
            curves.append(element.get("d", "").count("L") + element.get("d", "").count("M"))
    return curves


def test_every_panel_has_its_curve(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    draw_curves(log(300), path)
    said = texts(path)
    for title in ("loss (nats a token)", "learning rate", "gradient norm", "target tokens a second"):
        assert title in said
    assert {"train", "valid", "BLEU", "chrF2"} <= set(said)
    assert "nothing yet" not in said
    assert lines(path, ORANGE) == [6, 6], "loss and BLEU of 6 validations"
    assert len(lines(path, BLUE)) == 5, "training loss, chrF2, learning rate, gradient norm, tokens a second"


def test_the_best_validation_is_named(tmp_path: Path) -> None:
    draw_curves(log(300), tmp_path / "curves.svg")
    said = texts(tmp_path / "curves.svg")
    assert "2.00" in said, "the lowest loss, at step 150"
    assert "30.00" in said, "the highest BLEU, at step 300"
    assert "60.00" in said, "the highest chrF2"


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_it_is_redrawn_over_the_older_one_while_training_goes_on(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"curves{ending}"
    draw_curves(log(100), path)
    first = path.read_bytes()
    draw_curves(log(300), path)
    assert path.read_bytes() != first
    draw_curves(log(100), path)
    assert path.read_bytes() == first, "the same log gives the same picture"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    draw_curves([], tmp_path / "none.svg")
    assert texts(tmp_path / "none.svg").count("nothing yet") == 5
    draw_curves(log(300)[:1], tmp_path / "one.svg")
    assert texts(tmp_path / "one.svg").count("nothing yet") == 1


def test_what_is_not_a_number_leaves_a_gap(tmp_path: Path) -> None:
    records = log(300)
    records[3]["loss"] = math.nan
    records[4]["gradient_norm"] = math.inf
    records[8]["learning_rate"] = None
    del records[9]["tokens_per_second"]
    validations = [record for record in records if record["type"] == "valid"]
    validations[0]["loss"] = math.nan
    validations[1]["bleu"] = None
    records.append({"type": "note", "text": "of a later version"})
    draw_curves(records, tmp_path / "curves.svg")
    assert lines(tmp_path / "curves.svg", ORANGE) == [5, 5]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not that of a picture"):
        draw_curves([], tmp_path / "curves.txt")
