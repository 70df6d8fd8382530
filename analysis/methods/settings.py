"""What a method of a comparison is, and what all methods share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from lofit_lens.analysis.baselines.gates import GateConfig
from lofit_lens.analysis.baselines.validation import check_kl_budget
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.errors import LofitLensError, check_whole
from lofit_lens.fast.memory import check_batch_size
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import number_of_heads
from lofit_lens.positions import TokenScope, check_scope
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TrainingConfig, TuningConfig

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


PAPER_FRACTION = 0.03


Method = Callable[["TransformerBridge", Task, int], Fitted]
"""Makes an edit from a model, the training and validation split of a task, and a seed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the named methods share on one task.

    Raises:
        LofitLensError: The scope is unknown, or a value is out of range.
    """

    k: int | None = None
    """Number of heads for the methods that edit some."""
    fraction: float | None = None
    """Share of heads instead; 3% if neither is given (paper, Table 1)."""
    scope: TokenScope = "all"
    """Token positions edited by every method that can choose them."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """LoFiT's stage 1. A learning rate of "auto" is chosen once for each task, with the first seed."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """LoFiT's stage 2; everything but the learning rate also holds for the tuned rivals. "auto" is
    chosen likewise, on the heads of stage 1, for every set of heads."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Learning rates of tuned rivals, by name; default each rival's own."""
    loreft: tuple[int, int] = (8, 3)
    """LoReFT's rank, and how many tokens at either end of the prompt it edits."""
    gate_penalty: float = 4e-5
    """Weight of JoLA's expected number of open gates."""
    random_draws: int = 1
    """Sets of random heads for each seed; their runs are averaged."""
    kl_budget: float | None = None
    """Largest KL divergence from the unedited model on plain text when a strength is chosen."""
    batch_size: int = 32
    """Sequences per forward pass in scoring."""

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if self.k is not None and self.fraction is not None:
            raise LofitLensError(f"Give k or fraction, not both; got {self.k} and {self.fraction}.")
        check_kl_budget(self.kl_budget)
        check_whole("random_draws", self.random_draws, 1)
        check_batch_size(self.batch_size)

    @classmethod
    def embedded(cls, *, k: int | None = None, fraction: float | None = None) -> Settings:
        """Those of the embedded model: learning rates and penalty chosen once, on validation items."""
        from lofit_lens.analysis.methods.whole import WHOLE

        return cls(
            k=k,
            fraction=fraction,
            selection=SELECTION,
            tuning=TUNING,
            rates={name: row.embedded for name, row in WHOLE.items() if row.embedded is not None},
            gate_penalty=3e-3,
            batch_size=256,
        )

    def n_heads(self, heads: HeadGrid) -> int:
        """How many of a model's heads."""
        fraction = PAPER_FRACTION if self.k is None and self.fraction is None else self.fraction
        return number_of_heads(heads.total, k=self.k, fraction=fraction)

    @property
    def gates(self) -> GateConfig:
        """JoLA's own rate and penalty; all else is that of the other methods."""
        shared = {f.name: getattr(self.tuning, f.name) for f in fields(TrainingConfig)}
        rate = self.rates.get("jola", GateConfig.learning_rate)
        own = {"learning_rate": rate, "rate_choice": None, "l1": 0.0, "scope": self.scope}
        return GateConfig(**shared | own, gate_penalty=self.gate_penalty)


@dataclass(frozen=True)
class Leaky:
    """A method that is allowed to read the test split, because that is what it is there to show.

    Attributes:
        method: The method.
        why: What it reads.
    """

    method: Method
    why: str

    def __call__(self, model: TransformerBridge, task: Task, seed: int) -> Fitted:
        """Fit the method."""
        return self.method(model, task, seed)
