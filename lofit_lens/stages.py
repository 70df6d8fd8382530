"""The two stages of LoFiT: which heads does a task live in, and tune these and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lofit_lens.attention import heads_of
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TuningConfig
from lofit_lens.training.loop import train_together
from lofit_lens.training.rates import with_one_rate

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
    (found,) = select_together(model, task, [config or SelectionConfig()], progress=progress)
    if isinstance(found, TrainingStopped):
        raise found
    return found


def select_together(
    model: TransformerBridge,
    task: Task,
    configs: Sequence[SelectionConfig],
    *,
    progress: bool = True,
) -> list[HeadScores | TrainingStopped]:
    """Score every head with several seeds in one forward pass; see `tune_together`.

    Args:
        model: A frozen bridge from `load_model`.
        task: The task.
        configs: How to train; they may differ in the seed. A learning rate of "auto" is chosen
            once, with the first.
        progress: Whether to show a bar.

    Returns:
        The scores of each seed; for one that became unstable, the error that `select_heads` would
        raise.

    Raises:
        LofitLensError: There are no configurations, or they differ in more than the seed.
    """
    if not configs:
        raise LofitLensError("There is no configuration to select heads with. Give at least one.")
    every = HeadSet.every(**heads_of(model).shape)
    runs = with_one_rate(model, task, [(every, config) for config in configs], progress=progress)
    found = train_together(model, task, runs, "scale", progress=progress)
    return [
        edit
        if isinstance(edit, TrainingStopped)
        else HeadScores.of(
            edit.heads, edit.numbers()["scale"].norm(dim=-1), "lofit", edit.provenance
        )
        for edit in found
    ]


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
    (found,) = tune_together(model, task, [(heads, config or TuningConfig())], progress=progress)
    if isinstance(found, TrainingStopped):
        raise found
    return found


def tune_together(
    model: TransformerBridge,
    task: Task,
    runs: Sequence[tuple[HeadSet, TuningConfig]],
    *,
    progress: bool = True,
) -> list[HeadIntervention | TrainingStopped]:
    """Tune several head sets on one task in one forward pass.

    Every row of a batch carries the numbers of its own run, so that R runs cost one run with
    batches R times as large, which is what fills a GPU. Each run gives what `tune_heads` gives
    alone, up to rounding.

    Args:
        model: A frozen bridge from `load_model`.
        task: The task.
        runs: The heads of each run, and how to tune them; configurations may differ in the seed
            and the learning rate. One of "auto" for all is chosen once, on the first.
        progress: Whether to show a bar.

    Returns:
        What each run learned; for one that became unstable, the error that `tune_heads` would
        raise, so that the others are not lost.

    Raises:
        LofitLensError: There are no runs, a run has no heads, or the configurations differ in more
            than seeds and learning rates.

    Examples:
        >>> runs = [(heads, TuningConfig(seed=seed)) for seed in (42, 43)]  # doctest: +SKIP
        >>> first, second = tune_together(model, task, runs)  # doctest: +SKIP
    """
    if not runs:
        raise LofitLensError("There are no runs to tune. Give at least one head set.")
    runs = with_one_rate(model, task, runs, progress=progress)
    return train_together(model, task, runs, runs[0][1].component, progress=progress)
