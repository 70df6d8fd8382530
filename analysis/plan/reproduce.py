"""Running some cells of a finished study again, and comparing record by record."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from lofit_lens.analysis.plan.entries import ModelEntry, TaskEntry
from lofit_lens.analysis.plan.folder import StudyFolder
from lofit_lens.analysis.plan.part import Part
from lofit_lens.analysis.plan.parts import parts_of
from lofit_lens.analysis.plan.run_study import place_of
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.run import run_cells
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import device_of
from lofit_lens.errors import LofitLensError, told
from lofit_lens.progress import say

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

TOLERANCE = 1e-3
"""How far numbers may differ on another device or kind of CPU, or where a part of them was run with other
threads or `together` than the rest, relative to those above 1."""

COSTS = {"seconds", "fit_seconds", "score_seconds", "tokens", "fit_tokens", "score_tokens"}
"""What is not compared: it depends on what was trained and scored beside a cell."""


@dataclass(frozen=True)
class Again:
    """A cell that was run again.

    Attributes:
        part: Name of the folder of its part.
        record: Name of its record.
        difference: The largest difference of two numbers, relative to those above 1; infinite where
            something else differs.
        where: Where in the record that is; empty if all is equal.
        tolerance: How large it may be.
    """

    part: str
    record: str
    difference: float
    where: str
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the record is confirmed."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Reproduction:
    """What came of running cells again.

    Attributes:
        cells: The cells.
    """

    cells: Sequence[Again]

    @property
    def holds(self) -> bool:
        """Whether every record is confirmed."""
        return all(cell.holds for cell in self.cells)

    def frame(self) -> pd.DataFrame:
        """Columns `part`, `record`, `difference`, `where`, `tolerance`, `holds`."""
        import pandas as pd

        return pd.DataFrame([vars(cell) | {"holds": cell.holds} for cell in self.cells])

    def __repr__(self) -> str:
        lines = []
        for cell in self.cells:
            verdict = "equal" if cell.difference == 0 else "within" if cell.holds else "differs"
            how = f" by {cell.difference:.2g} in {cell.where}, tolerance {cell.tolerance:g}"
            lines.append(f"{verdict:<8} {cell.part}: {cell.record}{how if cell.difference else ''}")
        n = sum(cell.holds for cell in self.cells)
        lines.append(
            f"{n} of {len(self.cells)} records confirmed; seconds and tokens are not compared."
        )
        return "\n".join(lines)


def reproduce(
    folder: str | Path, *, cells: int = 3, seed: int = 0, progress: bool = True
) -> Reproduction:
    """Run some cells of a study again, in a temporary folder, and compare their records with the old.

    Whatever shared a forward pass with what a cell needs is trained again too, with as many threads, since
    the last digits depend on both: a cell costs up to `together` trainings of each stage. All but the costs
    has then to be equal, on the same kind of CPU; else within `TOLERANCE`, as also where experiments share
    what was trained once for all of them.

    Args:
        folder: The `--out` of `run`.
        cells: How many of the cells that are done.
        seed: Of the draw of these.
        progress: Whether to show bars.

    Raises:
        LofitLensError: There is no study in the folder, or no cell is done.
    """
    if cells < 1:
        raise LofitLensError(f"cells must be 1 or more, got {cells}.")
    study = StudyFolder.opened(folder)
    parts = parts_of(study.study(), TaskEntry.load, ModelEntry.tokenizer)
    done = [(part, path) for part in parts for path in study.records(part.folder)]
    if not done:
        raise LofitLensError(
            f"No cell of the study in {folder} is done, so there is none to repeat."
        )
    drawn = random.Random(seed).sample(range(len(done)), min(cells, len(done)))
    found: list[Again] = []
    chosen = [done[i] for i in sorted(drawn)]
    for entry, of_model in groupby(chosen, key=lambda one: one[0].model):
        model = entry.load()
        for part, of_part in groupby(of_model, key=lambda one: one[0]):
            records = [Record.load(path) for _, path in of_part]
            found += _again(study, part, records, model, progress)
    return Reproduction(found)


def _again(
    study: StudyFolder,
    part: Part,
    records: Sequence[Record],
    model: TransformerBridge,
    progress: bool,
) -> Iterator[Again]:
    """Run the cells of some records of a part again."""
    kind, ran = part.experiment, study.told["parts"][part.folder].get("ran") or {}
    exact = place_of(model).items() <= ran.items() and device_of(model).type == "cpu"
    exact = exact and not _shared(study, part)
    tolerance = 0.0 if exact else TOLERANCE
    bench = Bench.of(
        model, kind.texts, n_answers=getattr(kind, "answers", 0),
        batch_size=part.batch_size(Bench(model, ()).heads),
    )  # fmt: skip
    cells = part.cells(bench.heads, study.path)
    with TemporaryDirectory() as place, _threads(ran.get("threads", torch.get_num_threads())):
        new = run_cells(
            bench, cells, Store(place), only={record.key for record in records},
            together=ran.get("together", 1), on_failure=lambda error: say(told(error)),
            what="reproduce", progress=progress,
        )  # fmt: skip
    by_key = {record.key: record for record in new}
    for record in records:
        if record.key not in by_key:
            why = "nothing: it failed, or its key is of other versions or data"
            yield Again(part.folder, record.name, math.inf, why, 0.0)
            continue
        there, here = record.to_json(), by_key[record.key].to_json()
        worst = max(differences(there, here), default=("", 0.0), key=lambda one: one[1])
        yield Again(part.folder, record.name, worst[1], worst[0], tolerance)


def _shared(study: StudyFolder, part: Part) -> bool:
    """Whether a part has a product of another one, which may have been trained beside other runs there."""
    own = {file.relative_to(study.path / part.folder) for file in study.products(part.folder)}
    return any(
        own & {file.relative_to(study.path / other) for file in study.products(other)}
        for other in study.told["parts"]
        if other != part.folder
    )


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def differences(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Where two JSON values differ, costs left out, and by how much; infinity where not in a number."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys((*one, *other)):
            if name not in COSTS:
                yield from differences(
                    one.get(name), other.get(name), f"{where}.{name}".lstrip(".")
                )
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, theirs, f"{where}[{number}]")
    elif isinstance(one, int | float) and isinstance(other, int | float):
        if one != other and not (math.isnan(one) and math.isnan(other)):
            yield where, abs(one - other) / max(1, abs(one))
    elif one != other:
        yield where, math.inf
