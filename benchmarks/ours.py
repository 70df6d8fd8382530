"""Our own way of doing the same work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from benchmarks.models import Subject
from lofit_lens.edits.edit import Edit
from lofit_lens.fast.switches import shortcuts
from lofit_lens.fast.training_passes import training_passes
from lofit_lens.tokens import EncodedText


@dataclass(frozen=True)
class Passes:
    """Training passes on texts that come again.

    Attributes:
        logprobs: From numbers of texts to the summed log-probabilities of their answers.
        entry: Seconds spent before the first pass.
    """

    logprobs: Callable[[Sequence[int]], Tensor]
    entry: float


@contextmanager
def passes(
    subject: Subject, texts: Sequence[EncodedText], edit: Edit, *, fast: bool = True
) -> Iterator[Passes]:
    """Make ready for training on a bridge of its own, with every shortcut or with none."""
    model = subject.bridge()
    start = time.perf_counter()
    groups = [(text,) for text in texts]
    with ExitStack() as stack:
        with shortcuts(fast):
            context = training_passes(model, groups, edit)
            run: Callable[..., Tensor] = stack.enter_context(context)

        def logprobs(numbers: Sequence[int]) -> Tensor:
            with shortcuts(fast):
                return run(numbers)

        yield Passes(logprobs, time.perf_counter() - start)
