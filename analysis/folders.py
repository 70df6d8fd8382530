"""Folders that a command fills: recognised by a marker, never mixed with anything else."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Kind:
    """What a kind of folder holds.

    Attributes:
        name: What it is called, such as "demo".
        marker: The file by which it is known; written first, and again with the results.
        records: The folder inside it with the records of every run.
        products: Patterns of the other files in it.
    """

    name: str
    marker: str
    records: str
    products: Sequence[str]


def check_folder(folder: Path, kind: Kind, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse a folder that cannot be filled; nothing is changed.

    Args:
        folder: Where.
        kind: What it will hold.
        overwrite: Whether an earlier one may be removed.
        resume: Whether to go on in an earlier one.

    Raises:
        LofitLensError: The folder holds one and neither `overwrite` nor `resume` is on, both are,
            it holds anything else, or it is a file.
    """
    if overwrite and resume:
        raise LofitLensError(
            "--overwrite removes what --resume would go on with; give one of them."
        )
    if folder.is_file():
        raise LofitLensError(f"{folder} is a file; name a folder with --out.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / kind.marker).is_file():
        raise LofitLensError(
            f"{folder} is not empty and does not hold a {kind.name}. Name another folder with --out."
        )
    if not (overwrite or resume):
        raise LofitLensError(
            f"{folder} holds a {kind.name}. Name another folder with --out, or give --overwrite to "
            "remove it."
        )


def open_folder(
    folder: Path, kind: Kind, start: Mapping[str, Any], *, overwrite: bool, resume: bool = False
) -> None:
    """Make a folder of a kind; with `overwrite`, remove an earlier one's files, and only those.

    Args:
        folder: Where.
        kind: What it will hold.
        start: What is written to the marker now.
        overwrite: Whether to remove an earlier one.
        resume: Whether to go on in an earlier one.

    Raises:
        LofitLensError: As `check_folder`.
    """
    check_folder(folder, kind, overwrite=overwrite, resume=resume)
    if overwrite:
        _remove(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / kind.marker, start)


def check_saved(folder: Path, kind: Kind, names: Collection[str]) -> None:
    """Refuse a folder that a result cannot be saved to from Python; nothing is changed.

    Args:
        folder: Where.
        kind: What it will hold.
        names: Names of its records; the same ones may be there already.

    Raises:
        LofitLensError: The folder holds something else, or other records, or it is a file.
    """
    if folder.is_file():
        raise LofitLensError(f"{folder} is a file; name a folder.")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and kind.marker not in there:
        raise LofitLensError(
            f"{folder} is not empty and does not hold a {kind.name}. Name an empty folder."
        )
    foreign = {path.name for path in (folder / kind.records).glob("*.json.gz")} - set(names)
    if foreign:
        raise LofitLensError(
            f"{folder} holds other runs, such as {min(foreign)}. Name an empty folder."
        )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def command_line() -> str | None:
    """The command that is running, as one types it; None if it is not `lofit-lens`."""
    program, *arguments = sys.argv
    return shlex.join(["lofit-lens", *arguments]) if Path(program).stem == "lofit-lens" else None


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain JSON values, NaN as null."""
    return json.loads(frame.to_json(orient="records"))


def _remove(folder: Path, kind: Kind) -> None:
    shutil.rmtree(folder / kind.records, ignore_errors=True)
    for pattern in (kind.marker, *kind.products):
        for path in folder.glob(pattern):
            path.unlink()
