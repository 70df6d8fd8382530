"""The commands `plan`, `run`, `status` and `reproduce`: studies described in a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import Out, option, with_options

Study = Annotated[Path, typer.Argument(help="Study file (.toml).")]
Folder = Annotated[Path, typer.Argument(help="The --out of `run`.")]


@with_options
def plan(
    study: Study,
    *,
    report: Report,
    tflops: Annotated[
        float | None,
        option(
            "10^12 floating-point operations a second to reckon with. (default: 50, on the CPU 0.05)"
        ),
    ] = None,
) -> None:
    """What a study would run: cells, trainings, and an estimate of memory and time for each model.

    No model is loaded and nothing is fetched. Mistakes in the file are all told, with their lines.
    """
    from lofit_lens.analysis.plan.plan import plan_study
    from lofit_lens.analysis.study.experiment_folder import rows_of

    found = plan_study(study, tflops=tflops)
    report.add(
        repr(found), table=rows_of(found.frame()), hours=found.hours, notes=list(found.notes)
    )


@with_options
def run(
    study: Study,
    *,
    report: Report,
    out: Out,
    workers: Annotated[int | None, option("Processes that share the work.", min=1)] = None,
    parsl: Annotated[
        Path | None,
        option("A Python file with a Parsl `config`, whose workers do the work (extra cluster)."),
    ] = None,
    together: Annotated[
        int, option("Runs trained in one forward pass; fewer need less memory.", min=1)
    ] = 8,
    resume: Annotated[bool, option("Go on in --out: what is finished is not run again.")] = False,
) -> None:
    """Run a study: each model loaded once, a folder for each experiment, report.html in the end.

    An experiment that fails is told, and the others go on.
    """
    from lofit_lens.analysis.cli.running import RunningOptions
    from lofit_lens.analysis.plan.run_study import run_study
    from lofit_lens.analysis.plan.status import study_status

    engine = RunningOptions(workers, parsl).engine()
    found = run_study(
        study, out, workers=engine, together=together, resume=resume, on_failure=report.fail,
        progress=not report.quiet,
    )  # fmt: skip
    page = None if found.report is None else str(found.report)
    told = {"out": str(out), "report": page, "failed": found.failed, "left_out": found.left_out}
    report.add(f"{study_status(out)!r}\nwritten to {out}, the page is {page}", **told)


@with_options
def status(folder: Folder, *, report: Report) -> None:
    """How far the run of a study has come: done, running and failed cells, and the time left."""
    from lofit_lens.analysis.plan.status import study_status

    found = study_status(folder)
    report.add(repr(found), **asdict(found), hours_left=found.hours_left)


@with_options
def reproduce(
    folder: Folder,
    *,
    report: Report,
    cells: Annotated[int, option("How many of the finished cells.", min=1)] = 3,
    seed: Annotated[int, option("Of the draw of these.")] = 0,
) -> None:
    """Run cells of a study again and compare their records with those in the folder.

    Whatever was trained in one forward pass with them is trained again too. All but costs has to be equal on
    the same kind of CPU; elsewhere numbers may differ by a tolerance, which is printed.
    """
    from lofit_lens.analysis.plan.reproduce import reproduce as run_again
    from lofit_lens.analysis.study.experiment_folder import rows_of
    from lofit_lens.errors import LofitLensError

    found = run_again(folder, cells=cells, seed=seed, progress=not report.quiet)
    report.add(repr(found), cells=rows_of(found.frame()), holds=found.holds)
    if not found.holds:
        report.fail(LofitLensError("some records are not confirmed"))
