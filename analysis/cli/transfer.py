"""The command `transfer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import Heads, Seeds, option, with_options
from lofit_lens.analysis.cli.options import HeadOptions, ModelOptions, TrainingOptions
from lofit_lens.analysis.cli.running import RunningOptions
from lofit_lens.analysis.cli.task_options import TasksOptions
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks import Task


@with_options
def transfer(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TasksOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    running: RunningOptions,
    out: Annotated[Path, option("Folder for scores, records, table and figure.")],
    seeds: Seeds = 1,
    random_draws: Annotated[int, option("Sets of random heads for each task and seed.", min=0)] = 1,
    heads: Heads = "lofit",
) -> None:
    """Choose heads on each task, tune them on every task: the paper's Figure 2.

    Beside the heads of each task, random ones; every cell is tested against the task's own heads.
    Of TruthfulQA's two folds one is taken, the first unless truthfulqa:1 is named: the training
    questions of one are test questions of the other. Without --model and --task: the embedded model
    on its three tasks.

    Writes figure2.html, table.csv, transfer.json, the heads' scores, every edit, and the records of
    every scored item, each as soon as it is there. With --resume an interrupted matrix is gone on
    with, or one of other --seeds or --random-draws is made; all else must be the same.
    """
    from lofit_lens.analysis.figures.transfer import transfer_heatmap
    from lofit_lens.analysis.kinds.matrix import KIND, MARKS
    from lofit_lens.analysis.kinds.transfer import transfer_matrix
    from lofit_lens.analysis.methods.selectors import check_chosen
    from lofit_lens.analysis.methods.settings import PAPER_FRACTION, Settings
    from lofit_lens.analysis.reporting.written import write_results
    from lofit_lens.analysis.study.bench import loaded_as
    from lofit_lens.analysis.study.experiment_folder import rows_of
    from lofit_lens.analysis.tables.tables import matrix_as_text
    from lofit_lens.attention import heads_of
    from lofit_lens.provenance import library_versions

    store = running.store(out, KIND)
    check_chosen(heads)
    model_options, training, tasks = task_options.of_experiment(
        model_options, training, chat, lambda each: _one_fold_each(each, report)
    )
    head_options.check(needed=False)
    training.check(tasks, head_options.share(PAPER_FRACTION))
    model = model_options.load()
    total = heads_of(model).total
    head_options = head_options.under(training.preset, total, report, default=PAPER_FRACTION)
    k = Settings(k=head_options.k, fraction=head_options.fraction).n_heads(heads_of(model))
    selection = {task.name: training.selection(task) for task in tasks}
    tuning = {task.name: training.tuning(task, k / total) for task in tasks}
    does = training.component or "bias"
    chosen_seeds = range(training.seed, training.seed + seeds)
    loaded = loaded_as(model)
    name = Path(str(loaded["model"])).name
    store.ask(
        loaded=loaded,
        tasks={t.name: {"source": t.source, "data_hash": t.data_hash()} for t in tasks},
        seeds=list(chosen_seeds),
        k=k,
        heads=heads,
        random_draws=random_draws,
        selection={task: config.to_json() for task, config in selection.items()},
        tuning={task: config.to_json() for task, config in tuning.items()},
        versions=library_versions(),
    )
    report.say(f"{name}: {k} of {total} heads; {', '.join(selection)}")
    matrix = transfer_matrix(
        model,
        tasks,
        seeds=chosen_seeds,
        k=k,
        heads=heads,
        does=does,
        random_draws=random_draws,
        selection=selection,
        tuning=tuning,
        batch_size=model_options.batch_size,
        out=store,
        **running.how(report),
    )
    report.add_records(matrix.runs)
    table = matrix.frame(zero_shot=True)
    table.insert(0, "model", name)
    figures = {"figure2.html": transfer_heatmap(table)}
    paths = write_results(store, table, figures, **report.noted)
    title = "Scores in the main metric, %, by the task tuned and tested on"
    text = f"{title}\n{matrix_as_text(table, 'heads from')}\n{MARKS}"
    report.add(text, model=name, k=k, seeds=list(chosen_seeds), table=rows_of(table))
    report.add_paths(out, paths, "with the records of every item")


def _one_fold_each(each: Sequence[list[Task]], report: Report) -> list[Task]:
    """Each task once, in its first fold."""
    tasks = []
    for first, *others in each:
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
    return tasks
