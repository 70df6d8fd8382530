"""Learning rates of "auto" in a comparison: chosen once for each task, for all seeds and methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from lofit_lens.analysis.measure.leaks import sealed
from lofit_lens.analysis.methods.names import ALIASES
from lofit_lens.analysis.methods.recipes import Learned
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.attention import heads_of
from lofit_lens.heads import HeadSet
from lofit_lens.selection import select_heads
from lofit_lens.tasks.task import Task
from lofit_lens.training.rates import Config, as_before, with_rate

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

OF_STAGE_1 = ("lofit", "layer-matched")
"""Selectors that train stage 1."""


def with_rates(
    model: TransformerBridge,
    task: Task,
    settings: Settings,
    methods: Sequence[str],
    *,
    seed: int,
    earlier: Iterable[Mapping[str, Any]] = (),
    progress: bool = False,
) -> Settings:
    """Settings with numbers for the learning rates of both stages where they are "auto".

    Stage 2's is chosen on the heads of stage 1 and holds for every set of heads and both
    components, as the rate of one setting does. What no method needs is left as it is.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its test split is not read.
        settings: The settings.
        methods: Names of the methods.
        seed: The seed with which it is chosen.
        earlier: Protocols of earlier runs on the task, whose choices are taken over.
        progress: Whether to show bars, and to say what was chosen.

    Raises:
        TrainingStopped: Training became unstable with every rate.
    """
    if "auto" not in (settings.selection.learning_rate, settings.tuning.learning_rate):
        return settings
    told = [protocol["settings"] for protocol in earlier]
    selection = as_before(settings.selection, [one["selection"] for one in told])
    tuning = as_before(settings.tuning, [one["tuning"] for one in told])
    parts = [ALIASES.get(name.partition("@")[0], name).partition("@")[0] for name in methods]
    learns = any(part.rpartition("/")[2] in get_args(Learned) for part in parts)
    selects = any(part.rpartition("/")[0] in OF_STAGE_1 for part in parts)
    given = sealed(task)

    def chosen(config: Config, heads: HeadSet) -> Config:
        found = with_rate(
            model, given, heads, replace(config, seed=seed, scope=settings.scope), progress=progress
        )
        return replace(config, learning_rate=found.learning_rate, rate_choice=found.rate_choice)

    choose_tuning = learns and tuning.learning_rate == "auto"
    if selects or choose_tuning:
        every = HeadSet.every(**heads_of(model).shape)
        selection = chosen(selection, every)
    if choose_tuning:
        how = replace(selection, seed=seed, scope=settings.scope)
        scores = select_heads(model, given, how, progress=progress)
        tuning = chosen(tuning, scores.top(k=settings.n_heads(model)))
    return replace(settings, selection=selection, tuning=tuning)
