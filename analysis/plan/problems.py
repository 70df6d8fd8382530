"""What is wrong with a study file: everything at once, each with its line and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lofit_lens.analysis.plan.lines import Place, line_at, lines_of
from lofit_lens.errors import LofitLensError

T = TypeVar("T", bound=msgspec.Struct)


class StudyFileError(LofitLensError):
    """A study file that cannot be run; the message names every mistake with its line."""


class Problems:
    """Collects mistakes.

    Args:
        path: The file.
        text: What is in it.
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = lines_of(text)
        self._found: dict[str, int] = {}

    def add(self, place: Place, message: str) -> None:
        """Note a mistake at a place, once."""
        self._found.setdefault(message, line_at(self._lines, place))

    def unknown(self, place: Place, what: str, name: str, known: Collection[str]) -> None:
        """Note a name that is not valid, with the nearest that is."""
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f". Known: {', '.join(known)}."
        self.add(place, f"there is no {what} {name!r}{hint}")

    @contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """Note an error that is raised inside at a place, and go on."""
        try:
            yield
        except LofitLensError as error:
            self.add(place, str(error))

    def check(self) -> None:
        """Raise all mistakes, if there are any.

        Raises:
            StudyFileError: There are.
        """
        if not self._found:
            return
        found = sorted(self._found.items(), key=lambda one: one[1])
        rows = "\n".join(f"  line {line}: {message}" for message, line in found)
        count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
        raise StudyFileError(f"{self._path} has {count}:\n{rows}")

    def read(self, content: Any, kind: type[T], place: Place) -> T | None:
        """A table of the file as a struct, with every mistake noted and left out.

        None if it is no table, or a field that it needs is missing or wrong.
        """
        if not isinstance(content, Mapping):
            self.add(place, f"{place[-1]} must be a table, got {content!r}")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        values = {}
        for name, value in content.items():
            if name in fields:
                with suppress(_Wrong):
                    values[name] = self._value(value, fields[name].type, (*place, name))
            elif name != kind.__struct_config__.tag_field:
                self.unknown((*place, name), "setting", name, fields)
        needed = [name for name, field in fields.items() if field.required and name not in values]
        for name in needed:
            if name not in content:
                self.add(place, f"{name} is missing")
        return None if needed else kind(**values)

    def _value(self, value: Any, kind: Any, place: Place) -> Any:
        """A value as the type of its field."""
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.read(value, kind, place) or kind()
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self.add(place, f"{place[-1]} = {value!r}: {_plainly(error)}")
            raise _Wrong from None


class _Wrong(Exception):
    """A value that has been noted as wrong."""


def _plainly(error: msgspec.ValidationError) -> str:
    """What a conversion says, in the words of TOML."""
    words = {"object": "a table", "array": "a list", "str": "text", "int": "a whole number"}
    words |= {"float": "a number", "bool": "true or false"}

    def plainly(kinds: re.Match[str]) -> str:
        names = [name for name in kinds[1].split(" | ") if name != "null"]
        return " or ".join(words.get(name, name) for name in names)

    text = re.sub(r"`([\w |]+)`", plainly, str(error).partition(" - at ")[0])
    return text[:1].lower() + text[1:]
