"""The logit difference of two tokens as a sum over the components of the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.inside.decode.lens import head_projections
from lofit_lens.analysis.inside.decode.pairs import AnswerPair
from lofit_lens.attention import heads_of, output_projection
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import UnsupportedError, check_whole
from lofit_lens.fast.in_force import edited
from lofit_lens.grid import headless
from lofit_lens.positions import known_prompts
from lofit_lens.scoring.logprobs import batches_by_length
from lofit_lens.tokens import Batch, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ROUNDING = 1e-4
"""How far the sum may lie from the logit difference, relative to the size of terms and logits.

In a dtype whose steps (`torch.finfo.eps`) are larger, as bfloat16 (0.008) and float16 (0.001), one
step: rounding of the residual stream was seen to make up to 0.4 of it.
"""


class Component(NamedTuple):
    """One term of the sum; `layer` and `head` are None where they mean nothing."""

    kind: str
    layer: int | None = None
    head: int | None = None


def components(model: TransformerBridge, edit: HeadIntervention | None) -> tuple[Component, ...]:
    """The terms in the order of the columns of `contributions`."""
    named = [Component("embedding")]
    for layer in range(model.cfg.n_layers):
        named += [Component("head", layer, head) for head in range(model.cfg.n_heads)]
        named += [Component("attention bias", layer), Component("mlp", layer)]
    named.append(Component("output bias"))
    if edit is not None:
        named += [Component(kind, *head) for kind in ("scale", "offset") for head in edit.heads]
    return tuple(named)


def check_decomposable(model: TransformerBridge) -> None:
    """Refuse a model whose logits are not linear in what its components write, norm frozen.

    Raises:
        UnsupportedError: It has layers without attention, a norm behind attention or MLP, or changes
            the logits behind the unembedding; the message says which.
    """
    grid = heads_of(model)
    if grid.without:
        raise UnsupportedError(
            f"This model ({model.cfg.architecture}) has {headless(grid.without)}: what these layers "
            "write is of another kind and has no decomposition into heads. Look at the attention and "
            "the logit lens."
        )
    parts = dict(model.blocks[0].named_children())
    if norms := [name for name in ("ln1_post", "ln2_post") if name in parts]:
        raise UnsupportedError(
            f"This family ({model.cfg.architecture}) puts what attention and MLP write through a norm "
            f"({', '.join(norms)}) before the residual stream, so a head has no contribution of its "
            "own: it depends on all that its layer writes. Look at the attention and the logit lens."
        )
    probe = torch.tensor([-64.0, 64.0], dtype=torch.float32)
    if not torch.equal(model.adapter.apply_output_logits_transform(probe), probe):
        raise UnsupportedError(
            f"This family ({model.cfg.architecture}) caps or scales the logits behind the unembedding, "
            "so contributions would not sum to its logit difference."
        )


@torch.no_grad()
def contributions(
    model: TransformerBridge,
    pairs: Sequence[AnswerPair],
    edit: HeadIntervention | None,
    *,
    batch_size: int,
) -> Float[Tensor, "example component"]:
    """What each component adds to the logit of the right token minus that of the wrong one.

    Args:
        model: A model that passes `check_decomposable`.
        pairs: The texts and the two tokens.
        edit: The edit in force; edits applied outside count as part of the heads.
        batch_size: Texts per forward pass.

    Raises:
        UnsupportedError: The terms do not sum to the model's own logit difference.
    """
    encoder, named = Encoder(model), components(model, edit)
    check_whole("batch_size", batch_size, 1)
    found = torch.empty(len(pairs), len(named), dtype=torch.float32)
    for rows in batches_by_length([len(pair.text.ids) for pair in pairs], batch_size):
        batch = [pairs[row] for row in rows]
        seen, logits = _read(model, encoder.batch([pair.text for pair in batch]), edit)
        right, wrong = torch.tensor([(pair.right, pair.wrong) for pair in batch]).T
        reading, output_bias = _readout(model, seen["scale"], right, wrong)
        terms = torch.cat([*_stream(model, seen, reading), output_bias[:, None],
                           *_edited(model, seen, reading, edit)], dim=1)  # fmt: skip
        place = torch.arange(len(rows))
        _check_sum(terms, logits[place, right], logits[place, wrong], model)
        found[rows] = terms
    return found


def _read(
    model: TransformerBridge, batch: Batch, edit: HeadIntervention | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Activations at the last position by name, z before and after the edit, and the logits."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, activation: Any, hook: object = None) -> None:  # noqa: ARG001
        seen[name] = activation[:, -1].detach().float()

    named = {"embedding": "blocks.0.hook_resid_pre", "scale": "ln_final.hook_scale"}
    for layer in range(model.cfg.n_layers):
        named[f"z{layer}"] = f"blocks.{layer}.attn.hook_z"
        named[f"mlp{layer}"] = f"blocks.{layer}.mlp.hook_out"
    edited_layers = () if edit is None else edit.heads.layers()
    after = {f"edited{layer}": f"blocks.{layer}.attn.hook_z" for layer in edited_layers}
    before, behind = (  # hooks run in the order in which they are attached
        model.hooks(fwd_hooks=[(point, partial(keep, name)) for name, point in points.items()])
        for points in (named, after)
    )
    with before, edited(model, edit), behind, known_prompts(model) as announce:
        announce(batch.prompt_lengths)
        logits = model(batch.tokens, attention_mask=batch.attention_mask, logits_to_keep=1)
    return seen, logits[:, -1].float().cpu()


def _readout(
    model: TransformerBridge, scale: Tensor, right: Tensor, wrong: Tensor
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
    """The vector whose product with the residual stream is the logit difference, and the rest.

    The final norm is linear once its scale is given: gain, and in LayerNorm the mean taken away.
    """
    norm: Any = model.ln_final
    weight, bias = model.W_U.detach(), model.b_U.detach()
    direction = (weight[:, right].float() - weight[:, wrong].float()).T
    rest = (bias[right].float() - bias[wrong].float()).to(direction.device)
    shift = None if norm.uses_rms_norm else getattr(norm.original_component, "bias", None)
    if shift is not None:
        rest = rest + direction @ shift.detach().to(direction)
    reading = direction * (norm.weight.detach().to(direction) + float(norm.uses_weight_offset))
    if not norm.uses_rms_norm:
        reading = reading - reading.mean(-1, keepdim=True)
    return reading / scale.to(reading.device), rest.cpu()


def _stream(
    model: TransformerBridge, seen: dict[str, Tensor], reading: Float[Tensor, "batch d_model"]
) -> list[Float[Tensor, "batch part"]]:
    """The terms of the embedding and of each layer: heads, attention bias, MLP."""

    def along(activation: Tensor) -> Tensor:
        return (activation * reading.to(activation.device)).sum(-1, keepdim=True).cpu()

    terms = [along(seen["embedding"])]
    for layer in range(model.cfg.n_layers):
        bias = output_projection(model, layer).bias
        terms.append(_by_head(model, layer, range(model.cfg.n_heads), seen[f"z{layer}"], reading))
        terms.append(
            torch.zeros(len(reading), 1, dtype=torch.float32)
            if bias is None
            else along(bias.float())
        )
        terms.append(along(seen[f"mlp{layer}"]))
    return terms


def _edited(
    model: TransformerBridge,
    seen: dict[str, Tensor],
    reading: Float[Tensor, "batch d_model"],
    edit: HeadIntervention | None,
) -> list[Float[Tensor, "batch head"]]:
    """The terms of the scales and of the offsets, in the order of the edit's heads."""
    if edit is None:
        return []
    scales, offsets = torch.empty(2, len(reading), len(edit.heads), dtype=torch.float32)
    for layer in edit.heads.layers():
        ranks, heads = map(list, zip(*edit.heads.in_layer(layer), strict=True))
        before = seen[f"z{layer}"][:, heads]
        change = seen[f"edited{layer}"][:, heads] - before
        scaled = torch.zeros_like(before)
        if edit.scale is not None:  # nothing changes where the scope leaves this position alone
            scale = edit.scale[ranks, : before.shape[-1]].detach().to(before)
            scaled = scale * before * change.any(-1, keepdim=True)
        scales[:, ranks] = _by_head(model, layer, heads, scaled, reading)
        offsets[:, ranks] = _by_head(model, layer, heads, change - scaled, reading)
    return [scales, offsets]


def _by_head(
    model: TransformerBridge,
    layer: int,
    heads: Sequence[int],
    z: Float[Tensor, "batch head d_head"],
    reading: Float[Tensor, "batch d_model"],
) -> Float[Tensor, "batch head"]:
    weight = head_projections(model, layer, heads)
    seen_through = torch.einsum("kdm,bm->bkd", weight, reading.to(weight.device))
    return (z.to(weight.device) * seen_through).sum(-1).cpu()


def _check_sum(terms: Tensor, right: Tensor, wrong: Tensor, model: TransformerBridge) -> None:
    """Refuse terms that do not sum to the difference of the model's own logits."""
    tolerance = max(ROUNDING, torch.finfo(model.cfg.dtype).eps)
    error = (terms.sum(1) - (right - wrong)).abs()
    size = terms.abs().sum(1) + right.abs() + wrong.abs()
    if not bool((error <= tolerance * size).all()):
        raise UnsupportedError(
            f"The contributions sum to a logit difference that is up to {float(error.max()):.3g} off "
            f"that of the model ({model.cfg.architecture}): something stands between its components "
            "and its logits, in this family or in an edit applied outside. Look at the attention and "
            "the logit lens."
        )
