"""The last step of a cell: the scores of an edit on the test split, and what it does besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from lofit_lens.analysis.baselines.prompting import with_text
from lofit_lens.analysis.measure.effect import check_effect
from lofit_lens.analysis.measure.side_effects import is_refusal, open_answers
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.keys import key_of
from lofit_lens.analysis.study.step import Step
from lofit_lens.fast.memory import BatchSize
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Example, Task

if TYPE_CHECKING:
    from lofit_lens.analysis.study.bench import Bench


@dataclass(frozen=True)
class Scored:
    """Scores of a model under an edit, and what the edit does besides.

    Attributes:
        evaluation: Scores, item by item.
        side_effects: Numbers by name.
        answers: Greedy answers in free text.
        seconds: Seconds of scoring the test split alone.
        tokens: Tokens that entered the model while scoring it.
    """

    evaluation: Evaluation
    side_effects: Mapping[str, float]
    answers: Sequence[Mapping[str, str]] = ()
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, eq=False)
class Score(Step[Scored]):
    """The scores of a task under the edit of another step, or of the model as it is.

    Attributes:
        task: The task.
        fit: The step that makes the edit.
        zero_shot: The scores of the model as it is, which some score must differ from.
        split: The split scored.
        compat: A scoring rule of the task by name.
        batch_size: Sequences per forward pass; scores do not depend on it, up to rounding.
    """

    noun = "scores"

    task: Task
    fit: Step[Fitted] | None = None
    zero_shot: Step[Scored] | None = None
    split: Literal["test", "val"] = field(default="test", kw_only=True)
    compat: str | None = field(default=None, kw_only=True)
    batch_size: BatchSize = field(default=32, kw_only=True)

    @cached_property
    def needs(self) -> tuple[Step[Any], ...]:
        """The edit and the scores of the model as it is."""
        return tuple(step for step in (self.fit, self.zero_shot) if step is not None)

    def depends(self) -> Any:
        """The test items and how they are scored."""
        items = self.task.test if self.split == "test" else self.task.val_as_test
        rule = self.task.scoring_rule(self.compat).to_json()
        told = [self.task.name, _items_key(items), rule, dict(self.task.floors)]
        return [*told, self.split, self.compat]

    def run(self, bench: Bench, *given: Any) -> Scored:
        """Score the test split, and measure what the edit does besides.

        Raises:
            ScoringError: A score is not finite, or the edit left every scored token as it was.
        """
        left = list(given)
        fitted: Fitted = Fitted(None) if self.fit is None else left.pop(0)
        zero_shot: Scored | None = None if self.zero_shot is None else left.pop(0)
        edit = fitted.edit
        task = with_text(self.task, fitted.before) if fitted.before else self.task
        with bench.measured() as scoring:
            found = evaluate(
                bench.model, task, edit, split=self.split, compat=self.compat,
                batch_size=self.batch_size, progress=bench.progress,
            )  # fmt: skip
        effects = bench.side_effects(edit)
        told = {} if effects is None else {"cross_entropy": effects.cross_entropy, "kl": effects.kl}
        if edit is not None and zero_shot is not None:
            rule = self.task.scoring_rule(self.compat)
            check_effect(rule, zero_shot.evaluation, found, kl=told.get("kl"))
        answers: list[dict[str, str]] = []
        if bench.n_answers and not self.task.scoring.generates:
            answers = open_answers(
                bench.model, task, edit, n=bench.n_answers, batch_size=bench.batch_size
            )
        if answers:
            refusals = sum(is_refusal(answer["answer"]) for answer in answers)
            told["refusals"] = refusals / len(answers)
        return Scored(found, told, answers, scoring.seconds, scoring.tokens)


@lru_cache(maxsize=64)
def _items_key(items: tuple[Example, ...]) -> str:
    return key_of(items)
