"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import Seeds, option, with_options
from lofit_lens.analysis.cli.method_options import MethodOptions, names_of
from lofit_lens.analysis.cli.options import HeadOptions, ModelOptions, TrainingOptions
from lofit_lens.analysis.cli.running import KeepEdits, RunningOptions
from lofit_lens.analysis.cli.task_options import TasksOptions
from lofit_lens.errors import LofitLensError

METHODS = "zero-shot,iti,repe-reading,repe-contrast,lofit,lora,random-heads"


@with_options
def compare(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TasksOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    method_options: MethodOptions,
    running: RunningOptions,
    methods: Annotated[
        str, option("Names, with commas; NAME@SCOPE for another token scope.")
    ] = METHODS,
    seeds: Seeds = 1,
    base: Annotated[str, option("The method the others are compared with.")] = "zero-shot",
    answers: Annotated[
        int, option("Multiple-choice questions to answer in free text as well.", min=0)
    ] = 0,
    published: Annotated[
        str | None,
        option("The paper's numbers beside: those of gemma-7b, llama2-7b or llama2-13b."),
    ] = None,
    drop_leaked: Annotated[
        bool, option("Leave out training items that occur in the test split.")
    ] = False,
    out: Annotated[
        Path | None, option("Folder for the records of every item, tables and figure.")
    ] = None,
    keep_edits: KeepEdits = False,
) -> None:
    """Fit and score several methods on several tasks under one protocol.

    Without --model and --task: the embedded model on its three tasks. Several tasks are given with
    commas, or each with a --task of its own. **Methods**: zero-shot, lofit, lofit-scale, iti,
    repe-reading, repe-contrast, lorra, lora, ia3, beft, red, loreft, bitfit, jola, random-heads, or
    HEADS/DIRECTION, as lofit/mass-mean or probes/bias; selectors: the five of the paper's Table 2.
    """
    from lofit_lens.analysis.kinds.compare import compare as run_compare
    from lofit_lens.analysis.kinds.comparison import KIND
    from lofit_lens.analysis.measure.leaks import without_leaks
    from lofit_lens.analysis.published import check_model
    from lofit_lens.analysis.reporting.written import write_tables
    from lofit_lens.analysis.study.experiment_folder import rows_of
    from lofit_lens.analysis.study.record import ZERO_SHOT
    from lofit_lens.analysis.tables.cells import Tables
    from lofit_lens.analysis.tables.tables import as_text

    model_options, training, tasks = task_options.of_experiment(model_options, training, chat)
    if drop_leaked:
        cleaned = [without_leaks(task) for task in tasks]
        tasks = [task for task, _ in cleaned]
        for task, dropped in cleaned:
            report.say(
                f"{task.name}: left out {len(dropped)} items that are also in the test split"
            )
    method_options.check(tasks, model_options, head_options, training)
    if published is not None:
        check_model(published)
    names = names_of(methods)
    if base not in (ZERO_SHOT, *names):
        known = ", ".join(dict.fromkeys((ZERO_SHOT, *names)))
        raise LofitLensError(
            f"There is no run of {base!r} to compare with; --base is one of {known}."
        )
    chosen_seeds = range(training.seed, training.seed + seeds)
    store = running.store(out, KIND)
    store.ask(methods=names, tasks=[t.name for t in tasks], seeds=list(chosen_seeds), base=base)
    model = model_options.load()
    comparison = run_compare(
        model,
        tasks,
        names,
        seeds=chosen_seeds,
        settings=method_options.settings(
            tasks, model, model_options.batch_size, head_options, training, report
        ),
        texts=method_options.texts(model),
        n_answers=answers,
        out=store,
        keep_edits=keep_edits,
        **running.how(report),
    )
    report.add_records(comparison.runs)
    if base not in comparison.methods:
        raise LofitLensError(f"{base} failed, so there is nothing to compare with.")
    text_table = as_text(Tables.of(comparison, base=base, published=published))
    table = rows_of(comparison.frame(base))
    report.add(text_table, base=base, table=table, failures=report.failures)
    if out is not None:
        paths = write_tables(store, comparison, base=base, published=published)
        report.add_paths(out, paths, "with the records of every item")
