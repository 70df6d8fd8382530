"""How far the run of a study has come, from its folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lofit_lens.analysis.plan.folder import StudyFolder
from lofit_lens.analysis.plan.plan import in_words
from lofit_lens.analysis.study.claims import HOLDER
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.store import CLAIMS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PartStatus:
    """How far a part has come.

    Attributes:
        part: Name of its folder.
        cells: How many cells it has.
        done: How many are done.
        running: How many pieces of work are claimed by a worker.
        failed: How many errors there were in the last run.
        seconds: What the cells that are done took.
    """

    part: str
    cells: int
    done: int
    running: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class StudyStatus:
    """How far a study has come.

    Attributes:
        name: The study.
        parts: The parts that were begun.
        left_out: Parts that were left out because the budget was spent.
        errors: What went wrong, by part.
    """

    name: str
    parts: Sequence[PartStatus]
    left_out: Sequence[str]
    errors: dict[str, list[str]]

    @property
    def hours_left(self) -> float | None:
        """Hours for the cells that are not done, by the mean of those that are; None if none is."""
        done, seconds = sum(p.done for p in self.parts), sum(p.seconds for p in self.parts)
        if not done:
            return None
        by_itself = {p.part: p.seconds / p.done if p.done else seconds / done for p in self.parts}
        return sum((p.cells - p.done) * by_itself[p.part] for p in self.parts) / 3600

    def frame(self) -> pd.DataFrame:
        """A row for each part, with the fields of `PartStatus`."""
        import pandas as pd

        return pd.DataFrame([asdict(part) for part in self.parts])

    def __repr__(self) -> str:
        lines = [self.frame().round(1).to_string(index=False)] if self.parts else []
        done, cells = sum(p.done for p in self.parts), sum(p.cells for p in self.parts)
        left = "" if self.hours_left is None else f", about {in_words(self.hours_left)} left"
        lines += ["", f"{self.name}: {done} of {cells} cells{left}"]
        if self.left_out:
            lines.append(f"Left out, the budget was spent: {', '.join(self.left_out)}")
        lines += [f"{part}: {error}" for part, errors in self.errors.items() for error in errors]
        return "\n".join(lines)


def study_status(folder: str | Path) -> StudyStatus:
    """How far the run of a study has come.

    Parts that no run has come to yet are not in it.

    Args:
        folder: The `--out` of `run`.

    Raises:
        LofitLensError: There is no study in it, or a record is damaged.
    """
    study = StudyFolder.opened(folder)
    failed = study.told["failed"]
    parts = []
    for name, told in study.told.get("parts", {}).items():
        records = [Record.load(path) for path in study.records(name)]
        found = (study.path / name / CLAIMS).glob("*.json")
        claims = [file for file in found if not file.name.startswith(HOLDER)]
        parts.append(
            PartStatus(
                name, told["cells"], len(records), len(claims), len(failed.get(name, ())),
                seconds_of(records),
            )
        )  # fmt: skip
    return StudyStatus(study.told["name"], parts, study.told["left_out"], failed)


def seconds_of(records: Sequence[Record]) -> float:
    """What some records took together, a step that several share counted once."""
    steps = {step["key"]: step["seconds"] for record in records for step in record.steps}
    scoring = (record.cost.score_seconds for record in records)
    return sum(steps.values(), 0.0) + sum(scoring, 0.0)
