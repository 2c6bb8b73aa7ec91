"""Alignments as lines of text and as pictures, and against a gold standard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nmt.alignment.aligner import Alignment, Linked
from nmt.alignment.fonts import choose_fonts, script_of
from nmt.alignment.links import AlignmentScore, Gold, Links, aer, format_links, format_soft
from nmt.alignment.plot import PICTURE_FORMATS, draw_attention
from nmt.errors import ConfigError
from nmt.evaluation.signature import sign

__all__ = ["Format", "Pictures", "Report", "as_dict", "render"]

Format = Literal["pharaoh", "soft", "json"]
"""Links as ``0-0 1-2``; the whole matrix as Marian writes it; links, matrix and words as JSON."""


def render(alignment: Alignment, links: Links, form: Format) -> str:
    """One alignment as one line; a pair with nothing to align is a blank line, or JSON without links."""
    match form:
        case "pharaoh":
            return format_links(links)
        case "soft":
            return format_soft(alignment.attention)
        case "json":
            return json.dumps(as_dict(alignment, links), ensure_ascii=False)


def as_dict(alignment: Alignment, links: Links) -> dict[str, Any]:
    """An alignment ready for JSON; ``attention`` has a row a target word."""
    return {
        "source": list(alignment.source),
        "target": list(alignment.target),
        "links": [list(link) for link in sorted(links)],
        "attention": np.round(alignment.attention, 4).tolist(),
    }


class Report:
    """The lines, the counts and the signature of a text that is being aligned.

    ``links`` says how links are made, ``model`` which model it is; with ``keep`` every alignment is kept for
    :meth:`as_json`.
    """

    def __init__(self, *, links: str, model: Mapping[str, str], form: Format, keep: bool = False) -> None:
        self.links = links
        self.model = dict(model)
        self.form = form
        self.score: AlignmentScore | None = None
        self.sentences = 0
        self._kept: list[dict[str, Any]] | None = [] if keep else None

    def add(self, linked: Linked, gold: Gold | None) -> str:
        """Count one sentence, against its gold standard where there is one, and give its line."""
        self.sentences += 1
        if gold is not None:
            self.score = (self.score or AlignmentScore()) + aer(linked.links, gold)
        if self._kept is not None:
            self._kept.append(as_dict(linked.alignment, linked.links))
        return render(linked.alignment, linked.links, self.form)

    def caption(self, number: int, linked: Linked, gold: Gold | None) -> str:
        """What to write under the picture of a line."""
        error = f", AER {aer(linked.links, gold).error_rate:.2f}" if gold is not None else ""
        return f"{self.model['run']}, {self.model['checkpoint']}, line {number}{error}"

    def text(self) -> str:
        """Error rate, precision and recall on a line that signs itself, as scores do, and the model's signature."""
        score = self.score or AlignmentScore()
        signature = {
            "sentences": f"{self.sentences}",
            "links": self.links,
            "sure": f"{score.sure}",
            "found": f"{score.links}",
        }
        figures = f"{score.error_rate:.4f} precision {score.precision:.4f} recall {score.recall:.4f}"
        return f"{sign('AER', signature)} = {figures}\n{sign('model', self.model)}"

    def as_json(self, pictures: Sequence[Path] = ()) -> str:
        """The same as one JSON object, nothing rounded, with the alignments that were kept."""
        score = self.score
        figures = (
            {}
            if score is None
            else {
                "aer": score.error_rate,
                "precision": score.precision,
                "recall": score.recall,
                "sure": score.sure,
                "found": score.links,
            }
        )
        kept = {} if self._kept is None else {"alignments": self._kept}
        drawn = {"pictures": [str(path) for path in pictures]} if pictures else {}
        whole = {**figures, "sentences": self.sentences, "links": self.links, "model": self.model, **kept, **drawn}
        return json.dumps(whole, ensure_ascii=False)


class Pictures:
    """Where pictures go: one file for one line, or a folder with a file a line.

    ``missing`` gathers the characters that no installed font has. Raises ConfigError for a path that is neither and for
    a font that is not there.
    """

    def __init__(self, path: Path, form: str, *, font: str | None = None) -> None:
        self.path = path
        self.form = form
        self.font = font
        self.is_folder = path.suffix.lower() not in PICTURE_FORMATS
        self.drawn: list[Path] = []
        self.missing: set[str] = set()
        if self.is_folder and path.suffix and not path.is_dir():
            known = ", ".join(PICTURE_FORMATS)
            raise ConfigError(f"--plot {path}: a folder, or a file ending in {known}, not in {path.suffix!r}")
        if font is not None:
            choose_fonts((), font)  # a font that is not there is told now

    def draw(self, number: int, linked: Linked, gold: Gold | None, title: str) -> None:
        """Draw the alignment of line ``number``."""
        path = self.path / f"line-{number}.{self.form}" if self.is_folder else self.path
        alignment = linked.alignment
        missing = draw_attention(
            path,
            alignment.source,
            alignment.target,
            alignment.attention,
            links=linked.links,
            gold=gold,
            title=title,
            font=self.font,
        )
        self.drawn.append(path)
        self.missing |= set(missing)

    def complaint(self) -> str:
        """What to say of characters without a font; empty where all have one."""
        if not self.missing:
            return ""
        shown = "".join(sorted(self.missing)[:10]) + ("..." if len(self.missing) > 10 else "")
        is_svg = (self.form if self.is_folder else self.path.suffix.lower().removeprefix(".")) == "svg"
        consequence = (
            "the SVG is read with the viewer's own fonts, and widths were guessed" if is_svg else "they are boxes"
        )
        return (
            f"no installed font has {shown} ({script_of(''.join(self.missing))}): {consequence}; install a font that "
            f"has them, such as Noto Sans, or name a font file with --font"
        )
