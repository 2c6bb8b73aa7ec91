"""The learning curves of a run as one picture, drawn from its log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nmt.alignment.plot import FAINT, INK, check_picture_path, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves"]

BLUE, ORANGE = "#1c7ed6", "#e8590c"


def draw_curves(records: Sequence[Mapping[str, object]], path: Path) -> None:
    """Draw what a run's ``log.jsonl`` says as ``path`` (.png, .svg or .pdf), over optimiser steps.

    Records of type ``train`` have the keys step, loss, learning_rate, gradient_norm and tokens_per_second; those of
    type ``valid`` step, loss, bleu and chrf. A figure that is missing or not finite leaves a gap; with no records at
    all the panels are empty. Losses are nats a target token, BLEU and chrF in percent.

    Raises ConfigError for another ending of ``path``.
    """
    from matplotlib.figure import Figure

    check_picture_path(path)
    train = [record for record in records if record.get("type") == "train"]
    valid = [record for record in records if record.get("type") == "valid"]
    figure = Figure(figsize=(9.0, 5.2), dpi=130, layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1.6, 1.0))

    loss = _panel(figure.add_subplot(grid[0, :3]), "loss (nats a token)")
    _curve(loss, train, "loss", "train", BLUE)
    _curve(loss, valid, "loss", "valid", ORANGE, best="lowest")
    quality = _panel(figure.add_subplot(grid[0, 3:]), "BLEU and chrF2 of the validation set")
    _curve(quality, valid, "chrf", "chrF2", BLUE, best="highest")
    _curve(quality, valid, "bleu", "BLEU", ORANGE, best="highest")
    quality.set_ylim(bottom=0)
    for axes, key, title in (
        (figure.add_subplot(grid[1, :2]), "learning_rate", "learning rate"),
        (figure.add_subplot(grid[1, 2:4]), "gradient_norm", "gradient norm"),
        (figure.add_subplot(grid[1, 4:]), "tokens_per_second", "target tokens a second"),
    ):
        _curve(_panel(axes, title), train, key, "", BLUE)
        if axes.lines:
            axes.set_ylim(bottom=0)
    last = max((_number(record.get("step")) for record in records), default=0.0)
    for axes in figure.axes:
        axes.set_xlim(0, 1.03 * last if last > 0 else 1)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", color=FAINT, fontsize=8)
            axes.set_yticks([])
    save_figure(figure, path)


def _panel(axes: Axes, title: str) -> Axes:
    """Axes with a title, a light grid and steps along the bottom."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelsize=8, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.12)
    return axes


def _curve(
    axes: Axes,
    records: Sequence[Mapping[str, object]],
    key: str,
    label: str,
    colour: str,
    *,
    best: Literal["lowest", "highest"] | None = None,
) -> None:
    """One figure over the steps; with ``best`` the points are marked and the best of them named."""
    points = [(_number(record.get("step")), _number(record.get(key))) for record in records]
    known = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if not known:
        return
    steps, values = zip(*points, strict=True)
    marker = "o" if best is not None or len(known) == 1 else ""
    axes.plot(steps, values, f"{marker}-", color=colour, linewidth=1.3, markersize=3, label=label)
    if best is not None:
        choose = min if best == "lowest" else max
        step, value = choose(known, key=lambda point: point[1])
        is_last = step > 0.9 * max(known)[0]
        axes.plot(step, value, "o", color="none", markeredgecolor=colour, markersize=7, markeredgewidth=1.2)
        axes.annotate(
            f"{value:.2f}",
            (step, value),
            (0, -8 if best == "lowest" else 7),
            textcoords="offset points",
            ha="right" if is_last else "center",
            va="top" if best == "lowest" else "bottom",
            color=colour,
            fontsize=8,
        )


def _number(value: object) -> float:
    """A figure of the log; NaN where it is none."""
    return float(value) if isinstance(value, (int, float)) else math.nan
