"""The settings of the paper for its models, and those of the embedded model, by name."""

from __future__ import annotations

from lofit_lens.analysis.baselines.paper_rates import paper_loreft, paper_rates
from lofit_lens.analysis.methods.settings import PAPER_FRACTION, Settings
from lofit_lens.identity import EMBEDDED
from lofit_lens.training.config import PAPER_HEADS, SelectionConfig, TuningConfig, paper_heads

PRESETS = (EMBEDDED, *PAPER_HEADS)
"""Their names."""


def preset_settings(preset: str | None, task: str, *, share: float) -> Settings:
    """The settings of a preset for a task, without a number of heads.

    Args:
        preset: One of `PRESETS`; None gives the defaults.
        task: Name of the task, or of a fold of it.
        share: Of the heads; the paper has a rate of stage 2 for 3% and one for 10%, and the nearer
            is taken.

    Raises:
        LofitLensError: The paper has no such model or task, or no rate for the share.
    """
    if preset is None:
        return Settings()
    if preset == EMBEDDED:
        return Settings.embedded()
    row = preset, task.partition(":")[0]
    return Settings(
        selection=SelectionConfig.paper(*row),
        tuning=TuningConfig.paper(*row, fraction=0.1 if share > 0.05 else 0.03),
        rates=paper_rates(*row),
        loreft=paper_loreft(*row),
    )


def preset_heads(preset: str | None, total: int, fraction: float | None) -> int | None:
    """The paper's own number of heads where a preset of it is asked for 3% or 10% of them.

    That number is for a model of as many heads as the paper's; of another, and for another share,
    there is none.

    Args:
        preset: One of `PRESETS`, or None.
        total: Heads of the model.
        fraction: The share; None is the paper's 3%.
    """
    share = PAPER_FRACTION if fraction is None else fraction
    theirs = PAPER_HEADS.get(preset or "")
    if share not in (0.03, 0.1) or not theirs or theirs[0] != total:
        return None
    return paper_heads(str(preset), fraction=share)
