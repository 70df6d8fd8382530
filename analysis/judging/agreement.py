"""How alike judges are, and how alike what is known to be true."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import nan
from statistics import fmean

from lofit_lens.analysis.judging.asked import Asked
from lofit_lens.analysis.judging.verdicts import Verdicts
from lofit_lens.errors import LofitLensError


def truth_of(every: Sequence[Asked]) -> Verdicts:
    """The first right and the first wrong reference answer of each question, as judged by who knows."""
    return {
        ("truthful", replace(asked, answer=references[0])): true
        for asked in every
        for true, references in ((True, asked.correct), (False, asked.incorrect))
        if references
    }


def agreement(
    one: tuple[str, Verdicts], other: tuple[str, Verdicts], kappa: Callable[..., float]
) -> Iterator[tuple[str, str, str, int, float, float]]:
    """How alike two judges are, by aspect of the other: the columns `AGREED`."""
    (name, said), (others, they_said) = one, other
    for aspect in dict.fromkeys(aspect for aspect, _ in they_said):
        pairs = [
            (verdict, they_said[key])
            for key, verdict in said.items()
            if key[0] == aspect and None not in (verdict, they_said[key])
        ]
        same = fmean(mine == theirs for mine, theirs in pairs) if pairs else nan
        several = len({verdict for pair in pairs for verdict in pair}) > 1
        found = float(kappa(*zip(*pairs, strict=True))) if several else nan
        yield name, others, aspect, len(pairs), same, found


def cohen_kappa() -> Callable[..., float]:
    """What computes Cohen's kappa of two lists of verdicts.

    Raises:
        LofitLensError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import cohen_kappa_score
    except ImportError as error:
        raise LofitLensError(
            f"Comparing judges needs a package: pip install 'lofit-lens[judge]' ({error})."
        ) from error
    return cohen_kappa_score
