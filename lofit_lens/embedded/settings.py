"""How to train both stages on the embedded model; the paper's learning rates are too small for it.

Rates were chosen once, on validation items (benchmarks/embedded_rates.py): that of stage 2 for the
bias, then kept for every set of heads and every component.
"""

from __future__ import annotations

from lofit_lens.training.config import SelectionConfig, TuningConfig

SELECTION = SelectionConfig(learning_rate=0.02, validate=False)
TUNING = TuningConfig(learning_rate=0.1, validate=False)
