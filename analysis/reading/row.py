"""A row of the table of kinds: all that reader, page, figures and commands know of a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.study.experiment_folder import Kind

if TYPE_CHECKING:
    from lofit_lens.analysis.figures.drawing import Drawings
    from lofit_lens.analysis.reporting.section import Section

Marker = Mapping[str, Any]
"""What the marker of a folder tells; empty where there is none."""


@dataclass(frozen=True)
class Row:
    """A kind of experiment, or of a result that is saved by itself.

    Attributes:
        what: What makes it, such as "`compare`".
        read: Reads it from its folder and marker; its results get the name of the kind.
        kind: Name and marker of its folders, if a store writes them.
        files: Patterns of other files, any of which it is known by.
        drawings: What draws its figures, by name.
        sections: Its part of the page; parts with one name, of several kinds, are one section.
        sentences: What its numbers say, and no more than they say.
        seeds: The seeds of each of its results.
        items: How many test items it has, by task.
    """

    what: str
    read: Callable[[Path, Marker], Study]
    kind: Kind | None = None
    files: tuple[str, ...] = ()
    drawings: Callable[[Study], Drawings] = lambda _: {}
    sections: Callable[[Study], Iterable[Section]] = lambda _: ()
    sentences: Callable[[Study], Iterable[str]] = lambda _: ()
    seeds: Callable[[Study], Iterable[Sequence[int]]] = lambda _: ()
    items: Callable[[Study], Mapping[str, int]] = lambda _: {}

    @property
    def markers(self) -> tuple[str, ...]:
        """The patterns of files that it is known by, the marker first."""
        return (*(() if self.kind is None else (self.kind.marker,)), *self.files)

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds one."""
        return any(_there(folder, pattern) for pattern in self.markers)

    def has_results(self, folder: Path, marker: Marker) -> bool:
        """Whether the one in a folder has come to results."""
        told = bool(marker.keys() & {"runs", "table", "saved"})
        return told or any(_there(folder, pattern) for pattern in self.files)


def _there(folder: Path, pattern: str) -> bool:
    return any(path.is_file() for path in folder.glob(pattern))
