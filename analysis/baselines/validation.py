"""Choosing among edits by their score on validation items, under an optional KL budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.positions import TokenScope, check_scope
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

Key = TypeVar("Key", bound=Hashable)


class NoUsableEdit(LofitLensError):
    """All candidates give numbers that are not finite or are over the KL budget."""


def check_kl_budget(kl_budget: float | None) -> None:
    """Refuse a budget that no edit can keep.

    Raises:
        LofitLensError: It is not greater than 0.
    """
    if kl_budget is not None and not kl_budget > 0:
        raise LofitLensError(
            f"kl_budget must be greater than 0, got {kl_budget}: every edit that changes anything has "
            "a KL divergence above 0. Give a number of nats per token, or None for no limit."
        )


@dataclass(frozen=True, kw_only=True)
class StrengthConfig:
    """How the strength of an edit is chosen on validation items.

    Attributes:
        alphas: The strengths to choose from, weakest first. A single one is taken as it is.
        scope: The token positions edited.
        kl_budget: Edits whose KL divergence from the unedited model is greater are out; it is
            greater than 0, and None sets no limit.

    Raises:
        LofitLensError: A value is out of range; the message names it.
    """

    alphas: tuple[float, ...]
    scope: TokenScope = "all"
    kl_budget: float | None = None

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if not self.alphas or not all(map(math.isfinite, self.alphas)):
            raise LofitLensError(f"alphas must be one or more finite numbers, got {self.alphas}.")
        check_kl_budget(self.kl_budget)


@dataclass(frozen=True)
class Trial(Generic[Key]):
    """One candidate on the validation items.

    Attributes:
        key: Its name, such as the pair of K and alpha.
        score: Main metric; None if the edited model gave numbers that are not finite.
        kl: KL divergence from the unedited model; None if it was not measured.
    """

    key: Key
    score: float | None
    kl: float | None


@dataclass(frozen=True)
class Choice(Generic[Key]):
    """The best candidate, and all that were tried.

    Attributes:
        key: The chosen one.
        trials: Every candidate, in the order given.
    """

    key: Key
    trials: tuple[Trial[Key], ...]

    def frame(self) -> pd.DataFrame:
        """Columns `key`, `score`, `kl`, `chosen`."""
        import pandas as pd

        rows = [asdict(trial) | {"chosen": trial.key == self.key} for trial in self.trials]
        return pd.DataFrame(rows, columns=["key", "score", "kl", "chosen"])

    def to_json(self) -> list[dict[str, Any]]:
        """The trials as plain JSON values, if the keys are."""
        return [asdict(trial) for trial in self.trials]


def choose_on_validation(
    model: TransformerBridge,
    task: Task,
    candidates: Mapping[Key, Edit],
    *,
    kl: Callable[[Edit], float] | None = None,
    kl_budget: float | None = None,
    batch_size: int = 32,
) -> Choice[Key]:
    """Score each edit on the validation items, in the format of the test, and take the best.

    Of edits with the same score the one that comes first wins, so give the weakest first. An edit
    under which the model gives numbers that are not finite is recorded and left out. The unedited
    model is no candidate: the best edit is taken even if it does harm.

    Args:
        model: A bridge, in eval mode.
        task: Its `val_as_test` is scored; its test is not read.
        candidates: Edits by a name that can be recorded.
        kl: Measures an edit's KL divergence from the unedited model.
        kl_budget: Candidates with a greater divergence are out.
        batch_size: Sequences per forward pass.

    Raises:
        LofitLensError: No candidates, a budget without a measure, or one that is not above 0.
        NoUsableEdit: No candidate gives finite numbers and keeps the budget.
    """
    if not candidates:
        raise LofitLensError("There are no candidates to choose from; give at least one edit.")
    check_kl_budget(kl_budget)
    if kl_budget is not None and kl is None:
        raise LofitLensError(
            f"kl_budget is {kl_budget}, but nothing measures the KL divergence. Pass kl, a function "
            "from an edit to a number."
        )
    trials: list[Trial[Key]] = []
    for key, edit in candidates.items():
        try:
            found = evaluate(
                model, task, edit, split="val", batch_size=batch_size, progress=False
            ).main.value
            trials.append(Trial(key, found, None if kl is None else kl(edit)))
        except ScoringError:
            trials.append(Trial(key, None, None))
    scores = {
        trial.key: trial.score
        for trial in trials
        if trial.score is not None
        and (kl_budget is None or (trial.kl is not None and trial.kl <= kl_budget))
    }
    if not scores:
        raise NoUsableEdit(_why_none(trials, kl_budget))
    return Choice(max(scores, key=scores.__getitem__), tuple(trials))


def _why_none(trials: Sequence[Trial[Key]], kl_budget: float | None) -> str:
    divergences = [trial.kl for trial in trials if trial.kl is not None]
    if kl_budget is None or not divergences:
        return (
            f"All {len(trials)} candidates make the model give numbers that are not finite. Try "
            "weaker edits (smaller alpha, fewer heads) or another dtype (bfloat16, float32)."
        )
    return (
        f"None of {len(trials)} candidates keeps within the KL budget of {kl_budget:g}; the nearest "
        f"has {min(divergences):.3g}. Add weaker edits (smaller alpha, fewer heads) or raise it."
    )
