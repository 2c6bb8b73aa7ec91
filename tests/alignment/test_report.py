"""Alignments as lines, as JSON and as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nmt.alignment.aligner import Alignment, Linked
from nmt.alignment.links import format_soft, parse_gold, parse_links
from nmt.alignment.report import Pictures, Report, render
from nmt.errors import ConfigError

ALIGNMENT = Alignment(("the", "cat"), ("le", "chat", "noir"), np.array([[0.9, 0.05], [0.0, 1.0], [1 / 3, 2 / 3]]))
LINKS = parse_links("0-0 1-1 1-2", "test:1")
LINKED = Linked(ALIGNMENT, LINKS, "le chat noir")
BLANK = Alignment((), ("le",), np.zeros((1, 0)))
MODEL = {"run": "demo", "checkpoint": "step-5", "weights": "0123456789ab"}


def test_pharaoh() -> None:
    assert render(ALIGNMENT, LINKS, "pharaoh") == "0-0 1-1 1-2"
    assert render(BLANK, frozenset(), "pharaoh") == ""


def test_soft_has_a_group_a_target_word() -> None:
    line = render(ALIGNMENT, LINKS, "soft")
    assert line == "0.9000,0.0500 0.0000,1.0000 0.3333,0.6667"
    assert np.allclose([[float(x) for x in row.split(",")] for row in line.split()], ALIGNMENT.attention, atol=1e-4)
    assert format_soft(BLANK.attention) == ""


def test_json() -> None:
    assert json.loads(render(ALIGNMENT, LINKS, "json")) == {
        "source": ["the", "cat"],
        "target": ["le", "chat", "noir"],
        "links": [[0, 0], [1, 1], [1, 2]],
        "attention": [[0.9, 0.05], [0.0, 1.0], [0.3333, 0.6667]],
    }
    assert json.loads(render(BLANK, frozenset(), "json"))["links"] == []


def test_report_scores_what_it_was_shown() -> None:
    report = Report(links="argmax", model=MODEL, form="pharaoh")
    assert report.add(LINKED, parse_gold("0-0 1-1 1?2", "gold:1")) == "0-0 1-1 1-2"
    report.add(LINKED, parse_gold("0-0 0-1", "gold:2"))
    assert report.text().splitlines() == [
        "AER|sentences:2|links:argmax|sure:4|found:6 = 0.3000 precision 0.6667 recall 0.7500",
        "model|run:demo|checkpoint:step-5|weights:0123456789ab",
    ]
    figures = json.loads(report.as_json())
    assert figures["aer"] == pytest.approx(0.3)
    assert figures["precision"] == pytest.approx(2 / 3)
    assert figures["recall"] == 0.75
    assert figures["model"] == MODEL
    assert "alignments" not in figures


def test_report_keeps_alignments_where_it_is_told_to() -> None:
    report = Report(links="argmax", model=MODEL, form="pharaoh", keep=True)
    report.add(LINKED, None)
    whole = json.loads(report.as_json([Path("a.png")]))
    assert whole["alignments"] == [json.loads(render(ALIGNMENT, LINKS, "json"))]
    assert whole["pictures"] == ["a.png"]
    assert "aer" not in whole


def test_caption() -> None:
    report = Report(links="argmax", model=MODEL, form="pharaoh")
    assert report.caption(7, LINKED, None) == "demo, step-5, line 7"
    assert report.caption(7, LINKED, parse_gold("0-0 1-1 1-2", "gold:7")) == "demo, step-5, line 7, AER 0.00"


def test_pictures_in_a_file_and_in_a_folder(tmp_path: Path) -> None:
    one = Pictures(tmp_path / "one.svg", "png")
    one.draw(3, LINKED, None, "caption")
    several = Pictures(tmp_path / "several", "pdf")
    for number in (3, 12):
        several.draw(number, LINKED, None, "")
    assert one.drawn == [tmp_path / "one.svg"]
    assert several.drawn == [tmp_path / "several" / "line-3.pdf", tmp_path / "several" / "line-12.pdf"]
    assert all(path.stat().st_size > 1000 for path in one.drawn + several.drawn)
    assert one.complaint() == ""


def test_a_path_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--plot .*one\.jpg: a folder, or a file ending in \.png, \.svg, \.pdf"):
        Pictures(tmp_path / "one.jpg", "png")
    (tmp_path / "v1.5").mkdir()
    assert Pictures(tmp_path / "v1.5", "png").is_folder


@pytest.mark.parametrize(
    ("name", "consequence"), [("a.png", "they are boxes"), ("a.svg", "the SVG is read with the viewer's own fonts")]
)
def test_missing_fonts_are_complained_of_once(
    name: str, consequence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.alignment.report.draw_attention", lambda *_, **__: "喜我")
    pictures = Pictures(tmp_path / name, "png")
    pictures.draw(1, LINKED, None, "")
    pictures.draw(2, LINKED, None, "")
    complaint = pictures.complaint()
    assert complaint.startswith("no installed font has 喜我 (CJK): ")
    assert consequence in complaint
    assert "--font" in complaint
