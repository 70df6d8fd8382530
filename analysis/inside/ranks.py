"""How stable the ranking of heads is over seeds and tasks, whatever number of heads is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import kendalltau, spearmanr

from lofit_lens.analysis.inside.layers import one_shape
from lofit_lens.analysis.inside.overlap import mean_least_most, pairs_of_tasks
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class RankStability:
    """How alike scores of all heads are between seeds and tasks.

    Attributes:
        scores: Scores of every head by task and seed.
    """

    scores: Mapping[str, Mapping[int, HeadScores]]

    def frame(self) -> pd.DataFrame:
        """Rank correlation over all heads, one row per measure and pair of tasks.

        Columns `measure` ("spearman" or "kendall", which is tau-b), `first`, `second`, `value`
        (mean over pairs of seeds), `low`, `high` (least and most of any pair) and `pairs` (how
        many; with none, as of a task with one seed, the numbers are NaN). A task with itself is its
        pairs of seeds.
        """
        flat = {
            task: [scores.scores.double().numpy().ravel() for scores in by_seed.values()]
            for task, by_seed in self.scores.items()
        }
        rows = [
            (name, first, second, *mean_least_most([float(of(a, b).statistic) for a, b in pairs]))
            for name, of in (("spearman", spearmanr), ("kendall", kendalltau))
            for first, second, pairs in pairs_of_tasks(flat)
        ]
        names = ["measure", "first", "second", "value", "low", "high", "pairs"]
        return pd.DataFrame(rows, columns=names)

    def curve(self) -> pd.DataFrame:
        """Share of the best k heads in common, for every k, one row per pair of tasks and k.

        Columns `first`, `second`, `k`, `value`, `low`, `high`, `pairs` (as in `frame`; pairs of
        tasks without any are left out) and `chance` (of two random rankings: k over all heads).
        Equal scores rank by layer, then head, as in `HeadScores.top`.

        Raises:
            LofitLensError: There is one ranking only.
        """
        ranks = {task: list(map(_ranks, seeds.values())) for task, seeds in self.scores.items()}
        parts = []
        for first, second, pairs in pairs_of_tasks(ranks):
            if pairs:
                shares = np.stack([_common_shares(a, b) for a, b in pairs])
                k = np.arange(1, shares.shape[1] + 1)
                part = pd.DataFrame({"first": first, "second": second, "k": k})
                part["value"], part["low"] = shares.mean(axis=0), shares.min(axis=0)
                part["high"] = shares.max(axis=0)
                parts.append(part.assign(pairs=len(pairs), chance=k / k[-1]))
        if not parts:
            raise LofitLensError(
                "There is one ranking, so nothing to compare it with. Give scores of several seeds "
                "or of several tasks."
            )
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> go.Figure:
        """Share of the best k heads in common by k, and what chance gives (see `curve`).

        Raises:
            LofitLensError: There is one ranking only.
        """
        from lofit_lens.analysis.figures.overlap import top_k_curves

        return top_k_curves(self.curve())

    def __repr__(self) -> str:
        seeds = ", ".join(f"{task}, seeds: {len(found)}" for task, found in self.scores.items())
        return f"RankStability({seeds})"

    def _repr_html_(self) -> str:
        wide = self.frame().pivot_table("value", ["first", "second"], "measure", sort=False)
        return f"<p>{escape(repr(self))}</p>{wide.to_html(float_format='{:.2f}'.format)}"


def rank_stability(scores: Mapping[str, Mapping[int, HeadScores]]) -> RankStability:
    """Compare the scores of all heads between seeds and tasks.

    Args:
        scores: Scores by task and seed, as `score_heads` gives them.

    Raises:
        LofitLensError: There are no scores for some task or no tasks, or all scores of one seed
            are equal.
        ModelMismatchError: The scores belong to models of different shapes.
    """
    empty = [task for task, by_seed in scores.items() if not by_seed]
    if not scores or empty:
        raise LofitLensError(
            f"There are no scores{f' for {empty[0]!r}' if empty else ''}. Give them by task and seed, "
            "as {task: {seed: scores}}."
        )
    for task, by_seed in scores.items():
        for seed, found in by_seed.items():
            values = found.scores[list(found.grid.layers)]
            if bool((values == values[0, 0]).all()):
                raise LofitLensError(
                    f"Every head has the score {float(values[0, 0]):g} on {task!r} with seed "
                    f"{seed}, which ranks none. Leave it out, or select with more steps."
                )
    one_shape({task: tuple(by_seed.values()) for task, by_seed in scores.items()})
    return RankStability(scores)


def _ranks(scores: HeadScores) -> Int[np.ndarray, " head"]:
    """The place of each head, from 0, layer by layer."""
    best_first = scores.ranking()
    places = best_first.placed(torch.arange(len(best_first)))
    return places[list(scores.grid.layers)].flatten().numpy()


def _common_shares(
    first: Int[np.ndarray, " head"], second: Int[np.ndarray, " head"]
) -> Float[np.ndarray, " k"]:
    """The share of the best k that two rankings have in common, for k from 1 to all heads."""
    joined = np.bincount(np.maximum(first, second), minlength=len(first))
    return joined.cumsum() / np.arange(1, len(first) + 1)
