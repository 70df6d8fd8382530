"""The table of a comparison in LaTeX, in the manner of the paper's Tables 1 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lofit_lens.analysis.tables.cells import NOTHING, WORSE, Tables

_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}$&#_%"}
    | {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "\n": " ",
        NOTHING: "--",
        WORSE: r"$\downarrow$",
    }
)


def as_latex(tables: Tables) -> str:
    r"""In LaTeX: methods as rows, the metrics of the tasks as columns; needs `\usepackage{booktabs}`."""
    widths = [table.scores.shape[1] for table in tables.tasks]
    tasks = [
        rf"\multicolumn{{{width}}}{{c}}{{{escaped(table.task)}}}"
        for width, table in zip(widths, tables.tasks, strict=True)
    ]
    ends = [3 + sum(widths[:place]) for place in range(len(widths) + 1)]
    rules = [rf"\cmidrule(lr){{{start}-{end - 1}}}" for start, end in pairwise(ends)]
    titles = [escaped(str(title)) for table in tables.tasks for title in table.scores]
    rows = [
        _row([escaped(name), escaped(parameters), *map(_score, cells)])
        for name, parameters, *cells in tables.overview()
    ]
    methods = len(tables.methods)
    floors = [r"\midrule", *rows[methods:]] if rows[methods:] else []
    told = [text for name, text in tables.sentences.items() if name not in ("costs", "effects")]
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
