"""Chat templates: prompts as a model's own template writes them."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    from lofit_lens.tasks.task import Task

Messages = Sequence[tuple[str, str]]
"""A conversation: the role ("system", "user", "assistant") and the text of each turn."""

TODAY = date(2024, 7, 26)
"""The date for templates that ask for today's: the one Llama 3 falls back to. A prompt that changes
overnight could not be repeated."""

_QUESTION, _ANSWER = "Which city is it?", "Samarkand."

_LOG = logging.getLogger(__name__)
_TOLD: WeakSet[Any] = WeakSet()


class ChatPrompt(str):
    """A prompt that a chat template wrote, special tokens and all.

    It is its text, so whatever takes a prompt takes it. The encoder puts nothing in front of it and
    closes an answer behind it as the template does. What string methods make of it is plain text.

    Attributes:
        before: The template's text before the first user's.
        close: What the template puts behind an answer, up to the token that ends the turn; empty
            where it has no such token, and EOS ends the turn.
    """

    before: str
    close: str

    def __new__(cls, text: str, *, before: str = "", close: str = "") -> ChatPrompt:  # noqa: D102
        prompt = super().__new__(cls, text)
        prompt.before, prompt.close = before, close
        return prompt


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, as it is used for short answers.

    A switch for thinking (`enable_thinking`) is off, and the date is `TODAY`.

    Attributes:
        tokenizer: The tokenizer.
        system: Text of the system turn; None leaves it to the template.
        source: The Jinja text, its date written in.
        opening: What stands between the generation prompt and every answer, such as a thought that
            is left empty or a line break; part of the prompt.
        blank: The blank that every answer begins with; most templates have none.
        close: See `ChatPrompt`.
    """

    tokenizer: Any = field(repr=False)
    system: str | None
    source: str = field(repr=False)
    opening: str
    blank: str
    close: str

    @classmethod
    def of(cls, tokenizer: Any, system: str | None = None) -> ChatTemplate:
        """Try the template of a tokenizer on a short conversation.

        Raises:
            LofitLensError: There is no template, it refuses or drops a system turn, or it does not
                write an answer behind its generation prompt.
        """
        try:
            source = _still(tokenizer.get_chat_template())
        except (AttributeError, ValueError) as error:
            raise LofitLensError(
                "This tokenizer has no chat template, so there is nothing to put around the prompts. "
                "Leave the chat out, load a model that was tuned to chat, or set "
                "`tokenizer.chat_template`."
            ) from error
        asked = _opened(system, [("user", _QUESTION)])
        prompt = _render(tokenizer, source, asked, is_open=True)
        whole = _render(tokenizer, source, [*asked, ("assistant", _ANSWER)], is_open=False)
        opening, _, close = whole.removeprefix(prompt).partition(_ANSWER)
        if _QUESTION not in prompt:
            raise LofitLensError(
                "The chat template leaves the text of a user out. Templates that take a list of parts, "
                "such as texts and images, are of this kind. Write the prompts out in the task instead."
            )
        if not whole.startswith(prompt) or _ANSWER not in whole:
            raise LofitLensError(
                f"The chat template begins an answer with {prompt[-40:]!r}, but a finished one stands "
                f"behind {whole.partition(_ANSWER)[0][-40:]!r}, so it is not clear where to score "
                "answers. Templates that begin with a thought are of this kind. Write the prompts out "
                "in the task instead."
            )
        if system is not None and system.strip() not in prompt:
            raise LofitLensError(
                f"The chat template leaves the system text {system[:60]!r} out. Put it into the "
                "prompts of the task."
            )
        blank = opening if not opening.strip(" ") else ""
        return cls(
            tokenizer, system, source,
            "" if blank else opening, blank, _up_to_end(tokenizer, close),
        )  # fmt: skip

    def prompt(self, messages: Messages) -> ChatPrompt:
        """The conversation up to where the answer begins.

        Raises:
            LofitLensError: It does not end with a user's turn, has two system turns, or the
                template refuses it.
        """
        if not messages or messages[-1][0] != "user" or not messages[-1][1].strip():
            raise LofitLensError(
                f"A conversation must end with what a user says, got {list(messages)[-2:]!r}."
            )
        if self.system is not None and messages[0][0] == "system":
            raise LofitLensError(
                "A conversation has a system turn of its own. Leave the system text out."
            )
        turns = _opened(self.system, messages)
        until = next(i for i, (role, _) in enumerate(turns) if role == "user")
        turns_before = [*turns[:until], ("user", _QUESTION)]
        asked = _render(self.tokenizer, self.source, turns_before, is_open=False)
        text = _render(self.tokenizer, self.source, turns, is_open=True) + self.opening
        return ChatPrompt(text, before=asked.partition(_QUESTION)[0], close=self.close)

    def around(self, text: str) -> ChatPrompt:
        """A text as what a user says; one that is in the template already, as it is."""
        prompt = self.prompt([("user", text)])
        return ChatPrompt(text, **vars(prompt)) if text.startswith(prompt.before) else prompt

    def answer(self, text: str) -> str:
        """An answer as it stands behind the prompt: blanks of the task's own are dropped."""
        return self.blank + text.lstrip()

    def record(self) -> dict[str, Any]:
        """What makes prompts what they are: the system text, the template's SHA-256, the date."""
        source = self.tokenizer.get_chat_template()
        digest = hashlib.sha256(source.encode()).hexdigest()
        dated = {"date": TODAY.isoformat()} if source != self.source else {}
        return {"system": self.system, "template": digest, **dated}


def note_unused(tokenizer: Any, task: Task) -> None:
    """Log, once for a tokenizer, that prompts stand outside its chat template.

    Prompts in which special tokens are written out count as templated by hand.
    """
    if not getattr(tokenizer, "chat_template", None) or tokenizer in _TOLD or "chat" in task.source:
        return
    prompt = (task.train or task.test)[0].prompt
    if any(token in prompt for token in tokenizer.all_special_tokens):
        return
    _TOLD.add(tokenizer)
    _LOG.warning(
        "Note: this model has a chat template, and %s is used without it. For the template: "
        "task.as_chat(model.tokenizer), or --chat; to leave this note out: --no-chat.",
        task.name,
    )


def note_unlike(task: Task, trained_on: Mapping[str, Any]) -> None:
    """Log that an edit was learned in another chat template than a task is scored in."""
    here, there = (source.get("chat") for source in (task.source, trained_on))
    if here != there:
        _LOG.warning(
            "Note: the edit was learned %s, and %s is scored %s.",
            _told(there), task.name, _told(here),
        )  # fmt: skip


def _told(chat: Mapping[str, Any] | None) -> str:
    if chat is None:
        return "without a chat template"
    system = "" if chat["system"] is None else f" and the system text {chat['system'][:60]!r}"
    return f"in the chat template {chat['template'][:8]}{system}"


def _opened(system: str | None, messages: Messages) -> list[tuple[str, str]]:
    return list(messages) if system is None else [("system", system), *messages]


def _still(source: str) -> str:
    """A template with its requests for today's date answered, so that prompts stay what they are."""
    asked = r"""strftime_now\(\s*(["'])(.*?)\1\s*\)"""
    found = re.sub(asked, lambda match: repr(TODAY.strftime(match[2])), source)
    if re.search(r"strftime_now\s*\(", found):
        raise LofitLensError(
            "The chat template asks for today's date in a way that cannot be held still, so its prompts "
            "would change overnight. Write the date into `tokenizer.chat_template`."
        )
    return found


def _render(tokenizer: Any, source: str, messages: Messages, *, is_open: bool) -> str:
    """The conversation as text, with or without the generation prompt."""
    import jinja2

    try:
        return tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in messages],
            chat_template=source,
            tokenize=False,
            add_generation_prompt=is_open,
            enable_thinking=False,
        )
    except (jinja2.TemplateError, TypeError, KeyError) as error:
        roles = ", ".join(role for role, _ in messages)
        hint = " Put the system text into the prompts of the task." if "system" in roles else ""
        raise LofitLensError(
            f"The chat template refuses a conversation of {roles}: {error}.{hint}"
        ) from error


def _up_to_end(tokenizer: Any, text: str) -> str:
    """Text behind an answer, up to and with the first token added to the vocabulary."""
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]
    found = [(text.find(token), -len(token)) for token in tokens if token and token in text]
    if not found:
        return ""
    place, length = min(found)
    return text[: place - length]
