"""One method on one task with one seed: fitted without the test, scored, its cost measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.comparison.run import ComparisonRun, Cost
from lofit_lens.analysis.measure.leaks import sealed
from lofit_lens.analysis.measure.side_effects import is_refusal, open_answers, side_effects
from lofit_lens.analysis.methods.settings import Leaky, Method
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import ScoringError
from lofit_lens.fast.direct import COUNTS
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.scoring import Scoring
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Bench:
    """Where all methods are measured alike.

    Attributes:
        model: The model.
        batch_size: Sequences per forward pass in scoring.
        texts: Plain text for side effects.
        n_answers: Multiple-choice questions to answer in free text.
    """

    model: TransformerBridge
    batch_size: int
    texts: Sequence[EncodedText]
    n_answers: int

    def run(
        self,
        name: str,
        method: Method,
        task: Task,
        seed: int,
        protocol: Mapping[str, Any],
        untuned: Evaluation | None,
    ) -> ComparisonRun:
        """Fit a method without the test split, score its edit, and measure what it does besides.

        Args:
            name: Of the method.
            method: The method.
            task: One fold.
            seed: Of the run.
            protocol: What all methods have in common, for the record.
            untuned: Scores of the model as it is; None if this is the run that makes them.

        Raises:
            LeakError: The method read the test split.
            ScoringError: The edit left every scored token as it was.
        """
        given = task if isinstance(method, Leaky) else sealed(task)
        with _measured(self.model) as fitting:
            fitted = method(self.model, given, seed)
        with _measured(self.model) as scoring:
            scored = evaluate(
                self.model, task, fitted.edit, batch_size=self.batch_size, progress=False
            )
        effects = self._side_effects(fitted.edit)
        if fitted.edit is not None and untuned is not None:
            check_effect(task.scoring, untuned, scored, kl=effects["kl"])
        answers = self._answers(task, fitted.edit)
        if answers:
            refusals = sum(is_refusal(answer["answer"]) for answer in answers)
            effects["refusals"] = refusals / len(answers)
        return ComparisonRun(
            method=name,
            task=base_name(task),
            fold=task.name,
            seed=seed,
            evaluation=scored,
            cost=Cost(
                parameters=fitted.edit.n_parameters if fitted.edit is not None else 0,
                fit_seconds=fitting.seconds,
                score_seconds=scoring.seconds,
                fit_tokens=fitting.tokens,
                score_tokens=scoring.tokens,
            ),
            side_effects=effects,
            choices={**fitted.choices, **_warning(fitted.edit)},
            heads=[list(head) for head in fitted.heads] if fitted.heads is not None else None,
            answers=answers,
            protocol=dict(protocol),
        )

    def _side_effects(self, edit: Edit | None) -> dict[str, float]:
        found = side_effects(self.model, edit, self.texts, batch_size=self.batch_size)
        return {"cross_entropy": found.cross_entropy, "kl": found.kl}

    def _answers(self, task: Task, edit: Edit | None) -> list[dict[str, str]]:
        if not self.n_answers or task.scoring.generates:
            return []
        return open_answers(self.model, task, edit, n=self.n_answers, batch_size=self.batch_size)


def _warning(edit: Edit | None) -> dict[str, str]:
    """What the training of an edit is to be warned of, among what was chosen for it."""
    origin = None if edit is None else edit.provenance
    told = None if origin is None else origin.history.warning()
    return {} if told is None else {"warning": told}


def check_effect(scoring: Scoring, untuned: Evaluation, edited: Evaluation, *, kl: float) -> None:
    """Refuse the scores of an edit that did not reach what is scored.

    Generated text may stay the same under a weak edit; then the distribution over plain text must
    have changed.

    Args:
        scoring: Of the task; it says whether a score was reached.
        untuned: Scores of the model as it is.
        edited: Scores of the same items under the edit.
        kl: KL divergence from the unedited model on plain text.

    Raises:
        ScoringError: The edit changed nothing.
    """
    moved = scoring.moved(untuned.records, edited.records) or (scoring.generates and kl > 0)
    if not moved:
        raise ScoringError(
            f"The edit changed none of the {len(edited.records)} scored items of {edited.task}, so its "
            "score would be the unedited model's. Either it is as good as zero, or its token scope leaves "
            'every scored token alone, as "iti_compat" does for answers of one or two tokens. Use another.'
        )


def base_name(task: Task) -> str:
    """The name that all folds of a task under one protocol share."""
    if "fold" not in task.source:
        return task.name
    parts = task.source["name"], task.source.get("protocol")
    return ":".join(str(part) for part in parts if part is not None)


@dataclass
class _Measured:
    """Seconds and tokens of a stretch of work."""

    seconds: float = 0.0
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)


@contextmanager
def _measured(model: TransformerBridge) -> Iterator[_Measured]:
    """Count the seconds, and the tokens that are embedded, padding included."""
    measured = _Measured()

    def count(_module: object, _args: object, embedded: Any) -> None:
        measured.tokens += embedded.shape[0] * embedded.shape[1]

    setattr(count, COUNTS, True)  # so that it does not keep work from being shared
    handle = model.embed.original_component.register_forward_hook(count)
    try:
        yield measured
    finally:
        handle.remove()
        measured.seconds = time.perf_counter() - measured.started
