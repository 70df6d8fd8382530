"""Scores by number of training examples (Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lofit_lens.analysis.comparison.compare import Methods
from lofit_lens.analysis.measure.side_effects import sample_texts
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.sweeping.folder import SweepFolder
from lofit_lens.analysis.sweeping.results import Sweep
from lofit_lens.analysis.sweeping.steps import Steps, check_request, settings_for
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.progress import long_bar
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def example_sweep(
    model: TransformerBridge,
    tasks: Sequence[Task],
    examples: Sequence[int] | Mapping[str, Sequence[int]] = (20, 50, 100),
    *,
    methods: Methods = ("lora", "red", "lofit"),
    seeds: Sequence[int] = (42,),
    settings: Settings | Mapping[str, Settings] | None = None,
    texts: Sequence[EncodedText] | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Sweep:
    """Compare methods fitted on fewer and more training examples (paper, Figure 4).

    At each number and with each seed this is `compare` on `with_examples(task, n, seed=seed)`: all
    methods see the same examples, and fewer ones are part of more. Epochs stay the same, so fewer
    examples also mean fewer steps. Validation items are all kept: a method that chooses a setting
    on them, as ITI its alpha, has more data than the number says.

    Args:
        model: A frozen bridge from `load_model`.
        tasks: The tasks, with different names.
        examples: Numbers of training examples, for all tasks or by task name.
        methods: As for `compare`.
        seeds: Seeds of the methods and of the draw of examples.
        settings: As for `compare`. The paper tunes 10% of the heads here: `Settings(fraction=0.1)`.
        texts: As for `compare`.
        folder: Where each run is written as soon as it is there. Runs that are there already are
            not run again. `Sweep.load` reads the folder of a finished sweep.
        progress: Whether to show a bar.

    Raises:
        DataError: A task has fewer training examples.
        LofitLensError: There are no numbers, seeds or tasks, or they repeat; the folder holds
            something else; as `compare`.
        TrainingStopped: Training became unstable.
    """
    check_request(tasks, seeds)
    plan = [(n, task) for task in tasks for n in _numbers(examples, task)]
    by_task = {task.name: settings_for(task, settings) for task in tasks}
    texts = tuple(texts) if texts is not None else sample_texts(model)
    place = None if folder is None else SweepFolder(folder, "examples")
    steps = Steps(model, "examples", texts, place)
    order = sorted(plan, key=lambda step: step[0])
    with long_bar(range(len(order) * len(seeds)), "example sweep", progress=progress) as bar:
        for n, task in order:
            for seed in seeds:
                cut = with_examples(task, n, seed=seed)
                own = steps.with_rates(n, cut, seed, methods, by_task[task.name])
                steps.run(n, cut, seed, methods, own)
                bar.update()
    return steps.sweep()


def with_examples(task: Task, n: int, *, seed: int) -> Task:
    """The task with `n` of its training examples, drawn by the seed.

    With one seed, fewer examples are part of more. They keep their order, so that all of them give
    the task as it was. Validation and test stay.

    Args:
        task: The task.
        n: Number of training examples.
        seed: Seed of the draw, from a local generator.

    Raises:
        DataError: The task has fewer.
        LofitLensError: `n` is below 1.
    """
    if n < 1:
        raise LofitLensError(f"The number of training examples must be 1 or more, got {n}.")
    if n > len(task.train):
        raise DataError(
            f"{task.name} has {len(task.train)} training examples, got a request for {n}."
        )
    drawn = np.random.default_rng(seed).permutation(len(task.train))[:n]
    return replace(task, train=tuple(task.train[i] for i in sorted(drawn)))


def _numbers(examples: Sequence[int] | Mapping[str, Sequence[int]], task: Task) -> Sequence[int]:
    """The numbers of examples of a task, checked."""
    numbers = examples.get(task.name, ()) if isinstance(examples, Mapping) else examples
    if not numbers or len(set(numbers)) < len(numbers):
        raise LofitLensError(
            f"Numbers of examples must differ, and there must be one; got {list(numbers)} for "
            f"{task.name}."
        )
    for n in numbers:
        with_examples(task, n, seed=0)
    return numbers
