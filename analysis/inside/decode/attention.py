"""Where heads look, before and after an edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.baselines.activations import read_batches
from lofit_lens.analysis.inside.decode.token_text import token_texts
from lofit_lens.attention import check_head_shape
from lofit_lens.errors import LofitLensError
from lofit_lens.fast.in_force import edited
from lofit_lens.heads import Head, HeadSet
from lofit_lens.tokens import EncodedText, Encoder

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit

Pattern = Float[Tensor, "head _query _key"]  # texts differ in length


@dataclass(frozen=True, eq=False)
class AttentionPatterns:
    """Attention of some heads on some texts.

    Attributes:
        heads: The heads.
        tokens: Readable tokens of each text, BOS included; see `token_texts`.
        before: Attention without the edit, one tensor a text, float32 on the CPU; each row of a
            query sums to 1 in families without attention sinks.
        after: The same with the edit; None if none was given.
    """

    heads: HeadSet
    tokens: tuple[tuple[str, ...], ...]
    before: tuple[Pattern, ...]
    after: tuple[Pattern, ...] | None = None

    def frame(self) -> pd.DataFrame:
        """One row per text, head, query and key that is not in the query's future.

        Columns `text` (from 0), `layer`, `head`, `name`, `query`, `key` (positions from 0),
        `query_token`, `key_token`, `before`, and with an edit `after` and `change`.
        """
        return pd.concat(
            [self._of_text(text) for text in range(len(self.tokens))], ignore_index=True
        )

    def plot(self, head: tuple[int, int], *, text: int = 0) -> go.Figure:
        """Heat map of one head, queries downwards; with an edit before, after and the change.

        Args:
            head: One of the heads.
            text: Which text, from 0.

        Raises:
            LofitLensError: There is no such head or text.
        """
        from lofit_lens.analysis.figures.decode import attention_map

        if head not in self.heads:
            raise LofitLensError(f"There is no attention of {Head(*head)}, only of {self.heads!r}.")
        if not 0 <= text < len(self.tokens):
            raise LofitLensError(f"text must be from 0 to {len(self.tokens) - 1}, got {text}.")
        frame = self._of_text(text)
        chosen = frame[(frame["layer"] == head[0]) & (frame["head"] == head[1])]
        return attention_map(chosen, tokens=self.tokens[text])

    def __repr__(self) -> str:
        compared = "" if self.after is None else ", before and after an edit"
        return f"AttentionPatterns({len(self.heads)} heads, {len(self.tokens)} texts{compared})"

    def _repr_html_(self) -> str:
        column = "before" if self.after is None else "change"
        largest = self.frame().sort_values(column, key=abs, ascending=False).head(12)
        return f"<p>{escape(repr(self))}</p>{largest.round(3).to_html(index=False)}"

    def _of_text(self, text: int) -> pd.DataFrame:
        tokens = np.array(self.tokens[text], dtype=object)
        query, key = np.tril_indices(len(tokens))
        parts = []
        for rank, head in enumerate(self.heads):
            columns: dict[str, Any] = {"text": text, "layer": head.layer, "head": head.head}
            columns |= {"name": str(head), "query": query, "key": key}
            columns |= {"query_token": tokens[query], "key_token": tokens[key]}
            columns["before"] = self.before[text][rank].numpy()[query, key]
            if self.after is not None:
                columns["after"] = self.after[text][rank].numpy()[query, key]
                columns["change"] = columns["after"] - columns["before"]
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def attention_patterns(
    model: TransformerBridge,
    texts: str | Sequence[str],
    heads: HeadSet,
    edit: Edit | None = None,
) -> AttentionPatterns:
    """The attention of some heads on texts, without and with an edit.

    An edit of `hook_z` comes behind the attention of its own layer, so it changes the patterns of
    higher layers only. To the token scope of an edit each text is one prompt: only scope "all"
    reaches positions before the last.

    Args:
        model: A bridge, in eval mode; edits applied outside count as part of both.
        texts: One text or several; BOS is put in front where the family has one.
        heads: The heads to look at, edited or not.
        edit: Any edit.

    Raises:
        LofitLensError: There is no text or no head.
        ModelMismatchError: The heads or the edit belong to another model.

    Examples:
        >>> attention_patterns(model, "Anna has a son.", tuned.heads).plot((2, 3))  # doctest: +SKIP
    """
    check_head_shape(model, heads)
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not len(heads):
        raise LofitLensError(
            f"Attention needs a text and a head, got {len(texts)} texts and {len(heads)} heads."
        )
    encoder = Encoder(model)
    encoded = [encoder.prompt(text) for text in texts]
    after = None
    if edit is not None:
        with edited(model, edit):
            after = _patterns(model, encoded, heads)
    return AttentionPatterns(
        heads,
        tuple(tuple(token_texts(model, text.ids)) for text in encoded),
        _patterns(model, encoded, heads),
        after,
    )


def _patterns(
    model: TransformerBridge, texts: Sequence[EncodedText], heads: HeadSet
) -> tuple[Pattern, ...]:
    """Of each text, alone in its batch."""

    def hooks_on(keep: Callable[[int], Any]) -> list[tuple[str, Any]]:
        return [(f"blocks.{i}.attn.hook_pattern", keep(i)) for i in heads.layers()]

    found = {}
    for (i,), seen in read_batches(model, texts, hooks_on, lambda p, _: p[0].float(), batch_size=1):
        found[i] = torch.stack([seen[layer][head] for layer, head in heads])
    return tuple(found[i] for i in range(len(texts)))
