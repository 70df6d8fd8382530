"""Choosing a contrast vector: its instructions by task, its layer and strength on validation items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.baselines.validation import Choice, choose_on_validation
from lofit_lens.edit import Edit
from lofit_lens.embedded.words import CUES
from lofit_lens.errors import LofitLensError
from lofit_lens.positions import TokenScope
from lofit_lens.provenance import learned_on
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

INSTRUCTIONS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("truthfulqa:0", "truthfulqa:1"),
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


@dataclass(frozen=True)
class ContrastConfig:
    """How to choose a contrast vector on validation items.

    Attributes:
        positive: The instruction for what is wanted; None takes that of the task.
        negative: The instruction for the opposite; None takes that of the task.
        layers: The blocks to choose one from; None takes all.
        alphas: The strengths to choose from, weakest first. A single one is taken as it is.
        scope: The token positions edited.
        kl_budget: Strengths whose KL divergence from the unedited model is greater are out.
        batch_size: Sequences per forward pass.
    """

    positive: str | None = None
    negative: str | None = None
    layers: tuple[int, ...] | None = None
    alphas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    scope: TokenScope = "all"
    kl_budget: float | None = None
    batch_size: int = 32


@dataclass(frozen=True, eq=False)
class ChosenContrast:
    """A contrast vector with the layer and strength that did best on validation items.

    Attributes:
        edit: The contrast vector.
        by_layer: The layers tried; None if there was no choice.
        by_alpha: The strengths tried at that layer; None if there was no choice.
    """

    edit: ContrastIntervention
    by_layer: Choice[int] | None
    by_alpha: Choice[float] | None

    def frame(self) -> pd.DataFrame:
        """Columns `step` ("layer" or "alpha"), `key` (the one tried), `score`, `kl`, `chosen`."""
        import pandas as pd

        steps = {"layer": self.by_layer, "alpha": self.by_alpha}
        frames = [c.frame().assign(step=step) for step, c in steps.items() if c is not None]
        columns = ["step", "key", "score", "kl", "chosen"]
        if not frames:
            return pd.DataFrame(columns=columns)
        return pd.concat(frames, ignore_index=True)[columns]


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
    layer and the smaller strength win. Training examples are not used, and nothing is drawn.

    Args:
        model: A bridge, in eval mode.
        task: Its validation items are scored, in the format of the test.
        config: How; default: one layer of all, five strengths.
        kl: Measures an edit's KL divergence from the unedited model.

    Raises:
        LofitLensError: No layers or strengths to choose from, only one instruction, or a budget
            that no strength keeps.
    """
    config = config or ContrastConfig()
    n_layers = model.cfg.n_layers
    layers = tuple(range(n_layers)) if config.layers is None else config.layers
    if not layers or not config.alphas:
        raise LofitLensError(
            f"There is nothing to choose from: layers {layers}, alphas {config.alphas}. Give at "
            "least one of each."
        )
    positive, negative = _instructions(task, config)
    alpha = config.alphas[len(config.alphas) // 2]
    edit = ContrastIntervention(
        positive, negative, layers[:1], n_layers=n_layers, alpha=alpha, scope=config.scope
    )
    by_layer = by_alpha = None
    if len(layers) > 1:
        at_layers = {layer: replace(edit, layers=(layer,)) for layer in layers}
        by_layer = choose_on_validation(model, task, at_layers, batch_size=config.batch_size)
        edit = at_layers[by_layer.key]
    if len(config.alphas) > 1 or config.kl_budget is not None:
        strengths = {alpha: replace(edit, alpha=alpha) for alpha in config.alphas}
        by_alpha = choose_on_validation(
            model, task, strengths,
            kl=kl, kl_budget=config.kl_budget, batch_size=config.batch_size,
        )  # fmt: skip
        edit = strengths[by_alpha.key]
    chosen = {
        "positive": positive,
        "negative": negative,
        "layer": edit.layers[0],
        "alpha": edit.alpha,
    }
    origin = learned_on(model, task, {"method": "contrast"} | asdict(config) | chosen)
    return ChosenContrast(replace(edit, provenance=origin), by_layer, by_alpha)


def _instructions(task: Task, config: ContrastConfig) -> tuple[str, str]:
    """Those of the configuration, or those of the task."""
    if config.positive is not None and config.negative is not None:
        return config.positive, config.negative
    if config.positive is not None or config.negative is not None:
        raise LofitLensError(
            f"The instructions come in pairs, got positive {config.positive!r} and negative "
            f"{config.negative!r}. Give both, or neither for those of the task."
        )
    return INSTRUCTIONS.get(task.name, ANY_TASK)
