"""Stage 2: tune the chosen heads, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit_lens.heads import HeadSet
from lofit_lens.intervention import HeadIntervention
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TuningConfig
from lofit_lens.training.loop import train

if TYPE_CHECKING:
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

    Examples:
        >>> tuned = tune_heads(model, task, heads)  # doctest: +SKIP
        >>> with tuned.applied(model):  # doctest: +SKIP
        ...     model.generate("Q: Can pigs fly? A:", max_new_tokens=16)
    """
    config = config or TuningConfig()
    return train(model, task, heads, config.component, config, progress=progress)
