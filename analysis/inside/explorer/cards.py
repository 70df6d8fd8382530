"""The cards of all heads of a model, as one record that is shown without the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lofit_lens.analysis.inside.explorer.by_task import (
    Edits,
    Scores,
    Tasks,
    edits_by_task,
    scores_by_task,
    task_of_each,
)
from lofit_lens.analysis.inside.explorer.card import (
    HeadAttention,
    HeadCard,
    HeadEdit,
    HeadScore,
    TaskScores,
)
from lofit_lens.analysis.inside.explorer.measure import measure_attention, measure_edit
from lofit_lens.attention import heads_of
from lofit_lens.documents import check_finite, typed
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.files import read_as, write_json
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import Head, HeadSet
from lofit_lens.identity import fingerprint

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

CARDS_SCHEMA = 1


@dataclass(frozen=True)
class HeadCards:
    """What is known of every head of a model, and of the edited heads in particular.

    Attributes:
        model: Name of the model.
        n_layers: Layers of the model.
        n_heads: Query heads per layer.
        scores: Scores of all heads, by task and seed.
        edits: What each edit does to each of its heads, in the order of the edit.
        attention: Attention of the edited heads on `text`; empty without a text.
        text: The example text.
        without: Layers of the model without heads.

    Raises:
        LofitLensError: Scores of another shape or not finite, or a head outside the model.
    """

    model: str
    n_layers: int
    n_heads: int
    scores: tuple[TaskScores, ...]
    edits: tuple[HeadEdit, ...]
    attention: tuple[HeadAttention, ...] = ()
    text: str | None = None
    without: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        grid = self.grid
        lengths = [0 if i in grid.without else grid.n_heads for i in range(grid.n_layers)]
        for one in self.scores:
            if [len(row) for row in one.scores] != lengths:
                raise LofitLensError(f"The scores for {one.task!r} are not of {grid}.")
            if not np.isfinite(one.table[list(grid.layers)]).all():
                raise LofitLensError(f"The scores for {one.task!r} are not all finite.")
        for part in (*self.edits, *self.attention):
            HeadSet([part.head], **grid.shape)

    @property
    def grid(self) -> HeadGrid:
        """The heads of the model."""
        return HeadGrid(self.n_layers, self.n_heads, self.without)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, those with scores first."""
        return tuple(dict.fromkeys(part.task for part in (*self.scores, *self.edits)))

    def edited(self, task: str | None = None) -> tuple[Head, ...]:
        """The edited heads, in the order of the edits: those of one task, or of any."""
        return tuple(dict.fromkeys(e.head for e in self.edits if task in (None, e.task)))

    def card(self, head: Head | tuple[int, int]) -> HeadCard:
        """What is known of one head.

        Raises:
            LofitLensError: The model has no such head.
        """
        (head,) = HeadSet([head], **self.grid.shape)
        total = self.grid.total
        scores = (
            HeadScore(one.task, one.seed, float(one.table[head]), int(one.ranks[head]), total)
            for one in self.scores
        )
        return HeadCard(
            head=head,
            scores=tuple(scores),
            edits=tuple(edit for edit in self.edits if edit.head == head),
            attention=tuple(one for one in self.attention if one.head == head),
            text=self.text,
        )

    def mean_scores(self, task: str) -> Float[np.ndarray, "layer head"]:
        """Mean over seeds of the scores on a task; NaN without scores."""
        scores = [one.table for one in self.scores if one.task == task]
        if not scores:
            return np.full((self.n_layers, self.n_heads), np.nan)
        return np.mean(scores, axis=0)

    def frame(self) -> pd.DataFrame:
        """One row per head and score matrix, and one per edited head of a task without scores.

        Columns `layer`, `head`, `name`, `task`, `seed`, `score`, `rank` (from 1), `offset_norm`
        (missing where the task's edit leaves the head alone).
        """
        import pandas as pd

        heads, scored = HeadSet.every(**self.grid.shape), {one.task for one in self.scores}
        rows = [
            (head, one.task, one.seed, one.table[head], one.ranks[head])
            for one in self.scores
            for head in heads
        ]
        rows += [(e.head, e.task, None, np.nan, None) for e in self.edits if e.task not in scored]
        norms = {(edit.head, edit.task): edit.offset_norm for edit in self.edits}
        names = ["layer", "head", "name", "task", "seed", "score", "rank", "offset_norm"]
        frame = pd.DataFrame(
            [(*h, str(h), task, *rest, norms.get((h, task), np.nan)) for h, task, *rest in rows],
            columns=names,
        )
        return frame.astype({"seed": "Int64", "rank": "Int64", "score": float})

    def plot(self, task: str | None = None) -> go.Figure:
        """Layer x head heat map of the score (mean over seeds), the edited heads marked.

        A task without an edit of its own shows the heads of every edit, one without scores the
        norms of its offsets.

        Args:
            task: Name of a task; default: the first.

        Raises:
            LofitLensError: There is no such task.
        """
        from lofit_lens.analysis.figures.explorer import head_map

        return head_map(self, self.known_task(task))

    def known_task(self, task: str | None) -> str:
        """The task of that name, by default the first.

        Raises:
            LofitLensError: There is no such task.
        """
        if task is not None and task not in self.tasks:
            raise LofitLensError(
                f"There is no task {task!r} on these cards; they know {', '.join(self.tasks)}."
            )
        return self.tasks[0] if task is None else task

    def save(self, path: str | Path) -> Path:
        """Write the cards as one JSON file."""
        return write_json(path, {"schema": CARDS_SCHEMA} | asdict(self), indent=None)

    @classmethod
    def load(cls, path: str | Path) -> HeadCards:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing, damaged or of another format.
        """
        return read_as(path, cls._of_json, schema=CARDS_SCHEMA, what="head cards")

    @classmethod
    def _of_json(cls, content: Any) -> HeadCards:
        check_finite(content)
        return typed(content, cls)

    def __repr__(self) -> str:
        heads = self.edited()
        names = ", ".join(map(str, heads[:6])) + (", …" if len(heads) > 6 else "")
        return (
            f"HeadCards({self.model}, {self.grid.short}; {', '.join(self.tasks)}; edited: {names})"
        )

    def _repr_html_(self) -> str:
        from lofit_lens.analysis.inside.explorer.card_html import CARD_CSS, card_html

        cards = "\n".join(card_html(self.card(head)) for head in self.edited())
        return f"<style>{CARD_CSS}</style>\n{cards}"


def head_cards(
    model: TransformerBridge,
    edits: Edits,
    scores: Scores,
    *,
    tasks: Tasks | None = None,
    text: str | None = None,
    k: int = 8,
) -> HeadCards:
    """Everything worth knowing of every head, as a record that needs no model to be shown.

    Args:
        model: The model that edits and scores were made on.
        edits: An edit of heads, or edits by task. A single one is named by its provenance.
        scores: Scores of all heads, by task and by seed: HeadScores, {task: HeadScores} or
            {task: {seed: HeadScores}}.
        tasks: The task of each edit, to compare its offsets with ITI's direction and with the
            mean output of each head; without them, the cosines are left out.
        text: Example text for the attention of the edited heads; at most 64 tokens.
        k: Tokens promoted and suppressed, each.

    Raises:
        LofitLensError: There are no edits or no scores, an edit lacks its task, or the text is too
            long.
        ModelMismatchError: An edit or the scores belong to another model.

    Examples:
        >>> cards = head_cards(model, tuned, scores, text="Q: Can pigs fly? A:")  # doctest: +SKIP
        >>> cards.card((13, 7)), cards.plot()  # doctest: +SKIP
    """
    named, tables = edits_by_task(edits, scores, tasks), scores_by_task(scores, edits, tasks)
    own_tasks = task_of_each(named, tasks)
    grid = heads_of(model)
    if (found := tables[0].table.shape) != (grid.n_layers, grid.n_heads):
        raise ModelMismatchError(
            f"The scores belong to a model of {found[0]} layers x {found[1]} heads, this one has "
            f"{grid.n_layers} x {grid.n_heads}. Score the heads of this model."
        )
    for edit in named.values():
        edit.check_model(model)
    attention, measured = [], []
    if text is not None:
        for name, edit in named.items():
            attention += measure_attention(model, edit, edit.heads.heads, name=name, text=text)
    for name, edit in named.items():
        measured += measure_edit(model, edit, name=name, task=own_tasks[name], k=k)
    return HeadCards(
        model=fingerprint(model).name or "model",
        n_layers=grid.n_layers,
        n_heads=grid.n_heads,
        without=grid.without,
        scores=tables,
        edits=tuple(measured),
        attention=tuple(attention),
        text=text,
    )
