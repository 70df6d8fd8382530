"""What is known of one head: plain values, so that they are shown and saved without a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from lofit_lens.errors import LofitLensError
from lofit_lens.heads import Head

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TaskScores:
    """Scores of all heads on a task with one seed.

    Attributes:
        task: Name of the task.
        seed: Seed, if known.
        scores: Scores `[layer][head]`, nothing in layers without heads; the higher, the more the task
            lives there.
    """

    task: str
    seed: int | None
    scores: Rows

    @cached_property
    def table(self) -> Float[np.ndarray, "layer head"]:
        """The scores, NaN in layers without heads."""
        blank = (np.nan,) * max(map(len, self.scores))
        return np.array([row or blank for row in self.scores])

    @cached_property
    def ranks(self) -> Int[np.ndarray, "layer head"]:
        """Ranks `[layer, head]` from 1; ties go to the lower layer, then head, as in `HeadScores`."""
        scores = self.table
        ranks = np.empty(scores.size, dtype=int)
        ranks[np.argsort(-scores.ravel(), kind="stable")] = np.arange(1, scores.size + 1)
        return ranks.reshape(scores.shape)


@dataclass(frozen=True)
class HeadScore:
    """Score and rank of one head on a task with one seed.

    Attributes:
        task: Name of the task.
        seed: Seed, if known.
        score: The score.
        rank: Its place among all heads, from 1.
        n_ranked: Number of heads of the model.
    """

    task: str
    seed: int | None
    score: float
    rank: int
    n_ranked: int


@dataclass(frozen=True)
class Cosines:
    """Cosines of the offset of a head.

    Attributes:
        iti: With ITI's direction, from the mean of wrong to the mean of right statements.
        mean_z: With the mean output of the head.
        chance: What a random direction stays within 95% of the time, either sign.
    """

    iti: float
    mean_z: float
    chance: float


@dataclass(frozen=True)
class HeadEdit:
    """What the edit of one task does to one head.

    Attributes:
        head: The head.
        task: Name of the task.
        offset_norm: L2 norm of the offset v; 0 without one.
        scale_norm: L2 norm of the scale A; 0 without one.
        promoted: Tokens that the offset promotes, each with its logit, strongest first.
        suppressed: Tokens that it suppresses, strongest first.
        cosines: How the offset lies to two known directions, if that was measured.
    """

    head: Head
    task: str
    offset_norm: float
    scale_norm: float
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()
    cosines: Cosines | None = None


@dataclass(frozen=True)
class HeadAttention:
    """Attention of one head on a text, without and with the edit of a task.

    The heads of an edit act on each other: its own offset does not move the attention of a head,
    the offsets of lower layers do.

    Attributes:
        head: The head.
        task: The task whose edit is meant.
        tokens: Tokens of the text, BOS included.
        before: Weights `[query][key]`, row by row up to the query itself, without the edit.
        after: The same with the edit.
    """

    head: Head
    task: str
    tokens: tuple[str, ...]
    before: Rows
    after: Rows

    def __post_init__(self) -> None:
        for rows in (self.before, self.after):
            if [len(row) for row in rows] != list(range(1, len(self.tokens) + 1)):
                raise LofitLensError(f"The attention of {self.head} does not fit its tokens.")


@dataclass(frozen=True)
class HeadCard:
    """Everything known of one head.

    Attributes:
        head: The head.
        scores: Its scores and ranks by task and seed.
        edits: What the edits do to it, by task; empty if none edits it.
        attention: Its attention on `text`, by task; empty if it was not computed.
        text: The text.
    """

    head: Head
    scores: tuple[HeadScore, ...] = ()
    edits: tuple[HeadEdit, ...] = ()
    attention: tuple[HeadAttention, ...] = ()
    text: str | None = None

    def __repr__(self) -> str:
        ranks = ", ".join(f"{s.task} rank {s.rank}" for s in self.scores) or "no scores"
        edited = ", ".join(edit.task for edit in self.edits) or "nothing"
        return f"HeadCard({self.head}: {ranks}; edited for {edited})"

    def _repr_html_(self) -> str:
        from lofit_lens.analysis.inside.explorer.card_html import CARD_CSS, card_html

        return f"<style>{CARD_CSS}</style>{card_html(self)}"
