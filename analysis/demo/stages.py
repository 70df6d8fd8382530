"""The two stages of the demo as jobs: what is run, in which groups, and where it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from lofit_lens.analysis.transfer.earlier import AllScores, Step
from lofit_lens.analysis.transfer.stages import score_heads, tune_and_score

from lofit_lens.analysis.demo.workers import RunJobs
from lofit_lens.analysis.kinds.matrix import RANDOM
from lofit_lens.analysis.kinds.transfer import transfer_plan
from lofit_lens.analysis.study.paired import plain
from lofit_lens.analysis.study.record import Record
from lofit_lens.attention import heads_of
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import number_of_heads
from lofit_lens.progress import long_bar
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TuningConfig
from lofit_lens.training.together import grouped

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BATCH_SIZE, TOGETHER = 256, 8
"""Sequences per forward pass in scoring, and runs trained in one."""


def first_stage(
    run_jobs: RunJobs, tasks: Sequence[Task], seeds: Sequence[int], folder: Path, progress: bool
) -> tuple[dict[str, Evaluation], AllScores]:
    """The untuned model and the scores of stage 1 by task, written as soon as they are there."""
    jobs = [partial(_score_task, task=task, seeds=seeds) for task in tasks]
    found = {}
    with long_bar(tasks, "select", progress=progress) as bar:
        for place, (evaluation, scores) in run_jobs(jobs):
            name = tasks[place].name
            for seed, by_head in scores.items():
                by_head.save(folder / f"{plain(name)}-{seed}.json")
            found[name] = evaluation, scores
            bar.update()
    names = [task.name for task in tasks]
    return {name: found[name][0] for name in names}, {name: found[name][1] for name in names}


def _score_task(
    model: TransformerBridge, *, task: Task, seeds: Sequence[int]
) -> Iterator[tuple[Evaluation, Mapping[int, HeadScores]]]:
    evaluation = evaluate(model, task, batch_size=BATCH_SIZE, progress=False)
    scores = score_heads(model, [task], seeds=seeds, selection=SELECTION, progress=False)
    yield evaluation, scores[task.name]


@dataclass(frozen=True, eq=False)
class Part:
    """Runs of stage 2 that are tuned alike and go to one folder.

    Attributes:
        folder: Where the runs go.
        tuning: How they are tuned.
        steps: What is to be run.
        runs: Those that are there, by their place among the steps.
    """

    folder: Path
    tuning: TuningConfig
    steps: Sequence[Step]
    runs: dict[int, Record] = field(default_factory=dict)

    def groups(self) -> Iterator[Sequence[int]]:
        """Places of the steps that are run in one forward pass."""
        for _, same_task in groupby(range(len(self.steps)), lambda i: self.steps[i][1].name):
            yield from grouped(list(same_task), TOGETHER)

    def add(self, place: int, run: Record) -> None:
        """Write a run."""
        run.save(self.folder / run.file_name(place))
        self.runs[place] = run

    def finished(self) -> list[Record]:
        """All runs, in the order of the steps."""
        return [self.runs[place] for place in range(len(self.steps))]


def parts_of(
    model: TransformerBridge,
    tasks: Sequence[Task],
    scores: AllScores,
    folder: Path,
    *,
    fractions: Sequence[float],
    seeds: Sequence[int],
    draws: int,
) -> list[tuple[Part, Part]]:
    """Biases, and the scale on each task's own heads and on random ones, by share of heads."""
    parts = []
    for fraction in fractions:
        k = number_of_heads(heads_of(model).total, fraction=fraction)
        plan = transfer_plan(model, tasks, seeds=seeds, k=k, random_draws=draws, scores=scores)
        own = [step for step in plan if step[0] in (step[1].name, RANDOM)]
        scale = replace(TUNING, component="scale")
        parts.append(
            (
                Part(folder / f"{fraction:g}", TUNING, plan),
                Part(folder / f"{fraction:g}-scale", scale, own),
            )
        )
    return parts


def second_stage(run_jobs: RunJobs, parts: Sequence[tuple[Part, Part]], progress: bool) -> None:
    """Run all steps; the longest jobs come first, so that workers end at the same time."""
    groups = [(part, group) for pair in parts for part in pair for group in part.groups()]
    groups.sort(key=lambda one: len(one[1]), reverse=True)
    jobs = [
        partial(
            tune_and_score,
            steps=[part.steps[place] for place in group],
            tuning=part.tuning,
            together=TOGETHER,
            batch_size=BATCH_SIZE,
        )
        for part, group in groups
    ]
    waiting = [(part, iter(group)) for part, group in groups]
    with long_bar(range(sum(len(g) for _, g in groups)), "tune", progress=progress) as bar:
        for job, run in run_jobs(jobs):
            part, places = waiting[job]
            part.add(next(places), run)
            bar.update()
