"""Where an instruction is put into a text: in front, or first in what the user of a chat says."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lofit_lens.chat import ChatPrompt
from lofit_lens.errors import LofitLensError
from lofit_lens.sequences import common_start
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Encoder


def before_user(encoder: Encoder, task: Task) -> tuple[int, ...]:
    """The tokens of the chat template before what the user says; none for plain prompts.

    Raises:
        LofitLensError: They are not the same for all training and validation prompts.
    """
    prompts = [example.prompt for example in (*task.train, *task.val, *task.val_as_test)]
    chats = [prompt for prompt in prompts if isinstance(prompt, ChatPrompt)]
    if not chats:
        return ()
    if len({prompt.before for prompt in chats}) > 1:
        raise LofitLensError(
            f"The conversations of {task.name} begin in different ways, so an instruction has no one "
            "place in them. Give them one system text, or leave this method out."
        )
    before = ChatPrompt(chats[0].before)
    texts = [encoder.continuation(before, prompt.removeprefix(before)) for prompt in chats]
    # a text may join its first token with the template's last
    return texts[0].ids[: common_start(text.ids[: text.n_prompt] for text in texts)]


def place_of_instruction(
    ids: Sequence[int], behind: Sequence[int], starts: Collection[int | None]
) -> int:
    """How many tokens of a text stand before an instruction put into it.

    Args:
        ids: The text.
        behind: From `before_user`; as much of it as the text begins with stands before.
        starts: BOS, and EOS where it stands in its stead; at least that stands before.
    """
    return max(int(bool(ids) and ids[0] in starts), common_start((ids, behind)))
