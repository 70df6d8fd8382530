"""What a task is: examples, and how they are trained on and scored."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lofit_lens.errors import DataError, LofitLensError

Objective = Literal["sft", "dpo", "choice"]
"""What training maximises.

* `sft`: the likelihood of the first correct answer (cross-entropy on its tokens).
* `dpo`: its preference over the first incorrect answer (direct preference optimisation).
* `choice`: its share among all candidates, by what they are compared by in scoring.
"""
OBJECTIVES: tuple[str, ...] = get_args(Objective)

Split = Literal["train", "val", "test"]

Match = Literal["exact", "begins"]
"""Whether a prediction has to be an accepted answer, or only to begin with one."""


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        id: Name of the item, unique in its split.
        prompt: Text before the answer; may be empty.
        correct: Correct answers, the best first, each glued to the prompt as it is. Under exact
            match the others are accepted spellings.
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
class MultipleChoice:
    """Score candidates by the summed log-probability of their tokens.

    The candidates are the answers of an example: texts, or letters of a list in its prompt; see
    `scored_by`.

    Attributes:
        metrics: Which of "accuracy", "MC1", "MC2", "MC3" to report. "accuracy" is the share of
            items whose first correct answer scores above every other candidate.
        counted_lead: Find the answer by counting tokens after a lead such as a line break and
            "A:", as the code of ITI and LoFiT does, instead of by character offsets; the text of
            the lead and its number of tokens.
        as_lm_eval: Take the tokens of prompt and answer as lm-evaluation-harness does, see
            `Encoder.spliced_continuation`.
        normalised: Divide by the number of characters of the candidate, blanks around it not
            counted, before candidates are compared (the acc_norm of lm-evaluation-harness).
        also_correct: Further correct answers by the id of their example, for this rule alone.
    """

    metrics: tuple[str, ...] = ("accuracy",)
    counted_lead: tuple[str, int] | None = None
    as_lm_eval: bool = False
    normalised: bool = False
    also_correct: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def length(self, candidate: str) -> int:
        """What the log-probability of a candidate is divided by."""
        return max(1, len(candidate.strip())) if self.normalised else 1


@dataclass(frozen=True)
class ExactMatch:
    """Generate greedily and compare with the accepted answers, letter case ignored.

    Attributes:
        max_new_tokens: Tokens generated.
        stop: The prediction ends at this text; it is looked for behind blanks that a generation
            begins with, and behind `lead`.
        strip: Whether white space around prediction and answers is ignored.
        after: Take what follows this separator in prompt and generation together, as the paper's
            code does; None takes the generation.
        after_index: Which piece of the split by `after`.
        lead: What stands between prompt and answer, blanks around it left out.
        match: "exact", or "begins": the prediction only has to begin with an accepted answer, up to
            the end of a word; for models that do not stop after the answer.
        pattern: Regular expression; its first match in the text so far is the prediction, without
            one there is none. None takes the whole text.

    Raises:
        LofitLensError: `match` is neither, or no token is to be generated.
    """

    max_new_tokens: int = 16
    stop: str = "\n"
    strip: bool = True
    after: str | None = None
    after_index: int = -1
    lead: str = ""
    match: Match = "exact"
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.match not in get_args(Match):
            raise LofitLensError(
                f"match must be one of {', '.join(get_args(Match))}, got {self.match!r}."
            )
        if self.max_new_tokens < 1:
            raise LofitLensError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")

    @property
    def metric(self) -> str:
        """The name of the metric: "EM", or "begins"."""
        return "EM" if self.match == "exact" else self.match

    def prediction(self, prompt: str, generated: str) -> str:
        """The answer found in a generation."""
        text, end = generated, self._end(generated)
        if self.after is not None:
            text = (prompt + generated).split(self.after)[self.after_index]
            end = text.find(self.stop)
        text = text if end < 0 else text[:end]
        if self.pattern is not None:
            found = re.search(self.pattern, text)
            text = found[0] if found else ""
        return self._normal(text)

    def stops(self, generated: str) -> bool:
        """Whether a generation holds the stop text, behind blanks and `lead`."""
        return self._end(generated) >= 0

    def is_correct(self, prediction: str, accepted: tuple[str, ...]) -> bool:
        """Whether a prediction is one of the accepted answers."""
        answers = {self._normal(answer) for answer in accepted}
        if self.match == "exact":
            return prediction in answers
        return any(_begins(prediction, answer) for answer in answers)

    def _end(self, generated: str) -> int:
        """Where the stop text begins; -1 where there is none."""
        before = re.match(rf"[ \t]*({re.escape(self.lead)}[ \t]*)?", generated)
        assert before is not None
        return generated.find(self.stop, before.end())

    def _normal(self, text: str) -> str:
        return (text.strip() if self.strip else text).lower()


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with an answer that ends there with a word."""
    following = text[len(answer) : len(answer) + 1]
    in_a_word = answer[-1:].isalnum() and following.isalnum()
    return bool(answer) and text.startswith(answer) and not in_a_word


Scoring = MultipleChoice | ExactMatch


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
        DataError: A split is empty, an id repeats, or the examples lack what the objective needs.
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
        if objective not in OBJECTIVES:
            raise LofitLensError(
                f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}."
            )
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
