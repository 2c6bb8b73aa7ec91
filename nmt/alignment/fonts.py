"""Which installed fonts can draw a text, and what of it none can."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.font_manager import FontEntry
    from matplotlib.ft2font import FT2Font

__all__ = ["DEFAULT_FONT", "choose_fonts", "printable", "script_of"]

DEFAULT_FONT = "DejaVu Sans"
"""Comes with matplotlib and has the Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew and Arabic scripts."""

_NO_HELP = ("Last Resort", "STIXNonUnicode", "STIXSize", "cmex", "cmsy")
"""Fonts that show something else in place of a character, or one symbol in place of another."""

_unreadable: set[str] = set()
"""Font files that are none after all: not to be tried again."""


def choose_fonts(text: Iterable[str], font: str | Path | None = None) -> tuple[list[str], str]:
    """Font families that together can draw ``text``, in order of preference, and the characters that none can draw.

    ``font`` goes first where it is given: the name of an installed family, or a font file. Raises ConfigError where
    there is no such font.
    """
    families = [_family(font), DEFAULT_FONT] if font is not None else [DEFAULT_FONT]
    missing = {character for character in "".join(text) if not _is_invisible(character)}
    for family in families:
        missing -= _coverage(family, missing)
    missing = _search(families, missing)
    if missing and _discover():
        missing = _search(families, missing)
    return families, "".join(sorted(missing))


def _search(families: list[str], missing: set[str]) -> set[str]:
    """Add to ``families`` the one that has most of the missing characters, and so on; what is missing in the end."""
    while missing:
        best = max(_helpful(), key=lambda family: (len(_coverage(family, missing)), _rank(family)), default=None)
        found = _coverage(best, missing) if best is not None else set()
        if best is None or not found:
            break
        families.append(best)
        missing = missing - found
    return missing


def _discover() -> bool:
    """Make matplotlib, which remembers what fonts there were, look for new ones; whether there are any."""
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    new = sorted(set(font_manager.findSystemFonts()) - known - _unreadable)
    for path in new:
        try:
            font_manager.fontManager.addfont(path)
        except (RuntimeError, OSError):
            _unreadable.add(path)
    _installed.cache_clear()
    return bool(new)


def printable(word: str, limit: int = 32) -> str:
    """A word as a label: control characters, which no picture format can hold, as U+FFFD; the end of a long one cut."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if _is_unprintable(character) else character for character in word)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def script_of(characters: str) -> str:
    """The scripts that characters belong to, as the first words of their Unicode names (CJK, HIRAGANA, DEVANAGARI)."""
    names = {unicodedata.name(character, "UNNAMED").split()[0] for character in characters}
    return ", ".join(sorted(names))


def _family(font: str | Path) -> str:
    """The family name of an installed font or of a font file, which is made known to matplotlib."""
    from matplotlib import font_manager

    if font in _installed():
        return str(font)
    path = Path(font)
    if not path.is_file():
        raise ConfigError(f"font {str(font)!r}: neither an installed font family nor a font file")
    try:
        known = len(font_manager.fontManager.ttflist)
        font_manager.fontManager.addfont(path)
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"font {str(font)!r}: not a font that can be read: {error}") from error
    _installed.cache_clear()
    return font_manager.fontManager.ttflist[known].name


@cache
def _installed() -> dict[str, tuple[str, int]]:
    """File and face of each font family that matplotlib knows of: an upright, regular one if there is one."""
    from matplotlib import font_manager

    def oddness(entry: FontEntry) -> tuple[bool, int]:
        weight = entry.weight if isinstance(entry.weight, int) else font_manager.weight_dict.get(entry.weight, 400)
        return entry.style != "normal", abs(weight - 400)

    faces: dict[str, tuple[str, int]] = {}
    for entry in sorted(font_manager.fontManager.ttflist, key=oddness):
        faces.setdefault(entry.name, (entry.fname, getattr(entry, "index", 0)))
    return faces


def _helpful() -> list[str]:
    """The families among which one is looked for that has a character."""
    return [family for family in _installed() if not family.startswith(_NO_HELP)]


@cache
def _face(family: str) -> FT2Font | None:
    """The font of a family, opened; None where it cannot be, as with bitmap fonts."""
    from matplotlib.ft2font import FT2Font

    path, index = _installed()[family]
    try:
        return FT2Font(path, face_index=index)
    except (RuntimeError, OSError):
        return None


def _coverage(family: str, characters: set[str]) -> set[str]:
    """Those of ``characters`` that a family has a glyph for."""
    face = _face(family)
    if face is None:
        return set()
    return {character for character in characters if face.get_char_index(ord(character))}


def _rank(family: str) -> tuple[int, str]:
    """Prefer, among fonts that have as many of the characters, the plain proportional ones."""
    plain = "Sans" in family or "Gothic" in family or "Hei" in family
    odd = "Mono" in family or "Condensed" in family or "Light" in family
    return (plain - odd, family)


def _is_invisible(character: str) -> bool:
    """Whether a character needs no glyph: spaces, joiners, direction marks, variation selectors."""
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return unicodedata.category(character) in ("Cf", "Zs", "Zl", "Zp", "Cc") or is_selector


def _is_unprintable(character: str) -> bool:
    """Control characters, and the code points that are no characters (XML allows neither)."""
    return unicodedata.category(character) in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE
