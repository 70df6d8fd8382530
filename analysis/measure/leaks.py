"""Leak checks: no test item in training or in the choice of anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lofit_lens.errors import LeakError
from lofit_lens.tasks.task import Example, Task

SHOWN = 10


def sealed(task: Task) -> Task:
    """A task without its test split, for a method that is being fitted.

    Training, validation, rules, floors, source and `data_hash` are as before. Whatever reads the
    test raises: `task.test`, `evaluate` of the test split, `dataclasses.replace` or `asdict`. This
    guards against mistakes; the object does not hold the test, but its source says where it is.

    Args:
        task: Any task; a sealed one is returned as it is.
    """
    if isinstance(task, _SealedTask):
        return task
    without_test = object.__new__(_SealedTask)
    task.data_hash()  # is kept with the rest, as it needs the test
    vars(without_test).update({name: v for name, v in vars(task).items() if name != "test"})
    return without_test


class _SealedTask(Task):
    """A task whose instances have no attribute `test`; made by `sealed`, never by `__init__`."""

    def __post_init__(self) -> None:
        raise LeakError(
            "A sealed task cannot be given a test split. Change the task before it is sealed, or "
            "make a new Task of its training and validation examples."
        )

    def __getattr__(self, name: str) -> Any:
        if name != "test":
            raise AttributeError(f"A task has no attribute {name!r}.")
        raise LeakError(
            f"The test split of {self.name} was read while a method was fitted, so its score would "
            'say nothing. Fit on task.train; choose on task.val or evaluate(…, split="val"). To '
            "change a task with dataclasses.replace, do so before it is sealed."
        )

    def __repr__(self) -> str:
        return f"Task({self.name}: {len(self.train)} train, {len(self.val)} val, test sealed)"


@dataclass(frozen=True)
class Leak:
    """An example that is also in another split, wholly or in part.

    Attributes:
        split: Where the example is.
        id: Its name.
        shares: What it has in common: the "group", the "prompt", or the "text" of prompt and answer.
        with_split: The other split.
        with_id: The first example there that has it too.
    """

    split: Literal["train", "val"]
    id: str
    shares: str
    with_split: Literal["train", "test"]
    with_id: str

    def __str__(self) -> str:
        return (
            f"{self.split} {self.id!r} has the {self.shares} of {self.with_split} {self.with_id!r}"
        )


def leaks(task: Task) -> tuple[Leak, ...]:
    """Training and validation examples seen in the test, and validation examples seen in training.

    Two examples are alike if they share a group, a prompt that is not blank, or prompt and a correct
    answer as one text; letter for letter, whatever their ids. Prompts in two formats do not match,
    so a task with two needs groups, as TruthfulQA has. Each example is named once.
    """
    found = (
        *_shared("train", task.train, "test", task.test),
        *_shared("val", (*task.val, *task.val_as_test), "test", task.test),
        *_shared("val", task.val, "train", task.train),
    )
    first: dict[tuple[str, str], Leak] = {}
    for leak in found:
        first.setdefault((leak.split, leak.id), leak)
    return tuple(first.values())


def check_splits(task: Task) -> None:
    """Refuse a task with leaks.

    Raises:
        LeakError: See `leaks`; the message names them.
    """
    found = leaks(task)
    if found:
        lines = "\n".join(f"  {leak}" for leak in found[:SHOWN])
        more = f"\n  … and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise LeakError(
            f"{len(found)} examples of {task.name} are in two splits ({_counts(found)}):\n{lines}{more}\n"
            "Leave them out with without_leaks(task) or --drop-leaked, or split by another group."
        )


def without_leaks(task: Task) -> tuple[Task, tuple[Leak, ...]]:
    """The task without the training and validation examples that leak; the test stays as it is.

    Returns:
        The task, and one entry for each example left out.

    Raises:
        LeakError: No training or no validation example would be left.
    """
    found = leaks(task)
    gone = {(leak.split, leak.id) for leak in found}

    def kept(split: str, examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(example for example in examples if (split, example.id) not in gone)

    train, val = kept("train", task.train), kept("val", task.val)
    if not train or not val:
        raise LeakError(
            f"Of {task.name}, {len(train)} training and {len(val)} validation examples would be left "
            f"without leaks ({_counts(found)}). Split by another group."
        )
    clean = replace(task, train=train, val=val, val_as_test=kept("val", task.val_as_test))
    return clean, found


def _shared(
    split: Literal["train", "val"],
    examples: Sequence[Example],
    with_split: Literal["train", "test"],
    others: Sequence[Example],
) -> Iterator[Leak]:
    owner = {trait: other.id for other in reversed(others) for trait in _traits(other)}
    for example in examples:
        shared = next((trait for trait in _traits(example) if trait in owner), None)
        if shared is not None:
            yield Leak(split, example.id, shared[0], with_split, owner[shared])


def _traits(example: Example) -> list[tuple[str, str]]:
    """What tells that two examples are one."""
    named = [("group", example.group), ("prompt", example.prompt)]
    texts = [("text", example.prompt + answer) for answer in example.correct]
    return [(what, value) for what, value in named if value.strip()] + texts


def _counts(found: Sequence[Leak]) -> str:
    pairs = [f"{leak.split} in {leak.with_split}" for leak in found]
    return ", ".join(f"{pairs.count(pair)} {pair}" for pair in dict.fromkeys(pairs))
