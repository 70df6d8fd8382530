"""What the demo shows and writes: a table, Figures 2 and 3, one answer before and after."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.demo import FLOOR, RECORDS
from lofit_lens.analysis.transfer_results import MARKS
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.errors import LofitLensError
from lofit_lens.provenance import library_versions

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.demo import Demo, Size


RECORD = "demo.json"
"""Written first, so that a folder of a demo is known by it, and again with the results."""

TABLES = ("table.csv", "table.md")


def open_folder(folder: Path, size: Size, *, overwrite: bool) -> None:
    """Make a folder for a demo; with `overwrite`, remove an earlier demo in it, and only that.

    Raises:
        LofitLensError: The folder holds a demo and `overwrite` is off, it holds anything else, or
            it is a file.
    """
    if folder.is_file():
        raise LofitLensError(f"{folder} is a file; name a folder with --out.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / RECORD).is_file():
            raise LofitLensError(
                f"{folder} is not empty and does not hold a demo. Name another folder with --out."
            )
        if not overwrite:
            raise LofitLensError(
                f"{folder} holds a demo. Name another folder with --out, or give --overwrite to "
                "remove it."
            )
        _remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / RECORD, _settings(size))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / RECORDS, ignore_errors=True)
    for pattern in (*TABLES, RECORD, "figure2-*percent.html", "figure3.html", "plotly.min.js"):
        for path in folder.glob(pattern):
            path.unlink()


def write_report(demo: Demo, size: Size, folder: Path, seconds: float) -> list[Path]:
    """Write table and figures; plotly's script lies once beside them, so they open offline."""
    frame = demo.frame()
    paths = [folder / name for name in (*TABLES, RECORD)]
    frame.to_csv(paths[0], index=False)
    paths[1].write_text(as_markdown(frame), encoding="utf-8")
    _write_json(paths[2], {**_settings(size), "seconds": round(seconds, 1), **as_json(demo)})
    figures = {
        f"figure2-{100 * fraction:g}percent.html": matrix.plot(relative=False)
        for fraction, matrix in demo.matrices.items()
    }
    figures["figure3.html"] = demo.layers.plot()
    for name, figure in figures.items():
        paths.append(folder / name)
        figure.write_html(paths[-1], include_plotlyjs="directory", full_html=True)
    return paths


def as_json(demo: Demo) -> dict[str, Any]:
    """Table, matrices, stability of the heads and the sample as plain JSON values."""
    return {
        "table": _records(demo.frame()),
        "transfer": {
            f"{fraction:g}": _records(matrix.frame()) for fraction, matrix in demo.matrices.items()
        },
        "stability": _records(demo.layers.stability()),
        "overlap": _records(demo.layers.overlap()),
        "sample": asdict(demo.sample),
    }


def as_text(demo: Demo) -> str:
    """The table for a terminal, the stability of the heads and the sample."""
    several = len(next(iter(demo.matrices.values())).seeds) > 1
    lines = [
        f"Accuracy, % with 95% interval over {'seeds and ' if several else ''}groups of items"
        + ("" if several else "; one seed, so nothing here tells how seeds differ"),
        "Beside random heads: what LoFiT has more, paired by seed and item, with p Holm-corrected over",
        "the cells of the transfer matrix",
    ]
    for task, rows in demo.frame().groupby("task", sort=False):
        n = rows["n"].max()
        lines.append(f"\n{task} ({rows['metric'].iloc[0]}, n = {n:.0f})")
        for row in rows.to_dict("records"):
            if math.isnan(row["low"]):
                name = row["method"].removeprefix(FLOOR)
                lines.append(f"  {'floor':<24}{_interval(row)}   {name}")
                continue
            heads = f"{row['heads']:.0f} heads" if row["heads"] > 0 else ""
            line = f"  {row['method']:<15}{heads:<9}{_interval(row)}"
            if not math.isnan(row["p_holm"]):
                line += (
                    f"   LoFiT {100 * row['difference']:+.1f} "
                    f"[{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"
                    f", p {row['p_holm']:.2g}"
                )
            lines.append(line)
    lines.append(f"\nHeads of one task on another, accuracy in % ({MARKS})")
    for matrix in demo.matrices.values():
        lines += ["", _matrix_text(matrix.frame(), len(matrix.runs[0].heads))]
    lines.append("\nHow alike the heads of different seeds are (Jaccard; of random sets)")
    lines += [
        f"  {row['task']:<18}{row['k']} heads   {_number(row['jaccard'])}   ({row['chance']:.2f})"
        for row in demo.layers.stability().to_dict("records")
    ]
    lines += ["\nOne answer", "  " + str(demo.sample).replace("\n", "\n  ")]
    return "\n".join(lines)


def as_markdown(frame: pd.DataFrame) -> str:
    """The table with one column per task."""
    tasks = list(dict.fromkeys(frame["task"]))
    lines = ["| | heads | " + " | ".join(tasks) + " |", "|---|---|" + "---|" * len(tasks)]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in frame.to_dict("records"):
        heads = f"{row['heads']:.0f}" if row["heads"] > 0 else ""
        rows.setdefault((row["method"], heads), {})[row["task"]] = _interval(row)
    for (method, heads), cells in rows.items():
        lines.append(f"| {method} | {heads} | {' | '.join(cells.get(t, '') for t in tasks)} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "one seed" if math.isnan(value) else f"{value:.2f}"


def _interval(row: dict[str, Any]) -> str:
    value = f"{100 * row['value']:.1f}"
    if math.isnan(row["low"]):
        return value
    return f"{value} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _matrix_text(cells: pd.DataFrame, heads: int) -> str:
    tasks = list(dict.fromkeys(cells["task"]))
    lines = [f"  {f'{heads} heads from':<20}" + "".join(f"{task:>19}" for task in tasks)]
    for source, rows in cells.groupby("source", sort=False):
        texts = [f"{100 * row['value']:.1f}{row['mark']}" for row in rows.to_dict("records")]
        lines.append(f"  {source:<20}" + "".join(f"{text:>19}" for text in texts))
    return "\n".join(lines)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values, NaN as null."""
    return json.loads(frame.to_json(orient="records"))


def _settings(size: Size) -> dict[str, Any]:
    """What was run, and how."""
    return {
        "size": asdict(size),
        "selection": SELECTION.to_json(),
        "tuning": TUNING.to_json(),
        "versions": library_versions(),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
