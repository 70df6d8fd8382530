"""What an earlier transfer left: scores and runs that may be used again, and those that may not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.study.paired import check_paired
from lofit_lens.analysis.transfer.run import TransferRun
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.identity import check_same_model
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TuningConfig

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

AllScores = Mapping[str, Mapping[int, HeadScores]]
"""Stage 1 by task name and seed."""

Step = tuple[str, Task, int, HeadSet]
"""Source of the heads, task to tune and test on, seed, heads."""


def check_scores(model: TransformerBridge, scores: AllScores) -> None:
    """Refuse scores that were made elsewhere; those without a provenance are taken as they are.

    Raises:
        ModelMismatchError: The scores of a task were made on another model.
        LofitLensError: They were made on another task or with another seed.
    """
    made = [
        (f"The scores given for {task} with seed {seed}", task, seed, found.provenance)
        for task, by_seed in scores.items()
        for seed, found in by_seed.items()
        if found.provenance is not None
    ]
    for what, task, seed, origin in made:
        there = (origin.task, origin.config.get("seed", seed))
        if there != (task, seed):
            raise LofitLensError(f"{what} were made on {there[0]} with seed {there[1]}.")
    models = {origin.fingerprint: what for what, _, _, origin in made}
    for fingerprint, what in models.items():
        check_same_model(model, fingerprint, what)


def sort_finished(
    done: Sequence[TransferRun],
    plan: Sequence[Step],
    tuning: Mapping[str, TuningConfig],
    zero_shot: Mapping[str, Evaluation],
) -> list[TransferRun | None]:
    """The finished run of each step of a plan, if there is one; runs of other steps are left out.

    Args:
        done: Runs of an earlier transfer.
        plan: What is to be run.
        tuning: How, by task name; the seed is replaced.
        zero_shot: Scores of the untuned model, by task name.

    Raises:
        LofitLensError: The run of a step was tuned otherwise or scored on other items, or a source
            has other heads.
    """
    tasks = {task.name: task for _, task, _, _ in plan}
    planned = {(source, task.name, seed) for source, task, seed, _ in plan}
    waiting: dict[tuple[str, str, int], list[TransferRun]] = {}
    for run in done:
        key = (run.source, run.task, run.seed)
        if key not in planned:
            continue
        what = f"The finished run on {run.task!r} with heads from {run.source!r}, seed {run.seed}"
        odd = _differences(run, tasks[run.task], tuning[run.task])
        if odd:
            raise LofitLensError(f"{what}, was tuned with other {', '.join(odd)}.{_ANEW}")
        check_paired(run.evaluation, zero_shot[run.task], what=what, base="zero-shot")
        waiting.setdefault(key, []).append(run)
    found: list[TransferRun | None] = []
    for source, task, seed, heads in plan:
        runs = waiting.get((source, task.name, seed), [])
        same = next((place for place, run in enumerate(runs) if run.heads == heads), None)
        found.append(None if same is None else runs.pop(same))
    for (source, task, seed), runs in waiting.items():
        if runs:
            raise LofitLensError(
                f"The finished run on {task!r} with heads from {source!r}, seed {seed}, has other "
                f"heads than are to be tuned now, or there are more such runs.{_ANEW}"
            )
    return found


def _differences(run: TransferRun, task: Task, tuning: TuningConfig) -> list[str]:
    """The settings of a run that are not those of its task now."""
    expected: dict[str, Any] = json.loads(json.dumps(tuning.to_json()))
    expected |= {"objective": tuning.objective or task.objective, "seed": run.seed}
    found = json.loads(json.dumps(dict(run.config or {})))
    return [name for name, value in expected.items() if name not in found or found[name] != value]


_ANEW = " Give what the earlier runs had, or start anew in another folder."
