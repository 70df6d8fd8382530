"""What all scorings of a greedy generation have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit
    from lofit_lens.fast.memory import BatchSize
    from lofit_lens.tasks.scoring import Record
    from lofit_lens.tasks.task import Example, Objective


class Generated(ABC):
    """A `Scoring` that generates greedily; the subclass says what the text is worth.

    The subclass is a frozen dataclass with these fields, `metrics`, `prediction` and `judge`. The stop
    text is looked for behind blanks that a generation begins with, and behind `lead`.
    """

    max_new_tokens: int
    stop: str
    lead: str

    default_objective: ClassVar[Objective] = "sft"
    generates: ClassVar[bool] = True
    several: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LofitLensError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")

    @abstractmethod
    def prediction(self, prompt: str, generated: str) -> str:
        """The answer found in a generation."""

    @abstractmethod
    def judge(self, prediction: str, right: tuple[str, ...]) -> dict[str, float]:
        """Every metric of a prediction, beside the right answers of its example."""

    @property
    def needs_plain_prompt(self) -> bool:
        """Whether a chat template would break it."""
        return False

    def score(
        self,
        model: TransformerBridge,
        examples: Sequence[Example],
        edit: Edit | None,
        *,
        batch_size: BatchSize,
        progress: bool,
    ) -> list[Record]:
        """A record for each example, with the `prediction` and the text it was found in."""
        from lofit_lens.scoring.generation import greedy_generations

        generations = greedy_generations(
            model,
            [example.prompt for example in examples],
            edit,
            max_new_tokens=self.max_new_tokens,
            batch_size=batch_size,
            progress=progress,
        )
        records = []
        for example, generation in zip(examples, generations, strict=True):
            text = generation.text
            prediction = self.prediction(example.prompt, text)
            stopped = generation.ended or self.stops(text)
            records.append(
                {"id": example.id, "group": example.group}
                | self.judge(prediction, example.correct)
                | {"prediction": prediction, "generated": text, "expected": self.target(example)}
                | {"finish_reason": "stop" if stopped else "length"}
            )
        return records

    def floors(self, examples: Sequence[Example]) -> dict[str, float]:
        """The score of giving the most frequent answer everywhere."""
        return {"most frequent answer": most_frequent(map(self.target, examples))}

    def target(self, example: Example) -> str:
        """The first right answer."""
        return example.correct[0]

    def length(self, answer: str) -> int:  # noqa: ARG002
        """1: log-probabilities are not divided."""
        return 1

    def moved(self, before: Sequence[Record], after: Sequence[Record]) -> bool:
        """Whether some text differs."""
        return any(
            one["generated"] != other["generated"] for one, other in zip(before, after, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """The class and its fields."""
        return {"scoring": type(self).__name__, **asdict(self)}  # pyright: ignore[reportArgumentType]

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
