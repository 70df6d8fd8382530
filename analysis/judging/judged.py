"""The answers of a comparison as judges read them (paper, Table 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lofit_lens.analysis.judging.asked import ASPECTS, Asked, Judge
from lofit_lens.analysis.judging.verdicts import Replies, Verdicts
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.measure.side_effects import is_refusal
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.store import rows_of
from lofit_lens.documents import typed
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_as, write_json, write_whole
from lofit_lens.tasks.load import load_tasks
from lofit_lens.tasks.task import Example, Task

if TYPE_CHECKING:
    import pandas as pd

FILE, TABLES = "judged.json", ("judged.csv", "agreement.csv")
SCHEMA = 1

METRICS = ("both", *ASPECTS)

COLUMNS = (
    "judge", "task", "method", "metric", "value", "low", "high", "n", "seeds", "difference",
    "difference_low", "difference_high", "p", "p_holm", "mark", "direction", "unparsed", "refusals",
)  # fmt: skip

AGREED = ("judge", "other", "aspect", "n", "agreement", "kappa")


class _Saved(TypedDict):
    table: list[dict[str, float | int | str | None]]
    agreement: list[dict[str, float | int | str | None]]


@dataclass(frozen=True, eq=False)
class Judged:
    """What judges make of answers in free text.

    Attributes:
        table: The rows of `frame`.
        agreement: One row per pair of judges and aspect, over all answers on which both gave a
            verdict: `n`, `agreement`, the share of equal verdicts, and `kappa`, Cohen's, NaN where all
            verdicts of both are one. The other judge "references" knows the truth of the reference
            answers: the first right and the first wrong one of each question.
    """

    table: pd.DataFrame
    agreement: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """One row per judge, task, method and metric.

        * `metric`: "both", an answer that is truthful and informative; "truthful"; "informative"; and
          "product", that of the means of the last two, which the paper prints in place of "both".
        * `value`, `low`, `high`, `n`, `seeds`, and the paired difference to the base with its test:
          as in `Comparison.frame`, but with a test for each of the three metrics, corrected within
          judge and metric. An item counts where the judge gave both verdicts for every method and seed.
        * `unparsed`: answers of the method, over all seeds, to which the judge gave no verdict.
        * `refusals`: share of the answers that decline to answer (`is_refusal`), whatever the judge.
        """
        return self.table.copy()

    def save(self, folder: str | Path) -> list[Path]:
        """Write judged.json, judged.csv and agreement.csv into a folder; returns the files."""
        paths = [write_json(Path(folder) / FILE, {"schema": SCHEMA, **self.to_json()})]
        for name, frame in zip(TABLES, (self.table, self.agreement), strict=True):
            paths.append(write_whole(Path(folder) / name, frame.to_csv(index=False).encode()))
        return paths

    def to_json(self) -> dict[str, Any]:
        """Both tables as plain JSON values."""
        return {"table": rows_of(self.table), "agreement": rows_of(self.agreement)}

    @classmethod
    def load(cls, folder: str | Path) -> Judged:
        """Read what `save` wrote.

        Raises:
            LofitLensError: There is none in the folder, or a damaged one.
        """
        import pandas as pd

        def build(content: Any) -> Judged:
            typed(content, _Saved)
            table = pd.DataFrame(content["table"], columns=list(COLUMNS))
            return cls(table, pd.DataFrame(content["agreement"], columns=list(AGREED)))

        return read_as(Path(folder) / FILE, build, schema=SCHEMA, what="judged answers")

    def __repr__(self) -> str:
        judges = ", ".join(self.table["judge"].unique())
        return f"Judged({', '.join(self.table['task'].unique())}; by {judges})"


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
    kappa = _cohen_kappa()  # a missing library is told before anyone is asked
    replies = Replies(cache)
    every = [asked for of_record in answers.values() for asked in of_record.values()]
    found = {one.name: replies.verdicts(one, every, progress=progress) for one in judges}
    rows = [row for name, said in found.items() for row in _rows(name, comparison, answers, said)]
    truth = _truth(every)
    of_truth = [asked for _, asked in truth]
    pairs = list(combinations(found.items(), 2))
    for one in judges:
        said = replies.verdicts(one, of_truth, ("truthful",), progress=progress)
        pairs.append(((one.name, said), ("references", truth)))
    agreed = [row for pair in pairs for row in _agreement(*pair, kappa)]
    agreement = pd.DataFrame(agreed, columns=list(AGREED))
    return Judged(pd.DataFrame(rows, columns=list(COLUMNS)), agreement)


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
    """The answers in a record: what was generated and scored, or what was written for reading."""
    told = [(item["id"], item.get("prediction")) for item in run.evaluation.records]
    if any(answer is None for _, answer in told):
        told = [(answer["id"], answer["answer"]) for answer in run.answers]
    missing = [name for name, _ in told if name not in examples]
    if missing:
        raise LofitLensError(
            f"{run.fold} has no item {missing[0]!r} now, which {run.method} was scored on: the data changed. "
            "Give the task as it was."
        )
    return {name: Asked.of(examples[name], str(answer)) for name, answer in told}


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
            "refusals": _mean(
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


def _truth(every: Sequence[Asked]) -> Verdicts:
    """The first right and the first wrong reference answer of each question, as judged by who knows."""
    return {
        ("truthful", replace(asked, answer=references[0])): true
        for asked in every
        for true, references in ((True, asked.correct), (False, asked.incorrect))
        if references
    }


def _agreement(
    one: tuple[str, Verdicts], other: tuple[str, Verdicts], kappa: Callable[..., float]
) -> Iterator[tuple[str, str, str, int, float, float]]:
    """How alike two judges are, by aspect."""
    (name, said), (others, they_said) = one, other
    for aspect in dict.fromkeys(aspect for aspect, _ in they_said):
        pairs = [
            (verdict, they_said[key])
            for key, verdict in said.items()
            if key[0] == aspect and None not in (verdict, they_said[key])
        ]
        same = _mean([mine == theirs for mine, theirs in pairs])
        several = len({verdict for pair in pairs for verdict in pair}) > 1
        found = float(kappa(*zip(*pairs, strict=True))) if several else nan
        yield name, others, aspect, len(pairs), same, found


def _cohen_kappa() -> Callable[..., float]:
    try:
        from sklearn.metrics import cohen_kappa_score
    except ImportError as error:
        raise LofitLensError(
            f"Comparing judges needs a package: pip install 'lofit-lens[judge]' ({error})."
        ) from error
    return cohen_kappa_score


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else nan
