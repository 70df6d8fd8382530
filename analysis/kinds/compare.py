"""Methods x tasks x seeds under one protocol: same splits, prompts, scorer, seeds, token scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lofit_lens.analysis.kinds.comparison import KIND, Comparison
from lofit_lens.analysis.measure.leaks import check_splits
from lofit_lens.analysis.methods.names import Methods, recipes_of
from lofit_lens.analysis.methods.recipes import Named, Own
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.study.run import run_cells
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError, check_seed
from lofit_lens.grid import HeadGrid
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

T = TypeVar("T")


def compare(
    model: TransformerBridge,
    tasks: Sequence[Task],
    methods: Methods,
    *,
    seeds: Sequence[int] = (42,),
    settings: Settings | Mapping[str, Settings] | None = None,
    texts: Sequence[EncodedText] | None = None,
    n_answers: int = 0,
    done: Sequence[Record] = (),
    on_run: Callable[[Record], object] | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    out: str | Path | Store | None = None,
    together: int = 8,
    workers: Executor | int = 1,
    keep_edits: bool = False,
    progress: bool = True,
) -> Comparison:
    """Fit and score every method on every task with every seed (paper, Tables 1 to 3).

    A method is fitted on a task whose test split is sealed: reading it raises. Zero-shot is always
    among the methods and is scored once. Tasks that are folds of one task, as the two of
    TruthfulQA, are fitted fold by fold and reported together. What several methods need, such as
    stage 1, is done once, and is part of the cost of each.

    Args:
        model: A frozen bridge from `load_model`.
        tasks: The tasks, with different names.
        methods: Names (see `named_methods`), or functions of one's own by name. Several functions
            under one name are draws for each seed, and their runs are averaged.
        seeds: Seeds of the methods; those in the settings are replaced.
        settings: What the named methods share, for all tasks or by task name; default `Settings()`.
        texts: Plain text on which side effects are measured; default: 64 texts sampled from the
            unedited model with a fixed seed.
        n_answers: Test questions of multiple-choice tasks to answer greedily as well, for reading
            and for the share of refusals.
        done: Records of an earlier comparison under the same protocol; they are not run again.
        on_run: Called with each new record as soon as it is there, as to save it.
        on_failure: Called with the error of a method that fails; the method is then left out on that
            task and the others go on. None: the error ends the comparison. A leak always does.
        out: A folder where each record is written as soon as it is there; what is in it is not run
            again. `Comparison.load` reads it.
        together: How many runs that differ in seed or heads are trained in one forward pass.
            Activations of a step take so many times the memory of one run.
        workers: How many processes share the work, or an executor; a function of one's own that
            cannot be imported is called in this process.
        keep_edits: Whether records hold their edits, and the folder keeps them.
        progress: Whether to show a bar.

    Raises:
        LeakError: A test item is among the training or validation items, or a method read the test
            split while it was fitted.
        ScoringError: An edit left every scored token as it was.
        LofitLensError: A name is unknown or repeats, or `done` was made under another protocol.
        TrainingStopped: Training became unstable.
    """
    check_tasks(tasks)
    check_seeds(seeds)
    own = settings_by_task(heads_of(model), tasks, settings)
    recipes = recipes_by_task(tasks, methods, own)
    batch_size = own[tasks[0].name].batch_size
    bench = Bench.of(model, texts, n_answers=n_answers, batch_size=batch_size)
    store = Store.at(out, KIND)
    store.take(done)
    records = run_cells(
        bench,
        comparison_cells(tasks, recipes, seeds, own),
        store,
        together=together,
        workers=workers,
        on_record=on_run,
        on_failure=on_failure,
        keep_edits=keep_edits,
        what="compare",
        progress=progress,
    )
    store.finish(records, base=Comparison.base)
    return Comparison(tuple(records))


def comparison_cells(
    tasks: Sequence[Task],
    recipes: Mapping[str, Mapping[str, Named | Own]],
    seeds: Sequence[int],
    settings: Mapping[str, Settings],
    cut: Mapping[str, Any] | None = None,
) -> Iterator[Cell]:
    """The model as it is on each task, then each method with each seed and draw.

    Recipes are by name of the task and method, settings by name of the task. Learning rates of
    "auto" are chosen with the first seed. `cut` is what makes the cells points of a sweep.
    """
    for task in tasks:
        batch_size = settings[task.name].batch_size
        yield Cell.zero_shot(task, seeds[0], batch_size)
        for name, recipe in recipes[task.name].items():
            chosen = recipe.with_auto(task, seeds[0])
            for seed in seeds:
                for draw in range(recipe.draws):
                    yield Cell(name, task, chosen, seed, draw, cut=cut or {}, batch_size=batch_size)


def check_tasks(tasks: Sequence[Task]) -> None:
    """Refuse tasks that cannot be compared on.

    Raises:
        LeakError: A test item is among the training or validation items.
        LofitLensError: There is no task, or two have one name.
    """
    check_names(tasks)
    for task in tasks:
        task.check_trainable()
        check_splits(task)


def check_names(tasks: Sequence[Task]) -> None:
    """Refuse no tasks, or two of one name."""
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise LofitLensError(f"Tasks need different names, and at least one; got {names}.")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse no seeds, the same twice, or such that no generator takes."""
    for seed in seeds:
        check_seed(seed)
    if not seeds or len(set(seeds)) < len(seeds):
        raise LofitLensError(f"Seeds must differ, and there must be one; got {list(seeds)}.")


def settings_by_task(
    heads: HeadGrid,
    tasks: Sequence[Task],
    settings: Settings | Mapping[str, Settings] | None,
) -> dict[str, Settings]:
    """The settings of each task, which must suit the model.

    Raises:
        LofitLensError: There are settings by task, but none for one, or the number of heads is out
            of range.
    """
    found = by_task(settings or Settings(), tasks, "settings")
    for own in found.values():
        own.n_heads(heads)
    return found


def by_task(given: T | Mapping[str, T], tasks: Sequence[Task], what: str) -> dict[str, T]:
    """What is given for all tasks, or for each, by name of the task; `what` it is, for the message.

    Raises:
        LofitLensError: There are some by task, but none for one.
    """
    names = [task.name for task in tasks]
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    missing = [name for name in names if name not in given]
    if missing:
        raise LofitLensError(f"`{what}` lacks {', '.join(missing)}; it has {', '.join(given)}.")
    return {name: given[name] for name in names}


def recipes_by_task(
    tasks: Sequence[Task], methods: Methods, settings: Mapping[str, Settings]
) -> dict[str, dict[str, Named | Own]]:
    """The recipe of each method but zero-shot, by name of the task and method."""
    methods = without_zero_shot(methods)
    return {task.name: recipes_of(methods, settings[task.name]) for task in tasks}


def without_zero_shot(methods: Methods) -> Methods:
    """Methods without the model as it is, which is always there."""
    if isinstance(methods, Mapping):
        return methods
    return [name for name in methods if name != ZERO_SHOT]
