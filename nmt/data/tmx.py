"""Translation memories: TMX 1.4, what translators' tools exchange (https://www.gala-global.org/tmx-14b).

A unit (``tu``) has a variant (``tuv``) a language, whose segment (``seg``) is text with the codes of a layout in it.
Units are read one at a time; those that lack one of the two languages are passed over. A layout's codes (``bpt``,
``ept``, ``ph``, ``it``, ``ut``) are left out with what stands in them, what they enclose stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from nmt.data.text import DAMAGED, open_binary
from nmt.errors import DataError

__all__ = ["read_tmx"]

LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
CODES = ("bpt", "ept", "ph", "it", "ut")


def read_tmx(path: Path, source: str, target: str) -> Iterator[tuple[str, str]]:
    """The segments in the two languages of every unit that has both, in order; a file may be compressed.

    ``en`` is any English, ``en-GB`` that alone; of several variants in a language the first counts. Raises DataError
    for what is no TMX, and where no unit has both languages.
    """
    known: dict[str, None] = {}
    found = False
    body: ElementTree.Element | None = None
    for event, element in _events(path):
        name = _name(element)
        if event == "start":
            body = element if name == "body" else body
        elif name == "tu":
            texts = _variants(element)
            known |= dict.fromkeys(texts)
            both = _in(texts, source), _in(texts, target)
            if both[0] is not None and both[1] is not None:
                found = True
                yield both[0], both[1]
            if body is not None:
                body.clear()  # of the units that were read
    if not found:
        there = f"; the languages in it are {', '.join(known)}" if known else ": it has no units with languages"
        raise DataError(f"{path}: no unit has both {source!r} and {target!r}{there}")


def _events(path: Path) -> Iterator[tuple[str, ElementTree.Element]]:
    """The beginnings and the ends of all elements. Raises DataError for what is no XML, or in an unknown encoding."""
    with open_binary(path) as stream:
        events = ElementTree.iterparse(stream, events=("start", "end"))
        while True:
            try:
                one = next(events, None)
            except ElementTree.ParseError as error:
                line, column = error.position
                reason = str(error).partition(":")[0]
                encoding = "; is it in the encoding that its first line names?" if "token" in reason else ""
                raise DataError(f"{path}:{line}: not TMX: {reason} (column {column + 1}){encoding}") from error
            except DAMAGED as error:
                raise DataError(f"{path}: the compressed file is damaged or cut short: {error}") from error
            except (LookupError, ValueError) as error:
                raise DataError(f"{path}: its encoding cannot be read ({error}): convert it to UTF-8") from error
            if one is None:
                return
            yield one


def _variants(unit: ElementTree.Element) -> dict[str, str]:
    """The segments of a unit by language."""
    texts: dict[str, str] = {}
    for variant in unit:
        language = variant.get(LANGUAGE) or variant.get("lang")
        segment = next((child for child in variant if _name(child) == "seg"), None)
        if _name(variant) == "tuv" and language and segment is not None:
            texts.setdefault(language, _text(segment))
    return texts


def _in(texts: dict[str, str], language: str) -> str | None:
    """The segment in a language, whichever country's where none is named."""
    wanted = _code(language)
    fitting = (text for name, text in texts.items() if _code(name) == wanted or _code(name).startswith(f"{wanted}-"))
    return next(fitting, None)


def _code(language: str) -> str:
    return language.lower().replace("_", "-")


def _text(element: ElementTree.Element) -> str:
    """What an element says, the codes of a layout left out."""
    parts = [element.text or ""]
    for child in element:
        parts += ["" if _name(child) in CODES else _text(child), child.tail or ""]
    return "".join(parts)


def _name(element: ElementTree.Element) -> str:
    """What an element is called, without its namespace."""
    return str(element.tag).rpartition("}")[2]
