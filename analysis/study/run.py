"""Running cells: every step once for all cells that need it, alike ones in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.engines import engine_of
from lofit_lens.analysis.study.graph import Graph, Planned, with_whole_passes
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.study.score import Score, Scored
from lofit_lens.analysis.study.step import Done, Outcome, Product, Step
from lofit_lens.analysis.study.store import Store
from lofit_lens.errors import LeakError, LofitLensError
from lofit_lens.progress import long_bar, say
from lofit_lens.training.rates import RateChoice

PAUSE = 0.5
"""Seconds between two looks at what another process is doing."""


def run_cells(
    bench: Bench,
    cells: Iterable[Cell],
    store: Store,
    *,
    together: int = 8,
    workers: Executor | int = 1,
    only: Collection[str] | None = None,
    on_step: Callable[[Step[Any], Any], object] | None = None,
    on_record: Callable[[Record], object] | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    keep_edits: bool = False,
    what: str = "run",
    progress: bool = True,
) -> list[Record]:
    """Run cells, or take their records from a store.

    Args:
        bench: Where they are measured.
        cells: The cells, in the order in which their records are wanted; equal ones are one.
        store: Where records and products are looked for and kept.
        together: How many runs that are alike are trained in one forward pass.
        workers: What does the work: a number of processes, of which 1 is this one, or an executor.
        only: Keys of the cells whose records are wanted. They are run as among all: with whatever is
            done in one pass with what they need. None: all.
        on_step: Called with each step that was done and what it gave.
        on_record: Called with each new record.
        on_failure: Called with the error of a method that fails; it is then left out on that task
            and the others go on. None: the error is raised when the runs beside it are kept. A leak
            is always raised, as is what goes wrong with the model as it is.
        keep_edits: Whether records hold their edits, and the store keeps them.
        what: What stands beside the bar.
        progress: Whether to show a bar, and to say what learning rates were chosen.

    Raises:
        LofitLensError: A cell was run otherwise before, or failed; `together` is below 1.
    """
    store.on(bench)
    planned = list({one.key: one for one in (Planned.of(cell, bench) for cell in cells)}.values())
    store.check({(one.key, one.cell.place): one.cell.protocol(bench) for one in planned})
    asked = [one for one in planned if only is None or one.key in only]
    waiting = [one for one in asked if one.key not in store.records]
    by_score: dict[str, list[Planned]] = {}
    for one in planned:
        by_score.setdefault(one.score.key, []).append(one)
        if one.cell.recipe is None and one.key in store.records:  # it is not scored again
            store.give(bench, one.score, _scored(store.records[one.key]))

    def look(step: Step[Any]) -> Done[Any] | None:
        if not isinstance(step, Score):
            return store.product(step)
        found = [store.record(one.key, one.name) for one in by_score.get(step.key, ())]
        records = [record for record in found if record is not None]
        return Done(_scored(records[0])) if found and len(records) == len(found) else None

    every = [one.score for one in planned]
    wanted: Sequence[Step[Any]] = [one.score for one in waiting]
    if only is not None:
        wanted = with_whole_passes(wanted, every, together)
    graph = Graph(wanted, store, together, every, look)
    left = {one.key: one for one in waiting}
    failed: set[tuple[str, str]] = set()

    def finish(step: Step[Any], product: Any) -> None:
        if on_step is not None:
            on_step(step, product)
        for one in [one for one in left.values() if one.score.key == step.key]:
            del left[one.key]
            if one.key not in store.records:  # another process has not written it
                record = store.add(one.record(graph, bench), keep_edit=keep_edits)
                if on_record is not None:
                    on_record(record)
            bar.update()

    def fail(step: Step[Any], error: LofitLensError) -> None:
        gone = [one for one in left.values() if one.needs(step)]
        first = {one.method: one.cell for one in reversed(gone) if one.method not in failed}
        for cell in reversed(first.values()):
            where = f"{cell.task.name} with seed {cell.seed}"
            error.add_note(f"This was method {cell.method} on {where}.")
        methods = {cell.method for cell in first.values()}
        if on_failure is None or ZERO_SHOT in methods or isinstance(error, LeakError):
            graph.stop(error)
        elif first:
            on_failure(error)
        failed.update(first)
        if on_failure is not None:
            gone = [one for one in left.values() if one in gone or one.method in failed]
        for one in gone:
            del left[one.key]
        needed = {one.score.key for one in left.values()}
        graph.leave_out(step, *(one.score for one in gone if one.score.key not in needed))

    bar = long_bar(asked, what, progress=progress)
    with bar:
        bar.update(len(asked) - len(waiting))
        for one in waiting:
            if graph.has(one.score):  # its scores were given
                finish(one.score, None)
        with store.claiming():
            _work(graph, bench, workers, finish, fail, progress=progress)
    return [store.records[one.key] for one in asked if one.method not in failed]


def run_steps(
    bench: Bench,
    steps: Sequence[Step[Product]],
    store: Store,
    *,
    together: int = 8,
    workers: Executor | int = 1,
    on_done: Callable[[Any, Product], object] | None = None,
    what: str = "run",
    progress: bool = True,
) -> list[Product]:
    """Do steps by themselves, or take their products from a store.

    The arguments are those of `run_cells`.

    Raises:
        LofitLensError: A step failed; the products beside it are kept.
    """
    store.on(bench)
    graph = Graph(steps, store, together)
    wanted = {step.key for step in steps}

    def finish(step: Step[Any], product: Product) -> None:
        if step.key in wanted:
            if on_done is not None:
                on_done(step, product)
            bar.update()

    bar = long_bar(steps, what, progress=progress)
    with bar:
        bar.update(sum(graph.has(step) for step in steps))
        with store.claiming():
            _work(graph, bench, workers, finish, lambda _, e: graph.stop(e), progress=progress)
    return [graph.product(step) for step in steps]


def _work(
    graph: Graph,
    bench: Bench,
    workers: Executor | int,
    finish: Callable[[Step[Any], Any], object],
    fail: Callable[[Step[Any], LofitLensError], object],
    *,
    progress: bool,
) -> None:
    """Do all steps of a graph, or take them from other processes that do."""
    flying: dict[Future[Outcome], list[Step[Any]]] = {}

    def done(step: Step[Any], found: Done[Any]) -> None:
        graph.finish(step, found)
        finish(step, found.product)
        graph.release(step)

    with engine_of(workers) as engine:
        while True:
            for step, found in graph.from_elsewhere():
                done(step, found)
            graph.prune()
            while len(flying) < engine.width and (steps := graph.next_steps()):
                given = [graph.given(step) for step in steps]
                flying[engine.submit(bench, steps, given)] = steps
            if not flying and not graph.waits:
                break
            if not flying:
                time.sleep(PAUSE)
            timeout = PAUSE if graph.waits else None
            for future in wait(flying, timeout, return_when=FIRST_COMPLETED).done:
                steps, outcome = flying.pop(future), future.result()
                graph.keep(steps, outcome)
                for step, found in zip(steps, outcome, strict=True):
                    if isinstance(found, LofitLensError):
                        fail(step, found)
                        continue
                    if isinstance(found.product, RateChoice) and progress:
                        say(f"{step.name}: {found.product}.")
                    done(step, found)
                graph.give_back(steps)
    graph.check()


def _scored(record: Record) -> Scored:
    """What a record tells of its scores."""
    answers = [dict(answer) for answer in record.answers]
    return Scored(record.evaluation, record.side_effects, answers)
