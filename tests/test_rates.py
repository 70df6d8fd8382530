"""Learning rates chosen on validation, and what a history says of a run that learned nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.kinds.lofit import lofit
from lofit_lens.analysis.kinds.sweeps import head_sweep
from lofit_lens.analysis.kinds.transfer import score_heads, transfer_matrix
from lofit_lens.analysis.measure.leaks import sealed
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.record import Record
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import Provenance
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.stages import select_heads, select_together, tune_heads, tune_together
from lofit_lens.tasks import Task
from lofit_lens.training import History, SelectionConfig, TrainingConfig, TuningConfig, rates
from lofit_lens.training.rates import RateChoice, with_rate
from tests.helpers import N_HEADS, N_LAYERS
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 6}
SELECTION = SelectionConfig(learning_rate="auto", validate=False, **SHORT)
TUNING = TuningConfig(learning_rate="auto", validate=False, **SHORT)
HEADS = HeadSet([(2, 1), (1, 3)], n_layers=N_LAYERS, n_heads=N_HEADS)


def apart() -> Task:
    """A task whose splits have no item in common, as a comparison asks for."""
    colours = colour_task(12)
    splits = {"train": colours.train[:6], "val": colours.train[6:9], "test": colours.train[9:]}
    return replace(colours, val_as_test=splits["val"], **splits)


def origin(result: Any) -> Provenance:
    assert isinstance(result.provenance, Provenance)
    return result.provenance


def choice_in(result: Any) -> RateChoice:
    return RateChoice.from_json(origin(result).config["rate_choice"])


def chosen_in(run: Record) -> dict[str, RateChoice]:
    """The learning rates that the steps of a run chose, by stage and task."""
    told = {step["step"]: step.get("rate_choice") for step in run.steps}
    return {name: RateChoice.from_json(choice) for name, choice in told.items() if choice}


def test_auto_takes_the_rate_whose_own_training_does_best_on_validation(
    llama: TransformerBridge,
) -> None:
    task = colour_task()
    chosen = with_rate(llama, task, HEADS, TUNING, progress=False)
    found = RateChoice.from_json(chosen.rate_choice or {})
    by_rate = {}
    for trial in found.trials:
        config = replace(TUNING, learning_rate=trial.learning_rate, validate=True)
        alone = tune_heads(llama, task, HEADS, config, progress=False)
        score = evaluate(llama, task, alone, split="val", progress=False).main.value
        loss = origin(alone).history.val_loss[-1]
        assert (trial.score, trial.val_loss) == (score, pytest.approx(loss, rel=1e-3))
        by_rate[trial.learning_rate] = (-score, loss)
    assert tuple(by_rate) == rates.TUNING_RATES
    assert chosen.learning_rate == found.learning_rate == min(by_rate, key=lambda r: by_rate[r])
    assert chosen == replace(TUNING, learning_rate=found.learning_rate)


def test_stage_1_compares_the_validation_loss_without_its_penalty(llama: TransformerBridge) -> None:
    task, config = colour_task(), replace(SELECTION, l1=10.0, validate=True)
    scores = select_heads(llama, task, config, progress=False)
    found = choice_in(scores)
    assert all(trial.score is None for trial in found.trials)
    losses = {trial.learning_rate: trial.val_loss for trial in found.trials}
    assert origin(scores).config["learning_rate"] == min(losses, key=lambda r: losses[r] or 0)
    expected = origin(scores).history.val_loss[-1]
    assert losses[found.learning_rate] == pytest.approx(expected, rel=1e-3)


def test_what_auto_learns_is_what_its_number_learns_and_the_number_is_what_is_saved(
    llama: TransformerBridge,
) -> None:
    task = colour_task()
    auto = tune_heads(llama, task, HEADS, TUNING, progress=False)
    config = dict(origin(auto).config)
    number = replace(TUNING, learning_rate=config["learning_rate"])
    given = tune_heads(llama, task, HEADS, number, progress=False)
    assert auto.bias is not None and given.bias is not None
    assert auto.bias.equal(given.bias)
    told = config.pop("rate_choice")
    assert config == dict(origin(given).config)
    assert told["learning_rate"] == config["learning_rate"]
    assert len(told["trials"]) == 5 and told["seconds"] > 0
    loaded = Provenance.from_json(json.loads(json.dumps(origin(auto).to_json())))
    assert choice_in(auto) == RateChoice.from_json(loaded.config["rate_choice"])


def test_the_choice_does_not_read_the_test(llama: TransformerBridge) -> None:
    task = sealed(colour_task())
    select_heads(llama, task, SELECTION, progress=False)
    tune_heads(llama, task, HEADS, TUNING, progress=False)


def test_a_rate_that_is_unstable_is_left_out_and_all_of_them_are_an_error(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TUNING, epochs=40, batch_size=1)
    monkeypatch.setattr(rates, "TUNING_RATES", (1e-2, 3e37))
    found = choice_in(tune_heads(llama, colour_task(), HEADS, config, progress=False))
    assert found.learning_rate == 1e-2
    assert "stopped after" in (found.trials[1].stopped or "")
    assert "3e+37: stopped" in str(found)
    monkeypatch.setattr(rates, "TUNING_RATES", (2e37, 3e37))
    with pytest.raises(TrainingStopped, match=r"below 2e\+37"):
        tune_heads(llama, colour_task(), HEADS, config, progress=False)


def test_where_memory_runs_out_the_grid_is_trained_one_by_one(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = with_rate(llama, colour_task(), HEADS, TUNING, progress=False)
    sizes, whole = [], rates.train_together

    def small(model: Any, task: Any, runs: Any, *rest: Any, **options: Any) -> Any:
        sizes.append(len(runs))
        if len(runs) > 1:
            raise RuntimeError("CUDA out of memory.")
        return whole(model, task, runs, *rest, **options)

    monkeypatch.setattr(rates, "train_together", small)
    assert with_rate(llama, colour_task(), HEADS, TUNING, progress=False) == expected
    assert sizes == [5, 1, 1, 1, 1, 1]


def test_seeds_trained_together_share_one_choice(llama: TransformerBridge) -> None:
    task = colour_task()
    seeded = [replace(SELECTION, seed=seed) for seed in (42, 43)]
    first, second = select_together(llama, task, seeded, progress=False)
    assert choice_in(first) == choice_in(second)
    assert [origin(one).config["seed"] for one in (first, second)] == [42, 43]
    mixed = [(HEADS, TUNING), (HEADS, replace(TUNING, learning_rate=0.1))]
    with pytest.raises(LofitLensError, match="Give one to all"):
        tune_together(llama, task, mixed, progress=False)


def test_runs_of_different_rates_trained_together_are_what_each_is_alone(
    llama: TransformerBridge,
) -> None:
    configs = [replace(TUNING, learning_rate=rate) for rate in (0.3, 1e-3)]
    runs = [(HEADS, config) for config in configs]
    for config, edit in zip(
        configs, tune_together(llama, colour_task(), runs, progress=False), strict=True
    ):
        alone = tune_heads(llama, colour_task(), HEADS, config, progress=False)
        assert not isinstance(edit, TrainingStopped)
        assert edit.bias is not None and alone.bias is not None
        assert float((edit.bias - alone.bias).norm() / alone.bias.norm()) < 1e-3
        assert origin(edit).history.learning_rate == origin(alone).history.learning_rate


def test_lofit_uses_the_rate_of_its_own_heads_for_random_ones(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    whole = rates._trained

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[3])
        return whole(*arguments, **options)

    monkeypatch.setattr(rates, "_trained", counted)
    run = lofit(
        llama, colour_task(), k=2, selection=SELECTION, tuning=TUNING, random_draws=3, together=2,
        progress=False,
    )  # fmt: skip
    assert asked == ["scale", "bias"]
    assert len(run.random) == 3
    assert choice_in(run.intervention).learning_rate in rates.TUNING_RATES


def test_a_transfer_chooses_once_for_each_task_and_stage_and_goes_on_with_the_choice(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tasks = [colour_task(), replace(colour_task(), name="others")]
    scores = score_heads(llama, tasks, seeds=(1, 2), selection=SELECTION, progress=False)
    for by_seed in scores.values():
        assert choice_in(by_seed[1]) == choice_in(by_seed[2])
    first = transfer_matrix(
        llama, tasks, seeds=(1,), k=2, scores=scores, tuning=TUNING, progress=False
    )
    for task in tasks:
        told = [run.config["rate_choice"] for run in first.runs if run.fold == task.name]  # pyright: ignore[reportOptionalSubscript]
        assert len(told) == 3 and all(one == told[0] for one in told)
    saved = [run.save(tmp_path / f"{run.name}.json.gz") for run in first.runs]
    done = [Record.load(path) for path in saved]
    monkeypatch.setattr(rates, "_trained", None)  # nothing is chosen again
    more = transfer_matrix(
        llama, tasks, seeds=(1, 2), k=2, scores=scores, tuning=TUNING, done=done, progress=False
    )
    assert len(more.runs) == 12
    partly = {name: {1: by_seed[1]} for name, by_seed in scores.items()}
    again = score_heads(
        llama, tasks, seeds=(1, 2), selection=SELECTION, done=partly, progress=False
    )
    assert choice_in(again["others"][2]) == choice_in(scores["others"][1])
    by_number = replace(SELECTION, learning_rate=0.5)
    chosen = {"others": scores["others"]}
    other = score_heads(
        llama, tasks[:1], seeds=(1,), selection=by_number, done=chosen, progress=False
    )
    assert origin(other["colours"][1]).config["learning_rate"] == 0.5


def test_a_comparison_chooses_before_its_methods_and_goes_on_with_the_choice(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(k=2, selection=SELECTION, tuning=TUNING)
    names = ["lofit", "random-heads"]
    task = apart()
    found = compare(llama, [task], names, settings=settings, progress=False)
    stages = chosen_in(found.runs[1])
    for stage, tried in (("Stage 1", rates.SELECTION_RATES), ("Stage 2", rates.TUNING_RATES)):
        assert tuple(t.learning_rate for t in stages[f"{stage} on colours"].trials) == tried
    assert len(stages) == 2
    own = stages["Stage 2 on colours"]
    assert chosen_in(found.runs[2])["Stage 2 on colours"] == own
    rate = own.learning_rate
    assert [run.choices.get("learning_rate") for run in found.runs] == [None, rate, rate]
    for run in found.runs[1:]:
        assert run.config is not None and run.config["learning_rate"] == rate
    monkeypatch.setattr(rates, "_trained", None)  # nothing is chosen again
    again = compare(
        llama, [task], names, settings=settings, done=found.runs, seeds=(42, 43), progress=False
    )
    assert again.seeds == (42, 43)
    first, second = (run.steps for run in again.runs if run.method == "random-heads")
    shared = ["Stage 1 on colours", "colours-42", "Stage 2 on colours"]
    assert [step["step"] for step in second[:3]] == shared
    assert list(second[:3]) == list(first[:3])  # and their costs with them
    assert all(step["tokens"] > 0 for step in second[:3])


def test_a_method_that_needs_no_stage_of_lofit_chooses_nothing(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "_trained", None)
    settings = Settings(k=2, selection=SELECTION, tuning=TUNING)
    found = compare(llama, [apart()], ["lora"], settings=settings, progress=False)
    assert found.methods == ("zero-shot", "lora")


def test_a_sweep_over_heads_chooses_at_each_share(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(selection=SELECTION, tuning=TUNING)
    shares = (0.1, 0.5)
    found = head_sweep(
        llama, [apart()], shares, settings=settings, out=tmp_path / "s", progress=False
    )
    for comparison in found.comparisons.values():
        assert "Stage 2 on colours" in chosen_in(comparison.runs[-1])
    monkeypatch.setattr(rates, "_trained", None)
    again = head_sweep(
        llama, [apart()], shares, settings=settings, out=tmp_path / "s", progress=False
    )
    assert again.frame().equals(found.frame())


def test_auto_is_for_the_stages_of_lofit_alone() -> None:
    with pytest.raises(LofitLensError, match="two stages of LoFiT"):
        TrainingConfig(learning_rate="auto").rate  # noqa: B018


def test_a_choice_is_forgotten_when_another_rate_is_set(llama: TransformerBridge) -> None:
    chosen = with_rate(llama, colour_task(), HEADS, TUNING, progress=False)
    assert replace(chosen, seed=3).rate_choice == chosen.rate_choice
    assert replace(chosen, learning_rate=0.123).rate_choice is None


def history(*losses: float, epoch: int = 2, **rest: Any) -> History:
    return History(
        list(losses), [1.0] * len(losses), [0.01] * len(losses), steps_per_epoch=epoch, **rest
    )


def test_a_history_tells_the_means_of_its_epochs_not_two_single_batches() -> None:
    found = history(
        11.0, 5.0, 9.0, 3.0, 2.0, 8.0, val_loss=[5.4, 4.0, 3.9, 3.8], val_step=[0, 2, 4, 6]
    )
    assert found.epoch_loss == [8.0, 6.0, 5.0]
    assert repr(found) == "History(6 steps, loss by epoch 8 -> 5, validation 5.4 -> 3.8)"
    assert list(found.frame()["epoch"].dropna()) == [1, 1, 2, 2, 3, 3]
    traces: Any = found.plot().data
    by_name: dict[str, Any] = {trace["name"]: trace for trace in traces}
    assert list(by_name["training, by epoch"].x) == [1.5, 3.5, 5.5]
    assert list(by_name["training, by epoch"].y) == [8.0, 6.0, 5.0]
    assert list(by_name["training, by batch"].y) == found.loss
    assert list(by_name["validation"].x) == [0, 2, 4, 6]


def test_a_history_of_an_earlier_version_finds_its_epochs() -> None:
    fours, many = [1.0] * 4, [1.0] * 25
    known = History(
        [4.0, 2.0, 2.0, 0.0], fours, fours, val_loss=[1.0, 1.0, 1.0], val_step=[0, 2, 4]
    )
    assert known.epoch_loss == [3.0, 1.0]
    unknown = History([float(i) for i in range(25)], many, many)
    assert len(unknown.epoch_loss) == 9
    assert unknown.epoch_loss[0] == 1.0
    assert History().epoch_loss == []
    assert repr(History()) == "History(no steps)"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (history(3.0, 1.0, 1.95, 2.0), "hardly moved (2 -> 1.975) at a learning rate of 0.01"),
        (history(3.0, 1.0, 1.0, 2.0), None),
        (history(2.0, 2.0, 4.0, 3.0), "training loss grew (2 -> 3.5)"),
        (history(0.04, 0.04, 0.04, 0.04), None),
        (history(3.0, 1.0), None),
        (history(3.0, 1.0, val_loss=[2.0, 1.99], val_step=[0, 2]), "validation loss hardly moved"),
        (history(3.0, 1.0, val_loss=[2.0, 1.5], val_step=[0, 2]), None),
        (History(), None),
    ],
)  # fmt: skip
def test_a_loss_that_hardly_moved_is_told_with_the_rate_and_auto(
    found: History, told: str | None
) -> None:
    warning = found.warning()
    assert (warning is None) == (told is None)
    if told is not None:
        assert told in (warning or "")
        assert '"auto"' in (warning or "")


def test_training_knows_its_epochs_and_a_rate_that_is_too_small_is_told(
    llama: TransformerBridge,
) -> None:
    config = TuningConfig(learning_rate=1e-6, epochs=3, batch_size=4)
    found = origin(tune_heads(llama, colour_task(), HEADS, config, progress=False)).history
    assert found.steps_per_epoch == 2
    assert math.fsum(found.epoch_loss) == pytest.approx(sum(found.loss) / 2)
    assert "too small" in (found.warning() or "")
    better = replace(config, learning_rate=0.3)
    assert (
        origin(tune_heads(llama, colour_task(), HEADS, better, progress=False)).history.warning()
        is None
    )


def test_the_choice_is_said_with_its_trials_and_cost(
    llama: TransformerBridge, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = tune_heads(llama, colour_task(), HEADS, TUNING)
    said = capsys.readouterr().err
    assert f"Stage 2 on colours: {choice_in(tuned)}." in said
    assert "5 trainings" in said and "0.003: " in said
    tune_heads(llama, colour_task(), HEADS, TUNING, progress=False)
    assert "Stage 2" not in capsys.readouterr().err
