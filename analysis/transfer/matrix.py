"""Cross-task transfer of heads: choose on one task, tune and test on another (Figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from tqdm.auto import tqdm

from lofit_lens.analysis.baselines.selectors import at_random
from lofit_lens.analysis.sweeping.steps import check_request
from lofit_lens.analysis.transfer.earlier import AllScores, Step, check_scores, sort_finished
from lofit_lens.analysis.transfer.results import RANDOM, ZERO_SHOT, TransferMatrix
from lofit_lens.analysis.transfer.run import TransferRun
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.selection import select_heads
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TrainingConfig, TuningConfig
from lofit_lens.tuning import tune_heads

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

C = TypeVar("C", bound=TrainingConfig)


def transfer_matrix(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int] = (42,),
    fraction: float | None = None,
    k: int | None = None,
    random_draws: int = 1,
    scores: AllScores | None = None,
    zero_shot: Mapping[str, Evaluation] | None = None,
    selection: SelectionConfig | Mapping[str, SelectionConfig] | None = None,
    tuning: TuningConfig | Mapping[str, TuningConfig] | None = None,
    batch_size: int = 32,
    done: Sequence[TransferRun] = (),
    on_run: Callable[[TransferRun], object] | None = None,
    progress: bool = True,
) -> TransferMatrix:
    """Tune each task on the heads of every task and on random heads (paper, Figure 2).

    Every head set of a seed is tuned on a task with that seed and with the same settings.

    Args:
        model: A frozen bridge from `load_model`.
        tasks: The tasks, with different names.
        seeds: Seeds of both stages.
        fraction: Share of heads to tune.
        k: Number of heads instead.
        random_draws: Sets of random heads for each seed: those that `compare` tunes with the same
            number of heads, and the same for every task.
        scores: Stage 1, if it has been done, by task name and seed.
        zero_shot: Scores of the untuned model, if they are there, by task name.
        selection: How to train stage 1, for all tasks or by task name; its seed is replaced.
        tuning: How to train stage 2, for all tasks or by the name of the task tuned on; its seed is
            replaced.
        batch_size: Sequences per forward pass in scoring.
        done: Runs of an earlier transfer with the same settings; they are not run again.
        on_run: Called with each new run as soon as it is there, as to save it.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: Not exactly one of `fraction` and `k` is given; there are no tasks or seeds,
            some repeat, or a task is called "random" or "zero-shot"; `random_draws` is below 0;
            `scores`, `zero_shot` or the configurations by task lack a task or seed; `scores` were
            made on another task or with another seed; or `done` had other heads, settings or items.
        ModelMismatchError: `scores` were made on another model.
        TrainingStopped: Training became unstable.
    """
    check_request(tasks, seeds)
    names = [task.name for task in tasks]
    if {RANDOM, ZERO_SHOT} & set(names):
        raise LofitLensError(
            f'No task may be called "{RANDOM}" or "{ZERO_SHOT}"; got {", ".join(names)}.'
        )
    if random_draws < 0:
        raise LofitLensError(f"random_draws must be 0 or more, got {random_draws}.")
    for name in names:
        if scores is not None and not set(seeds) <= set(scores.get(name, {})):
            raise LofitLensError(
                f"`scores` lacks {name} with the seeds {', '.join(map(str, seeds))}."
            )
        if zero_shot is not None and name not in zero_shot:
            raise LofitLensError(f"`zero_shot` lacks {name}; it has {', '.join(zero_shot)}.")
    configs = _by_task(tuning or TuningConfig(), names)
    size = number_of_heads(model.cfg.n_layers * model.cfg.n_heads, k=k, fraction=fraction)
    if scores is None:
        scores = score_heads(model, tasks, seeds=seeds, selection=selection, progress=progress)
    else:
        check_scores(model, scores)
    if zero_shot is None:
        zero_shot = {
            task.name: evaluate(model, task, batch_size=batch_size, progress=False)
            for task in tasks
        }
    plan: list[Step] = []
    for task in tasks:
        for seed in seeds:
            chosen = [(source.name, scores[source.name][seed].top(k=size)) for source in tasks]
            drawn = [
                (RANDOM, at_random(draw=draw)(model, task, seed).top(k=size))
                for draw in range(random_draws)
            ]
            plan += [(source, task, seed, heads) for source, heads in chosen + drawn]
    finished = sort_finished(done, plan, configs, zero_shot)
    runs = []
    steps = zip(plan, finished, strict=True)
    for step, run in tqdm(steps, desc="transfer", total=len(plan), disable=not progress):
        if run is None:
            source, task, seed, heads = step
            config = configs[task.name]
            run = tune_and_score(model, source, task, seed, heads, config, batch_size=batch_size)
            if on_run is not None:
                on_run(run)
        runs.append(run)
    return TransferMatrix(tuple(runs), zero_shot)


def score_heads(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int],
    selection: SelectionConfig | Mapping[str, SelectionConfig] | None = None,
    done: AllScores | None = None,
    on_scores: Callable[[AllScores], object] | None = None,
    progress: bool = True,
) -> AllScores:
    """Stage 1 on every task with every seed.

    Args:
        model: A frozen bridge from `load_model`.
        tasks: The tasks, with different names.
        seeds: The seeds.
        selection: How to train, for all tasks or by task name; its seed is replaced.
        done: Scores that are there already; they are not made again.
        on_scores: Called with new scores of one task and seed as soon as they are there.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: `selection` goes by task and lacks one, or `done` was made on another task or
            with another seed.
        ModelMismatchError: `done` was made on another model.
        TrainingStopped: Training became unstable.
    """
    done = done or {}
    check_scores(model, done)
    configs = _by_task(selection or SelectionConfig(), [task.name for task in tasks])
    with tqdm(total=len(tasks) * len(seeds), desc="select", disable=not progress) as bar:
        found: dict[str, dict[int, HeadScores]] = {}
        for task in tasks:
            found[task.name] = {}
            for seed in seeds:
                scores = done.get(task.name, {}).get(seed)
                if scores is None:
                    seeded = replace(configs[task.name], seed=seed)
                    scores = select_heads(model, task, seeded, progress=False)
                    if on_scores is not None:
                        on_scores({task.name: {seed: scores}})
                found[task.name][seed] = scores
                bar.update()
    return found


def tune_and_score(
    model: TransformerBridge,
    source: str,
    task: Task,
    seed: int,
    heads: HeadSet,
    tuning: TuningConfig | None = None,
    *,
    batch_size: int = 32,
) -> TransferRun:
    """Stage 2 on given heads with a seed, and the scores of the tuned model.

    Raises:
        TrainingStopped: Training became unstable.
    """
    config = replace(tuning or TuningConfig(), seed=seed)
    edit = tune_heads(model, task, heads, config, progress=False)
    scored = evaluate(model, task, edit, batch_size=batch_size, progress=False)
    assert edit.provenance is not None
    return TransferRun(source, task.name, seed, heads, scored, edit.provenance.config, edit)


def _by_task(given: C | Mapping[str, C], names: Sequence[str]) -> Mapping[str, C]:
    """A configuration by task name."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    missing = [name for name in names if name not in given]
    if missing:
        raise LofitLensError(
            f"There is no configuration for {', '.join(missing)}, only for {', '.join(given)}."
        )
    return given
