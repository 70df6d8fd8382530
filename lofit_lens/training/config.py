"""Configuration of the two stages, and the paper's settings by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lofit_lens.errors import LofitLensError, check_one_of, check_seed, check_whole
from lofit_lens.fast.memory import BatchSize, check_batch_size
from lofit_lens.positions import TOKEN_SCOPES, TokenScope
from lofit_lens.tasks.task import OBJECTIVES, Objective

TABLE_6: dict[tuple[str, str], tuple[float, float, float | None, float]] = {
    ("gemma-7b", "truthfulqa"): (5e-4, 5e-3, 2e-2, 8e-3),
    ("gemma-7b", "mquake"): (5e-4, 5e-3, 8e-3, 8e-3),
    ("gemma-7b", "clutrr"): (5e-3, 5e-4, 1e-2, 1e-2),
    ("llama2-7b", "truthfulqa"): (5e-4, 5e-3, 1e-2, 5e-3),
    ("llama2-7b", "mquake"): (1e-3, 5e-3, 1e-2, 5e-3),
    ("llama2-7b", "clutrr"): (5e-3, 5e-4, 1e-2, 5e-3),
    ("llama2-13b", "truthfulqa"): (1e-3, 1e-3, 2e-2, 5e-3),
    ("llama2-13b", "mquake"): (1e-3, 1e-3, 8e-3, 5e-3),
    ("llama2-13b", "clutrr"): (1e-3, 1e-3, 1e-2, 8e-3),
    ("llama2-7b", "siqa"): (5e-3, 5e-4, None, 1e-2),
    ("llama2-7b", "arc-challenge"): (1e-3, 1e-3, None, 5e-3),
    ("llama2-7b", "boolq"): (5e-3, 5e-4, None, 8e-3),
    ("llama2-7b", "svamp"): (1e-3, 1e-3, None, 1e-2),
    ("llama2-13b", "siqa"): (1e-3, 1e-3, None, 5e-3),
    ("llama2-13b", "arc-challenge"): (1e-3, 1e-3, None, 5e-3),
    ("llama2-13b", "boolq"): (1e-3, 1e-3, None, 5e-3),
    ("llama2-13b", "svamp"): (1e-3, 1e-3, None, 1e-2),
}
"""Paper, Table 6: lambda, learning rate of stage 1, of stage 2 at 3% of heads (if any), at 10%."""

THREE_EPOCHS = ("siqa", "arc-challenge", "boolq")
"""Tasks the paper trains for 3 epochs, the others for 5."""

PAPER_HEADS: dict[str, tuple[int, int, int]] = {
    "gemma-7b": (448, 16, 48),
    "llama2-7b": (1024, 32, 96),
    "llama2-13b": (1600, 48, 160),
}
"""Heads of each model of the paper, and how many of them it calls 3% and 10%."""


LARGEST = 3e37
"""A larger number would not fit into float32 in a step of Adam."""

SAME = {"same": True}
"""Marks what does not change what is learned, only its memory, time and record."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What both stages share. Defaults are the paper's code's where nothing else is said.

    Raises:
        LofitLensError: A value is out of range; the message names it.
    """

    learning_rate: float | Literal["auto"]
    """Peak learning rate; it falls linearly to 0 without warm-up. "auto", for both stages of LoFiT,
    chooses one on validation (`training.rates.with_rate`)."""
    l1: float = 0.0
    """Lambda, the weight of the sum of absolute parameters."""
    epochs: int = 5
    """Passes over the training examples."""
    batch_size: int = 8
    """Examples per optimiser step."""
    micro_batch_size: BatchSize | None = field(default=None, metadata=SAME)
    """Examples per forward pass; the gradient does not depend on it. None: the whole batch; "auto":
    the whole batch, and half of it again whenever memory runs out."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay. The paper says 0.01, its code runs with 0.0."""
    max_gradient_norm: float = 1.0
    """The gradient is clipped to this norm."""
    init_std: float = 1e-3
    """Standard deviation of the initial parameters (sigma_A, sigma_v)."""
    beta: float = 0.5
    """Strength of the pull to the reference in DPO and IPO."""
    objective: Objective | None = None
    """What to train on; None takes the task's own."""
    scope: TokenScope = "all"
    """Token positions edited, in training and later."""
    seed: int = 42
    """Seed of the initial parameters and of the order of examples; the global state is untouched."""
    gradient_checkpointing: bool = field(default=False, metadata=SAME)
    """Recompute activations in the backward pass to save memory; the gradient is the same."""
    validate: bool = field(default=True, metadata=SAME)
    """Whether to measure the validation loss before training and after each epoch."""
    rate_choice: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """How "auto" chose the learning rate that stands above, as plain JSON values."""

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs, 1)
        check_whole("batch_size", self.batch_size, 1)
        check_seed(self.seed)
        positive = ("learning_rate", "max_gradient_norm", "beta")
        at_least_zero = ("l1", "weight_decay", "init_std")
        for name in positive + at_least_zero:
            value = getattr(self, name)
            if name == "learning_rate" and isinstance(value, str):
                if value != "auto":
                    raise LofitLensError(
                        f'learning_rate must be a number greater than 0, or "auto"; got {value!r}.'
                    )
                continue
            if not 0 <= value <= LARGEST or (name in positive and value == 0):
                valid = "greater than 0" if name in positive else "0 or greater"
                raise LofitLensError(f"{name} must be {valid}, to {LARGEST:g}; got {value}.")
        if self.rate_choice and self.rate_choice["learning_rate"] != self.learning_rate:
            object.__setattr__(self, "rate_choice", None)  # it was of another rate
        if self.micro_batch_size is not None:
            check_batch_size(self.micro_batch_size, "micro_batch_size")
        for name, valid in (("objective", (None, *OBJECTIVES)), ("scope", TOKEN_SCOPES)):
            check_one_of(name, getattr(self, name), valid)

    @property
    def examples_at_once(self) -> int:
        """Examples of a forward pass, the first time under "auto"."""
        size = self.micro_batch_size
        return size if isinstance(size, int) else self.batch_size

    @property
    def rate(self) -> float:
        """The learning rate as a number.

        Raises:
            LofitLensError: It is "auto" and has not been chosen.
        """
        if self.learning_rate == "auto":
            raise LofitLensError(
                'learning_rate="auto" is for the two stages of LoFiT; give a number here.'
            )
        return self.learning_rate

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `rate_choice` only where there is one."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        choice = values.pop("rate_choice")
        return values if choice is None else values | {"rate_choice": dict(choice)}


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(TrainingConfig):
    """Stage 1: train a scale on every head with an L1 term (paper, section 3.1).

    The default learning rate and lambda are those of Llama 2-7B on MQuAKE.
    """

    learning_rate: float | Literal["auto"] = 5e-3
    l1: float = 1e-3

    @classmethod
    def paper(cls, model: str, task: str, *, seed: int = 42) -> SelectionConfig:
        """The paper's setting for one of its models and tasks (Table 6).

        Raises:
            LofitLensError: The table has no such row.
        """
        l1, learning_rate, _, _ = _table_6(model, task)
        return cls(l1=l1, learning_rate=learning_rate, epochs=_epochs(task), seed=seed)


@dataclass(frozen=True, kw_only=True)
class TuningConfig(TrainingConfig):
    """Stage 2: train a bias on the chosen heads, without L1 (paper, section 3.2).

    The default learning rate is that of Llama 2-7B at 3% of heads.
    """

    learning_rate: float | Literal["auto"] = 1e-2
    component: Literal["bias", "scale"] = "bias"
    """What is tuned: the bias v, as the paper does, or the scale A as the final edit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("component", self.component, ("bias", "scale"))

    @classmethod
    def paper(
        cls,
        model: str,
        task: str,
        *,
        fraction: float = 0.03,
        seed: int = 42,
    ) -> TuningConfig:
        """The paper's setting for one of its models and tasks (Table 6).

        Raises:
            LofitLensError: The table has no such row or no rate for this share of heads, or
                `fraction` is neither 0.03 nor 0.1.
        """
        if fraction not in (0.03, 0.1):
            raise LofitLensError(f"Table 6 has settings for 0.03 and 0.1, got {fraction}.")
        rate = _table_6(model, task)[2 if fraction == 0.03 else 3]
        if rate is None:
            raise LofitLensError(
                f"The paper tunes {task} on 10% of the heads alone. Give fraction=0.1, or set "
                "learning_rate yourself."
            )
        return cls(learning_rate=rate, epochs=_epochs(task), seed=seed)


def paper_heads(model: str, *, fraction: float = 0.03) -> int:
    """How many heads the paper tunes in one of its models, for `top(k=…)` or `--k`.

    Args:
        model: "gemma-7b", "llama2-7b" or "llama2-13b".
        fraction: 0.03 (16, 32 and 48 heads; Tables 1 and 2) or 0.1 (48, 96 and 160; Table 3). Both
            are names of the paper, not shares: 16 of 448 heads are 3.6%.

    Raises:
        LofitLensError: The paper has no such model, or no such share.
    """
    if model not in PAPER_HEADS:
        raise LofitLensError(f"The paper has the models {', '.join(PAPER_HEADS)}, got {model!r}.")
    if fraction not in (0.03, 0.1):
        raise LofitLensError(f"The paper tunes 0.03 or 0.1 of the heads, got {fraction}.")
    return PAPER_HEADS[model][1 if fraction == 0.03 else 2]


def _epochs(task: str) -> int:
    return 3 if task in THREE_EPOCHS else 5


def _table_6(model: str, task: str) -> tuple[float, float, float | None, float]:
    if (model, task) not in TABLE_6:
        models = sorted({m for m, _ in TABLE_6})
        tasks = sorted({t for _, t in TABLE_6})
        raise LofitLensError(
            f"Table 6 of the paper has no row {model!r}, {task!r}. Models: {', '.join(models)}; "
            f"tasks: {', '.join(tasks)}. For others, set learning_rate and l1 yourself."
        )
    return TABLE_6[model, task]
