"""Advice for which a result gives reason, with the numbers and their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lofit_lens.scoring import Evaluation


def doubt(evaluations: Mapping[str, Evaluation]) -> str | None:
    """What to try where tuned heads are worse than a floor, no tuning, or random heads.

    Worse means that the 95% interval says so: that of the score lies below the floor, or that of
    the paired difference, over items and draws of random heads, below 0.

    Args:
        evaluations: "tuned", "zero_shot", and "random_DRAW" for each draw, on the same items.
    """
    import numpy as np

    from lofit_lens.analysis.study.paired import item_groups, main_scores
    from lofit_lens.statistics import paired_difference

    tuned = evaluations["tuned"]
    main = tuned.main
    worse = [
        f"the floor ({name}: {100 * floor:.1f})"
        for name, floor in tuned.floors.items()
        if main.high < floor
    ]
    draws = [e for name, e in evaluations.items() if name.startswith("random_")]
    for name, others in (
        ("the model as it is", [evaluations["zero_shot"]]),
        ("random heads", draws),
    ):
        if others:
            scores = np.stack([main_scores(other) for other in others])
            own = np.broadcast_to(main_scores(tuned), scores.shape)
            difference = paired_difference(own, scores, groups=item_groups(tuned))
            if difference.high < 0:
                worse.append(
                    f"{name} ({100 * difference.value:.1f} points, 95% interval "
                    f"{100 * difference.low:.1f} to {100 * difference.high:.1f})"
                )
    if not worse:
        return None
    return (
        f"The tuned heads, at {100 * main.value:.1f}, are below {' and '.join(worse)}. The learning rates "
        "may not suit this model: try others (--tuning-lr, --selection-lr), and choose by `evaluate "
        "--split val`."
    )
