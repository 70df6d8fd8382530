"""ITI, inference-time intervention: shift some heads along a direction of right against wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.baselines.activations import last_z
from lofit_lens.analysis.baselines.directions import (
    Contrast,
    Directions,
    random_directions,
    stored_contrast,
    streamed_contrast,
)
from lofit_lens.analysis.baselines.iti_config import ITIConfig
from lofit_lens.analysis.baselines.probes import ProbeScores, fit_probes, score_probes
from lofit_lens.analysis.baselines.statements import all_statements
from lofit_lens.analysis.baselines.validation import Trial, choose_on_validation
from lofit_lens.attention import check_head_shape, heads_of, real_columns
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, check_seed
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.positions import TokenScope
from lofit_lens.provenance import Provenance, learned_on
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class ITI:
    """What ITI found for a model and a task: heads, directions, spread, and the strength chosen.

    Attributes:
        ranking: The heads, best first; all heads of the model, or those that were given.
        directions: A unit vector for every head of the model.
        sigma: Standard deviation of the statements along it.
        k: Number of heads chosen.
        alpha: Strength chosen.
        scope: Token positions edited.
        probe_scores: Validation accuracy and log-loss of the probes; None if none were needed.
        trials: Score and KL divergence by (K, alpha); empty if there was nothing to choose.
        provenance: Model, task and configuration.
    """

    ranking: HeadSet
    directions: Directions
    sigma: Float[Tensor, "layer head"]
    k: int
    alpha: float
    scope: TokenScope
    provenance: Provenance = field(repr=False)
    probe_scores: ProbeScores | None = None
    trials: tuple[Trial[tuple[int, float]], ...] = ()

    @property
    def scores(self) -> HeadScores | None:
        """The heads by validation accuracy of their probes, ties by log-loss; None without probes."""
        if self.probe_scores is None:
            return None
        scores = self.probe_scores.head_scores(self.ranking.without)
        return replace(scores, provenance=self.provenance)

    def edit(
        self, *, k: int | None = None, heads: HeadSet | None = None, alpha: float | None = None
    ) -> HeadIntervention:
        """The bias `alpha * sigma * direction` on some heads (ITI, equation 2).

        Args:
            k: Number of heads, the best first; default: the number chosen.
            heads: Heads instead, any of the model's.
            alpha: Strength; default: the one chosen.

        Raises:
            LofitLensError: Both k and heads are given, or k is out of range.
        """
        if k is not None and heads is not None:
            raise LofitLensError(f"Give k or heads, not both; got k={k} and {heads!r}.")
        if heads is None:
            heads = self.ranking.first(self.k if k is None else k)
        alpha = self.alpha if alpha is None else alpha
        layer, head = torch.tensor(list(heads)).T
        bias = alpha * self.sigma[layer, head, None] * self.directions[layer, head]
        config = {**self.provenance.config, "k": len(heads), "alpha": alpha}
        origin = replace(self.provenance, config=config)
        return HeadIntervention(heads, bias=bias.float(), scope=self.scope, provenance=origin)

    def frame(self) -> pd.DataFrame:
        """Columns `rank`, `layer`, `head`, `name`, `sigma`, and `accuracy`, `log_loss` if probed."""
        frame, probed = self.ranking.frame(), self.probe_scores
        columns = {"sigma": self.sigma}
        if probed is not None:
            columns |= {"accuracy": probed.accuracy, "log_loss": probed.log_loss}
        for name, values in columns.items():
            frame[name] = values.numpy()[frame["layer"].to_numpy(), frame["head"].to_numpy()]
        return frame

    def __repr__(self) -> str:
        return (
            f"ITI(k={self.k}, alpha={self.alpha:g}, scope={self.scope!r}, "
            f"{self.provenance.config['direction']}, {len(self.trials)} trials; {self.ranking!r})"
        )


def fit_iti(
    model: TransformerBridge,
    task: Task,
    config: ITIConfig | None = None,
    *,
    seed: int = 42,
    heads: HeadSet | None = None,
    kl: Callable[[Edit], float] | None = None,
    batch_size: int = 32,
) -> ITI:
    """Fit ITI: rank heads by probes, take directions and spreads, choose K and alpha.

    The activations are those at the last token of question and answer, for every right and wrong
    answer of the examples; the texts are the task's own and not ITI's (see `statements`). Probes
    are trained on train and ranked on val; the test is not read, unless the config asks for the
    legacy sigma. The mass-mean direction has seen the validation statements on which alpha is then
    chosen, as in ITI, so validation scores flatter it.

    Args:
        model: A bridge, in eval mode; edits in force are part of what is read.
        task: The task. Exact-match examples get wrong answers; see `with_wrong_answers`.
        config: How to fit; default `ITIConfig()`.
        seed: Draws wrong answers and random directions.
        heads: Heads to use instead of ranking them by probes, best first. Then no activations are
            stored, except for the direction "probe".
        kl: Measures an edit's KL divergence from the unedited model, for a budget or the record.
        batch_size: Texts per forward pass.

    Raises:
        LofitLensError: The heads belong to another model, K is out of range, or no candidate keeps
            within the KL budget.

    Examples:
        >>> iti = fit_iti(model, task)  # doctest: +SKIP
        >>> evaluate(model, task, iti.edit())  # doctest: +SKIP
    """
    config = config or ITIConfig()
    check_seed(seed)
    grid = heads_of(model)
    if heads is not None:
        check_head_shape(model, heads)
    n = grid.total if heads is None else len(heads)
    ks = config.ks or (number_of_heads(n, fraction=config.fraction) if heads is None else n,)
    for k in ks:  # refused before the work, not after it
        number_of_heads(n, k=k)
    scores, directions, contrast = _contrast(model, task, config, seed, heads, batch_size)
    if heads is None:
        assert scores is not None
        heads = scores.head_scores(grid.without).ranking()
    spread = contrast.all
    if config.sigma == "legacy":
        pool = (*task.train, *task.val)
        test = all_statements(Encoder(model), task.test, pool=pool, seed=seed)
        spread = spread + streamed_contrast(model, test, batch_size=batch_size).all
    found = ITI(
        ranking=heads,
        directions=directions,
        sigma=spread.std_along(directions),
        k=max(ks),
        alpha=max(config.alphas),
        scope=config.scope,
        provenance=learned_on(model, task, {"method": "iti", "seed": seed, **asdict(config)}),
        probe_scores=scores,
    )
    edits = {(k, a): found.edit(k=k, alpha=a) for k in ks for a in config.alphas}
    if len(edits) == 1 and config.kl_budget is None:
        return found
    weakest_first = dict(
        sorted(edits.items(), key=lambda item: float(item[1].numbers()["bias"].norm()))
    )
    choice = choose_on_validation(
        model, task, weakest_first, kl=kl, kl_budget=config.kl_budget, batch_size=batch_size
    )
    k, alpha = choice.key
    return replace(found, k=k, alpha=alpha, trials=choice.trials)


def _contrast(
    model: TransformerBridge,
    task: Task,
    config: ITIConfig,
    seed: int,
    heads: HeadSet | None,
    batch_size: int,
) -> tuple[ProbeScores | None, Directions, Contrast]:
    """How well each head's probe does, if any, the directions, and the moments of train and val."""
    encoder, pool = Encoder(model), (*task.train, *task.val)
    train, val = (
        all_statements(encoder, split, pool=pool, seed=seed) for split in (task.train, task.val)
    )
    probes = scores = None
    if heads is None or config.direction == "probe":
        z, val_z = (last_z(model, part.texts, batch_size=batch_size) for part in (train, val))
        probes = fit_probes(z, train.right)
        scores = score_probes(probes, val_z, val.right)
        contrast = stored_contrast(z, train.right) + stored_contrast(val_z, val.right)
    else:
        parts = [streamed_contrast(model, part, batch_size=batch_size) for part in (train, val)]
        contrast = parts[0] + parts[1]
    if config.direction == "mass-mean":
        return scores, contrast.mass_mean(), contrast
    if config.direction == "random":
        every = HeadSet.every(**heads_of(model).shape)
        real = every.placed(real_columns(model, every), fill=False)
        return scores, random_directions(real, seed=seed), contrast
    assert probes is not None
    return scores, probes.directions(), contrast
