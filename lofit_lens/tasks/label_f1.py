"""Several labels at once: F1 of the labels that a model writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from lofit_lens.errors import check_not_empty
from lofit_lens.tasks.generated import Generated

if TYPE_CHECKING:
    from lofit_lens.tasks.task import Example

NO_LABEL = "none"
"""What is written where there is no label."""


@dataclass(frozen=True)
class LabelF1(Generated):
    """Generate greedily, split the text into labels, and compare these with the right ones.

    Of each item F1 = 2 |P ∩ G| / (|P| + |G|) for the sets of predicted and of right labels, 1 where
    both are empty; and "EM", 1 where the sets are equal. Order, repetition, letter case, white space
    and a full stop at the end of a label do not count. Trained on are all labels of an item, in their
    order, with the separator between them; a label that holds it counts as several.

    Attributes:
        max_new_tokens, stop, lead: See `Generated`.
        separator: What stands between two labels.
    """

    separator: str = ","

    several: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_empty("separator", self.separator)

    @property
    def metrics(self) -> tuple[str, ...]:
        """F1, and EM of the set."""
        return "F1", "EM"

    def labels(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The labels in some texts, each once, as they are compared."""
        parts = (part for text in texts for part in self._bare(text).split(self.separator))
        labels = (" ".join(part.lower().split()).rstrip(".") for part in parts)
        return tuple(dict.fromkeys(label for label in labels if label not in ("", NO_LABEL)))

    def prediction(self, prompt: str, generated: str) -> str:  # noqa: ARG002
        """The labels found in a generation."""
        return f"{self.separator} ".join(self.labels([self.before_stop(generated)]))

    def judge(self, prediction: str, example: Example) -> dict[str, float]:
        """F1 and equality of the two sets."""
        predicted, wanted = self.labels([prediction]), self.labels(example.correct)
        return {"F1": label_f1(predicted, wanted), "EM": float(set(predicted) == set(wanted))}

    def target(self, example: Example) -> str:
        """All labels, with the separator between them."""
        first, *others = example.correct
        return f"{self.separator} ".join([first, *map(self._bare, others)])

    def floors(self, examples: Sequence[Example]) -> dict[str, float]:
        """The best F1 of giving the same labels everywhere: the 0, 1, 2, … most frequent ones."""
        right = [self.labels(example.correct) for example in examples]
        frequent = [label for label, _ in Counter(chain(*right)).most_common()]
        found = (
            sum(label_f1(frequent[:n], one) for one in right) / len(right)
            for n in range(1 + max(map(len, right)))
        )
        return {"most frequent labels": max(found)}

    def _bare(self, text: str) -> str:
        return text.strip().removeprefix(self.lead).strip()


def label_f1(predicted: Collection[str], right: Collection[str]) -> float:
    """F1 of two sets of labels, 1 if both are empty."""
    both = len(predicted) + len(right)
    return 2 * len(set(predicted) & set(right)) / both if both else 1.0
