"""Edits, scores and tasks by the name of the task, however they were given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lofit_lens.analysis.inside.explorer.card import TaskScores
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.head_scores import HeadScores
from lofit_lens.tasks.task import Task

Edits = HeadIntervention | Mapping[str, HeadIntervention]
Scores = HeadScores | Mapping[str, HeadScores | Mapping[int, HeadScores]]
Tasks = Task | Mapping[str, Task]


def edits_by_task(edits: Edits, scores: Scores, tasks: Tasks | None) -> dict[str, HeadIntervention]:
    """The edits by task; a single one is named as its provenance says.

    Raises:
        LofitLensError: There are none, or one is not an edit of heads.
    """
    named = dict(edits) if isinstance(edits, Mapping) else {_name(edits, scores, tasks): edits}
    if not named:
        raise LofitLensError("Give at least one edit, as {task: edit}; got none.")
    for task, edit in named.items():
        if not isinstance(edit, HeadIntervention):
            raise LofitLensError(
                f"Head cards are made of HeadIntervention; for {task!r} got {edit!r}."
            )
    return named


def scores_by_task(scores: Scores, edits: Edits, tasks: Tasks | None) -> tuple[TaskScores, ...]:
    """The scores by task and seed; single ones are named as their provenance says.

    Raises:
        LofitLensError: There are none, or they are not given by task, then by seed.
        ModelMismatchError: They are of different model shapes.
    """
    named: Mapping[Any, Any]
    named = scores if isinstance(scores, Mapping) else {_name(scores, edits, tasks): scores}
    found = []
    for task, given in named.items():
        by_seed = given if isinstance(given, Mapping) else {_seed(given): given}
        for seed, one in by_seed.items():
            named_well = isinstance(task, str) and isinstance(seed, int | None)
            if not named_well or not isinstance(one, HeadScores):
                raise LofitLensError(
                    "Scores are HeadScores, {task: HeadScores} or {task: {seed: HeadScores}}, seeds "
                    f"whole numbers; for {task!r} and seed {seed!r} got {one!r}."
                )
            rows = tuple(
                () if layer in one.without else tuple(row)
                for layer, row in enumerate(one.scores.double().tolist())
            )
            found.append(TaskScores(task, seed, rows))
    if not found:
        raise LofitLensError("Give the scores of at least one task; got none.")
    shapes = sorted({"{}x{}".format(*one.table.shape) for one in found})
    if len(shapes) > 1:
        raise ModelMismatchError(f"The scores are of different models: {' and '.join(shapes)}.")
    return tuple(found)


def task_of_each(
    edits: Mapping[str, HeadIntervention], tasks: Tasks | None
) -> Mapping[str, Task | None]:
    """The task of each edit; None for each if no tasks are given.

    Raises:
        LofitLensError: An edit has no task.
    """
    if tasks is None:
        return dict.fromkeys(edits)
    given = dict(tasks) if isinstance(tasks, Mapping) else {tasks.name: tasks}
    if isinstance(tasks, Task) and len(edits) == 1:
        given = dict.fromkeys(edits, tasks)
    missing = [name for name in edits if name not in given]
    if missing:
        raise LofitLensError(
            f"tasks lacks {', '.join(map(repr, missing))}; it has {', '.join(map(repr, given))}. Give "
            "{name: task} for every edit, or none."
        )
    return {name: given[name] for name in edits}


def _name(own: HeadIntervention | HeadScores, other: Edits | Scores, tasks: Tasks | None) -> str:
    """What a single edit or score matrix is called beside the other."""
    if isinstance(other, Mapping) and len(other) == 1:
        return next(iter(other))
    if own.provenance is not None:
        return own.provenance.task
    if isinstance(tasks, Task):
        return tasks.name
    provenance = None if isinstance(other, Mapping) else other.provenance
    return "task" if provenance is None else provenance.task


def _seed(scores: Any) -> int | None:
    provenance = getattr(scores, "provenance", None)
    return None if provenance is None else provenance.config.get("seed")
