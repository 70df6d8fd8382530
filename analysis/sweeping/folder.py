"""The folder of a sweep: every run as soon as it is there, so that a sweep can be gone on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lofit_lens.analysis.comparison.run import ComparisonRun
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json, write_whole

SWEEP_SCHEMA = 1
MARKER = "sweep.json"


class SweepFolder:
    """Takes each run of a sweep; nothing is written before the first one.

    Args:
        path: Where: a folder that is new or empty, or one with an earlier part of the sweep.
        swept: What is swept.

    Raises:
        LofitLensError: There is something else in the folder, or it is a file.
    """

    def __init__(self, path: str | Path, swept: str) -> None:
        self.path = Path(path)
        self._swept = swept
        self._files: dict[int, dict[ComparisonRun, str]] = {}
        if (self.path / MARKER).is_file():
            found = _read(self.path)["swept"]
            if found != swept:
                raise LofitLensError(
                    f"{path} holds a sweep over {found}, this one is over {swept}. Name another folder."
                )
            for place in self.path.iterdir():
                if re.fullmatch(rf"{swept}-\d+", place.name):
                    self._files[_x(place)] = _records(place)
        elif self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise LofitLensError(
                f"{path} is not empty and does not hold a sweep. Name a new or an empty folder."
            )

    def runs(self, x: int) -> tuple[ComparisonRun, ...]:
        """The runs at a value, in the order in which they came."""
        return tuple(self._files.get(x, {}))

    def add(self, x: int, run: ComparisonRun) -> None:
        """Write a run."""
        if not (self.path / MARKER).is_file():
            self._mark({})
        files = self._files.setdefault(x, {})
        name = run.file_name(1 + max(map(_place, files.values()), default=-1))
        run.save(self._at(x) / name)
        files[run] = name

    def finish(self, runs: dict[int, tuple[ComparisonRun, ...]], *, n_heads: int) -> None:
        """Say which runs make up the sweep; the folder may hold others, of methods left out since."""
        names = {str(x): [self._files[x][run] for run in found] for x, found in runs.items()}
        self._mark({"n_heads": n_heads, "runs": names})

    def _mark(self, content: dict[str, Any]) -> None:
        whole = {"schema": SWEEP_SCHEMA, "swept": self._swept, **content}
        text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
        write_whole(self.path / MARKER, text.encode())

    def _at(self, x: int) -> Path:
        return self.path / f"{self._swept}-{x}"


def read_sweep(folder: str | Path) -> tuple[Any, dict[int, tuple[ComparisonRun, ...]], int]:
    """What a finished sweep was over, its runs by value, and the number of heads of its model.

    Raises:
        LofitLensError: The folder holds no finished sweep, or a damaged one.
    """
    path, content = Path(folder), _read(Path(folder))
    if "runs" not in content:
        raise LofitLensError(
            f"The sweep in {folder} is not finished. Call it again with this folder; its runs are kept."
        )
    swept = content["swept"]
    runs = {
        int(x): tuple(ComparisonRun.load(path / f"{swept}-{x}" / name) for name in names)
        for x, names in content["runs"].items()
    }
    return swept, runs, content["n_heads"]


def _read(path: Path) -> dict[str, Any]:
    return read_json(path / MARKER, schema=SWEEP_SCHEMA, what="sweep")


def _x(place: Path) -> int:
    return int(place.name.rpartition("-")[2])


def _place(name: str) -> int:
    """The number at the front of a run's file name."""
    return int(name.partition("-")[0])


def _records(place: Path) -> dict[ComparisonRun, str]:
    files = sorted(place.glob("[0-9]*-*.json.gz"))
    return {ComparisonRun.load(file): file.name for file in files}
