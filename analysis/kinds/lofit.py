"""Both stages of LoFiT on one task, with the scores before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.methods.recipes import OnHeads
from lofit_lens.analysis.methods.selectors import check_chosen
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.methods.steps import Auto, Select, Tune
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.experiment_folder import Kind
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.study.run import run_cells, run_steps
from lofit_lens.analysis.study.step import Step
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import heads_of
from lofit_lens.edits.files import DESCRIPTION, TENSORS, save_edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, check_whole
from lofit_lens.fast.memory import BatchSize, check_batch_size
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText
from lofit_lens.training.config import SelectionConfig, TuningConfig

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

KIND = Kind(
    "run of both stages",
    "lofit.json",
    (
        DESCRIPTION, TENSORS, "scores.json", "heads.npy",
        "zero_shot.json.gz", "tuned.json.gz", "random_*.json.gz",
    ),
    alone=False,
)  # fmt: skip
LOFIT, RANDOM_HEADS = "lofit", "random-heads"


@dataclass(frozen=True, eq=False)
class LofitRun:
    """Both stages on one task, with their scores.

    Attributes:
        scores: Stage 1.
        intervention: Stage 2.
        zero_shot: The model as it is.
        tuned: The model under the intervention.
        random: The same number of random heads tuned the same way, by number of the draw.
    """

    scores: HeadScores
    intervention: HeadIntervention
    zero_shot: Evaluation
    tuned: Evaluation
    random: Mapping[int, Evaluation] = field(default_factory=dict)

    @property
    def heads(self) -> HeadSet:
        """The heads that were tuned."""
        return self.intervention.heads

    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluations by name: zero_shot, tuned, and random_DRAW for each draw."""
        draws = {f"random_{draw}": evaluation for draw, evaluation in self.random.items()}
        return {"zero_shot": self.zero_shot, "tuned": self.tuned} | draws

    def frame(self) -> pd.DataFrame:
        """Columns `method`, `task`, `metric`, `value`, `low`, `high`, `n`."""
        import pandas as pd

        rows: list[dict[str, Any]] = [
            {"method": method, "task": e.task, "metric": metric}
            | {"value": m.value, "low": m.low, "high": m.high, "n": m.n}
            for method, e in self.evaluations().items()
            for metric, m in e.metrics.items()
        ]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The scores of each method as bars with their intervals."""
        from lofit_lens.plotting import metric_bars

        groups = {name: evaluation.metrics for name, evaluation in self.evaluations().items()}
        return metric_bars(groups, title=f"{self.tuned.task}: {len(self.heads)} heads tuned")

    @classmethod
    def of(cls, scores: HeadScores, store: Store, records: Sequence[Record]) -> LofitRun:
        """The run that records make, with the scores of the heads and the edits of the store."""
        zero_shot, tuned, *random = records
        edit = store.edit_of(tuned)
        assert isinstance(edit, HeadIntervention)
        before, after = zero_shot.evaluation, tuned.evaluation
        edit = _with_metrics(edit, {"zero_shot": before, "tuned": after})
        return cls(scores, edit, before, after, {r.draw: r.evaluation for r in random})

    def save(self, folder: str | Path) -> Path:
        """Write the run: the intervention, `scores.json`, `heads.npy`, `NAME.json.gz`."""
        folder = self.intervention.save(folder)
        self.scores.save(folder / "scores.json")
        self.heads.save(folder / "heads.npy")
        for name, evaluation in self.evaluations().items():
            evaluation.save(folder / f"{name}.json.gz")
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: TransformerBridge | None = None) -> LofitRun:
        """Read a run; with `model`, refuse one made on another model.

        Raises:
            LofitLensError: A file is missing or damaged.
        """
        folder = Path(folder)
        return cls(
            HeadScores.load(folder / "scores.json"),
            HeadIntervention.load(folder, model),
            Evaluation.load(folder / "zero_shot.json.gz"),
            Evaluation.load(folder / "tuned.json.gz"),
            {
                int(path.name.partition(".")[0].removeprefix("random_")): Evaluation.load(path)
                for path in sorted(folder.glob("random_*.json.gz"))
            },
        )

    def __repr__(self) -> str:
        return (
            f"LofitRun({self.tuned.task}, {len(self.heads)} heads: "
            f"{self.zero_shot.main} -> {self.tuned.main})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().to_html(index=False)}"


def lofit(
    model: TransformerBridge,
    task: Task,
    *,
    fraction: float | None = None,
    k: int | None = None,
    heads: str = "lofit",
    selection: SelectionConfig | None = None,
    tuning: TuningConfig | None = None,
    random_draws: int = 0,
    texts: Sequence[EncodedText] | None = (),
    out: str | Path | Store | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    batch_size: BatchSize = 32,
    together: int = 8,
    workers: Executor | int = 1,
    progress: bool = True,
) -> LofitRun:
    """Select heads, tune them, and score the model before and after.

    Args:
        model: A frozen bridge from `load_model`.
        task: The task.
        fraction: Share of heads to tune, such as 0.03.
        k: Number of heads instead.
        heads: The selector that chooses them: LoFiT's stage 1, or another one (see `selector`).
        selection: How to train stage 1.
        tuning: How to train stage 2, random heads included; a learning rate of "auto" is chosen on
            the selected heads.
        random_draws: How many sets of random heads to tune beside the selected ones: those that
            `compare` and `transfer_matrix` draw with the same seed.
        texts: As in `compare`, but by default side effects are not measured.
        out: As in `compare`, and in the end in the format of `LofitRun.save`.
        on_failure: Called with the error of random heads that fail; the run then goes without them.
            None: the error is raised, as it is where the selected heads fail.
        batch_size: As in `transfer_matrix`; `together`, `workers` and `progress` as in `compare`.

    Raises:
        LofitLensError: Not exactly one of `fraction` and `k` is given, or `together` is below 1.
        TrainingStopped: Training became unstable.
    """
    check_chosen(heads)
    check_whole("random_draws", random_draws)
    check_batch_size(batch_size)
    tuning, selection = tuning or TuningConfig(), selection or SelectionConfig()
    size = number_of_heads(heads_of(model).total, k=k, fraction=fraction)
    settings = Settings(k=size, selection=selection, tuning=tuning)
    store = Store.at(out, KIND)
    bench = Bench.of(model, texts, progress=progress)
    cells = lofit_cells(task, settings, heads, random_draws, batch_size)
    tuned = cells[1].score(bench.heads).fit
    assert isinstance(tuned, Tune) and tuned.heads.of is not None
    records = run_cells(
        bench, cells, store, together=together, workers=workers, keep_edits=True, what="lofit",
        on_step=partial(_write_step, store.path, tuned), on_record=partial(_write, store.path),
        on_failure=_unless_random(on_failure), progress=False,
    )  # fmt: skip
    run = LofitRun.of(run_steps(bench, [tuned.heads.of], store, progress=False)[0], store, records)
    store.finish(records)
    if store.path is not None:
        run.save(store.path)
    return run


def lofit_cells(
    task: Task, settings: Settings, heads: str, random_draws: int, batch_size: BatchSize
) -> list[Cell]:
    """The model as it is, chosen heads tuned, and random ones; arguments are those of `lofit`."""
    seed, does = settings.tuning.seed, settings.tuning.component
    auto = Auto(task, seed, heads, settings.selection.seed)
    chosen = OnHeads(
        heads=heads, does=does, settings=settings, auto=auto, ranked_seed=settings.selection.seed
    )
    drawn = OnHeads(heads="random", does=does, settings=settings, auto=auto)
    cells = [Cell.zero_shot(task, seed, batch_size)]
    cells.append(Cell(LOFIT, task, chosen, seed, batch_size=batch_size))
    for draw in range(random_draws):
        cells.append(Cell(RANDOM_HEADS, task, drawn, seed, draw, batch_size=batch_size))
    return cells


def score_heads_by(
    heads: str, model: TransformerBridge, task: Task, settings: Settings, *, seed: int,
    progress: bool = True,
) -> HeadScores:  # fmt: skip
    """The score of every head by a selector, such as stage 1, with the settings of what it trains."""
    k = settings.n_heads(heads_of(model))
    step = Select(task, heads, settings, seed, Auto(task, seed), k)
    return run_steps(Bench(model, (), progress=progress), [step], Store(), progress=False)[0]


def _unless_random(
    on_failure: Callable[[LofitLensError], object] | None,
) -> Callable[[LofitLensError], object] | None:
    """What is called where random heads fail; of the selected ones the error is raised."""
    if on_failure is None:
        return None

    def told(error: LofitLensError) -> None:
        if any(f"method {LOFIT} " in note for note in error.__notes__):
            raise error
        on_failure(error)

    return told


def _write_step(folder: Path | None, tuned: Tune, step: Step[Any], product: Any) -> None:
    """Write what a stage gave for the chosen heads as soon as it is there, before it is scored."""
    if folder is None:
        return
    if tuned.heads.of is not None and step.key == tuned.heads.of.key:
        product.save(folder / "scores.json")
        tuned.heads.among(product).save(folder / "heads.npy")
    if step.key == tuned.key:
        save_edit(product.edit, folder)


def _write(folder: Path | None, record: Record) -> None:
    """Write scores to a folder as soon as they are there."""
    if folder is not None:
        names = {ZERO_SHOT: "zero_shot", LOFIT: "tuned"}
        name = names.get(record.method, f"random_{record.draw}")
        record.evaluation.save(folder / f"{name}.json.gz")


def _with_metrics(
    edit: HeadIntervention, evaluations: Mapping[str, Evaluation]
) -> HeadIntervention:
    """The edit with its scores in the provenance, so that they travel with it."""
    assert edit.provenance is not None
    metrics = {
        name: {metric: asdict(estimate) for metric, estimate in evaluation.metrics.items()}
        for name, evaluation in evaluations.items()
    }
    return replace(edit, provenance=replace(edit.provenance, metrics=metrics))
