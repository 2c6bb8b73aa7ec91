"""What a line to translate looks like, and what is written of its translation: text, TSV, JSON lines, Moses.

======  =====================================================================================================
text    ``translation [||| links] [||| confidence= c c c] [||| logprob= x ||| score]``, a line a line
moses   ``id ||| translation [||| links] [||| confidence= c c c] ||| logprob= x ||| score``, n a line, ids from 0
tsv     ``[id, rank,] translation [, logprob, score] [, confidence] [, links]``, the first two with n best only
jsonl   an object a line: what was read, with ``translation`` and what was asked for added
======  =====================================================================================================

``logprob`` is the natural logarithm of the probability, ``score`` what hypotheses are ranked by; ``confidence`` has the
probability of each word of the translation. A blank line has one translation, which is blank and certain.

What is read is a line of text, or for ``jsonl`` an object whose ``source`` is the text. With constraints, a line of
text has up to three more columns behind tabs, the phrases to use, the phrases to avoid (several being parted by
``|||``) and what the translation begins with; a JSON object has them as ``use``, ``avoid`` and ``prefix``. A glossary
adds to the phrases to use.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from nmt.decoding.hypothesis import Hypothesis
from nmt.decoding.request import Request
from nmt.decoding.translator import Translation
from nmt.errors import DataError

if TYPE_CHECKING:  # links need numpy, and few ask for links
    import numpy as np
    from jaxtyping import Float

    from nmt.alignment.aligner import Units
    from nmt.alignment.links import Links
    from nmt.decoding.glossary import Glossary

__all__ = ["Align", "Format", "Record", "Style", "is_of", "number_of", "read", "render"]

Format = Literal["text", "tsv", "jsonl", "moses"]

Align = Literal["hard", "soft"] | float
"""Links as ``nmt align`` finds them, the whole matrix, or every link of at least so much attention."""

SEPARATOR = " ||| "


@dataclass(frozen=True)
class Style:
    """What is read and written. ``nbest`` None is one translation a line, ``units`` are what links are between."""

    format: Format = "text"
    nbest: int | None = None
    scores: bool = False
    confidence: bool = False
    align: Align | None = None
    units: Units = "words"
    constraints: bool = False
    glossary: Glossary | None = None

    @property
    def is_list(self) -> bool:
        """Whether a line in may be several lines out, which then begin with its number."""
        return self.format == "moses" or (self.format == "tsv" and self.nbest is not None)

    @property
    def num_fields(self) -> int:
        """How many columns of TSV a line has, or fields of text or Moses form at least: a translation may have bars."""
        scores = 2 * (self.scores or self.format == "moses")
        numbers = {"moses": 1, "tsv": 2 * self.is_list}.get(self.format, 0)
        return numbers + 1 + scores + self.confidence + (self.align is not None)


@dataclass(frozen=True)
class Record:
    """A line as it was read; ``fields`` is the JSON object it was, None for text and for a blank line."""

    request: Request
    fields: dict[str, Any] | None = None


_HALVES = re.compile("[\ud800-\udfff]")


# ------------------------------------------------------------------------------------------------------------- reading


def read(line: str, style: Style, where: str) -> Record:
    """What a line asks for; ``where`` stands before messages.

    Raises DataError for what is no JSON object, has no ``source``, or has columns or fields of another kind.
    """
    record = _read_json(line, style, where) if style.format == "jsonl" else _read_text(line, style, where)
    return (
        record if style.glossary is None else replace(record, request=replace(record.request, glossary=style.glossary))
    )


def _read_text(line: str, style: Style, where: str) -> Record:
    """A line, or the columns of one."""
    if not style.constraints:
        return Record(Request(line))
    text, *columns = line.split("\t")
    if len(columns) > 3:
        raise DataError(f"{where}: {len(columns) + 1} columns: there are source, phrases to use, to avoid, and prefix")
    use, avoid, prefix = [*columns, "", "", ""][:3]
    return Record(Request(text, prefix.strip(), _phrases(use), _phrases(avoid)))


def _phrases(column: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in column.split("|||") if phrase.strip())


def _read_json(line: str, style: Style, where: str) -> Record:
    """A JSON object, or a blank line."""
    if not line.strip():
        return Record(Request(""))
    try:
        fields = json.loads(line, parse_constant=_no_number, parse_float=_decimal, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("source"), str):
        raise DataError(f'{where}: not a JSON object with the text to translate as "source"')
    text = _encodable(fields["source"])
    if not style.constraints:
        return Record(Request(text), fields)
    prefix = fields.get("prefix", "")
    if not isinstance(prefix, str):
        raise DataError(f'{where}: "prefix" is not text')
    use, avoid = (_strings(fields.get(name, []), f'{where}: "{name}"') for name in ("use", "avoid"))
    return Record(Request(text, _encodable(prefix), use, avoid), fields)


def _decimal(digits: str) -> float:
    """A number of JSON. Raises ValueError for one that would be written as Infinity, which JSON has not."""
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]} is a number out of range")
    return value


def _whole(digits: str) -> int:
    """The same without a point. Raises ValueError for one that Python would not write again."""
    if len(digits) > 4300:
        raise ValueError(f"{digits[:20]}... is a number of {len(digits)} digits")
    return int(digits)


def _no_number(word: str) -> float:
    """What Python takes for JSON and nobody else does."""
    raise ValueError(f"{word[:20]} is no number in JSON")


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DataError(f"{where} is not a list of phrases")
    return tuple(_encodable(one) for one in value if one.strip())


def _encodable(text: str) -> str:
    r"""JSON may spell half a character, ``\ud800``, which is none: U+FFFD stands for it."""
    return _HALVES.sub("\ufffd", text)


# ------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Found:
    """A hypothesis and what is told of it; ``matrix`` is attention between the units that links are between."""

    hypothesis: Hypothesis
    links: Links | None = None
    matrix: Float[np.ndarray, "T S"] | None = None
    confidence: tuple[float, ...] | None = None
    pieces: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()

    @property
    def links_text(self) -> str:
        """The links in Pharaoh form, or the matrix as Marian writes it."""
        from nmt.alignment.links import format_links, format_soft

        if self.matrix is not None:
            return format_soft(self.matrix)
        return format_links(self.links or frozenset())


def render(record: Record, translation: Translation, number: int, style: Style) -> str:
    """What is written of a translation: a line, or several; ``number`` is that of the line, from 0."""
    places = range(min(len(translation.hypotheses), style.nbest or 1))
    found = [_found(translation, place, style) for place in places] or [_nothing(style, tuple(record.request.use))]
    match style.format:
        case "text":
            return _fields(found[0], style, scores=style.scores)
        case "moses":
            return "\n".join(f"{number}{SEPARATOR}{_fields(one, style, scores=True)}" for one in found)
        case "tsv":
            return "\n".join(_columns(one, number, rank, style) for rank, one in enumerate(found, 1))
        case "jsonl":
            return _json(record, translation, found, style)


def _nothing(style: Style, use: Sequence[str]) -> _Found:
    """What is told of a blank line, which stays blank whatever it should ``use``."""
    empty = None
    if style.align == "soft":
        import numpy as np

        empty = np.zeros((0, 0))
    return _Found(Hypothesis((), 0.0, 0.0), frozenset(), empty, () if style.confidence else None, unmet=tuple(use))


def _found(translation: Translation, place: int, style: Style) -> _Found:
    hypothesis = translation.hypotheses[place]
    links = matrix = None
    if style.align is not None:
        from nmt.alignment.aligner import Alignment
        from nmt.alignment.links import extract

        matrix = Alignment.of(translation, place, units=style.units).attention
        match style.align:
            case "soft":
                pass
            case "hard":
                links, matrix = extract(matrix), None
            case threshold:
                links, matrix = extract(matrix, "threshold", threshold=threshold), None
    return _Found(
        hypothesis,
        links,
        matrix,
        _confidence(translation, place) if style.confidence else None,
        translation.target_pieces[place] if style.units == "pieces" and style.align is not None else (),
        translation.unmet[place] if translation.unmet else (),
    )


def _confidence(translation: Translation, place: int) -> tuple[float, ...]:
    """The probability of each word: the product of those of its pieces."""
    hypothesis = translation.hypotheses[place]
    sums = [0.0] * len(hypothesis.text.split())
    if sums:
        for word, value in zip(translation.target_words[place], hypothesis.token_log_probabilities, strict=False):
            sums[word] += value
    return tuple(math.exp(value) for value in sums)


def _fields(found: _Found, style: Style, *, scores: bool) -> str:
    """Text and Moses form."""
    parts = [found.hypothesis.text]
    if style.align is not None:
        parts.append(found.links_text)
    if found.confidence is not None:
        parts.append(" ".join(["confidence=", *(f"{value:.4f}" for value in found.confidence)]))
    if scores:
        parts += [f"logprob= {found.hypothesis.log_probability:z.4f}", f"{found.hypothesis.score:z.4f}"]
    return SEPARATOR.join(parts)


def _columns(found: _Found, number: int, rank: int, style: Style) -> str:
    hypothesis = found.hypothesis
    columns = [] if style.nbest is None else [str(number), str(rank)]
    columns.append(hypothesis.text.replace("\t", " "))
    if style.scores:
        columns += [f"{hypothesis.log_probability:z.4f}", f"{hypothesis.score:z.4f}"]
    if found.confidence is not None:
        columns.append(" ".join(f"{value:.4f}" for value in found.confidence))
    if style.align is not None:
        columns.append(found.links_text)
    return "\t".join(columns)


def _json(record: Record, translation: Translation, found: Sequence[_Found], style: Style) -> str:
    """The object that was read, with what was found; a blank line stays one."""
    if record.fields is None:
        return ""
    told = [_object(one, style) for one in found]
    # What an earlier translation left unused is not said of this one, which would else seem to lack it too.
    asked = style.constraints or style.glossary is not None
    read = {name: value for name, value in record.fields.items() if name != "unmet" or not asked}
    content = {**read, **told[0]} if style.nbest is None else {**read, "nbest": told}
    if style.nbest is not None:
        content["translation"] = found[0].hypothesis.text
    if style.units == "pieces" and style.align is not None:
        content["source_pieces"] = list(translation.source_pieces)
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a field that is passed through spells half a character
        return json.dumps(content)
    return text


def _object(found: _Found, style: Style) -> dict[str, Any]:
    content: dict[str, Any] = {"translation": found.hypothesis.text}
    if style.scores:
        content |= {"logprob": found.hypothesis.log_probability, "score": found.hypothesis.score}
    if found.confidence is not None:
        content["confidence"] = [round(value, 6) for value in found.confidence]
    if found.matrix is not None:
        content["attention"] = found.matrix.round(4).tolist()
    elif style.align is not None:
        content["alignment"] = [list(link) for link in sorted(found.links or ())]
    if style.units == "pieces" and style.align is not None:
        content["target_pieces"] = list(found.pieces)
    if found.unmet:
        content["unmet"] = list(found.unmet)
    return content


# -------------------------------------------------------------------------------------------------------- looking back


def is_of(line: str, text: str, style: Style) -> bool:
    """Whether a line that was written in this style has ``text`` as its translation; of a list, its first line."""
    if style.format == "jsonl":
        try:
            return bool(json.loads(line)["translation"] == text)
        except (ValueError, KeyError, TypeError):
            return False
    if style.format == "tsv":
        text = text.replace("\t", " ")
    if style.is_list:  # what goes before: the number and, in columns, the place in the list
        line = line.partition(SEPARATOR)[2] if style.format == "moses" else line.split("\t", 2)[-1]
    return line == text or line.startswith((text + SEPARATOR, text + "\t"))


def number_of(line: bytes, style: Style, where: str) -> int | None:
    """The number that a line begins with which was written in this style; None for a style without numbers.

    Raises DataError, with ``where`` before it, for a line that is of another style, as far as that can be told.
    """
    number: bytes | None = None
    if style.format == "jsonl":
        fits = not line.strip() or line.startswith(b"{")
    elif style.format == "tsv":
        number, *others = line.split(b"\t")
        fits = len(others) + 1 == style.num_fields
    else:
        number, *others = line.split(SEPARATOR.encode())
        fits = len(others) + 1 >= style.num_fields
    if not fits or (style.is_list and not (number or b"").isdigit()):
        raise DataError(f"{where}: was written in another format, or with other options")
    return int(number or 0) if style.is_list else None
