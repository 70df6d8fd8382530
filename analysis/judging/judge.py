"""The answers of a comparison as judges read them (paper, Table 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from lofit_lens.analysis.judging.agreement import agreement, cohen_kappa, truth_of
from lofit_lens.analysis.judging.asked import ASPECTS, Asked, Judge
from lofit_lens.analysis.judging.judged import AGREED, COLUMNS, METRICS, Judged
from lofit_lens.analysis.judging.verdicts import Replies, Verdicts
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.measure.side_effects import is_refusal
from lofit_lens.analysis.study.record import Record
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.load import load_tasks
from lofit_lens.tasks.task import Example, Task


def judge(
    comparison: Comparison,
    judges: Sequence[Judge],
    *,
    cache: str | Path | None = None,
    tasks: Sequence[Task] | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> Judged:
    """Have the answers of a finished comparison judged: truthful, informative, both.

    Judged are the answers to TruthfulQA: those of its protocol "gen", and of other protocols the
    `n_answers` first. No model but a judge is run.

    Args:
        comparison: With the answers in its records.
        judges: Who judges; of several the agreement is told.
        cache: File for the replies of the judges: none is asked the same twice. None keeps nothing.
        tasks: The tasks, by folds, whose answers are judged; default: those of TruthfulQA.
        data_dir: Folder with the paper's files, for the questions and reference answers.
        progress: Whether to show bars.

    Raises:
        LofitLensError: There is no judge, or no answer to judge; the task has other items than the
            records; or a judge cannot be asked, or gives a verdict on no item of a task.
    """
    import pandas as pd

    if not judges or len({one.name for one in judges}) < len(judges):
        raise LofitLensError(
            f"Name at least one judge, and each once; got {[one.name for one in judges]}."
        )
    answers = answers_in(comparison, tasks, data_dir)
    if not answers:
        raise LofitLensError(
            f"There are no answers to TruthfulQA among those to {', '.join(comparison.tasks)}. Compare on "
            "truthfulqa:gen, or let answers to the questions be written (compare --answers 100)."
        )
    kappa = cohen_kappa()  # a missing library is told before anyone is asked
    replies = Replies(cache)
    every = [asked for of_record in answers.values() for asked in of_record.values()]
    found = {one.name: replies.verdicts(one, every, progress=progress) for one in judges}
    rows = [row for name, said in found.items() for row in _rows(name, comparison, answers, said)]
    truth = truth_of(every)
    of_truth = [asked for _, asked in truth]
    pairs = list(combinations(found.items(), 2))
    for one in judges:
        said = replies.verdicts(one, of_truth, ("truthful",), progress=progress)
        pairs.append(((one.name, said), ("references", truth)))
    agreed = [row for pair in pairs for row in agreement(*pair, kappa)]
    return Judged(
        pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(agreed, columns=list(AGREED))
    )


Answers = Mapping[Record, Mapping[str, Asked]]
"""By record and id of the item."""


def answers_in(
    comparison: Comparison,
    tasks: Sequence[Task] | None = None,
    data_dir: str | Path | None = None,
) -> Answers:
    """What `judge` asks about each record; the arguments are those of `judge`."""
    folds = dict.fromkeys(run.fold for run in comparison.runs)
    if tasks is None:
        named = [fold for fold in folds if fold.partition(":")[0] == "truthfulqa"]
        tasks = [task for name in named for task in load_tasks(name, data_dir=data_dir)]
    by_fold = {task.name: {example.id: example for example in task.test} for task in tasks}
    return {
        run: asked
        for run in comparison.runs
        if run.fold in by_fold and (asked := _asked(run, by_fold[run.fold]))
    }


def _asked(run: Record, examples: Mapping[str, Example]) -> dict[str, Asked]:
    """The answers in a record."""
    missing = [name for name in run.written if name not in examples]
    if missing:
        raise LofitLensError(
            f"{run.fold} has no item {missing[0]!r} now, which {run.method} was scored on: the data changed. "
            "Give the task as it was."
        )
    return {name: Asked.of(examples[name], answer) for name, answer in run.written.items()}


def _rows(
    name: str, comparison: Comparison, answers: Answers, said: Verdicts
) -> Iterator[dict[str, Any]]:
    """The rows of one judge."""
    verdicts = {
        run: {i: [said[aspect, one] for aspect in ASPECTS] for i, one in asked.items()}
        for run, asked in answers.items()
    }
    counted = _counted(name, verdicts)
    found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for metric in METRICS:
        metrics = (metric, *(other for other in METRICS if other != metric))
        records = tuple(_scored(run, verdicts[run], counted[run.fold], metrics) for run in answers)
        frame = Comparison(records, comparison.base).frame()
        for row in frame[frame["metric"] == metric].to_dict("records"):
            found[row["task"], row["method"], metric] = {str(key): row[key] for key in row}
    for task, method in dict.fromkeys((task, method) for task, method, _ in found):
        runs = [run for run in answers if (run.task, run.method) == (task, method)]
        beside = {
            "judge": name,
            "unparsed": sum(None in pair for run in runs for pair in verdicts[run].values()),
            "refusals": fmean(
                [is_refusal(a.answer) for run in runs for a in answers[run].values()]
            ),
        }
        rows = {metric: found[task, method, metric] for metric in METRICS}
        for row in rows.values():
            yield {column: ({**row, **beside})[column] for column in COLUMNS}
        untested = dict.fromkeys(COLUMNS, nan) | {"mark": "", "direction": ""}
        value = rows["truthful"]["value"] * rows["informative"]["value"]
        told = {"task": task, "method": method, "metric": "product", "value": value}
        yield untested | beside | told | {key: rows["both"][key] for key in ("n", "seeds")}


def _counted(
    name: str, verdicts: Mapping[Record, Mapping[str, Sequence[bool | None]]]
) -> dict[str, set[str]]:
    """By fold the items with both verdicts in every record."""
    found: dict[str, set[str]] = {}
    for run, by_item in verdicts.items():
        whole = {item for item, pair in by_item.items() if None not in pair}
        found[run.fold] = found.get(run.fold, whole) & whole
    for fold, items in found.items():
        if not items:
            raise LofitLensError(
                f"There is no item of {fold} for which {name} said yes or no to every answer, so nothing "
                "can be counted. Its replies are in the file of the cache; is it a judge?"
            )
    return found


def _scored(
    run: Record,
    verdicts: Mapping[str, Sequence[bool | None]],
    counted: set[str],
    metrics: tuple[str, ...],
) -> Record:
    """A record with the verdicts in place of its scores."""
    groups = {item["id"]: item["group"] for item in run.evaluation.records}
    items = []
    for item, pair in verdicts.items():
        if item in counted:
            values = dict(zip(ASPECTS, map(float, map(bool, pair)), strict=True))
            items.append(
                {"id": item, "group": groups[item], "both": min(values.values()), **values}
            )
    evaluation = replace(
        run.evaluation, metric_names=metrics, records=tuple(items), floors={}, compat=None
    )
    return replace(run, evaluation=evaluation)
