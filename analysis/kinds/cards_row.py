"""Single heads in the table of kinds: their cards, scores and edits, whichever kind made them."""

from __future__ import annotations

from pathlib import Path

from lofit_lens.analysis.figures.drawing import Drawings, named
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.heads import heads_section
from lofit_lens.analysis.runs import CARDS as FILE
from lofit_lens.analysis.study.keys import plain


def _read(folder: Path, marker: Marker) -> Study:  # noqa: ARG001
    return Study(folder, {"head cards": {folder.resolve().name: HeadCards.load(folder / FILE)}})


def _drawings(study: Study) -> Drawings:
    """The edits, then the score of every head."""
    found = {f"edit-{plain(task)}": edit.plot for task, edit in study.edits.items()}
    for task, seeds in study.scores.items():
        by_seed = {str(seed): scores.plot for seed, scores in seeds.items()}
        found |= named(f"scores-{plain(task)}", by_seed)
    return found


CARDS = Row("head cards", _read, files=(FILE,), drawings=_drawings, sections=heads_section)
