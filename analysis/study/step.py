"""A step: a piece of work with a key, done once for all cells of an experiment that need it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from lofit_lens.analysis.study.keys import key_of
from lofit_lens.errors import LofitLensError
from lofit_lens.fast.memory import ran_out
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    from lofit_lens.analysis.study.bench import Bench

Product = TypeVar("Product")


@dataclass(frozen=True)
class Done(Generic[Product]):
    """What a step gave, and its own cost, without that of the steps it needs.

    Attributes:
        product: What it gave.
        seconds: Seconds; of steps done in one pass the share of each.
        tokens: Tokens that entered the model, likewise.
    """

    product: Product
    seconds: float = 0.0
    tokens: int = 0


class Step(ABC, Generic[Product]):
    """A piece of work on a bench; frozen and picklable, so that it can be sent to a worker.

    Equal keys mean equal results on one bench.

    Attributes:
        task: The task that it is done on.
        noun: What it is called.
    """

    @property
    def folder(self) -> str:
        """The folder of a store in which products are kept; empty: they are not."""
        return ""

    task: Task
    noun: ClassVar[str] = "a step"

    @property
    def name(self) -> str:
        """What it is, for people and for the names of files, such as "truthfulqa-42"."""
        return f"{self.noun} on {self.task.name}"

    @cached_property
    def needs(self) -> tuple[Step[Any], ...]:
        """The steps whose products `run` takes."""
        return ()

    @abstractmethod
    def depends(self) -> Any:
        """All that its product depends on beside the bench and what it needs."""

    @cached_property
    def key(self) -> str:
        """The key, without the bench."""
        return key_of([type(self).__name__, self.depends(), [step.key for step in self.needs]])

    @cached_property
    def alike(self) -> str | None:
        """Steps with the same are done in one pass; None: it is done alone."""
        return None

    @abstractmethod
    def run(self, bench: Bench, *given: Any) -> Product:
        """Do it; `given` are the products of what it needs.

        Raises:
            LofitLensError: It cannot be done.
        """

    def run_all(
        self, bench: Bench, steps: Sequence[Any], given: Sequence[Sequence[Any]]
    ) -> Sequence[Product | LofitLensError]:
        """Do steps that are alike, this one first; of one that fails the error."""
        assert len(steps) == 1, "steps done in one pass say how"
        return [self.run(bench, *given[0])]


Given = Sequence[Sequence[Any]]
"""The products of what steps need, for each of them."""

ADVICE = (
    'Set a smaller batch_size, or "auto"; in training a smaller micro_batch_size, or "auto", or train '
    "fewer runs together."
)
"""Where memory ran out."""

Outcome = Sequence[Done[Any] | LofitLensError]
"""What each step gave, or why it failed."""


def perform(bench: Bench, steps: Sequence[Step[Any]], given: Given) -> Outcome:
    """Do steps that are alike, and measure what each cost; running out of memory is a failure."""
    with bench.measured() as measured:
        try:
            found = steps[0].run_all(bench, steps, given)
        except LofitLensError as error:
            found = [error] * len(steps)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            found = [LofitLensError(f"{error}\n{ADVICE}")] * len(steps)
    share = Done(None, measured.seconds / len(steps), round(measured.tokens / len(steps)))
    return [
        one if isinstance(one, LofitLensError) else replace(share, product=one) for one in found
    ]


def product_of(bench: Bench, step: Step[Product]) -> Product:
    """The product of one step, done now with all it needs.

    Raises:
        LofitLensError: A step failed.
    """
    (found,) = perform(bench, [step], [[product_of(bench, need) for need in step.needs]])
    if isinstance(found, LofitLensError):
        raise found
    return found.product


def all_steps(step: Step[Any]) -> Iterator[Step[Any]]:
    """A step behind all it needs; some may come twice."""
    for need in step.needs:
        yield from all_steps(need)
    yield step
