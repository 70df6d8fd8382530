"""The command `transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import about, command
from lofit_lens.analysis.cli.options import (
    HeadOptions,
    ModelOptions,
    TrainingOptions,
    as_embedded,
    with_options,
)
from lofit_lens.analysis.cli.task_options import TasksOptions

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.cli.console import Report
    from lofit_lens.tasks import Task


@with_options(
    model_options=ModelOptions,
    task_options=TasksOptions,
    chat=ChatOptions,
    head_options=HeadOptions,
    training=TrainingOptions,
)
def transfer(
    *,
    model_options: ModelOptions,
    task_options: TasksOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    out: Annotated[Path, typer.Option(help="Folder for scores, records, table and figure.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from --seed on.", min=1)] = 1,
    random_draws: Annotated[
        int, typer.Option(help="Sets of random heads for each task and seed.", min=0)
    ] = 1,
    together: Annotated[
        int,
        typer.Option(help="Runs trained in one forward pass; fewer need less memory.", min=1),
    ] = 8,
    resume: Annotated[bool, typer.Option(help="Go on with a matrix in --out.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a matrix in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Choose heads on each task, tune them on every task: the paper's Figure 2.

    Beside the heads of each task, random ones; every cell is tested against the task's own heads.
    Of TruthfulQA's two folds one is taken, the first unless truthfulqa:1 is named: the training
    questions of one are test questions of the other. Without --model and --task: the embedded model
    on its three tasks.

    Writes figure2.html, table.csv, transfer.json, scores/TASK-SEED.json of stage 1, and the records
    of every scored item, each as soon as it is there. With --resume an interrupted matrix is gone on
    with, or one with more --seeds or --random-draws is made from a finished one; all else must be the
    same.
    """
    with command(as_json, quiet) as report:
        from lofit_lens.analysis.folders import records
        from lofit_lens.analysis.transfer.folder import TransferFolder
        from lofit_lens.analysis.transfer.stages import score_heads

        from lofit_lens.analysis.kinds.transfer import transfer_matrix
        from lofit_lens.analysis.methods.settings import PAPER_FRACTION, Settings
        from lofit_lens.analysis.runs import loaded_as
        from lofit_lens.attention import heads_of
        from lofit_lens.identity import EMBEDDED, fingerprint
        from lofit_lens.provenance import library_versions
        from lofit_lens.scoring.evaluate import evaluate

        folder = TransferFolder(out, overwrite=overwrite, resume=resume)
        embedded = (model_options.model or EMBEDDED) == EMBEDDED
        if embedded:
            model_options, training = as_embedded(model_options, training)
        model_options.check()
        tasks = _one_fold_each(task_options, embedded, training.seed, report)
        head_options.check(needed=False)
        training.check(tasks, head_options.share(PAPER_FRACTION))
        tasks = chat.inside(tasks, model_options)
        model = model_options.load()
        total = heads_of(model).total
        head_options = head_options.under(training.preset, total, report, default=PAPER_FRACTION)
        k = Settings(k=head_options.k, fraction=head_options.fraction).n_heads(model)
        selection = {task.name: training.selection(task) for task in tasks}
        tuning = {task.name: training.tuning(task, k / total) for task in tasks}
        chosen_seeds = range(training.seed, training.seed + seeds)
        loaded = loaded_as(model)
        name = Path(str(loaded["model"])).name
        folder.open(
            {
                "loaded": loaded,
                "weights": fingerprint(model).weights,
                "tasks": {
                    t.name: {"source": dict(t.source), "data_hash": t.data_hash()} for t in tasks
                },
                "seeds": list(chosen_seeds),
                "k": k,
                "random_draws": random_draws,
                "selection": {task: config.to_json() for task, config in selection.items()},
                "tuning": {task: config.to_json() for task, config in tuning.items()},
                "versions": library_versions(),
            }
        )
        report.say(f"{name}: {k} of {total} heads; {', '.join(selection)}")
        scores = score_heads(
            model,
            tasks,
            seeds=chosen_seeds,
            selection=selection,
            together=together,
            done=folder.scores,
            on_scores=folder.add_scores,
            progress=not quiet,
        )
        for task in tasks:
            if task.name not in folder.zero_shot:
                batch_size = model_options.batch_size
                folder.add_zero_shot(evaluate(model, task, batch_size=batch_size, progress=False))
        matrix = transfer_matrix(
            model,
            tasks,
            seeds=chosen_seeds,
            k=k,
            random_draws=random_draws,
            scores=scores,
            zero_shot=folder.zero_shot,
            tuning=tuning,
            batch_size=model_options.batch_size,
            together=together,
            done=folder.done,
            on_run=folder.add,
            progress=not quiet,
        )
        for task, by_seed in scores.items():
            for seed, found in by_seed.items():
                if found.provenance is not None:
                    report.add_rate(
                        f"Stage 1 on {task}", found.provenance.config.get("rate_choice")
                    )
                    warning = found.provenance.history.warning()
                    report.hint(about(f"Stage 1 on {task}, seed {seed}", warning))
        for run in matrix.runs:
            what = f"Stage 2 on {run.task}, heads from {run.source}, seed {run.seed}"
            report.add_rate(f"Stage 2 on {run.task}", (run.config or {}).get("rate_choice"))
            if run.edit is not None and run.edit.provenance is not None:
                report.hint(about(what, run.edit.provenance.history.warning()))
        table, paths = folder.finish(matrix, name, report.noted)
        written = "\n".join(f"  {path}" for path in paths)
        report.add(
            f"{as_text(table)}\n\nwritten to {out}, with the records of every item:\n{written}",
            model=name,
            k=k,
            seeds=list(chosen_seeds),
            table=records(table),
            out=str(out),
            paths=[str(path) for path in paths],
        )


def _one_fold_each(options: TasksOptions, embedded: bool, seed: int, report: Report) -> list[Task]:
    """The tasks named, each once; for the embedded model its own three by default."""
    from lofit_lens.analysis.study.paired import plain
    from lofit_lens.errors import LofitLensError

    tasks = []
    for first, *others in options.load_each(seed, embedded=embedded):
        if others:
            kind = first.name.partition(":")[0]
            report.say(
                f"{kind}: only {first.name}. For the other fold name it, as {others[0].name}."
            )
        tasks.append(first)
    names = [task.name for task in tasks]
    kinds = ["truthfulqa" if name.startswith("truthfulqa:") else name for name in names]
    twice = [name for name, kind in zip(names, kinds, strict=True) if kinds.count(kind) > 1]
    if twice:
        raise LofitLensError(
            f"Every task comes once, and of TruthfulQA one fold, because heads chosen on one have seen "
            f"the test questions of the other; got {', '.join(twice)}."
        )
    files = [plain(name) for name in names]
    alike = [name for name, file in zip(names, files, strict=True) if files.count(file) > 1]
    if alike:
        raise LofitLensError(
            f"The files of {' and '.join(alike)} would have the same names. Rename one of the tasks."
        )
    return tasks


def as_text(table: pd.DataFrame) -> str:
    """The matrix for a terminal: rows are sources of heads, columns the tasks tuned and tested on."""
    from lofit_lens.analysis.figures.transfer_cells import cell_text
    from lofit_lens.analysis.kinds.matrix import MARKS

    tasks = list(dict.fromkeys(table["task"]))
    wide = max(12, *(len(name) + 2 for name in (*tasks, *table["source"])))
    lines = [f"{'heads from':<{wide}}" + "".join(f"{task:>{wide}}" for task in tasks)]
    for source, rows in table.groupby("source", sort=False):
        texts = map(cell_text, 100 * rows["value"], rows["mark"])
        lines.append(f"{source:<{wide}}" + "".join(f"{text:>{wide}}" for text in texts))
    return "\n".join(["Accuracy, %, by the task tuned and tested on", *lines, MARKS])
