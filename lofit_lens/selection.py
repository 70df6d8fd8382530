"""Stage 1: which heads does a task live in?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig
from lofit_lens.training.loop import train

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def select_heads(
    model: TransformerBridge,
    task: Task,
    config: SelectionConfig | None = None,
    *,
    progress: bool = True,
) -> HeadScores:
    """Score every head by the norm of its learned scale (paper, section 3.1).

    A scale A is trained on all heads with the task's loss plus lambda times the sum of |A|. The
    score of a head is the L2 norm of its A. A itself is thrown away.

    Args:
        model: A frozen bridge from `load_model`.
        task: The task.
        config: How to train; default `SelectionConfig()`.
        progress: Whether to show a bar.

    Returns:
        The whole matrix of scores; `.top(fraction=0.03)` gives the heads.

    Raises:
        TrainingStopped: Training became unstable.

    Examples:
        >>> heads = select_heads(model, task).top(fraction=0.03)  # doctest: +SKIP
    """
    config = config or SelectionConfig()
    cfg = model.cfg
    every = HeadSet.every(n_layers=cfg.n_layers, n_heads=cfg.n_heads)
    trained = train(model, task, every, "scale", config, progress=progress)
    assert trained.scale is not None
    scores = trained.scale.norm(dim=-1).reshape(cfg.n_layers, cfg.n_heads)
    return HeadScores(scores, method="lofit", provenance=trained.provenance)
