"""The reading vector of representation engineering: a direction of the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.baselines.reading import (
    DirectionKind,
    along,
    pair_states,
    reading_directions,
    reading_scores,
)
from lofit_lens.analysis.baselines.validation import (
    Choice,
    StrengthConfig,
    choose_on_validation,
)
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError, check_one_of
from lofit_lens.provenance import Provenance, learned_on
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

Unit = Literal["sigma", "one"]


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(StrengthConfig):
    """How to make a reading vector.

    Attributes:
        direction: How the direction is found.
        layer: The block behind which it is added; None takes the one that reads best.
        unit: What alpha counts: "sigma", standard deviations of the training activations along the
            direction, which compares between models; or "one", the unit vector itself, as in the
            paper's alpha of 5.
        batch_size: Sequences per forward pass.

    Raises:
        LofitLensError: A value is out of range; the message names it.
    """

    direction: DirectionKind = "pca"
    layer: int | None = None
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    unit: Unit = "sigma"
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, kind in (("direction", DirectionKind), ("unit", Unit)):
            check_one_of(name, getattr(self, name), get_args(kind))
        super().__post_init__()


@dataclass(frozen=True, eq=False)
class ReadingVector:
    """A direction for each layer, how well it reads, and the layer and strength chosen.

    Attributes:
        directions: Unit vectors that point from wrong to right.
        accuracy: Share of the validation pairs whose right member lies further along; ties half.
        margin: Mean over validation pairs of how much further, in standard deviations of that.
        sigma: Standard deviation of the training activations along the direction.
        layer: The layer chosen.
        alpha: The strength chosen.
        config: How it was made.
        by_alpha: The strengths tried; None if there was no choice.
        provenance: How it was learned.
    """

    directions: Float[Tensor, "layer d_model"]
    accuracy: Float[Tensor, " layer"]
    margin: Float[Tensor, " layer"]
    sigma: Float[Tensor, " layer"]
    layer: int
    alpha: float
    config: ReadingConfig
    by_alpha: Choice[float] | None = None
    provenance: Provenance | None = field(default=None, repr=False)

    def edit(self, *, layer: int | None = None, alpha: float | None = None) -> ResidualIntervention:
        """What is added to the residual stream: alpha, times sigma, times the direction.

        Args:
            layer: The block behind which; None takes the chosen one.
            alpha: The strength; None takes the chosen one.

        Raises:
            LofitLensError: There is no such layer.
        """
        layer = self.layer if layer is None else layer
        alpha = self.alpha if alpha is None else alpha
        n_layers = len(self.directions)
        if not 0 <= layer < n_layers:
            raise LofitLensError(f"layer must be from 0 to {n_layers - 1}, got {layer}.")
        unit = self.sigma[layer] if self.config.unit == "sigma" else 1.0
        origin = self.provenance
        if origin is not None:
            origin = replace(origin, config={**origin.config, "layer": layer, "alpha": alpha})
        return ResidualIntervention(
            (alpha * unit * self.directions[layer])[None],
            (layer,),
            n_layers=n_layers,
            scope=self.config.scope,
            provenance=origin,
        )

    def frame(self) -> pd.DataFrame:
        """One row per layer: `layer`, `accuracy`, `margin`, `sigma`, `chosen`."""
        import pandas as pd

        columns = {"accuracy": self.accuracy, "margin": self.margin, "sigma": self.sigma}
        frame = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
        frame.insert(0, "layer", range(len(frame)))
        return frame.assign(chosen=frame["layer"] == self.layer)

    def plot(self) -> go.Figure:
        """Reading accuracy of each layer as bars."""
        import plotly.graph_objects as go

        from lofit_lens.plotting import TEMPLATE

        frame = self.frame()
        return go.Figure(go.Bar(x=frame["layer"], y=frame["accuracy"])).update_layout(
            title="How well the reading vector tells right from wrong",
            template=TEMPLATE,
            xaxis={"title": "layer"},
            yaxis={"title": "validation pairs told apart", "range": [0, 1]},
        )

    def __repr__(self) -> str:
        return (
            f"ReadingVector({self.config.direction}, layer {self.layer}, alpha {self.alpha:g}, "
            f"reading accuracy {self.accuracy[self.layer]:.2f})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().to_html(index=False)}"


def fit_reading_vector(
    model: TransformerBridge,
    task: Task,
    config: ReadingConfig | None = None,
    *,
    seed: int,
    kl: Callable[[Edit], float] | None = None,
) -> ReadingVector:
    """Find the direction from wrong to right answers in the residual stream, and how to add it.

    The last token of question and answer is read behind every block, for pairs of a right and a
    wrong answer. Directions come from training pairs; the layer is the one that tells most
    validation pairs apart (of equals the one with the larger margin, then the lower one); the
    strength is chosen by the score of the edited model on validation items (representation
    engineering, Zou et al. 2023, sections 3.1 and 3.2.2; one layer as in LoFiT's comparison).

    Args:
        model: A bridge, in eval mode.
        task: Its training and validation examples are used.
        config: How; default: PCA, the layer that reads best, six strengths.
        seed: Draws the order in pairs, the random direction, and wrong answers where the examples
            have none.
        kl: Measures an edit's KL divergence from the unedited model.

    Raises:
        DataError: There are too few pairs.
        LofitLensError: There is no such layer, or a budget that no strength keeps.
    """
    config = config or ReadingConfig()
    (right, wrong), val = (
        pair_states(
            model, split,
            pool=(*task.train, *task.val), seed=seed, batch_size=config.batch_size,
        )
        for split in (task.train, task.val)
    )  # fmt: skip
    directions = reading_directions(right, wrong, config.direction, seed=seed)
    accuracy, margin = reading_scores(directions, *val)
    best = max(range(len(accuracy)), key=lambda i: (float(accuracy[i]), float(margin[i]), -i))
    method = {"method": "reading vector", "seed": seed}
    found = ReadingVector(
        directions=directions.float(),
        accuracy=accuracy,
        margin=margin,
        sigma=along(torch.cat([right, wrong]), directions).std(0, correction=0).float(),
        layer=best if config.layer is None else config.layer,
        alpha=config.alphas[0],
        config=config,
        provenance=learned_on(model, task, method | asdict(config)),
    )
    candidates = {alpha: found.edit(alpha=alpha) for alpha in config.alphas}
    if len(candidates) == 1 and config.kl_budget is None:
        return found
    by_alpha = choose_on_validation(
        model, task, candidates, kl=kl, kl_budget=config.kl_budget, batch_size=config.batch_size
    )
    return replace(found, alpha=by_alpha.key, by_alpha=by_alpha)
