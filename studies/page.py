"""A page of the documentation from the folder of a study: its tables, figures and verdicts.

    python studies/page.py runs/small docs/studies/small-open-models.md

Figures are written beside the page as SVG (`pip install 'lofit-lens[static]'`, and Chrome or Chromium).
Every number is computed from the records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lofit_lens.analysis import claims, for_paper, open_study, study_status, write_figure
from lofit_lens.analysis.plan.folder import COPY, StudyFolder
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.tables.cells import Tables, difference
from lofit_lens.analysis.tables.tables import as_markdown
from lofit_lens.errors import LofitLensError


def write_page(folder: Path, page: Path) -> Path:
    """Write the page, and its figures into a folder of the same name beside it.

    Args:
        folder: The `--out` of `lofit-lens run`.
        page: The Markdown file.

    Raises:
        LofitLensError: There is no study in the folder, or nothing of it is finished.
    """
    study = StudyFolder.opened(folder)
    lines = [f"# {study.told['name']}", "", _about(folder, study)]
    by_model: dict[str, list[str]] = {}
    for part, told in study.told["parts"].items():
        by_model.setdefault(told["model"], []).append(part)
    for model, parts in by_model.items():
        lines += [f"## {model}", ""]
        for part in parts:
            try:
                found = open_study(folder / part)
            except LofitLensError:
                continue  # told above as not finished
            lines += _part(found, study.told["parts"][part]["experiment"], page)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def _about(folder: Path, study: StudyFolder) -> str:
    status = study_status(folder)
    unfinished = [
        f"{p.part} ({p.done} of {p.cells} cells)" for p in status.parts if (p.cells or 0) > p.done
    ]
    missing = (
        f"Not finished when this page was written: {', '.join(unfinished)}. " if unfinished else ""
    )
    versions = ", ".join(f"{name} {version}" for name, version in study.told["versions"].items())
    return (
        f"{missing}Run with {versions}. `lofit-lens run {COPY} --resume` goes on with it, and "
        "`lofit-lens reproduce` runs cells again and compares their records.\n"
    )


def _part(study: Study, name: str, page: Path) -> Iterator[str]:
    """The tables, figures and verdicts of one experiment on one model."""
    yield f"### {name}\n"
    for comparison in study.comparisons.values():
        yield as_markdown(Tables.of(comparison))
    for matrix in study.matrices.values():
        yield _markdown(_in_percent(matrix.frame(zero_shot=True)))
    for sweep in study.sweeps.values():
        yield _markdown(_in_percent(sweep.frame()))
    yield from _figures(study, page)
    try:
        found = claims(study)
    except LofitLensError:
        return  # nothing here that the paper claims anything about
    yield _markdown(_verdicts(found))


def _figures(study: Study, page: Path) -> Iterator[str]:
    for name, figure in study.figures().items():
        file = page.with_suffix("") / f"{study.name}-{name}.svg"
        write_figure(for_paper(figure), file)
        yield f"![{name}]({page.stem}/{file.name})\n"


def _verdicts(found: pd.DataFrame) -> pd.DataFrame:
    """The claims with their verdicts, in points of percent."""
    rows = found.to_dict("records")
    return pd.DataFrame({
        "claim": found["text"] + " (" + found["source"] + ")",
        "compared": found["method"] + " - " + found["other"],
        "ours": [difference(row) for row in rows],
        "paper": ["" if pd.isna(v) else f"{100 * v:+.1f}" for v in found["paper"]],
        "p": [f"{p:.2g}" for p in found["p_holm"]],
        "n, seeds": [f"{n}, {s}" for n, s in zip(found["n"], found["seeds"], strict=True)],
        "verdict": found["verdict"],
    })  # fmt: skip


def _in_percent(frame: pd.DataFrame) -> pd.DataFrame:
    """Shares as percent, to one digit."""
    shares = [c for c in ("value", "low", "high", "difference") if c in frame]
    told = [
        c
        for c in ("source", "task", "method", "fraction", "n_heads", "seeds", "n", "mark")
        if c in frame
    ]
    return frame[told].join((100 * frame[shares]).round(1))


def _markdown(frame: pd.DataFrame) -> str:
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rows = ["| " + " | ".join("" if pd.isna(v) else str(v) for v in row) + " |"
            for row in frame.itertuples(index=False)]  # fmt: skip
    return "\n".join([head, "|---" * len(frame.columns) + "|", *rows, ""])


if __name__ == "__main__":
    print(write_page(Path(sys.argv[1]), Path(sys.argv[2])))
