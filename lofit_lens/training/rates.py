"""Learning rates chosen on validation: what "auto" means in the configuration of a stage."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lofit_lens.documents import typed
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ScoringError, TrainingStopped
from lofit_lens.fast.memory import ran_out
from lofit_lens.files import read_as, write_json
from lofit_lens.heads import HeadSet
from lofit_lens.progress import say
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TuningConfig
from lofit_lens.training.loop import train_together

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Config = TypeVar("Config", SelectionConfig, TuningConfig)

SELECTION_RATES = (5e-4, 1.5e-3, 5e-3, 1.5e-2, 5e-2)
"""Tried for stage 1, half a power of ten apart: around the paper's, and up to ten times as much."""

TUNING_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Tried for stage 2 likewise; small models need the upper half."""


@dataclass(frozen=True)
class RateTrial:
    """One training with one learning rate.

    Attributes:
        learning_rate: The rate.
        val_loss: The validation loss after training, without the L1 term; None if it was stopped.
        score: In stage 2 the task's main metric on the validation items.
        stopped: Why it was stopped, if it was.
    """

    learning_rate: float
    val_loss: float | None = None
    score: float | None = None
    stopped: str | None = None

    def __str__(self) -> str:
        score = "" if self.score is None else f"{100 * self.score:.1f}%, "
        told = "stopped" if self.val_loss is None else f"{score}loss {self.val_loss:.3g}"
        return f"{self.learning_rate:g}: {told}"


RATE_SCHEMA = 1


@dataclass(frozen=True)
class RateChoice:
    """A learning rate chosen on validation, and all that were tried.

    Attributes:
        learning_rate: The chosen one.
        trials: Every rate, the smallest first.
        before: The validation loss before training.
        seconds: What the trials took.
    """

    learning_rate: float
    trials: tuple[RateTrial, ...]
    before: float
    seconds: float

    def __post_init__(self) -> None:
        if self.learning_rate not in [trial.learning_rate for trial in self.trials]:
            raise LofitLensError(f"learning_rate {self.learning_rate} is none of those tried.")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"trials": [asdict(trial) for trial in self.trials]}

    @classmethod
    def from_json(cls, content: Any) -> RateChoice:
        """Read what `to_json` gave.

        Raises:
            LofitLensError: A field is missing, unknown or of another type.
        """
        return typed(content, cls)

    def save(self, path: Path) -> Path:
        """Write the choice as one JSON file."""
        return write_json(path, {"schema": RATE_SCHEMA, **self.to_json()})

    @classmethod
    def load(cls, path: Path) -> RateChoice:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_as(path, cls.from_json, schema=RATE_SCHEMA, what="learning rate")

    @property
    def best(self) -> RateTrial:
        """The trial of the chosen rate."""
        return next(t for t in self.trials if t.learning_rate == self.learning_rate)

    def __str__(self) -> str:
        tried = "; ".join(map(str, self.trials))
        text = (
            f"learning rate {self.learning_rate:g}, chosen on validation items ({tried}; loss before "
            f"{self.before:.3g}); {len(self.trials)} trainings, {self.seconds:.0f} s"
        )
        if all(t.val_loss is None or t.val_loss >= self.before for t in self.trials):
            return f"{text}. No rate lowered the validation loss"
        if self.best.score != 1 and self.best in (self.trials[0], self.trials[-1]):
            end = "larger" if self.best is self.trials[-1] else "smaller"
            return f"{text}. It is at the end of the grid; a {end} one may be better"
        return text


def with_rate(
    model: TransformerBridge,
    task: Task,
    heads: HeadSet,
    config: Config,
    *,
    progress: bool = True,
) -> Config:
    """The configuration with a number for its learning rate, chosen now if it is "auto".

    One training for each of a short grid, `SELECTION_RATES` or `TUNING_RATES`, all with the seed
    of the configuration, in one forward pass where there is memory for it.

    * Stage 1: the lowest validation loss after training. It is measured without the L1 term, so
      that it is comparable across rates.
    * Stage 2: the best score of the task on its validation items in the format of the test; of equal
      ones that with the lowest validation loss, which also decides where no item is right.

    Test items are not read.

    Args:
        model: A frozen bridge in eval mode.
        task: Its training and validation examples are used.
        heads: The heads to train; all of them in stage 1.
        config: How to train; its `validate` does not matter here.
        progress: Whether to show a bar, and to say on standard error what was chosen.

    Returns:
        The same configuration with the number, and how it was chosen in `rate_choice`.

    Raises:
        TrainingStopped: Training became unstable with every rate.
    """
    if config.learning_rate != "auto":
        return config
    started = time.perf_counter()
    first_stage = isinstance(config, SelectionConfig)
    rates = SELECTION_RATES if first_stage else TUNING_RATES
    component = "scale" if first_stage else config.component
    runs = [(heads, replace(config, learning_rate=rate, validate=True)) for rate in rates]
    found = _trained(model, task, runs, component, progress=progress)
    trials = tuple(
        _trial(model, task, rate, edit, scored=not first_stage)
        for rate, edit in zip(rates, found, strict=True)
    )
    usable = [trial for trial in trials if trial.val_loss is not None]
    if not usable:
        raise next(edit for edit in found if isinstance(edit, TrainingStopped))
    best = min(usable, key=lambda t: (-(t.score or 0.0), t.val_loss, t.learning_rate))
    seconds = round(time.perf_counter() - started, 1)
    choice = RateChoice(best.learning_rate, trials, _val_loss(found[0])[0], seconds)
    if progress:
        stage = "Stage 1" if first_stage else "Stage 2"
        say(f"{stage} on {task.name}: {choice}.")
    return replace(config, learning_rate=choice.learning_rate, rate_choice=choice.to_json())


def with_one_rate(
    model: TransformerBridge,
    task: Task,
    runs: Sequence[tuple[HeadSet, Config]],
    *,
    progress: bool = True,
) -> list[tuple[HeadSet, Config]]:
    """Runs that share a learning rate, with a number for "auto" chosen on the first of them."""
    auto = [config.learning_rate == "auto" for _, config in runs]
    if not any(auto):
        return list(runs)
    if not all(auto):
        raise LofitLensError(
            'Some runs have learning_rate="auto", others a number. Give one to all.'
        )
    heads, first = runs[0]
    rate = with_rate(model, task, heads, first, progress=progress)
    return [(some, replace(rate, seed=config.seed)) for some, config in runs]


def _trained(
    model: TransformerBridge,
    task: Task,
    runs: Sequence[tuple[HeadSet, Config]],
    component: Literal["scale", "bias"],
    *,
    progress: bool,
) -> list[HeadIntervention | TrainingStopped]:
    """All runs in one forward pass, or one after the other where memory runs out."""
    try:
        return train_together(model, task, runs, component, progress=progress)
    except RuntimeError as error:
        if not ran_out(error):
            raise
    alone = (train_together(model, task, [run], component, progress=progress) for run in runs)
    return [edit for (edit,) in alone]


def _trial(
    model: TransformerBridge,
    task: Task,
    rate: float,
    edit: HeadIntervention | TrainingStopped,
    *,
    scored: bool,
) -> RateTrial:
    if isinstance(edit, TrainingStopped):
        return RateTrial(rate, stopped=str(edit))
    loss = _val_loss(edit)[-1]
    if not math.isfinite(loss):
        return RateTrial(rate, stopped=f"the validation loss is {loss}")
    if not scored:
        return RateTrial(rate, loss)
    try:
        found = evaluate(model, task, edit, split="val", batch_size="auto", progress=False)
    except ScoringError as error:
        return RateTrial(rate, stopped=str(error))
    return RateTrial(rate, loss, found.main.value)


def _val_loss(edit: HeadIntervention | TrainingStopped) -> list[float]:
    learned = edit.learned if isinstance(edit, TrainingStopped) else edit
    assert learned.provenance is not None
    return learned.provenance.history.val_loss
