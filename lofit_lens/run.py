"""Both stages of LoFiT on one task, with the scores before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.attention import heads_of
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.fast.memory import BatchSize
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.selection import select_heads
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TuningConfig
from lofit_lens.training.rates import with_rate
from lofit_lens.training.together import check_together, grouped
from lofit_lens.tuning import tune_together

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class LofitRun:
    """Both stages on one task, with their scores.

    Attributes:
        scores: Stage 1.
        intervention: Stage 2.
        zero_shot: The model as it is.
        tuned: The model under the intervention.
        random: The same number of random heads tuned the same way, by the seed of the draw.
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
        """The evaluations by name: zero_shot, tuned, and random_SEED for each draw."""
        draws = {f"random_{seed}": evaluation for seed, evaluation in self.random.items()}
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

    def save(self, folder: str | Path) -> Path:
        """Write the run: the intervention, `scores.json`, `heads.npy`, `NAME.json.gz`."""
        folder = self.intervention.save(folder)
        _save_scores(folder, self.scores, self.heads)
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
                int(path.name.removesuffix(".json.gz").removeprefix("random_")): Evaluation.load(
                    path
                )
                for path in sorted(folder.glob("random_*.json.gz"))
            },
        )

    def __repr__(self) -> str:
        return (
            f"LofitRun({self.tuned.task}, {len(self.heads)} heads: "
            f"{self.zero_shot.main} -> {self.tuned.main})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.frame().to_html(index=False)}"


def lofit(
    model: TransformerBridge,
    task: Task,
    *,
    fraction: float | None = None,
    k: int | None = None,
    selection: SelectionConfig | None = None,
    tuning: TuningConfig | None = None,
    random_draws: int = 0,
    out: str | Path | None = None,
    batch_size: BatchSize = 32,
    together: int = 8,
    progress: bool = True,
) -> LofitRun:
    """Select heads, tune them, and score the model before and after.

    Args:
        model: A frozen bridge from `load_model`.
        task: The task.
        fraction: Share of heads to tune, such as 0.03.
        k: Number of heads instead.
        selection: How to train stage 1.
        tuning: How to train stage 2, random heads included; a learning rate of "auto" is chosen on
            the selected heads.
        random_draws: How many sets of random heads to tune beside the selected ones; draw i is
            made with the seed of `tuning` plus i.
        out: Folder to write each result to as soon as it is there, in the format of
            `LofitRun.save`.
        batch_size: Sequences per forward pass in scoring; "auto" takes the most that fit into
            memory.
        together: How many head sets are tuned in one forward pass. Activations of a step take so
            many times the memory of one; results do not depend on it, up to rounding.
        progress: Whether to show bars.

    Raises:
        LofitLensError: Not exactly one of `fraction` and `k` is given, or `together` is below 1.
        TrainingStopped: Training became unstable.
    """
    tuning = tuning or TuningConfig()
    if out is not None and Path(out).is_file():
        raise LofitLensError(f"{out} is a file; name a folder.")
    check_together(together)
    number_of_heads(heads_of(model).total, k=k, fraction=fraction)
    folder = Path(out) if out is not None else None

    def score(edit: HeadIntervention | None, name: str) -> Evaluation:
        result = evaluate(model, task, edit, batch_size=batch_size, progress=progress)
        if folder is not None:
            result.save(folder / f"{name}.json.gz")
        return result

    scores = select_heads(model, task, selection, progress=progress)
    heads = scores.top(k=k, fraction=fraction)
    if folder is not None:
        _save_scores(folder, scores, heads)
    shape = heads.grid.shape
    drawn = {
        seed: HeadSet.random(len(heads), seed=seed, **shape)
        for seed in range(tuning.seed, tuning.seed + random_draws)
    }
    tuning = with_rate(model, task, heads, tuning, progress=progress)
    edits = _tuned(
        model, task, [heads, *drawn.values()], tuning, together=together, progress=progress
    )
    tuned = next(edits)
    if folder is not None:
        tuned.save(folder)
    zero_shot_result = score(None, "zero_shot")
    tuned_result = score(tuned, "tuned")
    tuned = _with_metrics(tuned, {"zero_shot": zero_shot_result, "tuned": tuned_result})
    if folder is not None:
        tuned.save(folder)
    random = {seed: score(edit, f"random_{seed}") for seed, edit in zip(drawn, edits, strict=True)}
    return LofitRun(scores, tuned, zero_shot_result, tuned_result, random)


def _tuned(
    model: TransformerBridge,
    task: Task,
    sets: Sequence[HeadSet],
    tuning: TuningConfig,
    *,
    together: int,
    progress: bool,
) -> Iterator[HeadIntervention]:
    """Stage 2 on several head sets with the same settings."""
    for some in grouped(sets, together):
        runs = [(heads, tuning) for heads in some]
        for edit in tune_together(model, task, runs, progress=progress):
            if isinstance(edit, TrainingStopped):
                raise edit
            yield edit


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


def _save_scores(folder: Path, scores: HeadScores, heads: HeadSet) -> None:
    scores.save(folder / "scores.json")
    heads.save(folder / "heads.npy")
