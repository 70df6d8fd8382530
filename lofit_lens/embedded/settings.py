"""How to train both stages on the embedded model; the paper's learning rates are too small for it.

Rates were chosen once, on validation items (benchmarks/embedded_rates.py): that of stage 2 for the
bias, then kept for every set of heads and every component; those of rivals by the mean of the tasks.
"""

from __future__ import annotations

from lofit_lens.training.config import SelectionConfig, TuningConfig

SELECTION = SelectionConfig(learning_rate=0.02, validate=False)
TUNING = TuningConfig(learning_rate=0.1, validate=False)
RATES = {
    "lora": 3e-3,
    "ia3": 3e-2,
    "red": 3e-2,
    "bitfit": 1e-1,
    "loreft": 3e-2,
    "jola": 1e-1,
    "lorra": 3e-2,
}
"""Learning rates of tuned rivals by their names in a comparison, the same for every task."""
GATE_PENALTY = 3e-3
"""JoLA's lambda."""
