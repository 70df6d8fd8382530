"""The table of kinds: all that can be read from a folder, drawn, and put on the page.

To add a kind, write a file with its plan, its result and its row, and put the row here. The order
is that of the sentences, of the sections and of the figures, those of the paper first.
"""

from __future__ import annotations

from lofit_lens.analysis.figures.drawing import Drawings
from lofit_lens.analysis.kinds.comparison_row import COMPARISON
from lofit_lens.analysis.kinds.curves import CAUSAL
from lofit_lens.analysis.kinds.demo_row import DEMO
from lofit_lens.analysis.kinds.heads_row import CARDS, LAYERS
from lofit_lens.analysis.kinds.judged_row import JUDGED
from lofit_lens.analysis.kinds.lofit_row import LOFIT
from lofit_lens.analysis.kinds.sweep import SWEEP
from lofit_lens.analysis.kinds.transfer_row import TRANSFER
from lofit_lens.analysis.reading.row import Row
from lofit_lens.analysis.reading.study import Study

KINDS: tuple[Row, ...] = (COMPARISON, JUDGED, DEMO, TRANSFER, LOFIT, LAYERS, SWEEP, CAUSAL, CARDS)
"""Every kind."""

OF_THE_PAPER = ("figure", "chosen")
"""How the names of the paper's figures begin."""


def drawings(study: Study) -> Drawings:
    """What draws each figure of a study: those of the paper first, then kind by kind."""
    found = {name: draw for row in KINDS for name, draw in row.drawings(study).items()}
    first = {name: draw for name, draw in found.items() if name.startswith(OF_THE_PAPER)}
    return first | found
