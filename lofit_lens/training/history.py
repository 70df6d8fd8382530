"""The course of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lofit_lens.errors import LofitLensError, check_whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HARDLY = 0.05
"""A loss that fell by a smaller share of itself has hardly moved."""

NEAR_ZERO = 0.05
"""A loss that starts below has nothing left to fall by."""


@dataclass(frozen=True)
class History:
    """Losses by step and by epoch.

    Attributes:
        loss: Loss of each optimiser step, without the L1 term. Each is of another batch, so two of
            them say little; `epoch_loss` has their means.
        gradient_norm: Norm of the gradient of each step, before clipping, L1 term included.
        learning_rate: Learning rate of each step.
        val_loss: Validation loss before training and after each epoch.
        val_step: Steps made when it was measured.
        peak_memory: The most memory that tensors took on the GPU, in bytes, everything trained in
            the same forward pass together; None on a CPU.
        steps_per_epoch: Steps of an epoch; None in files of earlier versions.
    """

    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_step: list[int] = field(default_factory=list)
    peak_memory: int | None = None
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        steps, rising = len(self.loss), sorted(set(self.val_step))
        alike = steps == len(self.gradient_norm) == len(self.learning_rate)
        inside = not rising or 0 <= rising[0] <= rising[-1] <= steps
        if not (alike and inside and rising == self.val_step and len(rising) == len(self.val_loss)):
            raise LofitLensError("The lists of a training curve do not fit each other.")
        if self.steps_per_epoch is not None:
            check_whole("steps_per_epoch", self.steps_per_epoch, 1)

    @property
    def epoch_loss(self) -> list[float]:
        """Mean training loss of each epoch; the last may have been cut short.

        Where the length of an epoch is not known, the means of ten parts of the steps.
        """
        size = self._epoch
        parts = [self.loss[start : start + size] for start in range(0, len(self.loss), size)]
        return [sum(part) / len(part) for part in parts]

    def warning(self) -> str | None:
        """What to say of a run that learned next to nothing; None if there is nothing to say.

        The training loss is compared by epoch, which sees the same examples each time: the mean of
        the first with that of the last. If it fell by less than 5% the learning rate is too small
        for the model, or so large that nothing was learned. Of a single epoch the validation loss
        before and after is compared, if it was measured. A loss that starts below 0.05 has nothing
        left to learn.
        """
        what, losses = "training", self.epoch_loss
        if len(losses) < 2:
            what, losses = "validation", self.val_loss
        if len(losses) < 2 or losses[0] < NEAR_ZERO:
            return None
        before, after = losses[0], losses[-1]
        if before - after >= HARDLY * before:
            return None
        grew = after > (1 + HARDLY) * before
        return (
            f"The {what} loss {'grew' if grew else 'hardly moved'} ({before:.4g} -> "
            f"{after:.4g}) at a learning rate of {self.learning_rate[0]:g}, which may be too "
            f'{"large" if grew else "small"} for this model. "auto" tries several.'
        )

    def frame(self) -> pd.DataFrame:
        """Columns `step` (from 1), `epoch` (from 1), `loss`, `gradient_norm`, `learning_rate`, `val_loss`."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "step": range(1, len(self.loss) + 1),
                "epoch": [1 + step // self._epoch for step in range(len(self.loss))],
                "loss": self.loss,
                "gradient_norm": self.gradient_norm,
                "learning_rate": self.learning_rate,
            }
        )
        validation = pd.DataFrame({"step": self.val_step, "val_loss": self.val_loss})
        return frame.merge(validation, on="step", how="outer")

    def plot(self) -> go.Figure:
        """Training loss of each step and its mean by epoch, and validation loss, by step."""
        from lofit_lens.plotting import loss_curve

        means = self.epoch_loss
        ends = [min((i + 1) * self._epoch, len(self.loss)) for i in range(len(means))]
        middles = [(i * self._epoch + 1 + end) / 2 for i, end in enumerate(ends)]
        validation = dict(zip(map(float, self.val_step), self.val_loss, strict=True))
        return loss_curve(self.loss, dict(zip(middles, means, strict=True)), validation)

    @property
    def _epoch(self) -> int:
        """Steps of an epoch, as far as is known."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        return self.val_step[1] if len(self.val_step) > 1 else max(1, -(-len(self.loss) // 10))

    def __repr__(self) -> str:
        if not self.loss:
            return "History(no steps)"
        means = self.epoch_loss
        val = ""
        if self.val_loss:
            val = f", validation {self.val_loss[0]:.4g} -> {self.val_loss[-1]:.4g}"
        peak = "" if self.peak_memory is None else f", peak {self.peak_memory / 1e9:.1f} GB"
        course = f"{means[0]:.4g}" if len(means) == 1 else f"{means[0]:.4g} -> {means[-1]:.4g}"
        return f"History({len(self.loss)} steps, loss by epoch {course}{val}{peak})"
