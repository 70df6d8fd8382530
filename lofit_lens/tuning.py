"""Stage 2, and both stages with their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lofit_lens.heads import HeadScores, HeadSet
from lofit_lens.intervention import HeadIntervention
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.selection import select_heads
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TuningConfig
from lofit_lens.training.loop import train

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge


def tune_heads(
    model: TransformerBridge,
    task: Task,
    heads: HeadSet,
    config: TuningConfig | None = None,
    *,
    progress: bool = True,
) -> HeadIntervention:
    """Train a bias on the chosen heads, from a fresh start (paper, section 3.2).

    Args:
        model: A frozen bridge from `load_model`.
        task: The task.
        heads: The heads to tune.
        config: How to train; default `TuningConfig()`.
        progress: Whether to show a bar.

    Raises:
        TrainingStopped: Training became unstable.

    Example:
        >>> tuned = tune_heads(model, task, heads)  # doctest: +SKIP
        >>> with tuned.applied(model):  # doctest: +SKIP
        ...     model.generate("Q: Can pigs fly? A:", max_new_tokens=16)
    """
    config = config or TuningConfig()
    trained = train(model, task, heads, config.component, config, progress=progress)
    return replace(trained.intervention, provenance=trained.provenance)


@dataclass(frozen=True, eq=False)
class LofitRun:
    """Both stages on one task, with their scores.

    Attributes:
        scores: Stage 1.
        intervention: Stage 2.
        zero_shot: The model as it is.
        tuned: The model under the intervention.
        random: The same number of random heads tuned the same way, one per draw.
    """

    scores: HeadScores
    intervention: HeadIntervention
    zero_shot: Evaluation
    tuned: Evaluation
    random: tuple[Evaluation, ...] = ()

    @property
    def heads(self) -> HeadSet:
        """The heads that were tuned."""
        return self.intervention.heads

    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluations by name: zero_shot, tuned, and random_0, random_1, …."""
        draws = {f"random_{i}": evaluation for i, evaluation in enumerate(self.random)}
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
    batch_size: int = 32,
    progress: bool = True,
) -> LofitRun:
    """Select heads, tune them, and score the model before and after.

    Args:
        model: A frozen bridge from `load_model`.
        task: The task.
        fraction: Share of heads to tune, such as 0.03.
        k: Number of heads instead.
        selection: How to train stage 1.
        tuning: How to train stage 2, random heads included.
        random_draws: How many sets of random heads to tune beside the selected ones; draw i is
            made with the seed of `tuning` plus i.
        batch_size: Sequences per forward pass in scoring.
        progress: Whether to show bars.

    Raises:
        LofitLensError: Not exactly one of `fraction` and `k` is given.
        TrainingStopped: Training became unstable.
    """
    tuning = tuning or TuningConfig()
    scores = select_heads(model, task, selection, progress=progress)
    heads = scores.top(k=k, fraction=fraction)

    def score(edit: HeadIntervention | None) -> Evaluation:
        return evaluate(model, task, edit, batch_size=batch_size, progress=progress)

    zero_shot = score(None)
    tuned = tune_heads(model, task, heads, tuning, progress=progress)
    draws = [
        HeadSet.random(
            len(heads), n_layers=heads.n_layers, n_heads=heads.n_heads, seed=tuning.seed + draw
        )
        for draw in range(random_draws)
    ]
    random = [score(tune_heads(model, task, drawn, tuning, progress=progress)) for drawn in draws]
    return LofitRun(scores, tuned, zero_shot, score(tuned), tuple(random))
