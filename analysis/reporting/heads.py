"""Head cards on the page: a heat map of all heads, a list for the keyboard, and the cards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from lofit_lens.analysis.figures.explorer import CHOSEN
from lofit_lens.analysis.inside.explorer.card_html import card_html
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.reporting.markup import paragraph
from lofit_lens.analysis.reporting.plots import Plot, in_words
from lofit_lens.analysis.reporting.section import Section
from lofit_lens.analysis.reporting.study_cards import Choices, cards_of, chosen_by
from lofit_lens.heads import Head, HeadSet

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.reading.study import Study

SMALL = 256
"""A model with at most as many heads has a card for each; a larger one for the chosen and edited."""

BEST = 16
"""So many heads of each task have a card where none was chosen or edited."""

LOOKING = 16
"""Of each task so many edited heads, the best, have their attention on the card: its tables are large."""

LEFT_OUT = f"Its attention is left out: the {LOOKING} best edited heads of each task show theirs."

HOW = (
    "Click a head in the heat map, or choose it in the list, and its card appears below. The address of "
    "the page then names the head. On paper, the cards shown are printed."
)


def heads_section(study: Study) -> Iterator[Section]:
    """The head cards of each model of a study."""
    models = cards_of(study)
    parts, plots = [paragraph(HOW)], []
    for number, (name, cards) in enumerate(models.items(), start=1):
        explorer = Explorer(number, cards, chosen_by(study, cards.grid))
        if len(models) > 1:
            parts.append(f"<h3>{escape(name)}</h3>")
        parts.append(explorer.html())
        plots += explorer.plots
    if models:
        yield Section("heads", "Head cards", "\n".join(parts), tuple(plots), ("scores",))


@dataclass(frozen=True)
class Explorer:
    """The heat maps and cards of one model.

    Attributes:
        number: Its place on the page, from 1.
        cards: The cards.
        chosen: Which tasks chose each head.
    """

    number: int
    cards: HeadCards
    chosen: Choices

    @cached_property
    def plots(self) -> list[Plot]:
        """A heat map for each task."""
        frame = _mean_scores(self.cards)
        return [
            Plot(f"heads-{self.number}-{place}", self.cards.plot(task), frame)
            for place, task in enumerate(self.cards.tasks, start=1)
        ]

    @cached_property
    def heads(self) -> list[Head]:
        """The heads that have a card."""
        cards = self.cards
        if cards.grid.total <= SMALL:
            return list(HeadSet.every(**cards.grid.shape))
        found = {*self.chosen, *cards.edited()}
        if not found:
            best = (np.argwhere(one.ranks <= BEST).tolist() for one in cards.scores)
            found = {Head(*cell) for cells in best for cell in cells}
        return sorted(found)

    @property
    def first(self) -> Head:
        """The head whose card is shown first: chosen most often, else edited, then the best ranked."""
        times = {h: sum(map(len, by_task.values())) for h, by_task in self.chosen.items()}
        edited = self.cards.edited()

        def worth(head: Head) -> tuple[int, bool, int]:
            ranks = sum(int(one.ranks[head]) for one in self.cards.scores)
            return times.get(head, 0), head in edited, -ranks

        return max(self.heads, key=worth)

    @cached_property
    def looking(self) -> set[tuple[Head, str]]:
        """The heads whose attention is shown, each with the task of the edit: the best of each."""
        found: set[tuple[Head, str]] = set()
        for task in dict.fromkeys(one.task for one in self.cards.attention):
            scores = self.cards.mean_scores(task)
            heads = [one.head for one in self.cards.attention if one.task == task]
            best = sorted(heads, key=lambda head: -np.nan_to_num(scores[head]))
            found |= {(head, task) for head in best[:LOOKING]}
        return found

    def html(self) -> str:
        """Lists to choose from, the heat map, and the cards."""
        tasks = "".join(
            f'<option value="{plot.name}" data-words="{escape(in_words(plot.figure))}">'
            f"{escape(task)}</option>"
            for task, plot in zip(self.cards.tasks, self.plots, strict=True)
        )
        heads = "".join(
            f'<option value="{head}"{" selected" if head == self.first else ""}>'
            f"{escape(self._listed(head))}</option>"
            for head in self.heads
        )
        first = self.plots[0]
        return (
            f'<div class="explorer" data-prefix="{self._prefix}" data-colour="{CHOSEN}">'
            '<div class="picker">'
            f'<span><label for="task-{self.number}">Heat map of</label> '
            f'<select class="of-task" id="task-{self.number}">{tasks}</select></span>'
            f'<span><label for="head-{self.number}">Head</label> '
            f'<select class="of-head" id="head-{self.number}">{heads}</select></span>'
            '<label><input type="checkbox" class="every-card"> Show every card</label></div>'
            f'<figure>{first.canvas()}{first.data()}</figure><p class="told" role="status"></p>'
            f'{"".join(map(self._card, self.heads))}<div class="cards"></div></div>'
        )

    @property
    def _prefix(self) -> str:
        return "" if self.number == 1 else f"model{self.number}-"

    def _listed(self, head: Head) -> str:
        """A head in the list, with the tasks that chose it."""
        return f"{head}: {', '.join(self.chosen[head])}" if head in self.chosen else str(head)

    def _card(self, head: Head) -> str:
        """A card as a template: the browser lays out only those that are shown."""
        chosen = "; ".join(
            f"{task} (seeds {', '.join(map(str, seeds))})"
            for task, seeds in self.chosen.get(head, {}).items()
        )
        card = self.cards.card(head)
        shown = tuple(one for one in card.attention if (head, one.task) in self.looking)
        body = card_html(replace(card, attention=shown))
        body += paragraph(LEFT_OUT) if card.attention and not shown else ""
        body += paragraph(f"Chosen for: {chosen or 'no task'}.")
        name = f"{self._prefix}{head}"
        return (
            f'<template data-card="{name}"><div class="card" id="{name}">{body}</div></template>\n'
        )


def _mean_scores(cards: HeadCards) -> pd.DataFrame:
    """One row a head, one column a task: the mean score over seeds."""
    import pandas as pd

    every = HeadSet.every(**cards.grid.shape)
    place = tuple(np.array(every.heads).T)
    scores = {task: cards.mean_scores(task)[place] for task in cards.tasks}
    return pd.DataFrame({"head": list(map(str, every))} | scores)
