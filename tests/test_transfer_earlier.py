"""Heads of a transfer that other runs share, and what of an earlier one is taken or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.transfer import score_heads, transfer_matrix
from lofit_lens.analysis.methods.names import named_methods
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.record import Record
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, TrainingStopped
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.stages import select_together, tune_together
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.test_transfer import tiny_tasks

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TUNING = TuningConfig(epochs=1, validate=False)
SELECTION = SelectionConfig(epochs=1, validate=False)


def transferred(model: TransformerBridge, **options: Any) -> TransferMatrix:
    asked = {"k": 3, "tuning": TUNING, "selection": SELECTION, **options}
    return transfer_matrix(model, tiny_tasks("a"), progress=False, **asked)


def random_heads(found: TransferMatrix) -> dict[int, list[HeadSet | None]]:
    return {
        seed: [run.heads for run in found.runs if (run.source, run.seed) == ("random", seed)]
        for seed in found.seeds
    }


def test_random_heads_are_those_of_compare_and_depend_on_seed_and_draw_alone(
    llama: TransformerBridge,
) -> None:
    found = random_heads(transferred(llama, seeds=(1, 2), random_draws=2))
    assert found == random_heads(transferred(llama, seeds=(2, 1), random_draws=2))
    assert found[2] == random_heads(transferred(llama, seeds=(2,), random_draws=2))[2]
    drawn = [heads for by_draw in found.values() for heads in by_draw]
    assert len({frozenset(heads or ()) for heads in drawn}) == 4

    (task,) = tiny_tasks("a")
    methods = named_methods(["random-heads"], Settings(k=3, random_draws=2, tuning=TUNING))
    recipe = methods["random-heads"]
    assert recipe.draws == 2
    for seed, by_draw in found.items():
        assert by_draw == [recipe(llama, task, seed, draw).heads for draw in range(recipe.draws)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "Seeds must differ, and there must be one"),
        ({"seeds": (3, 3)}, "Seeds must differ"),
        ({"random_draws": -1}, "random_draws must be a whole number of at least 0, got -1"),
        ({"together": 0}, "together must be 1 or more runs, got 0"),
    ],
)
def test_requests_that_mean_nothing_are_refused_before_any_work(
    llama: TransformerBridge, options: dict[str, Any], message: str, no_work: None
) -> None:
    with pytest.raises(LofitLensError, match=message):
        transferred(llama, **options)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and scoring fail."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("work was done")

    for name in (
        "methods.steps.select_together",
        "methods.steps.tune_together",
        "study.score.evaluate",
    ):
        monkeypatch.setattr(f"lofit_lens.analysis.{name}", refuse)


def test_scores_of_another_model_task_or_seed_are_refused(
    llama: TransformerBridge, tiny_model: Callable[[str], TransformerBridge]
) -> None:
    scores = score_heads(
        llama, tiny_tasks("a"), seeds=(42, 43), selection=SELECTION, progress=False
    )
    for given, message in (
        ({"b": scores["a"]}, "given for b with seed 42 were made on a with seed 42"),
        ({"a": {42: scores["a"][43]}}, "given for a with seed 42 were made on a with seed 43"),
    ):
        with pytest.raises(LofitLensError, match=message):
            transfer_matrix(llama, tiny_tasks(*given), k=1, scores=given, progress=False)
    other = tiny_model("gpt2")
    with pytest.raises(ModelMismatchError, match="The scores given for a with seed 4"):
        transferred(other, scores=scores)
    with pytest.raises(ModelMismatchError):
        score_heads(other, tiny_tasks("a"), seeds=(42,), done=scores, progress=False)
    bare = {"a": {42: replace(scores["a"][42], provenance=None)}}
    assert transferred(llama, scores=bare).runs[0].heads == scores["a"][42].top(k=3)


def test_finished_runs_and_scores_are_taken_and_only_the_others_are_made(
    llama: TransformerBridge,
) -> None:
    whole = transferred(llama, seeds=(1, 2), random_draws=2)
    new: list[Record] = []
    again = transferred(
        llama, seeds=(1, 2), random_draws=2, done=whole.runs[:2] + whole.runs[3:], on_run=new.append
    )
    assert [(run.source, run.seed) for run in new] == [("random", 1)]
    assert again.frame().equals(whole.frame())
    for one, other in zip(again.runs, whole.runs, strict=True):
        assert (one is other) == all(one is not run for run in new)
        assert one.heads == other.heads
    made: list[dict[str, Any]] = []
    earlier = score_heads(llama, tiny_tasks("a"), seeds=(1,), selection=SELECTION, progress=False)
    both = score_heads(
        llama,
        tiny_tasks("a"),
        seeds=(1, 2),
        selection=SELECTION,
        done=earlier,
        on_scores=lambda scores: made.append({task: list(found) for task, found in scores.items()}),
        progress=False,
    )
    assert made == [{"a": [2]}]
    assert both["a"][1] is earlier["a"][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuning": replace(TUNING, learning_rate=0.5)}, r"other recipe\.tuning\.learning_rate\."),
        ({"selection": replace(SELECTION, l1=0.5)}, r"other recipe\.ranked_by\.l1\."),
        ({"k": 2}, r"other recipe\.k\."),
        ({"heads": "probes"}, r"other recipe\.heads, recipe\.ranked_by\."),
        ({"does": "scale"}, r"other recipe\.does\."),
    ],
)
def test_runs_made_otherwise_are_not_gone_on_with(
    llama: TransformerBridge, options: dict[str, Any], message: str
) -> None:
    whole = transferred(llama, random_draws=2)
    with pytest.raises(LofitLensError, match=message):
        transferred(llama, **{"random_draws": 2, "done": whole.runs, **options})
    (cut,) = (replace(task, test=task.test[1:]) for task in tiny_tasks("a"))
    with pytest.raises(LofitLensError, match="made with other scoring"):
        transfer_matrix(
            llama, [cut], k=3, tuning=TUNING, selection=SELECTION, random_draws=2,
            done=whole.runs, progress=False,
        )  # fmt: skip


def test_fewer_draws_and_seeds_of_what_is_there_need_no_work(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = transferred(llama, seeds=(1, 2), random_draws=2)
    for stage in ("select_together", "tune_together"):
        monkeypatch.setattr(f"lofit_lens.analysis.methods.steps.{stage}", None)
    less = transferred(llama, seeds=(2,), done=whole.runs)
    assert less.runs == tuple(r for r in whole.runs if (r.seed, r.draw) == (2, 0))


@pytest.mark.parametrize("together", [2, 5])
def test_a_matrix_does_not_depend_on_how_many_runs_are_trained_together(
    llama: TransformerBridge, together: int
) -> None:
    asked: dict[str, Any] = {"seeds": (1, 2), "k": 2, "selection": SELECTION, "tuning": TUNING}
    tasks = tiny_tasks("a", "b")
    one = transfer_matrix(llama, tasks, together=1, progress=False, **asked)
    seen: list[Record] = []
    found = transfer_matrix(
        llama, tasks, together=together, on_run=seen.append, progress=False, **asked
    )
    assert tuple(seen) == found.runs
    for run, other in zip(found.runs, one.runs, strict=True):
        assert (run.source, run.task, run.seed) == (other.source, other.task, other.seed)
        assert (run.heads, run.config) == (other.heads, other.config)
        assert likelihoods(run) == pytest.approx(likelihoods(other), rel=1e-4)


def likelihoods(run: Record) -> list[float]:
    return [x for record in run.evaluation.records for x in record["correct"] + record["incorrect"]]


def test_an_unstable_run_ends_a_transfer_when_the_runs_beside_it_are_kept(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []

    def third_stops(*args: Any, **options: Any) -> list[HeadIntervention | TrainingStopped]:
        found = tune_together(*args, **options)
        together.append(len(found))
        assert isinstance(found[2], HeadIntervention)
        return [*found[:2], TrainingStopped("It did.", found[2]), *found[3:]]

    monkeypatch.setattr("lofit_lens.analysis.methods.steps.tune_together", third_stops)
    asked: dict[str, Any] = {"seeds": (1, 2), "random_draws": 2}
    seen: list[Record] = []
    with pytest.raises(TrainingStopped, match=r"It did\."):
        transferred(llama, **asked, together=4, on_run=seen.append)
    assert together == [4]
    assert [(run.source, run.seed) for run in seen] == [("a", 1), ("random", 1), ("a", 2)]
    monkeypatch.undo()
    again = transferred(llama, **asked, done=tuple(seen), on_run=seen.append)
    assert len(again.runs) == len(seen) == 6
    assert [run for run in again.runs if run in seen[:3]] == seen[:3]


def test_scores_beside_an_unstable_seed_are_kept(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_stops(*args: Any, **options: Any) -> list[HeadScores | TrainingStopped]:
        _, *others = select_together(*args, **options)
        edit = HeadIntervention(HeadSet([(0, 0)], n_layers=3, n_heads=4), bias=torch.ones(1, 24))
        return [TrainingStopped("It did.", edit), *others]

    monkeypatch.setattr("lofit_lens.analysis.methods.steps.select_together", first_stops)
    kept: list[Any] = []
    with pytest.raises(TrainingStopped, match=r"It did\."):
        score_heads(
            llama, tiny_tasks("a"), seeds=(1, 2, 3), together=2, selection=SELECTION,
            on_scores=kept.append, progress=False,
        )  # fmt: skip
    assert [list(scores["a"]) for scores in kept] == [[2]]
