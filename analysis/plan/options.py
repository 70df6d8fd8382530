"""The settings in a study file, in the words of the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import msgspec

from lofit_lens.analysis.methods.presets import preset_heads, preset_settings
from lofit_lens.analysis.methods.settings import PAPER_FRACTION, Settings
from lofit_lens.errors import LofitLensError
from lofit_lens.grid import HeadGrid
from lofit_lens.positions import TokenScope

Auto = Literal["auto"]

STAGES = ("objective", "epochs", "weight_decay", "micro_batch_size", "gradient_checkpointing")
"""What both stages share and is called as in `TrainingConfig`."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How methods are fitted; what is not given is that of the model's preset, or the default.

    Attributes:
        k: Number of heads.
        fraction: Share of heads instead.
        scope: Token scope.
        objective: What to train on.
        epochs: Passes over the training examples.
        train_batch_size: Examples of an optimiser step.
        micro_batch_size: Examples of a forward pass in training, or "auto".
        weight_decay: AdamW's.
        gradient_checkpointing: Whether activations are computed twice to save memory.
        selection_lr: Learning rate of stage 1, or "auto".
        l1: Lambda of stage 1.
        tuning_lr: Learning rate of stage 2, or "auto".
        rates: Learning rates of tuned rivals by name.
        gate_penalty: Of JoLA.
        kl_budget: Largest KL divergence on plain text when a strength is chosen.
        batch_size: Sequences of a forward pass in scoring.
    """

    k: int | None = None
    fraction: float | None = None
    scope: TokenScope | None = None
    objective: str | None = None
    epochs: int | None = None
    train_batch_size: int | None = None
    micro_batch_size: int | Auto | None = None
    weight_decay: float | None = None
    gradient_checkpointing: bool | None = None
    selection_lr: float | Auto | None = None
    l1: float | None = None
    tuning_lr: float | Auto | None = None
    rates: dict[str, float] | None = None
    gate_penalty: float | None = None
    kl_budget: float | None = None
    batch_size: int | None = None

    def given(self) -> dict[str, Any]:
        """What is given."""
        return {name: v for name, v in msgspec.structs.asdict(self).items() if v is not None}


def combined(*each: Options) -> Options:
    """Options of which the last that are given count; a number of heads takes the place of a share.

    Raises:
        LofitLensError: One gives both.
    """
    found: dict[str, Any] = {}
    for options in each:
        given = options.given()
        if {"k", "fraction"} <= given.keys():
            raise LofitLensError(
                f"k and fraction say the same; give one, got {options.k} and {options.fraction}"
            )
        if given.keys() & {"k", "fraction"}:
            found = {name: v for name, v in found.items() if name not in ("k", "fraction")}
        found |= given
    return Options(**found)


def settings_of(
    options: Options, preset: str | None, task: str, heads: HeadGrid, *, seed: int
) -> Settings:
    """The settings of the methods on a task.

    Args:
        options: What the study says.
        preset: That of the model, one of `PRESETS`.
        task: Name of the task.
        heads: Those of the model.
        seed: Of both stages, where an experiment has no seeds of its own.

    Raises:
        LofitLensError: A value is out of range, or the preset has nothing for the task.
    """
    k, fraction = options.k, options.fraction
    if k is None:
        k = preset_heads(preset, heads.total, fraction)
    share = (fraction or PAPER_FRACTION) if options.k is None else options.k / heads.total
    start = preset_settings(preset, task, share=share)
    given = options.given()
    stages = {name: given[name] for name in STAGES if name in given} | {"seed": seed}
    if "train_batch_size" in given:
        stages["batch_size"] = options.train_batch_size
    first, second = dict(stages), dict(stages)
    for own, name, value in (
        (first, "learning_rate", options.selection_lr),
        (first, "l1", options.l1),
        (second, "learning_rate", options.tuning_lr),
    ):
        if value is not None:
            own[name] = value
    own = {n: given[n] for n in ("scope", "gate_penalty", "kl_budget", "batch_size") if n in given}
    return replace(
        start,
        k=k,
        fraction=fraction if k is None else None,
        selection=replace(start.selection, scope=options.scope or "all", **first),
        tuning=replace(start.tuning, scope=options.scope or "all", **second),
        rates={**start.rates, **(options.rates or {})},
        **own,
    )
