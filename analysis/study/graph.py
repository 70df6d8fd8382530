"""The steps of a run: which are done, which can be done next, and what is kept of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.study.cell import Cell, base_name
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.record import Record, name_of
from lofit_lens.analysis.study.score import Score
from lofit_lens.analysis.study.step import Done, Outcome, Step, all_steps
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

    @property
    def name(self) -> str:
        """The name of its record's file."""
        cell = self.cell
        return name_of(cell.method, cell.task.name, cell.seed, cell.draw, self.key)

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

    What is done in one pass is settled by all steps of the experiment, done ones among them, so that
    the passes are the same however often it was cut short, and in each of several processes.

    Args:
        wanted: The steps that are wanted.
        store: Where products may be, and are kept.
        together: How many steps that are alike are done in one pass.
        every: The last steps of the whole experiment; default: those that are wanted.
        look: Finds what a step gave where another process may have put it; default: in the store.

    Raises:
        LofitLensError: `together` is below 1.
    """

    def __init__(
        self,
        wanted: Sequence[Step[Any]],
        store: Store,
        together: int,
        every: Sequence[Step[Any]] | None = None,
        look: Callable[[Step[Any]], Done[Any] | None] | None = None,
    ) -> None:
        if together < 1:
            raise LofitLensError(
                f"together must be 1 or more runs, got {together}. 1 trains one after the other."
            )
        self._store = store
        self._look = look or store.product
        self._done: dict[str, Done[Any]] = {}
        self._warnings: dict[str, str] = {}
        self._left: dict[str, Step[Any]] = {}
        self._taken: set[str] = set()
        self._elsewhere: set[str] = set()
        self._error: LofitLensError | None = None
        self._passes = _passes(wanted if every is None else every, together)
        self._wanted = wanted
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
        """The first steps of a pass that can be done and that no other process does; none if none is.

        After an error only what is fitted is scored.
        """
        waiting = [step for key, step in self._left.items() if key not in self._taken]
        if self._error is not None:
            waiting = [step for step in waiting if isinstance(step, Score)]
        by_pass: dict[str, list[Step[Any]]] = {}
        for step in waiting:
            by_pass.setdefault(self._passes[step.key], []).append(step)
        self._elsewhere = set()
        for name, steps in by_pass.items():
            if not all(self._is_ready(step) for step in steps):
                continue
            if not self._store.claim(name):
                self._elsewhere |= {step.key for step in steps}
            elif any(self._look(step) for step in steps):  # another process has just done it
                self._store.drop(name)
                self._elsewhere |= {step.key for step in steps}
            else:
                self._taken |= {step.key for step in steps}
                return steps
        return []

    def _is_ready(self, step: Step[Any]) -> bool:
        return all(need.key in self._done for need in step.needs)

    @property
    def waits(self) -> bool:
        """Whether what is left is being done by another process."""
        return bool(self._elsewhere)

    def from_elsewhere(self) -> list[tuple[Step[Any], Done[Any]]]:
        """What other processes have done since, of what is waited for and of all scores."""
        looked = [
            (step, self._look(step))
            for key, step in self._left.items()
            if key in self._elsewhere or (isinstance(step, Score) and key not in self._taken)
        ]
        return [(step, done) for step, done in looked if done is not None]

    def give_back(self, steps: Sequence[Step[Any]]) -> None:
        """Say that the steps of a pass are done or have failed."""
        self._store.drop(self._passes[steps[0].key])

    def given(self, step: Step[Any]) -> list[Any]:
        """The products of what a step needs."""
        return [self.product(need) for need in step.needs]

    def keep(self, steps: Sequence[Step[Any]], outcome: Outcome) -> None:
        """Keep what the steps of a pass gave, unless nothing that is left needs it."""
        pairs = [(s, d) for s, d in zip(steps, outcome, strict=True) if s.key in self._left]
        self._store.keep([(s, d) for s, d in pairs if not isinstance(d, LofitLensError)])

    def finish(self, step: Step[Any], done: Done[Any]) -> None:
        """Take what a step gave, unless nothing that is left needs it."""
        if self._left.pop(step.key, None) is not None:
            self._put(step, done)

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
            done = self._done.get(need.key)  # None: another process did it all
            if done and not self._users[need.key] and not isinstance(done.product, RateChoice):
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

    def leave_out(self, *steps: Step[Any]) -> None:
        """Leave out steps, what needs them, and what they alone need."""
        gone = {step.key for step in steps}
        self._wanted = [s for s in self._wanted if gone.isdisjoint(o.key for o in all_steps(s))]
        self.prune()

    def prune(self) -> None:
        """Leave out what nothing that is left needs."""
        wanted = (step for step in self._wanted if step.key in self._left)
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


def with_whole_passes(
    wanted: Sequence[Step[Any]], every: Sequence[Step[Any]], together: int
) -> list[Step[Any]]:
    """Some steps of an experiment, and all that are done in one pass with what they need.

    Args:
        wanted: The steps.
        every: The last steps of the whole experiment.
        together: How many steps that are alike were done in one pass.

    Returns:
        The steps in the order of the experiment.
    """
    passes = _passes(every, together)
    steps = {step.key: step for last in every for step in all_steps(last)}
    beside: dict[str, list[Step[Any]]] = {}
    for step in steps.values():
        beside.setdefault(passes[step.key], []).append(step)
    found: set[str] = set()
    left = [*wanted]
    while left:
        step = left.pop()
        if step.key not in found:
            found.add(step.key)
            left += [*step.needs, *beside[passes[step.key]]]
    return [step for step in steps.values() if step.key in found]


def _passes(wanted: Iterable[Step[Any]], together: int) -> dict[str, str]:
    """The pass of each step, by its key: those that are alike in their order, so many in one."""
    found: dict[str, str] = {}
    counted: Counter[str] = Counter()
    for step in (one for last in wanted for one in all_steps(last)):
        if step.key in found:
            continue
        if step.alike is None:
            found[step.key] = step.key
        else:
            found[step.key] = f"{step.alike}-{counted[step.alike] // together}"
            counted[step.alike] += 1
    return found
