"""The commands `figures` and `report`: a finished run as files to look at, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lofit_lens.analysis.cli.console import Report, check_file
from lofit_lens.analysis.cli.groups import option, with_options
from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    from lofit_lens.analysis.figures.drawing import Drawings

PAPER = "paper"


@with_options
def figures(
    run: Annotated[
        str,
        typer.Argument(
            help="Folder of a finished run, or of several in its sub-folders, or one packed; or paper, for "
            "the figures that the paper published."
        ),
    ],
    *,
    report: Report,
    out: Annotated[Path, option("Folder to write to.")],
    formats: Annotated[
        str, typer.Option("--format", help="html, svg, pdf or png; several with commas.")
    ] = "html",
    width: Annotated[
        str,
        option("Of svg, pdf and png: column (3.25 in), text (5.5 in), wide (6.75 in), or inches."),
    ] = "text",
    only: Annotated[
        str | None, option("Names of the figures wanted, with commas. (default: all)")
    ] = None,
    title: Annotated[
        bool, typer.Option("--title", help="Keep the titles in svg, pdf and png.")
    ] = False,
    overwrite: Annotated[bool, option("Replace figures in --out.")] = False,
) -> None:
    """Write the figures of a finished run, or of the paper, as files.

    HTML is interactive and opens without a network. SVG, PDF and PNG are sized and set for a page
    of print; they need `pip install 'lofit-lens[static]'` and Chrome or Chromium.

    **Examples**

        lofit-lens figures runs/demo --out figures

        lofit-lens figures paper --format pdf --width wide --only paper-figure2 --out figures
    """
    from lofit_lens.analysis.figures.drawing import check_names
    from lofit_lens.analysis.figures.files import check_formats, write_figures
    from lofit_lens.analysis.figures.presets import caption_of, for_paper, inches

    suffixes = _words(formats)
    check_formats(suffixes)
    size = inches(width)
    if out.is_file():
        raise LofitLensError(f"{out} is a file; name a folder with --out.")
    drawings, what = _drawings(run)
    names = _words(only) if only is not None else list(drawings)
    if not names:
        raise LofitLensError(f"Name at least one figure with --only: {', '.join(drawings)}.")
    check_names(drawings, names, what=what)
    files = {name: [out / f"{name}.{suffix}" for suffix in suffixes] for name in names}
    there = [path for paths in files.values() for path in paths if path.exists()]
    if there and not overwrite:
        raise LofitLensError(
            f"{there[0]} is there. Name another folder with --out, or give --overwrite to replace it."
        )
    if not report.quiet:
        report.say(f"{what}: {len(names)} figures as {', '.join(suffixes)}")
    drawn, left_out, captions = {}, {}, {}
    for name, paths in files.items():
        figure = drawings[name]()
        captions[name] = caption_of(figure)
        for path in paths:
            try:
                drawn[path] = (
                    figure if path.suffix == ".html" else for_paper(figure, size, title=title)
                )
            except LofitLensError as error:
                left_out[str(path)] = str(error)
    told = [f"{path}: {why}" for path, why in left_out.items()]
    if not drawn:
        raise LofitLensError("\n".join(told))
    written = [str(path) for path in write_figures(drawn)]
    for line in told:
        report.say(f"Left out {line}")
    report.add("\n".join(written), out=str(out), paths=written, left_out=left_out)
    if any(path.suffix != ".html" for path in drawn) and not title:
        lines = (f"{name}: {text}" for name, text in captions.items())
        report.add("\nCaptions\n" + "\n".join(lines), captions=captions)


@with_options
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The --out of a finished command, a folder with several of them, or a zip of `pack`."
        ),
    ],
    *,
    report: Report,
    out: Annotated[
        Path | None, option("File. (default: report.html in FOLDER, or beside the zip)")
    ] = None,
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


def _drawings(run: str) -> tuple[Drawings, str]:
    """What draws each figure of a run or of the paper, and what to call it."""
    from lofit_lens.analysis.figures.paper import DRAWINGS
    from lofit_lens.analysis.kinds.table import drawings
    from lofit_lens.analysis.reading.open import open_study

    if run == PAPER:
        return DRAWINGS, "the paper"
    found = drawings(open_study(run))
    if not found:
        raise LofitLensError(f"There is nothing to draw in {run}.")
    return found, run


def _words(text: str) -> Sequence[str]:
    """What is between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
