"""Sweeps are comparisons: nested examples, heads chosen once, work kept when interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from lofit_lens.analysis import published
from lofit_lens.analysis.figures.sweeps import sweep_lines
from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.kinds.sweeps import example_sweep, head_sweep, with_examples
from lofit_lens.analysis.measure.side_effects import sample_texts
from lofit_lens.analysis.methods import steps
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study import score
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.tasks import ExactMatch, Task
from lofit_lens.tasks.embedded import embedded
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SETTINGS = Settings(
    selection=replace(SELECTION, epochs=1), tuning=replace(TUNING, epochs=1), batch_size=256
)
TASK = "embedded:kinship"


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return load_model("embedded", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def texts(model: TransformerBridge) -> Sequence[EncodedText]:
    return sample_texts(model, n=4, tokens=8)


@pytest.fixture(scope="module")
def task() -> Task:
    """Kinship, cut to a few items."""
    whole = embedded("kinship")
    val = whole.val[::20]
    cut = replace(whole, train=whole.train[::4], val=val, val_as_test=val, test=whole.test[::12])
    return replace(cut, scoring=ExactMatch(max_new_tokens=3))


@pytest.fixture(scope="module")
def by_examples(
    model: TransformerBridge, task: Task, texts: Sequence[EncodedText]
) -> Callable[..., Sweep]:
    """`example_sweep` over edits whose size is the number of examples."""

    def sweep(**arguments: Any) -> Sweep:
        shared: dict[str, Any] = {
            "settings": SETTINGS,
            "texts": texts,
            "methods": {"shift": shifting},
        }
        return example_sweep(model, [task], progress=False, **(shared | arguments))

    return sweep


@pytest.fixture(scope="module")
def by_heads(model: TransformerBridge, task: Task, texts: Sequence[EncodedText]) -> Sweep:
    """LoFiT's and random heads with two seeds, half and a twentieth of them."""
    return head_sweep(
        model, [task], (0.05, 0.5),
        methods=["lofit", "random-heads"], seeds=(1, 2), settings=by_share, texts=texts,
        progress=False,
    )  # fmt: skip


def by_share(share: float) -> Settings:
    """Another learning rate with fewer heads."""
    rate = 0.1 if share < 0.3 else 0.05
    return replace(SETTINGS, tuning=replace(SETTINGS.tuning, learning_rate=rate))


def shifting(model: TransformerBridge, task: Task, seed: int) -> Fitted:
    heads = HeadSet.every(n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    drawn = torch.randn(len(heads), model.cfg.d_head, generator=torch.Generator().manual_seed(seed))
    return Fitted(HeadIntervention(heads, bias=0.1 * len(task.train) * drawn), heads=heads)


def scores(comparison: Any, method: str) -> list[Any]:
    """What was generated and what else changed, run by run."""
    return [
        (run.side_effects, [record["generated"] for record in run.evaluation.records])
        for run in comparison.runs
        if run.method == method
    ]


def drawn(sweep: Sweep) -> Any:
    return sweep.plot()


def records(sweep: Sweep) -> dict[int, list[tuple[str, int, Any]]]:
    return {
        x: [(run.method, run.seed, run.evaluation.records) for run in comparison.runs]
        for x, comparison in sweep.comparisons.items()
    }


def test_fewer_examples_are_part_of_more_and_all_are_the_task_itself(task: Task) -> None:
    cuts = [set(with_examples(task, n, seed=3).train) for n in (2, 7, 8, 25)]
    assert [len(cut) for cut in cuts] == [2, 7, 8, 25]
    assert all(fewer < more for fewer, more in pairwise(cuts))
    assert with_examples(task, 25, seed=3) == task
    cut = with_examples(task, 7, seed=3)
    assert cut.train == tuple(example for example in task.train if example in cuts[1])
    assert (cut.val, cut.test, cut.source) == (task.val, task.test, task.source)
    assert set(with_examples(task, 7, seed=4).train) != cuts[1]


def test_each_example_is_drawn_as_often_as_any_other(task: Task) -> None:
    drawn = [e.id for seed in range(400) for e in with_examples(task, 5, seed=seed).train]
    counts = np.array([drawn.count(example.id) for example in task.train])
    assert counts.sum() == 2000
    assert ((counts - 80) ** 2 / 80).sum() < 51  # chi-squared with 24 degrees of freedom, p = 0.001


def test_more_examples_than_there_are_is_refused_before_anything_runs(
    task: Task, by_examples: Callable[..., Sweep], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has 25 training examples, got a request for 26"):
        by_examples(examples=(5, 26), out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(LofitLensError, match="at least 1, got 0"):
        with_examples(task, 0, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": ()}, "there must be one"),
        ({"examples": (5, 5)}, "must differ"),
        ({"examples": {"other": (5,)}}, TASK),
        ({"examples": (5,), "seeds": ()}, "Seeds"),
        ({"examples": (5,), "seeds": (1, 1)}, "Seeds"),
        ({"examples": (5,), "settings": {"other": SETTINGS}}, "`settings` lacks"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    arguments: Mapping[str, Any], message: str, by_examples: Callable[..., Sweep]
) -> None:
    with pytest.raises(LofitLensError, match=message):
        by_examples(**arguments)


def test_a_cell_of_an_example_sweep_is_a_comparison_on_that_many_examples(
    model: TransformerBridge, task: Task, texts: Sequence[EncodedText]
) -> None:
    settings = replace(SETTINGS, k=6)
    sweep = example_sweep(
        model, [task], {TASK: (20, 5)},
        methods=["lofit"], seeds=(1, 2), settings=settings, texts=texts, progress=False,
    )  # fmt: skip
    assert list(sweep.comparisons) == [5, 20]
    for n, found in sweep.comparisons.items():
        alone = [
            compare(
                model, [with_examples(task, n, seed=seed)], ["lofit"],
                seeds=(seed,), settings=settings, texts=texts, progress=False,
            )
            for seed in (1, 2)
        ]  # fmt: skip
        assert scores(found, "lofit") == [scores(one, "lofit")[0] for one in alone]
        assert scores(found, "zero-shot") == scores(alone[0], "zero-shot")
        fitted = [run for run in found.runs if run.method == "lofit"]
        assert [run.protocol for run in fitted] == [one.runs[1].protocol for one in alone]
        assert found.runs[0].protocol == alone[0].runs[0].protocol


def test_the_model_as_it_is_is_scored_once(
    by_examples: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    real = score.evaluate

    def counting(model: Any, task: Task, edit: Any, **options: Any) -> Any:
        scored.append(edit is None)
        return real(model, task, edit, **options)

    monkeypatch.setattr(score, "evaluate", counting)
    sweep = by_examples(examples=(5, 10, 20), seeds=(1, 2))
    assert (scored.count(True), scored.count(False)) == (1, 6)
    assert [len(comparison.runs) for comparison in sweep.comparisons.values()] == [3, 3, 3]


def test_heads_are_chosen_once_for_each_seed(
    model: TransformerBridge,
    task: Task,
    texts: Sequence[EncodedText],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    chosen = []
    real = steps.select_together

    def counting(model: Any, task: Task, configs: Any, **options: Any) -> Any:
        chosen.extend(config.seed for config in configs)
        return real(model, task, configs, **options)

    monkeypatch.setattr(steps, "select_together", counting)

    def sweep(fractions: Sequence[float]) -> Sweep:
        return head_sweep(
            model, [task], fractions,
            seeds=(1, 2), settings=SETTINGS, texts=texts, out=tmp_path / "heads", progress=False,
        )  # fmt: skip

    first = sweep((0.02, 0.1, 0.3))
    assert chosen == [1, 2]
    more = sweep((0.02, 0.05, 0.1, 0.3))
    assert chosen == [1, 2]
    assert {x: found for x, found in records(more).items() if x != 3} == records(first)


def test_a_cell_of_a_head_sweep_is_a_comparison_at_that_share(
    model: TransformerBridge, task: Task, texts: Sequence[EncodedText], by_heads: Sweep
) -> None:
    assert list(by_heads.comparisons) == [3, 32]
    for (k, found), share in zip(by_heads.comparisons.items(), (0.05, 0.5), strict=True):
        alone = compare(
            model, [task], ["lofit", "random-heads"],
            seeds=(1, 2), settings=replace(by_share(share), fraction=share), texts=texts,
            progress=False,
        )  # fmt: skip
        for method in alone.methods:
            assert scores(found, method) == scores(alone, method)
            assert [r.heads for r in found.runs if r.method == method] == [
                r.heads for r in alone.runs if r.method == method
            ]
        recipes = [run.protocol["recipe"] for run in found.runs if run.method != "zero-shot"]
        assert {recipe["k"] for recipe in recipes} == {k}
        assert {recipe["tuning"]["learning_rate"] for recipe in recipes} == {
            by_share(share).tuning.learning_rate
        }


def test_scope_draws_and_what_is_learned_hold_at_every_share(
    model: TransformerBridge, task: Task, texts: Sequence[EncodedText]
) -> None:
    names, shares, drawn = (
        ["random/scale@last", "iti"],
        (0.05, 0.2),
        replace(SETTINGS, random_draws=2),
    )
    sweep = head_sweep(
        model, [task], shares, methods=names, settings=drawn, texts=texts, progress=False
    )
    alone = compare(model, [task], names, settings=replace(drawn, k=3), texts=texts, progress=False)
    for name in names:
        assert scores(sweep.comparisons[3], name) == scores(alone, name)
    for ours, theirs in zip(sweep.comparisons[3].runs, alone.runs, strict=True):
        assert ours.cost.parameters == theirs.cost.parameters


@pytest.mark.parametrize(
    ("fractions", "methods", "message"),
    [
        ((), ["lofit"], "fractions is empty"),
        ((0.1, 0.101), ["lofit"], "of 64 heads are both 6"),
        ((1.5,), ["lofit"], r"fraction must be in \(0, 1\]"),
        ((0.1,), [], "methods is empty"),
        ((0.1,), ["lora"], "'lora' does not choose a number of heads"),
        ((0.1,), ["mine.json/bias"], "does not choose a number"),
        ((0.1,), ["lofti"], "no method 'lofti'"),
    ],
)
def test_a_head_sweep_that_makes_no_sense_is_refused(
    fractions: Sequence[float],
    methods: Sequence[str],
    message: str,
    model: TransformerBridge,
    task: Task,
) -> None:
    with pytest.raises(LofitLensError, match=message):
        head_sweep(model, [task], fractions, methods=methods, progress=False)


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    by_examples: Callable[..., Sweep], tmp_path: Path
) -> None:
    fitted: list[tuple[int, int]] = []

    def fitting(until: int) -> Callable[..., Fitted]:
        def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
            if len(fitted) == until:
                raise KeyboardInterrupt
            fitted.append((len(task.train), seed))
            return shifting(model, task, seed)

        return fit

    request: dict[str, Any] = {"examples": (5, 20), "seeds": (1, 2), "out": tmp_path / "sweep"}
    with pytest.raises(KeyboardInterrupt):
        by_examples(**request, methods={"shift": fitting(3)})
    with pytest.raises(LofitLensError, match="not finished"):
        Sweep.load(tmp_path / "sweep")
    resumed = by_examples(**request, methods={"shift": fitting(-1)})
    assert fitted == [(5, 1), (5, 2), (20, 1), (20, 2)]
    straight = by_examples(examples=(5, 20), seeds=(1, 2))
    assert records(resumed) == records(straight) == records(Sweep.load(tmp_path / "sweep"))
    again = by_examples(**request, methods={"shift": fitting(-1)})
    assert len(fitted) == 4
    assert records(again) == records(straight)


def test_a_finished_run_with_other_settings_is_not_gone_on_with(
    by_examples: Callable[..., Sweep], tmp_path: Path
) -> None:
    request: dict[str, Any] = {"examples": (5,), "methods": ["random-heads"], "out": tmp_path}
    by_examples(**request, settings=replace(SETTINGS, k=2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for other, what in (
        (replace(SETTINGS, k=3), r"recipe\.k"),
        (replace(SETTINGS, k=2, tuning=TUNING), r"recipe\.tuning\.epochs"),
    ):
        with pytest.raises(LofitLensError, match=f"seed 42, was made with other {what}\\."):
            by_examples(**request, settings=other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_runs_on_the_heads_of_another_ranking_are_run_again(
    model: TransformerBridge, task: Task, texts: Sequence[EncodedText], tmp_path: Path
) -> None:
    """The settings of the largest share order the heads, and the sweeps differ in it."""

    def by_ranking(share: float) -> Settings:
        selection = replace(SETTINGS.selection, learning_rate=0.02 if share > 0.3 else 1e-4)
        return replace(SETTINGS, selection=selection, random_draws=2)

    def sweep(*fractions: float, out: Path | None = tmp_path / "heads") -> Sweep:
        return head_sweep(
            model, [task], fractions,
            methods=["lofit", "random-heads"], settings=by_ranking, texts=texts, out=out,
            progress=False,
        )  # fmt: skip

    def heads(found: Sweep, k: int) -> list[Any]:
        runs = found.comparisons[k].runs
        return [[tuple(head) for head in run.heads or ()] for run in runs]

    first = sweep(0.1, 0.5)
    resumed, anew = sweep(0.1, 0.25), sweep(0.1, 0.25, out=None)
    assert heads(resumed, 6) == heads(anew, 6) == [found[:6] for found in heads(anew, 16)]
    assert heads(first, 6) != heads(anew, 6)
    assert records(resumed) == records(anew)
    before = sorted((tmp_path / "heads").rglob("*.json.gz"))
    assert records(sweep(0.1, 0.25)) == records(Sweep.load(tmp_path / "heads")) == records(anew)
    assert sorted((tmp_path / "heads").rglob("*.json.gz")) == before  # nothing is run once more
    assert heads(sweep(0.1), 6) == heads(sweep(0.1, out=None), 6)  # and chooses for itself


def test_a_folder_of_another_name_in_a_sweep_is_left_alone_and_no_record_is_overwritten(
    by_examples: Callable[..., Sweep], tmp_path: Path
) -> None:
    both, at = {"shift": shifting, "same": shifting}, tmp_path / "sweep" / "records"
    straight = by_examples(examples=(5,), methods=both, out=tmp_path / "sweep")
    for name in ("examples-5-old", "records-new"):
        (tmp_path / "sweep" / name).mkdir()
    (removed,) = at.glob("shift-*")
    removed.unlink()
    kept = {path.name: path.read_bytes() for path in at.iterdir()}
    resumed = by_examples(examples=(5,), methods=both, out=tmp_path / "sweep")
    assert records(resumed) == records(straight) == records(Sweep.load(tmp_path / "sweep"))
    assert {name: (at / name).read_bytes() for name in kept} == kept
    assert {path.name for path in at.iterdir()} == {*kept, removed.name}
    assert (tmp_path / "sweep" / "examples-5-old").is_dir()


def test_a_marker_is_written_whole_or_not_at_all(
    by_examples: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "sweep" / "sweep.json"
    by_examples(examples=(5,), out=tmp_path / "sweep")
    before = marker.read_bytes()
    write = Path.write_bytes

    def cut_short(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", cut_short)
    with pytest.raises(KeyboardInterrupt):
        by_examples(examples=(5,), out=tmp_path / "sweep")
    assert marker.read_bytes() == before


def test_methods_left_out_since_stay_in_the_folder_and_not_in_the_sweep(
    by_examples: Callable[..., Sweep], tmp_path: Path
) -> None:
    both = {"shift": shifting, "same": shifting}
    by_examples(examples=(5,), methods=both, out=tmp_path / "sweep")
    by_examples(examples=(5,), out=tmp_path / "sweep")
    assert Sweep.load(tmp_path / "sweep").methods == ("zero-shot", "shift")
    assert len(list((tmp_path / "sweep" / "records").iterdir())) == 3


def test_a_folder_with_something_else_is_refused_and_left_alone(
    by_examples: Callable[..., Sweep], by_heads: Sweep, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(LofitLensError, match="not empty"):
        by_examples(examples=(5,), out=tmp_path / "other")
    with pytest.raises(LofitLensError, match="not empty"):
        by_heads.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]
    by_heads.save(tmp_path / "heads")
    with pytest.raises(LofitLensError, match="holds a sweep over heads"):
        by_examples(examples=(5,), out=tmp_path / "heads")
    with pytest.raises(LofitLensError, match="No sweep at"):
        Sweep.load(tmp_path)


def test_a_saved_sweep_is_the_same_when_loaded(by_heads: Sweep, tmp_path: Path) -> None:
    loaded = Sweep.load(by_heads.save(tmp_path / "new" / "sweep"))
    assert repr(loaded) == repr(by_heads)
    assert loaded.frame().equals(by_heads.frame())
    assert (loaded.n_heads, records(loaded)) == (64, records(by_heads))


def test_the_frame_has_the_numbers_of_the_comparisons(by_heads: Sweep) -> None:
    frame = by_heads.frame()
    assert frame["x"].tolist() == [3] * 3 + [32] * 3
    assert frame["method"].tolist() == ["zero-shot", "lofit", "random-heads"] * 2
    assert frame["percent"].tolist() == pytest.approx(
        [np.nan, 4.6875, 4.6875, np.nan, 50, 50], nan_ok=True
    )
    assert frame["heads"].tolist() == pytest.approx([np.nan, 3, 3, np.nan, 32, 32], nan_ok=True)
    assert frame["seeds"].tolist() == [1, 2, 2] * 2
    for x, comparison in by_heads.comparisons.items():
        for method in comparison.methods:
            (row,) = frame[(frame["x"] == x) & (frame["method"] == method)].to_dict("records")
            assert row["value"] == pytest.approx(comparison.table(method, TASK).mean())
            assert row["low"] <= row["value"] <= row["high"]
            assert row["floor"] == max(comparison.floors(TASK).values())


def test_the_figure_has_a_line_for_each_method_with_its_band(by_heads: Sweep) -> None:
    frame, figure = by_heads.frame(), drawn(by_heads)
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    bands = {trace.name: trace for trace in figure.data if trace.fill == "toself"}
    assert list(lines) == list(bands) == ["lofit", "random-heads"]
    assert len({trace.marker.symbol for trace in lines.values()}) == 2
    for name, line in lines.items():
        rows = frame[frame["method"] == name]
        assert list(line.x) == [4.6875, 50]
        assert list(line.y) == pytest.approx((100 * rows["value"]).tolist())
        ends = [*rows["high"], *rows["low"][::-1]]
        assert list(bands[name].y) == pytest.approx([100 * end for end in ends])
    dashes = {
        trace.name: trace for trace in figure.data if trace.mode == "lines" and not trace.fill
    }
    assert {name: trace.line.dash for name, trace in dashes.items()} == {
        "zero-shot": "dash", "floor": "dot",
    }  # fmt: skip
    zero_shot = 100 * frame.query("method == 'zero-shot'")["value"].iloc[0]
    assert list(dashes["zero-shot"].y) == pytest.approx([zero_shot, zero_shot])
    assert figure.layout.xaxis.type == "log"
    assert "heads" in figure.layout.xaxis.title.text


def test_an_example_sweep_is_drawn_by_its_examples(by_examples: Callable[..., Sweep]) -> None:
    figure = drawn(by_examples(examples=(5, 20)))
    (line,) = (trace for trace in figure.data if trace.mode == "lines+markers")
    assert list(line.x) == [5, 20]
    assert list(figure.layout.xaxis.ticktext) == ["5", "20"]
    assert "20 training examples" in line.hovertext[1]


@pytest.mark.parametrize("number", [4, 5])
def test_every_published_point_is_drawn_once(number: int) -> None:
    frame = published.figure_4() if number == 4 else published.figure_5()
    x, series = ("examples", "method") if number == 4 else ("percent", "model")
    figure: Any = sweep_lines(frame, x=x, series=series)
    panels = [note.text.strip("<b>/") for note in figure.layout.annotations]
    assert panels == list(frame["task"].unique())
    drawn = [
        (panels[int((trace.xaxis or "x")[1:] or 1) - 1], trace.name, a, b)
        for trace in figure.data
        for a, b in zip(trace.x, trace.y, strict=True)
    ]
    expected = frame[["task", series, x, "value"]].itertuples(index=False, name=None)
    assert sorted(drawn) == sorted(expected)
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == list(frame[series].unique())


def test_an_empty_frame_is_not_drawn() -> None:
    with pytest.raises(LofitLensError, match="nothing to draw"):
        sweep_lines(published.figure_4()[:0], x="examples")


def test_a_sweep_says_what_it_is(by_heads: Sweep) -> None:
    assert repr(by_heads) == (
        f"Sweep(heads 3, 32; zero-shot, lofit, random-heads; on {TASK}; seeds 1, 2)"
    )
    page = by_heads._repr_html_()
    frame = by_heads.frame()
    for value in frame["value"]:
        assert f"{100 * value:.1f} [" in page


def test_a_sweep_of_nothing_is_refused(by_heads: Sweep) -> None:
    with pytest.raises(LofitLensError, match="at least one comparison"):
        Sweep("heads", {}, 64)
