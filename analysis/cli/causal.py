"""The command `causal`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import Out, option, with_options
from lofit_lens.analysis.cli.of_run import RunOfEdit
from lofit_lens.analysis.cli.options import ModelOptions
from lofit_lens.analysis.cli.running import KeepEdits, RunningOptions
from lofit_lens.analysis.cli.task_options import TaskOptions
from lofit_lens.errors import LofitLensError


@with_options
def causal(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    running: RunningOptions,
    run: Annotated[
        Path,
        typer.Argument(help="Folder of a `lofit` or `tune` run, one fold: its heads in order."),
    ],
    out: Out,
    edit: Annotated[
        bool, option("Explain the run's edit; --no-edit asks where the model does the task.")
    ] = True,
    ablation: Annotated[
        str | None, option("mean, zero or unedited. (default: unedited with an edit, else mean)")
    ] = None,
    draws: Annotated[int, option("Random rankings of the same layers.", min=1)] = 5,
    seed: Annotated[int, option("Their seed.")] = 0,
    split: Annotated[str, option("test or val.")] = "test",
    keep_edits: KeepEdits = False,
) -> None:
    """Necessity and sufficiency of a run's heads over their number, against random heads.

    Model, task and chat template are those of the run, unless others are named. Writes
    causal-TASK.json.gz, causal.html, table.csv, and the record of every point.
    """
    from lofit_lens.analysis.kinds.causal import causal_curves
    from lofit_lens.analysis.kinds.curves import KIND
    from lofit_lens.analysis.reporting.written import write_results
    from lofit_lens.analysis.study.experiment_folder import rows_of

    if split not in ("test", "val"):
        raise LofitLensError(f"--split is test or val, got {split!r}.")
    model_options.check()
    found = RunOfEdit.read(run)
    own = found.one()
    (task,) = found.tasks(task_options, chat, model_options, seed=42)
    store = running.store(out, KIND)
    store.ask(run=str(run), task=task.name, edit=edit, draws=draws, seed=seed, split=split)
    model = model_options.load(found.loaded)
    own.check_model(model)
    curves = causal_curves(
        model,
        task,
        own.heads,
        edit=own if edit else None,
        ablation=ablation,  # pyright: ignore[reportArgumentType]
        draws=draws,
        seed=seed,
        split=split,
        texts=None,
        batch_size=32 if model_options.batch_size == "auto" else model_options.batch_size,
        out=store,
        on_failure=report.fail,
        workers=running.engine(),
        keep_edits=keep_edits,
        progress=not report.quiet,
    )
    frame = curves.frame()
    shown = frame[["curve", "heads", "k", "value", "low", "high", "p_holm", "mark"]]
    text = f"{curves!r}\n{shown.to_string(index=False)}"
    report.add(text, table=rows_of(frame), failures=report.failures)
    paths = write_results(store, frame, {"causal.html": curves.plot()})
    report.add_paths(out, paths, "with the record of every point")
