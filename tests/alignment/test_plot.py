"""Pictures of attention: what stands where, in every format, for every script."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from nmt.alignment.fonts import _installed, choose_fonts, printable, script_of
from nmt.alignment.links import parse_gold, parse_links
from nmt.alignment.plot import GOLD, draw_attention
from nmt.errors import ConfigError

ENGLISH = ["the", "European", "Economic", "Area"]
FRENCH = ["la", "zone", "économique", "européenne"]
MATRIX = np.eye(4)[[0, 3, 2, 1]] * 0.9


def texts(path: Path) -> list[str]:
    """What an SVG says, in the order in which it says it."""
    return [element.text or "" for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def pixels(path: Path) -> np.ndarray:
    """A PNG as grey levels, 1 being white."""
    from matplotlib.image import imread

    grey: np.ndarray = np.asarray(imread(path))[..., :3].mean(axis=2)
    return grey


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_formats(ending: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"picture{ending}"
    assert draw_attention(path, ENGLISH, FRENCH, MATRIX) == ""
    assert path.read_bytes().startswith(magic)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing else is left in the folder"


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_picture_is_the_same_bytes(ending: str, tmp_path: Path) -> None:
    for name in "ab":
        draw_attention(tmp_path / f"{name}{ending}", ENGLISH, FRENCH, MATRIX)
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_all_words_are_there_as_text(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    draw_attention(path, ENGLISH, FRENCH, MATRIX, title="demo, line 3")
    found = texts(path)
    assert found[:4] == ENGLISH
    assert found[4:8] == FRENCH
    assert "demo, line 3" in found


def test_the_source_runs_along_the_top_and_the_target_down_the_side(tmp_path: Path) -> None:
    """The one dark square is in the column of the second source word, then in the row of the first target word."""
    draw_attention(tmp_path / "wide.png", [".", "."], ["."], np.array([[0.0, 1.0]]))
    draw_attention(tmp_path / "high.png", ["."], [".", "."], np.array([[1.0], [0.0]]))
    dark = np.argwhere(pixels(tmp_path / "wide.png") < 0.25)
    assert dark[:, 1].mean() > 0.5 * pixels(tmp_path / "wide.png").shape[1]
    rows = np.argwhere(pixels(tmp_path / "high.png") < 0.25)[:, 0]
    assert rows.mean() < 0.5 * pixels(tmp_path / "high.png").shape[0]


def test_more_attention_is_darker(tmp_path: Path) -> None:
    levels = []
    for weight in (0.0, 0.3, 0.6, 1.0):
        draw_attention(tmp_path / "even.png", ["a"] * 6, ["b"] * 6, np.full((6, 6), weight))
        levels.append(float(np.median(pixels(tmp_path / "even.png")[100:250, 100:250])))
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 0.95
    assert levels[3] < 0.3


def test_gold_links_are_framed_and_links_dotted(tmp_path: Path) -> None:
    path, gold = tmp_path / "picture.svg", parse_gold("0-0 3-1 1?2", "gold:1")
    draw_attention(path, ENGLISH, FRENCH, MATRIX, links=parse_links("0-0 3-1", "links:1"), gold=gold)
    styles = [element.get("style", "") for element in ElementTree.parse(path).iter()]
    frames = [style for style in styles if f"stroke: {GOLD}" in style]
    assert len(frames) == 3
    assert sum("stroke-dasharray" in style for style in frames) == 1
    assert {"dots: links", "frames: gold links, dashed where only possible"} <= set(texts(path))
    draw_attention(path, ENGLISH, FRENCH, MATRIX)
    assert GOLD not in path.read_text(encoding="utf-8")


def test_words_are_not_taken_for_formulas_or_markup(tmp_path: Path) -> None:
    words = ["$x_1$", "\\alpha", '<b>&"', "100%", "{", "a\x01b", "c\uffff", "-0"]
    draw_attention(tmp_path / "odd.svg", words, words, np.eye(8))
    draw_attention(tmp_path / "odd.png", words, words, np.eye(8))
    shown = ["$x_1$", "\\alpha", '<b>&"', "100%", "{", "a\ufffdb", "c\ufffd", "-0"]
    assert texts(tmp_path / "odd.svg")[:16] == shown * 2


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 0), (0, 1), (1, 1), (70, 3)])
def test_any_number_of_words(rows: int, columns: int, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    draw_attention(path, ["w"] * columns, ["w"] * rows, np.full((rows, columns), 0.5))
    assert max(pixels(path).shape) < 3000


def test_right_to_left_words_stand_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    arabic, hebrew = ["أنا", "أحب", "القراءة"], ["אני", "אוהב", "לקרוא"]
    assert draw_attention(path, arabic, hebrew, np.eye(3)) == ""
    assert texts(path)[:6] == arabic + hebrew


def test_characters_without_a_font_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmt.alignment.fonts._coverage", lambda family, characters: {c for c in characters if c < "ࠀ"})
    path = tmp_path / "picture.svg"
    assert draw_attention(path, ["我", "喜欢"], ["ich", "mag"], np.eye(2)) == "喜我欢"
    assert texts(path)[:2] == ["我", "喜欢"], "an SVG leaves the font to the viewer"
    assert draw_attention(tmp_path / "picture.png", ["我"], ["ich"], np.eye(1)) == "我"


def test_other_installed_fonts_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    covered = {
        "DejaVu Sans": set("abc"),
        "Noto Sans One": set("我喜欢"),
        "Noto Serif Two": set("我喜欢"),
        "Three": set("ก"),
    }
    monkeypatch.setattr("nmt.alignment.fonts._installed", lambda: covered)
    monkeypatch.setattr("nmt.alignment.fonts._discover", lambda: False)
    monkeypatch.setattr("nmt.alignment.fonts._coverage", lambda family, characters: covered[family] & characters)
    assert choose_fonts(["a", "b"]) == (["DejaVu Sans"], "")
    assert choose_fonts(["a我", "欢"]) == (["DejaVu Sans", "Noto Sans One"], "")
    assert choose_fonts(["我ก𐤀"]) == (["DejaVu Sans", "Noto Sans One", "Three"], "𐤀")
    assert choose_fonts(["我"], "Noto Serif Two") == (["Noto Serif Two", "DejaVu Sans"], "")


@pytest.mark.parametrize("name", ["cmsy10.ttf", "DejaVuSerif-BoldItalic.ttf", "STIXSizOneSymBol.ttf"])
def test_any_font_file_can_be_asked_for(tmp_path: Path, name: str) -> None:
    """One of symbols, one that is bold and slanted: none that would be looked into for a missing character."""
    from matplotlib import get_data_path

    font = Path(get_data_path()) / "fonts" / "ttf" / name
    draw_attention(tmp_path / "a.svg", ["a"], ["b"], np.ones((1, 1)), font=font)
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_a_font_that_was_installed_since_matplotlib_last_looked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """matplotlib keeps a list of fonts on disk: a picture must not ask for a font that was installed today."""
    from matplotlib import font_manager, get_data_path

    serif = Path(get_data_path()) / "fonts" / "ttf" / "cmtt10.ttf"
    new, broken = tmp_path / "new.ttf", tmp_path / "broken.ttf"
    new.write_bytes(serif.read_bytes())
    broken.write_bytes(b"no font")
    manager = font_manager.fontManager
    known = [entry for entry in manager.ttflist if entry.name == "DejaVu Sans"]
    monkeypatch.setattr(manager, "ttflist", known)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(new), str(broken), *(e.fname for e in known)])
    monkeypatch.setattr("nmt.alignment.fonts._coverage", lambda family, characters: characters & set(family))
    _installed.cache_clear()
    try:
        # Of the letters of "cmtt10" DejaVu Sans has none, where a font has the letters of its name.
        assert choose_fonts(["mt1"]) == (["DejaVu Sans", "cmtt10"], "")
    finally:
        _installed.cache_clear()


def test_joiners_and_marks_of_direction_need_no_glyph() -> None:
    assert choose_fonts(["a\u200d\u200f\u00a0\ufe0f"])[1] == ""


def test_a_font_file_can_be_named() -> None:
    from matplotlib import get_data_path

    file = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf"
    assert choose_fonts(["a"], file)[0] == ["DejaVu Serif", "DejaVu Sans"]


def test_a_font_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="font 'Nonesuch': neither an installed font family nor a font file"):
        choose_fonts(["a"], "Nonesuch")
    (tmp_path / "bad.ttf").write_bytes(b"not a font")
    with pytest.raises(ConfigError, match=r"bad\.ttf': not a font that can be read"):
        choose_fonts(["a"], tmp_path / "bad.ttf")


def test_labels() -> None:
    assert printable("x" * 100) == "x" * 31 + "…"
    assert printable("Donaudampfschifffahrtsgesellsch.") == "Donaudampfschifffahrtsgesellsch."
    assert script_of("我か喜") == "CJK, HIRAGANA"


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.svg.gz"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not that of a picture: \.png, \.svg, \.pdf can be drawn"):
        draw_attention(tmp_path / name, ["a"], ["b"], np.eye(1))


def test_matplotlib_is_loaded_to_draw_and_pyplot_never(tmp_path: Path) -> None:
    program = (
        "import sys, numpy, pathlib, nmt.alignment.plot as plot; assert 'matplotlib' not in sys.modules\n"
        "plot.draw_attention(pathlib.Path(sys.argv[1]), ['a'], ['b'], numpy.eye(1))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "picture.png")], check=True)
