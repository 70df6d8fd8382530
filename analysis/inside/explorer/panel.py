"""The widgets of the head explorer: heat map, dropdowns, text box and card, wired together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import plotly.graph_objects as go

from lofit_lens.analysis.figures.explorer import CHOSEN, outlines, shown
from lofit_lens.analysis.figures.layouts import outline
from lofit_lens.analysis.inside.explorer.card_html import CARD_CSS
from lofit_lens.heads import Head, HeadSet

if TYPE_CHECKING:
    from lofit_lens.analysis.inside.explorer.widget import HeadExplorer

WIDTH = "330px"


class Panel:
    """What the explorer shows in Jupyter.

    Attributes:
        figure: The heat map; a click on a cell chooses its head.
        task: Dropdown of tasks.
        head: Dropdown of heads, the edited ones first.
        text: The text whose attention is shown.
        card: The card of the chosen head.
        root: All of them together.

    Raises:
        ImportError: anywidget is missing.
    """

    def __init__(self, explorer: HeadExplorer) -> None:
        self._explorer = explorer
        cards = explorer.cards
        self.figure: Any = go.FigureWidget(cards.plot())
        self.figure.update_layout(width=560, height=520)
        self.task: Any = widgets.Dropdown(options=cards.tasks, description="Task")
        self.head: Any = widgets.Dropdown(options=self._heads(), description="Head")
        self.text: Any = widgets.Text(
            value=cards.text or "",
            placeholder="A text, to see where the head looks",
            description="Text",
            continuous_update=False,
        )
        self.card: Any = widgets.HTML()
        for control in (self.task, self.head, self.text):
            control.layout.width = WIDTH
        self.figure.data[0].on_click(self._clicked)
        self.task.observe(self._task_changed, "value")
        self.head.observe(self._head_changed, "value")
        self.text.observe(self._show_card, "value")
        self._head_changed()
        side = widgets.VBox(
            [self.task, self.head, self.text, self.card],
            layout={"flex": "1 1 360px", "min_width": "0", "max_height": "640px"},
        )
        side.layout.overflow = "auto"
        layout = {"flex_flow": "row wrap", "align_items": "flex-start"}
        self.root = widgets.HBox([self.figure, side], layout=layout)

    def _heads(self) -> list[tuple[str, Head]]:
        cards = self._explorer.cards
        edited = cards.edited()
        every = HeadSet.every(**cards.grid.shape)
        others = [(str(head), head) for head in every if head not in set(edited)]
        return [(f"{head} (edited)", head) for head in edited] + others

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:  # noqa: ARG002
        if points.point_inds:
            self.head.value = Head(layer=int(points.ys[0]), head=int(points.xs[0]))

    def _task_changed(self, change: Any = None) -> None:  # noqa: ARG002
        fresh: Any = self._explorer.cards.plot(self.task.value)
        heat, new = self.figure.data[0], fresh.data[0]
        with self.figure.batch_update():
            heat.z, heat.text, heat.customdata = new.z, new.text, new.customdata
            heat.colorbar.title.text = new.colorbar.title.text
            self.figure.layout.title = fresh.layout.title
        self._head_changed()

    def _head_changed(self, change: Any = None) -> None:  # noqa: ARG002
        values, _, marked = shown(self._explorer.cards, self.task.value)
        layer, head = self.head.value
        chosen = outline(head, layer, CHOSEN, 4, 0.5)
        self.figure.layout.shapes = (*outlines(values, marked), chosen)
        self._show_card()

    def _show_card(self, change: Any = None) -> None:  # noqa: ARG002
        fragment = self._explorer.fragment(
            self.head.value, task=self.task.value, text=self.text.value
        )
        self.card.value = f"<style>{CARD_CSS}</style>{fragment}"
