"""Ways to choose heads, all of one type (paper, Table 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lofit_lens.analysis.baselines.activations import last_z
from lofit_lens.analysis.baselines.attribution import attribute_heads
from lofit_lens.analysis.baselines.gates import GateConfig, train_gates
from lofit_lens.analysis.baselines.probes import fit_probes, layer_probe_scores, score_probes
from lofit_lens.analysis.baselines.statements import all_statements
from lofit_lens.attention import heads_of
from lofit_lens.errors import check_seed
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import learned_on
from lofit_lens.stages import select_heads, tune_heads
from lofit_lens.tasks.task import Objective, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training.config import SelectionConfig, TuningConfig

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

HeadSelector = Callable[["TransformerBridge", Task, int], HeadScores]
"""Scores every head from a model, the training and validation split of a task, and a seed."""


def by_scale(config: SelectionConfig | None = None) -> HeadSelector:
    """LoFiT's stage 1, the norm of a learned scale; the seed of `config` is replaced."""
    return lambda model, task, seed: select_heads(
        model, task, replace(config or SelectionConfig(), seed=seed), progress=False
    )


def by_bias(config: TuningConfig | None = None) -> HeadSelector:
    """The norm of a bias learned on all heads (paper, Table 2, "bias-based").

    Args:
        config: How to train; default `TuningConfig()`. Its seed is replaced.
    """

    def select(model: TransformerBridge, task: Task, seed: int) -> HeadScores:
        seeded = replace(config or TuningConfig(), component="bias", seed=seed)
        every = HeadSet.every(**heads_of(model).shape)
        trained = tune_heads(model, task, every, seeded, progress=False)
        assert trained.bias is not None
        return HeadScores.of(every, trained.bias.norm(dim=-1), "bias-norm", trained.provenance)

    return select


def by_gates(config: GateConfig | None = None) -> HeadSelector:
    """What JoLA's gates let through; see `Gates.scores`. The seed of `config` is replaced."""
    return lambda model, task, seed: train_gates(
        model, task, config, seed=seed, progress=False
    ).scores()


def by_attribution(*, objective: Objective | None = None, batch_size: int = 8) -> HeadSelector:
    """Gradient x activation of the task's loss; see `attribute_heads`. The seed plays no part."""
    return lambda model, task, _: attribute_heads(
        model, task, objective=objective, batch_size=batch_size, progress=False
    )


def by_probes(*, batch_size: int = 32) -> HeadSelector:
    """Validation accuracy of a logistic probe on each head, ties by log-loss (ITI, section 3.2)."""

    def score(z: Any, right: Any, *val: Any, without: tuple[int, ...]) -> HeadScores:
        return score_probes(fit_probes(z, right), *val).head_scores(without)

    return _by_probes("probes", score, batch_size)


def by_probe_layers(*, batch_size: int = 32) -> HeadSelector:
    """The same with one probe a layer, on all its heads together (paper, Table 2)."""
    return _by_probes("probe-layers", layer_probe_scores, batch_size)


def at_random(*, draw: int = 0) -> HeadSelector:
    """A random order of all heads; `top` is a uniform draw, and the task plays no part.

    Args:
        draw: Which of several draws with one seed.
    """

    def select(model: TransformerBridge, task: Task, seed: int) -> HeadScores:  # noqa: ARG001
        check_seed(seed)
        every = HeadSet.every(**heads_of(model).shape)
        order = np.random.default_rng((seed, draw)).permutation(len(every))
        return HeadScores.of(every, torch.from_numpy(order).float(), "random")

    return select


def layer_matched(selector: HeadSelector, *, draw: int = 0) -> HeadSelector:
    """Random heads, as many in every layer as another selector chooses there.

    The other's scores are shuffled inside each layer, so for any number of heads `top` takes as
    many from each layer as the other's `top` does.

    Args:
        selector: The other; it gets the same seed.
        draw: Which of several draws with one seed.
    """

    def select(model: TransformerBridge, task: Task, seed: int) -> HeadScores:
        check_seed(seed)
        other = selector(model, task, seed)
        rng = np.random.default_rng((seed, draw))
        shuffled = rng.permuted(other.scores.numpy(), axis=1)
        method = f"random in the layers of {other.method}"
        return HeadScores(torch.from_numpy(shuffled), method, other.provenance, other.without)

    return select


def from_file(path: str | Path) -> HeadSelector:
    """The heads of a file, in its order; see `HeadSet.load`.

    The first head scores as many points as the list has heads, the last one 1, all others 0. Take
    no more heads than the list has: `top` would go on with the lowest layers.

    Args:
        path: A head list. It is read when heads are asked for.
    """

    def select(model: TransformerBridge, task: Task, seed: int) -> HeadScores:  # noqa: ARG001
        grid = heads_of(model)
        heads = HeadSet.load(path, **grid.shape)
        points = heads.placed(torch.arange(len(heads), 0, -1).float())
        return HeadScores(points, str(path), without=grid.without)

    return select


def _by_probes(name: str, score: Callable[..., HeadScores], batch_size: int) -> HeadSelector:
    """Probes on head outputs at the end of statements, trained on train and scored on val."""

    def select(model: TransformerBridge, task: Task, seed: int) -> HeadScores:
        read, pool = [], (*task.train, *task.val)
        for examples in (task.train, task.val):
            found = all_statements(Encoder(model), examples, pool=pool, seed=seed)
            read += [last_z(model, found.texts, batch_size=batch_size), found.right]
        scores = score(*read, without=heads_of(model).without)
        config = {"selector": name, "seed": seed}
        return replace(scores, method=name, provenance=learned_on(model, task, config))

    return select
