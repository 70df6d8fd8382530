"""The options of a chat, and tasks in the template of a model that is not loaded yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from lofit_lens.analysis.cli.groups import option
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks import Task
from lofit_lens.tasks.chat import as_plain, check_chat

if TYPE_CHECKING:
    from lofit_lens.analysis.cli.options import Loaded, ModelOptions

CHAT = "Chat"


@dataclass(frozen=True)
class ChatOptions:
    """Whether prompts stand in the chat template of the model."""

    chat: Annotated[
        bool | None,
        option(
            "Put the model's own chat template around every prompt; --no-chat leaves out the note "
            "that there is one. (default: as the run of --intervention, else off)",
            CHAT,
            "--chat/--no-chat",
        ),
    ] = None
    system: Annotated[
        str | None, option("Text of the system turn. (default: left to the template)", CHAT)
    ] = None

    def inside(self, tasks: Sequence[Task], model: ModelOptions, run: Loaded = None) -> list[Task]:
        """The tasks in the chat template of the model, if asked for; call before it is loaded.

        Raises:
            LofitLensError: There is a system text and no chat, or a task cannot be a chat.
        """
        if self.system is not None and not self.chat:
            raise LofitLensError("--system is a part of the chat template; give --chat as well.")
        if not self.chat:
            return [as_plain(task) if self.chat is False else task for task in tasks]
        for task in tasks:
            check_chat(task)
        tokenizer = model.tokenizer(run)
        return [task.as_chat(tokenizer, self.system) for task in tasks]

    def of_run(self, sources: Sequence[Mapping[str, Any]]) -> ChatOptions:
        """The setting of a run, from the sources of its tasks, where none is given."""
        if self != ChatOptions() or not sources or "chat" not in sources[0]:
            return self
        kept = sources[0]["chat"]
        return ChatOptions(chat=kept is not None, system=kept["system"] if kept else None)
