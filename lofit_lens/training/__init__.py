"""Training: the objectives, the loop both stages share, and its configuration."""

from lofit_lens.training.config import (
    SelectionConfig,
    TrainingConfig,
    TuningConfig,
    paper_heads,
)
from lofit_lens.training.history import History

__all__ = ["History", "SelectionConfig", "TrainingConfig", "TuningConfig", "paper_heads"]
