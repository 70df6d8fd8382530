"""What the cards need of a model: what offsets write, and where heads look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.inside.explorer.card import Cosines, HeadAttention, HeadEdit, Rows
from lofit_lens.attention import heads_of
from lofit_lens.chat import ChatTemplate
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import Head, HeadSet
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_TOKENS = 64
"""Longest text whose attention is shown as a table."""


def short_prompt(model: TransformerBridge, task: Task) -> str | None:
    """The first test prompt of a task whose attention can be shown, if there is one."""
    encoder = Encoder(model)
    prompts = (example.prompt for example in task.test)
    return next((text for text in prompts if len(encoder.prompt(text).ids) <= MAX_TOKENS), None)


def measure_edit(
    model: TransformerBridge, edit: HeadIntervention, *, name: str, task: Task | None, k: int
) -> list[HeadEdit]:
    """What an edit does to each of its heads, in its order.

    Args:
        model: The model it was made for.
        edit: The edit.
        name: Name of its task on the cards.
        task: Its task, for the cosines with ITI's direction and the mean output of the head.
        k: Tokens promoted and suppressed, each.
    """
    tokens: dict[tuple[str, str], list[tuple[str, float]]] = {}
    cosines: dict[Head, Cosines] = {}
    if (offsets := _offsets(edit)) is not None:
        from lofit_lens.analysis.inside.decode.lens import logit_lens

        for row in logit_lens(model, offsets, k=k).frame().to_dict("records"):
            listed = tokens.setdefault((row["name"], row["direction"]), [])
            listed.append((row["token"], float(row["logit"])))
        if task is not None:
            from lofit_lens.analysis.inside.decode.directions import compare_directions

            found = compare_directions(model, offsets, task)
            measured = found.cosine_mass_mean.tolist(), found.cosine_mean_z.tolist()
            for head, iti, mean_z in zip(found.heads, *measured, strict=True):
                cosines[head] = Cosines(iti, mean_z, found.chance)
    return [
        HeadEdit(
            head=(head := Head(row["layer"], row["head"])),
            task=name,
            offset_norm=row["bias_norm"],
            scale_norm=row["scale_norm"],
            promoted=tuple(tokens.get((row["name"], "promoted"), ())),
            suppressed=tuple(tokens.get((row["name"], "suppressed"), ())),
            cosines=cosines.get(head),
        )
        for row in edit.frame().to_dict("records")
    ]


def measure_attention(
    model: TransformerBridge, edit: HeadIntervention, heads: Sequence[Head], *, name: str, text: str
) -> list[HeadAttention]:
    """Attention of heads on a text, without and with an edit, rounded to three digits.

    Args:
        model: The model the edit was made for.
        edit: The edit; the heads need not be among its own.
        heads: The heads.
        name: Name of the edit's task on the cards.
        text: The text; for an edit learned in a chat template it is what a user says.

    Raises:
        LofitLensError: The text is too long for a table.
    """
    from lofit_lens.analysis.inside.decode.attention import attention_patterns

    source = edit.provenance.task_source if edit.provenance else {}
    if chat := source.get("chat"):
        text = ChatTemplate.of(model.tokenizer, chat["system"]).around(text)
    n_tokens = len(Encoder(model).prompt(text).ids)
    if n_tokens > MAX_TOKENS:
        raise LofitLensError(
            f"The attention on a card is a table of at most {MAX_TOKENS} tokens; the text has "
            f"{n_tokens}. Give a shorter one."
        )
    chosen = HeadSet(heads, **heads_of(model).shape)
    patterns = attention_patterns(model, text, chosen, edit)
    assert patterns.after is not None
    (tokens,), (before,), (after,) = patterns.tokens, patterns.before, patterns.after
    return [
        HeadAttention(head, name, tokens, _causal(before[rank]), _causal(after[rank]))
        for rank, head in enumerate(chosen)
    ]


def _offsets(edit: HeadIntervention) -> HeadIntervention | None:
    """The edit of those heads that have an offset: a zero vector has no direction."""
    if edit.bias is None or not edit.bias.any():
        return None
    rows = edit.bias.any(dim=-1).nonzero().flatten().tolist()
    heads = HeadSet((edit.heads.heads[row] for row in rows), **edit.heads.grid.shape)
    return replace(edit, heads=heads, scale=None, bias=edit.bias[rows])


def _causal(pattern: Float[Tensor, "query key"]) -> Rows:
    """The weights up to each query itself."""
    rows = enumerate(pattern.tolist(), start=1)
    return tuple(tuple(round(weight, 3) for weight in row[:seen]) for seen, row in rows)
