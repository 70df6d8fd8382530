"""One run of cross-task head transfer: heads from a source, tuned and tested on a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lofit_lens.analysis.study.paired import plain
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.evaluation import Evaluation

TRANSFER_SCHEMA = 2
"""Of a run's file; schema 1 had no `config`."""


@dataclass(frozen=True)
class TransferRun:
    """One tuning run on heads from some source.

    Attributes:
        source: The task the heads were chosen on, or "random".
        task: The task they were tuned and tested on.
        seed: Seed of the run; random heads may be drawn several times for one seed.
        heads: The heads.
        evaluation: Scores of the tuned model on `task`.
        config: How they were tuned, as in the edit's provenance; None if it is not known, as of
            files from before it was stored.
        edit: What was learned, in the run that `tune_and_score` returns; `save` leaves it out.
    """

    source: str
    task: str
    seed: int
    heads: HeadSet
    evaluation: Evaluation
    config: Mapping[str, Any] | None = None
    edit: HeadIntervention | None = field(default=None, repr=False, compare=False)

    def save(self, path: str | Path) -> Path:
        """Write the run with the record of every item, without the edit, as one gzipped JSON file."""
        content = {
            "schema": TRANSFER_SCHEMA,
            "source": self.source,
            "task": self.task,
            "seed": self.seed,
            "heads": self.heads.to_json(),
            "evaluation": self.evaluation.to_json(),
            "config": None if self.config is None else dict(self.config),
        }
        return write_json_gz(path, content)

    def file_name(self, place: int) -> str:
        """A name for the run's file; `place` is its place among the runs and keeps their order."""
        return f"{place:03}-{plain(self.source)}-on-{plain(self.task)}-{self.seed}.json.gz"

    @classmethod
    def load(cls, path: str | Path) -> TransferRun:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_json_gz(path, cls._from_json, what="a transfer run")

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> TransferRun:
        if content["schema"] not in (1, TRANSFER_SCHEMA):
            raise ValueError(f"schema {content['schema']!r}, expected 1 or {TRANSFER_SCHEMA}")
        return cls(
            content["source"],
            content["task"],
            content["seed"],
            HeadSet.from_json(content["heads"]),
            Evaluation.from_json(content["evaluation"]),
            None if content["schema"] == 1 else content["config"],
        )


def untuned_file(place: int, task: str) -> str:
    """A name for the file with a task's zero-shot scores; `place` keeps the order of the tasks."""
    return f"{_UNTUNED}{place:03}-{plain(task)}.json.gz"


def is_untuned(path: Path) -> bool:
    """Whether a file beside those of runs has zero-shot scores, by its name."""
    return path.name.startswith(_UNTUNED)


_UNTUNED = "zero-shot-"
