"""What a part of a study would cost: floating-point operations and memory, from sizes alone.

With N parameters, training takes 4 N operations a token (forward, and backward to activations: the weights
are frozen), scoring 2 N. A token is reckoned as four characters. What texts share is counted once in
scoring, as it is run. Small models take longer than this says, because their time goes elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import commonprefix

from lofit_lens.analysis.baselines.iti_config import ITIConfig
from lofit_lens.analysis.methods.recipes import InOnePiece
from lofit_lens.analysis.methods.selectors import SELECTORS
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.methods.steps import Fit, Rate, Select, Tune
from lofit_lens.analysis.methods.whole import LORRA_STRENGTHS, TRAINED
from lofit_lens.analysis.plan.shapes import PlanShape
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.fitted import FITTED
from lofit_lens.analysis.study.score import Score
from lofit_lens.analysis.study.step import Step, all_steps
from lofit_lens.checking.memory import memory_needed
from lofit_lens.tasks.task import Example, Task
from lofit_lens.training.rates import SELECTION_RATES

CHARACTERS = 4
"""Of a token."""

STRENGTHS = len(ITIConfig().alphas)
"""How often validation items are scored to choose a strength."""

TFLOPS = {"cuda": 50.0, "cpu": 0.05}
"""Operations a second that are reckoned with, in 10^12: a large GPU in bfloat16, and two cores."""


@dataclass(frozen=True)
class Cost:
    """What some cells would cost together, each step done once.

    Attributes:
        cells: How many cells.
        trainings: How many trainings.
        operations: Floating-point operations.
    """

    cells: int
    trainings: int
    operations: float


def cost_of(cells: Sequence[Cell], shape: PlanShape, *, given: set[str]) -> Cost:
    """Reckon what cells cost.

    Args:
        cells: The cells.
        shape: Of the model.
        given: Keys of steps that other experiments on the model have done; those of these cells that
            others can take are added.
    """
    unique = {cell.place: cell.score(shape.heads) for cell in cells}
    every = {step.key: step for score in unique.values() for step in all_steps(score)}
    steps = {key: step for key, step in every.items() if key not in given}
    given.update(key for key, step in steps.items() if step.folder not in ("", FITTED))
    trainings = sum(_trainings(step) for step in steps.values())
    tokens = sum(_tokens(step) for step in steps.values())
    return Cost(len(unique), trainings, 2.0 * shape.sizes.parameters * tokens)


def memory_of(tasks: Iterable[Task], settings: Settings, shape: PlanShape, bytes_each: int) -> int:
    """Bytes for the work on some tasks, the weights included."""
    longest = max(_longest(task) for task in tasks)
    need = memory_needed(
        shape.sizes, batch_size=settings.batch_size, length=min(longest, shape.n_ctx),
        bytes_each=bytes_each,
    )  # fmt: skip
    return max(need.scoring, need.training)


def _trainings(step: Step[object]) -> int:
    """How many trainings a step is."""
    if isinstance(step, Rate):
        return len(SELECTION_RATES)
    if isinstance(step, Select):
        return int(SELECTORS[step.by].stage is not None or step.by == "gates")
    if isinstance(step, Fit) and isinstance(step.recipe, InOnePiece):
        name = step.recipe.name
        return len(LORRA_STRENGTHS) if name == "lorra" else int(name in TRAINED)
    return int(isinstance(step, Tune))


def _tokens(step: Step[object]) -> float:
    """Tokens of a step, one of training counted twice."""
    trainings = _trainings(step)
    if isinstance(step, Score):
        return _scored(step.task, step.task.test if step.split == "test" else step.task.val_as_test)
    task = step.auto.task if isinstance(step, Rate) else step.task
    seen = _trained(task)
    if trainings:
        return 2 * trainings * _settings(step).tuning.epochs * seen
    if isinstance(step, Select):
        return 0.0 if SELECTORS[step.by].drawn else 2 * seen
    choice = STRENGTHS * _scored(task, task.val_as_test) if isinstance(step, Fit) else 0.0
    return seen + (choice if hasattr(getattr(step, "recipe", None), "settings") else 0.0)


def _settings(step: object) -> Settings:
    return step.recipe.settings if isinstance(step, Fit) else step.settings  # pyright: ignore


def _trained(task: Task) -> float:
    """Tokens of the training texts of a task."""
    texts = {"sft": 1, "dpo": 2, "ipo": 2}.get(task.objective)
    n = sum(
        (len(e.prompt) + len(e.correct[0])) * (texts or 1 + len(e.incorrect)) for e in task.train
    )
    return n / CHARACTERS


def _scored(task: Task, items: Sequence[Example]) -> float:
    """Tokens of the texts that scoring some items takes."""
    prompts = [item.prompt for item in items]
    shared = len(commonprefix(prompts)) if len(items) > 1 else 0  # noqa: RUF071 (no paths)
    written: int = getattr(task.scoring, "max_new_tokens", 0)
    answers = 0 if written else sum(len(a) for item in items for a in item.correct + item.incorrect)
    own = sum(len(prompt) - shared for prompt in prompts)
    return (shared + own + answers) / CHARACTERS + written * len(items)


def _longest(task: Task) -> int:
    """Tokens of the longest text of a task."""
    texts = (
        len(e.prompt) + max(map(len, e.correct + e.incorrect)) for e in (*task.train, *task.test)
    )
    return max(texts) // CHARACTERS + 1
