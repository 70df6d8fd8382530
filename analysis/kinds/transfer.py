"""Cross-task transfer of heads: choose on one task, tune and test on another (Figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from lofit_lens.analysis.kinds.compare import by_task, check_names, check_seeds
from lofit_lens.analysis.kinds.matrix import KIND, RANDOM, TransferMatrix
from lofit_lens.analysis.methods.recipes import OnHeads
from lofit_lens.analysis.methods.selectors import check_chosen
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.methods.steps import Auto, Rate, Select
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.study.run import run_cells, run_steps
from lofit_lens.analysis.study.score import Score, Scored
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError, check_whole
from lofit_lens.fast.memory import BatchSize
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import number_of_heads
from lofit_lens.identity import check_same_model
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText
from lofit_lens.training.config import SelectionConfig, TuningConfig
from lofit_lens.training.rates import RateChoice

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

AllScores = Mapping[str, Mapping[int, HeadScores]]
"""The score of every head, by task name and seed."""


def transfer_matrix(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int] = (42,),
    fraction: float | None = None,
    k: int | None = None,
    heads: str = "lofit",
    does: str = "bias",
    random_draws: int = 1,
    scores: AllScores | None = None,
    zero_shot: Mapping[str, Evaluation] | None = None,
    selection: SelectionConfig | Mapping[str, SelectionConfig] | None = None,
    tuning: TuningConfig | Mapping[str, TuningConfig] | None = None,
    texts: Sequence[EncodedText] | None = None,
    batch_size: BatchSize = 32,
    together: int = 8,
    workers: Executor | int = 1,
    done: Sequence[Record] = (),
    on_run: Callable[[Record], object] | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    out: str | Path | Store | None = None,
    progress: bool = True,
) -> TransferMatrix:
    """Tune each task on the heads of every task and on random heads (paper, Figure 2).

    Every head set of a seed is tuned on a task with that seed and with the same settings. What is
    not named here is as in `compare`.

    Args:
        seeds: Seeds of both stages.
        fraction: Share of heads to tune.
        k: Number of heads instead.
        heads: The selector that chooses them, such as "lofit" or "probes" (see `selector`).
        does: What is tuned on them, "bias" or "scale".
        random_draws: Sets of random heads for each seed: those that `compare` tunes with the same
            number of heads, and the same for every task.
        scores: The heads' scores, if they are there, by task name and seed.
        zero_shot: Scores of the model as it is, if they are there, by task name.
        selection: How to train stage 1, for all tasks or by task name; its seed is replaced.
        tuning: How to train stage 2, for all tasks or by the name of the task tuned on; its seed is
            replaced. A learning rate of "auto" is chosen once for each task, on its own heads with
            the first seed.
        batch_size: Sequences per forward pass in scoring; "auto" takes the most that fit into
            memory.
        out: As in `compare`, with the edits; `TransferMatrix.load` reads the folder.

    Raises:
        LofitLensError: Not exactly one of `fraction` and `k` is given; there are no tasks or seeds,
            some repeat, or a task is called "random" or "zero-shot"; `random_draws` is below 0 or
            `together` below 1; `scores`, `zero_shot` or the configurations by task lack a task or
            seed; `scores` were made on another task or with another seed; or `done` had other heads,
            settings or items.
        ModelMismatchError: `scores` were made on another model.
        TrainingStopped: Training became unstable; the runs beside it have been given to `on_run`.
    """
    _check_request(tasks, seeds, random_draws, heads)
    names = [task.name for task in tasks]
    size = number_of_heads(heads_of(model).total, k=k, fraction=fraction)
    check_scores(model, scores or {}, needed=dict.fromkeys(() if scores is None else names, seeds))
    first = by_task(selection or SelectionConfig(), tasks, "selection")
    second = by_task(tuning or TuningConfig(), tasks, "tuning")
    settings = {n: Settings(k=size, selection=first[n], tuning=second[n]) for n in names}
    bench = Bench.of(model, texts, batch_size=32 if batch_size == "auto" else batch_size)
    store = Store.at(out, KIND)
    store.take(done)
    _take_zero_shot(store, bench, tasks, zero_shot)
    cells = transfer_cells(
        tasks, settings, seeds=seeds, draws=random_draws, heads=heads, does=does, scores=scores,
        batch_size=batch_size,
    )  # fmt: skip

    def tell(record: Record) -> None:
        if on_run is not None and record.method != ZERO_SHOT:
            on_run(record)

    records = run_cells(
        bench, cells, store, together=together, workers=workers, on_record=tell,
        on_failure=on_failure, keep_edits=True, what="transfer", progress=progress,
    )  # fmt: skip
    store.finish(records)
    return TransferMatrix.of(records)


def transfer_cells(
    tasks: Sequence[Task],
    settings: Mapping[str, Settings],
    *,
    seeds: Sequence[int],
    draws: int,
    heads: str = "lofit",
    does: str = "bias",
    scores: AllScores | None = None,
    batch_size: BatchSize = 32,
    only_own: bool = False,
) -> Iterator[Cell]:
    """The model as it is on each task, then the heads of each source and random ones on it.

    Arguments are those of `transfer_matrix`; with `only_own` each task is tuned on its own heads and
    random ones alone.
    """
    for task in tasks:
        yield Cell.zero_shot(task, seeds[0], batch_size)
        own, k = settings[task.name], settings[task.name].k
        chosen = heads if scores is None else scores[task.name][seeds[0]].top(k=k)
        shared = {"does": does, "settings": own, "auto": Auto(task, seeds[0], chosen)}
        for seed in seeds:
            for source in (task,) if only_own else tasks:
                given = None if scores is None else scores[source.name][seed].top(k=k)
                recipe = OnHeads(
                    heads=heads, source=source, ranked=settings[source.name], given=given, **shared
                )
                name = f"heads of {source.name}"
                yield Cell(name, task, recipe, seed, source=source.name, batch_size=batch_size)
            for draw in range(draws):
                recipe = OnHeads(heads="random", **shared)
                yield Cell(
                    "random-heads", task, recipe, seed, draw, source=RANDOM, batch_size=batch_size
                )


def score_heads(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int],
    heads: str = "lofit",
    selection: SelectionConfig | Mapping[str, SelectionConfig] | None = None,
    together: int = 8,
    workers: Executor | int = 1,
    done: AllScores | None = None,
    on_scores: Callable[[AllScores], object] | None = None,
    out: str | Path | Store | None = None,
    progress: bool = True,
) -> AllScores:
    """Stage 1, or another selector, on every task with every seed.

    What is not named here is as in `transfer_matrix`, which goes on with `out`.

    Args:
        selection: How to train stage 1, for all tasks or by task name; its seed is replaced. A
            learning rate of "auto" is chosen once for each task, with the first seed.
        done: Scores that are there already; they are not made again.
        on_scores: Called with new scores of one task and seed as soon as they are there.

    Raises:
        LofitLensError: `selection` goes by task and lacks one, `together` is below 1, or `done` was
            made on another task or with another seed.
        ModelMismatchError: `done` was made on another model.
        TrainingStopped: Training became unstable; the scores beside it have been given to
            `on_scores`.
    """
    check_chosen(heads)
    done = done or {}
    check_scores(model, done)
    configs = by_task(selection or SelectionConfig(), tasks, "selection")
    steps = {
        (task.name, seed): Select(
            task, heads, Settings(selection=configs[task.name]), seed, Auto(task, seeds[0]), 1
        )
        for task in tasks
        for seed in seeds
        if seed not in done.get(task.name, {})
    }

    def tell(step: Select, scores: HeadScores) -> None:
        if on_scores is not None:
            on_scores({step.task.name: {step.seed: scores}})

    bench, store = Bench(model, ()), Store.at(out, KIND)
    for step in steps.values():
        _take_rate(store, bench, step, done.get(step.task.name, {}).values())
    found = run_steps(
        bench, list(steps.values()), store,
        together=together, workers=workers, on_done=tell, what="select", progress=progress,
    )  # fmt: skip
    new = dict(zip(steps, found, strict=True))
    return {
        task.name: {s: new.get((task.name, s)) or done[task.name][s] for s in seeds}
        for task in tasks
    }


def check_scores(
    model: TransformerBridge,
    scores: AllScores,
    *,
    needed: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Refuse scores that were made elsewhere, or lack a seed that a task needs.

    Those without a provenance are taken as they are.

    Raises:
        ModelMismatchError: The scores of a task were made on another model.
        LofitLensError: They were made on another task or with another seed, or some are missing.
    """
    for name, seeds in (needed or {}).items():
        if not set(seeds) <= set(scores.get(name, {})):
            raise LofitLensError(
                f"`scores` lacks {name} with the seeds {', '.join(map(str, seeds))}."
            )
    made = [
        (f"The scores given for {task} with seed {seed}", task, seed, found.provenance)
        for task, by_seed in scores.items()
        for seed, found in by_seed.items()
        if found.provenance is not None
    ]
    for what, task, seed, origin in made:
        there = (origin.task, origin.config.get("seed", seed))
        if there != (task, seed):
            raise LofitLensError(f"{what} were made on {there[0]} with seed {there[1]}.")
    models = {origin.fingerprint: what for what, _, _, origin in made}
    for fingerprint, what in models.items():
        check_same_model(model, fingerprint, what)


def _check_request(tasks: Sequence[Task], seeds: Sequence[int], draws: int, heads: str) -> None:
    names = [task.name for task in tasks]
    check_names(tasks)
    check_seeds(seeds)
    if {RANDOM, ZERO_SHOT} & set(names):
        raise LofitLensError(
            f'No task may be called "{RANDOM}" or "{ZERO_SHOT}"; got {", ".join(names)}.'
        )
    check_whole("random_draws", draws)
    check_chosen(heads)


def _take_zero_shot(
    store: Store, bench: Bench, tasks: Sequence[Task], zero_shot: Mapping[str, Evaluation] | None
) -> None:
    """Put given scores of the model as it is where the run looks for them."""
    if zero_shot is None:
        return
    given, effects = by_task(zero_shot, tasks, "zero_shot"), bench.side_effects(None)
    told = {} if effects is None else {"cross_entropy": effects.cross_entropy, "kl": 0.0}
    for task in tasks:
        store.give(bench, Score(task), Scored(given[task.name], told))


def _take_rate(store: Store, bench: Bench, step: Select, made: Iterable[HeadScores]) -> None:
    """Put the learning rate of given scores where the run of other seeds looks for it."""
    told = [found.provenance.config.get("rate_choice") for found in made if found.provenance]
    for choice in filter(None, told):
        for need in step.needs:
            if isinstance(need, Rate):
                store.give(bench, need, RateChoice.from_json(choice))
