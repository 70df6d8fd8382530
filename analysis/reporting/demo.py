"""What the demo shows and writes: a table, Figures 2 and 3, one answer before and after."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.inside.overlap import head_overlap
from lofit_lens.analysis.kinds.matrix import MARKS
from lofit_lens.analysis.reporting.written import write_results
from lofit_lens.analysis.study.experiment_folder import rows_of
from lofit_lens.analysis.study.store import Store
from lofit_lens.analysis.tables.cells import FLOOR, difference, interval
from lofit_lens.analysis.tables.tables import matrix_as_text
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.provenance import library_versions

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.kinds.demo import Demo, Size


def write_report(demo: Demo, store: Store, seconds: float) -> list[Path]:
    """Write table and figures; returns the files."""
    figures = {
        f"figure2-{100 * fraction:g}percent.html": matrix.plot(relative=False)
        for fraction, matrix in demo.matrices.items()
    }
    figures["figure3.html"] = demo.layers.plot()
    frame, told = demo.frame(), {"seconds": round(seconds, 1), **as_json(demo)}
    return write_results(store, frame, figures, {"table.md": as_markdown(frame)}, **told)


def as_json(demo: Demo) -> dict[str, Any]:
    """Table, matrices, overlap of the heads and the sample as plain JSON values."""
    return {
        "table": rows_of(demo.frame()),
        "transfer": {
            f"{fraction:g}": rows_of(matrix.frame()) for fraction, matrix in demo.matrices.items()
        },
        "overlap": rows_of(head_overlap(demo.layers.heads).frame()),
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
                lines.append(f"  {'floor':<24}{_score(row)}   {name}")
                continue
            heads = f"{row['heads']:.0f} heads" if row["heads"] > 0 else ""
            line = f"  {row['method']:<15}{heads:<9}{_score(row)}"
            if not math.isnan(row["p_holm"]):
                line += f"   LoFiT {difference(row)}, p {row['p_holm']:.2g}"
            lines.append(line)
    lines.append(f"\nHeads of one task on another, main metric in % ({MARKS})")
    for matrix in demo.matrices.values():
        corner = f"{len(matrix.runs[0].heads or ())} heads from"
        lines += ["", indent(matrix_as_text(matrix.frame(), corner), "  ")]
    lines.append("\nHow alike the heads of different seeds are (Jaccard; of random sets)")
    overlap = head_overlap(demo.layers.heads)
    of_seeds = overlap.frame().query("measure == 'jaccard' and first == second")
    for row in of_seeds.to_dict("records"):
        alike = "one seed" if math.isnan(row["value"]) else f"{row['value']:.2f}"
        lines.append(f"  {row['first']:<18}{overlap.k} heads   {alike}   ({row['chance']:.2f})")
    lines += ["\nOne answer", indent(str(demo.sample), "  ")]
    return "\n".join(lines)


def as_markdown(frame: pd.DataFrame) -> str:
    """The table with one column per task."""
    tasks = list(dict.fromkeys(frame["task"]))
    lines = ["| | heads | " + " | ".join(tasks) + " |", "|---|---|" + "---|" * len(tasks)]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in frame.to_dict("records"):
        heads = f"{row['heads']:.0f}" if row["heads"] > 0 else ""
        rows.setdefault((row["method"], heads), {})[row["task"]] = _score(row)
    for (method, heads), cells in rows.items():
        lines.append(f"| {method} | {heads} | {' | '.join(cells.get(t, '') for t in tasks)} |")
    return "\n".join(lines) + "\n"


def _score(row: Mapping[Hashable, Any]) -> str:
    return f"{100 * row['value']:.1f}{interval(row)}"


def settings_of(size: Size) -> dict[str, Any]:
    """What was run, and how."""
    return {
        "size": asdict(size),
        "selection": SELECTION.to_json(),
        "tuning": TUNING.to_json(),
        "versions": library_versions(),
    }
