"""The head explorer for Jupyter: click a head on the heat map, read its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.inside.explorer.by_task import Edits, Scores, Tasks, edits_by_task
from lofit_lens.analysis.inside.explorer.card import HeadAttention, HeadCard
from lofit_lens.analysis.inside.explorer.card_html import card_html
from lofit_lens.analysis.inside.explorer.cards import HeadCards, head_cards
from lofit_lens.analysis.inside.explorer.measure import measure_attention
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import Head

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.inside.explorer.panel import Panel


class HeadExplorer:
    """The heads of a model to click on, in Jupyter; elsewhere a still figure and the cards.

    Attributes:
        cards: What is known of every head; it needs no model and no kernel, and can be saved.
    """

    def __init__(
        self, model: TransformerBridge, edits: Mapping[str, HeadIntervention], cards: HeadCards
    ) -> None:
        self.cards = cards
        self._model = model
        self._edits = edits
        self._attention: dict[tuple[Head, str, str], HeadAttention] = {
            (one.head, one.task, cards.text or ""): one for one in cards.attention
        }

    @property
    def figure(self) -> go.Figure:
        """The heat map of the first task as a plain figure; `cards.plot(task)` draws the others."""
        return self.cards.plot()

    @cached_property
    def panel(self) -> Panel:
        """The widgets, for code that drives or rearranges them.

        Raises:
            LofitLensError: ipywidgets or anywidget is missing.
        """
        try:
            from lofit_lens.analysis.inside.explorer.panel import Panel

            return Panel(self)
        except ImportError as error:
            raise LofitLensError(
                "The head explorer needs ipywidgets and anywidget: pip install "
                f"'lofit-lens[notebooks]'. Without them, use `.figure` and `.card(head)`. ({error})"
            ) from error

    def card(
        self, head: Head | tuple[int, int], *, task: str | None = None, text: str | None = None
    ) -> HeadCard:
        """The card of any head, its attention computed now if it was not before.

        Args:
            head: The head.
            task: Whose edit the attention is shown with; default: the first. The first edit
                stands in for that of a task without one.
            text: The text attended to; default: that of the cards. Without one, or with an empty
                one, the attention is left out.

        Raises:
            LofitLensError: There is no such head or task, or the text is too long.
        """
        card, task = self.cards.card(head), self.cards.known_task(task)
        text = self.cards.text if text is None else text
        if not text:
            return replace(card, attention=())
        name = task if task in self._edits else next(iter(self._edits))
        key = card.head, name, text
        if key not in self._attention:
            (self._attention[key],) = measure_attention(
                self._model, self._edits[name], [card.head], name=name, text=text
            )
        return replace(card, attention=(self._attention[key],), text=text)

    def fragment(self, head: Head, *, task: str, text: str) -> str:
        """The card as HTML, or what was wrong with the text above the card without attention."""
        try:
            return card_html(self.card(head, task=task, text=text))
        except LofitLensError as error:
            plain = card_html(self.card(head, task=task, text=""))
            return f'<p role="alert">{escape(str(error))}</p>{plain}'

    def __repr__(self) -> str:
        return f"HeadExplorer({self.cards!r})"

    def _repr_html_(self) -> str:
        from lofit_lens.analysis.inside.explorer.still import still_map

        return still_map(self.cards) + self.cards._repr_html_()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The widgets where they can be had, and what is shown where no kernel answers."""
        still = {"text/plain": repr(self), "text/html": self._repr_html_()}
        try:
            panel = self.panel
        except LofitLensError:
            return still
        figure: Any = panel.figure
        figure._repr_mimebundle_()  # brings the state that a new view starts from up to date
        return still | (panel.root._repr_mimebundle_() or {}) | still


def explore(
    model: TransformerBridge,
    edits: Edits,
    scores: Scores,
    *,
    tasks: Tasks | None = None,
    text: str | None = None,
    k: int = 8,
) -> HeadExplorer:
    """Explore the heads of a model in Jupyter: a layer x head heat map beside the card of a head.

    A head is chosen by a click or from a list; its attention is computed when it is chosen, for any
    head and any text. Without a kernel, or without anywidget, a still figure and the cards of the
    edited heads are shown.

    Args:
        model: The model that edits and scores were made on.
        edits: As of `head_cards`.
        scores: As of `head_cards`.
        tasks: As of `head_cards`.
        text: Example text for the attention; another can be typed later.
        k: Tokens promoted and suppressed, each.

    Raises:
        LofitLensError: There are no edits or no scores, an edit lacks its task, or the text is too
            long.
        ModelMismatchError: An edit or the scores belong to another model.

    Examples:
        >>> explore(model, tuned, scores, text="Q: Can pigs fly? A:")  # doctest: +SKIP
    """
    named = edits_by_task(edits, scores, tasks)
    cards = head_cards(model, edits, scores, tasks=tasks, text=text, k=k)
    return HeadExplorer(model, named, cards)
