"""What judges said in the table of kinds."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from lofit_lens.analysis.judging.judged import FILE, Judged
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.markup import paragraph, table
from lofit_lens.analysis.reporting.section import Section
from lofit_lens.analysis.tables.judged import LEGEND, judged_tables


def _read(folder: Path, marker: Marker) -> Study:  # noqa: ARG001
    return Study(folder, {"judged answers": {folder.resolve().name: Judged.load(folder)}})


def _sections(study: Study) -> Iterator[Section]:
    """Table 4, and how alike the judges are."""
    parts = []
    for name, judged in study.of("judged answers").items():
        parts.append(f"<h3>{escape(name)}</h3>")
        parts += [table(lines, caption) for caption, lines in judged_tables(judged)]
        if len(judged.agreement):
            parts.append(table(judged.agreement, f"Agreement of judges: {name}"))
    if parts:
        title = "Table 4: answers in free text, judged"
        yield Section("judged", title, "\n".join([*parts, paragraph(LEGEND)]))


JUDGED = Row("`judge`", _read, files=(FILE,), sections=_sections)
