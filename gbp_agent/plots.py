"""Plots for an HTML page: SVG that takes its colours and its font from the page round it."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .report import EvaluationReport

# Colours that stand for those of the page, whose values change between light and dark.
INK, ACCENT, LINE = "#010203", "#040506", "#070809"
PAGE_COLORS = {INK: "currentColor", ACCENT: "var(--accent)", LINE: "var(--line)"}
WIDTH, ROW_HEIGHT, MARGIN = 5.2, 0.3, 0.9  # inches; 1 inch is 72 px of the page at most
LONGEST = 32  # characters of a name
RC: dict[Any, Any] = {
    "font.size": 12, "svg.fonttype": "none", "svg.hashsalt": "gbp_agent", "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """title, caption: in words. svg: an element to put into HTML."""

    title: str
    caption: str
    svg: str


def plots(names: Sequence[str], reports: Sequence[EvaluationReport]) -> list[Plot]:
    """Success, steps to success and milliseconds per decision, a line for each report.

    names: of the reports, as the lines are called.
    """
    success = [(r.interval[0], r.success_rate, r.interval[1]) for r in reports]
    needed = [[float(e.steps) for e in r.episodes if e.success] or [np.nan] for r in reports]
    steps = [np.percentile(row, (25, 50, 75)) for row in needed]
    times = [(r.planning.median_ms, r.planning.median_ms, r.planning.p95_ms) for r in reports]
    return [
        _plot(
            "Success", "Share of the episodes that reached the goal; Wilson's 95 % interval.",
            names, 100 * np.array(success), "% of the episodes", limits=(-2, 102),
        ),
        _plot(
            "Steps to success", "Median over the successful episodes; the line is the middle half.",
            names, np.array(steps), "environment steps", limits=(0, None),
        ),
        _plot(
            "Time per decision", "Median; the line goes on to the 95th percentile.",
            names, np.array(times), "milliseconds, logarithmic scale", limits=None,
        ),
    ]  # fmt: skip


def _plot(
    title: str,
    caption: str,
    names: Sequence[str],
    rows: np.ndarray,
    unit: str,
    limits: tuple[float, float | None] | None,
) -> Plot:
    """A point on a line for each name.

    rows: (names, 3), low, point, high; NaN is left out. limits: None for a logarithmic scale.
    """
    low, point, high = rows.T
    places = np.arange(len(names))
    with matplotlib.rc_context(RC):
        size = (WIDTH, MARGIN + ROW_HEIGHT * len(names))
        figure = Figure(figsize=size, layout="constrained")
        axis = figure.add_subplot()
        axis.hlines(places, low, high, color=ACCENT, linewidth=2.5, alpha=0.6)
        axis.plot(point, places, "o", color=ACCENT, markersize=6, clip_on=False)
        axis.set_yticks(places, [n if len(n) <= LONGEST else f"{n[:LONGEST]}…" for n in names])
        axis.set(xlabel=unit, ylim=(len(names) - 0.5, -0.5))
        if limits is None:
            axis.set(xscale="log", xlim=_decades(rows))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
        elif not np.isnan(point).all():
            axis.set_xlim(*limits)
        axis.grid(axis="x", color=LINE, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(length=0, colors=INK)
        axis.xaxis.label.set_color(INK)
        axis.spines[:].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    words = f"{title}, {unit}. {caption}"
    return Plot(title, caption, _for_page(text.getvalue(), words))


def _decades(values: np.ndarray) -> tuple[float, float]:
    """The powers of ten round positive values."""
    positive = np.maximum(values, 1e-6)
    low, high = np.log10(positive.min()), np.log10(positive.max())
    return 10.0 ** np.floor(low), 10.0 ** max(np.ceil(high), np.floor(low) + 1)


def _for_page(svg: str, words: str) -> str:
    """The SVG element alone, in the page's colours, with ids that no other plot has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would hold for all of the page
    key = hashlib.sha256(words.encode()).hexdigest()[:8]
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>p{key}-", svg)
    for color, meant in PAGE_COLORS.items():
        svg = svg.replace(color, meant)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(words)}" ', 1)
