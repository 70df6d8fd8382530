"""The steps of a run: which are done, which can be done next, and what is kept of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.study.cell import Cell, base_name
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.score import Score
from lofit_lens.analysis.study.step import Done, Step, all_steps
from lofit_lens.analysis.study.store import Store
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.training.rates import RateChoice

if TYPE_CHECKING:
    from lofit_lens.analysis.study.bench import Bench


@dataclass(frozen=True, eq=False)
class Planned:
    """A cell with its last step and its key."""

    cell: Cell
    score: Score
    key: str

    @classmethod
    def of(cls, cell: Cell, bench: Bench) -> Planned:
        """What a cell needs on a bench."""
        score = cell.score(bench.heads)
        return cls(cell, score, cell.key(bench, score))

    @property
    def method(self) -> tuple[str, str]:
        """Its method and task, which are left out together where a run of them fails."""
        return self.cell.method, base_name(self.cell.task)

    def needs(self, step: Step[Any]) -> bool:
        """Whether a step is among its own."""
        return step.key in {one.key for one in all_steps(self.score)}

    def record(self, graph: Graph, bench: Bench) -> Record:
        """Its record, once its last step is done."""
        fit = self.score.fit
        steps = {} if fit is None else {step.key: step for step in all_steps(fit)}
        fitted = Fitted(None) if fit is None else graph.product(fit)
        told = [graph.told(step) for step in steps.values()]
        return self.cell.record(bench, self.key, graph.product(self.score), fitted, told)


class Graph:
    """Steps that are wanted, in their order, with all that they need.

    Args:
        wanted: The steps that are wanted.
        store: Where products may be, and are kept.
        together: How many steps that are alike are done in one pass.

    Raises:
        LofitLensError: `together` is below 1.
    """

    def __init__(self, wanted: Sequence[Step[Any]], store: Store, together: int) -> None:
        if together < 1:
            raise LofitLensError(
                f"together must be 1 or more runs, got {together}. 1 trains one after the other."
            )
        self._store = store
        self._together = together
        self._done: dict[str, Done[Any]] = {}
        self._warnings: dict[str, str] = {}
        self._left: dict[str, Step[Any]] = {}
        self._taken: set[str] = set()
        self._error: LofitLensError | None = None
        for step in wanted:
            self._plan(step)
        self._users = Counter(need.key for step in self._left.values() for need in step.needs)
        self._users.update(step.key for step in wanted)

    def _plan(self, step: Step[Any]) -> None:
        if step.key in self._done or step.key in self._left:
            return
        there = self._store.product(step)
        if there is not None:
            self._put(step, there)
            return
        for need in step.needs:
            self._plan(need)
        self._left[step.key] = step

    def next_steps(self) -> list[Step[Any]]:
        """The first steps that can be done in one pass; none if there are none, or not yet.

        Steps that are alike wait for one another. After an error only what is fitted is scored.
        """
        waiting = [step for key, step in self._left.items() if key not in self._taken]
        if self._error is not None:
            waiting = [step for step in waiting if isinstance(step, Score)]
        blocked = {step.alike for step in waiting if not self._is_ready(step)} - {None}
        for step in waiting:
            if not self._is_ready(step) or step.alike in blocked:
                continue
            alike = [one for one in waiting if one is step or (step.alike == one.alike is not None)]
            taken = alike[: self._together]
            self._taken |= {one.key for one in taken}
            return taken
        return []

    def _is_ready(self, step: Step[Any]) -> bool:
        return all(need.key in self._done for need in step.needs)

    def given(self, step: Step[Any]) -> list[Any]:
        """The products of what a step needs."""
        return [self.product(need) for need in step.needs]

    def finish(self, step: Step[Any], done: Done[Any]) -> None:
        """Keep what a step gave, unless nothing that is left needs it."""
        if self._left.pop(step.key, None) is not None:
            self._put(step, done)
            if step.folder:
                self._store.keep(step, done)

    def _put(self, step: Step[Any], done: Done[Any]) -> None:
        self._done[step.key] = done
        origin = done.product.provenance if isinstance(done.product, HeadScores) else None
        warning = None if origin is None else origin.history.warning()
        if warning is not None:
            self._warnings[step.key] = warning

    def release(self, step: Step[Any]) -> None:
        """Let go of the products that nothing needs any more behind a step; their costs stay."""
        for need in step.needs:
            self._users[need.key] -= 1
            done = self._done[need.key]
            if not self._users[need.key] and not isinstance(done.product, RateChoice):
                self._done[need.key] = replace(done, product=None)

    def has(self, step: Step[Any]) -> bool:
        """Whether a step is done."""
        return step.key in self._done

    def product(self, step: Step[Any]) -> Any:
        """What a step gave."""
        return self._done[step.key].product

    def told(self, step: Step[Any]) -> dict[str, Any]:
        """What a record tells of a step: its cost, a learning rate it chose, a warning of its training."""
        done = self._done.get(step.key) or self._store.spent(step)
        told = {"step": step.name, "key": step.key, "seconds": done.seconds, "tokens": done.tokens}
        if step.key in self._warnings:
            told["warning"] = self._warnings[step.key]
        choice = done.product
        return told | ({"rate_choice": choice.to_json()} if isinstance(choice, RateChoice) else {})

    def keep_only(self, wanted: Iterable[Step[Any]]) -> None:
        """Leave out the steps that none of these needs."""
        needed = {one.key for step in wanted for one in all_steps(step)}
        self._left = {key: step for key, step in self._left.items() if key in needed}

    def stop(self, error: LofitLensError) -> None:
        """Do no more than score what has been fitted; `check` then raises the first error."""
        self._error = self._error or error

    def check(self) -> None:
        """Raise what stopped the run."""
        if self._error is not None:
            raise self._error
        assert not self._left, "steps wait for one another"
