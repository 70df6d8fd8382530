"""What the tables of a comparison say, as text, before they are laid out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lofit_lens.analysis.published import published as paper_number

if TYPE_CHECKING:
    from lofit_lens.analysis.kinds.comparison import Comparison

Row = Mapping[Hashable, Any]
NOTHING = "\N{EN DASH}"
WORSE = "↓"
FLOOR = "floor: "


@dataclass(frozen=True)
class TaskTable:
    """What is shown of one task, as text: a row per method with a run on it, and per floor.

    Attributes:
        task: Name of the task.
        caption: Its name, with the number of its items and the seeds.
        scores: A column per metric, each followed by the paper's numbers if there are any.
        details: Columns of differences, costs and side effects, empty ones left out.
        parameters: Learned numbers of each method's edit.
    """

    task: str
    caption: str
    scores: pd.DataFrame
    details: pd.DataFrame
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class Tables:
    """What is shown of a comparison, as text.

    Attributes:
        methods: Its methods.
        tasks: The table of each task.
        sentences: What the numbers mean, by subject.
    """

    methods: Sequence[str]
    tasks: Sequence[TaskTable]
    sentences: Mapping[str, str]

    @classmethod
    def of(
        cls, comparison: Comparison, *, base: str | None = None, published: str | None = None
    ) -> Tables:
        """The tables of a comparison.

        Args:
            comparison: The comparison.
            base: The method to compare with; default that of the comparison.
            published: Show the paper's numbers for a model beside: "gemma-7b", "llama2-7b" or
                "llama2-13b".

        Raises:
            LofitLensError: As `Comparison.frame`, or the paper has no such model.
        """
        base = base or comparison.base
        tasks = _task_tables(comparison, base, published)
        return cls(comparison.methods, tasks, _legend(comparison, base, published))

    def overview(self) -> list[list[str]]:
        """All tasks side by side: name, parameters and scores of each method, then the floors."""
        scores = pd.concat([table.scores for table in self.tasks], axis=1)
        used = {}
        for method in self.methods:
            learned = [t.parameters[method] for t in self.tasks if method in t.parameters]
            used[method] = NOTHING.join(dict.fromkeys((count(min(learned)), count(max(learned)))))
        floors = [str(name) for name in scores.index if name not in used]
        return [
            [
                name,
                used.get(name, ""),
                *map(str, scores.loc[name].fillna(NOTHING if name in used else "")),
            ]
            for name in (*self.methods, *floors)
        ]


def _task_tables(comparison: Comparison, base: str, published: str | None) -> list[TaskTable]:
    """The table of each task."""
    frame, seeds = comparison.frame(base), ", ".join(map(str, comparison.seeds))
    tables = []
    for task in comparison.tasks:
        by_metric: dict[str, dict[str, Row]] = {}
        for row in frame[frame["task"] == task].to_dict("records"):
            by_metric.setdefault(row["metric"], {})[row["method"]] = row
        main = next(iter(by_metric.values()))
        floors = {FLOOR + name: f"{100 * v:.1f}" for name, v in comparison.floors(task).items()}
        scores = []
        for metric, rows in by_metric.items():
            cells = {method: score(row) + interval(row) for method, row in rows.items()}
            scores.append((metric, cells if scores else cells | floors))
            if published is not None:
                numbers = {method: paper_number(published, method, task, metric) for method in rows}
                paper = {method: f"{n:.1f}" for method, n in numbers.items() if n is not None}
                scores += [("paper", paper)] if paper else []
        names, items = [*main, *floors], next(iter(main.values()))["n"]
        caption = f"{task} (n = {items}, seeds {seeds})"
        details = _columns(_details(main, base), names)
        learned = {method: row["parameters"] for method, row in main.items()}
        tables.append(TaskTable(task, caption, _columns(scores, names), details, learned))
    return tables


def _legend(comparison: Comparison, base: str, published: str | None) -> dict[str, str]:
    """Sentences on what the numbers mean, by subject."""
    frame = comparison.frame(base)
    tests = int(frame["p"].notna().sum())
    new = "new items and new seeds"
    if len(comparison.seeds) == 1:
        new = "new items; one seed does not tell how seeds differ"
    lines = {
        "scores": f"Scores in %, means over items and seeds, with 95% intervals for {new}. Items of one "
        "group are drawn together.",
        "tests": f"Differences to {base} in points, paired by seed and item; p is corrected by Holm's "
        f"method over {tests} comparisons (methods and tasks, main metric). * p < 0.05, + p < 0.1; "
        f"{WORSE} worse than {base}.",
        "parameters": "Parameters: learned numbers of an edit.",
        "costs": "Seconds and tokens: fitting, with every choice on validation data / scoring the "
        "test; of one seed, over all folds. Tokens are those that entered the first block, padding included. "
        "Of runs trained in one forward pass each has its share; --together 1 gives what each costs alone.",
        "effects": "Cross-entropy, and KL divergence from the unedited model: on plain text, in nats "
        "per token. Refusals: % of free answers.",
        "floors": "Floors are reached without any ability.",
    }
    cells = frame[["method", "task", "metric"]].itertuples(index=False)
    if published is not None and any(paper_number(published, *cell) is not None for cell in cells):
        lines["published"] = (
            f"Paper: as printed for {published} by Yin, Ye and Durrett (2024), in %; their model, seeds and "
            "prompts, not paired with the scores here."
        )
    return lines


def score(row: Row) -> str:
    """A score in percent with its mark."""
    worse = WORSE if row["direction"] == "worse" else ""
    return f"{100 * row['value']:.1f}{row['mark']}{worse}"


def interval(row: Row) -> str:
    """The interval of a score, in percent; nothing where there is none."""
    low, high = 100 * row["low"], 100 * row["high"]
    return "" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"


def difference(row: Row) -> str:
    """The difference to another score with its interval, in points; nothing where there is none."""
    if math.isnan(row["difference"]):
        return ""
    low, high = 100 * row["difference_low"], 100 * row["difference_high"]
    return f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"


def count(number: float) -> str:
    """A count in three digits: 12288 is 12.3K."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _columns(
    columns: Sequence[tuple[str, Mapping[str, str]]], names: Sequence[str]
) -> pd.DataFrame:
    """Columns of text by their titles, which may repeat; a row for each name, "" where it has none."""
    rows = [[cells.get(name, "") for _, cells in columns] for name in names]
    return pd.DataFrame(rows, index=[*names], columns=[title for title, _ in columns])


def _details(rows: Mapping[str, Row], base: str) -> list[tuple[str, Mapping[str, str]]]:
    """Everything beside the scores, but for columns that are empty."""
    texts = {
        f"against {base}": difference,
        "p (Holm)": lambda row: _number(row["p_holm"], ".2g"),
        "parameters": lambda row: count(row["parameters"]),
        "seconds": lambda row: " / ".join(_seconds(row[f"{s}_seconds"]) for s in ("fit", "score")),
        "tokens": lambda row: " / ".join(count(row[f"{s}_tokens"]) for s in ("fit", "score")),
        "cross-entropy": lambda row: _number(row["cross_entropy"], ".3f"),
        "KL": lambda row: _number(row["kl"], ".4f"),
        "refusals": lambda row: _number(100 * row["refusals"], ".1f"),
    }
    columns = {
        title: {method: text(row) for method, row in rows.items()} for title, text in texts.items()
    }
    return [(title, cells) for title, cells in columns.items() if any(cells.values())]


def _number(value: float, digits: str) -> str:
    return "" if math.isnan(value) else f"{value:{digits}}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
