"""The folder of an experiment: what kinds there are of it, what it holds, how it is found and read."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lofit_lens.analysis.study.fitted import FITTED, Fitted
from lofit_lens.analysis.study.keys import as_json
from lofit_lens.analysis.study.record import Record
from lofit_lens.documents import typed
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json, read_json_gz, write_json
from lofit_lens.head_scores import HeadScores
from lofit_lens.training.rates import RateChoice

if TYPE_CHECKING:
    import pandas as pd

STORE_SCHEMA = 2
"""Of the marker; 1, or none, is that of earlier versions."""

RECORDS, EDITS, PASSES, CLAIMS = "records", "edits", "passes", "claims"

KEPT: Mapping[str, Callable[[Path], Any]] = {
    "scores": HeadScores.load,
    "rates": RateChoice.load,
    FITTED: Fitted.load,
}
"""The folders of products, and what reads each; a product writes itself by `save`."""

PASSING = (FITTED, PASSES)
"""What a finished experiment has no use for: edits that were not scored yet, passes being written."""

STORED = (RECORDS, EDITS, *KEPT, PASSES)
"""The folders of a store."""


@dataclass(frozen=True)
class Kind:
    """What a kind of folder holds.

    Attributes:
        name: What it is called, such as "comparison".
        marker: The file by which it is known; written first, and again with the results.
        products: Patterns of the files in it beside those of a store.
        alone: Whether a folder that holds anything else is refused.
    """

    name: str
    marker: str
    products: Sequence[str] = ()
    alone: bool = True


def save_records(folder: str | Path, kind: Kind, records: Sequence[Record], **told: Any) -> Path:
    """Write a result that was made in Python as its command would, without tables and figures.

    Raises:
        LofitLensError: The folder holds something else, or other runs.
    """
    folder, names = Path(folder), [record.name for record in records]
    if folder.is_file():
        raise LofitLensError(f"{folder} is a file; name a folder.")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and kind.marker not in there:
        raise LofitLensError(
            f"{folder} is not empty and does not hold a {kind.name}. Name an empty folder."
        )
    foreign = {path.name.removesuffix(".json.gz") for path in (folder / RECORDS).glob("*.json.gz")}
    if foreign - set(names):
        raise LofitLensError(
            f"{folder} holds other runs, such as {min(foreign - set(names))}. Name an empty folder."
        )
    for name, record in zip(names, records, strict=True):
        record.save(folder / RECORDS / f"{name}.json.gz")
    write_json(
        folder / kind.marker,
        {"schema": STORE_SCHEMA, "kind": kind.name, **as_json(told), "runs": names, "saved": True},
    )
    return folder


def read_records(folder: str | Path, kind: Kind) -> tuple[dict[str, Any], list[Record]]:
    """The marker of a finished experiment, and its records in their order.

    Raises:
        LofitLensError: There is none, it is damaged, or it was not finished.
    """
    place = Path(folder)
    content = read_json(place / kind.marker, schema=STORE_SCHEMA, what=kind.name)
    typed(content, _Marker)
    if "runs" not in content:
        raise LofitLensError(
            f"The {kind.name} in {folder} was not finished, so runs are missing. Run it again with "
            "--resume, or call it again with this folder."
        )
    return content, [Record.load(place / RECORDS / f"{n}.json.gz") for n in content["runs"]]


class _Marker(TypedDict, total=False):
    """What is read out of a marker, also of earlier versions."""

    runs: list[str] | dict[str, list[str]]
    base: str
    swept: str
    n_heads: int
    table: list[dict[str, Any]]
    command_line: str | None


def read_marker(folder: Path, kind: Kind) -> dict[str, Any]:
    """The marker of an experiment, of any schema.

    Raises:
        LofitLensError: It is damaged.
    """

    def checked(content: Any) -> dict[str, Any]:
        typed(content, _Marker)
        return content

    return read_json_gz(folder / kind.marker, checked, what=f"a {kind.name}")


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
    if not folder.is_dir() or all(path.name == CLAIMS for path in folder.iterdir()):
        return  # claims alone: another process has just begun
    if not (folder / kind.marker).is_file():
        if kind.alone:
            raise LofitLensError(
                f"{folder} is not empty and does not hold a {kind.name}. Name another folder with --out."
            )
        results = [path for pattern in kind.products for path in folder.glob(pattern)]
        if results and not overwrite:
            raise LofitLensError(
                f"{folder} holds results of another command or an earlier version, such as "
                f"{results[0].name}. They can be read, but not gone on with: name another folder."
            )
        return
    if not (overwrite or resume):
        raise LofitLensError(
            f"{folder} holds a {kind.name}. Give --resume to go on with it, or --overwrite to remove it; "
            "or name another folder with --out."
        )


def command_line() -> str | None:
    """The command that is running, as one types it; None if it is not `lofit-lens`."""
    program, *arguments = sys.argv
    return shlex.join(["lofit-lens", *arguments]) if Path(program).stem == "lofit-lens" else None


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain JSON values, NaN as null."""
    return json.loads(frame.to_json(orient="records"))


def remove(folder: Path, kind: Kind) -> None:
    """Remove an experiment from a folder, and nothing else."""
    for part in STORED:
        shutil.rmtree(folder / part, ignore_errors=True)
    for pattern in (kind.marker, *kind.products):
        for path in folder.glob(pattern):
            path.unlink()
