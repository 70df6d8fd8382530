"""The methods of a comparison by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from lofit_lens.analysis.baselines.equal_kl import check_target
from lofit_lens.analysis.baselines.iti_config import Direction
from lofit_lens.analysis.methods.recipes import AtStrength, InOnePiece, Learned, Named, OnHeads, Own
from lofit_lens.analysis.methods.selectors import check_selector
from lofit_lens.analysis.methods.settings import Method, Settings
from lofit_lens.analysis.methods.whole import WHOLE
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

DIRECTIONS = get_args(Learned) + get_args(Direction)

Methods = Sequence[str] | Mapping[str, Method | Sequence[Method]]
"""Names, or functions of one's own by name; several under one name are draws for each seed."""


def named_methods(names: Sequence[str], settings: Settings | None = None) -> dict[str, Named]:
    """Methods by name.

    * HEADS/DIRECTION: which heads (see `selectors.selector`; of a file all it lists), and what is
      done to them: "bias" or "scale", learned as LoFiT does, or a direction of ITI, "mass-mean",
      "probe" or "random", with its strength chosen on validation. "lofit" is "lofit/bias", "iti" is
      "probes/mass-mean", "random-heads" is "random/bias".
    * "repe-reading" (PCA), "repe-mean", "repe-random", "repe-contrast", and "lorra", an adapter that
      learns the contrast.
    * Tuned rivals: "lora", "ia3", "beft", "red", "loreft", "bitfit", and "jola", gates on all heads.
    * "iti-legacy": ITI at alpha 15, at the positions of its first released code, with sigma from the
      test's statements as well, as that code has it.

    * "prompt", the instruction that the contrast vector has, and "few-shot-N", solved validation items,
      in front of each question; nothing is edited.

    NAME@SCOPE puts a method under another token scope than that of the settings. NAME~KL makes its edit as
    strong as it must be for that KL divergence from the unedited model on plain text, in nats per token.

    Random heads may be drawn several times for one seed: `method(model, task, seed, draw)`.

    Args:
        names: The names.
        settings: What the methods share; default `Settings()`.

    Raises:
        LofitLensError: A name is unknown or repeats.
    """
    if len(set(names)) < len(names):
        raise LofitLensError(f"Methods may appear once; got {', '.join(names)}.")
    return {name: _named(name, settings or Settings()) for name in names}


def recipes_of(methods: Methods, settings: Settings) -> dict[str, Named | Own]:
    """The recipes of methods, named or of one's own.

    Raises:
        LofitLensError: A name is unknown or repeats.
    """
    if not isinstance(methods, Mapping):
        return {**named_methods(methods, settings)}
    drawn = {name: m if isinstance(m, Sequence) else (m,) for name, m in methods.items()}
    return {name: Own(name, tuple(draws)) for name, draws in drawn.items()}


def whole_name(name: str) -> str:
    """Of a short name, such as lofit, what it stands for."""
    return ALIASES.get(name, name)


def bare_name(name: str) -> str:
    """A name without what stands behind it: token scope and KL divergence."""
    return name.partition("~")[0].partition("@")[0]


def parts_of(name: str) -> tuple[str, str, str]:
    """Which heads, what is done to them, and the token scope, if a name has them."""
    scope = name.partition("~")[0].partition("@")[2]
    chosen, _, direction = whole_name(bare_name(name)).rpartition("/")
    return chosen, direction, scope


def _named(name: str, settings: Settings) -> Named:
    plain, told, divergence = name.partition("~")
    if told:
        inner = _named(plain, settings)
        return AtStrength(settings=inner.settings, inner=inner, kl=_divergence(divergence))
    kind = bare_name(name)
    chosen, direction, scope = parts_of(name)
    scope = check_scope(scope) if scope else settings.scope
    settings = replace(
        settings,
        scope=scope,
        selection=replace(settings.selection, scope=scope),
        tuning=replace(settings.tuning, scope=scope),
    )
    if chosen and direction in DIRECTIONS:
        check_selector(chosen)
        return OnHeads(heads=chosen, does=direction, settings=settings)
    if kind in WHOLE:
        if settings.scope != "all" and not WHOLE[kind].has_scope:
            raise LofitLensError(
                f"{kind} acts at positions of its own and cannot follow the token scope "
                f'"{settings.scope}". Leave it out, or name it "{kind}@all" to set it beside methods of '
                "another scope."
            )
        return InOnePiece(name=kind, settings=settings)
    known = ", ".join([*ALIASES, *WHOLE])
    raise LofitLensError(
        f"There is no method {name!r}. Known: {known}, and "
        f"HEADS/DIRECTION with the directions {', '.join(DIRECTIONS)}."
    )


def _divergence(given: str) -> float:
    """The KL divergence in a name."""
    try:
        found = float(given)
    except ValueError:
        raise LofitLensError(
            f"Behind ~ stands a KL divergence in nats per token, as in lofit~0.1; got {given!r}."
        ) from None
    check_target(found)
    return found
