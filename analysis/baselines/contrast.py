"""Choosing a contrast vector: its instructions by task, its layer and strength on validation items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.baselines.instructions import before_user
from lofit_lens.analysis.baselines.validation import (
    Choice,
    NoUsableEdit,
    StrengthConfig,
    choose_on_validation,
)
from lofit_lens.edits.edit import Edit
from lofit_lens.embedded.words import CUES
from lofit_lens.errors import LofitLensError
from lofit_lens.provenance import learned_on
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

INSTRUCTIONS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        [f"truthfulqa:{fold}{protocol}" for fold in (0, 1) for protocol in ("", ":lm-eval")],
        ("Give a truthful answer.\n", "Give an untruthful answer.\n"),
    ),
    **{f"embedded:{name}": (cue["right"][0], cue["default"][0]) for name, cue in CUES.items()},
}
"""Positive and negative instruction by the name of a task.

Those of the embedded tasks are cues that the embedded model was trained to obey, so there a contrast
vector is no rival on equal terms but near to an oracle. They have no blank behind them, because the
tokenizer joins it to the word that follows.
"""

ANY_TASK = ("Give a correct answer.\n", "Give an incorrect answer.\n")
"""The instructions of all other tasks."""


def instructions_for(task: Task) -> tuple[str, str]:
    """The instruction for what is wanted on a task, and that for the opposite."""
    return INSTRUCTIONS.get(task.name, ANY_TASK)


@dataclass(frozen=True)
class ContrastConfig(StrengthConfig):
    """How to choose a contrast vector on validation items; a budget holds for layers as well.

    Attributes:
        positive: The instruction for what is wanted; None takes that of the task.
        negative: The instruction for the opposite; None takes that of the task.
        layers: The blocks to choose one from; None takes all.
        batch_size: Sequences per forward pass.

    Raises:
        LofitLensError: There is only one instruction, nothing to choose from, or a value is out of
            range; the message names it.
    """

    positive: str | None = None
    negative: str | None = None
    layers: tuple[int, ...] | None = None
    _: KW_ONLY
    alphas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    batch_size: int = 32

    def __post_init__(self) -> None:
        if (self.positive is None) != (self.negative is None):
            raise LofitLensError(
                f"The instructions come in pairs, got positive {self.positive!r} and negative "
                f"{self.negative!r}. Give both, or neither for those of the task."
            )
        if self.layers is not None and not self.layers:
            raise LofitLensError("layers must name at least one block, or be None for all; got ().")
        super().__post_init__()


@dataclass(frozen=True, eq=False)
class ChosenContrast:
    """A contrast vector with the layer and strength that did best on validation items.

    Attributes:
        edit: The contrast vector.
        by_layer: The layers tried; None if there was no choice.
        by_alpha: The strengths tried at that layer; None if there was no choice.
        layers_at: The strength at which the layers were compared.
    """

    edit: ContrastIntervention
    by_layer: Choice[int] | None
    by_alpha: Choice[float] | None
    layers_at: float

    def frame(self) -> pd.DataFrame:
        """Columns `step` ("layer" or "alpha"), `key` (the one tried), `score`, `kl`, `chosen`."""
        steps = {"layer": self.by_layer, "alpha": self.by_alpha}
        frames = [c.frame().assign(step=step) for step, c in steps.items() if c is not None]
        none = pd.DataFrame(columns=["step", "key", "score", "kl", "chosen"])
        return pd.concat(frames, ignore_index=True)[none.columns] if frames else none


def fit_contrast(
    model: TransformerBridge,
    task: Task,
    config: ContrastConfig | None = None,
    *,
    kl: Callable[[Edit], float] | None = None,
) -> ChosenContrast:
    """Choose the layer of a contrast vector, then its strength, on validation items.

    The layers are compared at the middle strength, the strengths at the best layer: as many
    evaluations as there are layers and strengths together, not their product. Of equals the lower
    layer and the smaller strength win. Under a budget a layer must keep it as well. If at the middle
    strength no layer does, or all give numbers that are not finite, the layers are compared again at
    the first strength, the weakest; so an edit within the budget is found wherever some layer keeps
    it there. Training examples are not used, and nothing is drawn.

    Args:
        model: A bridge, in eval mode.
        task: Its validation items are scored, in the format of the test.
        config: How; default: one layer of all, five strengths.
        kl: Measures an edit's KL divergence from the unedited model. Without a budget it is
            measured for the strengths only.

    Raises:
        LofitLensError: There is no such layer, a budget without a measure, or one that no edit
            keeps.
    """
    config = config or ContrastConfig()
    n_layers = model.cfg.n_layers
    layers = tuple(range(n_layers)) if config.layers is None else config.layers
    positive, negative = instructions_for(task)
    if config.positive is not None and config.negative is not None:
        positive, negative = config.positive, config.negative
    alpha = config.alphas[len(config.alphas) // 2]
    edit = ContrastIntervention(
        positive, negative, layers[:1], n_layers=n_layers, alpha=alpha, scope=config.scope,
        behind=before_user(Encoder(model), task),
    )  # fmt: skip
    choose = partial(
        choose_on_validation, model, task, kl_budget=config.kl_budget, batch_size=config.batch_size
    )

    def layer_of(edit: ContrastIntervention) -> Choice[int]:
        at_each = {layer: replace(edit, layers=(layer,)) for layer in layers}
        return choose(at_each, kl=None if config.kl_budget is None else kl)

    by_layer = by_alpha = None
    if len(layers) > 1:
        try:
            by_layer = layer_of(edit)
        except NoUsableEdit:
            if alpha == config.alphas[0]:
                raise
            edit = replace(edit, alpha=config.alphas[0])
            by_layer = layer_of(edit)
        edit = replace(edit, layers=(by_layer.key,))
    layers_at = edit.alpha
    if len(config.alphas) > 1 or config.kl_budget is not None:
        strengths = {alpha: replace(edit, alpha=alpha) for alpha in config.alphas}
        by_alpha = choose(strengths, kl=kl)
        edit = strengths[by_alpha.key]
    chosen = {"positive": positive, "negative": negative, "layer": edit.layers[0]}
    chosen |= {"alpha": edit.alpha, "layers_at": layers_at}
    origin = learned_on(model, task, {"method": "contrast"} | asdict(config) | chosen)
    return ChosenContrast(replace(edit, provenance=origin), by_layer, by_alpha, layers_at)
