"""Cross-task transfer of heads: choose on one task, tune and test on another (Figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lofit_lens.analysis.baselines.selectors import at_random
from lofit_lens.analysis.sweeping.steps import check_request
from lofit_lens.analysis.transfer.earlier import AllScores, Step, check_scores, sort_finished
from lofit_lens.analysis.transfer.results import RANDOM, ZERO_SHOT, TransferMatrix
from lofit_lens.analysis.transfer.run import TransferRun
from lofit_lens.analysis.transfer.stages import by_task, score_heads, tune_and_score
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError
from lofit_lens.fast.memory import BatchSize
from lofit_lens.heads import number_of_heads
from lofit_lens.progress import long_bar
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TuningConfig
from lofit_lens.training.rates import as_before, with_rate
from lofit_lens.training.together import check_together

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


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
    batch_size: BatchSize = 32,
    together: int = 8,
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
            replaced. A learning rate of "auto" is chosen once for each task, on its own heads with
            the first seed.
        batch_size: Sequences per forward pass in scoring; "auto" takes the most that fit into
            memory.
        together: How many runs on one task are trained in one forward pass. Activations of a step
            take so many times the memory of one run; results do not depend on it, up to rounding.
        done: Runs of an earlier transfer with the same settings; they are not run again.
        on_run: Called with each new run as soon as it is there, as to save it.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: Not exactly one of `fraction` and `k` is given; there are no tasks or seeds,
            some repeat, or a task is called "random" or "zero-shot"; `random_draws` is below 0 or
            `together` below 1; `scores`, `zero_shot` or the configurations by task lack a task or
            seed; `scores` were made on another task or with another seed; or `done` had other heads,
            settings or items.
        ModelMismatchError: `scores` were made on another model.
        TrainingStopped: Training became unstable; the runs beside it have been given to `on_run`.
    """
    check_request(tasks, seeds)
    names = [task.name for task in tasks]
    if {RANDOM, ZERO_SHOT} & set(names):
        raise LofitLensError(
            f'No task may be called "{RANDOM}" or "{ZERO_SHOT}"; got {", ".join(names)}.'
        )
    if random_draws < 0:
        raise LofitLensError(f"random_draws must be 0 or more, got {random_draws}.")
    check_together(together)
    for name in names:
        if scores is not None and not set(seeds) <= set(scores.get(name, {})):
            raise LofitLensError(
                f"`scores` lacks {name} with the seeds {', '.join(map(str, seeds))}."
            )
        if zero_shot is not None and name not in zero_shot:
            raise LofitLensError(f"`zero_shot` lacks {name}; it has {', '.join(zero_shot)}.")
    configs = by_task(tuning or TuningConfig(), names)
    size = number_of_heads(heads_of(model).total, k=k, fraction=fraction)
    if scores is None:
        scores = score_heads(
            model, tasks, seeds=seeds, selection=selection, together=together, progress=progress
        )
    else:
        check_scores(model, scores)
    if zero_shot is None:
        zero_shot = {
            task.name: evaluate(model, task, batch_size=batch_size, progress=False)
            for task in tasks
        }
    plan = transfer_plan(
        model, tasks, seeds=seeds, k=size, random_draws=random_draws, scores=scores
    )
    configs = {
        task.name: with_rate(
            model,
            task,
            scores[task.name][seeds[0]].top(k=size),
            as_before(
                replace(configs[task.name], seed=seeds[0]),
                [run.config for run in done if run.config and run.task == task.name],
            ),
            progress=progress,
        )
        for task in tasks
    }
    runs = sort_finished(done, plan, configs, zero_shot)
    waiting = [place for place, run in enumerate(runs) if run is None]
    new = tune_and_score(
        model,
        [plan[place] for place in waiting],
        configs,
        together=together,
        batch_size=batch_size,
    )
    with long_bar(plan, "transfer", progress=progress) as bar:
        bar.update(len(plan) - len(waiting))
        for run in new:
            if on_run is not None:
                on_run(run)
            runs[waiting.pop(0)] = run
            bar.update()
    return TransferMatrix(tuple(run for run in runs if run is not None), zero_shot)


def transfer_plan(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int],
    k: int,
    random_draws: int,
    scores: AllScores,
) -> list[Step]:
    """The runs of a transfer matrix in their order: those on one task follow one another.

    The arguments are those of `transfer_matrix`, which runs this plan; `tune_and_score` takes it.
    """
    plan: list[Step] = []
    for task in tasks:
        for seed in seeds:
            chosen = [(source.name, scores[source.name][seed].top(k=k)) for source in tasks]
            drawn = [
                (RANDOM, at_random(draw=draw)(model, task, seed).top(k=k))
                for draw in range(random_draws)
            ]
            plan += [(source, task, seed, heads) for source, heads in chosen + drawn]
    return plan
