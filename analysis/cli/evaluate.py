"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.chat import ChatOptions, reload_as_was
from lofit_lens.analysis.cli.console import check_file, command
from lofit_lens.analysis.cli.groups import with_options
from lofit_lens.analysis.cli.options import ModelOptions
from lofit_lens.analysis.cli.shared import Json, Quiet
from lofit_lens.analysis.cli.task_options import TaskOptions, name_of


@with_options(model_options=ModelOptions, task_options=TaskOptions, chat=ChatOptions)
def evaluate(
    *,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    intervention: Annotated[
        Path | None,
        typer.Option(help="Folder of a run; without it the model is scored as it is."),
    ] = None,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    compat: Annotated[
        str | None, typer.Option(help="Scoring rule by name: paper-code keeps its quirks.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Multiply the edit by this number.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the training draw, for tasks that draw.")] = 42,
    out: Annotated[
        Path | None, typer.Option(help="File for the records of every item (.json.gz).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file --out.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on a task, with or without an intervention.

    Model, task and chat template are those of the run, unless others are named.
    """
    with command(as_json, quiet) as report:
        from lofit_lens.analysis.runs import RunFolder
        from lofit_lens.edits.on_heads import HeadIntervention
        from lofit_lens.errors import LofitLensError
        from lofit_lens.scoring import Evaluation
        from lofit_lens.scoring import evaluate as score
        from lofit_lens.tasks import reload_task
        from lofit_lens.tasks.load import check_not_trained_on

        if split not in ("test", "val"):
            raise LofitLensError(f"--split is test or val, got {split!r}.")
        check_file(out, overwrite=overwrite)
        model_options.check()
        run = RunFolder(intervention) if intervention else None
        folds = run.folds() if run else []
        edits = [strength * HeadIntervention.load(fold) for fold in folds]
        sources = [e.provenance.task_source if e.provenance else {} for e in edits]
        loaded = run.loaded() if run else None
        if edits and not (task_options.task or task_options.files):
            for name in task_options.file_arguments():
                raise LofitLensError(
                    f"{name} describes a file, and none is named: the run knows its own. Name the file "
                    "with --task, or leave the option out."
                )
            read = {"data_dir": task_options.data_dir}
            tasks = [reload_as_was(s, model_options, loaded, **read) for s in sources]
            for task, edit in zip(tasks, edits, strict=True):
                if edit.provenance and edit.provenance.data_hash != task.data_hash():
                    raise LofitLensError(
                        f"The data of {task.name} changed since {intervention} was made, so test items "
                        "may have been trained on. Name the data to score with --task."
                    )
            if chat.chat is not None or chat.system is not None:
                plain = [{k: v for k, v in source.items() if k != "chat"} for source in sources]
                tasks = [reload_task(source, **read) for source in plain]
                tasks = chat.inside(tasks, model_options, loaded)
        else:
            named = task_options.load(seed)
            tasks = chat.of_run(sources).inside(named, model_options, loaded)
        if edits and len(edits) != len(tasks):
            raise LofitLensError(
                f"{intervention} holds {len(edits)} fold(s), the task has {len(tasks)}. Name the fold, "
                "as --intervention RUN/fold-0 --task truthfulqa:0."
            )
        for task in tasks:
            task.scoring_rule(compat)
        for task, edit in zip(tasks, edits, strict=bool(edits)):
            check_not_trained_on(task, edit.provenance.task_source if edit.provenance else {})
        model = model_options.load(loaded)
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
                progress=not quiet,
            )
            for task, edit in zip(tasks, edits or [None] * len(tasks), strict=True)
        ]
        pooled = Evaluation.pooled(name_of(tasks), results)
        report.add_evaluations({"tuned" if edits else "zero_shot": pooled})
        if edits:
            report.add(scope=edits[0].scope, strength=strength)
        if out is not None:
            report.add(f"written to {pooled.save(out)}", paths=[str(out)])
