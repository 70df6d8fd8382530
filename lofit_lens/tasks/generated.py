"""What all scorings of a greedy generation have in common."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lofit_lens.errors import check_not_empty, check_whole
from lofit_lens.tasks.scoring import Record, Scoring

if TYPE_CHECKING:
    from lofit_lens.scoring.evaluate import EditedModel
    from lofit_lens.tasks.task import Example, Objective


@dataclass(frozen=True)
class Generated(Scoring):
    """A `Scoring` that generates greedily; the subclass says what the text is worth.

    The subclass is a frozen dataclass with `metrics`, `prediction` and `judge`.

    Attributes:
        max_new_tokens: Tokens generated.
        stop: The prediction ends at this text; it is looked for behind blanks that a generation
            begins with, and behind `lead`.
        lead: What stands between prompt and answer, blanks around it left out.

    Raises:
        LofitLensError: No token is to be generated, or `stop` is empty.
    """

    max_new_tokens: int = 16
    stop: str = "\n"
    lead: str = ""

    default_objective: ClassVar[Objective] = "sft"
    generates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("max_new_tokens", self.max_new_tokens, 1)
        check_not_empty("stop", self.stop)

    @abstractmethod
    def prediction(self, prompt: str, generated: str) -> str:
        """The answer found in a generation."""

    @abstractmethod
    def judge(self, prediction: str, example: Example) -> dict[str, float]:
        """Every metric of a prediction, beside the answers of its example."""

    def score(self, model: EditedModel, examples: Sequence[Example]) -> list[Record]:
        """A record for each example, with the `prediction` and the text it was found in."""
        prompts = [example.prompt for example in examples]
        generations = model.generations(prompts, self.max_new_tokens)
        records = []
        for example, generation in zip(examples, generations, strict=True):
            text = generation.text
            prediction = self.prediction(example.prompt, text)
            stopped = generation.ended or self.stops(text)
            records.append(
                {"id": example.id, "group": example.group}
                | self.judge(prediction, example)
                | {"prediction": prediction, "generated": text, "expected": self.target(example)}
                | {"finish_reason": "stop" if stopped else "length"}
            )
        return records

    def floors(self, examples: Sequence[Example]) -> dict[str, float]:
        """The score of giving the most frequent answer everywhere."""
        return {"most frequent answer": most_frequent(map(self.target, examples))}

    def moved(self, before: Sequence[Record], after: Sequence[Record]) -> bool:
        """Whether some text differs."""
        return any(
            one["generated"] != other["generated"] for one, other in zip(before, after, strict=True)
        )

    def stops(self, generated: str) -> bool:
        """Whether a generation holds the stop text, behind blanks and `lead`."""
        return self._end(generated) >= 0

    def before_stop(self, generated: str) -> str:
        """A generation up to the stop text, if it has one."""
        end = self._end(generated)
        return generated if end < 0 else generated[:end]

    def _end(self, generated: str) -> int:
        """Where the stop text begins; -1 where there is none."""
        before = re.match(rf"[ \t]*({re.escape(self.lead)}[ \t]*)?", generated)
        assert before is not None
        return generated.find(self.stop, before.end())


def most_frequent(answers: Iterable[str]) -> float:
    """Share of the answers that are the most frequent one."""
    counts = Counter(answers)
    return max(counts.values()) / counts.total()
