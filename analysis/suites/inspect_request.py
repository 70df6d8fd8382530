"""What Inspect asks for, and what of it can be met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inspect_ai.model import ChatMessage, ContentReasoning, ContentText, GenerateConfig

from lofit_lens.errors import UnsupportedError

if TYPE_CHECKING:
    from lofit_lens.scoring.generation import Generation

HONOURED = ("max_tokens", "temperature", "top_k", "top_p", "seed", "stop_seqs")
INSPECTS_OWN = (
    "max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections",
    "adaptive_connections", "system_message", "max_tool_output", "fail_on_refusal",
    "reasoning_history", "cache",
)  # fmt: skip
"""Settings that Inspect sees to by itself."""

MAX_TOKENS, BATCH_SIZE = 2048, 32
"""Defaults, those of Inspect's `hf`."""


@dataclass(eq=False)
class Request:
    """A prompt that waits for its answer; requests that are alike share a batch.

    Attributes:
        prompt: The text to continue.
        n_new: Tokens at most.
        stop: Texts that end the answer.
        drawn: Temperature, top_k and top_p; None takes the likeliest tokens.
        seed: For what is drawn.
        found: The answer.
    """

    prompt: str
    n_new: int
    stop: tuple[str, ...]
    drawn: tuple[float, int | None, float | None] | None
    seed: int
    found: Generation | None = None

    @property
    def alike(self) -> tuple[Any, ...]:
        """What requests of one batch have in common."""
        return self.n_new, self.stop, self.drawn


def check_settings(config: GenerateConfig) -> None:
    """Refuse settings that would be ignored.

    Raises:
        UnsupportedError: There is one.
    """
    told = config.model_dump(exclude_none=True)
    for name in sorted(told.keys() - {*HONOURED, *INSPECTS_OWN}):
        raise UnsupportedError(
            f"{name}={told[name]!r} is not supported. Leave it out; valid are {', '.join(HONOURED)}."
        )
    if config.temperature is None and (config.top_k or config.top_p):
        raise UnsupportedError(
            "top_k and top_p say what tokens are drawn from, and without a temperature the likeliest "
            "ones are taken. Give a temperature as well."
        )
    if "" in (config.stop_seqs or ()):
        raise UnsupportedError("A stop sequence must not be empty.")


def text_of(message: ChatMessage) -> str:
    """The text of a turn.

    Raises:
        UnsupportedError: It holds something else, or is what a tool gave.
    """
    parts = [] if isinstance(message.content, str) else message.content
    kinds = {part.type for part in parts if not isinstance(part, ContentText | ContentReasoning)}
    if kinds or message.role == "tool":
        told = ", ".join(sorted(kinds)) or "an answer of a tool"
        raise UnsupportedError(f"Only text is supported, got {told}.")
    return message.text
