"""Finished runs, read back from their folders without the model."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.kinds import comparison as comparisons
from lofit_lens.analysis.kinds import demo as demos
from lofit_lens.analysis.kinds import matrix as matrices
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.curves import CausalCurves
from lofit_lens.analysis.kinds.demo import Demo, Sample, Size
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.reporting.demo import settings_of, write_report
from lofit_lens.analysis.reporting.written import write_results, write_tables
from lofit_lens.analysis.study.experiment_folder import Kind
from lofit_lens.analysis.study.keys import plain
from lofit_lens.analysis.study.record import ZERO_SHOT, Cost, Record
from lofit_lens.analysis.study.store import Store
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.identity import Fingerprint
from lofit_lens.provenance import Provenance
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.training.history import History
from tests import earlier_folders
from tests.small_study import cards

LAYERS, HEADS, D_HEAD, ITEMS = 3, 4, 8, 12
TASKS, SEEDS = ("a:truth", "kin"), (7, 42)
MODEL = Fingerprint("Llama", LAYERS, HEADS, HEADS, D_HEAD, 32, 100, "weights", False, "tiny", None)


def evaluation(task: str, seed: int = 0) -> Evaluation:
    right = np.random.default_rng(seed).uniform(size=ITEMS) < 0.5
    records = tuple(
        {"id": f"{task} {i}", "group": "", "MC1": float(r)} for i, r in enumerate(right)
    )
    return Evaluation(task, "test", ("MC1",), records, {"chance": 0.25})


def provenance(task: str, seed: int) -> Provenance:
    return Provenance(MODEL, task, "hash", {"seed": seed, "l1": 0.5}, History([1.0], [1.0], [0.1]))


def heads(*, seed: int, k: int = 2) -> HeadSet:
    return HeadSet.random(k, n_layers=LAYERS, n_heads=HEADS, seed=seed)


def scores(task: str, seed: int) -> HeadScores:
    values = torch.rand(LAYERS, HEADS, generator=torch.Generator().manual_seed(seed))
    return HeadScores(values, provenance=provenance(task, seed))


def edit(task: str, seed: int) -> HeadIntervention:
    bias = torch.full((2, D_HEAD), float(seed))
    return HeadIntervention(heads(seed=seed), bias=bias, provenance=provenance(task, seed))


def comparison(methods: Sequence[str] = ("zero-shot", "lofit"), task: str = "kin") -> Comparison:
    runs = []
    for place, method in enumerate(methods):
        for seed in SEEDS[: 1 if method == "zero-shot" else 2]:
            chosen = heads(seed=seed) if method in ("lofit", "lofit/bias") else None
            cost = Cost() if method == "zero-shot" else Cost(16, 1.5, 0.25, 100, 10)
            told = {"versions": {"torch": "2"}, "model": "weights", "shape": [LAYERS, HEADS]}
            scored = evaluation(task, 10 * place + seed)
            runs.append(Record(method, task, task, seed, scored, cost, heads=chosen, protocol=told))
    return Comparison(tuple(runs))


def matrix(k: int = 2) -> TransferMatrix:
    runs = [
        Record(
            f"heads of {source}", task, task, seed, evaluation(task, seed),
            heads=heads(seed=seed + place, k=k), source=source,
        )
        for task in TASKS
        for place, source in enumerate((*TASKS, "random"))
        for seed in SEEDS
    ]  # fmt: skip
    return TransferMatrix(tuple(runs), {task: evaluation(task) for task in TASKS})


def all_scores() -> dict[str, dict[int, HeadScores]]:
    return {task: {seed: scores(task, seed) for seed in SEEDS} for task in TASKS}


def zero_shot(found: TransferMatrix) -> list[Record]:
    return [Record(ZERO_SHOT, t, t, SEEDS[0], scored) for t, scored in found.zero_shot.items()]


def write_records(path: Path, kind: Kind, records: Sequence[Record], **request: Any) -> Store:
    store = Store(path, kind)
    store.ask(**request)
    for record in records:
        store.add(record, keep_edit=True)
    store.finish(records)
    return store


def write_scores(path: Path) -> None:
    for task, by_seed in all_scores().items():
        for seed, one in by_seed.items():
            one.save(path / "scores" / f"{plain(task)}-{seed}-0123456789ab.json")


def write_comparison(path: Path, found: Comparison | None = None) -> Comparison:
    found = found or comparison()
    store = write_records(path, comparisons.KIND, found.runs)
    write_tables(store, found, base="zero-shot")
    return found


def write_transfer(path: Path) -> TransferMatrix:
    found = matrix()
    records = [*zero_shot(found), *found.runs]
    store = write_records(path, matrices.KIND, records, k=2, versions={"torch": "2"})
    write_scores(path)
    write_results(store, found.frame(zero_shot=True), {"figure2.html": found.plot()})
    return found


def the_demo() -> Demo:
    found = {0.2: matrix(2), 0.5: matrix(6)}
    return Demo(all_scores(), found, found, Sample("Q", "A", "b", "A"))


def write_demo(path: Path) -> Demo:
    size, found = Size((0.2, 0.5), SEEDS, 1, None), the_demo()
    records = [*zero_shot(found.matrices[0.2])]
    for fraction, one in found.matrices.items():
        for run in one.runs:
            learned = (
                edit("kin", 7) if (run.source, run.fold, run.seed) == ("kin", "kin", 7) else None
            )
            cut = {"fraction": fraction, "does": "bias"}
            records.append(replace(run, cut=cut, edit=learned))
    store = write_records(path, demos.KIND, records, **settings_of(size))
    write_scores(path)
    write_report(found, store, seconds=12.3)
    return found


def write_earlier_comparison(path: Path, found: Comparison | None = None) -> Comparison:
    found = found or comparison()
    earlier_folders.write_comparison(path, found)
    return found


def write_earlier_transfer(path: Path) -> TransferMatrix:
    earlier_folders.write_transfer(path, matrix(), all_scores(), k=2, versions={"torch": "2"})
    return matrix()


def write_earlier_demo(path: Path) -> Demo:
    earlier_folders.write_demo(path, the_demo(), {"kin": edit("kin", 7)})
    return the_demo()


def write_stages(path: Path, task: str = "kin", seed: int = 7) -> None:
    """What `select` writes, and `tune` beside it."""
    scores(task, seed).save(path / "scores.json")
    edit(task, seed).save(path)


@pytest.mark.parametrize("write", [write_comparison, write_earlier_comparison])
def test_a_comparison_is_what_was_compared_with_its_heads_and_settings(
    write: Callable[[Path], Comparison], tmp_path: Path
) -> None:
    written = write(tmp_path / "c")
    study = open_study(tmp_path / "c")
    assert study.name == "c"
    assert study.comparisons["c"].frame().equals(written.frame())
    assert study.heads == {"kin": (heads(seed=7), heads(seed=42))}
    told = study.provenance["c"]
    assert (told["kind"], told["seeds"], told["versions"]) == (
        "comparison",
        [7, 42],
        {"torch": "2"},
    )
    assert told["seconds"] == pytest.approx(2 * 1.75)
    assert study.figure_names == ("figure3", "figure6", "chosen", "forest")


def test_an_earlier_comparison_that_does_not_tell_the_models_shape_gives_no_heads(
    tmp_path: Path,
) -> None:
    runs = tuple(replace(run, protocol={}) for run in comparison().runs)
    write_earlier_comparison(tmp_path, Comparison(runs))
    study = open_study(tmp_path)
    assert study.heads == {}
    assert study.figure_names == ("forest",)


@pytest.mark.parametrize("lofit", ["lofit", "lofit/bias"])
def test_ways_to_choose_heads_are_table_2_also_under_their_whole_names(
    lofit: str, tmp_path: Path
) -> None:
    methods = ("zero-shot", lofit, "random-heads", "probes/bias")
    write_comparison(tmp_path, comparison(methods))
    study = open_study(tmp_path)
    figure: Any = study.figures(["table2"])["table2"]
    shown = {name for trace in figure.data for name in trace.y}
    assert shown == {"random-heads", "probes/bias", lofit}
    assert study.heads == {"kin": (heads(seed=7), heads(seed=42))}


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_both_stages_is_read_as_the_command_wrote_it(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"sentence_good": f"Cat {i} is.", "sentence_bad": f"Is {i} cat."} for i in range(20)]
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    request = ["lofit", "--model", tiny_folder("llama"), "--task", pairs, "--k", 3, "--seed", 5]
    request += ["--epochs", 1, "--random-draws", 1, "--out", out, "--quiet", "--json"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/lofit-lens", *map(str, request)])
    done = CliRunner().invoke(app, list(map(str, request)))
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)

    study = open_study(out)
    (chosen,) = study.heads["pairs"]
    assert [list(head) for head in chosen] == np.load(out / "heads.npy").tolist()
    stored = json.loads((out / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert study.scores["pairs"][5].scores.tolist() == torch.tensor(stored).tolist()
    assert study.edits["pairs"].heads == chosen
    assert set(study.runs["pairs"].evaluations()) == {"zero_shot", "tuned", "random_0"}
    values = study.tables["out"].set_index("method")["value"]
    names = {"zero_shot": "zero-shot", "tuned": "LoFiT", "random_0": "random heads, draw 0"}
    for method, metrics in printed["metrics"].items():
        assert values[names[method]] == pytest.approx(metrics["accuracy"]["value"])
    told = study.provenance["out"]
    assert told["kind"] == "lofit"
    assert shlex.split(told["command_line"]) == ["lofit-lens", *map(str, request)]
    assert told["loaded"]["model"] == str(tiny_folder("llama"))
    assert told["stages"]["selection on pairs"]["config"]["seed"] == 5
    assert study.figure_names == ("figure3", "accuracy-pairs", "edit-pairs", "scores-pairs")


def test_scores_alone_and_an_edit_alone_are_runs_too(tmp_path: Path) -> None:
    scores("kin", 7).save(tmp_path / "select" / "scores.json")
    edit("kin", 7).save(tmp_path / "tune")
    selected, tuned = open_study(tmp_path / "select"), open_study(tmp_path / "tune")
    assert selected.figure_names == ("scores-kin",)
    assert tuned.figure_names == ("figure3", "edit-kin")
    assert not selected.chosen and not tuned.runs
    assert tuned.heads == {"kin": (heads(seed=7),)}
    assert "unfinished" in tuned.provenance["tune"]["kind"]


def test_the_folds_of_a_run_are_tasks(tmp_path: Path) -> None:
    for fold in range(2):
        write_stages(tmp_path / f"fold-{fold}", f"truthfulqa:{fold}")
    study = open_study(tmp_path)
    assert list(study.scores) == list(study.edits) == ["truthfulqa:0", "truthfulqa:1"]
    assert list(study.provenance) == [tmp_path.name]
    assert len(study.provenance[tmp_path.name]["stages"]) == 4


@pytest.mark.parametrize("write", [write_transfer, write_earlier_transfer])
def test_a_transfer_is_its_matrix_with_the_scores_behind_it(
    write: Callable[[Path], TransferMatrix], tmp_path: Path
) -> None:
    written = write(tmp_path)
    study = open_study(tmp_path)
    (label,) = study.matrices
    assert label == "2 of 12 heads"
    assert study.matrices[label].frame().equals(written.frame())
    assert list(study.scores) == list(TASKS)
    assert all(tuple(by_seed) == SEEDS for by_seed in study.scores.values())
    assert study.heads["kin"] == tuple(heads(seed=seed + 1) for seed in SEEDS)
    assert study.provenance[tmp_path.name]["k"] == 2
    assert "figure2-2-of-12" in study.figure_names


@pytest.mark.parametrize("write", [write_demo, write_earlier_demo])
def test_a_demo_has_a_matrix_for_each_share_and_the_heads_of_the_largest(
    write: Callable[[Path], Demo], tmp_path: Path
) -> None:
    written = write(tmp_path / "demo")
    study = open_study(tmp_path / "demo")
    assert list(study.matrices) == ["20% of heads", "50% of heads"]
    for found, expected in zip(study.matrices.values(), written.matrices.values(), strict=True):
        assert found.frame().equals(expected.frame())
    assert {len(one) for sets in study.heads.values() for one in sets} == {6}
    table = study.tables["demo"]
    assert table["value"].tolist() == pytest.approx(written.frame()["value"].tolist())
    told = study.provenance["demo"]
    assert (told["seconds"], told["sample"]["expected"]) == (12.3, "A")
    assert told["stages"]["kin"]["fingerprint"]["name"] == "tiny"
    assert "history" not in told["stages"]["kin"]
    assert {"figure2-20percent", "figure2-50percent", "figure3", "figure6", "edit-kin"} <= set(
        study.figure_names
    )
    assert {"scores-a-truth-7", "scores-kin-42"} <= set(study.figure_names)


@pytest.mark.parametrize(
    "write", [lambda path, sweep: sweep.save(path), earlier_folders.write_sweep]
)
def test_cards_curves_and_sweeps_are_read(
    write: Callable[[Path, Sweep], object], tmp_path: Path
) -> None:
    cards().save(tmp_path / "run" / "cards.json")
    right = np.random.default_rng(0).integers(0, 2, size=(3, 2, ITEMS)).astype(float)
    groups = tuple(map(str, range(ITEMS)))
    curves = CausalCurves(
        "kin", "test", "MC1", heads(seed=7), (0, 2), "mean",
        {"necessity": right, "sufficiency": right}, right[0, 0], None, groups,
    )  # fmt: skip
    curves.save(tmp_path / "run" / "causal-kin.json.gz")
    sweep = Sweep("heads", {2: comparison(), 6: comparison()}, 12)
    write(tmp_path / "sweep", sweep)
    study = open_study(tmp_path)
    assert study.cards["run"] == cards()
    assert study.curves["kin"].frame().equals(curves.frame())
    assert study.sweeps["sweep"].frame().equals(sweep.frame())
    assert study.provenance["sweep"]["kind"] == "sweep over heads"
    assert study.figure_names == ("figure5", "causal-kin")
    assert all(isinstance(figure, go.Figure) for figure in study.figures().values())


def test_seeds_in_folders_of_their_own_are_put_together(tmp_path: Path) -> None:
    for seed in SEEDS:
        write_stages(tmp_path / f"seed-{seed}", seed=seed)
    study = open_study(tmp_path)
    assert list(study.scores) == ["kin"]
    assert study.heads["kin"] == (heads(seed=7), heads(seed=42))
    assert list(study.edits) == ["kin", "kin (seed-7)"]
    assert list(study.layers) == ["2 of 3x4 heads"]
    figure: Any = study.figures(["figure3"])["figure3"]
    assert figure.data[0].error_y.visible


def test_one_seed_with_other_results_is_another_experiment(tmp_path: Path) -> None:
    write_stages(tmp_path / "first")
    write_stages(tmp_path / "second")
    again = open_study(tmp_path)
    assert list(again.scores) == list(again.chosen) == ["kin"]
    replace(scores("kin", 7), scores=torch.ones(LAYERS, HEADS)).save(
        tmp_path / "second" / "scores.json"
    )
    study = open_study(tmp_path)
    assert list(study.scores) == ["kin", "kin (second)"]


def test_models_of_several_shapes_have_a_figure_3_each(tmp_path: Path) -> None:
    write_stages(tmp_path / "small")
    other = HeadSet([(0, 1)], n_layers=2, n_heads=2)
    HeadScores(torch.eye(2), provenance=provenance("kin", 7)).save(tmp_path / "tiny/scores.json")
    HeadIntervention(other, bias=torch.ones(1, 4), provenance=provenance("kin", 7)).save(
        tmp_path / "tiny"
    )
    study = open_study(tmp_path)
    assert study.heads == {"kin": (heads(seed=7),), "kin (tiny)": (other,)}
    assert list(study.layers) == ["2 of 3x4 heads", "1 of 2x2 heads"]
    assert [name for name in study.figure_names if name.startswith("figure3")] == [
        "figure3-2-of-3x4", "figure3-1-of-2x2"
    ]  # fmt: skip


def test_a_study_tells_what_it_holds(tmp_path: Path) -> None:
    write_comparison(tmp_path / "compared")
    write_transfer(tmp_path / "transferred")
    study = open_study(tmp_path)
    assert list(study.provenance) == ["compared", "transferred"]
    for told in ("comparisons: 1", "transfer matrices: 1", "tasks with scores: 2"):
        assert told in repr(study)
    assert "<li>forest</li>" in study._repr_html_()


def test_only_the_figures_wanted_are_drawn_and_a_wrong_name_is_told_with_the_right_ones(
    tmp_path: Path,
) -> None:
    write_transfer(tmp_path)
    study = open_study(tmp_path)
    assert list(study.figures(["figure3"])) == ["figure3"]
    assert tuple(study.figures()) == study.figure_names
    with pytest.raises(
        LofitLensError, match=r"no figure figure9 .* There are: figure2-2-of-12, fig"
    ):
        study.figures(["figure3", "figure9"])


def test_an_unfinished_run_is_left_out_of_several_and_named(tmp_path: Path) -> None:
    write_transfer(tmp_path / "done")
    unfinished = {"c": "comparison.json", "d": "demo.json", "t": "transfer.json"}
    for name, marker in unfinished.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / marker).write_text("{}", encoding="utf-8")
    write_demo(tmp_path / "unmarked")
    (tmp_path / "unmarked" / "demo.json").unlink()
    cards().save(tmp_path / "unmarked" / "cards.json")
    study = open_study(tmp_path)
    assert set(study.provenance) == {"done"} and not study.cards
    assert set(study.left_out) == {*unfinished, "unmarked"}
    assert "did not finish" in study.left_out["d"]
    assert "no demo.json" in study.left_out["unmarked"]
    assert "unfinished, left out: 4" in repr(study)


def test_the_folder_of_an_earlier_demo_is_told_with_the_remedy(tmp_path: Path) -> None:
    write_earlier_demo(tmp_path)
    shutil.rmtree(tmp_path / "records" / "edits")
    with pytest.raises(LofitLensError, match=r"lacks .*edits: .*earlier version.* `demo` again"):
        open_study(tmp_path)


def test_results_know_the_command_that_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command, write in (("compare", write_comparison), ("demo", write_demo)):
        monkeypatch.setattr("sys.argv", ["bin/lofit-lens", command, "--out", "a b"])
        write(tmp_path / command)
        told = open_study(tmp_path / command).provenance[command]
        assert told["command_line"] == f"lofit-lens {command} --out 'a b'"
        monkeypatch.setattr("sys.argv", ["script.py"])
        write(tmp_path / f"{command} in Python")
    told = open_study(tmp_path).provenance
    assert [one["command_line"] for name, one in told.items() if "Python" in name] == [None, None]


def test_a_folder_without_a_run_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(LofitLensError, match=r"finished run") as told:
        open_study(tmp_path)
    for marker in ("comparison.json", "demo.json", "transfer.json", "sweep.json", "scores.json"):
        assert marker in str(told.value)
    for place in (tmp_path / "nowhere", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(LofitLensError, match="no folder"):
            open_study(place)


@pytest.mark.parametrize(
    ("write", "file", "content"),
    [
        (write_comparison, "comparison.json", "{"),
        (write_comparison, "comparison.json", "{}"),
        (write_transfer, "transfer.json", "{}"),
        (write_demo, "demo.json", "{}"),
        (write_demo, "demo.json", '{"table": []}'),
        (write_demo, "demo.json", "[]"),
        (write_demo, "scores/kin-7-0123456789ab.json", "{"),
        (write_demo, "edits/heads-of-kin-on-kin-7-*/intervention.json", "{}"),
        (write_earlier_comparison, "comparison.json", "{}"),
        (write_earlier_transfer, "transfer.json", '{"schema": 1}'),
        (write_earlier_demo, "demo.json", '{"table": []}'),
        (write_earlier_demo, "records/scores/kin-7.json", "{"),
        (write_earlier_demo, "records/edits/kin/intervention.json", "{}"),
        (write_stages, "scores.json", '{"schema": 1}'),
        (write_stages, "run.json", '{"schema": 1}'),
        (write_stages, "cards.json", "{}"),
        (write_stages, "causal.json.gz", "no gzip"),
        (write_stages, "sweep.json", "{}"),
    ],
)
def test_a_damaged_or_unfinished_part_is_named(
    write: Callable[[Path], object], file: str, content: str, tmp_path: Path
) -> None:
    write(tmp_path / "run")
    there = [*(tmp_path / "run").glob(file)] or [tmp_path / "run" / file]
    for path in there:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(LofitLensError, match=str(tmp_path / "run")):
        open_study(tmp_path)
