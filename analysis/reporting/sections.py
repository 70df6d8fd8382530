"""The sections of the page in their order, each made from a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from lofit_lens.analysis.inside.overlap import head_overlap
from lofit_lens.analysis.kinds.matrix import MARKS
from lofit_lens.analysis.reporting.heads import heads_section
from lofit_lens.analysis.reporting.markup import definitions, details, paragraph, scrolling, table
from lofit_lens.analysis.reporting.origins import (
    provenance_section,
    reproduce_section,
    summary_section,
)
from lofit_lens.analysis.reporting.plots import Plot, traces_frame
from lofit_lens.analysis.reporting.section import Section
from lofit_lens.analysis.study.lofit_table import lofit_bars, lofit_table
from lofit_lens.analysis.study.paired import DIFFERENCE, mark
from lofit_lens.analysis.tables.tables import as_html

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.study.results import Study

SCORES = "Scores in %, with 95% intervals."
MARKED = "* p < 0.05, + p < 0.1: LoFiT on the heads chosen for the task is better, Holm-corrected."


def sections(study: Study) -> list[Section]:
    """The sections that a study has something for."""
    made = (make(study) for make in _ORDER)
    return [section for section in made if section is not None]


def _scores(study: Study) -> Section | None:
    """Tables and forest plots of comparisons, and tables of other runs."""
    parts, plots = [], []
    for number, (name, comparison) in enumerate(study.comparisons.items(), start=1):
        parts.append(f"<h3>{escape(name)}</h3>{scrolling(f'Table of {name}', as_html(comparison))}")
        if len(comparison.methods) > 1:
            tested = comparison.frame().dropna(subset="difference")[_TESTED]
            plots.append(Plot(f"forest-{number}", comparison.plot(), _percent(tested)))
            parts.append(plots[-1].html())
    for name, frame in study.tables.items():
        rows = "With tests, row by row" if "p_holm" in frame else "Row by row"
        whole = details(rows, table(_percent(frame), name))
        note = f"{SCORES} {MARKED}" if "p_holm" in frame else SCORES
        parts += [table(by_task(frame), name), paragraph(note), whole]
    for number, (task, run) in enumerate(study.runs.items(), start=1):
        plots.append(Plot(f"accuracy-{number}", lofit_bars(run), _percent(lofit_table(run))))
        parts.append(f"<h3>{escape(task)}</h3>{plots[-1].html()}")
    return _section("scores", "Scores", parts, plots)


_TESTED = ["task", "method", "metric", *DIFFERENCE, "p_holm"]


def _transfer(study: Study) -> Section | None:
    """Figure 2, with a switch."""
    plots = [
        Plot(f"transfer-{number}", matrix.plot(), _percent(matrix.frame()))
        for number, matrix in enumerate(study.matrices.values(), start=1)
    ]
    if not plots:
        return None
    note = f"Rows: where the heads come from; columns: the task tuned and tested on. {MARKS}."
    title = "Figure 2: heads of one task on another"
    parts = [paragraph(note), *_labelled(study.matrices, plots)]
    return _section("transfer", title, parts, plots)


def _layers(study: Study) -> Section | None:
    """Figure 3."""
    plots = [
        Plot(f"layers-{number}", layers.plot(), layers.frame())
        for number, layers in enumerate(study.layers.values(), start=1)
    ]
    title = "Figure 3: where the chosen heads lie"
    return _section("layers", title, _labelled(study.layers, plots), plots)


def _overlap(study: Study) -> Section | None:
    """Figure 6, and which tasks chose a head."""
    parts, plots = [], []
    for number, (label, layers) in enumerate(study.layers.items(), start=1):
        if len(layers.heads) == 1 and len(next(iter(layers.heads.values()))) == 1:
            continue
        overlap = head_overlap(layers.heads)
        pair = Plot(f"overlap-{number}", overlap.plot(), overlap.frame())
        grid = Plot(f"shared-{number}", layers.plot_overlap(), layers.chosen())
        parts.append(f"<h3>{escape(label)}</h3>{pair.html()}{grid.html()}")
        plots += [pair, grid]
    return _section("overlap", "Figure 6: how alike the chosen heads are", parts, plots)


def _sweeps(study: Study) -> Section | None:
    """Figures 4 and 5."""
    plots = [
        Plot(f"sweep-{number}", sweep.plot(), _percent(sweep.frame()))
        for number, sweep in enumerate(study.sweeps.values(), start=1)
    ]
    title = "Figures 4 and 5: how many examples, how many heads"
    return _section("sweeps", title, _labelled(study.sweeps, plots), plots)


def _causal(study: Study) -> Section | None:
    """What a model without the chosen heads, or with them alone, can do."""
    plots = [
        Plot(f"causal-{number}", curves.plot(), _percent(curves.frame()))
        for number, curves in enumerate(study.curves.values(), start=1)
    ]
    title = "Is the head set causal?"
    return _section("causal", title, _labelled(study.curves, plots), plots)


def _further(study: Study) -> Section | None:
    """The figures of a study that no other section shows."""
    names = [name for name in study.figure_names if not name.startswith(_SHOWN)]
    plots = [
        Plot(f"further-{number}", figure, traces_frame(figure))
        for number, figure in enumerate(study.figures(names).values() if names else (), start=1)
    ]
    return _section("further", "Further figures", _labelled(names, plots), plots)


_SHOWN = ("figure2", "figure3", "figure4", "figure5", "figure6", "chosen", "causal", "forest")
_SHOWN += ("accuracy", "scores")


def _costs(study: Study) -> Section | None:
    """Parameters, seconds and tokens of each method."""
    columns = ["task", "method", "parameters", "fit_seconds", "score_seconds"]
    columns += ["fit_tokens", "score_tokens"]
    parts = []
    for name, comparison in study.comparisons.items():
        costs = comparison.frame()[columns].drop_duplicates(["task", "method"])
        parts.append(table(costs, f"Costs of one seed: {name}"))
    seconds = {
        name: f"{told['seconds']:,.0f} seconds"
        for name, told in study.provenance.items()
        if told.get("seconds")
    }
    return _section("costs", "Costs", parts + ([definitions(seconds)] if seconds else []), [])


_ORDER: tuple[Callable[[Study], Section | None], ...] = (
    summary_section,
    _scores,
    _transfer,
    _layers,
    _overlap,
    _sweeps,
    _causal,
    heads_section,
    _further,
    _costs,
    provenance_section,
    reproduce_section,
)


def _percent(frame: pd.DataFrame) -> pd.DataFrame:
    """With shares as percentages."""
    shares = [name for name in _SHARES if name in frame]
    return frame.assign(**{name: (100 * frame[name]).round(1) for name in shares})


_SHARES = ("value", "low", "high", "relative", *DIFFERENCE)


def by_task(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of a run with one row per method and one column per task and metric."""
    import pandas as pd

    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in frame.to_dict("records"):
        heads = f"{row['heads']:.0f}" if row.get("heads", 0) > 0 else ""
        cell = f"{100 * row['value']:.1f}"
        if not pd.isna(row["low"]):
            cell += f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        if row.get("difference", 0) > 0:
            cell += mark(row["p_holm"])
        rows.setdefault((row["method"], heads), {})[f"{row['task']}, {row['metric']}"] = cell
    columns = dict.fromkeys(column for cells in rows.values() for column in cells)
    lines = [
        {"method": method, "heads": heads} | {column: cells.get(column, "") for column in columns}
        for (method, heads), cells in rows.items()
    ]
    found = pd.DataFrame(lines)
    return found if found["heads"].any() else found.drop(columns="heads")


def _labelled(labels: Iterable[str], plots: Sequence[Plot]) -> list[str]:
    """Each plot under a heading."""
    pairs = zip(labels, plots, strict=True)
    return [f"<h3>{escape(label)}</h3>{plot.html()}" for label, plot in pairs]


def _section(name: str, title: str, parts: list[str], plots: list[Plot]) -> Section | None:
    return Section(name, title, "\n".join(parts), tuple(plots)) if parts else None
