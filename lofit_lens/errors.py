"""The errors a user can meet.

Each message says what was wrong, the value received, what is valid and what to do.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from lofit_lens.edits.edit import Edit


class LofitLensError(Exception):
    """Root of all errors raised for a user's mistake or an impossible request."""


class DataError(LofitLensError):
    """A task file is missing, cannot be read, or is not the expected one."""


class RowErrors(DataError):
    """Malformed rows of a task file, all of them at once.

    Attributes:
        problems: One line per problem: file, line, column, what was found and what was expected.
    """

    def __init__(self, problems: list[str], shown: int = 20) -> None:
        self.problems = problems
        rows = "\n".join(f"  {problem}" for problem in problems[:shown])
        more = f"\n  … and {len(problems) - shown} more" if len(problems) > shown else ""
        super().__init__(f"{len(problems)} problems in malformed rows:\n{rows}{more}")


class ModelMismatchError(LofitLensError):
    """Heads, scores or an artefact belong to another model."""


class LeakError(LofitLensError):
    """Test items could reach training, the choice of heads or the choice of a setting."""


class UnsupportedError(LofitLensError):
    """The request would give a wrong number on this model; the message says what to do instead."""


class ScoringError(LofitLensError):
    """A score came out as NaN or infinite, so no metric can be computed from it."""


class TrainingStopped(LofitLensError):
    """Training met a loss or gradient that is not finite, or diverged.

    Attributes:
        learned: The edit after the last good step; its provenance holds the history until then.
    """

    def __init__(self, message: str, learned: Edit) -> None:
        self.learned = learned
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.learned), vars(self)


def told(error: BaseException) -> str:
    """The message of an error, with what was noted on its way."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def check_one_of(name: str, value: object, known: Collection[object]) -> None:
    """Refuse a value of an argument that is none of the known ones.

    Raises:
        LofitLensError: It is not.
    """
    if value not in known:
        valid = ", ".join(map(str, known))
        raise LofitLensError(f"{name} must be one of {valid}, got {value!r}.")


def check_whole(
    name: str, value: object, least: int = 0, most: int | None = None, *, beside: str = ""
) -> None:
    """Refuse a value of an argument that is not a whole number from `least` to `most`.

    `beside` is what the message names as valid too, such as `, or "auto"`.

    Raises:
        LofitLensError: It is not; True and 1.0 are none either.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < least or (most is not None and number > most):
        valid = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise LofitLensError(f"{name} must be a whole number {valid}{beside}, got {value!r}.")


def check_not_empty(name: str, text: str | None) -> None:
    """Refuse an empty text that something is to be cut at.

    Raises:
        LofitLensError: It is empty.
    """
    if text == "":
        raise LofitLensError(f"{name} must not be empty; for a whole line give a line break.")


def check_seed(seed: object, name: str = "seed") -> None:
    """Refuse a seed that not every generator takes.

    Raises:
        LofitLensError: It is not a whole number from 0 to 2**32 - 1.
    """
    check_whole(name, seed, 0, 2**32 - 1)
