"""A score for every head, from which a set of heads is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.documents import typed
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_as, write_json
from lofit_lens.grid import Head, HeadGrid
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.hub import kept_file
from lofit_lens.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SCORES_SCHEMA = 1
SCORES = "scores.json"
"""Head scores on the hub."""


@dataclass(frozen=True)
class _Written:
    """Head scores as a file has them."""

    method: str
    scores: list[list[float] | None]
    provenance: Provenance | None


@dataclass(frozen=True, eq=False)
class HeadScores:
    """A score for every head; the higher, the more the task lives there.

    Attributes:
        scores: The scores; kept in float32 on the CPU, NaN in layers without heads.
        method: How they were made, as "lofit" or "random".
        provenance: Model, task, configuration and training curve behind the scores, if any.
        without: Layers without heads, as in hybrid families; what stands there is not read.

    Raises:
        LofitLensError: The score of a head is not finite.
    """

    scores: Float[Tensor, "layer head"]
    method: str = "lofit"
    provenance: Provenance | None = field(default=None, repr=False)
    without: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        layers = list(self.grid.layers)
        scores = torch.full_like(self.scores, torch.nan, dtype=torch.float32, device="cpu")
        scores[layers] = self.scores.detach().float().cpu()[layers]
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "without", self.grid.without)
        odd = ~torch.isfinite(scores)
        odd[list(self.without)] = False
        if odd.any():
            bad = [str(Head(*i)) for i in odd.nonzero().tolist()]
            raise LofitLensError(f"Scores must be finite; they are not for {', '.join(bad[:8])}.")

    @classmethod
    def of(
        cls,
        heads: HeadSet,
        values: Float[Tensor, " head"],
        method: str,
        provenance: Provenance | None = None,
    ) -> HeadScores:
        """Scores of all heads from one number for each, in the order of `heads`."""
        scores = heads.placed(values.detach().float().cpu(), fill=math.nan)
        return cls(scores, method, provenance, heads.without)

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.scores.shape[0]

    @property
    def n_heads(self) -> int:
        """Query heads per layer."""
        return self.scores.shape[1]

    @property
    def grid(self) -> HeadGrid:
        """The heads of the model."""
        return HeadGrid(self.n_layers, self.n_heads, self.without)

    def ranking(self) -> HeadSet:
        """All heads, best first."""
        return self.top(fraction=1.0)

    def top(self, *, k: int | None = None, fraction: float | None = None) -> HeadSet:
        """The best heads over the whole network; ties go to the lower layer, then head.

        Args:
            k: Number of heads.
            fraction: Share of all heads instead, turned into a number by `number_of_heads`.

        Raises:
            LofitLensError: Not exactly one of the two is given, or it is out of range.
        """
        grid = self.grid
        k = number_of_heads(grid.total, k=k, fraction=fraction)
        scores = self.scores[list(grid.layers)].double().numpy().ravel()
        order = np.argsort(-scores, kind="stable")[:k]
        return HeadSet((grid[i] for i in order), **grid.shape)

    def frame(self) -> pd.DataFrame:
        """Columns `layer`, `head`, `name`, `score`, `rank` (from 1), best head first."""
        frame = self.ranking().frame()
        frame["score"] = self.scores.numpy()[frame["layer"].to_numpy(), frame["head"].to_numpy()]
        return frame[["layer", "head", "name", "score", "rank"]]

    def plot(self) -> go.Figure:
        """Layer x head heat map of the scores."""
        from lofit_lens.plotting import head_grid

        title = f"Head scores ({self.method})"
        return head_grid(self.scores.numpy(), label="score", title=title, without=self.without)

    def save(self, path: str | Path) -> Path:
        """Write the scores and their provenance as one JSON file."""
        content: dict[str, Any] = {
            "schema": SCORES_SCHEMA,
            "method": self.method,
            "scores": [
                None if layer in self.without else row
                for layer, row in enumerate(self.scores.double().tolist())
            ],
            "provenance": self.provenance.to_json() if self.provenance else None,
        }
        return write_json(path, content)

    @classmethod
    def load(cls, path: str | Path, *, revision: str | None = None) -> HeadScores:
        """Read scores written by `save`.

        Args:
            path: The file; or, as text, the name of what `push_to_hub` pushed, such as "user/repo".
            revision: Branch, tag or commit on the hub.

        Raises:
            LofitLensError: The file is missing or of another format; or see `load_edit`.
        """
        path = kept_file(path, SCORES, revision=revision, what="head scores")
        return read_as(path, cls._of_json, schema=SCORES_SCHEMA, what="head scores")

    @classmethod
    def _of_json(cls, content: Any) -> HeadScores:
        found = typed(content, _Written)
        without = tuple(layer for layer, row in enumerate(found.scores) if row is None)
        widths = {len(row) for row in found.scores if row is not None}
        if len(widths) != 1:
            raise LofitLensError(f"Expected rows of one length at `$.scores`, got {sorted(widths)}")
        blank = [math.nan] * widths.pop()
        scores = [blank if row is None else row for row in found.scores]
        table = torch.tensor(scores, dtype=torch.float32)
        return cls(table, found.method, found.provenance, without)

    def __repr__(self) -> str:
        best = ", ".join(
            f"{head} {self.scores[head.layer, head.head]:.3g}" for head in self.ranking().heads[:5]
        )
        return f"HeadScores({self.method}, {self.grid.short}; best: {best})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().head(20).to_html(index=False)}"
