"""The result of scoring a task: a record per item, and means with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lofit_lens.documents import check_schema, typed
from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.statistics import Estimate, mean_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

EVALUATION_SCHEMA = 1


class _Item(TypedDict):
    """What every record of an item has beside its metrics."""

    id: str
    group: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one model, with or without an edit, on one task.

    Attributes:
        task: Name of the task.
        split: Which split was scored.
        metric_names: The columns of the records that are metrics, the main one first.
        records: One dictionary per item: `id`, `group`, the metrics, and what they come from
            (log-probabilities of `correct` and `incorrect` candidates, or the `prediction` and its
            `finish_reason`: "stop", or "length" if it ran into `max_new_tokens`).
        floors: Scores reached without any ability, by name.
        compat: Name of the compat rule, if one was used.

    Raises:
        LofitLensError: There are no metrics.
        ScoringError: A metric of a record is not a finite number.
    """

    task: str
    split: str
    metric_names: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    floors: Mapping[str, float]
    compat: str | None = None

    def __post_init__(self) -> None:
        if not self.metric_names or len(set(self.metric_names)) < len(self.metric_names):
            raise LofitLensError(
                f"metric_names must be one or more different names, got {self.metric_names}."
            )
        for place, record in enumerate(self.records):
            for name in self.metric_names:
                value = record.get(name)
                if not isinstance(value, int | float) or not math.isfinite(value):
                    raise ScoringError(f"{name} of item {place} is not a finite number: {value!r}.")

    @cached_property
    def metrics(self) -> dict[str, Estimate]:
        """Mean and 95% interval over items, by metric."""
        return {
            name: mean_interval([record[name] for record in self.records])
            for name in self.metric_names
        }

    @property
    def main(self) -> Estimate:
        """The first metric."""
        return self.metrics[self.metric_names[0]]

    @property
    def finished(self) -> float | None:
        """Share of generations that ended by themselves or at the stop text.

        None where nothing was generated, and in files of earlier versions.
        """
        reasons = [record.get("finish_reason") for record in self.records]
        if None in reasons or not reasons:
            return None
        return sum(reason == "stop" for reason in reasons) / len(reasons)

    def warning(self) -> str | None:
        """What to say of generations that all ran into their limit; None if there is nothing."""
        if self.finished != 0:
            return None
        told = f"No generation of {len(self.records)} ended by itself or at the stop text"
        if self.metric_names[0] != "EM":
            return f"{told}."
        return (
            f"{told}, so what stands behind an answer counts as part of it. A larger max_new_tokens or "
            'another stop may help; match="begins" asks only that a prediction begins with the answer.'
        )

    @classmethod
    def pooled(cls, task: str, folds: Sequence[Evaluation]) -> Evaluation:
        """Several folds as one evaluation, every item counting the same.

        Raises:
            LofitLensError: There are no folds, or they have different metrics.
        """
        alike = {(f.metric_names, f.split, f.compat, tuple(sorted(f.floors))) for f in folds}
        if len(alike) != 1:
            raise LofitLensError(
                "Folds can be pooled when split, metrics, compat and floors are the same."
            )
        items = sum(len(fold.records) for fold in folds)
        floors = {
            name: sum(fold.floors[name] * len(fold.records) for fold in folds) / items
            for name in folds[0].floors
        }
        first = folds[0]
        records = tuple(record for fold in folds for record in fold.records)
        return cls(task, first.split, first.metric_names, records, floors, first.compat)

    def frame(self) -> pd.DataFrame:
        """One row per item."""
        import pandas as pd

        frame = pd.DataFrame(list(self.records)).drop(columns="task", errors="ignore")
        frame.insert(0, "task", self.task)
        return frame

    def plot(self) -> go.Figure:
        """The metrics as bars with their intervals."""
        from lofit_lens.plotting import metric_bars

        return metric_bars({self.task: self.metrics}, title=f"{self.task}, {self.split} split")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": EVALUATION_SCHEMA,
            "task": self.task,
            "split": self.split,
            "metric_names": list(self.metric_names),
            "floors": dict(self.floors),
            "compat": self.compat,
            "records": list(self.records),
        }

    @classmethod
    def from_json(cls, content: Any) -> Evaluation:
        """Read what `to_json` gave.

        Raises:
            LofitLensError: The schema is another one, or a field is missing, unknown or of another
                type.
        """
        check_schema(content, EVALUATION_SCHEMA)
        found = typed({name: part for name, part in content.items() if name != "schema"}, cls)
        found.check_items()
        return found

    def check_items(self) -> None:
        """Refuse records of items that do not say which item they are of.

        Raises:
            LofitLensError: One has no text as `id` or `group`.
        """
        typed(self.records, tuple[_Item, ...])

    def save(self, path: str | Path) -> Path:
        """Write everything as one gzipped JSON file (`.json.gz`)."""
        return write_json_gz(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_json_gz(path, cls.from_json, what="an evaluation")

    def __repr__(self) -> str:
        if not self.records:
            return f"Evaluation({self.task}, {self.split}: no items)"
        numbers = "; ".join(f"{name} {estimate}" for name, estimate in self.metrics.items())
        floors = "".join(f"; {name} {100 * value:.1f}" for name, value in self.floors.items())
        endless = "; no generation ended by itself" if self.finished == 0 else ""
        return f"Evaluation({self.task}, {self.split}: {numbers}{floors}{endless})"

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = [
            (name, *(f"{100 * value:.1f}" for value in (e.value, e.low, e.high)), e.n)
            for name, e in self.metrics.items()
        ]
        table = pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n"])
        floors = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.floors.items())
        told = ". ".join(filter(None, [f"{self.task}, {self.split}; {floors}", self.warning()]))
        return f"<p>{escape(told)}</p>{table.to_html(index=False)}"
