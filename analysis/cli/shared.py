"""Options that most commands have one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a finished run in --out.")]
Seeds = Annotated[int, typer.Option(help="How many seeds, from --seed on.", min=1)]
