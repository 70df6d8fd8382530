"""Scoring a task, with or without an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from lofit_lens.chat import note_unlike, note_unused
from lofit_lens.errors import LofitLensError, check_one_of
from lofit_lens.fast.memory import BatchSize
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.scoring.generation import Generation, generations
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks.load import check_not_trained_on
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit


@dataclass(frozen=True)
class EditedModel:
    """What a scoring asks of a model: see `answer_logprobs` and `generations`.

    Attributes:
        model: A bridge, in eval mode.
        edit: The edit in force; None for the model as it is.
        how: Their `batch_size` and `progress`.
    """

    model: TransformerBridge
    edit: Edit | None
    how: Mapping[str, Any]

    @cached_property
    def encoder(self) -> Encoder:
        """Makes tokens of prompts with answers."""
        return Encoder(self.model)

    def logprobs(self, texts: Sequence[EncodedText]) -> list[float]:
        """The log-probability of each answer."""
        return answer_logprobs(self.model, texts, self.edit, **self.how).tolist()

    def generations(self, prompts: Sequence[str], max_new_tokens: int) -> list[Generation]:
        """What stands behind each prompt."""
        return generations(
            self.model, prompts, self.edit, max_new_tokens=max_new_tokens, **self.how
        )


def evaluate(
    model: TransformerBridge,
    task: Task,
    edit: Edit | None = None,
    *,
    split: Literal["test", "val"] = "test",
    compat: str | None = None,
    batch_size: BatchSize = 32,
    progress: bool = True,
) -> Evaluation:
    """Score a task, with or without an edit of the model, as the task's scoring says.

    Contexts of other edits may be open around the call.

    Args:
        model: A bridge, in eval mode.
        task: The task.
        edit: The edit; None scores the model as it is.
        split: "test", or "val" in the format of the test, for choosing settings.
        compat: A scoring rule of the task by name, such as "paper-code".
        batch_size: Texts per forward pass; "auto" takes the largest that fits into memory.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: The compat rule is unknown, a text exceeds the context, or the edit was
            learned on another fold or split of the same data.
        ScoringError: A score is not finite.
    """
    check_one_of("split", split, ("test", "val"))
    if edit is not None and edit.provenance is not None:
        check_not_trained_on(task, edit.provenance.task_source)
        note_unlike(task, edit.provenance.task_source)
    note_unused(model.tokenizer, task)
    examples = task.test if split == "test" else task.val_as_test
    if not examples:
        raise LofitLensError(f"{task.name} has no validation items. Score its test split.")
    rule = task.scoring_rule(compat)
    how = {"batch_size": batch_size, "progress": progress}
    records = rule.score(EditedModel(model, edit, how), examples)
    floors = task.floors if split == "test" else {}
    return Evaluation(task.name, split, rule.metrics, tuple(records), floors, compat)
