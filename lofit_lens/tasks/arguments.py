r"""The arguments of `from_file` as they are written outside Python.

On the command line, behind the name of a file and in a task file everything is text or TOML. What
the arguments are called, which types they take and what they mean is read from the signature and
the docstring of `from_file`, so an argument is written there and nowhere else.

In every text `\n` is a line break, `\t` a tab and `\\` a backslash; any other backslash stays.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.from_file import from_file

SYNONYMS = {"shares": "split", "split_column": "split"}
"""Names of the command line, where `--split` chooses what is scored."""

ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}

_WORDS: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    Sequence: "a list of texts",
    tuple: "three shares",
}


@dataclass(frozen=True)
class Argument:
    """An argument of `from_file`.

    Attributes:
        kinds: The types it takes besides None; the words of a `Literal` are text.
        default: Its default.
        help: What its docstring says.
    """

    kinds: frozenset[type]
    default: Any
    help: str

    @property
    def several(self) -> bool:
        """Whether it takes a list of texts."""
        return Sequence in self.kinds

    @property
    def takes(self) -> str:
        """The types it takes, in words."""
        return " or ".join(words for kind, words in _WORDS.items() if kind in self.kinds)

    def read(self, written: Any) -> Any:
        """The value of what was written; None if it is of a type that the argument does not take."""
        if isinstance(written, str):
            numbers = _numbers(written)
            if tuple in self.kinds and numbers and len(numbers) > 1:
                return numbers
            if int in self.kinds and numbers and numbers[0].is_integer():
                return int(numbers[0])
            if str in self.kinds:
                return unescaped(written)
            return [unescaped(written)] if self.several else None
        if isinstance(written, list | tuple):
            if self.several and written and all(isinstance(part, str) for part in written):
                texts = [unescaped(part) for part in written]
                return texts[0] if len(texts) == 1 and str in self.kinds else texts
            numeric = all(isinstance(part, int | float) for part in written)
            return tuple(written) if tuple in self.kinds and numeric else None
        return written if type(written) in self.kinds else None


def unescaped(text: str) -> str:
    r"""Text as it was typed with its `\n`, `\t` and `\\` as the characters they mean."""
    return re.sub(r"\\([nt\\])", lambda found: ESCAPES[found[1]], text)


def read_arguments(
    written: Mapping[str, Any], where: str, *, beside: Sequence[str] = ()
) -> dict[str, Any]:
    """The arguments of `from_file` from what was written for them.

    Args:
        written: What was written, by name; dashes in a name count as underscores.
        where: What to call the place in messages.
        beside: Other names that could have been meant there.

    Raises:
        LofitLensError: A name is unknown, comes twice, or its value is of the wrong type.
    """
    read: dict[str, Any] = {}
    for typed, value in written.items():
        name = typed.replace("-", "_")
        name = SYNONYMS.get(name, name)
        if name not in ARGUMENTS:
            known = [*beside, *ARGUMENTS]
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise LofitLensError(
                f"{where}: there is no option {typed!r}.{meant} Known: {', '.join(known)}."
            )
        if name in read:
            raise LofitLensError(f"{where} says {name} twice ({', '.join(written)}).")
        read[name] = ARGUMENTS[name].read(value)
        if read[name] is None:
            raise LofitLensError(f"{where}: {name} takes {ARGUMENTS[name].takes}, got {value!r}.")
    return read


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers in a text with commas or blanks between them; none if there is anything else."""
    try:
        return tuple(float(part) for part in re.split(r"[,\s]+", text.strip()))
    except ValueError:
        return ()


def _kinds(annotation: Any) -> frozenset[type]:
    if get_origin(annotation) is Literal:
        return frozenset({str})
    parts = get_args(annotation) if get_origin(annotation) is not tuple else ()
    if parts and get_origin(annotation) is not Sequence:
        return frozenset[type]().union(*map(_kinds, parts)) - {NoneType}
    return frozenset({get_origin(annotation) or annotation})


def _descriptions() -> dict[str, str]:
    """What the docstring of `from_file` says of each argument."""
    text = inspect.cleandoc(from_file.__doc__ or "").partition("\nArgs:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text.partition("\n\n")[0], re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in found}


def _arguments() -> dict[str, Argument]:
    types, texts = get_type_hints(from_file), _descriptions()
    return {
        name: Argument(_kinds(types[name]), parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(from_file).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


ARGUMENTS: Mapping[str, Argument] = _arguments()
"""Every argument of `from_file` but the path, by name."""
