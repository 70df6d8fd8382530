"""Whether fitting and scoring share one prompt format."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lofit_lens.errors import LeakError
from lofit_lens.sequences import common_start
from lofit_lens.tasks.task import Example, Task

FEW_PROMPTS = 8
"""With fewer different prompts in a split, what they have in common may be chance."""

FEW_GROUPS = 3
"""With fewer groups in a split, what its prompts have in common may be a group's."""


def check_templates(task: Task) -> str | None:
    """Refuse a task whose prompts have clearly another format in fit than in use.

    The format of a split is inferred from what all its prompts have in common at the beginning and
    at the end, and from whether answers start with white space. Refused are

    * an instruction, label or primer: a sentence, a line or a word with a colon that starts every
      prompt of one split and none of the other;
    * a lead to the answer, such as "A:" or a line break, that is at the end of every prompt of one
      split and not in the other, or that occurs there less often (a few-shot primer repeats it);
    * a blank that ends every prompt of one split and none of the other;
    * answers that all start with a blank in one split, and none in the other;
    * prompts in one split, and only empty ones in the other.

    Other differences, such as "The capital of …" in one split and "The father of …" in the other, can
    come from the items and are only told. So is any difference in beginning or end if a split has
    fewer than `FEW_GROUPS` groups, as one template or one story may be a split of its own. With
    fewer than `FEW_PROMPTS` different prompts in a split these are not compared.

    A task that keeps its validation items in two formats (`val_as_test`) says itself that it
    trains in one and is scored in the other.

    Returns:
        How formats differ where that is no error; None if fit and use have the same.

    Raises:
        LeakError: Two splits that should have one format clearly have two.
    """
    if task.val_as_test == task.val:
        notes = [_difference(task, "train", "test"), _difference(task, "val", "test")]
    else:
        fit, use = _Format.of(task.train), _Format.of(task.test)
        notes = [
            None if fit.agrees_with(use) else f"trained as {fit}, scored as {use}",
            _difference(task, "train", "val"),
            _difference(task, "val_as_test", "test"),
        ]
    return "; ".join(note for note in notes if note) or None


@dataclass(frozen=True)
class _Format:
    prompts: frozenset[str]
    n_groups: int
    begin: str
    end: str
    spaced: frozenset[bool]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> _Format:
        prompts = frozenset(example.prompt for example in examples)
        return cls(
            prompts=prompts,
            n_groups=len({example.group or example.prompt for example in examples}),
            begin=_common_beginning(prompts),
            end=_common_beginning([prompt[::-1] for prompt in prompts])[::-1],
            spaced=frozenset(answer[:1].isspace() for e in examples for answer in e.correct),
        )

    def agrees_with(self, other: _Format) -> bool:
        """Whether nothing differs that can be compared."""
        return not self.clashes_with(other) and (
            self._has_few_prompts(other)
            or (
                (self.begin.startswith(other.begin) or other.begin.startswith(self.begin))
                and (self.end.endswith(other.end) or other.end.endswith(self.end))
                and self.spaced == other.spaced
                and not self._frames_differ(other)
            )
        )

    def clashes_with(self, other: _Format) -> bool:
        """Whether the items cannot explain the difference."""
        return (
            any(self.prompts) != any(other.prompts)
            or (len(self.spaced) == len(other.spaced) == 1 and self.spaced != other.spaced)
            or (
                not self._has_few_prompts(other)
                and min(self.n_groups, other.n_groups) >= FEW_GROUPS
                and self._frames_differ(other)
            )
        )

    def _has_few_prompts(self, other: _Format) -> bool:
        return min(len(self.prompts), len(other.prompts)) < FEW_PROMPTS

    def _frames_differ(self, other: _Format) -> bool:
        return self._has_frame_unlike(other) or other._has_frame_unlike(self)

    def _has_frame_unlike(self, other: _Format) -> bool:
        blank = self.end[len(self.end.rstrip()) :]
        fewest = min(prompt.count(self.lead) for prompt in self.prompts)
        return (
            not any(prompt.startswith(self.opening) for prompt in other.prompts)
            or not any(prompt.endswith(blank) for prompt in other.prompts)
            or (self.lead != "" and all(p.count(self.lead) < fewest for p in other.prompts))
        )

    @property
    def opening(self) -> str:
        """The sentences, lines and labels with a colon with which all prompts begin."""
        found = re.match(r".*(?:[.!?:]\s+|\n)", self.begin, re.DOTALL)
        return found[0] if found else ""

    @property
    def lead(self) -> str:
        """The label, sign or line break near the end of all prompts, without the words after it."""
        found = re.search(r"(?:\n|(?:\s\S*)?[:>=\]#])(?:.*[:>=\]#\n])?", self.end, re.DOTALL)
        return found[0] if found else ""

    def __str__(self) -> str:
        begin = self.begin if len(self.begin) <= 40 else f"{self.begin[:20]}…{self.begin[-20:]}"
        return repr(f"{begin}…{self.end[-20:]}") + (" + blank" if self.spaced == {True} else "")


def _common_beginning(texts: Collection[str]) -> str:
    first, last = min(texts), max(texts)  # in the order of the alphabet these differ the most
    return first[: common_start((first, last))]


def _difference(task: Task, one: str, other: str) -> str | None:
    """What the items may explain; LeakError for what they cannot."""
    first, second = _Format.of(getattr(task, one)), _Format.of(getattr(task, other))
    if first.clashes_with(second):
        raise LeakError(
            f"The prompts of {task.name} have two formats: {one} {first}, {other} {second}. A method "
            "would be fitted on one and used on the other. Give all splits one format; if the task "
            "is scored in another on purpose, give val_as_test the validation items in that format."
        )
    return None if first.agrees_with(second) else f"{one} {first}, {other} {second}"
