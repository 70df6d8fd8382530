"""The paper's claims, and one against it, tested on records: for each the difference, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import combine_pvalues, hypergeom

from lofit_lens.analysis import published
from lofit_lens.analysis.inside.overlap import head_overlap, pairs_of_tasks
from lofit_lens.analysis.kinds.matrix import RANDOM
from lofit_lens.analysis.study.paired import DIFFERENCE, RESAMPLES, difference_columns
from lofit_lens.analysis.tables.cells import difference
from lofit_lens.errors import LofitLensError
from lofit_lens.statistics import average_difference, holm

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.kinds.comparison import Comparison
    from lofit_lens.analysis.kinds.matrix import TransferMatrix
    from lofit_lens.analysis.reading.study import Study
    from lofit_lens.heads import HeadSet

Asks = Literal["better", "on par", "no better"]
"""What a claim asks of the difference to the other method.

* "better": it is above 0.
* "on par": it is not below 0 by the margin or more.
* "no better": it is not above 0 by the margin or more.
"""

MARGIN = 0.02
"""What counts as no difference: two points."""


@dataclass(frozen=True)
class Claim:
    """That a method is better than others, or no better.

    Attributes:
        name: A short name.
        text: The claim.
        source: Where it is made.
        method: The method it is about.
        others: What it is compared with.
        asks: What of the difference.
    """

    name: str
    text: str
    source: str
    method: str
    others: tuple[str, ...]
    asks: Asks


CLAIMS = (
    Claim(
        "steering", "LoFiT does better than inference-time interventions", "Table 1",
        "lofit", ("iti", "repe-reading", "repe-contrast"), "better",
    ),
    Claim(
        "selection", "heads chosen by the learned scale do better than heads chosen otherwise",
        "Table 2", "lofit",
        ("random-heads", "random-in-layers", "probes/bias", "probe-layers/bias", "bias-norm/bias",
         "gates/bias"), "better",
    ),
    Claim(
        "tuning", "LoFiT is on par with methods that train far more parameters", "Table 3",
        "lofit", ("lora", "red", "loreft"), "on par",
    ),
    Claim(
        "localization", "a bias on chosen heads does no better than one on random heads",
        "Wang and Veitch, arXiv 2502.11447", "lofit", ("random-heads",), "no better",
    ),
    Claim(
        "localization", "a bias on ITI's heads does no better than one on random heads",
        "Wang and Veitch, arXiv 2502.11447", "probes/bias", ("random-heads",), "no better",
    ),
)  # fmt: skip
"""Claims on methods of a comparison."""

OWN_HEADS = "heads chosen on a task do better on it than those of another task", "Figure 2"
STABLE = "two seeds choose heads in common more often than chance", "Figure 6"

Row = Mapping[str, object]


def claims(study: Study, *, margin: float = MARGIN) -> pd.DataFrame:
    """Test every claim on every run of a study that has the methods for it.

    Columns `claim`, `text`, `source`, `run` (name of the run), `method`, `other`, `tasks`; `difference`
    of the main metrics (method minus other, mean over the tasks both were run on, paired by seed and
    item), its 95% interval `difference_low`, `difference_high`, and `p`; `n` items, `seeds`; `paper`, the
    same difference in the paper's tables, mean over its models and those tasks that it has (main
    metric), NaN where it has none; `p_holm`, corrected within claim and run; `verdict`: "holds",
    "fails" or "open", see `verdict_of`.

    For heads in common (`stability`) the difference is the share in common minus chance over pairs of
    seeds, its interval the least and most of any pair, and p from Fisher's sum over tasks of the
    hypergeometric tail.

    Args:
        study: From `open_study`.
        margin: What counts as no difference, as a share.

    Raises:
        LofitLensError: The margin is not between 0 and 1, or no run of the study has what a claim
            is about.
    """
    import pandas as pd

    if not 0 < margin < 1:
        raise LofitLensError(f"The margin is a share between 0 and 1, such as 0.02; got {margin}.")
    rows = list(_rows(study))
    if not rows:
        raise LofitLensError(
            f"Nothing in {study.path} can be tested for the claims: there must be a comparison with one of "
            f"{', '.join(dict.fromkeys(claim.method for claim in CLAIMS))} and a method to compare it "
            "with, a transfer of heads, or heads of several seeds."
        )
    frame = pd.DataFrame([row for _, row in rows])
    frame["p_holm"] = nan
    for _, part in frame.groupby(["claim", "run"], sort=False):
        frame.loc[part.index, "p_holm"] = holm(part["p"].to_numpy())
    asked = [asks for asks, _ in rows]
    ends = (frame[name].tolist() for name in (*DIFFERENCE[1:], "p_holm"))
    found = zip(asked, *ends, strict=True)
    frame["verdict"] = [verdict_of(asks, *end, margin=margin) for asks, *end in found]
    return frame


def verdict_of(asks: Asks, low: float, high: float, p: float, *, margin: float) -> str:
    """Whether a claim holds, fails, or is left open by an interval.

    "better" holds where the corrected p is below 0.05 and the difference above 0, and fails where the
    interval is below 0. The others hold where the whole interval is within the margin on the side in
    question, and fail where it is whole beyond 0 on that side and reaches past the margin.
    """
    if asks == "better":
        return "holds" if p < 0.05 and low > 0 else "fails" if high < 0 else "open"
    low, high = (low, high) if asks == "no better" else (-high, -low)
    return "holds" if high < margin else "fails" if low > 0 else "open"


def _rows(study: Study) -> Iterator[tuple[Asks, Row]]:
    for run, comparison in study.comparisons.items():
        for claim in CLAIMS:
            for other in claim.others:
                if {claim.method, other} <= set(comparison.methods):
                    yield claim.asks, _of_methods(claim, other, run, comparison)
    for run, matrix in study.matrices.items():
        for what in ("another task", RANDOM):
            row = _own_heads(run, matrix, what)
            if row is not None:
                yield "better", row
    by_size: dict[str, dict[str, Sequence[HeadSet]]] = {}
    for task, sets in study.heads.items():
        if len(sets) > 1:
            size = f"{len(sets[0])} of {sets[0].grid.total} heads"
            by_size.setdefault(size, {})[task] = sets
    for run, heads in by_size.items():
        yield "better", _stability(run, heads)


def _of_methods(claim: Claim, other: str, run: str, comparison: Comparison) -> Row:
    has = {(record.method, record.task) for record in comparison.runs}
    tasks = [t for t in comparison.tasks if {(claim.method, t), (other, t)} <= has]
    tables = [comparison.table(claim.method, t) - comparison.table(other, t) for t in tasks]
    groups = [comparison.groups(task) for task in tasks]
    found = average_difference(tables, groups=groups, resamples=RESAMPLES)
    paper = _in_paper(claim.method, other, {t: comparison.metrics(t)[0] for t in tasks})
    return {
        "claim": claim.name, "text": claim.text, "source": claim.source, "run": run,
        "method": claim.method, "other": other, "tasks": ", ".join(tasks),
        **difference_columns(found), "n": found.n, "seeds": found.runs, "paper": paper,
    }  # fmt: skip


def _in_paper(method: str, other: str, metrics: dict[str, str]) -> float:
    """The mean difference in the paper, over its models and the tasks it has of these."""
    pairs = [
        [published.published(model, name, task, metric) for name in (method, other)]
        for model in published.MODELS
        for task, metric in metrics.items()
    ]
    found = [one - two for one, two in pairs if one is not None and two is not None]
    return float(np.mean(found)) / 100 if found else nan


def _own_heads(run: str, matrix: TransferMatrix, what: str) -> Row | None:
    """Own heads minus those of other tasks, or random ones, mean over tasks and sources."""
    tables, groups = [], []
    for task in matrix.tasks:
        sources = [RANDOM] if what == RANDOM else [s for s in matrix.tasks if s != task]
        found = [matrix.table(s, task) for s in sources if matrix.has(s, task)]
        if found and matrix.has(task, task):
            tables.append(matrix.table(task, task) - np.mean(found, axis=0))
            groups.append(matrix.groups(task))
    if not tables:
        return None
    found = average_difference(tables, groups=groups, resamples=RESAMPLES)
    text, source = OWN_HEADS
    return {
        "claim": "own heads", "text": text, "source": source, "run": run, "method": "own heads",
        "other": f"heads of {what}", "tasks": ", ".join(matrix.tasks),
        **difference_columns(found), "n": found.n, "seeds": found.runs, "paper": nan,
    }  # fmt: skip


def _stability(run: str, heads: dict[str, Sequence[HeadSet]]) -> Row:
    """The share of heads in common between seeds, above chance."""
    overlap = head_overlap(heads).frame()
    own = overlap[(overlap["measure"] == "overlap") & (overlap["first"] == overlap["second"])]
    chance = float(own["chance"].iloc[0])
    tails = [
        hypergeom.sf(len(set(a) & set(b)) - 1, a.grid.total, len(a), len(b))
        for first, second, pairs in pairs_of_tasks(heads)
        if first == second
        for a, b in pairs
    ]
    told = published.figure_6()
    same = told[(told["measure"] == "overlap") & (told["first"] == told["second"])]
    paper = float(same["value"].mean()) - chance if len(same) else nan
    shares = own["value"].mean(), own["low"].min(), own["high"].max()
    text, source = STABLE
    return {
        "claim": "stability", "text": text, "source": source, "run": run,
        "method": "heads of one seed", "other": "heads of another", "tasks": ", ".join(heads),
        **dict(zip(DIFFERENCE, (float(share) - chance for share in shares), strict=True)),
        "p": float(combine_pvalues(tails).pvalue), "n": len(tails),
        "seeds": max(map(len, heads.values())), "paper": paper,
    }  # fmt: skip


def spoken(frame: pd.DataFrame) -> str:
    """The rows of `claims` in words, a claim with its verdicts below the other."""
    lines: list[str] = []
    for (text, source), rows in frame.groupby(["text", "source"], sort=False):
        lines.append(f"{text} ({source})")
        for row in rows.to_dict("records"):
            paper = "" if np.isnan(row["paper"]) else f", paper {100 * row['paper']:+.1f}"
            lines.append(
                f"  {row['verdict']:5}  {row['method']} - {row['other']}: {difference(row)}{paper}, "
                f"p {row['p_holm']:.2g}, n {row['n']}, {row['seeds']} seeds ({row['run']}: {row['tasks']})"
            )
    return "\n".join(lines)
