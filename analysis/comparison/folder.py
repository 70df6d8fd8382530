"""The folder of a comparison: records of every run, tables, figure; it can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lofit_lens.analysis.comparison.latex import as_latex
from lofit_lens.analysis.comparison.results import Comparison
from lofit_lens.analysis.comparison.run import ComparisonRun
from lofit_lens.analysis.comparison.tables import as_html, as_markdown
from lofit_lens.analysis.folders import (
    Kind,
    check_folder,
    check_saved,
    command_line,
    open_folder,
    records,
    write_json,
)
from lofit_lens.errors import LofitLensError

KIND = Kind(
    "comparison",
    marker="comparison.json",
    records="records",
    products=("table.*", "choices.csv", "forest.html", "plotly.min.js"),
)


class ComparisonFolder:
    """Takes each run as soon as it is there, and the tables in the end.

    Nothing in the folder is changed before the first new run or the tables, so that a request
    that turns out to be wrong does no harm.

    Args:
        path: Where.
        request: What was asked for, as plain JSON values.
        resume: Whether to go on with a comparison in it.
        overwrite: Whether to remove a comparison in it.

    Attributes:
        path: Where.
        done: The runs to go on with.

    Raises:
        LofitLensError: The folder holds something else, or a comparison and neither is said.
    """

    def __init__(
        self, path: Path, request: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        check_folder(path, KIND, overwrite=overwrite, resume=resume)
        self.path = path
        self._records = path / KIND.records
        self._request = request
        self._how = {"overwrite": overwrite, "resume": resume}
        self._opened = False
        files = sorted(self._records.glob("*.json.gz")) if resume else []
        self._files = {ComparisonRun.load(file): file.name for file in files}
        self.done = tuple(self._files)

    def add(self, run: ComparisonRun) -> None:
        """Write a run."""
        self._open()
        name = run.file_name(len(self._files))
        run.save(self._records / name)
        self._files[run] = name

    def finish(self, comparison: Comparison, *, base: str, published: str | None) -> list[Path]:
        """Write tables and figure; returns the files."""
        from lofit_lens.analysis.figures.files import write_figure

        self._open()
        frame = comparison.frame(base)
        texts = {
            "table.csv": frame.to_csv(index=False),
            "table.md": as_markdown(comparison, base=base, published=published),
            "table.html": as_html(comparison, base=base, published=published),
            "table.tex": as_latex(comparison, base=base, published=published),
            "choices.csv": comparison.choices().to_csv(index=False),
        }
        for name, text in texts.items():
            (self.path / name).write_text(text, encoding="utf-8")
        names = [*texts, KIND.marker]
        if len(comparison.methods) > 1:
            names.append("forest.html")
            write_figure(comparison.plot(base), self.path / names[-1])
        files = [self._files[run] for run in comparison.runs]
        content = {**self._request, "command_line": command_line(), "runs": files}
        write_json(self.path / KIND.marker, content | comparison_json(comparison, base))
        return [self.path / name for name in names]

    def _open(self) -> None:
        if not self._opened:
            open_folder(self.path, KIND, self._request, **self._how)
            self._opened = True


def save_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write a comparison that was made in Python as the command would, without its tables.

    Raises:
        LofitLensError: The folder holds something else, or other runs.
    """
    names = [run.file_name(place) for place, run in enumerate(comparison.runs)]
    check_saved(folder, KIND, names)
    for name, run in zip(names, comparison.runs, strict=True):
        run.save(folder / KIND.records / name)
    told = {"methods": comparison.methods, "tasks": comparison.tasks, "seeds": comparison.seeds}
    write_json(folder / KIND.marker, {**told, "base": comparison.base, "runs": names})
    return folder


def load_comparison(folder: str | Path, *, base: str | None = None) -> Comparison:
    """The comparison that a folder holds, made again from its records without the model.

    Args:
        folder: The `--out` of `lofit-lens compare`, or what `Comparison.save` wrote. Records that
            are not part of its last table, as of methods left out since, are not read.
        base: The method that the others are compared with; default that of the folder.

    Raises:
        LofitLensError: The folder holds no finished comparison, a damaged one, or no run of the base.
    """
    place = Path(folder)
    marker = place / KIND.marker
    flat = sorted(place.glob("*.json.gz"))
    if flat and not marker.is_file():  # as earlier versions saved it
        return Comparison(tuple(map(ComparisonRun.load, flat)), base or Comparison.base)
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        files, compared_with = content["runs"], base or content["base"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LofitLensError(f"{folder} holds no finished comparison: {error}.") from error
    runs = tuple(ComparisonRun.load(place / KIND.records / name) for name in files)
    return Comparison(runs, compared_with)


def comparison_json(comparison: Comparison, base: str) -> dict[str, Any]:
    """The table as plain JSON values, NaN as null."""
    return {"base": base, "table": records(comparison.frame(base))}
