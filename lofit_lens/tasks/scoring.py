"""What a scoring is, and the table by which the scorings are named.

A new scoring is two places: a class with the members of `Scoring`, in a file of its own, and a row in
`SCORINGS`, by which `from_file`, task files and `--scoring` name it. One that reads a generation needs
`metrics`, `prediction` and `judge` alone, the rest is that of `Generated`; see `label_f1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.label_f1 import LabelF1
from lofit_lens.tasks.multiple_choice import MultipleChoice

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit
    from lofit_lens.fast.memory import BatchSize
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
    several: ClassVar[bool]

    @property
    def metrics(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def needs_plain_prompt(self) -> bool: ...  # noqa: D102

    def score(
        self,
        model: TransformerBridge,
        examples: Sequence[Example],
        edit: Edit | None,
        *,
        batch_size: BatchSize,
        progress: bool,
    ) -> list[Record]:
        """A record for each example: `id`, `group`, every metric from 0 to 1, what they come from.

        Raises:
            ScoringError: A score is not finite.
        """
        ...

    def floors(self, examples: Sequence[Example]) -> dict[str, float]:
        """Values of the main metric that need no ability, by name."""
        ...

    def target(self, example: Example) -> str:
        """The right answer that training makes likelier, glued to the prompt as it is."""
        ...

    def length(self, answer: str) -> int:
        """What the log-probability of an answer is divided by where answers are compared."""
        ...

    def moved(self, before: Sequence[Record], after: Sequence[Record]) -> bool:
        """Whether an edit reached what is scored, by the records before and under it."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All that the scores depend on besides model and examples, as plain JSON values."""
        ...


SCORINGS: Mapping[str, Callable[[], Scoring]] = {
    "multiple-choice": MultipleChoice,
    "exact-match": ExactMatch,
    "label-f1": LabelF1,
}
"""The scorings by name. `from_file` sets those of the fields `max_new_tokens`, `stop`, `lead`, `match` and
`separator` that one has."""


def named_scoring(name: str) -> Scoring:
    """A scoring of the table.

    Raises:
        LofitLensError: There is none of that name.
    """
    if name not in SCORINGS:
        raise LofitLensError(f"scoring must be one of {', '.join(SCORINGS)}, got {name!r}.")
    return SCORINGS[name]()
