"""The folder of a run on disk: one fold, or one sub-folder a fold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lofit_lens.artifacts import DESCRIPTION
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.intervention import HeadIntervention
from lofit_lens.provenance import library_versions, read_json

RUN_SCHEMA = 1
RUN_FILE = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """A folder with `run.json` and the results of one or more folds."""

    path: Path

    @classmethod
    def new(cls, path: Path, *, overwrite: bool = False) -> RunFolder:
        """A folder to write to; refused, before any work is done, if it holds a finished run.

        Raises:
            LofitLensError: The folder holds a run and `overwrite` is off, or it is a file.
        """
        if path.exists() and not path.is_dir():
            raise LofitLensError(f"{path} is a file; name a folder with --out.")
        if (path / RUN_FILE).exists() and not overwrite:
            raise LofitLensError(
                f"{path} holds a finished run. Name another folder, or give --overwrite."
            )
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def fold(self, i: int, n_folds: int) -> Path:
        """The folder of a fold."""
        return self.path if n_folds == 1 else self.path / f"fold-{i}"

    def folds(self) -> Iterator[Path]:
        """The folders that hold an intervention.

        Raises:
            LofitLensError: There is none.
        """
        if (self.path / DESCRIPTION).is_file():
            found = [self.path]
        else:
            found = sorted(p.parent for p in self.path.glob(f"fold-*/{DESCRIPTION}"))
        if not found:
            raise LofitLensError(
                f"There is no intervention in {self.path}. Give the --out folder of `lofit` or `tune`."
            )
        yield from found

    def finish(self, command: str, model: str, **content: Any) -> None:
        """Write `run.json`, which marks the run as finished."""
        record = {"schema": RUN_SCHEMA, "command": command, "model": model, **content}
        record["versions"] = library_versions()
        text = json.dumps(record, ensure_ascii=False, indent=1)
        (self.path / RUN_FILE).write_text(text + "\n", encoding="utf-8")

    def model(self) -> str | None:
        """The model the run was made with, if `run.json` here or, for a fold, above says so."""
        for folder in (self.path, self.path.parent):
            if (folder / RUN_FILE).is_file():
                return read_json(folder / RUN_FILE, schema=RUN_SCHEMA, what="run")["model"]
        return None

    def files(self) -> list[str]:
        """Every file of the run."""
        return [str(path) for path in sorted(self.path.rglob("*")) if path.is_file()]


def read_heads(
    source: Path,
    *,
    n_layers: int | None = None,
    n_heads: int | None = None,
    k: int | None = None,
    fraction: float | None = None,
) -> HeadSet:
    """Heads of a run folder, a scores file or a head list, cut to a number if one is given."""
    cut = k is not None or fraction is not None
    scored = source / "scores.json" if source.is_dir() else source
    if source.is_dir() and (source / DESCRIPTION).is_file() and not cut:
        return HeadIntervention.load(source).heads
    if scored.name == "scores.json":
        scores = HeadScores.load(scored)
        if cut:
            return scores.top(k=k, fraction=fraction)
        if not (source / "heads.npy").is_file():
            raise LofitLensError(
                f"{scored} scores every head; say how many with --k or --fraction."
            )
        source, n_layers, n_heads = source / "heads.npy", scores.n_layers, scores.n_heads
    found = HeadSet.load(source, n_layers=n_layers, n_heads=n_heads)
    if cut:
        total = found.n_layers * found.n_heads
        found = found.first(number_of_heads(total, k=k, fraction=fraction))
    return found
