"""How far the run of a study has come, from its folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lofit_lens.analysis.plan.folder import StudyFolder
from lofit_lens.analysis.plan.plan import in_words
from lofit_lens.analysis.study.claims import HOLDER
from lofit_lens.analysis.study.experiment_folder import CLAIMS
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.store import stored_record
from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PartStatus:
    """How far a part has come.

    Attributes:
        part: Name of its folder.
        cells: How many cells it has; None where it was not begun and the shape of the model is not
            known.
        done: How many are done.
        running: How many pieces of work are claimed by a worker.
        failed: How many errors there were in the last run.
        seconds: What the cells that are done took.
        planned: Hours for all of it, as `plan` reckons; None where that is not known.
    """

    part: str
    cells: int | None
    done: int
    running: int
    failed: int
    seconds: float
    planned: float | None

    @property
    def left(self) -> int:
        """How many cells are not done, as far as is known."""
        return max(0, (self.cells or 0) - self.done)


@dataclass(frozen=True)
class StudyStatus:
    """How far a study has come.

    Attributes:
        name: The study.
        parts: The parts.
        left_out: Parts that were left out because the budget was spent.
        errors: What went wrong in the last run, and damaged records, by part.
    """

    name: str
    parts: Sequence[PartStatus]
    left_out: Sequence[str]
    errors: dict[str, list[str]]

    @property
    def hours_left(self) -> float | None:
        """Hours for the cells that are not done; None if too little is known.

        In a part that was begun they are reckoned to take as long as those that are done; one that was
        not takes what was planned, times what the others took of what was planned for them.
        """
        begun = [p for p in self.parts if p.done and p.cells and p.planned is not None]
        expected = sum((p.planned or 0) * p.done / (p.cells or 1) for p in begun)
        pace = sum(p.seconds for p in begun) / 3600 / expected if expected else 1.0
        hours = [
            p.left * p.seconds / p.done / 3600 if p.done else p.planned and p.planned * pace
            for p in self.parts
        ]
        known = [one for one in hours if one is not None]
        return sum(known, 0.0) if len(known) == len(hours) else None

    def frame(self) -> pd.DataFrame:
        """A row for each part, with the fields of `PartStatus`."""
        import pandas as pd

        return pd.DataFrame([asdict(part) for part in self.parts]).astype({"cells": "Int64"})

    def __repr__(self) -> str:
        shown = self.frame().drop(columns="planned").round(1)
        lines = [shown.to_string(index=False, na_rep="?")] if self.parts else []
        done, cells = sum(p.done for p in self.parts), sum(p.cells or p.done for p in self.parts)
        left = "" if self.hours_left is None else f", about {in_words(self.hours_left)} left"
        more = " and those of parts marked ?" if any(p.cells is None for p in self.parts) else ""
        lines += ["", f"{self.name}: {done} of {cells} cells{more}{left}"]
        if self.left_out:
            lines.append(f"Left out, the budget was spent: {', '.join(self.left_out)}")
        lines += [f"{part}: {error}" for part, errors in self.errors.items() for error in errors]
        return "\n".join(lines)


def study_status(folder: str | Path) -> StudyStatus:
    """How far the run of a study has come.

    Args:
        folder: The `--out` of `run`.

    Raises:
        LofitLensError: There is no study in it.
    """
    study = StudyFolder.opened(folder)
    failed: dict[str, list[str]] = study.told["failed"]
    parts, errors = [], {name: list(found) for name, found in failed.items()}
    for name, told in study.told.get("parts", {}).items():
        records: list[Record] = []
        for path in study.records(name):
            try:
                records += filter(None, [stored_record(path)])
            except LofitLensError as error:
                errors.setdefault(name, []).append(str(error))
        found = (study.path / name / CLAIMS).glob("*.json")
        claims = [file for file in found if not file.name.startswith(HOLDER)]
        parts.append(
            PartStatus(
                name, told["cells"], len(records), len(claims), len(failed.get(name, ())),
                seconds_of(records), told.get("hours"),
            )
        )  # fmt: skip
    return StudyStatus(study.told["name"], parts, study.told["left_out"], errors)


def seconds_of(records: Sequence[Record]) -> float:
    """What some records took together, a step that several share counted once."""
    steps = {step["key"]: step["seconds"] for record in records for step in record.steps}
    scoring = (record.cost.score_seconds for record in records)
    return sum(steps.values(), 0.0) + sum(scoring, 0.0)
