"""A task for a chat model: each prompt is a user's turn in the model's own template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from lofit_lens.chat import ChatTemplate
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.tasks.task import Example, Task


def as_chat(task: Task, tokenizer: Any, system: str | None = None) -> Task:
    """See `Task.as_chat`."""
    check_chat(task)
    template = ChatTemplate.of(tokenizer, system)
    source = {**task.source, "chat": template.record()}
    return task.with_examples(partial(_inside, template=template), compat={}, source=source)


def as_plain(task: Task) -> Task:
    """The task with the word that it is used without a chat template on purpose."""
    return replace(task, source={**task.source, "chat": None})


def as_recorded(task: Task, chat: Mapping[str, Any] | None, tokenizer: Any) -> Task:
    """The task in the chat template that a source names, or without on purpose.

    Raises:
        LofitLensError: The tokenizer is missing or has another template.
    """
    if chat is None:
        return as_plain(task)
    if tokenizer is None:
        raise LofitLensError(
            f"{task.name} is in a chat template; give the tokenizer of the model: "
            "reload_task(source, tokenizer=model.tokenizer)."
        )
    found = as_chat(task, tokenizer, chat["system"])
    if found.source["chat"] != chat:
        raise LofitLensError(
            f"The result was made with another chat template ({chat}) than this tokenizer has "
            f"({found.source['chat']}). Load the model in the revision of the result."
        )
    return found


def check_chat(task: Task) -> None:
    """Refuse a task that makes no sense as a chat.

    Raises:
        LofitLensError: It is a chat already, or its scoring is defined on the plain prompt.
        DataError: An example has no prompt.
    """
    if task.source.get("chat"):
        raise LofitLensError(f"{task.name} is in a chat template already.")
    if task.scoring.needs_plain_prompt:
        raise LofitLensError(
            f"The scoring of {task.name} is defined on the plain prompt ({task.scoring}), which a chat "
            "template replaces. Give the task another scoring."
        )
    for example in (*task.train, *task.val, *task.test):
        if not example.prompt.strip() and not example.messages:
            raise DataError(
                f"Example {example.id} of {task.name} has no prompt, so there is nothing for a user to "
                "say. Score sentences on their own without the chat template."
            )


def _inside(example: Example, template: ChatTemplate) -> Example:
    messages = example.messages or (("user", example.prompt),)
    try:
        prompt = template.prompt(messages)
    except LofitLensError as error:
        error.add_note(f"This is example {example.id}.")
        raise
    return replace(
        example,
        messages=messages,
        prompt=prompt,
        correct=tuple(map(template.answer, example.correct)),
        incorrect=tuple(map(template.answer, example.incorrect)),
    )
