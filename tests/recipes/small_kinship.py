"""A task: a few items of the embedded kinship, to be told which of two answers is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lofit_lens.tasks.embedded import embedded
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.task import Task


def small_kinship(*, data_dir: str | Path | None = None) -> Task:
    """8, 8 and 12 items by multiple choice; there is no file to look for in `data_dir`."""
    whole, rule = embedded("kinship"), MultipleChoice()
    test = whole.test[:12]
    return replace(
        whole, name="small-kinship", train=whole.train[:8], val=whole.val[:8], test=test,
        val_as_test=whole.val[:8], scoring=rule, floors=rule.floors(test),
        source={"name": "small-kinship"},
    )  # fmt: skip
