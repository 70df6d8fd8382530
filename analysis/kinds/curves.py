"""What `causal_curves` returns: scores item by item over K, their intervals and tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study, joined
from lofit_lens.analysis.reporting.section import in_percent, plotted
from lofit_lens.analysis.study import paired
from lofit_lens.analysis.study.experiment_folder import Kind
from lofit_lens.analysis.study.keys import plain
from lofit_lens.documents import check_schema, typed
from lofit_lens.errors import LofitLensError, check_whole
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.heads import HeadSet
from lofit_lens.statistics import Estimate, crossed_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = Kind(
    "set of causal curves",
    "causal.json",
    ("causal-*.json.gz", "table.csv", "causal.html", "plotly.min.js"),
)

CAUSAL_SCHEMA = 1

Curve = Literal["necessity", "sufficiency"]
CURVES: tuple[Curve, ...] = get_args(Curve)

Ablation = Literal["mean", "zero", "unedited"]
"""What ablated heads give: their mean, nothing, or what they give in the unedited model."""
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)

CHOSEN, RANDOM = "chosen", "layer-matched random"

MARKS = "* p < 0.05, + p < 0.1: chosen against random heads; Holm-corrected over K"
"""What the marks in figures and tables mean."""


@dataclass(frozen=True)
class _Written:
    """Causal curves as a file has them."""

    task: str
    split: str
    metric: str
    heads: HeadSet
    ks: tuple[int, ...]
    ablation: Ablation
    scores: dict[Curve, list[list[list[float]]]]
    unedited: list[float]
    edited: list[float] | None
    groups: tuple[str, ...]


def _array(rows: Any, ndim: int) -> np.ndarray:
    """Rows as an array; one without dimensions, which fits nothing, where they are ragged."""
    try:
        found = np.array(rows, dtype=np.float64)
    except ValueError:
        found = np.array(np.nan)
    return found if found.ndim == ndim else np.array(np.nan)


@dataclass(frozen=True, eq=False)
class CausalCurves:
    """Scores with some of the heads ablated or patched, for chosen and for random heads.

    Attributes:
        task: Name of the task.
        split: The split scored.
        metric: The metric, the task's main one.
        heads: The chosen heads, best first.
        ks: Numbers of heads.
        ablation: What ablated heads give.
        scores: By curve, of those that were run; the first ranking is the chosen one, the others are random.
        unedited: Scores of the model as it is.
        edited: Scores of the model under the edit that is explained, if there is one.
        groups: The group of each item; those of one group are resampled together.
    """

    task: str
    split: str
    metric: str
    heads: HeadSet
    ks: tuple[int, ...]
    ablation: Ablation
    scores: Mapping[Curve, Float[np.ndarray, "ranking k item"]]
    unedited: Float[np.ndarray, " item"]
    edited: Float[np.ndarray, " item"] | None
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        items = len(self.groups)
        shapes = {table.shape[1:] for table in self.scores.values()}
        single = [scores.shape for scores in (self.unedited, self.edited) if scores is not None]
        tables = [
            *self.scores.values(),
            *(s for s in (self.unedited, self.edited) if s is not None),
        ]
        if shapes != {(len(self.ks), items)} or set(single) != {(items,)} or not items:
            raise LofitLensError(
                f"The scores are not of {items} items at {len(self.ks)} numbers of heads."
            )
        if not all(len(table) and np.isfinite(table).all() for table in tables):
            raise LofitLensError("Scores are missing or not finite.")
        for k in self.ks:
            check_whole("ks", k, 0, len(self.heads))

    @property
    def draws(self) -> int:
        """Random rankings."""
        return len(next(iter(self.scores.values()))) - 1

    @property
    def references(self) -> dict[str, Estimate]:
        """The score of the model as it is ("unedited") and, with an edit, under it ("edited")."""
        found = {"unedited": self.unedited}
        if self.edited is not None:
            found["edited"] = self.edited
        return {name: self._estimate(scores[None]) for name, scores in found.items()}

    def meaning(self, curve: Curve) -> str:
        """What is done to the first K heads, in a few words."""
        if curve == "sufficiency":
            if self.edited is not None:
                return "unedited model, the first K heads as in the edited one"
            return f"all heads but the first K {_GIVING[self.ablation]}"
        where = "" if self.edited is None else "edited model, "
        return f"{where}the first K heads {_GIVING[self.ablation]}"

    def frame(self) -> pd.DataFrame:
        """One row per curve, kind of heads and K.

        Columns `curve`, `heads` ("chosen" or "layer-matched random"), `k`, `metric`, `value`,
        `low`, `high` (95%; for random heads over new draws and new items), `n` (items), `draws`
        (head sets), and for the chosen ones `difference`, `difference_low`, `difference_high`
        (chosen minus random), `p`, `p_holm` (corrected over the K of a curve) and `mark`: "*" for
        p_holm < 0.05, "+" for p_holm < 0.1, in either direction, as ablation can raise a score too.
        Nothing is tested, nor counted in the correction, where there is nothing to compare: at K = 0,
        and where the first K are all heads of their layers, so that random ones are the same.
        """
        return self._points.copy()

    def plot(self) -> go.Figure:
        """Necessity and sufficiency over K: chosen heads, random heads and the whole model."""
        from lofit_lens.analysis.figures.causal import causal_figure

        return causal_figure(
            self.frame(),
            {name: estimate.value for name, estimate in self.references.items()},
            {curve: self.meaning(curve) for curve in self.scores},
            task=self.task,
        )

    def save(self, path: str | Path) -> Path:
        """Write everything as one gzipped JSON file (`.json.gz`)."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content |= {
            "heads": self.heads.to_json(),
            "scores": {curve: table.tolist() for curve, table in self.scores.items()},
            "unedited": self.unedited.tolist(),
            "edited": None if self.edited is None else self.edited.tolist(),
        }
        return write_json_gz(path, {"schema": CAUSAL_SCHEMA, **content})

    @classmethod
    def load(cls, path: str | Path) -> CausalCurves:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_json_gz(path, cls._from_json, what="causal curves")

    @classmethod
    def _from_json(cls, content: Any) -> CausalCurves:
        check_schema(content, CAUSAL_SCHEMA)
        told = typed({name: part for name, part in content.items() if name != "schema"}, _Written)
        arrays = {
            "scores": {curve: _array(rows, 3) for curve, rows in told.scores.items()},
            "unedited": _array(told.unedited, 1),
            "edited": None if told.edited is None else _array(told.edited, 1),
        }
        return cls(**vars(told) | arrays)

    @cached_property
    def _points(self) -> pd.DataFrame:
        import pandas as pd

        rows = [
            row
            for curve in self.scores
            for place in range(len(self.ks))
            for row in self._point(curve, place)
        ]
        frame = pd.DataFrame(rows).sort_values(["curve", "heads", "k"], ignore_index=True)
        return pd.concat([paired.with_marks(points) for _, points in frame.groupby("curve")])

    def _point(self, curve: Curve, place: int) -> list[dict[str, Any]]:
        chosen, drawn = self.scores[curve][:1, place], self.scores[curve][1:, place]
        rows = []
        for heads, table in ((CHOSEN, chosen), (RANDOM, drawn)):
            row = {"curve": curve, "heads": heads, "k": self.ks[place], "metric": self.metric}
            row |= paired.score_columns(self._estimate(table), runs="draws")
            rows.append(row | paired.difference_columns())
        if self._has_others(self.ks[place]):
            own = np.broadcast_to(chosen, drawn.shape)
            rows[0] |= paired.compared(own, drawn, self.groups)
        return rows

    def _has_others(self, k: int) -> bool:
        """Whether some layer has heads beside those of the first K that are in it."""
        in_layer = Counter(head.layer for head in self.heads.heads[:k])
        return any(count < self.heads.n_heads for count in in_layer.values())

    def _estimate(self, table: Float[np.ndarray, "run item"]) -> Estimate:
        return crossed_interval(table, groups=self.groups)

    def __repr__(self) -> str:
        edit = "" if self.edited is None else " of an edit"
        return (
            f"CausalCurves({self.task}, {self.split}: {self.metric}{edit}, ablation={self.ablation!r}, K = "
            f"{', '.join(map(str, self.ks))}; {self.draws} random draws)"
        )

    def _repr_html_(self) -> str:
        frame = self.frame()
        frame["cell"] = [
            f"{100 * v:.1f}{m}" for v, m in zip(frame["value"], frame["mark"], strict=True)
        ]
        table = frame.pivot(index=["curve", "heads"], columns="k", values="cell")
        models = ", ".join(f"{name} {estimate}" for name, estimate in self.references.items())
        told = escape(f"{self.task}, {self.metric} in %: {models}")
        return f"<p>{told}</p>{table.to_html()}<p>{MARKS}</p>"


_GIVING = {"mean": "give their mean", "zero": "give zero", "unedited": "as in the unedited one"}

_FILES = "causal*.json.gz"


def _read(folder: Path, marker: Marker) -> Study:  # noqa: ARG001
    found = [CausalCurves.load(path) for path in sorted(folder.glob(_FILES))]
    return joined(folder, [Study(folder, {"causal curves": {one.task: one}}) for one in found])


CAUSAL = Row(
    "`causal`", _read, KIND, (_FILES,),
    drawings=lambda study: {f"causal-{plain(task)}": c.plot for task, c in study.curves.items()},
    sections=lambda study: plotted(
        "causal", "Is the head set causal?", in_percent(study.curves), shows=("causal",)
    ),
)  # fmt: skip
