"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report, check_file
from lofit_lens.analysis.cli.groups import option, with_options


@with_options
def report(
    folder: Annotated[
        Path,
        typer.Argument(help="The --out of a finished command, or a folder with several of them."),
    ],
    *,
    report: Report,
    out: Annotated[Path | None, option("File. (default: report.html in FOLDER)")] = None,
    overwrite: Annotated[bool, option("Replace the file --out.")] = False,
    title: Annotated[str | None, option("Heading. (default: the folder's name)")] = None,
) -> None:
    """Write one HTML page of a finished run, to read without a network or to mail.

    Summary, tables, Figures 2 and 3, head cards, costs and provenance of a `compare`, `demo`,
    `transfer`, `lofit`, `select` or `tune`; the model is not loaded. The page in FOLDER is made again
    each time.
    """
    from lofit_lens.analysis.reporting.page import report as write_report

    check_file(out, overwrite=overwrite)
    path = write_report(folder, out=out, title=title)
    report.add(f"written to {path}", out=str(path))
