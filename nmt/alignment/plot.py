"""Pictures of attention: one square a word pair, darker where the model looked more.

As in Bahdanau et al. 2015, figure 3, the source runs along the top and the target down the side. PNG, SVG and PDF;
text in an SVG stays text, in the viewer's fonts. matplotlib is imported when a picture is drawn, without pyplot and
its global state.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from nmt.alignment.fonts import DEFAULT_FONT, choose_fonts, printable
from nmt.alignment.heads import Heads
from nmt.alignment.links import Gold, Links
from nmt.errors import ConfigError
from nmt.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

__all__ = ["PICTURE_FORMATS", "check_picture_path", "draw_attention", "draw_heads", "save_figure"]

PICTURE_FORMATS = (".png", ".svg", ".pdf")

INK, FAINT, GOLD = "#1f2933", "#7b8794", "#e8590c"
_DPI = 160
# In inches: the side of a square at its largest, where there are many words, and of all squares of a side together.
_LARGEST_CELL, _SMALLEST_CELL, _LARGEST_SIDE = 0.36, 0.16, 40.0
# The same for the many pictures of all heads, and what is between two of them.
_HEAD_CELL, _HEAD_GAP = 0.13, 0.1
# So many squares are drawn as such; more are pixels in a vector picture too, which would be a hundred times as large.
_MOST_SQUARES = 20_000
# A letter's width, in squares.
_LETTER = 0.55
WORD_BEGINS = "▁"
"""What a piece begins with that begins a word."""

_KINDS = {
    "encoder": "The encoder's self-attention",
    "decoder": "The decoder's self-attention",
    "cross": "Attention to the source, from which each piece was predicted",
}


def draw_attention(
    path: Path,
    source: Sequence[str],
    target: Sequence[str],
    matrix: Float[np.ndarray, "T_words S_words"],
    *,
    links: Links = frozenset(),
    gold: Gold | None = None,
    title: str = "",
    font: str | Path | None = None,
) -> str:
    """Draw a matrix of attention between words as ``path``, whose ending says the format.

    ``links`` are marked with a dot; sure ``gold`` links are framed, merely possible ones with a dashed frame. ``font``
    is an installed family or a font file to prefer; for characters it does not have, the installed fonts are searched.

    Returns the characters that no installed font has, of which PNG and PDF show boxes: an empty string where all is
    well. Raises ConfigError for another ending and for a font that is not there.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    check_picture_path(path)
    rows, columns = [printable(word) for word in target], [printable(word) for word in source]
    families, missing = choose_fonts([*rows, *columns, title], font)
    longest = max(len(rows), len(columns), 1)
    cell = min(max(12.0 / longest, _SMALLEST_CELL), _LARGEST_CELL, _LARGEST_SIDE / longest)

    # The axes fill the figure; all that stands around them is found, and room made for it, when it is saved.
    figure = Figure(figsize=(max(len(columns), 1) * cell, max(len(rows), 1) * cell), dpi=_DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    fonts = FontProperties(family=[*families, "sans-serif"], size=min(11.0, 0.6 * 72 * cell))
    if matrix.size:
        _draw_cells(axes, matrix)
    _draw_words(axes, rows, columns, fonts)
    _draw_links(axes, links, gold, matrix, cell)
    notes = [title] if title else []
    notes += ["dots: links"] if links else []
    notes += ["frames: gold links, dashed where only possible"] if gold is not None else []
    below = axes.annotate("\n".join(notes), (0, 0), (0, -7), "axes fraction", "offset points", va="top")
    below.set(font=FontProperties(family=fonts.get_family(), size=7), color=FAINT, linespacing=1.4, parse_math=False)
    save_figure(figure, path)
    return missing


def draw_heads(path: Path, blocks: Sequence[Heads], *, title: str = "", font: str | Path | None = None) -> str:
    """Draw all attention over a sentence pair as ``path``: under each other the kinds, a row a layer, a column a head.

    ``font``, what is returned and what is raised are as for :func:`draw_attention`.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    check_picture_path(path)
    sides = [[[_spelt(piece) for piece in pieces] for pieces in (one.queries, one.keys)] for one in blocks]
    families, missing = choose_fonts([*(word for both in sides for words in both for word in words), title], font)
    layers, heads = zip(*(one.weights.shape[:2] for one in blocks), strict=True)
    wide = max(head * len(one.keys) for head, one in zip(heads, blocks, strict=True))
    high = sum(layer * len(one.queries) for layer, one in zip(layers, blocks, strict=True))
    cell = min(_HEAD_CELL, _LARGEST_SIDE / wide, _LARGEST_SIDE / high)
    as_pixels = sum(one.weights.size for one in blocks) > _MOST_SQUARES
    fonts = FontProperties(family=[*families, "sans-serif"], size=0.72 * 72 * cell)
    small = FontProperties(family=fonts.get_family(), size=7)
    places = _places(blocks, sides, cell)
    width = max(right for place in places for right, _ in place.corners)
    height = max(low for place in places for _, low in place.corners)
    figure = Figure(figsize=(width, height), dpi=_DPI)
    for one, (rows, columns), place in zip(blocks, sides, places, strict=True):
        said = _KINDS[one.kind] + (": a row of pictures a layer, a column a head" if len(place.corners) > 1 else "")
        figure.text(0, 1 - place.top / height, said, font=small, color=FAINT, va="top", parse_math=False)
        for (layer, head), (right, low) in zip(np.ndindex(one.weights.shape[:2]), place.corners, strict=True):
            across, down = len(columns) * cell, len(rows) * cell
            axes = figure.add_axes(((right - across) / width, 1 - low / height, across / width, down / height))
            edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
            matrix = one.weights[layer, head]
            axes.pcolormesh(
                *edges,
                matrix,
                cmap="Blues",
                vmin=0.0,
                vmax=1.0,
                edgecolors="#e4e7eb",
                linewidth=0.2,
                rasterized=as_pixels,
            )
            axes.set(ylim=(len(rows) - 0.5, -0.5))
            axes.xaxis.tick_top()
            axes.set_xticks(range(len(columns)) if not layer else [], columns if not layer else [], font=fonts)
            axes.set_yticks(range(len(rows)) if not head else [], rows if not head else [], font=fonts)
            axes.tick_params(length=0, pad=2, labelcolor=INK)
            for label in axes.get_xticklabels():
                label.set(rotation=90, parse_math=False)
            for label in axes.get_yticklabels():
                label.set(parse_math=False)
            for spine in axes.spines.values():
                spine.set(color=FAINT, linewidth=0.4)
    figure.text(0, -0.02, title, font=small, color=FAINT, va="top", parse_math=False)
    save_figure(figure, path)
    return missing


@dataclass(frozen=True)
class _Place:
    """Where a block of pictures stands, in inches from the upper left: its top, and each picture's lower right."""

    top: float
    corners: list[tuple[float, float]]


def _spelt(piece: str) -> str:
    """A piece as a label: what goes on with a word begins with a plus."""
    if piece in ("<s>", "</s>") or piece.startswith(WORD_BEGINS):
        return printable(piece.removeprefix(WORD_BEGINS) or " ")
    return "+" + printable(piece)


def _places(blocks: Sequence[Heads], sides: Sequence[Sequence[Sequence[str]]], cell: float) -> list[_Place]:
    """Room for the words at the left and at the top, then layers below and heads beside each other."""
    places, top = [], 0.0
    left = _LETTER * cell * max(len(word) for rows, _ in sides for word in rows)
    for one, (rows, columns) in zip(blocks, sides, strict=True):
        begins = top + 0.25 + _LETTER * cell * max(map(len, columns))
        wide, high = len(columns) * cell + _HEAD_GAP, len(rows) * cell + _HEAD_GAP
        layers, heads = one.weights.shape[:2]
        corners = [
            (left + (head + 1) * wide - _HEAD_GAP, begins + (layer + 1) * high - _HEAD_GAP)
            for layer, head in np.ndindex(layers, heads)
        ]
        places.append(_Place(top, corners))
        top = begins + layers * high + 0.15
    return places


def _draw_cells(axes: Axes, matrix: Float[np.ndarray, "T_words S_words"]) -> None:
    """The squares, and beside them what their colours mean."""
    rows, columns = matrix.shape
    # Vector squares: viewers smooth the pixels of an embedded image.
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    mesh = axes.pcolormesh(*edges, matrix, cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="#e4e7eb", linewidth=0.4)
    figure = axes.get_figure(root=True)
    assert figure is not None
    wide, high = figure.get_size_inches()
    scale = figure.colorbar(mesh, cax=axes.inset_axes((1 + 0.14 / wide, 0, 0.09 / wide, min(1.0, 1.5 / high))))
    scale.set_ticks([0.0, 0.5, 1.0], labels=["0", "0.5", "1"])
    scale.ax.tick_params(length=2, width=0.5, color=FAINT, labelcolor=FAINT, labelsize=7)
    scale.outline.set_visible(False)


def _draw_words(axes: Axes, rows: Sequence[str], columns: Sequence[str], fonts: FontProperties) -> None:
    """The source along the top, slanted, and the target down the side, both in reading order."""
    axes.set(xlim=(-0.5, max(len(columns), 1) - 0.5), ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), columns, parse_math=False, color=INK, font=fonts)
    axes.set_yticks(range(len(rows)), rows, parse_math=False, color=INK, font=fonts)
    # Anchored, a label stays in its place where an SVG's viewer has wider letters.
    for label in axes.get_xticklabels():
        label.set(rotation=45, rotation_mode="anchor", ha="left", va="baseline")
    for label in axes.get_yticklabels():
        label.set(rotation_mode="anchor")
    axes.tick_params(length=0, pad=4)
    for spine in axes.spines.values():
        spine.set(color=FAINT, linewidth=0.6)


def _draw_links(
    axes: Axes, links: Links, gold: Gold | None, matrix: Float[np.ndarray, "T_words S_words"], cell: float
) -> None:
    """A dot for a link of the model, a frame for one of the gold standard."""
    from matplotlib.patches import Rectangle

    for source, target in sorted(links):
        colour = "white" if matrix[target, source] > 0.5 else INK
        axes.plot(source, target, "o", color=colour, markersize=0.11 * 72 * cell, markeredgewidth=0)
    for source, target in sorted(gold.possible) if gold is not None else ():
        style = "solid" if gold is not None and (source, target) in gold.sure else (0, (2, 1.4))
        frame = Rectangle((source - 0.44, target - 0.44), 0.88, 0.88, fill=False, edgecolor=GOLD, zorder=3)
        frame.set(linewidth=4.2 * cell, linestyle=style)
        axes.add_patch(frame)


def check_picture_path(path: Path) -> None:
    """Raise ConfigError unless the ending of ``path`` is that of a picture that can be drawn."""
    if path.suffix.lower() not in PICTURE_FORMATS:
        known = ", ".join(PICTURE_FORMATS)
        raise ConfigError(f"{path}: the ending {path.suffix!r} is not that of a picture: {known} can be drawn")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as ``path``, cropped to what is on it; the folder is made where it is not there.

    The same figure gives the same bytes, and a reader never meets half a picture: it is renamed into place.
    """
    import matplotlib

    form = path.suffix.lower().removeprefix(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Text in an SVG as text; its shapes under the same names each time.
    with (
        written_whole(path) as part,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nmt", "font.sans-serif": [DEFAULT_FONT]}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(part, format=form, bbox_inches="tight", pad_inches=0.12, metadata=undated)
