"""The demo: the paper's questions on the embedded model, in minutes and offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lofit_lens.analysis.inside.explorer.cards import head_cards
from lofit_lens.analysis.inside.layers import LayerDistribution, layer_distribution
from lofit_lens.analysis.kinds.matrix import RANDOM, TransferMatrix
from lofit_lens.analysis.kinds.transfer import AllScores, score_heads, transfer_cells
from lofit_lens.analysis.measure.side_effects import sample_texts
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.runs import CARDS
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.experiment_folder import Kind
from lofit_lens.analysis.study.paired import DIFFERENCE, main_scores
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.study.run import run_cells
from lofit_lens.analysis.study.store import Store
from lofit_lens.analysis.tables.cells import FLOOR
from lofit_lens.attention import heads_of
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.embedded.world import ABILITIES
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import number_of_heads
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.statistics import crossed_interval
from lofit_lens.tasks.embedded import embedded
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

KIND = Kind(
    "demo",
    "demo.json",
    ("table.*", CARDS, "report.html", "figure2-*percent.html", "figure3.html", "plotly.min.js"),
)
BATCH_SIZE = 256
"""Sequences per forward pass in scoring."""


@dataclass(frozen=True)
class Size:
    """How much the demo runs.

    Attributes:
        fractions: Shares of heads; the sample takes the last.
        seeds: Seeds of both stages.
        draws: Sets of random heads per seed.
        items: Test items of a task; None takes all.
    """

    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    draws: int
    items: int | None


WHOLE = Size((0.03, 0.1), (42, 43, 44), 2, None)
QUICK = Size((0.1,), (42,), 1, 80)


@dataclass(frozen=True)
class Sample:
    """One test item answered before and after tuning."""

    prompt: str
    expected: str
    before: str
    after: str

    def __str__(self) -> str:
        return (
            f"{self.prompt}\n  before: {self.before}\n  after:  {self.after}\n"
            f"  right:  {self.expected}"
        )


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demo found.

    Attributes:
        scores: Stage 1 by task and seed.
        matrices: Transfer of heads by share of heads.
        scale: The scale as the final edit, on each task's own heads and random ones, likewise.
        sample: One answer before and after.
    """

    scores: AllScores
    matrices: Mapping[float, TransferMatrix]
    scale: Mapping[float, TransferMatrix]
    sample: Sample

    def frame(self) -> pd.DataFrame:
        """One row per task and method, floors included.

        Columns `task`, `method`, `heads` (number), `metric`, `value`, `low`, `high` (95%, over
        seeds and groups of items), `n` (items), `runs`; beside random heads also `difference`,
        what the task's own heads have more, with `difference_low`, `difference_high` and `p_holm`.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row for task in self._first.tasks for row in self._rows(task)])

    def _rows(self, task: str) -> Iterator[dict[str, Any]]:
        zero_shot, groups = self._first.zero_shot[task], self._first.groups(task)
        metric = zero_shot.metric_names[0]

        def row(method: str, heads: int, table: np.ndarray) -> dict[str, Any]:
            start = {"task": task, "method": method, "heads": heads, "metric": metric}
            return start | asdict(crossed_interval(table, groups=groups))

        for name, floor in zero_shot.floors.items():
            yield {"task": task, "method": f"{FLOOR}{name}", "metric": metric, "value": floor}
        yield row("zero-shot", 0, main_scores(zero_shot)[None])
        for fraction, matrix in self.matrices.items():
            scale, size = self.scale[fraction], len(matrix.runs[0].heads or ())
            for method, part, source in (
                ("LoFiT", matrix, task), ("random heads", matrix, RANDOM),
                ("scale alone", scale, task), ("scale, random", scale, RANDOM),
            ):  # fmt: skip
                if part.has(source, task):
                    behind = _behind(matrix, task) if method == "random heads" else {}
                    yield row(method, size, part.draws(source, task)) | behind

    @property
    def _first(self) -> TransferMatrix:
        return next(iter(self.matrices.values()))

    @property
    def layers(self) -> LayerDistribution:
        """The heads of each task by layer, at the largest share."""
        size = max(len(matrix.runs[0].heads or ()) for matrix in self.matrices.values())
        return layer_distribution(
            {task: [s.top(k=size) for s in seeds.values()] for task, seeds in self.scores.items()}
        )


def _behind(matrix: TransferMatrix, task: str) -> dict[str, float]:
    """What the task's own heads have more than random ones."""
    cells = matrix.frame()
    cell = cells[(cells["source"] == RANDOM) & (cells["task"] == task)].iloc[0]
    return {name: float(cell[name]) for name in (*DIFFERENCE, "p_holm")}


def run_demo(
    model: TransformerBridge,
    size: Size,
    out: str | Path | Store,
    *,
    on_failure: Callable[[LofitLensError], object] | None = None,
    together: int = 8,
    workers: Executor | int = 1,
    progress: bool = True,
) -> Demo:
    """Run everything, and write scores, records and edits as soon as they are there.

    Args:
        model: The embedded model.
        size: How much to run.
        out: The folder; what is in it is not run again.
        on_failure: As in `compare`, and so `together` and `progress`.
        workers: As in `compare`. With several, a script that calls this needs `if __name__ ==
            "__main__":`, because each process runs the script anew.

    Raises:
        TrainingStopped: Training became unstable.
        LofitLensError: A worker process ended before its work was done.
    """
    tasks = [_cut(embedded(ability), size.items) for ability in ABILITIES]
    bench = Bench(model, sample_texts(model, n=16, tokens=32), batch_size=BATCH_SIZE)
    store = Store.at(out, KIND)
    records = run_cells(
        bench, demo_cells(model, tasks, size), store, together=together, workers=workers,
        on_failure=on_failure, keep_edits=True, what="demo", progress=progress,
    )  # fmt: skip
    scores = score_heads(
        model, tasks, seeds=size.seeds, selection=SELECTION, out=store, progress=False
    )
    matrices, scale = (
        {f: TransferMatrix.of(part_of(records, f, does)) for f in size.fractions}
        for does in ("bias", "scale")
    )
    edits = _own_edits(matrices[size.fractions[-1]], size.seeds[0], store)
    shown = next(task for task in (tasks[1], *tasks) if task.name in edits)
    sample = _sample(model, shown, edits[shown.name])
    if store.path is not None:
        head_cards(model, edits, scores, text=sample.prompt).save(store.path / CARDS)
    store.finish(records)
    return Demo(scores, matrices, scale, sample)


def demo_cells(model: TransformerBridge, tasks: Sequence[Task], size: Size) -> Iterator[Cell]:
    """Biases on the heads of every task, and the scale on each task's own, by share of heads."""
    for fraction in size.fractions:
        k = number_of_heads(heads_of(model).total, fraction=fraction)
        settings = Settings(k=k, selection=SELECTION, tuning=TUNING)
        for does in ("bias", "scale"):
            for cell in transfer_cells(
                tasks, dict.fromkeys((t.name for t in tasks), settings), does=does,
                seeds=size.seeds, draws=size.draws, batch_size=BATCH_SIZE, only_own=does == "scale",
            ):  # fmt: skip
                yield replace(cell, cut={"fraction": fraction, "does": does})


def part_of(records: Sequence[Record], fraction: float, does: str = "bias") -> list[Record]:
    """The records of one matrix."""
    cut = {"fraction": fraction, "does": does}
    return [record for record in records if record.method == ZERO_SHOT or record.cut == cut]


def _own_edits(matrix: TransferMatrix, seed: int, store: Store) -> dict[str, HeadIntervention]:
    """The edit of each task on its own heads, with a seed."""
    own = [run for run in matrix.runs if run.source == run.fold and run.seed == seed]
    edits = {run.fold: store.edit_of(run) for run in own}
    return {task: edit for task, edit in edits.items() if isinstance(edit, HeadIntervention)}


def _cut(task: Task, items: int | None) -> Task:
    """The task with fewer test items, spread over the split."""
    if items is None:
        return task
    step = max(1, len(task.test) // items)
    return replace(task, test=task.test[::step][:items])


def _sample(model: TransformerBridge, task: Task, edit: HeadIntervention) -> Sample:
    """A test item whose answer is not in its prompt, before and after."""
    item = next(item for item in task.test if item.correct[0] not in item.prompt)
    before, after = (
        generate_greedily(model, [item.prompt], intervention, max_new_tokens=8, progress=False)[0]
        for intervention in (None, edit)
    )
    return Sample(item.prompt, item.correct[0].strip(), before.strip(), after.strip())
