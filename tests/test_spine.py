"""The spine: every step once, whatever the methods, writers, workers and failures around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.kinds.comparison import KIND, Comparison
from lofit_lens.analysis.methods import steps
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.store import Store
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.files import write_whole
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.tasks import Task
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.test_rates import apart

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SETTINGS = Settings(
    k=2,
    selection=SelectionConfig(learning_rate=0.05, epochs=1, validate=False),
    tuning=TuningConfig(learning_rate=0.05, epochs=1, validate=False),
)
ON_STAGE_1 = ("lofit", "lofit-scale", "random-in-layers", "lofit/mass-mean")


def compared(
    model: TransformerBridge, methods: Any, *, tasks: Any = None, **how: Any
) -> Comparison:
    shared: dict[str, Any] = {"settings": SETTINGS, "texts": (), "progress": False}
    return compare(model, tasks or [apart()], methods, **(shared | how))


def shifting(model: TransformerBridge, _task: Task, seed: int) -> Fitted:
    """An edit of a user's own, in a module that can be imported."""
    heads = HeadSet.every(n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    drawn = torch.randn(len(heads), model.cfg.d_head, generator=torch.Generator().manual_seed(seed))
    return Fitted(HeadIntervention(heads, bias=drawn), heads=heads)


def results(records: Iterable[Record]) -> list[dict[str, Any]]:
    """All that records tell, but for seconds and tokens.

    A model that is new makes a few passes more, which show that texts may share theirs.
    """
    found = []
    for record in records:
        told = json.loads(json.dumps(record.to_json()))
        told["cost"] = told["cost"]["parameters"]
        told["steps"] = [(step["step"], step["key"]) for step in told["steps"]]
        found.append(told)
    return found


@pytest.fixture
def stage_1(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds with which stage 1 was run."""
    seeds: list[int] = []
    real = steps.select_together

    def counting(model: Any, task: Any, configs: Any, **options: Any) -> Any:
        seeds.extend(config.seed for config in configs)
        return real(model, task, configs, **options)

    monkeypatch.setattr(steps, "select_together", counting)
    return seeds


def test_four_methods_that_share_stage_1_run_it_once_and_each_cost_holds_it(
    llama: TransformerBridge, stage_1: list[int]
) -> None:
    found = compared(llama, ON_STAGE_1, seeds=(1, 2))
    assert stage_1 == [1, 2]
    assert found.methods == ("zero-shot", *ON_STAGE_1)
    for seed in (1, 2):
        runs = [run for run in found.runs[1:] if run.seed == seed]
        by_name = [{step["step"]: step for step in run.steps} for run in runs]
        first = by_name[0][f"colours-{seed}"]
        assert first["tokens"] > 0 and first["seconds"] > 0
        for run, told in zip(runs, by_name, strict=True):
            assert told[f"colours-{seed}"] == first
            assert run.cost.fit_tokens == sum(step["tokens"] for step in run.steps)
            assert run.cost.fit_seconds == pytest.approx(sum(s["seconds"] for s in run.steps))
            assert run.cost.fit_tokens >= first["tokens"]


def test_a_method_run_beside_others_gives_what_it_gives_alone(llama: TransformerBridge) -> None:
    together = compared(llama, ON_STAGE_1)
    for method in ("random-in-layers", "lofit/mass-mean"):
        alone = compared(llama, [method])
        (one,) = (run for run in together.runs if run.method == method)
        assert (one.key, one.heads) == (alone.runs[1].key, alone.runs[1].heads)
        assert one.evaluation.main.value == alone.runs[1].evaluation.main.value
        assert one.cost.parameters == alone.runs[1].cost.parameters


def test_two_stores_fill_one_folder_and_a_third_finds_all_of_it(
    llama: TransformerBridge, tmp_path: Path, stage_1: list[int]
) -> None:
    straight = compared(llama, ["lofit", "random-heads"])
    stage_1.clear()
    stores = [Store(tmp_path, KIND, resume=True) for _ in range(2)]  # both see an empty folder
    for store, method in zip(stores, ("lofit", "random-heads"), strict=True):
        compared(llama, [method], out=store)
    assert stage_1 == [42]
    assert len(list((tmp_path / "records").iterdir())) == 3  # both scored the model as it is
    new: list[Record] = []
    both = compared(llama, ["lofit", "random-heads"], out=tmp_path, on_run=new.append)
    assert not new
    assert results(both.runs) == results(straight.runs)
    assert results(Comparison.load(tmp_path).runs) == results(straight.runs)


def test_a_file_that_several_write_at_once_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    path, size = tmp_path / "one.json", 200_000
    write_whole(path, b"0" * size)

    def write(digit: int) -> list[set[int]]:
        seen = []
        for _ in range(20):
            write_whole(path, str(digit).encode() * size)
            content = path.read_bytes()
            assert len(content) == size
            seen.append(set(content))
        return seen

    with ThreadPoolExecutor(4) as pool:
        for seen in pool.map(write, range(1, 5)):
            assert all(len(digits) == 1 for digits in seen)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", [1, 3, 5, 7])
def test_a_run_cut_short_while_it_writes_leaves_no_half_file_and_is_gone_on_with(
    llama: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    asked: dict[str, Any] = {"out": tmp_path / "out", "keep_edits": True}
    left, write = [place], Path.write_bytes

    def cut_short(path: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0]:
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", cut_short)
    with pytest.raises(KeyboardInterrupt):
        compared(llama, ["lofit"], **asked)
    monkeypatch.setattr(Path, "write_bytes", write)
    for path in (tmp_path / "out").rglob("*"):
        assert path.suffix != ".partial"
        if path.name.endswith(".json.gz"):
            Record.load(path)
        elif path.suffix in (".json", ".cost"):
            json.loads(path.read_text(encoding="utf-8"))
    again = compared(llama, ["lofit"], **asked)
    assert results(again.runs) == results(compared(llama, ["lofit"]).runs)
    assert results(Comparison.load(tmp_path / "out").runs) == results(again.runs)


def test_an_edit_that_is_kept_gives_the_scores_of_its_record(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    found = compared(llama, ["lofit"], out=tmp_path / "out", keep_edits=True)
    store = Store(tmp_path / "out", KIND, resume=True)
    (run,) = (record for record in store.records.values() if record.method == "lofit")
    edit = store.edit_of(run)
    assert edit is not None
    scored = evaluate(llama, apart(), edit, progress=False)
    assert scored.records == run.evaluation.records == found.runs[1].evaluation.records
    bare = compared(llama, ["lofit"], out=tmp_path / "bare")
    assert bare.runs[1].edit is None and not (tmp_path / "bare" / "edits").exists()


def test_two_workers_give_the_records_of_this_process_to_the_last_digit(
    llama: TransformerBridge, stage_1: list[int]
) -> None:
    here = compared(llama, ["lofit", "random-heads"], seeds=(1, 2))
    stage_1.clear()
    there = compared(llama, ["lofit", "random-heads"], seeds=(1, 2), workers=2)
    assert not stage_1  # it was run elsewhere
    assert results(there.runs) == results(here.runs)


class Counting(Executor):
    """An executor that does every job at once, and counts them."""

    def __init__(self) -> None:
        self.jobs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs += 1
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_a_function_is_sent_to_workers_if_it_can_be_imported_and_called_here_if_not(
    llama: TransformerBridge,
) -> None:
    called: list[TransformerBridge] = []

    def closed(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        called.append(model)
        return shifting(model, task, seed)

    here = compared(llama, {"own": shifting})
    for function, sent in ((shifting, 3), (closed, 1)):  # the model as it is, the fit, its scores
        workers = Counting()
        there = compared(llama, {"own": function}, workers=workers)
        assert workers.jobs == sent
        assert results(there.runs) == results(here.runs)
    assert called == [llama]


def test_a_model_that_a_worker_would_load_with_other_weights_is_refused(
    llama: TransformerBridge,
) -> None:
    llama.blocks[0].attn.o.original_component.weight.data += 1.0
    with pytest.raises(LofitLensError, match="has other weights where a worker loads it"):
        compared(llama, ["random-heads"], workers=Counting())


def two_tasks() -> list[Task]:
    first = apart()
    return [replace(first, name="a"), replace(first, name="b")]


def stop_on_a(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 1 becomes unstable on task a."""
    real = steps.select_together

    def stopping(model: Any, task: Any, configs: Any, **options: Any) -> Any:
        if task.name == "a":
            heads = HeadSet([(0, 0)], n_layers=3, n_heads=4)
            edit = HeadIntervention(heads, bias=torch.ones(1, model.cfg.d_head))
            return [TrainingStopped("It did.", edit) for _ in configs]
        return real(model, task, configs, **options)

    monkeypatch.setattr(steps, "select_together", stopping)


def test_a_step_that_fails_leaves_out_what_needs_it_on_that_task_alone(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_on_a(monkeypatch)
    told: list[LofitLensError] = []
    found = compared(
        llama, ["lofit", "random-in-layers", "random-heads"],
        tasks=two_tasks(), seeds=(1, 2), on_failure=told.append,
    )  # fmt: skip
    assert [(r.task, r.method, r.seed) for r in found.runs if r.method != "zero-shot"] == [
        ("a", "random-heads", 1), ("a", "random-heads", 2),
        ("b", "lofit", 1), ("b", "lofit", 2),
        ("b", "random-in-layers", 1), ("b", "random-in-layers", 2),
        ("b", "random-heads", 1), ("b", "random-heads", 2),
    ]  # fmt: skip
    notes = [note for error in told for note in getattr(error, "__notes__", ())]
    assert len(told) == 1  # with a note for each method
    assert {note.partition(" with")[0] for note in notes} == {
        "This was method lofit on a", "This was method random-in-layers on a",
    }  # fmt: skip


def test_a_step_that_fails_ends_the_run_when_what_was_fitted_is_kept(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stop_on_a(monkeypatch)
    asked: dict[str, Any] = {"tasks": two_tasks(), "out": tmp_path / "out"}
    with pytest.raises(TrainingStopped, match=r"It did\."):
        compared(llama, ["random-heads", "lofit"], **asked)
    with pytest.raises(LofitLensError, match="was not finished"):
        Comparison.load(tmp_path / "out")
    monkeypatch.undo()
    new: list[Record] = []
    whole = compared(llama, ["random-heads", "lofit"], on_run=new.append, **asked)
    assert "lofit" in {run.method for run in new} != set(whole.methods)


@pytest.mark.parametrize("damaged", ["", "{", "[]"])
def test_a_folder_whose_marker_is_damaged_is_gone_on_with(
    llama: TransformerBridge, tmp_path: Path, damaged: str
) -> None:
    whole = compared(llama, ["random-heads"], out=tmp_path / "out")
    (tmp_path / "out" / "comparison.json").write_text(damaged)
    for file in (tmp_path / "out").glob("scores/*.cost"):
        file.write_text(damaged)
    new: list[Record] = []
    again = compared(llama, ["random-heads"], out=tmp_path / "out", on_run=new.append)
    assert new == []
    assert again.frame().equals(whole.frame())
    assert Comparison.load(tmp_path / "out").frame().equals(whole.frame())
