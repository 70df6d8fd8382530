"""What a task is: examples, and how they are trained on and scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from lofit_lens.errors import DataError, LofitLensError, check_one_of
from lofit_lens.tasks.scoring import Scoring

Objective = Literal["sft", "dpo", "ipo", "choice"]
"""What training maximises.

* `sft`: the likelihood of the right answer (cross-entropy on its tokens; see `Scoring.target`).
* `dpo`: its preference over the first incorrect answer (direct preference optimisation).
* `ipo`: the same preference, but only up to a margin of 1 / (2 beta) (identity preference optimisation).
* `choice`: its share among all candidates, by what they are compared by in scoring.
"""
OBJECTIVES: tuple[str, ...] = get_args(Objective)

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        id: Name of the item, unique in its split.
        prompt: Text before the answer; may be empty.
        correct: Correct answers, the best first, each glued to the prompt as it is. What several
            mean is for the scoring to say: candidates, accepted spellings, or labels that belong
            together.
        incorrect: Incorrect answers.
        group: Items of one group never fall into different splits.
        messages: Role and content of each turn before the answer, where the item is a conversation;
            `prompt` is then the same turns as text.
    """

    id: str
    prompt: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...] = ()
    group: str = ""
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Task:
    """Examples for training, validation and test, with the rules to use them.

    Attributes:
        name: For results and files.
        train: Training examples. A task for evaluation alone has none, and no validation either.
        val: Validation examples, in the format of training.
        test: Test examples.
        val_as_test: The validation items in the format of the test, for choosing settings.
        objective: The default objective of training.
        scoring: How the test is scored.
        compat: Other scoring rules by name, such as the "paper-code" one with its quirks.
        floors: Scores reached without any ability, by name, for the test split.
        source: What `reload_task` needs to load this task again; empty if it was built by hand.

    Raises:
        DataError: A split is empty, an id repeats, an example has no right answer, or the examples
            lack what the objective needs.
    """

    name: str
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    val_as_test: tuple[Example, ...]
    objective: Objective
    scoring: Scoring
    compat: Mapping[str, Scoring] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split in ("train", "val", "test"):
            examples: tuple[Example, ...] = getattr(self, split)
            if not examples and (split == "test" or self.train or self.val):
                raise DataError(f"The {split} split of {self.name} is empty.")
            if len({example.id for example in examples}) < len(examples):
                raise DataError(f"Ids repeat in the {split} split of {self.name}.")
            bare = [example.id for example in examples if not example.correct]
            if bare:
                raise DataError(f"Example {bare[0]} of {self.name} ({split}) has no right answer.")
        self._check_examples(self.objective)

    def check_objective(self, objective: str) -> None:
        """Refuse an objective the training examples cannot serve.

        Raises:
            LofitLensError: The objective is unknown.
            DataError: It needs incorrect answers and an example has none, or the task is for
                evaluation alone.
        """
        self._check_examples(objective)
        self.check_trainable()

    def check_trainable(self) -> None:
        """Refuse a task for evaluation alone.

        Raises:
            DataError: There are no training examples.
        """
        if not self.train:
            raise DataError(
                f"{self.name} is for evaluation alone: all its items are in the test split, so nothing "
                "can be learned on it. Take a fold or split of it."
            )

    def _check_examples(self, objective: str) -> None:
        check_one_of("objective", objective, OBJECTIVES)
        if objective != "sft":
            for example in self.train + self.val:
                if not example.incorrect:
                    raise DataError(
                        f'Objective "{objective}" needs incorrect answers; example {example.id} of '
                        f'{self.name} has none. Use "sft".'
                    )

    def scoring_rule(self, compat: str | None) -> Scoring:
        """The default scoring rule, or a compat one by name.

        Raises:
            LofitLensError: There is no such rule.
        """
        if compat is None:
            return self.scoring
        if compat not in self.compat:
            known = ", ".join(self.compat) or "none"
            chat = " Chat prompts have none." if self.source.get("chat") else ""
            raise LofitLensError(
                f"{self.name} has no compat mode {compat!r}. It has: {known}.{chat}"
            )
        return self.compat[compat]

    def with_examples(self, change: Callable[[Example], Example], **fields: Any) -> Task:
        """This task with every example changed, and other fields as given."""
        names = ("train", "val", "test", "val_as_test")
        return replace(self, **{n: tuple(map(change, getattr(self, n))) for n in names}, **fields)

    def as_chat(self, tokenizer: Any, system: str | None = None) -> Task:
        """This task in the chat template of a model.

        The prompt of each example becomes the turn of a user, as it is, or its `messages` the turns
        they name; the model's own template is around it, its generation prompt at the end. Answers
        begin right there, so their leading blank is dropped. In training they end with the token
        that ends the template's turn. Compat rules look into the plain prompt and are dropped.

        Args:
            tokenizer: `model.tokenizer`.
            system: Text of the system turn; None leaves it to the template, which may have its own.

        Raises:
            LofitLensError: The tokenizer has no template, the template refuses the turns, or the
                task is scored by a text of its plain prompt.
            DataError: An example has no prompt.

        Examples:
            >>> task = ll.tasks.truthfulqa().as_chat(model.tokenizer)  # doctest: +SKIP
        """
        from lofit_lens.tasks.chat import as_chat

        return as_chat(self, tokenizer, system)

    def data_hash(self) -> str:
        """SHA-256 over all examples, to recognise the data a result was made from."""
        return self._data_hash

    @cached_property
    def _data_hash(self) -> str:
        splits = {s: [_hashed(e) for e in getattr(self, s)] for s in ("train", "val", "test")}
        text = json.dumps(splits, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return (
            f"Task({self.name}: {len(self.train)} train, {len(self.val)} val, {len(self.test)} "
            f"test; {self.objective}, {type(self.scoring).__name__})"
        )


def _hashed(example: Example) -> dict[str, Any]:
    """The fields of an example; messages only where there are some."""
    fields = asdict(example)
    return fields if example.messages else {k: v for k, v in fields.items() if k != "messages"}
