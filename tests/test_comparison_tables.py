from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.published import published
from lofit_lens.analysis.study.record import Cost
from lofit_lens.analysis.tables import cells, latex, tables
from lofit_lens.analysis.tables.cells import count
from lofit_lens.analysis.tables.latex import escaped
from lofit_lens.errors import LofitLensError
from tests.test_comparison import METHODS, run, single, whole

Layout = Callable[..., str]


def laid_out(layout: Callable[[cells.Tables], str]) -> Layout:
    """A layout of a comparison; the other arguments are those of `Tables.of`."""
    return lambda comparison, **how: layout(cells.Tables.of(comparison, **how))


LAYOUTS = as_text, as_markdown, as_html, as_latex = [
    laid_out(layout)
    for layout in (tables.as_text, tables.as_markdown, tables.as_html, latex.as_latex)
]


class Tables(HTMLParser):
    """The rows of every table of a page, as text, and the tags that are open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] == "caption":
            self.captions.append(data)


def odd() -> Comparison:
    """Names that every format has to escape, and one group of costs and side effects."""
    name = r"a_b & 50% #1 {x} $y$ \z ~ ^ <i> | *q*"
    made = replace(
        run(name, [1.0, 1.0, 0.0], cost=Cost(12288, 83.4, 2.5, 4_194_304, 999)),
        side_effects={"cross_entropy": 2.5, "kl": 0.0123, "refusals": 0.25},
    )
    return Comparison((run("zero-shot", [0.0, 1.0, 0.0]), made))


def latex_rows(latex: str) -> list[str]:
    return [line for line in latex.splitlines() if line.endswith(r" \\")]


def amp(row: str) -> int:
    return len(re.findall(r"(?<!\\)&", row))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_score_stands_in_every_table_with_interval_and_mark(layout: Layout) -> None:
    result = whole()
    page = layout(result)
    page = page.replace("&#8595;", "↓").replace(r"\*", "*")
    for row in result.frame().to_dict("records"):
        arrow = "↓" if row["direction"] == "worse" else ""
        value = f"{100 * row['value']:.1f}"
        interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        if layout is as_latex:
            marks = row["mark"] + arrow.replace("↓", r"\downarrow")
            raised = f"$^{{{marks}}}$" if marks else ""
            assert f"{value}{raised} {{\\scriptsize {interval}}}" in page
        else:
            assert f"{value}{row['mark']}{arrow} {interval}" in page


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tests_of_another_base_can_be_shown(layout: Layout) -> None:
    page = layout(whole(), base="lofit")
    assert "Differences to lofit" in page.replace("\n", " ")
    assert "worse than lofit" in page.replace("\n  ", " ")


def test_the_text_has_a_row_per_task_and_method_and_floor() -> None:
    lines = as_text(whole()).splitlines()
    first, second = lines.index("truthfulqa (n = 65, seeds 7, 42)"), lines.index("")
    rows = [line.split()[0] for line in lines[first + 1 : second]]
    assert rows == ["method", *METHODS, "floor:", "floor:"]
    assert lines[second + 1] == "mquake (n = 60, seeds 7, 42)"
    lofit = whole().frame().query("method == 'lofit' and metric == 'EM'").iloc[0]
    difference = (
        f"{100 * lofit['difference']:+.1f} [{100 * lofit['difference_low']:+.1f}, "
        f"{100 * lofit['difference_high']:+.1f}]"
    )
    (line,) = [x for x in lines if x.startswith("  lofit") and difference in x]
    assert f"{lofit['p_holm']:.2g}" in line


def test_costs_and_side_effects_are_shown_and_unmeasured_ones_are_not() -> None:
    text = as_text(odd())
    (line,) = [x for x in text.splitlines() if x.startswith("  a_b")]
    cells = re.split(r"\s{2,}", line.strip())
    assert cells[-6:] == ["12.3K", "83 / 2.5", "4.19M / 999", "2.500", "0.0123", "25.0"]
    assert "cross-entropy" not in as_text(whole()).splitlines()[1]


def test_the_columns_of_the_text_are_aligned() -> None:
    lines = as_text(whole()).splitlines()
    header, rows = lines[1], lines[2:6]
    end = header.index("MC1") + len("MC1")
    assert all(row[end - 1] == "]" and row[end] == " " for row in rows)


def test_the_markdown_has_a_table_per_task_with_equal_columns() -> None:
    page = as_markdown(whole())
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + len(METHODS) + 2)
    for task in (rows[:8], rows[8:]):
        assert len({line.count("|") for line in task}) == 1
    odd_rows = [x for x in as_markdown(odd()).splitlines() if x.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", x)) for x in odd_rows}) == 1
    assert r"\<i> \| \*q\*" in odd_rows[3]


def test_the_html_has_all_tasks_side_by_side_and_then_each_with_its_costs() -> None:
    page = as_html(whole())
    found = Tables(page)
    assert found.open == []
    assert found.captions == [
        "All tasks",
        "truthfulqa (n = 65, seeds 7, 42)",
        "mquake (n = 60, seeds 7, 42)",
    ]
    overview, truthfulqa, mquake = found.tables
    assert overview[0] == ["method", "parameters", "truthfulqa", "mquake"]
    assert overview[1] == ["MC1", "MC2", "EM"]
    assert [row[0] for row in overview[2:]] == [*METHODS, "floor: chance", "floor: copying"]
    assert overview[2:][2][2] == truthfulqa[3][1] and overview[2:][2][4] == mquake[3][1]
    for table in (overview[2:], truthfulqa, mquake):
        assert len({len(row) for row in table}) == 1
    assert page.count('<th scope="row">') == 3 * 6
    assert "http" not in page and page.isascii()
    assert whole()._repr_html_() == page


def test_one_task_needs_no_overview() -> None:
    assert len(Tables(as_html(odd())).tables) == 1


def test_html_names_are_escaped() -> None:
    (table,) = Tables(as_html(odd())).tables
    assert table[2][0] == r"a_b & 50% #1 {x} $y$ \z ~ ^ <i> | *q*"
    assert "<i>" not in as_html(odd())


def test_the_latex_table_has_the_columns_it_says_and_balanced_braces() -> None:
    for result, model in ((whole(), None), (whole(), "llama2-7b"), (odd(), None)):
        page = as_latex(result, published=model)
        (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", page)
        tasks, *rows = latex_rows(page)
        assert {amp(row) for row in rows} == {len(columns) - 1}
        widths = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", tasks)]
        assert amp(tasks) == 2 + len(widths) - 1 and 2 + sum(widths) == len(columns)
        bare = re.sub(r"\\[{}]", "", page)
        assert bare.count("{") == bare.count("}")
        depth = 0
        for sign in bare:
            depth += (sign == "{") - (sign == "}")
            assert depth >= 0
        assert page.count(r"\begin") == page.count(r"\end") == 2
        ends = re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", page)
        assert [int(b) - int(a) + 1 for a, b in ends] == widths


def test_the_latex_rows_are_the_methods_and_the_floors_with_parameters() -> None:
    rows = [row.split(" & ")[:2] for row in latex_rows(as_latex(whole()))[2:]]
    assert rows == [
        ["zero-shot", "0"],
        *([name, "64"] for name in METHODS[1:]),
        ["floor: chance", ""],
        ["floor: copying", ""],
    ]


def test_parameters_that_differ_between_tasks_are_a_range() -> None:
    result = whole()
    more = [
        replace(r, cost=Cost(parameters=2048)) if (r.method, r.task) == ("iti", "mquake") else r
        for r in result.runs
    ]
    assert "iti & 64--2.05K & " in as_latex(Comparison(tuple(more)))


def test_signs_that_latex_takes_for_commands_are_written_out() -> None:
    assert escaped(r"50% & $x_1$ #{a} ~^\b <") == (
        r"50\% \& \$x\_1\$ \#\{a\} \textasciitilde{}\textasciicircum{}\textbackslash{}b \textless{}"
    )
    assert r"a\_b \& 50\% \#1 \{x\} \$y\$ \textbackslash{}z" in as_latex(odd())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_papers_numbers_stand_beside(layout: Layout) -> None:
    page = layout(whole(), published="llama2-7b")
    assert "28.4" in page and "58.1" in page and "75.8" in page
    assert "Yin, Ye and Durrett" in page.replace("\n  ", " ")
    assert "Yin" not in layout(whole())
    assert "paper" not in layout(single({"zero-shot": [0.0], "iti": [1.0]}), published="llama2-7b")
    with pytest.raises(LofitLensError, match="gpt-2"):
        layout(whole(), published="gpt-2")


def test_the_papers_numbers_are_in_the_rows_and_columns_they_belong_to() -> None:
    (header, *rows) = Tables(as_html(whole(), published="gemma-7b")).tables[1]
    assert header[1:5] == ["MC1", "paper", "MC2", "paper"]
    for row in rows[: len(METHODS)]:
        for place, metric in ((2, "MC1"), (4, "MC2")):
            number = published("gemma-7b", row[0], "truthfulqa", metric)
            assert row[place] == ("" if number is None else f"{number:.1f}")


def test_floors_stand_under_the_main_metric() -> None:
    table = Tables(as_html(whole())).tables[1]
    chance = table[-2]
    assert chance[:3] == ["floor: chance", "20.0", ""]
    assert set(chance[2:]) == {""}


def test_a_method_without_a_task_has_a_dash_there() -> None:
    result = whole()
    less = tuple(r for r in result.runs if (r.method, r.task) != ("iti", "mquake"))
    page = as_latex(replace(result, runs=less))
    (row,) = [x for x in latex_rows(page) if x.startswith("iti")]
    assert row.endswith(r"& -- \\")
    assert as_text(replace(result, runs=less)).count("\n  iti ") == 1


def test_the_legend_says_how_many_comparisons_and_what_one_seed_cannot_tell() -> None:
    legend = cells.Tables.of(whole()).sentences
    assert "over 6 comparisons" in legend["tests"]
    assert "new items and new seeds" in legend["scores"]
    assert "one seed does not tell" in cells.Tables.of(odd()).sentences["scores"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (999.0, "999"),
        (999.6, "1K"),
        (12288.0, "12.3K"),
        (4194304.0, "4.19M"),
        (2e9, "2B"),
    ],
)
def test_counts_have_three_digits(number: float, text: str) -> None:
    assert count(number) == text
