"""The report as text: what is in it, and that it needs nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import typer
from typer.testing import CliRunner

from lofit_lens.analysis.cli.figures import report as report_command
from lofit_lens.analysis.figures.files import write_figure
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.comparison_row import sentences as of_comparison
from lofit_lens.analysis.kinds.demo_row import by_task
from lofit_lens.analysis.kinds.lofit_row import lofit_table
from lofit_lens.analysis.kinds.lofit_row import sentence as of_run
from lofit_lens.analysis.kinds.transfer_row import sentences as of_matrix
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.heads import Explorer
from lofit_lens.analysis.reporting.markup import flat, in_line, number
from lofit_lens.analysis.reporting.origins import ONE_SEED, findings
from lofit_lens.analysis.reporting.page import page, report
from lofit_lens.analysis.reporting.study_cards import cards_of, chosen_by
from lofit_lens.errors import LofitLensError
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import Head
from tests.small_study import (
    BOTH,
    CHOSEN,
    N_HEADS,
    N_LAYERS,
    NASTY,
    SEEDS,
    TASKS,
    cards,
    comparison,
    edit,
    heads,
    large_cards,
    matrix,
    run,
    scores,
    study,
    table,
)

SECTIONS = ("summary", "scores", "transfer", "layers", "overlap", "sweeps", "causal", "heads")
SECTIONS += ("further", "costs", "provenance", "reproduce")


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._open: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append((tag, dict(attrs).get("id") or f"{tag} {len(self.scripts)}"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            name = self._open[-1][1]
            self.scripts[name] = self.scripts.get(name, "") + data
        else:
            self.text += data

    def all(self, attribute: str) -> list[str]:
        return [value for _, given in self.tags if (value := given.get(attribute)) is not None]

    def sections(self) -> tuple[str, ...]:
        return tuple(
            str(given["id"]) for tag, given in self.tags if tag == "section" and "id" in given
        )


def with_cards(found: dict[str, HeadCards]) -> Study:
    return replace(study(), results={**study().results, "head cards": found})


@pytest.fixture(scope="module")
def whole() -> Page:
    return Page(page(study()))


def test_a_whole_study_has_every_section_and_a_contents_list(whole: Page) -> None:
    assert whole.sections() == SECTIONS
    links = [given["href"] for tag, given in whole.tags if tag == "a"]
    assert links == ["#main", *(f"#{name}" for name in SECTIONS)]


def test_a_section_is_there_only_if_the_study_has_something_for_it() -> None:
    small = Study(
        Path("small"), scores={"truth": {7: scores("truth", 7)}}, provenance={"small": {}}
    )
    assert Page(page(small)).sections() == ("summary", "heads", "provenance", "reproduce")
    compared = Study(
        Path("c"), {"comparisons": {"c": comparison()}}, provenance={"c": {"kind": "x"}}
    )
    found = Page(page(compared)).sections()
    assert found == ("summary", "scores", "costs", "provenance", "reproduce")


def test_the_page_names_nothing_outside_itself(whole: Page) -> None:
    assert [link for link in whole.all("src") if link] == []
    assert all(link.startswith(("#", "data:")) for link in whole.all("href"))
    policy = next(g["content"] for t, g in whole.tags if t == "meta" and "http-equiv" in g)
    assert policy is not None and policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert not re.search(
        r"@import|url\(", "".join(s for n, s in whole.scripts.items() if "style" in n)
    )


def test_plotly_is_there_once(whole: Page) -> None:
    banner = re.compile(r"plotly\.js v\d")
    assert sum(len(banner.findall(script)) for script in whole.scripts.values()) == 1


def test_headings_are_in_order_and_ids_are_unique(whole: Page) -> None:
    levels = [int(tag[1]) for tag, _ in whole.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert max(Counter(whole.all("id")).values()) == 1
    assert ("html", {"lang": "en"}) in whole.tags


def test_every_figure_says_in_words_what_it_shows_and_has_its_data_as_a_table(whole: Page) -> None:
    plots = [given for tag, given in whole.tags if "data-figure" in given and tag == "div"]
    drawn = [given for given in plots if given.get("class") == "plot"]
    names = [
        "forest-1",
        "scores-1",
        "scores-2",
        "transfer-1",
        "layers-1",
        "overlap-1",
        "shared-1",
    ]
    names += ["sweeps-1", "causal-1", "heads-1-1", "further-1", "further-2"]
    assert [given["id"] for given in drawn] == names
    for given in drawn:
        assert given["role"] == "img"
        assert re.search(
            r": .+\d+ values from .+ to .+, in the table below\.", given["aria-label"] or ""
        )
    assert whole.text.count("The data as a table") == len(drawn)


def test_names_that_are_html_are_shown_as_text(whole: Page) -> None:
    assert "img" not in {tag for tag, _ in whole.tags}
    assert "b" not in {tag for tag, _ in whole.tags}
    assert NASTY in whole.text
    odd = Page(page(study(), title=NASTY))
    assert f"{NASTY}: LoFiT Lens" in odd.text
    assert odd.sections() == SECTIONS


def test_the_figures_in_the_page_are_those_of_the_results(whole: Page) -> None:
    figures = json.loads(whole.scripts["figures"])
    drawn: Any = go.Figure({"data": figures["transfer-1"]["data"]})
    original: Any = matrix().plot()
    for found, expected in zip(drawn.data, original.data, strict=True):
        assert (found.text == expected.text).all()
    labels = [button["label"] for button in figures["transfer-1"]["menus"][0]["buttons"]]
    assert labels == ["relative", "score"]
    for figure in figures.values():
        assert not {"template", "updatemenus"} & figure["layout"].keys()
    assert set(json.loads(whole.scripts["templates"])) == {"light", "dark"}


def test_findings_of_a_comparison_say_what_was_tested_and_no_more() -> None:
    first, _ = of_comparison(comparison())
    frame = comparison().frame()
    lofit = frame[(frame["task"] == "truth") & (frame["method"] == "lofit")].iloc[0]
    assert f"highest mean MC1 {100 * lofit['value']:.1f}%" in first
    assert f"{100 * lofit['difference']:+.1f} points" in first
    assert f"p = {lofit['p_holm']:.2g}, Holm-corrected over 4 comparisons" in first
    assert "is significant" in first

    alike = Comparison(tuple(r for r in comparison().runs if r.method != "lofit"))
    for sentence in of_comparison(alike):
        assert "is significant" not in sentence
    base = Comparison(comparison().runs, base="lofit")
    assert all("no other method is above it" in sentence for sentence in of_comparison(base))


def test_a_score_below_its_floor_is_told() -> None:
    low = Comparison(tuple(r for r in comparison().runs if r.method == "iti"), base="iti")
    assert not any("floor" in sentence for sentence in of_comparison(low))
    alike = Comparison(tuple(r for r in comparison().runs if r.method != "lofit"))
    below = [row for row in alike.frame().to_dict("records") if row["value"] <= row["floor"]]
    told = [s for s in of_comparison(alike) if "not above the floor of 25.0%" in s]
    assert len(told) <= len(below)


def test_findings_of_a_matrix_count_its_marks() -> None:
    frame = matrix().frame()
    others = frame[frame["source"] != frame["task"]]
    for sentence, part in zip(
        of_matrix(matrix()),
        (others[others["source"] == "random"], others[others["source"] != "random"]),
        strict=True,
    ):
        better = (part["mark"] == "*").sum()
        assert f"{better or 'none'} of {len(part)} cells" in sentence
        assert f"over {len(others)} cells" in sentence


def test_a_run_is_told_before_and_after() -> None:
    ran = run("truth")
    before, after = (100 * found.main.value for found in (ran.zero_shot, ran.tuned))
    sentence = next(s for s in findings(study()) if "tuned heads" in s)
    assert f"MC1 with 2 tuned heads {after:.1f}%" in sentence
    drawn = replace(ran, random={3: ran.zero_shot, 4: ran.tuned})
    assert f"as many random heads {before:.1f}%, {after:.1f}%." in of_run("truth", drawn)
    assert f"zero-shot {before:.1f}%" in sentence


def test_one_seed_is_told() -> None:
    one = Study(Path("one"), {"comparisons": {"one": comparison((7,))}})
    assert findings(one)[-1] == ONE_SEED
    assert ONE_SEED not in findings(study())


def test_one_seed_of_a_run_is_told_and_a_score_below_its_floor() -> None:
    ran = run("truth")
    results = {"runs of both stages": {"truth": ran}}
    one = Study(Path("o"), results, chosen={"truth": {7: heads("truth", 7)}})
    assert findings(one)[-1] == ONE_SEED
    assert "floor" not in " ".join(findings(one))
    below = replace(ran, tuned=replace(ran.tuned, floors={"always A": 0.99}))
    low = {"runs of both stages": {"truth": below}}
    assert "It is not above the floor of 99.0%." in findings(replace(one, results=low))[0]


def test_a_run_has_its_floors_and_no_tests_it_was_not_given() -> None:
    table = lofit_table(run("truth"))
    assert table["method"].tolist() == ["floor: chance", "zero-shot", "LoFiT"]
    told = page(
        Study(Path("o"), {"runs of both stages": {"truth": run("truth")}}, tables={"o": table})
    )
    assert "Row by row" in told and "With tests" not in told and "zero_shot" not in told


def test_a_figure_has_no_button_that_sends_it_away(tmp_path: Path, whole: Page) -> None:
    path = write_figure(go.Figure(), tmp_path / "figure.html")
    written = path.read_text(encoding="utf-8")
    assert '"showSendToCloud": false' in written and "cloud.plotly.com" not in written
    assert json.loads(whole.scripts["config"])["showSendToCloud"] is False


def test_the_seeds_agreement_is_that_of_the_sets() -> None:
    sentence = next(s for s in findings(study()) if s.startswith("truth: the 2 heads"))
    assert "mean Jaccard index of 0.33" in sentence  # one head of three


def test_heads_chosen_by_several_tasks_and_seeds() -> None:
    found = chosen_by(study(), HeadGrid(N_LAYERS, N_HEADS))
    assert found[BOTH] == {"truth": list(SEEDS), NASTY: list(SEEDS)}
    assert found[Head(0, 3)] == {"truth": [7]}
    assert chosen_by(study(), HeadGrid(9, 9)) == {}


def test_without_cards_scores_and_edits_make_them() -> None:
    ((name, found),) = cards_of(with_cards({})).items()
    assert name == "model, 3 layers x 4 heads"
    expected = cards()
    assert found.scores == expected.scores
    norms = {(e.head, e.task): e.offset_norm for e in found.edits}
    for task in TASKS:
        for row in edit(task).frame().to_dict("records"):
            assert norms[Head(row["layer"], row["head"]), task] == pytest.approx(row["bias_norm"])
    assert cards_of(Study(Path("empty"))) == {}


def test_a_large_model_has_cards_of_the_chosen_and_edited_heads_only() -> None:
    every = Explorer(1, cards(), chosen_by(study(), HeadGrid(N_LAYERS, N_HEADS)))
    assert len(every.heads) == N_LAYERS * N_HEADS
    wide = replace(cards(), n_heads=300, scores=(), attention=())
    chosen = {Head(0, 299): {"truth": [7]}}
    edited = {head for by_seed in CHOSEN.values() for head in by_seed[7]}
    assert Explorer(1, wide, chosen).heads == sorted({*edited, *chosen})


def test_the_first_card_is_of_the_head_chosen_most_often() -> None:
    assert Explorer(1, cards(), chosen_by(study(), HeadGrid(N_LAYERS, N_HEADS))).first == BOTH
    every = range(N_LAYERS * N_HEADS)
    tied = {Head(*divmod(i, N_HEADS)): {"truth": [7]} for i in every}
    ranks = np.sum([one.ranks for one in cards().scores], axis=0)
    best = min(cards().edited(), key=lambda head: ranks[head])
    assert Explorer(1, cards(), tied).first == best
    (scored,) = cards_of(Study(Path("s"), scores={"truth": {7: scores("truth", 7)}})).values()
    assert Explorer(1, scored, {}).first in scores("truth", 7).top(k=1)


def test_a_large_model_has_a_page_of_bearable_size() -> None:
    found = large_cards()
    best = set(np.argsort(-np.ravel(found.scores[0].scores))[:16].tolist())
    explorer = Explorer(1, found, {})
    assert len(explorer.heads) == 160
    assert {40 * head.layer + head.head for head, _ in explorer.looking} == best
    text = page(Study(Path("large"), {"head cards": {"run": found}}))
    assert len(text.encode()) < 9e6
    assert text.count("Its attention is left out") == 160 - 16
    assert text.count('<table class="ll-attention"') == 2 * 16


def test_cards_of_a_second_model_have_ids_of_their_own() -> None:
    two = with_cards({"a": cards(), "b": cards()})
    shown = Page(page(two))
    ids = shown.all("id")
    assert "a: tiny, 3 layers x 4 heads" in shown.text
    assert "b: tiny, 3 layers x 4 heads" in shown.text
    assert {"L2H1", "model2-L2H1"} <= set(ids)
    assert max(Counter(ids).values()) == 1


def test_the_table_of_a_run_has_a_column_for_each_task() -> None:
    found = by_task(table())
    assert found["method"].tolist() == ["floor: chance", "LoFiT", "random heads"]
    assert found["heads"].tolist() == ["", "2", "2"]
    scores = ["25.0", "90.0 [80.0, 95.0]", "30.0 [20.0, 40.0]*"]
    assert found[f"{NASTY}, MC1"].tolist() == scores
    assert by_task(run("truth").frame())["method"].tolist() == ["zero_shot", "tuned"]


def test_numbers_and_nested_values_as_text() -> None:
    assert [number(x) for x in (float("nan"), 3.0, 0.123456, 12345.0)] == [
        "",
        "3",
        "0.1235",
        "12,345",
    ]
    assert number(float("inf")) == "inf"
    assert flat({"a": {"b": {"c": 1}}, "d": {}}) == {"a, b, c": 1, "d": {}}
    assert in_line({"a": [1, None], "b": {}}) == "a 1, none; b none"


def test_a_report_is_written_beside_the_run_or_where_one_says(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    scores("truth", 7).save(folder / "scores.json")
    assert report(folder) == folder / "report.html"
    elsewhere = report(folder, out=tmp_path / "new" / "page.html", title="Mine")
    assert "<h1>Mine</h1>" in elsewhere.read_text(encoding="utf-8")
    assert "<h1>my run</h1>" in (folder / "report.html").read_text(encoding="utf-8")
    with pytest.raises(LofitLensError, match="run"):
        report(tmp_path / "new")
    with pytest.raises(LofitLensError, match=r"my run is a folder; name a file, as .*report\.html"):
        report(folder, out=folder)


def test_the_command_writes_the_report_and_refuses_an_empty_folder(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report_command)
    scores("truth", 7).save(tmp_path / "run" / "scores.json")
    done = CliRunner().invoke(app, [str(tmp_path / "run"), "--title", "Mine", "--json"])
    assert done.exit_code == 0, done.output
    written = Path(json.loads(done.stdout)["out"])
    assert "<h1>Mine</h1>" in written.read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    refused = CliRunner().invoke(app, [str(tmp_path / "empty")])
    assert refused.exit_code == 1
