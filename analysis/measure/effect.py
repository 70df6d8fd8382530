"""The check that an edit reaches what is scored."""

from __future__ import annotations

from lofit_lens.errors import ScoringError
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.scoring import Scoring


def check_effect(
    scoring: Scoring, zero_shot: Evaluation, edited: Evaluation, *, kl: float | None
) -> None:
    """Refuse the scores of an edit that did not reach what is scored.

    Under multiple choice some log-probability must have changed by more than rounding. Generated
    text may stay the same under a weak edit; then the distribution over plain text must have.

    Args:
        scoring: Of the task.
        zero_shot: Scores of the model as it is.
        edited: Scores of the same items under the edit.
        kl: KL divergence from the unedited model on plain text; None if it was not measured.

    Raises:
        ScoringError: The edit changed nothing.
    """
    unseen = scoring.generates and (kl is None or kl > 0)
    if not unseen and not scoring.moved(zero_shot.records, edited.records):
        raise ScoringError(
            f"The edit changed none of the {len(edited.records)} scored items of {edited.task}, so its score "
            "would be the unedited model's. Either it is as good as zero, or its token scope leaves every "
            'scored token alone, as "iti_compat" does for answers of one or two tokens. Use another scope.'
        )
