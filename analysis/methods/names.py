"""The methods of a comparison by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from lofit_lens.analysis.baselines.iti_config import Direction
from lofit_lens.analysis.methods import recipes
from lofit_lens.analysis.methods.settings import Method, Settings
from lofit_lens.errors import LofitLensError
from lofit_lens.positions import check_scope

ALIASES = {
    "lofit": "lofit/bias",
    "lofit-scale": "lofit/scale",
    "iti": "probes/mass-mean",
    "random-heads": "random/bias",
    "random-in-layers": "layer-matched/bias",
}
"""Short names of heads and what is done to them."""


def named_methods(
    names: Sequence[str], settings: Settings | None = None, *, kl: recipes.KL | None = None
) -> dict[str, Method | Sequence[Method]]:
    """Methods by name.

    * HEADS/DIRECTION: which heads (see `selectors.selector`; of a file all it lists), and what is
      done to them: "bias" or "scale", learned as LoFiT does, or a direction of ITI, "mass-mean",
      "probe" or "random", with its strength chosen on validation. "lofit" is "lofit/bias", "iti" is
      "probes/mass-mean", "random-heads" is "random/bias".
    * "repe-reading" (PCA), "repe-mean", "repe-random", "repe-contrast", and "lorra", an adapter that
      learns the contrast.
    * Tuned rivals: "lora", "ia3", "red", "loreft", "bitfit", and "jola", gates on all heads.
    * "iti-legacy": ITI at alpha 15, at the positions of its first released code, with sigma from the
      test's statements as well, as that code has it.

    NAME@SCOPE puts a method under another token scope than that of the settings.

    Random heads are several methods under one name if the settings ask for several draws.

    Args:
        names: The names.
        settings: What the methods share; default `Settings()`.
        kl: Measures an edit's KL divergence from the unedited model; needed for a budget.

    Raises:
        LofitLensError: A name is unknown or repeats.
    """
    if len(set(names)) < len(names):
        raise LofitLensError(f"Methods may appear once; got {', '.join(names)}.")
    return {name: _named(name, settings or Settings(), kl) for name in names}


def _named(name: str, settings: Settings, kl: recipes.KL | None) -> Method | Sequence[Method]:
    kind, _, scope = name.partition("@")
    if scope:
        settings = replace(settings, scope=check_scope(scope))
    settings = replace(
        settings,
        selection=replace(settings.selection, scope=settings.scope),
        tuning=replace(settings.tuning, scope=settings.scope),
    )
    chosen, _, direction = ALIASES.get(kind, kind).rpartition("/")
    if chosen and direction in get_args(recipes.Learned) + get_args(Direction):
        draws = range(settings.random_draws if chosen in recipes.RANDOM else 1)
        found = [recipes.on_heads(chosen, direction, draw, settings, kl) for draw in draws]
        return found if len(found) > 1 else found[0]
    if kind in recipes.READING:
        return recipes.reading(recipes.READING[kind], settings, kl)
    if kind in recipes.RIVALS:
        return recipes.rival(kind, settings)
    others = {
        "repe-contrast": recipes.contrast,
        "lorra": recipes.lorra,
        "jola": recipes.jola,
        "iti-legacy": recipes.iti_legacy,
    }
    if kind in others:
        return others[kind](settings, kl)
    known = ", ".join([*ALIASES, *recipes.READING, *others, *recipes.RIVALS])
    raise LofitLensError(
        f"There is no method {name!r}. Known: {known}, and "
        f"HEADS/DIRECTION with the directions {', '.join(get_args(recipes.Learned) + get_args(Direction))}."
    )
