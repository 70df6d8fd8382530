"""The table of kinds: all that can be read from a folder, drawn, and put on the page.

To add a kind, write a file with its plan, its result and its row, and put the row here. The order
is that of the sentences, of the sections and of the figures, those of the paper first.
"""

from __future__ import annotations

from lofit_lens.analysis.kinds.comparison_row import COMPARISON
from lofit_lens.analysis.kinds.curves import CAUSAL
from lofit_lens.analysis.kinds.demo_row import DEMO
from lofit_lens.analysis.kinds.heads_row import CARDS, LAYERS
from lofit_lens.analysis.kinds.lofit_row import LOFIT
from lofit_lens.analysis.kinds.sweep import SWEEP
from lofit_lens.analysis.kinds.transfer_row import TRANSFER
from lofit_lens.analysis.reading.row import Row

KINDS: tuple[Row, ...] = (COMPARISON, DEMO, TRANSFER, LOFIT, LAYERS, SWEEP, CAUSAL, CARDS)
"""Every kind."""
