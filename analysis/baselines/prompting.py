"""Prompting as a rival: an instruction, or solved examples, in front of each question; nothing is edited."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix

from lofit_lens.chat import ChatPrompt
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.task import Example, Task

BREAK = "\n\n"
"""What stands between solved examples, and behind the last."""


def with_text(task: Task, text: str) -> Task:
    """The task with a text put in front of every question that is scored.

    It goes behind what all scored prompts begin with, an instruction or a primer, up to the last blank
    line of that, so that solved examples stand right before the question; in a chat it is the first
    that the user says. Training and validation items stay as they are.

    Args:
        task: The task.
        text: What to put in, with the blank or line break that is to stand behind it.
    """
    at = len(_lead(task.test))

    def put(example: Example) -> Example:
        prompt = example.prompt
        changed = prompt[:at] + text + prompt[at:]
        if isinstance(prompt, ChatPrompt):
            changed = ChatPrompt(changed, before=prompt.before, close=prompt.close)
        return replace(example, prompt=changed)

    test, val = (tuple(map(put, items)) for items in (task.test, task.val_as_test))
    return replace(task, test=test, val_as_test=val)


@dataclass(frozen=True)
class Shots:
    """Solved examples as one text.

    Attributes:
        text: Question and answer of each, with a blank line behind it.
        ids: Which they are.
    """

    text: str
    ids: tuple[str, ...]


def draw_shots(task: Task, n: int, *, seed: int) -> Shots:
    """Draw solved examples from the validation items, in the format of the test.

    Each stands as it would be scored, without what all prompts begin with, and with the answer that
    training would teach.

    Args:
        task: The task; its test is not read.
        n: How many.
        seed: Draws them, and their order.

    Raises:
        LofitLensError: There are fewer items, or prompts are written by a chat template, in which a
            solved example would be turns of its own.
    """
    items = task.val_as_test
    if len(items) < n:
        raise LofitLensError(
            f"{task.name} has {len(items)} validation items, so {n} solved examples cannot be drawn. Take "
            "fewer."
        )
    if any(isinstance(item.prompt, ChatPrompt) for item in items):
        raise LofitLensError(
            f"Solved examples are put in front of plain prompts, but those of {task.name} are written by a "
            'chat template. Load it with chat=False, or take the method "prompt".'
        )
    drawn = random.Random(seed).sample(list(items), n)
    start = len(_lead(items))
    texts = [f"{e.prompt[start:]}{task.scoring.target(e)}{BREAK}" for e in drawn]
    return Shots("".join(texts), tuple(example.id for example in drawn))


def _lead(items: Sequence[Example]) -> str:
    """What all prompts begin with, up to its last blank line; in a chat the template's at least."""
    prompts = [item.prompt for item in items]
    shared = commonprefix(prompts)  # noqa: RUF071 (no paths)
    whole = shared[: shared.rfind(BREAK) + len(BREAK)] if BREAK in shared else ""
    before = [p.before for p in prompts if isinstance(p, ChatPrompt)]
    return max([whole, *before], key=len)
