"""What the numbers of a study say, one sentence each, and no more than they say."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.inside.overlap import head_overlap
from lofit_lens.analysis.kinds.matrix import RANDOM

if TYPE_CHECKING:
    from lofit_lens.analysis.inside.layers import LayerDistribution
    from lofit_lens.analysis.kinds.comparison import Comparison
    from lofit_lens.analysis.kinds.lofit import LofitRun
    from lofit_lens.analysis.kinds.matrix import TransferMatrix
    from lofit_lens.analysis.study.results import Study
    from lofit_lens.statistics import Estimate

Row = Mapping[Hashable, Any]
ONE_SEED = "There is one seed, so nothing here tells how seeds differ."


def findings(study: Study) -> list[str]:
    """One sentence for each result of a study."""
    found = [s for comparison in study.comparisons.values() for s in of_comparison(comparison)]
    for name, matrix in study.matrices.items():
        found += [f"{name}: {sentence}" for sentence in of_matrix(matrix)]
    found += [of_run(task, run) for task, run in study.runs.items()]
    for layers in study.layers.values():
        found += of_layers(layers)
    seeds = [len(one.seeds) for one in (*study.comparisons.values(), *study.matrices.values())]
    seeds += map(len, study.chosen.values())
    return found + ([ONE_SEED] if seeds and max(seeds) == 1 else [])


def of_comparison(comparison: Comparison) -> Iterator[str]:
    """For each task the method with the highest mean, and whether it differs from the base."""
    base, frame = comparison.base, comparison.frame()
    tests = int(frame["p"].notna().sum())
    for task in comparison.tasks:
        main = frame[(frame["task"] == task) & (frame["metric"] == comparison.metrics(task)[0])]
        rows: Sequence[Row] = main.to_dict("records")
        best = max(rows, key=lambda row: row["value"])
        start = f"{task} (n = {best['n']}): highest mean {best['metric']} {_score(best)}, {best['method']}"
        if best["method"] == base:
            yield f"{start}; no other method is above it."
            continue
        against = next(row for row in rows if row["method"] == base)
        test = f"p = {best['p_holm']:.2g}, Holm-corrected over {tests} comparisons"
        difference = _points(best["difference"], best["difference_low"], best["difference_high"])
        verdict = "significant" if best["mark"] == "*" else "not significant at 0.05"
        below = best["floor"] >= best["value"]
        floor = f" It is not above the floor of {100 * best['floor']:.1f}%." if below else ""
        yield (
            f"{start}; {base} {_score(against)}. The difference, {difference}, is {verdict} "
            f"({test}).{floor}"
        )


def of_matrix(matrix: TransferMatrix) -> Iterator[str]:
    """In how many cells a task's own heads are significantly better."""
    cells = matrix.frame()
    others = cells[cells["source"] != cells["task"]]
    test = f"p < 0.05, Holm-corrected over {len(others)} cells"
    for what, part in (
        ("random heads", others[others["source"] == RANDOM]),
        ("the heads of another task", others[others["source"] != RANDOM]),
    ):
        if part.empty:
            continue
        better, n = int((part["mark"] == "*").sum()), len(part)
        start = f"a task's own heads score significantly higher than {what} in"
        if better == 0:
            yield f"{start} none of {n} cells ({test})."
        else:
            rest = "" if better == n else "; in the others no such difference was established"
            yield f"{start} {better} of {n} cells ({test}){rest}."


def of_layers(layers: LayerDistribution) -> Iterator[str]:
    """How alike the heads of different seeds are, beside chance."""
    frame = head_overlap(layers.heads).frame()
    of_seeds = (frame["measure"] == "jaccard") & (frame["first"] == frame["second"])
    for row in frame[of_seeds & (frame["pairs"] > 0)].to_dict("records"):
        sets = layers.heads[row["first"]]
        yield (
            f"{row['first']}: the {len(sets[0])} heads chosen with {len(sets)} seeds have a mean Jaccard "
            f"index of {row['value']:.2f}; of random heads {row['chance']:.2f} is expected."
        )


def of_run(task: str, run: LofitRun) -> str:
    """The main metric before and after, beside random heads and the floor."""
    metric, tuned = run.tuned.metric_names[0], run.tuned.main
    floor = max(run.tuned.floors.values(), default=-1.0)
    below = f" It is not above the floor of {100 * floor:.1f}%." if floor >= tuned.value else ""
    draws = [f"{100 * found.main.value:.1f}%" for found in run.random.values()]
    beside = f", as many random heads {', '.join(draws)}" if draws else ""
    return (
        f"{task} (n = {tuned.n}): {metric} with {len(run.heads)} tuned heads {_estimate(tuned)}, "
        f"zero-shot {_estimate(run.zero_shot.main)}{beside}.{below}"
    )


def _score(row: Row) -> str:
    return f"{100 * row['value']:.1f}% [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _estimate(found: Estimate) -> str:
    return f"{100 * found.value:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
