"""Directions along which the residual stream tells right answers from wrong ones, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lofit_lens.analysis.baselines.activations import last_residual
from lofit_lens.analysis.baselines.statements import paired_statements
from lofit_lens.errors import DataError, check_seed
from lofit_lens.tasks.task import Example
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

DirectionKind = Literal["pca", "mean", "random"]
"""How a direction is read off pairs of a right and a wrong statement.

* `pca`: first principal component of their differences, each taken in an order drawn at random.
* `mean`: from the mean of the wrong to the mean of the right ones (cluster mean).
* `random`: drawn; a control.
"""

PairStates = Float[Tensor, "pair layer d_model"]


def pair_states(
    model: TransformerBridge,
    examples: Sequence[Example],
    *,
    pool: Sequence[Example],
    seed: int,
    batch_size: int = 32,
) -> tuple[PairStates, PairStates]:
    """The residual stream at the last token of right and of wrong answers to the same questions.

    It is read as `last_residual` reads, of the pairs of `paired_statements`.
    """
    pairs = paired_statements(Encoder(model), examples, pool=pool, seed=seed)
    texts = [text for pair in pairs for text in pair]
    states = last_residual(model, texts, batch_size=batch_size)
    return states[0::2], states[1::2]


def reading_directions(
    right: PairStates, wrong: PairStates, kind: DirectionKind, *, seed: int
) -> Float[Tensor, "layer d_model"]:
    """Unit vectors along which right and wrong members of pairs differ, float64.

    The sign is the one by which the right member of more pairs lies further along than the other;
    of equals the one found.

    Args:
        right: States of the right members.
        wrong: States of the wrong members.
        kind: How.
        seed: Draws the order in pairs, or the random directions.

    Raises:
        DataError: There are fewer than two pairs.
    """
    if len(right) < 2:
        raise DataError(
            f"A reading vector needs at least 2 pairs of a right and a wrong answer, got {len(right)}."
        )
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    differences = right.double() - wrong.double()
    if kind == "random":
        found = torch.randn(*right.shape[1:], generator=generator, dtype=torch.float64)
    elif kind == "mean":
        found = differences.mean(0)
    else:
        # PCA centres: with every pair as (right, wrong) it would take away just what all pairs share
        order = 2.0 * torch.randint(2, (len(right), 1, 1), generator=generator) - 1.0
        found = first_components(order * differences)
    found = normalize(found, dim=-1)
    lead = (along(right, found) - along(wrong, found)).sign().sum(0)
    return torch.where(lead < 0, -1.0, 1.0)[:, None] * found


def first_components(
    rows: Float[Tensor, "row layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """First principal component of the rows of each layer, through a singular value decomposition."""
    centred = rows - rows.mean(0)
    return torch.stack(
        [torch.linalg.svd(layer, full_matrices=False).Vh[0] for layer in centred.unbind(1)]
    )


def reading_scores(
    directions: Float[Tensor, "layer d_model"], right: PairStates, wrong: PairStates
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
    """How well unit vectors from wrong to right tell pairs apart, by layer.

    Returns:
        The share of pairs whose right member lies further along, ties counting half; and the mean
        lead of the right members divided by its standard deviation.
    """
    lead = along(right, directions) - along(wrong, directions)
    accuracy = (lead.sign() + 1).mean(0) / 2
    spread = lead.std(0, correction=0).clamp(min=torch.finfo(lead.dtype).tiny)
    return accuracy.float(), (lead.mean(0) / spread).float()


def along(
    states: Float[Tensor, "text layer d_model"], directions: Float[Tensor, "layer d_model"]
) -> Float[Tensor, "text layer"]:
    """Projection on the direction of each layer, float64."""
    return torch.einsum("tld,ld->tl", states.double(), directions.double())
