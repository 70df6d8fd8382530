"""What earlier versions wrote: their records, and the folders of each kind of experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.documents import typed
from lofit_lens.errors import LofitLensError
from lofit_lens.files import marker_in
from lofit_lens.scoring.evaluation import Evaluation

ZERO_SHOT_FILES = "zero-shot-"
"""How the names of files began that held the scores of the model as it is in a transfer."""


def earlier_record(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, from those of a run of a comparison or of a transfer.

    Raises:
        LofitLensError: It is neither.
    """
    if "method" in fields:
        shape, pairs = typed(fields.get("protocol", {}), _Shape), fields.get("heads")
        if pairs is None or "shape" not in shape:
            return dict(fields) | {"heads": None}
        n_layers, n_heads = shape["shape"]
        heads = {"heads": pairs, "n_layers": n_layers, "n_heads": n_heads}
        return dict(fields) | {"heads": heads | {"without": shape.get("without", ())}}
    if "source" not in fields:
        raise LofitLensError("neither a run of a comparison nor one of a transfer")
    return dict(fields) | {"method": f"heads of {fields['source']}", "fold": fields.get("task")}


class _Shape(TypedDict):
    """What the protocol of a run told of the heads of its model."""

    shape: NotRequired[tuple[int, int]]
    without: NotRequired[tuple[int, ...]]


def earlier_comparison(folder: str | Path) -> tuple[dict[str, Any], list[Record]] | None:
    """Marker and records of a comparison of an earlier version; None if it is not one.

    Raises:
        LofitLensError: It was not finished, or a file is damaged.
    """
    place, marker = Path(folder), marker_in(folder, "comparison.json")
    flat = sorted(place.glob("*.json.gz"))
    if marker is None:
        return ({}, [Record.load(path) for path in flat]) if flat else None
    if "schema" in marker:
        return None
    if "runs" not in marker:
        raise LofitLensError(f"{folder} holds no finished comparison.")
    return marker, [Record.load(place / "records" / name) for name in marker["runs"]]


def earlier_transfer(folder: str | Path) -> tuple[dict[str, Any], list[Record]] | None:
    """Marker and records of a transfer of an earlier version, zero-shot among them; None if it is not.

    Raises:
        LofitLensError: It was not finished, or a file is damaged.
    """
    place, marker = Path(folder), marker_in(folder, "transfer.json")
    if marker is not None:
        if marker.get("schema") != 1:
            return None
        if not {"table", "saved"} & marker.keys():
            raise LofitLensError(
                f"The transfer of heads in {folder} was not finished, so cells are missing. Run it "
                "again with --resume."
            )
        place = place / "records"
    files = sorted(place.glob("*.json.gz"))
    if not files:
        return None
    zero_shot = [Evaluation.load(path) for path in files if path.name.startswith(ZERO_SHOT_FILES)]
    records = [Record.load(path) for path in files if not path.name.startswith(ZERO_SHOT_FILES)]
    return marker or {}, [
        *(Record(ZERO_SHOT, found.task, found.task, 0, found) for found in zero_shot),
        *records,
    ]


def earlier_sweep(folder: str | Path) -> tuple[dict[str, Any], list[Record]] | None:
    """Marker and records of a sweep of an earlier version; None if it is not one.

    Raises:
        LofitLensError: It was not finished, or a file is damaged.
    """
    place, marker = Path(folder), marker_in(folder, "sweep.json")
    if marker is None or marker.get("schema") != 1:
        return None
    if "runs" not in marker:
        raise LofitLensError(
            f"The sweep in {folder} is not finished. Call it again with this folder; its runs are kept."
        )
    swept, records = marker["swept"], []
    for x, names in marker["runs"].items():
        for name in names:
            record = Record.load(place / f"{swept}-{x}" / name)
            records.append(replace(record, cut={swept: int(x)}))
    return marker, records


def earlier_demo(folder: str | Path) -> tuple[dict[str, Any], dict[float, list[Record]]] | None:
    """Marker and records of a demo of an earlier version, by share of heads; None if it is not one.

    Raises:
        LofitLensError: A file is damaged.
    """
    place, marker = Path(folder), marker_in(folder, "demo.json")
    if marker is None or "schema" in marker or "table" not in marker:
        return None
    parts = {}
    for fraction in marker["size"]["fractions"]:
        found = earlier_transfer(place / "records" / "runs" / f"{fraction:g}")
        if found is None:
            raise LofitLensError(f"The demo in {folder} lacks its records. Run it again.")
        parts[fraction] = found[1]
    return marker, parts
