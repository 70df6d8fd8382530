"""The logit lens of an offset: which tokens it promotes and suppresses (paper, Appendix E)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from lofit_lens.analysis.inside.decode.token_text import token_texts
from lofit_lens.attention import output_projection
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, UnsupportedError, check_whole
from lofit_lens.heads import Head, HeadSet

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

_BLOCK = 4096
"""Tokens whose unembedding is in float32 at once."""


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Logits of what each offset writes, read as if it were the whole residual stream.

    Attributes:
        heads: The edited heads, in the order of the edit.
        logits: One row a head, float32 on the CPU.
        k: Tokens listed at each end.
        tokens: Readable text of the tokens listed, by id; see `token_texts`.
    """

    heads: HeadSet
    logits: Float[Tensor, "head d_vocab"]
    k: int
    tokens: Mapping[int, str]

    def promoted(self, head: tuple[int, int]) -> tuple[str, ...]:
        """The `k` tokens with the highest logits under one head's offset, the highest first.

        Raises:
            LofitLensError: The head is not edited.
        """
        return self._listed(head, largest=True)

    def suppressed(self, head: tuple[int, int]) -> tuple[str, ...]:
        """The `k` tokens with the lowest logits under one head's offset, the lowest first.

        Raises:
            LofitLensError: The head is not edited.
        """
        return self._listed(head, largest=False)

    def frame(self) -> pd.DataFrame:
        """One row per head, direction and place.

        Columns `layer`, `head`, `name`, `direction` ("promoted", "suppressed"), `place` (from 1),
        `token_id`, `token` (readable), `logit`, and `from_mean` (the logit minus the head's mean
        logit over the vocabulary, which a softmax cannot see).
        """
        rows = []
        for head, logits in zip(self.heads, self.logits, strict=True):
            mean = float(logits.mean())
            for direction, largest in (("promoted", True), ("suppressed", False)):
                top = logits.topk(self.k, largest=largest)
                listed = zip(top.indices.tolist(), top.values.tolist(), strict=True)
                for place, (i, logit) in enumerate(listed, start=1):
                    token = self.tokens[i]
                    rows.append((*head, str(head), direction, place, i, token, logit, logit - mean))
        names = ["layer", "head", "name", "direction", "place", "token_id", "token"]
        return pd.DataFrame(rows, columns=[*names, "logit", "from_mean"])

    def plot(self, *, places: int = 5) -> go.Figure:
        """The tokens at both ends for every head, coloured by logit minus the head's mean logit.

        Args:
            places: Tokens shown at each end, at most `k`.
        """
        from lofit_lens.analysis.figures.decode import lens_table

        return lens_table(self.frame(), places=min(places, self.k))

    def __repr__(self) -> str:
        first = self.heads.heads[0]
        return f"LogitLens({len(self.heads)} heads; {first}: {' '.join(self.promoted(first)[:3])})"

    def _repr_html_(self) -> str:
        by = ["name", "direction"]
        rows = self.frame().pivot_table("token", by, "place", aggfunc="first", sort=False)
        return f"<p>{len(self.heads)} offsets through the logit lens</p>{rows.to_html()}"

    def _listed(self, head: tuple[int, int], *, largest: bool) -> tuple[str, ...]:
        if head not in self.heads:
            raise LofitLensError(f"{Head(*head)} is not one of the edited heads: {self.heads!r}.")
        logits = self.logits[self.heads.heads.index(Head(*head))]
        return tuple(self.tokens[i] for i in logits.topk(self.k, largest=largest).indices.tolist())


def logit_lens(model: TransformerBridge, edit: HeadIntervention, *, k: int = 10) -> LogitLens:
    """Read each offset `v_h W_O[h]` through the final norm and the unembedding (paper, Appendix E).

    What is computed is `cap(norm(v_h W_O[h]) W_U + b_U)`, the model's own last step on the vector
    that the offset adds at its positions: the norm with its gain (Gemma's `1 + w`) and bias, the bias
    of the unembedding and the final soft cap where the family has them. The norm rescales the vector,
    so the size of an offset matters only next to the norm's epsilon; norm and unembedding biases are
    the same for every head. It is a first look: later layers read the offset too, and the lens leaves
    them out.

    Families with a norm behind attention (Gemma-2 and 3, OLMo 2) put what the heads write through it
    before the residual stream. That norm is not included: its scale depends on all that the layer
    writes for a given text.

    All is computed in float32 on the weights as they are: rounding to bfloat16 changes the order of
    tokens. Beside the logits [head, d_vocab] that takes one block of the unembedding in float32 at a
    time, 4096 x d_model numbers (64 MiB for a 7B model).

    Args:
        model: The model, in eval mode.
        edit: An edit with a bias; its scale and scope play no part.
        k: Tokens listed at each end.

    Raises:
        LofitLensError: The edit has no bias, the offset of a head writes nothing (the norm of a zero
            vector is undefined), or k is out of range.
        ModelMismatchError: The edit was made for another model.
        UnsupportedError: The weights are quantised, or the readout of the family is not final norm
            and unembedding.

    Examples:
        >>> logit_lens(model, tuned).promoted((2, 3))  # doctest: +SKIP
        ('·uncle', '·aunt', …)
    """
    d_vocab = model.cfg.d_vocab
    check_whole("k", k, 1, d_vocab)
    vectors = written(model, edit)
    refuse_zero(edit.heads, vectors, "the final norm of a zero vector is undefined")
    logits = _read(model, vectors)
    ends = [logits.topk(k, largest=largest).indices for largest in (True, False)]
    ids = sorted({int(i) for i in torch.cat(ends).flatten()})
    return LogitLens(edit.heads, logits, k, dict(zip(ids, token_texts(model, ids), strict=True)))


@torch.no_grad()
def _read(
    model: TransformerBridge, vectors: Float[Tensor, "head d_model"]
) -> Float[Tensor, "head d_vocab"]:
    """The model's last step on some vectors, in float32: on the CPU."""
    from transformer_lens.tools.analysis import logit_readout

    try:  # it knows which models can be read, but computes in their dtype
        logit_readout(model, vectors[:1])
    except (ValueError, NotImplementedError) as error:
        raise UnsupportedError(f"The logit lens cannot read this model: {error}") from error
    norm, unembedding, bias = model.ln_final, model.W_U, model.b_U
    weights = {name: weight.float() for name, weight in norm.named_parameters()}
    device = next(iter(weights.values())).device
    normed = functional_call(norm, weights, (vectors.to(device)[None],))[0].to(unembedding.device)
    blocks = [normed @ block.float() for block in unembedding.split(_BLOCK, dim=1)]
    logits = torch.cat(blocks, dim=1) + bias.float()
    return model.adapter.apply_output_logits_transform(logits).cpu()


def written(model: TransformerBridge, edit: HeadIntervention) -> Float[Tensor, "head d_model"]:
    """What each offset writes behind the output projection, `v_h W_O[h]`: float32 on the CPU.

    The original projection counts: the scale of the edit acts on z, not on the offset. In families
    without a norm behind attention this is what the offset adds to the residual stream.

    Raises:
        LofitLensError: The edit has no bias.
        ModelMismatchError: The edit was made for another model.
        UnsupportedError: The weights are quantised.
    """
    offsets = offsets_of(edit)
    edit.check_model(model)
    found = torch.empty(len(edit.heads), model.cfg.d_model, dtype=torch.float32)
    for layer in edit.heads.layers():
        ranks, heads = zip(*edit.heads.in_layer(layer), strict=True)
        weight = head_projections(model, layer, heads)
        offset = offsets[list(ranks), : weight.shape[1]].to(weight)
        found[list(ranks)] = torch.einsum("kd,kdm->km", offset, weight).cpu()
    return found


def offsets_of(edit: HeadIntervention) -> Float[Tensor, "head d_head"]:
    """The offset of each head.

    Raises:
        LofitLensError: The edit has no bias.
    """
    if edit.bias is None:
        raise LofitLensError(
            f"{edit!r} has no bias, so there is no offset to look at. Give an edit with a bias, such "
            "as that of `tune_heads`."
        )
    return edit.bias.detach()


def refuse_zero(heads: HeadSet, vectors: Float[Tensor, "head size"], why: str) -> None:
    """Refuse offsets of which nothing can be said.

    Raises:
        LofitLensError: One of the vectors is zero.
    """
    zero = [str(head) for head, row in zip(heads, vectors, strict=True) if not row.any()]
    if zero:
        raise LofitLensError(
            f"The offsets of {', '.join(zero)} are zero, and {why}. Leave these heads out of "
            "the edit."
        )


def head_projections(
    model: TransformerBridge, layer: int, heads: Sequence[int]
) -> Float[Tensor, "head d_head d_model"]:
    """`W_O[h]` of some heads of a layer, float32, on the device of the layer.

    Raises:
        UnsupportedError: The weights are quantised.
    """
    projection = output_projection(model, layer)
    by_input = projection.weight if isinstance(projection, Conv1D) else projection.weight.T
    return by_input.detach().unflatten(0, (model.cfg.n_heads, -1))[list(heads)].float()
