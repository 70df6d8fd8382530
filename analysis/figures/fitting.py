"""How much room the parts of a figure need, from the length of their texts and the size of their type.

All sizes are in pixels, `width` and `height` those of the plots, without what stands around them. The
type of the figure has its final size already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lofit_lens.analysis.figures.layouts import BREAK, TAG

Figure = Any
"""A figure of plotly, whose types do not know the parts of a layout."""

EDGE = 4
"""Around everything."""

LETTER, LINE = 0.52, 1.35
"""Width of a letter and height of a line, in the size of the type."""

FULL, SLANT = 1.1, 30
"""How much less room there may be than estimated; degrees of slanted names."""

PANEL = 48
"""What a panel needs: half an inch."""

COLORBAR = 45
"""A colour bar with its numbers."""


def plot_width(figure: Figure, width: float) -> float:
    """What axes, colour bar and a legend at the right leave to the plots of a figure's width."""
    bar = COLORBAR if any(map(_has_colorbar, _heatmaps(figure))) else 0.0
    return width - _at_edge(figure, "y") - bar - _beside(figure) - 2 * EDGE


def margins(figure: Figure, width: float, height: float) -> dict[str, float]:
    """The margins that annotations, legend and the lowest axes need.

    At the sides, plotly adds by itself what axes and colour bars need.
    """
    sides = {"l": 0.0, "r": 0.0, "t": 0.0, "b": _at_edge(figure, "x") + _beneath(figure, width)}
    for note in figure.layout.annotations:
        wide, high = _extent(note, _font(figure))
        for letter, near, far, length, span in (
            ("x", "l", "r", width, wide),
            ("y", "b", "t", height, high),
        ):
            place = _place(figure, note, letter)
            if place is not None:
                before = _before(note[f"{letter}anchor"], place) * span
                start = place * length + (note[f"{letter}shift"] or 0) - before
                sides[near] = max(sides[near], -start)
                sides[far] = max(sides[far], start + span - length)
    return {side: pixels + EDGE for side, pixels in sides.items()}


def wrap_titles(figure: Figure, width: float) -> None:
    """Break the titles over panels where they are wider than their panel."""
    panels = list(map(_domain, _axes(figure, "x")))
    for note in figure.layout.annotations:
        over = [high - low for low, high in panels if math.isclose((low + high) / 2, note.x)]
        if over and note.xref == "paper" and not note.textangle:
            letters = width * over[0] / (LETTER * (note.font.size or _font(figure)))
            lines = BREAK.split(note.text)
            note.text = "<br>".join(part for line in lines for part in _wrapped(line, letters))


def _wrapped(line: str, letters: float) -> list[str]:
    """A line broken at blanks; its tags take no room."""
    parts = [""]
    for word in line.split(" "):
        longer = f"{parts[-1]} {word}".strip()
        if len(TAG.sub("", longer)) > letters and parts[-1]:
            parts.append(word)
        else:
            parts[-1] = longer
    return parts


def thin_ticks(figure: Figure, width: float, height: float) -> None:
    """Take ticks away where a fixed distance between them leaves too little room for their labels.

    All axes in one direction lose alike.
    """
    font = _font(figure)
    for letter, length in (("x", width), ("y", height)):
        fixed = [a for a in _axes(figure, letter) if isinstance(a.dtick, (int, float))]
        crowds = [1.0]
        for axis in fixed:
            span, (low, high) = _span(figure, axis), _domain(axis)
            letters = len(f"{max(span, 1):.0f}") + (3 if axis.dtick < 1 else 0)
            label = LETTER * font * (letters + 1) if letter == "x" else LINE * font
            crowds.append(span / axis.dtick * label / (length * (high - low)))
        for axis in fixed:
            axis.dtick *= math.ceil(max(crowds))


def slant_names(figure: Figure, width: float) -> None:
    """Slant the names below an axis where they are wider than their place, and only there."""
    for axis in _axes(figure, "x"):
        labels, (low, high) = _labels(figure, axis), _domain(axis)
        if len(labels) > 1 and axis.tickangle is None:
            wide = LETTER * _font(figure) * max(map(len, labels))
            axis.tickangle = SLANT if wide > FULL * width * (high - low) / len(labels) else 0


def lack_of_width(figure: Figure, width: float) -> float:
    """How many times wider plots must be for their panels, and for the texts in their cells."""
    panels = map(_domain, _axes(figure, "x"))
    lack = max((PANEL / (width * (high - low)) for low, high in panels), default=0.0)
    for trace in _heatmaps(figure):
        if trace.texttemplate:
            texts = [line for text in np.ravel(trace.text) for line in BREAK.split(str(text))]
            text = LETTER * (trace.textfont.size or _font(figure)) * max(map(len, texts))
            low, high = _domain(_axis(figure, trace.xaxis or "x"))
            lack = max(lack, text * np.shape(trace.z)[1] / (width * (high - low)))
    return lack


def _at_edge(figure: Figure, letter: str) -> float:
    """Room for labels and titles of the leftmost y axes, or of the lowest x axes."""
    needed, font = 0.0, _font(figure)
    for axis in _axes(figure, letter):
        start, _ = _domain(_axis(figure, axis.anchor or {"x": "y", "y": "x"}[letter]))
        if start > 0 or axis.visible is False:
            continue
        labels = [] if axis.showticklabels is False else _labels(figure, axis)
        room = LETTER * font * max(map(len, labels), default=0)
        if letter == "x":
            slant = math.sin(math.radians(abs(axis.tickangle or 0)))
            room = (LINE * font if labels else 0) + slant * room
        title = LINE * axis.title.font.size + EDGE if axis.title.text else 0.0
        needed = max(needed, room + title)
    return needed


def _labels(figure: Figure, axis: Any) -> list[str]:
    """The labels of an axis: its names, or one number that is as long as any."""
    if axis.ticktext is not None:
        return list(map(str, axis.ticktext))
    values = [value for found in _values(figure, axis) for value in found]
    if any(isinstance(value, str) for value in values):
        return [f"{value}{axis.ticksuffix or ''}" for value in dict.fromkeys(values)]
    return [f"{_span(figure, axis):.0f}"]


def _beneath(figure: Figure, width: float) -> float:
    """Room for a legend that lies below the plots."""
    if figure.layout.legend.orientation != "h":
        return 0.0
    line = sum(_legend(figure)) * LETTER * _font(figure)
    return math.ceil(line / width) * (LINE * _font(figure) + EDGE)


def _beside(figure: Figure) -> float:
    """Room for a legend at the right."""
    if figure.layout.legend.orientation == "h":
        return 0.0
    return max(_legend(figure), default=0) * LETTER * _font(figure)


def _legend(figure: Figure) -> list[int]:
    """Letters of each line of the legend, its mark as wide as eight; one line alone is not shown."""
    shown = [
        trace
        for trace in figure.data
        if trace.showlegend or (trace.showlegend is None and trace.type != "heatmap")
    ]
    names = {trace.legendgroup or trace.name: str(trace.name) for trace in shown}
    if figure.layout.showlegend is False or len(shown) < 2:
        return []
    title = figure.layout.legend.title.text
    return [len(name) + 8 for name in (*names.values(), *([title] if title else []))]


def _has_colorbar(heatmap: Any) -> bool:
    scale = heatmap.parent.layout[heatmap.coloraxis] if heatmap.coloraxis else heatmap
    return scale.showscale is not False


def _span(figure: Figure, axis: Any) -> float:
    """How far the numbers on an axis reach; 0 if there are none."""
    found = map(np.asarray, _values(figure, axis))
    numbers = [n for n in found if n.size and np.issubdtype(n.dtype, np.number)]
    return float(max(map(np.nanmax, numbers)) - min(map(np.nanmin, numbers))) if numbers else 0.0


def _values(figure: Figure, axis: Any) -> Iterator[Any]:
    """The values that each trace has on an axis."""
    letter, short = axis.plotly_name[0], axis.plotly_name.replace("axis", "")
    for trace in figure.data:
        if (trace[f"{letter}axis"] or letter) == short:
            if trace[letter] is not None:
                yield trace[letter]
            elif trace.type == "heatmap":
                yield range(np.shape(trace.z)["yx".index(letter)])


def _extent(note: Any, font: float) -> tuple[float, float]:
    """Width and height of the text of an annotation."""
    size = note.font.size or font
    lines = [TAG.sub("", line) for line in BREAK.split(str(note.text))]
    wide, high = LETTER * size * max(map(len, lines)), LINE * size * len(lines)
    return (high, wide) if abs(note.textangle or 0) == 90 else (wide, high)


def _place(figure: Figure, note: Any, letter: str) -> float | None:
    """Where an annotation stands, from 0 to 1 of the plots; None if it stands at data."""
    at, place = note[f"{letter}ref"], note[letter]
    if at == "paper":
        return float(place)
    if at is None or not at.endswith(" domain"):
        return None
    low, high = _domain(_axis(figure, at.removesuffix(" domain")))
    return float(low + place * (high - low))


def _before(anchor: str | None, place: float) -> float:
    """The share of a text that lies left of, or below, the point at which it stands."""
    if anchor in (None, "auto"):
        return 0.0 if place <= 1 / 3 else 1.0 if place >= 2 / 3 else 0.5
    return {"left": 0.0, "bottom": 0.0, "right": 1.0, "top": 1.0}.get(anchor, 0.5)


def _axes(figure: Figure, letter: str) -> list[Any]:
    return list(figure.select_xaxes() if letter == "x" else figure.select_yaxes())


def _axis(figure: Figure, short: str) -> Any:
    """The axis that a trace calls x, x2 or y3."""
    return figure.layout[f"{short[0]}axis{short[1:]}"]


def _domain(axis: Any) -> Any:
    """The part of the plots that an axis spans, from 0 to 1."""
    return axis.domain or (0, 1)


def _heatmaps(figure: Figure) -> list[Any]:
    """The heat maps that are shown."""
    return [t for t in figure.select_traces({"type": "heatmap"}) if t.visible is not False]


def _font(figure: Figure) -> float:
    return figure.layout.font.size
