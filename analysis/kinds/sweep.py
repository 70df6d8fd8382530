"""Sweeps: one comparison for each number of training examples or heads (Figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lofit_lens.analysis.figures.drawing import Drawings, named
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.reading.folders import told_of
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.section import in_percent, plotted
from lofit_lens.analysis.study.earlier import earlier_sweep
from lofit_lens.analysis.study.experiment_folder import Kind, read_records, save_records
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.tables.cells import interval
from lofit_lens.errors import LofitLensError, check_whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KIND = Kind("sweep", "sweep.json", ("table.csv", "sweep.html", "plotly.min.js"))

Swept = Literal["examples", "heads"]

_KEPT = ["task", "method", "metric", "value", "low", "high", "n", "seeds", "floor"]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Comparisons under one protocol that differ in the number of training examples or of heads.

    Attributes:
        swept: What differs: "examples" or "heads".
        comparisons: The comparison at each number, the smallest first.
        n_heads: Number of heads of the model.

    Raises:
        LofitLensError: There are no comparisons, or something else is swept.
    """

    swept: Swept
    comparisons: Mapping[int, Comparison]
    n_heads: int

    def __post_init__(self) -> None:
        if self.swept not in get_args(Swept):
            raise LofitLensError(f"A sweep is over examples or heads, got {self.swept!r}.")
        if not self.comparisons:
            raise LofitLensError("A sweep needs at least one comparison, got none.")
        object.__setattr__(self, "comparisons", dict(sorted(self.comparisons.items())))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in order of appearance."""
        return tuple(dict.fromkeys(m for c in self.comparisons.values() for m in c.methods))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order of appearance; the folds of a task are one."""
        return tuple(dict.fromkeys(t for c in self.comparisons.values() for t in c.tasks))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, lowest first."""
        return tuple(sorted({s for c in self.comparisons.values() for s in c.seeds}))

    def frame(self) -> pd.DataFrame:
        """One row per number, task, method and metric.

        Columns `x` (training examples, or heads), `heads` (how many the method edits, the mean over
        runs; NaN if it edits none), `percent` (these as a share of all heads), `task`, `method`,
        `metric`, `value`, `low`, `high` (95%, new seeds and new items), `n` (items), `seeds` and
        `floor` (the highest score in the main metric that needs no ability).
        """
        return self._cells.copy()

    def plot(self) -> go.Figure:
        """Main metric by number of examples or share of heads, one panel per task.

        Bands are 95% intervals; the model as it is is a dashed line, what needs no ability a dotted one.
        """
        from lofit_lens.analysis.figures.sweeps import sweep_lines

        frame = self.frame()
        main = {t: c.metrics(t)[0] for c in self.comparisons.values() for t in c.tasks}
        frame = frame[frame["metric"] == frame["task"].map(main)].copy()
        for name in ("value", "low", "high", "floor"):
            frame[name] = 100 * frame[name]
        if self.swept == "examples":
            return sweep_lines(frame.assign(examples=frame["x"]), x="examples")
        return sweep_lines(frame.assign(percent=100 * frame["x"] / self.n_heads), x="percent")

    @cached_property
    def _cells(self) -> pd.DataFrame:
        import pandas as pd

        parts = []
        for x, comparison in self.comparisons.items():
            edited = comparison.choices().groupby(["method", "task"])["n_heads"].mean()
            part = comparison.frame()[_KEPT]
            heads = edited.reindex(pd.MultiIndex.from_frame(part[["method", "task"]])).to_numpy()
            part.insert(0, "percent", 100 * heads / self.n_heads)
            part.insert(0, "heads", heads)
            part.insert(0, "x", x)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def save(self, folder: str | Path) -> Path:
        """Write every record, also those made by hand, as `example_sweep` and `head_sweep` do.

        Raises:
            LofitLensError: The folder holds something else, or other runs.
        """
        records = [
            record
            if record.cut or record.method == ZERO_SHOT
            else replace(record, cut={self.swept: x})
            for x, comparison in self.comparisons.items()
            for record in comparison.runs
        ]
        named = {record.name: record for record in records}
        told = {"swept": self.swept, "n_heads": self.n_heads, "numbers": list(self.comparisons)}
        return save_records(folder, KIND, list(named.values()), **told)

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """Read a finished sweep, without the model, also of earlier versions.

        Raises:
            LofitLensError: The folder holds no finished sweep, or a damaged one.
        """
        content, records = earlier_sweep(folder) or read_records(folder, KIND)
        return cls.of(content["swept"], records, content["n_heads"])

    @classmethod
    def of(cls, swept: Swept, records: Sequence[Record], n_heads: int) -> Sweep:
        """The sweep that records make; those of the model as it is count at every number."""
        zero_shot = [r for r in records if r.method == ZERO_SHOT and swept not in r.cut]
        found: dict[int, list[Record]] = {}
        for record in records:
            if swept in record.cut:
                check_whole(f"The number of {swept}", record.cut[swept], 1)
                found.setdefault(record.cut[swept], []).append(record)
        comparisons = {}
        for x, runs in found.items():
            folds = {run.fold for run in runs}
            there = [record for record in zero_shot if record.fold in folds and record not in runs]
            comparisons[x] = Comparison((*there, *runs))
        return cls(swept, comparisons, n_heads)

    def __repr__(self) -> str:
        numbers, seeds = (", ".join(map(str, given)) for given in (self.comparisons, self.seeds))
        methods, tasks = ", ".join(self.methods), ", ".join(self.tasks)
        return f"Sweep({self.swept} {numbers}; {methods}; on {tasks}; seeds {seeds})"

    def _repr_html_(self) -> str:
        from html import escape

        frame = self.frame()
        rows = frame.to_dict("records")
        texts = [f"{100 * row['value']:.1f}{interval(row)}" for row in rows]
        wide = frame.assign(score=texts).pivot_table(
            index=["task", "metric", "method"], columns="x", values="score", aggfunc="first",
            sort=False,
        )  # fmt: skip
        wide.columns.name = self.swept
        caption = f"{self!r}. Scores in %, with 95% intervals; .plot() draws them."
        return f"<p>{escape(caption)}</p>{wide.to_html(na_rep='')}"


_FIGURES = {"figure4": "examples", "figure5": "heads"}


def _read(folder: Path, marker: Marker) -> Study:
    found, name = Sweep.load(folder), folder.resolve().name
    records = [run for comparison in found.comparisons.values() for run in comparison.runs]
    told = {"kind": f"sweep over {found.swept}", "command_line": marker.get("command_line")}
    return Study(folder, {"sweeps": {name: found}}, provenance={name: told | told_of(records)})


def _drawings(study: Study) -> Drawings:
    found: dict[str, Any] = {}
    for figure, swept in _FIGURES.items():
        sweeps = {run: sweep.plot for run, sweep in study.sweeps.items() if sweep.swept == swept}
        found |= named(figure, sweeps)
    return found


SWEEP = Row(
    "`sweep`", _read, KIND, drawings=_drawings,
    sections=lambda study: plotted(
        "sweeps", "Figures 4 and 5: how many examples, how many heads", in_percent(study.sweeps),
        shows=tuple(_FIGURES),
    ),
)  # fmt: skip
