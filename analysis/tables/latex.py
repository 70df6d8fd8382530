"""The table of a comparison in LaTeX, in the manner of the paper's Tables 1 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lofit_lens.analysis.tables.cells import NOTHING, WORSE, legend, overview, task_tables

if TYPE_CHECKING:
    from lofit_lens.analysis.kinds.comparison import Comparison

_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}$&#_%"}
    | {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        NOTHING: "--",
        WORSE: r"$\downarrow$",
    }
)


def as_latex(
    comparison: Comparison, *, base: str | None = None, published: str | None = None
) -> str:
    r"""The table in LaTeX: methods as rows, the metrics of the tasks as columns.

    Needs `\usepackage{booktabs}`. Arguments and errors are those of `as_text`.
    """
    tables = task_tables(comparison, base=base, published=published)
    widths = [table.scores.shape[1] for table in tables]
    tasks = [
        rf"\multicolumn{{{width}}}{{c}}{{{escaped(table.task)}}}"
        for width, table in zip(widths, tables, strict=True)
    ]
    ends = [3 + sum(widths[:place]) for place in range(len(widths) + 1)]
    rules = [rf"\cmidrule(lr){{{start}-{end - 1}}}" for start, end in pairwise(ends)]
    titles = [escaped(str(title)) for table in tables for title in table.scores]
    rows = [
        _row([escaped(name), escaped(parameters), *map(_score, cells)])
        for name, parameters, *cells in overview(comparison.methods, tables)
    ]
    methods = len(comparison.methods)
    floors = [r"\midrule", *rows[methods:]] if rows[methods:] else []
    sentences = legend(comparison, base=base, published=published)
    told = [text for name, text in sentences.items() if name not in ("costs", "effects")]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table*}[t]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{lr{'c' * sum(widths)}}}",
        r"\toprule",
        _row(["", "", *tasks]),
        "".join(rules),
        _row(["Method", "Parameters", *titles]),
        r"\midrule",
        *rows[:methods],
        *floors,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escaped(' '.join(told))}}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text with the signs that LaTeX takes for commands written out."""
    return text.translate(_ESCAPES)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _score(text: str) -> str:
    """A score with its marks raised and its interval small."""
    number, bracket, interval = text.partition(" [")
    digits = number.rstrip(f"*+{WORSE}")
    marks = number.removeprefix(digits).replace(WORSE, r"\downarrow")
    raised = f"$^{{{marks}}}$" if marks else ""
    small = rf" {{\scriptsize [{interval}}}" if bracket else ""
    return f"{escaped(digits)}{raised}{small}"
