"""The check that an edit reaches what is scored."""

from __future__ import annotations

import numpy as np

from lofit_lens.errors import ScoringError
from lofit_lens.scoring.evaluation import Evaluation

ROUNDING = 1e-4
"""Log-probabilities of one text that differ by less differ by the way they were batched, in nats."""


def check_effect(untuned: Evaluation, edited: Evaluation, *, kl: float | None) -> None:
    """Refuse the scores of an edit that did not reach what is scored.

    Under multiple choice some log-probability must have changed by more than rounding. Generated
    text may stay the same under a weak edit; then the distribution over plain text must have.

    Args:
        untuned: Scores of the model as it is.
        edited: Scores of the same items under the edit.
        kl: KL divergence from the unedited model on plain text; None if it was not measured.

    Raises:
        ScoringError: The edit changed nothing.
    """
    pairs = list(zip(untuned.records, edited.records, strict=True))
    if "correct" in edited.records[0]:
        before, after = (
            np.concatenate([[*pair[side]["correct"], *pair[side]["incorrect"]] for pair in pairs])
            for side in (0, 1)
        )
        moved = bool(np.abs(after - before).max() > ROUNDING)
    else:
        moved = (
            kl is None
            or kl > 0
            or any(before["generated"] != after["generated"] for before, after in pairs)
        )
    if not moved:
        raise ScoringError(
            f"The edit changed none of the {len(pairs)} scored items of {edited.task}, so its score would "
            "be the unedited model's. Either it is as good as zero, or its token scope leaves every scored "
            'token alone, as "iti_compat" does for answers of one or two tokens. Use another scope.'
        )
