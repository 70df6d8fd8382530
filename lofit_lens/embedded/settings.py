"""How to train both stages on the embedded model; the paper's learning rates are too small for it.

The rate of stage 2 was chosen once, for the bias on validation items (benchmarks/embedded_rates.py).
Both are the same for every task, every set of heads and every component.
"""

from __future__ import annotations

from lofit_lens.training.config import SelectionConfig, TuningConfig

SELECTION = SelectionConfig(learning_rate=0.02, validate=False)
TUNING = TuningConfig(learning_rate=0.1, validate=False)
