"""The course of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class History:
    """Losses by step and by epoch.

    Attributes:
        loss: Loss of each optimiser step, without the L1 term.
        gradient_norm: Norm of the gradient of each step, before clipping, L1 term included.
        learning_rate: Learning rate of each step.
        val_loss: Validation loss before training and after each epoch.
        val_step: Steps made when it was measured.
        peak_memory: The most memory that tensors took on the GPU, in bytes, everything trained in
            the same forward pass together; None on a CPU.
    """

    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_step: list[int] = field(default_factory=list)
    peak_memory: int | None = None

    def frame(self) -> pd.DataFrame:
        """Columns `step` (from 1), `loss`, `gradient_norm`, `learning_rate`, `val_loss`."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "step": range(1, len(self.loss) + 1),
                "loss": self.loss,
                "gradient_norm": self.gradient_norm,
                "learning_rate": self.learning_rate,
            }
        )
        validation = pd.DataFrame({"step": self.val_step, "val_loss": self.val_loss})
        return frame.merge(validation, on="step", how="outer")

    def plot(self) -> go.Figure:
        """Training and validation loss by step."""
        from lofit_lens.plotting import loss_curve

        return loss_curve(range(1, len(self.loss) + 1), self.loss, self.val_step, self.val_loss)

    def __repr__(self) -> str:
        if not self.loss:
            return "History(no steps)"
        val = (
            f", validation {self.val_loss[0]:.4g} -> {self.val_loss[-1]:.4g}"
            if self.val_loss
            else ""
        )
        peak = "" if self.peak_memory is None else f", peak {self.peak_memory / 1e9:.1f} GB"
        ends = f"loss {self.loss[0]:.4g} -> {self.loss[-1]:.4g}"
        return f"History({len(self.loss)} steps, {ends}{val}{peak})"
