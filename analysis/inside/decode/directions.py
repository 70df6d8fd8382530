"""How a learned offset lies to ITI's direction and to what its head says anyway."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from lofit_lens.analysis.baselines.directions import streamed_contrast
from lofit_lens.analysis.baselines.statements import all_statements
from lofit_lens.analysis.inside.decode.lens import offsets_of, refuse_zero
from lofit_lens.attention import z_widths
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

PerHead = Float[Tensor, " head"]


@dataclass(frozen=True, eq=False)
class OffsetDirections:
    """Each offset against the activations of its head at the last token of statements.

    Attributes:
        heads: The edited heads, in the order of the edit.
        d_head: Size of a head, the narrowest where they differ.
        n_statements: Right and wrong statements read.
        offset_norm: L2 norm of the offset.
        cosine_mass_mean: Cosine with ITI's mass-mean direction, from wrong to right statements.
        cosine_mean_z: Cosine with the mean of z.
        z_norm: Root mean square of the norm of z.
        sigma: Standard deviation of z along the offset.
    """

    heads: HeadSet
    d_head: int
    n_statements: int
    offset_norm: PerHead
    cosine_mass_mean: PerHead
    cosine_mean_z: PerHead
    z_norm: PerHead
    sigma: PerHead

    @property
    def chance(self) -> float:
        """The cosine that a random direction stays within 95% of the time, either sign."""
        return float(stats.beta(0.5, (self.d_head - 1) / 2).ppf(0.95)) ** 0.5

    def frame(self) -> pd.DataFrame:
        """One row per head.

        Columns `layer`, `head`, `name`, `offset_norm`, `cosine_mass_mean`, `cosine_mean_z`, `z_norm`,
        `sigma`, and the size of the offset relative to the last two, `to_z_norm` and `in_sigmas` (what
        ITI calls alpha).
        """
        frame = self.heads.frame().drop(columns="rank")
        for name in ("offset_norm", "cosine_mass_mean", "cosine_mean_z", "z_norm", "sigma"):
            frame[name] = getattr(self, name).numpy()
        frame["to_z_norm"] = frame["offset_norm"] / frame["z_norm"]
        frame["in_sigmas"] = frame["offset_norm"] / frame["sigma"]
        return frame

    def plot(self) -> go.Figure:
        """Cosines of each head's offset, and its size in standard deviations of z along it."""
        from lofit_lens.analysis.figures.decode import direction_points

        return direction_points(self.frame(), chance=self.chance, n=self.n_statements)

    def __repr__(self) -> str:
        return (
            f"OffsetDirections({len(self.heads)} heads, {self.n_statements} statements; mean cosine "
            f"with mass-mean {self.cosine_mass_mean.mean():+.2f}, with mean z "
            f"{self.cosine_mean_z.mean():+.2f}; random within {self.chance:.2f})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().round(3).to_html(index=False)}"


def compare_directions(
    model: TransformerBridge,
    edit: HeadIntervention,
    task: Task,
    *,
    seed: int = 42,
    batch_size: int = 32,
) -> OffsetDirections:
    """Compare each offset with ITI's direction, with the mean of z and with the spread of z.

    The activations are those of the unedited model at the last token of every right and every wrong
    answer of the training examples, put behind their prompts (ITI, section 3.1). ITI itself reads
    train and val; here nothing is chosen, and train is enough.

    Args:
        model: A bridge, in eval mode.
        edit: An edit with a bias; its scale and scope play no part.
        task: The task. Exact-match examples get wrong answers; see `with_wrong_answers`.
        seed: Draws those wrong answers.
        batch_size: Texts per forward pass.

    Raises:
        LofitLensError: The edit has no bias, or the offset of a head is zero and has no direction.
        DataError: An example needs a wrong answer and there is none to draw.
        ModelMismatchError: The edit was made for another model.

    Examples:
        >>> compare_directions(model, tuned, task).plot()  # doctest: +SKIP
    """
    edit.check_model(model)
    offset = offsets_of(edit).double().cpu()
    refuse_zero(edit.heads, offset, "a zero vector has no direction")
    pool = (*task.train, *task.val)
    statements = all_statements(Encoder(model), task.train, pool=pool, seed=seed)
    contrast = streamed_contrast(model, statements, batch_size=batch_size)
    everything = contrast.all
    rows = tuple(torch.tensor(list(edit.heads)).T)
    along = torch.zeros_like(everything.mean).index_put(rows, normalize(offset, dim=-1))
    mean = everything.mean[rows]
    variance = everything.scatter[rows].diagonal(dim1=-2, dim2=-1).sum(-1) / everything.count
    columns = (
        offset.norm(dim=-1),
        cosine_similarity(offset, contrast.mass_mean()[rows], dim=-1),
        cosine_similarity(offset, mean, dim=-1),
        (variance + mean.square().sum(-1)).sqrt(),
        everything.std_along(along)[rows],
    )
    widths = z_widths(model)
    d_head = min(widths[layer] for layer in edit.heads.layers())
    return OffsetDirections(
        edit.heads, d_head, everything.count, *(column.float() for column in columns)
    )
