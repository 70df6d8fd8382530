"""Tokens as people read them in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_SENTENCEPIECE_SPACE = "\u2581"


def token_texts(model: TransformerBridge, ids: Iterable[int]) -> list[str]:
    r"""The text of each token on its own, every character visible.

    A space is shown as "·", so that " the" and "the" differ, and a character that cannot be printed
    by its escape, such as "\n". A token that is only part of a character is shown by its name in the
    vocabulary, an id without a token, as in padded vocabularies, as "[50300]".
    """
    tokenizer: Any = model.tokenizer
    return [_readable(tokenizer, int(i)) for i in ids]


def _readable(tokenizer: Any, token_id: int) -> str:
    name = tokenizer.convert_ids_to_tokens(token_id)
    if name is None:
        return f"[{token_id}]"
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if name.startswith(_SENTENCEPIECE_SPACE) and not text.startswith(" "):
        text = " " + text  # decoding takes the space before the first word away
    if not text or "\ufffd" in text:
        text = str(name)
    return visible(text)


def visible(text: str) -> str:
    r"""A text with every character visible: a space as "·", a line break as "\n"."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace(" ", "·")
