"""The command `sweep`."""

from __future__ import annotations

from typing import Annotated

import typer

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import Out, Seeds, option, with_options
from lofit_lens.analysis.cli.method_options import MethodOptions, names_of
from lofit_lens.analysis.cli.options import HeadOptions, ModelOptions, TrainingOptions
from lofit_lens.analysis.cli.running import KeepEdits, RunningOptions
from lofit_lens.analysis.cli.task_options import TasksOptions
from lofit_lens.errors import LofitLensError

EXAMPLES, HEADS = "20,50,100", "0.01,0.03,0.1,0.2,0.5"


@with_options
def sweep(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TasksOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    method_options: MethodOptions,
    running: RunningOptions,
    over: Annotated[str, typer.Argument(help="examples or heads.")],
    out: Out,
    numbers: Annotated[
        str | None,
        option(
            "Training examples, or shares of the heads, with commas. (default: "
            f"{EXAMPLES}, or {HEADS})"
        ),
    ] = None,
    methods: Annotated[str, option("Names, with commas, as in `compare`.")] = "lofit",
    seeds: Seeds = 1,
    keep_edits: KeepEdits = False,
) -> None:
    """Compare methods on fewer and more training examples (the paper's Figure 4), or heads (Figure 5).

    Without --model and --task: the embedded model on its three tasks. Writes table.csv, the figure,
    sweep.json, and the records of every scored item, each as soon as it is there.
    """
    from lofit_lens.analysis.kinds.sweep import KIND
    from lofit_lens.analysis.kinds.sweeps import example_sweep, head_sweep
    from lofit_lens.analysis.reporting.written import write_results
    from lofit_lens.analysis.study.experiment_folder import rows_of

    if over not in ("examples", "heads"):
        raise LofitLensError(f"A sweep is over examples or heads, got {over!r}.")
    model_options, training, tasks = task_options.of_experiment(model_options, training, chat)
    method_options.check(tasks, model_options, head_options, training)
    points = _numbers(numbers or (EXAMPLES if over == "examples" else HEADS), over)
    names = names_of(methods)
    store = running.store(out, KIND)
    store.ask(methods=names, tasks=[t.name for t in tasks], numbers=points)
    model = model_options.load()
    make = example_sweep if over == "examples" else head_sweep
    found = make(
        model,
        tasks,
        points,  # pyright: ignore[reportArgumentType]
        methods=names,
        seeds=range(training.seed, training.seed + seeds),
        settings=method_options.settings(
            tasks, model, model_options.batch_size, head_options, training, report
        ),
        texts=method_options.texts(model),
        out=store,
        keep_edits=keep_edits,
        **running.how(report),
    )
    for comparison in found.comparisons.values():
        report.add_records(comparison.runs)
    frame = found.frame()
    shown = frame[["task", "metric", "method", "x", "value", "low", "high", "n"]]
    table = rows_of(frame)
    report.add(shown.to_string(index=False), over=over, table=table, failures=report.failures)
    paths = write_results(store, frame, {"sweep.html": found.plot()})
    report.add_paths(out, paths, "with the records of every item")


def _numbers(text: str, over: str) -> list[int] | list[float]:
    """Numbers of examples, or shares of heads, with commas."""
    read = int if over == "examples" else float
    try:
        return [read(part) for part in text.split(",")]
    except ValueError as error:
        what = "whole numbers" if over == "examples" else "shares of the heads"
        raise LofitLensError(f"--numbers takes {what} with commas, got {text!r}.") from error
