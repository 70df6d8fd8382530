"""The figures of a study, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit_lens.analysis.figures.drawing import Drawings
from lofit_lens.analysis.kinds.table import KINDS

if TYPE_CHECKING:
    from lofit_lens.analysis.reading.study import Study

OF_THE_PAPER = ("figure", "chosen")


def drawings(study: Study) -> Drawings:
    """What draws each figure of a study: those of the paper first, then kind by kind."""
    found = {name: draw for row in KINDS for name, draw in row.drawings(study).items()}
    first = {name: draw for name, draw in found.items() if name.startswith(OF_THE_PAPER)}
    return first | found
