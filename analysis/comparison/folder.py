"""The folder of a comparison: records of every run, tables, figure; it can be gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lofit_lens.analysis.comparison.latex import as_latex
from lofit_lens.analysis.comparison.results import Comparison
from lofit_lens.analysis.comparison.run import ComparisonRun
from lofit_lens.analysis.comparison.tables import as_html, as_markdown
from lofit_lens.analysis.folders import Kind, open_folder, records, write_json

KIND = Kind(
    "comparison",
    marker="comparison.json",
    records="records",
    products=("table.*", "choices.csv", "forest.html", "plotly.min.js"),
)


class ComparisonFolder:
    """Takes each run as soon as it is there, and the tables in the end.

    Args:
        folder: Where.
        request: What was asked for, as plain JSON values.
        resume: Whether to go on with a comparison in it.
        overwrite: Whether to remove a comparison in it.

    Attributes:
        path: Where.
        done: The runs that were in it.

    Raises:
        LofitLensError: The folder holds something else, or a comparison and neither is said.
    """

    def __init__(
        self, folder: Path, request: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        open_folder(folder, KIND, request, overwrite=overwrite, resume=resume)
        self.path = folder
        self.done = tuple(map(ComparisonRun.load, sorted(self._records.glob("*.json.gz"))))
        self._request = request
        self._count = len(self.done)

    def add(self, run: ComparisonRun) -> None:
        """Write a run."""
        run.save(self._records / run.file_name(self._count))
        self._count += 1

    def finish(self, comparison: Comparison, *, base: str, published: str | None) -> list[Path]:
        """Write tables and figure; returns the files."""
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
            comparison.plot(base).write_html(self.path / names[-1], include_plotlyjs="directory")
        write_json(self.path / KIND.marker, {**self._request, **comparison_json(comparison, base)})
        return [self.path / name for name in names]

    @property
    def _records(self) -> Path:
        return self.path / KIND.records


def comparison_json(comparison: Comparison, base: str) -> dict[str, Any]:
    """The table as plain JSON values, NaN as null."""
    return {"base": base, "table": records(comparison.frame(base))}
