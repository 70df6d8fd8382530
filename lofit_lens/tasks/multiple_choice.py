"""Multiple choice: candidates are compared by their log-probabilities; the metrics of one item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lofit_lens.errors import ScoringError, check_one_of
from lofit_lens.tasks.scoring import Record, Scoring

if TYPE_CHECKING:
    from lofit_lens.scoring.evaluate import EditedModel
    from lofit_lens.tasks.task import Example, Objective
    from lofit_lens.tokens import EncodedText, Encoder

ROUNDING = 1e-4
"""Log-probabilities of one text that differ by less differ by the way they were batched, in nats."""


@dataclass(frozen=True)
class MultipleChoice(Scoring):
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

    Raises:
        LofitLensError: There are no metrics, or one is unknown.
    """

    metrics: tuple[str, ...] = ("accuracy",)  # pyright: ignore[reportIncompatibleMethodOverride]
    counted_lead: tuple[str, int] | None = None
    as_lm_eval: bool = False
    normalised: bool = False
    also_correct: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    default_objective: ClassVar[Objective] = "choice"
    generates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in self.metrics or (None,):
            check_one_of("metrics", name, METRICS)

    @property
    def needs_plain_prompt(self) -> bool:
        """Whether the tokens of a candidate depend on how the prompt ends."""
        return self.counted_lead is not None or self.as_lm_eval

    def score(self, model: EditedModel, examples: Sequence[Example]) -> list[Record]:
        """A record for each example, with the scores of its candidates."""
        texts = [text for example in examples for text in self._encode(model.encoder, example)]
        different = list(dict.fromkeys(texts))  # equal candidates of an item tie exactly
        score = dict(zip(different, model.logprobs(different), strict=True))
        scores = (score[text] for text in texts)
        records = []
        for example in examples:
            correct, incorrect = (
                [next(scores) / self.length(answer) for answer in answers]
                for answers in (self._correct(example), example.incorrect)
            )
            metrics = {name: METRICS[name](correct, incorrect) for name in self.metrics}
            records.append(
                {"id": example.id, "group": example.group, **metrics}
                | {"correct": correct, "incorrect": incorrect}
            )
        return records

    def floors(self, examples: Sequence[Example]) -> dict[str, float]:
        """The share of items whose first right candidate is chosen by chance among the wrong ones."""
        name = "MC1 by chance" if "MC1" in self.metrics else "chance"
        return {name: sum(1 / (1 + len(e.incorrect)) for e in examples) / len(examples)}

    def length(self, answer: str) -> int:
        """What the log-probability of a candidate is divided by."""
        return max(1, len(answer.strip())) if self.normalised else 1

    def moved(self, before: Sequence[Record], after: Sequence[Record]) -> bool:
        """Whether the score of some candidate changed by more than rounding."""
        return any(
            abs(new - old) > ROUNDING
            for one, other in zip(before, after, strict=True)
            for side in ("correct", "incorrect")
            for old, new in zip(one[side], other[side], strict=True)
        )

    def _correct(self, example: Example) -> tuple[str, ...]:
        return example.correct + self.also_correct.get(example.id, ())

    def _encode(self, encoder: Encoder, example: Example) -> list[EncodedText]:
        answers = self._correct(example) + example.incorrect
        if self.as_lm_eval:
            return [encoder.spliced_continuation(example.prompt, answer) for answer in answers]
        if self.counted_lead is None:
            return encoder.candidates(example.prompt, answers)
        lead, lead_tokens = self.counted_lead
        question = example.prompt.removesuffix(lead)
        return [
            encoder.counted_continuation(question, lead, answer, lead_tokens=lead_tokens)
            for answer in answers
        ]


def check_scores(correct: Sequence[float], incorrect: Sequence[float]) -> None:
    """Refuse candidates that cannot be compared.

    Raises:
        ScoringError: There is no correct or no incorrect one, or a score is not finite.
    """
    if not correct or not incorrect:
        raise ScoringError("Multiple choice needs a correct and an incorrect candidate.")
    if not np.isfinite([*correct, *incorrect]).all():
        raise ScoringError(f"Candidates have scores that are not finite: {correct}, {incorrect}.")


def mc1(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """1 if the best correct answer (the first) scores above every incorrect one; ties lose."""
    check_scores(correct, incorrect)
    return float(correct[0] > max(incorrect))


def mc2(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Share of the probability mass of all candidates that falls on correct ones."""
    check_scores(correct, incorrect)
    mass = np.logaddexp.reduce
    return float(np.exp(mass(correct) - mass([*correct, *incorrect])))


def mc3(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Share of the correct answers that score above every incorrect one."""
    check_scores(correct, incorrect)
    return float(np.mean(np.asarray(correct) > max(incorrect)))


METRICS = {"accuracy": mc1, "MC1": mc1, "MC2": mc2, "MC3": mc3}
