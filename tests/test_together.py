"""Several head sets in one forward pass, against each of them alone on the plain path."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.analysis.baselines.selectors import at_random
from lofit_lens.analysis.kinds.lofit import lofit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.fast.switches import shortcuts
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import Provenance
from lofit_lens.stages import select_heads, select_together, tune_heads, tune_together
from lofit_lens.tasks import Task
from lofit_lens.training import SelectionConfig, TuningConfig
from lofit_lens.training import loop as training_loop
from lofit_lens.training.history import History
from lofit_lens.training.session import Trainee
from tests.helpers import FAMILIES, N_HEADS, N_LAYERS
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Runs = Sequence[tuple[HeadSet, TuningConfig]]

CONFIG = TuningConfig(learning_rate=0.01, epochs=2, batch_size=4, init_std=0.05)
"""Of six examples, so that the last batch of an epoch has two."""


BROKEN = "after 0 steps: the (loss|gradient) is nan"


def some_heads(*heads: tuple[int, int]) -> HeadSet:
    return HeadSet(heads, n_layers=N_LAYERS, n_heads=N_HEADS)


SETS = (
    some_heads((2, 1)),
    some_heads((1, 3), (0, 2), (1, 0)),
    some_heads((2, 1), (2, 0), (0, 2), (1, 1), (2, 3)),
)
"""Of different sizes and layers, with heads in common, out of order."""


def uneven_task() -> Task:
    """Prompts and answers of several lengths."""
    task = colour_task()
    train = [
        replace(example, prompt="Once more: " * (i % 3) + example.prompt)
        for i, example in enumerate(task.train)
    ]
    return replace(task, train=tuple(train), val=tuple(train[:3]))


def runs_of(config: TuningConfig) -> Runs:
    return [
        (heads, replace(config, seed=seed)) for heads, seed in zip(SETS, (42, 7, 42), strict=True)
    ]


def alone(model: TransformerBridge, task: Task, runs: Runs) -> list[HeadIntervention]:
    with shortcuts(False):
        return [tune_heads(model, task, heads, config, progress=False) for heads, config in runs]


def learned(found: Sequence[HeadIntervention | TrainingStopped]) -> list[HeadIntervention]:
    assert all(isinstance(edit, HeadIntervention) for edit in found), found
    return [edit for edit in found if isinstance(edit, HeadIntervention)]


def origin(result: Any) -> Provenance:
    assert isinstance(result.provenance, Provenance)
    return result.provenance


def assert_same_run(found: HeadIntervention, expected: HeadIntervention) -> None:
    assert found.heads == expected.heads
    assert found.scope == expected.scope
    assert origin(found).config == origin(expected).config
    assert_same_course(origin(found).history, origin(expected).history)
    for name in ("scale", "bias"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert not one.requires_grad
            assert float((one - other).norm() / other.norm()) < 1e-3, name


def assert_same_course(found: History, expected: History) -> None:
    """The first steps as good as equal; rounding grows from step to step."""
    assert found.loss[:2] == pytest.approx(expected.loss[:2], rel=1e-5)
    assert found.gradient_norm[:2] == pytest.approx(expected.gradient_norm[:2], rel=1e-5, abs=1e-6)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.learning_rate == expected.learning_rate
    assert found.val_loss == pytest.approx(expected.val_loss, rel=1e-4)
    assert found.val_step == expected.val_step


@pytest.mark.parametrize("objective", ["sft", "dpo", "choice"])
@pytest.mark.parametrize("family", FAMILIES)
def test_runs_tuned_together_are_what_each_is_alone(
    tiny_model: Callable[[str], TransformerBridge], family: str, objective: Any
) -> None:
    model, task = tiny_model(family), uneven_task()
    runs = runs_of(replace(CONFIG, objective=objective))
    found = learned(tune_together(model, task, runs, progress=False))
    for one, other in zip(found, alone(model, task, runs), strict=True):
        assert_same_run(one, other)


@pytest.mark.parametrize("component", ["bias", "scale"])
@pytest.mark.parametrize("objective", ["sft", "choice"])
@pytest.mark.parametrize("scope", ["after_prompt", "iti_compat", "last"])
def test_so_are_they_under_every_scope_with_scale_and_bias(
    llama: TransformerBridge, scope: Any, objective: Any, component: Any
) -> None:
    task = uneven_task()
    runs = runs_of(
        replace(CONFIG, objective=objective, scope=scope, component=component, validate=False)
    )
    found = learned(tune_together(llama, task, runs, progress=False))
    for one, other in zip(found, alone(llama, task, runs), strict=True):
        assert_same_run(one, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"component": "scale"},
        {"micro_batch_size": 1},
        {"micro_batch_size": 3, "objective": "dpo"},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "component": "scale", "scope": "after_prompt"},
        {"l1": 0.01, "weight_decay": 0.1, "max_gradient_norm": 0.01},
        {"batch_size": 50},
    ],
    ids=str,
)
@pytest.mark.parametrize("direct", [True, False])
def test_so_are_they_with_other_settings_and_through_the_bridge(
    llama: TransformerBridge, changes: dict[str, Any], direct: bool
) -> None:
    task = uneven_task()
    runs = runs_of(replace(CONFIG, **changes))
    with shortcuts(direct=direct):
        found = learned(tune_together(llama, task, runs, progress=False))
    for one, other in zip(found, alone(llama, task, runs), strict=True):
        assert_same_run(one, other)


def test_runs_that_differ_in_their_seed_alone_see_the_examples_in_their_own_order(
    llama: TransformerBridge,
) -> None:
    runs = [(SETS[1], replace(CONFIG, seed=seed)) for seed in (1, 2, 1)]
    first, second, again = learned(tune_together(llama, uneven_task(), runs, progress=False))
    assert first.bias is not None and second.bias is not None and again.bias is not None
    assert not torch.allclose(first.bias, second.bias, atol=1e-3)
    assert torch.allclose(first.bias, again.bias, atol=1e-6)
    assert origin(first).history.loss != origin(second).history.loss


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_selected_together_have_the_scores_of_each_seed_alone(
    tiny_model: Callable[[str], TransformerBridge], family: str
) -> None:
    model, task = tiny_model(family), uneven_task()
    configs = [
        SelectionConfig(epochs=2, batch_size=4, init_std=0.05, seed=seed, validate=False)
        for seed in (42, 7)
    ]
    found = select_together(model, task, configs, progress=False)
    for scores, config in zip(found, configs, strict=True):
        assert not isinstance(scores, TrainingStopped)
        with shortcuts(False):
            expected = select_heads(model, task, config, progress=False)
        assert_same_course(origin(scores).history, origin(expected).history)
        assert origin(scores).config == origin(expected).config
        assert scores.method == expected.method
        assert torch.allclose(scores.scores, expected.scores, rtol=1e-3)


def test_without_the_shortcut_runs_are_trained_one_after_the_other(
    llama: TransformerBridge,
) -> None:
    runs = runs_of(CONFIG)
    with shortcuts(together=False):
        found = learned(tune_together(llama, uneven_task(), runs, progress=False))
        expected = [tune_heads(llama, uneven_task(), *run, progress=False) for run in runs]
    for one, other in zip(found, expected, strict=True):
        assert one.bias is not None and other.bias is not None
        assert torch.equal(one.bias, other.bias)
        assert origin(one).history == origin(other).history


@pytest.mark.parametrize("component", ["bias", "scale"])
def test_a_run_whose_numbers_are_out_of_all_bounds_leaves_the_others_alone(
    llama: TransformerBridge, component: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, runs = uneven_task(), runs_of(replace(CONFIG, component=component))
    expected = alone(llama, task, runs)
    fresh = training_loop._new

    def exploding(model: TransformerBridge, heads: HeadSet, config: Any) -> Trainee:
        trainee = fresh(model, heads, config)
        if heads == SETS[1]:
            trainee.parameters[0].data.fill_(1e38)
        return trainee

    monkeypatch.setattr(training_loop, "_new", exploding)
    first, broken, last = tune_together(llama, task, runs, progress=False)
    assert isinstance(broken, TrainingStopped)
    assert re.search(BROKEN, str(broken))
    for one, other in zip(learned([first, last]), (expected[0], expected[2]), strict=True):
        assert_same_run(one, other)
    with pytest.raises(TrainingStopped, match=BROKEN):
        tune_heads(llama, task, *runs[1], progress=False)


def test_a_run_that_stops_on_the_way_keeps_what_it_learned_and_the_others_go_on(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, runs = uneven_task(), runs_of(CONFIG)
    expected = alone(llama, task, runs)
    steady = Trainee.unstable

    def unstable(self: Trainee, loss: float, gradient_norm: float) -> str | None:
        if len(self.history.loss) == 2 and len(self.parameters[0]) == len(SETS[1]):
            loss = math.inf
        return steady(self, loss, gradient_norm)

    monkeypatch.setattr(Trainee, "unstable", unstable)
    first, stopped, last = tune_together(llama, task, runs, progress=False)
    assert isinstance(stopped, TrainingStopped)
    assert "after 2 steps: the loss is inf" in str(stopped)
    for one, other in zip(learned([first, last]), (expected[0], expected[2]), strict=True):
        assert_same_run(one, other)
    with pytest.raises(TrainingStopped) as caught:
        alone(llama, task, runs[1:2])
    kept, kept_alone = stopped.learned, caught.value.learned
    assert isinstance(kept, HeadIntervention) and isinstance(kept_alone, HeadIntervention)
    assert_same_run(kept, kept_alone)


def test_all_runs_may_become_unstable(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainee, "unstable", lambda *_: "it is")
    found = tune_together(llama, uneven_task(), runs_of(CONFIG), progress=False)
    assert [str(error).partition(" Try")[0] for error in found] == [
        "Training on colours stopped after 0 steps: it is."
    ] * 3


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no runs to tune"),
        ([(SETS[0], CONFIG), (some_heads(), CONFIG)], "no heads to train"),
        (
            [(SETS[0], CONFIG), (SETS[1], replace(CONFIG, epochs=3))],
            "heads, seeds and learning rates only",
        ),
        ([(SETS[0], CONFIG), (SETS[1], replace(CONFIG, component="scale"))], "heads, seeds and"),
        ([(SETS[0], CONFIG), (HeadSet([(0, 0)], n_layers=9, n_heads=4), CONFIG)], "9"),
    ],
)
def test_runs_that_cannot_be_tuned_together_are_refused(
    llama: TransformerBridge, runs: Runs, message: str
) -> None:
    with pytest.raises(LofitLensError, match=message):
        tune_together(llama, uneven_task(), runs, progress=False)


def test_no_seeds_to_select_with_and_other_settings_are_refused(llama: TransformerBridge) -> None:
    with pytest.raises(LofitLensError, match="no configuration to select heads with"):
        select_together(llama, uneven_task(), [], progress=False)
    configs = [SelectionConfig(), SelectionConfig(l1=0.5)]
    with pytest.raises(
        LofitLensError, match="differ in their heads, seeds and learning rates only"
    ):
        select_together(llama, uneven_task(), configs, progress=False)


@pytest.mark.parametrize("together", [1, 2, 8])
def test_a_run_of_both_stages_tunes_each_of_its_head_sets_as_alone(
    llama: TransformerBridge, together: int, tmp_path: Path
) -> None:
    task, tuning = uneven_task(), replace(CONFIG, seed=5)
    run = lofit(
        llama, task, k=2, selection=SelectionConfig(epochs=1), tuning=tuning, random_draws=2,
        together=together, out=tmp_path, progress=False,
    )  # fmt: skip
    (expected,) = alone(llama, task, [(run.heads, tuning)])
    assert_same_run(replace(run.intervention, provenance=origin(run.intervention)), expected)
    assert list(run.random) == [0, 1]
    for draw, scored in run.random.items():
        drawn = at_random(draw=draw)(llama, task, 5).top(k=2)
        (edit,) = alone(llama, task, [(drawn, tuning)])
        with shortcuts(False):
            again = scores_of(llama, task, edit)
        assert scores_of_records(scored.records) == pytest.approx(again, rel=1e-3)
    assert sorted(path.name for path in tmp_path.glob("random_*")) == [
        "random_0.json.gz", "random_1.json.gz"
    ]  # fmt: skip


def scores_of(model: TransformerBridge, task: Task, edit: HeadIntervention) -> list[float]:
    from lofit_lens.scoring.evaluate import evaluate

    return scores_of_records(evaluate(model, task, edit, progress=False).records)


def scores_of_records(records: Sequence[Any]) -> list[float]:
    return [score for record in records for score in (*record["correct"], *record["incorrect"])]


def test_fewer_than_one_run_at_once_are_refused_before_any_work(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lofit_lens.analysis.methods.steps.select_together", None)
    with pytest.raises(LofitLensError, match="together must be 1 or more runs, got 0"):
        lofit(llama, uneven_task(), k=2, together=0, progress=False)
