"""Comparisons on fewer and more training examples (Figure 4), and on fewer and more heads (Figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from lofit_lens.analysis.kinds.compare import (
    check_seeds,
    check_tasks,
    comparison_cells,
    recipes_by_task,
    settings_by_task,
)
from lofit_lens.analysis.kinds.sweep import KIND, Sweep, Swept
from lofit_lens.analysis.methods.names import Methods, named_methods, parts_of
from lofit_lens.analysis.methods.recipes import Named, OnHeads
from lofit_lens.analysis.methods.selectors import SELECTORS
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.study.run import run_cells
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import heads_of
from lofit_lens.errors import DataError, LofitLensError, check_seed, check_whole
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import number_of_heads
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ByTask = Settings | Mapping[str, Settings]


def example_sweep(
    model: TransformerBridge,
    tasks: Sequence[Task],
    examples: Sequence[int] | Mapping[str, Sequence[int]] = (20, 50, 100),
    *,
    methods: Methods = ("lora", "red", "lofit"),
    seeds: Sequence[int] = (42,),
    settings: ByTask | None = None,
    texts: Sequence[EncodedText] | None = None,
    out: str | Path | Store | None = None,
    on_run: Callable[[Record], object] | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    together: int = 8,
    workers: Executor | int = 1,
    keep_edits: bool = False,
    progress: bool = True,
) -> Sweep:
    """Compare methods fitted on fewer and more training examples (paper, Figure 4).

    At each number and with each seed this is `compare` on `with_examples(task, n, seed=seed)`: all
    methods see the same examples, and fewer ones are part of more. Epochs stay the same, so fewer
    examples also mean fewer steps. Validation items are all kept: a method that chooses a setting
    on them, as ITI its alpha, has more data than the number says. What is not named here is as in
    `compare`.

    Args:
        examples: Numbers of training examples, for all tasks or by task name.
        seeds: Seeds of the methods and of the draw of examples.
        settings: As in `compare`. The paper tunes 10% of the heads here: `Settings(fraction=0.1)`.
        out: As in `compare`; `Sweep.load` reads the folder of a finished sweep.

    Raises:
        DataError: A task has fewer training examples.
        LofitLensError: There are no numbers, seeds or tasks, or they repeat; the folder holds
            something else; as `compare`.
        TrainingStopped: Training became unstable.
    """
    by_task = settings_by_task(heads_of(model), tasks, settings)
    cells = example_cells(tasks, examples, methods=methods, seeds=seeds, settings=by_task)
    return _swept(
        "examples", model, texts, by_task[tasks[0].name], out, cells, on_record=on_run,
        on_failure=on_failure, together=together, workers=workers, keep_edits=keep_edits,
        progress=progress,
    )  # fmt: skip


def example_cells(
    tasks: Sequence[Task],
    examples: Sequence[int] | Mapping[str, Sequence[int]],
    *,
    methods: Methods,
    seeds: Sequence[int],
    settings: Mapping[str, Settings],
) -> list[Cell]:
    """`comparison_cells` at each number of examples; arguments and errors are those of `example_sweep`."""
    check_tasks(tasks)
    check_seeds(seeds)
    points = [(n, task) for task in tasks for n in _numbers_of_examples(examples, task)]
    recipes = recipes_by_task(tasks, methods, settings)
    cells: list[Cell] = []
    for n, task in sorted(points, key=lambda point: point[0]):
        first = with_examples(task, n, seed=seeds[0])
        own = {
            name: recipe.with_auto(first, seeds[0]) for name, recipe in recipes[task.name].items()
        }
        for seed in seeds:
            cut = with_examples(task, n, seed=seed)
            at = {"examples": n}
            cells += comparison_cells([cut], {cut.name: own}, (seed,), settings, at)
    return cells


def head_sweep(
    model: TransformerBridge,
    tasks: Sequence[Task],
    fractions: Sequence[float] = (0.01, 0.03, 0.1, 0.2, 0.5),
    *,
    methods: Sequence[str] = ("lofit",),
    seeds: Sequence[int] = (42,),
    settings: ByTask | Callable[[float], ByTask] | None = None,
    texts: Sequence[EncodedText] | None = None,
    out: str | Path | Store | None = None,
    on_run: Callable[[Record], object] | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    together: int = 8,
    workers: Executor | int = 1,
    keep_edits: bool = False,
    progress: bool = True,
) -> Sweep:
    """Compare methods on fewer and more heads (paper, Figure 5).

    The largest share comes first, and is `compare` at that share. Smaller shares then tune the best
    of the heads chosen there, anew: heads are chosen once for each task and seed. With one choice of
    settings, a score is what `compare` would give at that share alone.

    A folder may hold runs of another ranking, as of a sweep whose largest share was another. They
    are run again. What is not named here is as in `example_sweep`.

    Args:
        fractions: Shares of all heads, each a different number of heads.
        methods: Names of methods that edit chosen heads, as "lofit", "random-heads",
            "probes/bias" or "iti" (see `named_methods`). ITI looks for its direction at each share.
        settings: As in `compare`, or a function of the share that gives them, since fewer heads ask
            for a larger learning rate (paper, Table 6). Their number of heads is replaced; heads are
            chosen with those of the largest share.

    Raises:
        LofitLensError: A method edits no chosen heads or a fixed list; there are no shares, seeds,
            tasks or methods, or they repeat; two shares are one number of heads; the folder
            holds something else; as `compare`.
        TrainingStopped: Training became unstable.
    """
    heads = heads_of(model)
    cells = head_cells(heads, tasks, fractions, methods=methods, seeds=seeds, settings=settings)
    largest = settings(max(fractions)) if callable(settings) else settings
    first = settings_by_task(heads, tasks, largest)[tasks[0].name]
    return _swept(
        "heads", model, texts, first, out, cells, on_record=on_run, on_failure=on_failure,
        together=together, workers=workers, keep_edits=keep_edits, progress=progress,
    )  # fmt: skip


def head_cells(
    heads: HeadGrid,
    tasks: Sequence[Task],
    fractions: Sequence[float],
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    settings: ByTask | Callable[[float], ByTask] | None,
) -> list[Cell]:
    """`comparison_cells` at each share of the heads; arguments and errors are those of `head_sweep`."""
    check_tasks(tasks)
    check_seeds(seeds)
    names = [name for name in methods if name != ZERO_SHOT]
    _check_methods(names)
    numbers = _numbers_of_heads(fractions, heads.total)
    most = next(iter(numbers))
    given = {k: settings(f) if callable(settings) else settings for k, f in numbers.items()}
    own = {k: settings_by_task(heads, tasks, _with_k(given[k], k)) for k in numbers}
    cells: list[Cell] = []
    for k in numbers:
        for task in tasks:
            ranked = named_methods(names, own[most][task.name])
            here = named_methods(names, own[k][task.name])
            for name in names:
                recipe, cut = here[name], {"heads": k}
                if k != most and isinstance(recipe, OnHeads) and recipe.learned:
                    recipe = _ranked_by(ranked[name], recipe)
                    cut["ranked_with"] = most
                recipes = {task.name: {name: recipe}}
                cells += comparison_cells([task], recipes, seeds, own[k], cut)
    return cells


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
    check_whole("The number of training examples", n, 1)
    check_seed(seed)
    if n > len(task.train):
        raise DataError(
            f"{task.name} has {len(task.train)} training examples, got a request for {n}."
        )
    drawn = np.random.default_rng(seed).permutation(len(task.train))[:n]
    return replace(task, train=tuple(task.train[i] for i in sorted(drawn)))


def _swept(
    swept: Swept,
    model: TransformerBridge,
    texts: Sequence[EncodedText] | None,
    settings: Settings,
    out: str | Path | Store | None,
    cells: Sequence[Cell],
    **how: Any,
) -> Sweep:
    """Run the cells of a sweep."""
    bench = Bench.of(model, texts, batch_size=settings.batch_size)
    store = Store.at(out, KIND)
    (other,) = {*get_args(Swept)} - {swept}
    if any(other in record.cut for record in store.records.values()):
        raise LofitLensError(f"{store.path} holds a sweep over {other}. Name another folder.")
    store.ask(swept=swept)
    records = run_cells(bench, cells, store, what=f"{swept.rstrip('s')} sweep", **how)
    n_heads = heads_of(model).total
    store.finish(records, n_heads=n_heads)
    return Sweep.of(swept, records, n_heads)


def _ranked_by(ranked: Named, recipe: OnHeads) -> OnHeads:
    """A recipe on the best of the heads that another one chose."""
    settings = replace(recipe.settings, selection=ranked.settings.selection)
    return replace(recipe, settings=settings, ranked=ranked.settings)


def _with_k(settings: ByTask | None, k: int) -> ByTask:
    if isinstance(settings, Mapping):
        return {name: replace(one, k=k, fraction=None) for name, one in settings.items()}
    return replace(settings or Settings(), k=k, fraction=None)


def _check_methods(names: Sequence[str]) -> None:
    if not names:
        raise LofitLensError("methods is empty; give at least one, such as lofit.")
    named_methods(names)
    for name in names:
        if parts_of(name)[0] not in SELECTORS:
            raise LofitLensError(
                f"{name!r} does not choose a number of heads, so it has no place in a sweep over them. "
                "Give methods that do, such as lofit, random-heads, probes/bias or iti."
            )


def _numbers_of_examples(
    examples: Sequence[int] | Mapping[str, Sequence[int]], task: Task
) -> Sequence[int]:
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


def _numbers_of_heads(fractions: Sequence[float], total: int) -> dict[int, float]:
    """The shares by number of heads, the largest first."""
    found: dict[int, float] = {}
    for share in sorted(fractions, reverse=True):
        k = number_of_heads(total, fraction=share)
        if k in found:
            raise LofitLensError(
                f"The shares {share:g} and {found[k]:g} of {total} heads are both {k}. Leave one out."
            )
        found[k] = share
    if not found:
        raise LofitLensError("fractions is empty; give at least one share, such as 0.03.")
    return found
