"""What a scoring is.

A new scoring is two places: a class under `Scoring`, in a file of its own, and a row in
`kinds.SCORINGS`, by which `from_file`, task files and `--scoring` name it. One that reads a generation
needs `metrics`, `prediction` and `judge` alone, the rest is that of `Generated`; see `label_f1`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lofit_lens.scoring.evaluate import EditedModel
    from lofit_lens.tasks.task import Example, Objective

Record = Mapping[str, Any]


@runtime_checkable
class Scoring(Protocol):
    """How what a model does on the items of a task becomes numbers; a frozen dataclass.

    Attributes:
        metrics: Names of the metrics, the main one first.
        default_objective: What training maximises, unless the task says otherwise.
        generates: Whether the model writes the answer, instead of comparing candidates.
        several: Whether the right answers of an item make one answer together, as labels do, instead
            of being right each alone.
        needs_plain_prompt: Whether it looks into the prompt, so that a chat template would break it.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    default_objective: ClassVar[Objective]
    generates: ClassVar[bool]
    several: ClassVar[bool] = False

    @property
    def metrics(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def needs_plain_prompt(self) -> bool:  # noqa: D102
        return False

    def score(self, model: EditedModel, examples: Sequence[Example]) -> list[Record]:
        """A record for each example: `id`, `group`, every metric from 0 to 1, what they come from.

        Raises:
            ScoringError: A score is not finite.
        """
        ...

    def floors(self, examples: Sequence[Example]) -> dict[str, float]:
        """Values of the main metric that need no ability, by name."""
        ...

    def moved(self, before: Sequence[Record], after: Sequence[Record]) -> bool:
        """Whether an edit reached what is scored, by the records before and under it."""
        ...

    def target(self, example: Example) -> str:
        """The right answer that training makes likelier, glued to the prompt as it is; the first."""
        return example.correct[0]

    def length(self, answer: str) -> int:  # noqa: ARG002
        """What the log-probability of an answer is divided by where answers are compared."""
        return 1

    def to_json(self) -> dict[str, Any]:
        """All that the scores depend on besides model and examples: the class and its fields."""
        return {"scoring": type(self).__name__, **asdict(self)}
