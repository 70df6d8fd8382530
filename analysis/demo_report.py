"""What the demo shows and writes: a table, Figures 2 and 3, one answer before and after."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.transfer_results import MARKS
from lofit_lens.errors import LofitLensError
from lofit_lens.provenance import library_versions

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.demo import Demo


OWN_FOLDERS = ("scores", "runs", "edit")
OWN_FILES = ("table.csv", "table.md", "demo.json", "figure*.html", "plotly.min.js")


def results_in(folder: Path) -> list[Path]:
    """The files and folders of an earlier demo in a folder.

    Raises:
        LofitLensError: The folder is a file.
    """
    if folder.is_file():
        raise LofitLensError(f"{folder} is a file; name a folder with --out.")
    found = [path for pattern in OWN_FILES for path in folder.glob(pattern)]
    return found + [folder / name for name in OWN_FOLDERS if (folder / name).is_dir()]


def clear(folder: Path) -> None:
    """Remove the results of an earlier demo and nothing else."""
    for path in results_in(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_report(demo: Demo, folder: Path, seconds: float) -> list[Path]:
    """Write table and figures; plotly's script lies once beside them, so they open offline."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = demo.frame()
    paths = [folder / "table.csv", folder / "table.md", folder / "demo.json"]
    frame.to_csv(paths[0], index=False)
    paths[1].write_text(as_markdown(frame), encoding="utf-8")
    content = {"seconds": round(seconds, 1), **as_json(demo), "versions": library_versions()}
    paths[2].write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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
        "sample": {
            "prompt": demo.sample.prompt,
            "expected": demo.sample.expected,
            "before": demo.sample.before,
            "after": demo.sample.after,
        },
    }


def as_text(demo: Demo) -> str:
    """The table for a terminal, the stability of the heads and the sample."""
    lines = [
        "Accuracy, % with 95% interval over seeds and items; beside random heads what LoFiT has more,",
        "paired by seed and item, with p Holm-corrected over the cells of its transfer matrix",
    ]
    untuned = next(iter(demo.matrices.values())).zero_shot
    for task, rows in demo.frame().groupby("task", sort=False):
        floors = "".join(
            f"; {name} {100 * value:.1f}" for name, value in untuned[str(task)].floors.items()
        )
        lines.append(f"\n{task} ({rows['metric'].iloc[0]}, n = {rows['n'].iloc[0]}{floors})")
        for row in rows.to_dict("records"):
            heads = f"{row['heads']} heads" if row["heads"] else ""
            line = f"  {row['method']:<13}{heads:<9}{_interval(row)}   runs {row['runs']}"
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
    for (method, heads), rows in frame.groupby(["method", "heads"], sort=False):
        by_task = {row["task"]: _interval(row) for row in rows.to_dict("records")}
        cells = " | ".join(by_task[task] for task in tasks)
        lines.append(f"| {method} | {heads or ''} | {cells} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "one seed" if math.isnan(value) else f"{value:.2f}"


def _interval(row: dict[str, Any]) -> str:
    return f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


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
