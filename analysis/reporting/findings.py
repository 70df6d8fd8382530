"""What the numbers of a study say, one sentence each, and no more than they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lofit_lens.analysis.kinds.table import KINDS

if TYPE_CHECKING:
    from lofit_lens.analysis.reading.study import Study

ONE_SEED = "There is one seed, so nothing here tells how seeds differ."


def findings(study: Study) -> list[str]:
    """One sentence for each result of a study."""
    found = [sentence for row in KINDS for sentence in row.sentences(study)]
    seeds = [len(given) for row in KINDS for given in row.seeds(study)]
    seeds += map(len, study.chosen.values())
    return found + ([ONE_SEED] if seeds and max(seeds) == 1 else [])
