"""Both stages on several tasks, with several seeds and head sets: many runs in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from lofit_lens.analysis.transfer.earlier import AllScores, Step, check_scores
from lofit_lens.analysis.transfer.run import TransferRun
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.fast.memory import BatchSize
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.progress import long_bar
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.selection import select_together
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TrainingConfig, TuningConfig
from lofit_lens.training.rates import as_before, with_rate
from lofit_lens.training.together import grouped
from lofit_lens.tuning import tune_together

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

T = TypeVar("T")
C = TypeVar("C", bound=TrainingConfig)
Learned = TypeVar("Learned")


def score_heads(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int],
    selection: SelectionConfig | Mapping[str, SelectionConfig] | None = None,
    together: int = 8,
    done: AllScores | None = None,
    on_scores: Callable[[AllScores], object] | None = None,
    progress: bool = True,
) -> AllScores:
    """Stage 1 on every task with every seed.

    Args:
        model: A frozen bridge from `load_model`.
        tasks: The tasks, with different names.
        seeds: The seeds.
        selection: How to train, for all tasks or by task name; its seed is replaced. A learning
            rate of "auto" is chosen once for each task, with the first seed.
        together: How many seeds of a task are trained in one forward pass, as in `transfer_matrix`.
        done: Scores that are there already; they are not made again.
        on_scores: Called with new scores of one task and seed as soon as they are there.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: `selection` goes by task and lacks one, `together` is below 1, or `done` was
            made on another task or with another seed.
        ModelMismatchError: `done` was made on another model.
        TrainingStopped: Training became unstable; the scores beside it have been given to
            `on_scores`.
    """
    done = done or {}
    check_scores(model, done)
    every = HeadSet.every(**heads_of(model).shape)
    configs = by_task(selection or SelectionConfig(), [task.name for task in tasks])
    found: dict[str, dict[int, HeadScores]] = {}
    with long_bar(range(len(tasks) * len(seeds)), "select", progress=progress) as bar:
        for task in tasks:
            known = dict(done.get(task.name, {}))
            waiting = [seed for seed in seeds if seed not in known]
            bar.update(len(seeds) - len(waiting))
            config = replace(configs[task.name], seed=seeds[0])
            if waiting:
                origins = [scores.provenance for scores in known.values()]
                config = as_before(config, [origin.config for origin in origins if origin])
                config = with_rate(model, task, every, config, progress=progress)
            for some in grouped(waiting, together):
                seeded = [replace(config, seed=seed) for seed in some]
                new = select_together(model, task, seeded, progress=False)
                for seed, scores in _stable(some, new):
                    known[seed] = scores
                    if on_scores is not None:
                        on_scores({task.name: {seed: scores}})
                    bar.update()
            found[task.name] = {seed: known[seed] for seed in seeds}
    return found


def tune_and_score(
    model: TransformerBridge,
    steps: Sequence[Step],
    tuning: TuningConfig | Mapping[str, TuningConfig] | None = None,
    *,
    together: int = 8,
    batch_size: BatchSize = 32,
) -> Iterator[TransferRun]:
    """Stage 2 on given heads with given seeds, and the scores of each tuned model, one by one.

    Args:
        model: A frozen bridge from `load_model`.
        steps: Where heads are from, task, seed and heads of each run. Runs that follow one another
            and are on the same task are trained in one forward pass.
        tuning: How to train, for all tasks or by task name; its seed is replaced.
        together: How many runs at most, as in `transfer_matrix`.
        batch_size: Sequences per forward pass in scoring; "auto" takes the most that fit into
            memory.

    Yields:
        The runs in the order of the steps.

    Raises:
        LofitLensError: `tuning` goes by task and lacks one, or `together` is below 1.
        TrainingStopped: Training became unstable; the runs beside it have been yielded.
    """
    configs = by_task(tuning or TuningConfig(), [task.name for _, task, _, _ in steps])
    for _, same_task in groupby(steps, key=lambda step: step[1].name):
        for some in grouped(list(same_task), together):
            task = some[0][1]
            runs = [(heads, replace(configs[task.name], seed=seed)) for _, _, seed, heads in some]
            edits = tune_together(model, task, runs, progress=False)
            for (source, _, seed, heads), edit in _stable(some, edits):
                scored = evaluate(model, task, edit, batch_size=batch_size, progress=False)
                assert edit.provenance is not None
                how = edit.provenance.config
                yield TransferRun(source, task.name, seed, heads, scored, how, edit)


def by_task(given: C | Mapping[str, C], names: Sequence[str]) -> Mapping[str, C]:
    """A configuration by task name.

    Raises:
        LofitLensError: There are some by task, but one is missing.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    missing = [name for name in names if name not in given]
    if missing:
        raise LofitLensError(
            f"There is no configuration for {', '.join(missing)}, only for {', '.join(given)}."
        )
    return given


def _stable(
    of: Sequence[T], found: Sequence[Learned | TrainingStopped]
) -> Iterator[tuple[T, Learned]]:
    """What was learned, and of what; then the error of the first run that became unstable."""
    for one, learned in zip(of, found, strict=True):
        if not isinstance(learned, TrainingStopped):
            yield one, learned
    for learned in found:
        if isinstance(learned, TrainingStopped):
            raise learned
