"""The folder of a study: a copy of its file, what is known of its run, and a folder for each part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lofit_lens.analysis.plan.part import Part
from lofit_lens.analysis.plan.plan import PlannedPart
from lofit_lens.analysis.plan.study_file import StudyFile, read_study
from lofit_lens.analysis.study.experiment_folder import KEPT, RECORDS, command_line
from lofit_lens.errors import LofitLensError
from lofit_lens.files import marker_in, read_json, write_json, write_whole
from lofit_lens.provenance import library_versions

COPY, MARKER, SCHEMA = "study.toml", "study.json", 1


class StudyFolder:
    """Where a study is run.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        told: What is known of the run: by name of the part its `parts` (model, experiment, cells, planned
            hours, and how it `ran`), what `failed`, what was `left_out`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.told: dict[str, Any] = {}
        self._again: set[str] = set()

    @classmethod
    def opened(cls, path: str | Path) -> StudyFolder:
        """The folder of a study that was begun.

        Raises:
            LofitLensError: There is none.
        """
        folder = cls(path)
        folder.told = read_json(folder.path / MARKER, schema=SCHEMA, what="study")
        return folder

    @classmethod
    def begun(
        cls, path: str | Path, study: StudyFile, file: str | Path, *, resume: bool
    ) -> StudyFolder:
        """A folder for a study, new or gone on with; nothing is written yet.

        Raises:
            LofitLensError: It holds another study or anything else, or this one and `resume` is off.
        """
        folder = cls(path)
        there = marker_in(folder.path, MARKER) if folder.path.is_dir() else None
        if there is None and folder.path.exists() and (
            folder.path.is_file() or any(folder.path.iterdir())
        ):  # fmt: skip
            raise LofitLensError(
                f"{path} is not empty and does not hold a study. Name another folder with --out."
            )
        if there is not None and there.get("key") != study.key:
            raise LofitLensError(
                f"{path} holds another study, {there.get('name')!r}: its {COPY} differs from {file} in more "
                "than the budget. Name another folder with --out, or run the file it was begun with."
            )
        if there is not None and not resume:
            raise LofitLensError(
                f"{path} holds this study. Give --resume to go on with it, or name another folder with "
                "--out."
            )
        folder.told = there or {
            "schema": SCHEMA,
            "kind": "study",
            "name": study.name,
            "key": study.key,
        }
        folder._again = set((there or {}).get("failed", ()))
        folder.told |= {"failed": {}, "left_out": [], "command_line": command_line()}
        folder.told |= {"versions": library_versions()}
        return folder

    def expect(self, parts: Sequence[Part], planned: Sequence[PlannedPart]) -> None:
        """Note which parts there are, and what is planned of them."""
        told = self.told.setdefault("parts", {})
        for part in parts:
            names = {"model": part.model.name, "experiment": part.experiment.name}
            told.setdefault(part.folder, names | {"cells": None, "hours": None})
        for one in planned:
            told[one.part.folder] |= {"cells": one.cost.cells, "hours": one.hours}

    def copy(self, file: str | Path) -> None:
        """Keep a copy of the study file, and what is known so far."""
        write_whole(self.path / COPY, Path(file).read_bytes())
        self.save()

    def save(self) -> None:
        """Write what is known."""
        write_json(self.path / MARKER, self.told)

    def study(self) -> StudyFile:
        """The study, from the copy.

        Raises:
            StudyFileError: The copy was changed or lost.
        """
        return read_study(self.path / COPY)

    def records(self, part: str) -> list[Path]:
        """The records of a part."""
        return sorted((self.path / part / RECORDS).glob("*.json.gz"))

    def begin(self, part: Part, **told: Any) -> None:
        """Note that a part is run, and what is known of it by now."""
        self._again.discard(part.folder)
        self.told["parts"][part.folder] |= told
        self.save()

    def products(self, part: str) -> list[Path]:
        """What steps of a part gave and keep: learning rates, scores of heads."""
        return [file for kept in KEPT for file in (self.path / part / kept).glob("*.json")]

    def is_finished(self, part: Part) -> bool:
        """Whether a part has come to its end, and nothing in it failed in an earlier run."""
        marker = marker_in(self.path / part.folder, part.experiment.folder.marker) or {}
        return "runs" in marker and part.folder not in self._again
