"""Which fast paths are taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

from lofit_lens.errors import LofitLensError

PLAIN = "LOFIT_LENS_PLAIN"
"""Environment variable that turns every fast path off, as for a run of the command line."""


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """The fast paths, each of which gives what the plain path gives up to rounding.

    Attributes:
        direct: Go past the hook points of TransformerLens that nobody listens to, and let PyTorch's
            scaled-dot-product attention take the place of eager attention.
        answers_only: Unembed only the positions that predict a token of an answer.
        shared: Run tokens that several texts start with once: the primer of a task, the prompt of
            the candidates of an item or of a preferred and a rejected answer.
        replay: In training, compute what lies below the lowest edit once per data set.
        prompts: In training, compute the keys and values of prompts that the scope of the edit
            leaves alone once per data set.
        together: Tune several head sets on one task in one forward pass.
        memory: Share of the free memory that `replay` and `prompts` may fill each; beyond it they
            are not taken.
    """

    direct: bool = True
    answers_only: bool = True
    shared: bool = True
    replay: bool = True
    prompts: bool = True
    together: bool = True
    memory: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.memory <= 1:
            raise LofitLensError(f"memory must be a share from 0 to 1, got {self.memory}.")


def taken() -> Shortcuts:
    """The fast paths taken at this moment."""
    return _TAKEN.get()


@contextmanager
def shortcuts(
    enabled: bool = True,
    *,
    direct: bool | None = None,
    answers_only: bool | None = None,
    shared: bool | None = None,
    replay: bool | None = None,
    prompts: bool | None = None,
    together: bool | None = None,
    memory: float | None = None,
) -> Iterator[Shortcuts]:
    """Take or leave fast paths inside the context; see `Shortcuts` for what each does.

    Results are the same up to rounding (in float32 log-probabilities within 1e-4 and gradients
    within 1e-5 relative; bfloat16 rounds more), so there is no need to call this but to measure,
    or to find a fault.

    Args:
        enabled: Whether to start from all fast paths, or from none.
        direct: Changes this one; likewise the others.
        answers_only: See `Shortcuts`.
        shared: See `Shortcuts`.
        replay: See `Shortcuts`.
        prompts: See `Shortcuts`.
        together: See `Shortcuts`.
        memory: See `Shortcuts`.

    Raises:
        LofitLensError: `memory` is not a share.

    Examples:
        >>> with shortcuts(False) as plain:
        ...     plain.direct
        False
        >>> with shortcuts(replay=False) as some:
        ...     some.direct, some.replay
        (True, False)
    """
    changes = {
        "direct": direct, "answers_only": answers_only, "shared": shared, "replay": replay,
        "prompts": prompts, "together": together, "memory": memory,
    }  # fmt: skip
    changes = {name: value for name, value in changes.items() if value is not None}
    chosen = replace(Shortcuts() if enabled else NONE, **changes)
    token = _TAKEN.set(chosen)
    try:
        yield chosen
    finally:
        _TAKEN.reset(token)


NONE = Shortcuts(**{f.name: False for f in fields(Shortcuts) if f.name != "memory"})  # pyright: ignore[reportArgumentType]
"""The plain path."""

_TAKEN = ContextVar("shortcuts", default=NONE if os.environ.get(PLAIN) else Shortcuts())
