"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import Report, check_file
from lofit_lens.analysis.cli.groups import option, with_options
from lofit_lens.analysis.cli.of_run import RunOfEdit
from lofit_lens.analysis.cli.options import ModelOptions
from lofit_lens.analysis.cli.task_options import TaskOptions, name_of
from lofit_lens.errors import LofitLensError


@with_options
def evaluate(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    intervention: Annotated[
        str | None,
        option("Folder of a run, or an edit on the hub; without it the model is scored as it is."),
    ] = None,
    split: Annotated[str, option("test or val.")] = "test",
    compat: Annotated[
        str | None, option("Scoring rule by name: paper-code keeps its quirks.")
    ] = None,
    strength: Annotated[float, option("Multiply the edit by this number.")] = 1.0,
    seed: Annotated[int, option("Seed of the training draw, for tasks that draw.")] = 42,
    out: Annotated[Path | None, option("File for the records of every item (.json.gz).")] = None,
    overwrite: Annotated[bool, option("Replace the file --out.")] = False,
) -> None:
    """Score a model on a task, with or without an intervention.

    Model, task and chat template are those of the run, unless others are named.
    """
    from lofit_lens.scoring import Evaluation
    from lofit_lens.scoring import evaluate as score

    if split not in ("test", "val"):
        raise LofitLensError(f"--split is test or val, got {split!r}.")
    check_file(out, overwrite=overwrite)
    model_options.check()
    run = RunOfEdit.read(intervention, strength)
    tasks, edits = run.tasks(task_options, chat, model_options, seed=seed), run.edits
    for task in tasks:
        task.scoring_rule(compat)
    model = model_options.load(run.loaded)
    for edit in edits:
        edit.check_model(model)
    results = [
        score(
            model,
            task,
            edit,
            split=split,
            compat=compat,
            batch_size=model_options.batch_size,
            progress=not report.quiet,
        )
        for task, edit in zip(tasks, edits or [None] * len(tasks), strict=True)
    ]
    pooled = Evaluation.pooled(name_of(tasks), results)
    report.add_evaluations({"tuned" if edits else "zero_shot": pooled})
    if edits:
        report.add(scope=edits[0].scope, strength=strength)
    if out is not None:
        report.add(f"written to {pooled.save(out)}", paths=[str(out)])
