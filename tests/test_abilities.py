"""The table of abilities: what one kind of experiment can do, every kind can.

Each kind really runs, on a tiny model and a dozen items, and each ability is one test over the kinds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.kinds.causal import causal_curves
from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.kinds.demo import Size, run_demo
from lofit_lens.analysis.kinds.lofit import lofit
from lofit_lens.analysis.kinds.selectors import selector_table
from lofit_lens.analysis.kinds.sweeps import example_sweep, head_sweep
from lofit_lens.analysis.kinds.transfer import transfer_matrix
from lofit_lens.analysis.measure.side_effects import sample_texts
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.paired import main_scores
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.edits.files import load_edit
from lofit_lens.errors import ScoringError
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.stages import tune_together
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.helpers import N_HEADS, N_LAYERS

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SELECTION, TUNING = SelectionConfig(epochs=1), TuningConfig(epochs=1, learning_rate=0.1)
SETTINGS = Settings(k=2, selection=SELECTION, tuning=TUNING, random_draws=2)
COSTS = ("fit_seconds", "score_seconds", "fit_tokens", "score_tokens")
"""Columns that are not the same twice."""


@cache
def task(kind: str) -> Task:
    """A task of 6, 4 and 6 items that have nothing in common."""
    answers = [" red.", " blue.", " grey.", " old.", " Anna.", " a cat."]
    items = [
        Example(
            f"{kind} {i}", f"The {kind} of house {i} is", (answers[i % 6],), (answers[i % 5 - 4],)
        )
        for i in range(16)
    ]
    return Task(
        name=kind, train=tuple(items[:6]), val=tuple(items[6:10]), test=tuple(items[10:]),
        val_as_test=tuple(items[6:10]), objective="sft", scoring=MultipleChoice(),
    )  # fmt: skip


@cache
def texts_of(model: TransformerBridge) -> Any:
    return sample_texts(model, n=2, tokens=8)


def run_lofit(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    how.pop("keep_edits", None)  # it always does
    return lofit(
        model,
        task("colour"),
        k=2,
        selection=SELECTION,
        tuning=TUNING,
        random_draws=2,
        out=out,
        **how,
    )


def run_comparison(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    methods = ("lofit", "random-heads", "bitfit")
    return compare(model, [task("colour")], methods, settings=SETTINGS, out=out, **how)


def run_selectors(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    methods = ("lofit", "probes/bias", "random-heads")
    return selector_table(
        compare(model, [task("colour")], methods, settings=SETTINGS, out=out, **how)
    )


def run_transfer(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    how.pop("keep_edits", None)  # it always does
    return transfer_matrix(
        model,
        [task("colour"), task("owner")],
        k=2,
        selection=SELECTION,
        tuning=TUNING,
        out=out,
        **how,
    )


def run_examples(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    return example_sweep(
        model,
        [task("colour")],
        (3, 6),
        methods=("lofit", "bitfit"),
        settings=SETTINGS,
        out=out,
        **how,
    )


def run_heads(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    return head_sweep(
        model, [task("colour")], (0.1, 0.25), methods=("lofit", "random-heads"),
        settings=replace(SETTINGS, k=None, random_draws=1), out=out, **how,
    )  # fmt: skip


def run_causal(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    heads = HeadSet([(2, 1), (0, 3), (1, 0)], n_layers=N_LAYERS, n_heads=N_HEADS)
    return causal_curves(model, task("colour"), heads, ks=(1, 3), draws=1, out=out, **how)


def run_small_demo(model: TransformerBridge, out: Path | None, **how: Any) -> Any:
    how = {name: value for name, value in how.items() if name not in ("keep_edits", "texts")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lofit_lens.analysis.kinds.demo.ABILITIES", ("colour", "owner"))
        patch.setattr("lofit_lens.analysis.kinds.demo.embedded", task)
        patch.setattr("lofit_lens.analysis.kinds.demo.SELECTION", SELECTION)
        patch.setattr("lofit_lens.analysis.kinds.demo.TUNING", TUNING)
        assert out is not None
        return run_demo(model, Size((0.2,), (42,), 1, 6), out, **how)


@dataclass(frozen=True)
class Experiment:
    """A kind of experiment, made very small.

    Attributes:
        run: Runs it, from the model, the folder and what every verb takes.
        command: The command that runs it.
        passes: How many runs are trained in each forward pass.
        draws: Sets of random heads.
    """

    run: Callable[..., Any]
    command: str
    passes: tuple[int, ...]
    draws: int = 0


EXPERIMENTS = {
    "lofit": Experiment(run_lofit, "lofit", (3,), 2),
    "comparison": Experiment(run_comparison, "compare", (3,), 2),
    "selector table": Experiment(run_selectors, "compare", (4,), 2),
    "transfer": Experiment(run_transfer, "transfer", (3, 3), 1),
    "example sweep": Experiment(run_examples, "sweep", (1, 1)),
    "head sweep": Experiment(run_heads, "sweep", (4,), 1),
    "causal": Experiment(run_causal, "causal", ()),  # nothing is trained
    "demo": Experiment(run_small_demo, "demo", (3, 3, 2, 2), 1),
}

every_kind = pytest.mark.parametrize("kind", EXPERIMENTS)


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path]) -> TransformerBridge:
    return load_model(tiny_folder("llama"), device="cpu", dtype="float32")


@dataclass(frozen=True)
class Finished:
    """An experiment that was run once for all tests.

    Attributes:
        folder: Where.
        frame: Its frame.
        records: Its records, by the name of the file.
        passes: How many runs were trained in each forward pass.
    """

    folder: Path
    frame: pd.DataFrame
    records: dict[str, Record]
    passes: list[int]


@pytest.fixture(scope="module")
def finished(
    model: TransformerBridge, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Finished]:
    """An experiment of a kind, in a folder, with its edits, measured on plain text."""

    @cache
    def of(kind: str) -> Finished:
        folder, passes = tmp_path_factory.mktemp("finished") / "run", []

        def counted(model: Any, task: Task, runs: Any, **options: Any) -> Any:
            passes.append(len(runs))
            return tune_together(model, task, runs, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lofit_lens.analysis.methods.steps.tune_together", counted)
            found = run(kind, model, folder, keep_edits=True)
        return Finished(folder, plain(found), records_in(folder), passes)

    return of


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """A worker process for all kinds."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


def run(kind: str, model: TransformerBridge, folder: Path, **how: Any) -> Any:
    how = {"texts": texts_of(model), "progress": False, **how}
    return EXPERIMENTS[kind].run(model, folder, **how)


def plain(found: Any) -> pd.DataFrame:
    return found.frame().drop(columns=list(COSTS), errors="ignore")


def records_in(folder: Path) -> dict[str, Record]:
    found = sorted((folder / "records").glob("*.json.gz"))
    return {path.name.removesuffix(".json.gz"): Record.load(path) for path in found}


@every_kind
def test_a_run_cut_short_is_gone_on_with_and_only_what_is_missing_is_run(
    kind: str,
    model: TransformerBridge,
    finished: Callable[[str], Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, folder, edits = finished(kind), tmp_path / "run", []
    shutil.copytree(whole.folder, folder)
    gone = next(name for name in reversed(whole.records) if not name.startswith(ZERO_SHOT))
    (folder / "records" / f"{gone}.json.gz").unlink()

    def counted(model: Any, task: Task, edit: Any = None, **options: Any) -> Any:
        edits.append(edit)
        return evaluate(model, task, edit, **options)

    monkeypatch.setattr("lofit_lens.analysis.study.score.evaluate", counted)
    again = run(kind, model, folder, keep_edits=True)
    assert len(edits) == 1 and edits[0] is not None
    assert_frame_equal(plain(again), whole.frame, rtol=1e-3)
    assert list(records_in(folder)) == list(whole.records)


@every_kind
def test_alike_runs_are_trained_in_one_pass(kind: str, finished: Callable[[str], Finished]) -> None:
    assert tuple(finished(kind).passes) == EXPERIMENTS[kind].passes


@pytest.mark.parametrize("kind", [k for k, e in EXPERIMENTS.items() if e.draws])
def test_random_heads_of_a_seed_and_a_draw_are_the_same_in_every_kind(
    kind: str, finished: Callable[[str], Finished]
) -> None:
    every = list(HeadSet.every(n_layers=N_LAYERS, n_heads=N_HEADS))
    drawn = [r for r in finished(kind).records.values() if r.method == "random-heads"]
    assert {(record.seed, record.draw) for record in drawn} == {
        (42, draw) for draw in range(EXPERIMENTS[kind].draws)
    }
    for record in drawn:
        order = np.random.default_rng((42, record.draw)).permutation(len(every))
        assert record.heads is not None
        best = np.argsort(-order)[: len(record.heads)]
        assert list(record.heads) == [every[place] for place in best]


@every_kind
def test_workers_give_what_one_process_gives(
    kind: str,
    model: TransformerBridge,
    finished: Callable[[str], Finished],
    pool: Executor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, here = finished(kind), []
    monkeypatch.setattr("lofit_lens.analysis.study.score.evaluate", lambda *_, **__: here.append(1))
    found = run(kind, model, tmp_path / "run", workers=pool)
    assert not here, "this process did the work"
    assert_frame_equal(plain(found), whole.frame)


@every_kind
def test_a_step_that_fails_leaves_the_rest_as_it_would_have_been(
    kind: str,
    model: TransformerBridge,
    finished: Callable[[str], Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, scored, failures = finished(kind), [], []
    last = sum(record.method != ZERO_SHOT for record in whole.records.values())

    def breaking(model: Any, task: Task, edit: Any = None, **options: Any) -> Any:
        scored.append(edit)
        if sum(edit is not None for edit in scored) == last and edit is not None:
            raise ScoringError("It broke.")
        return evaluate(model, task, edit, **options)

    monkeypatch.setattr("lofit_lens.analysis.study.score.evaluate", breaking)
    found = run(kind, model, tmp_path / "run", on_failure=failures.append)
    (failure,) = failures
    assert isinstance(failure, ScoringError) and str(failure) == "It broke."
    left = {name: record.evaluation.main for name, record in records_in(tmp_path / "run").items()}
    assert (
        len(left) == len(whole.records) - 1
        and left.items()
        < {name: record.evaluation.main for name, record in whole.records.items()}.items()
    )
    assert 0 < len(plain(found).dropna(subset="value")) < len(whole.frame)


@every_kind
def test_an_edit_that_was_kept_gives_the_scores_of_its_record(
    kind: str, model: TransformerBridge, finished: Callable[[str], Finished]
) -> None:
    whole = finished(kind)
    edited = {n: r for n, r in whole.records.items() if r.method != ZERO_SHOT}
    assert edited.keys() == {path.name for path in (whole.folder / "edits").iterdir()}
    for name, record in edited.items():
        edit = load_edit(whole.folder / "edits" / name)
        again = evaluate(model, task(record.fold), edit, progress=False)
        np.testing.assert_allclose(main_scores(again), main_scores(record.evaluation), atol=1e-6)


@every_kind
def test_every_record_tells_what_it_cost_and_what_the_edit_does_besides(
    kind: str, finished: Callable[[str], Finished]
) -> None:
    for record in finished(kind).records.values():
        cost, edited = record.cost, record.method != ZERO_SHOT
        assert cost.score_seconds > 0 and cost.score_tokens > 0
        assert record.side_effects["cross_entropy"] > 0
        assert (record.side_effects["kl"] > 0) == edited
        assert (cost.parameters > 0) == (cost.fit_seconds > 0) == (cost.fit_tokens > 0) == edited
        assert cost.fit_tokens == sum(step["tokens"] for step in record.steps)


@every_kind
def test_there_is_a_command_that_resumes_and_takes_workers(kind: str) -> None:
    command = EXPERIMENTS[kind].command
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    for option in ("--resume", "--workers", "--out"):
        assert option in shown.stdout
