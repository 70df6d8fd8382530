"""Ways to choose heads, by name: one row each, with what of the settings it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lofit_lens.analysis.baselines.selectors import (
    HeadSelector,
    at_random,
    by_attribution,
    by_bias,
    by_gates,
    by_probe_layers,
    by_probes,
    by_scale,
    from_file,
    layer_matched,
)
from lofit_lens.errors import LofitLensError
from lofit_lens.head_lists import is_head_list

if TYPE_CHECKING:
    from lofit_lens.analysis.methods.settings import Settings

Stage = Literal["selection", "tuning"]


@dataclass(frozen=True)
class Selector:
    """A way to choose heads.

    Attributes:
        make: The selector, from the settings and the number of the draw.
        depends: What of the settings its scores depend on.
        stage: Whose learning rate of "auto" it needs, if one.
        around: The selector whose scores it starts from, if one; `make` then gets what gives them.
        drawn: Whether it may be drawn several times for one seed.
    """

    make: Callable[..., HeadSelector]
    depends: Callable[[Settings], Any] = lambda _: None
    stage: Stage | None = None
    around: str | None = None
    drawn: bool = False


SELECTORS: Mapping[str, Selector] = {
    "lofit": Selector(lambda s, _: by_scale(s.selection), lambda s: s.selection, "selection"),
    "bias-norm": Selector(lambda s, _: by_bias(s.tuning), lambda s: s.tuning, "tuning"),
    "probes": Selector(lambda s, _: by_probes(batch_size=s.batch_size)),
    "probe-layers": Selector(lambda s, _: by_probe_layers(batch_size=s.batch_size)),
    "gates": Selector(lambda s, _: by_gates(s.gates), lambda s: s.gates),
    "attribution": Selector(
        lambda s, _: by_attribution(
            objective=s.tuning.objective, batch_size=s.tuning.examples_at_once
        ),
        lambda s: s.tuning.objective,
    ),
    "random": Selector(lambda _, draw: at_random(draw=draw), drawn=True),
    "layer-matched": Selector(
        lambda inner, draw: layer_matched(inner, draw=draw), around="lofit", drawn=True
    ),
}
"""The selectors: to add one, write what makes it and a row here."""


def selector(name: str, settings: Settings, *, draw: int = 0) -> HeadSelector:
    """A selector by its name in tables and on the command line.

    Args:
        name: "lofit", "bias-norm", "probes", "probe-layers", "gates", "attribution", "random",
            "layer-matched" (random heads in the layers of LoFiT's), or a head list, such as `heads.npy`.
        settings: How to train what it trains.
        draw: Which of several draws with one seed; for random heads.

    Raises:
        LofitLensError: The name is unknown.
    """
    check_selector(name)
    if name not in SELECTORS:
        return from_file(name)
    row = SELECTORS[name]
    return row.make(settings if row.around is None else selector(row.around, settings), draw)


def check_selector(name: str) -> None:
    """Refuse a name that is neither a selector nor a head list.

    Raises:
        LofitLensError: It is neither.
    """
    if name not in SELECTORS and not is_head_list(name):
        raise LofitLensError(
            f"No head selector is called {name!r}. There are {', '.join(SELECTORS)}, and head lists "
            "(.npy, .json, .csv, .tsv or .txt, or L1H3,L2H7)."
        )


def check_chosen(heads: str) -> None:
    """Refuse what does not score heads for a task.

    Raises:
        LofitLensError: It is no selector, or a list of heads, which is tuned and not chosen.
    """
    check_selector(heads)
    if heads not in SELECTORS:
        raise LofitLensError(
            f"{heads} is a list of heads, so there is nothing to choose. Tune it with `tune`, or give one "
            f"of {', '.join(SELECTORS)}."
        )
