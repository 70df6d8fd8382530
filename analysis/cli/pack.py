"""The command `pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report, check_file
from lofit_lens.analysis.cli.groups import option, with_options


@with_options
def pack(
    folder: Annotated[
        Path,
        typer.Argument(help="The --out of a finished command, or a folder with several of them."),
    ],
    *,
    report: Report,
    out: Annotated[Path | None, option("File. (default: FOLDER.zip beside the folder)")] = None,
    edits: Annotated[bool, option("Take the learned edits along.", None, "--edits")] = False,
    overwrite: Annotated[bool, option("Replace the file --out.")] = False,
) -> None:
    """Write a finished run or study as one zip, to hand over.

    `report` and `figures` read it in place of a folder, without a network or the model. The same files
    give the same bytes.
    """
    from lofit_lens.analysis.reading.pack import pack as write_pack
    from lofit_lens.analysis.reading.pack import place_of

    place = place_of(folder, out)
    check_file(place, overwrite=overwrite)
    path = write_pack(folder, place, edits=edits)
    report.add(f"written to {path}, {path.stat().st_size:,} bytes", out=str(path))
