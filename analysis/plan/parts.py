"""The parts of a study: each experiment on each of its models, and on each fold and seed if apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from lofit_lens.analysis.plan.entries import ModelEntry, TaskEntry
from lofit_lens.analysis.plan.experiments import Causal, Experiment
from lofit_lens.analysis.plan.options import Options, combined
from lofit_lens.analysis.plan.part import Part
from lofit_lens.analysis.plan.study_file import StudyFile
from lofit_lens.analysis.study.keys import plain
from lofit_lens.tasks.task import Task

Loaded = dict[str, list[Task]]
"""The folds of each task, by its name in the study."""


def parts_of(
    study: StudyFile,
    load: Callable[[TaskEntry], list[Task]],
    tokenizer_of: Callable[[ModelEntry], Any],
) -> list[Part]:
    """All parts, those of a model together.

    Args:
        study: The study.
        load: What gives the folds of a task on plain prompts.
        tokenizer_of: What gives the tokenizer of a model; None where it is not known, and prompts
            then stay plain.

    Raises:
        StudyFileError: A task cannot be loaded, or cannot be had in the chat template of a model.
    """
    plain_tasks: Loaded = {}
    for number, entry in enumerate(study.tasks):
        with study.problems.at(("tasks", number)):
            plain_tasks[entry.called] = load(entry)
    study.problems.check()
    parts: list[Part] = []
    for model in study.models:
        tasks = _in_template(study, plain_tasks, model, tokenizer_of)
        of_model: list[Part] = []
        for experiment in study.experiments:
            if not experiment.models or model.name in experiment.models:
                of_model += _parts(study, experiment, model, tasks, of_model)
        parts += of_model
    return parts


def _in_template(
    study: StudyFile, loaded: Loaded, model: ModelEntry, tokenizer_of: Callable[[ModelEntry], Any]
) -> Loaded:
    """The tasks in the chat template of a model, where that is asked for."""
    if not any(entry.chat for entry in study.tasks):
        return loaded
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        return loaded
    found: Loaded = {}
    for number, entry in enumerate(study.tasks):
        with study.problems.at(("tasks", number, "chat")):
            found[entry.called] = entry.inside(loaded[entry.called], tokenizer)
    study.problems.check()
    return found


def _parts(
    study: StudyFile, experiment: Experiment, model: ModelEntry, tasks: Loaded, before: list[Part]
) -> Iterator[Part]:
    """The parts of an experiment on a model; `before` are those of the experiments before it."""
    if isinstance(experiment, Causal):
        for part in [part for part in before if part.experiment.name == experiment.of]:
            (task,), (seed,) = part.tasks, part.seeds
            folder = plain(f"{model.name}-{experiment.name}-{task.name}-{seed}")
            yield Part(folder, model, experiment, part.tasks, part.seeds, part.options, part)
        return
    chosen: dict[str, Task] = {}
    options: dict[str, Options] = {}
    for name in experiment.tasks or tuple(tasks):
        own = combined(study.settings, study.by_task.get(name, Options()), experiment.settings)
        for task in tasks[name] if experiment.folds else tasks[name][:1]:
            chosen[task.name], options[task.name] = task, own
    every, start = tuple(chosen.values()), plain(f"{model.name}-{experiment.name}")
    if not experiment.apart:
        yield Part(start, model, experiment, every, experiment.seeds, options)
        return
    for task, seed in product(every, experiment.seeds):
        folder = f"{start}-{plain(task.name)}-{seed}"
        own = {task.name: options[task.name]}
        yield Part(folder, model, experiment, (task,), (seed,), own)
