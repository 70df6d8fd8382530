"""A figure on the page: its place, what it says in words, its data as a table, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from lofit_lens.analysis.figures.layouts import plain_text
from lofit_lens.analysis.reporting.markup import details, table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HEIGHT = 450
"""Plotly's own height of a figure that names none."""

_KINDS = {"heatmap": "Heat map", "bar": "Bar chart"}


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure of the page.

    Attributes:
        name: Its id.
        figure: The figure.
        frame: The numbers in it.
    """

    name: str
    figure: go.Figure
    frame: pd.DataFrame

    def html(self) -> str:
        """The place of the figure, its buttons, and its data as a table."""
        return f"<figure>{self._switches()}{self.canvas()}{self.data()}</figure>"

    def canvas(self) -> str:
        """Where the page's script draws it: as wide as it says, otherwise as the page."""
        layout: Any = self.figure.layout
        width = f";width:{layout.width:g}px" if layout.width else ""
        return (
            f'<div class="plot" id="{self.name}" data-figure="{self.name}" role="img" '
            f'aria-label="{escape(in_words(self.figure))}" '
            f'style="height:{layout.height or HEIGHT:g}px{width}"></div>'
        )

    def data(self) -> str:
        """Its numbers as a table, folded away."""
        layout: Any = self.figure.layout
        title = plain_text(layout.title.text) or self.name
        return details("The data as a table", table(self.frame, title))

    def json(self) -> dict[str, Any]:
        """Traces, layout and what its buttons do; the theme is the page's own."""
        content = self.figure.to_dict()
        layout = content["layout"]
        menus = layout.pop("updatemenus", [])
        layout.pop("template", None)
        return {"data": content["data"], "layout": layout, "menus": menus}

    def _switches(self) -> str:
        """Plotly's buttons as buttons of the page, which the keyboard reaches."""
        layout: Any = self.figure.layout
        groups = []
        for which, menu in enumerate(layout.updatemenus):
            buttons = "".join(
                f'<button type="button" data-menu="{which}" data-button="{number}" '
                f'aria-pressed="{str(number == (menu.active or 0)).lower()}">'
                f"{escape(plain_text(button.label))}</button>"
                for number, button in enumerate(menu.buttons)
            )
            groups.append(
                f'<div class="switch" role="group" aria-label="What the figure shows" '
                f'data-figure="{self.name}">{buttons}</div>'
            )
        return "".join(groups)


def in_words(figure: go.Figure) -> str:
    """What a figure shows, for those who do not see it."""
    layout: Any = figure.layout
    title = layout.title
    traces: Any = figure.data
    shown = [trace for trace in traces if trace.visible in (None, True)]
    kinds = list(dict.fromkeys(_KINDS.get(trace.type, "Chart") for trace in shown))
    parts = [f"{' and '.join(kinds) or 'Figure'}: {plain_text(title.text)}"]
    parts.append(plain_text(title.subtitle.text))
    numbers = np.concatenate([*map(_numbers, shown), np.empty(0)])
    if numbers.size:
        low, high = numbers.min(), numbers.max()
        parts.append(f"{numbers.size} values from {low:.3g} to {high:.3g}, in the table below")
    return ". ".join(part.rstrip(".") for part in parts if part) + "."


def traces_frame(figure: go.Figure) -> pd.DataFrame:
    """The numbers of a figure, trace by trace; columns `series`, `x`, `y`, and `z` of a heat map."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    traces: Any = figure.data
    for number, trace in enumerate(traces, start=1):
        name = trace.name or f"series {number}"
        if trace.type == "heatmap":
            z = np.atleast_2d(np.asarray(trace.z, dtype=float))
            y, x = np.indices(z.shape)
            rows = {
                "x": x.ravel() if trace.x is None else np.asarray(trace.x)[x.ravel()],
                "y": y.ravel() if trace.y is None else np.asarray(trace.y)[y.ravel()],
                "z": z.ravel(),
            }
        else:
            rows = {"x": list(trace.x), "y": list(trace.y)}
        parts.append(pd.DataFrame({"series": name} | rows))
    return pd.concat(parts, ignore_index=True)


def _numbers(trace: Any) -> np.ndarray:
    """The finite numbers that a trace draws: of the axis that does not hold names, rather y than x."""
    for name in ("z",) if trace.type == "heatmap" else ("y", "x"):
        try:
            found = np.asarray(trace[name], dtype=float).ravel()
        except (TypeError, ValueError):
            continue
        return found[np.isfinite(found)]
    return np.empty(0)
