"""Comparisons in the table of kinds."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lofit_lens.analysis.figures.drawing import Drawings, named
from lofit_lens.analysis.kinds.comparison import KIND, Comparison
from lofit_lens.analysis.kinds.selectors import SELECTOR_METHODS, selector_table
from lofit_lens.analysis.methods.names import ALIASES, whole_name
from lofit_lens.analysis.reading.folders import scores_in, told_of
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.answers import written
from lofit_lens.analysis.reporting.markup import details, scrolling, table
from lofit_lens.analysis.reporting.plots import Plot
from lofit_lens.analysis.reporting.section import Section, percent
from lofit_lens.analysis.study.paired import DIFFERENCE
from lofit_lens.analysis.tables.cells import Tables, interval
from lofit_lens.analysis.tables.tables import as_html
from lofit_lens.heads import HeadSet

_COSTS = ["task", "method", "parameters", "fit_seconds", "score_seconds"]
_COSTS += ["fit_tokens", "score_tokens"]


def _read(folder: Path, marker: Marker) -> Study:
    found, name = Comparison.load(folder), folder.resolve().name
    told = {"kind": KIND.name, "command_line": marker.get("command_line"), **told_of(found.runs)}
    return Study(
        folder,
        {"comparisons": {name: found}},
        scores=scores_in(folder),
        chosen=_chosen_by_lofit(found),
        provenance={name: told},
    )


def _chosen_by_lofit(comparison: Comparison) -> dict[str, dict[int, HeadSet]]:
    found: dict[str, dict[int, HeadSet]] = {}
    for run in comparison.runs:
        if whole_name(run.method) == ALIASES["lofit"] and run.heads:
            found.setdefault(run.fold, {})[run.seed] = run.heads
    return found


def _drawings(study: Study) -> Drawings:
    """Forest plots, and Table 2 where heads were chosen in several ways beside LoFiT's."""
    compared = {run: c for run, c in study.comparisons.items() if len(c.methods) > 1}
    forests = {run: comparison.plot for run, comparison in compared.items()}
    tables = {
        run: lambda c=c: selector_table(c).plot() for run, c in compared.items() if _has_table_2(c)
    }
    return {**named("forest", forests), **named("table2", tables)}


def _has_table_2(comparison: Comparison) -> bool:
    known = {whole_name(name) for name in SELECTOR_METHODS}
    found = [name for name in map(whole_name, comparison.methods) if name in known]
    return found.count(ALIASES["lofit"]) == 1 and len(set(found)) > 2


def _sections(study: Study) -> Iterator[Section]:
    """Tables and forest plots, answers side by side, and what each method costs."""
    scores, answers, costs, plots = [], [], [], []
    for number, (name, comparison) in enumerate(study.comparisons.items(), start=1):
        frame = comparison.frame()
        whole = scrolling(f"Table of {name}", as_html(Tables.of(comparison)))
        scores.append(f"<h3>{escape(name)}</h3>{whole}")
        if len(comparison.methods) > 1:
            columns = ["task", "method", "metric", *DIFFERENCE, "p_holm"]
            tested = percent(frame.dropna(subset="difference")[columns])
            plots.append(Plot(f"forest-{number}", comparison.plot(), tested))
            scores.append(plots[-1].html())
        for task in comparison.tasks:
            texts = written(comparison, task)
            if texts is not None:
                shown = table(texts, "The first items, with the first seed")
                answers.append(details(f"{name}: {task}", shown))
        spent = frame[_COSTS].drop_duplicates(["task", "method"])
        costs.append(table(spent, f"Costs of one seed: {name}"))
    if scores:
        yield Section("scores", "Scores", "\n".join(scores), tuple(plots), ("forest",))
        if answers:
            yield Section("answers", "Answers side by side", "\n".join(answers))
        yield Section("costs", "Costs", "\n".join(costs))


def sentences(comparison: Comparison) -> Iterator[str]:
    """For each task the method with the highest mean, and whether it differs from the base."""
    base, frame = comparison.base, comparison.frame()
    tests = int(frame["p"].notna().sum())
    for task in comparison.tasks:
        main = frame[(frame["task"] == task) & (frame["metric"] == comparison.metrics(task)[0])]
        rows: Sequence[Mapping[Hashable, Any]] = main.to_dict("records")
        best = max(rows, key=lambda row: row["value"])
        start = f"{task} (n = {best['n']}): highest mean {best['metric']} {_score(best)}, {best['method']}"
        if best["method"] == base:
            yield f"{start}; no other method is above it."
            continue
        against = next(row for row in rows if row["method"] == base)
        test = f"p = {best['p_holm']:.2g}, Holm-corrected over {tests} comparisons"
        value, low, high = (100 * best[name] for name in DIFFERENCE)
        verdict = "significant" if best["mark"] == "*" else "not significant at 0.05"
        below = best["floor"] >= best["value"]
        floor = f" It is not above the floor of {100 * best['floor']:.1f}%." if below else ""
        yield (
            f"{start}; {base} {_score(against)}. The difference, {value:+.1f} points [{low:+.1f}, "
            f"{high:+.1f}], is {verdict} ({test}).{floor}"
        )


def _score(row: Mapping[Hashable, Any]) -> str:
    return f"{100 * row['value']:.1f}%{interval(row)}"


COMPARISON = Row(
    "`compare`", _read, KIND,
    drawings=_drawings, sections=_sections,
    sentences=lambda study: (told for c in study.comparisons.values() for told in sentences(c)),
    seeds=lambda study: [comparison.seeds for comparison in study.comparisons.values()],
    items=lambda study: {t: len(c.groups(t)) for c in study.comparisons.values() for t in c.tasks},
)  # fmt: skip
