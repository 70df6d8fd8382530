"""Running a study: every model loaded once, every part in its own folder, one report in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lofit_lens.analysis.plan.entries import ModelEntry, TaskEntry
from lofit_lens.analysis.plan.folder import StudyFolder
from lofit_lens.analysis.plan.part import Part
from lofit_lens.analysis.plan.parts import parts_of
from lofit_lens.analysis.plan.plan import in_words, planned_parts
from lofit_lens.analysis.plan.shapes import shape_here
from lofit_lens.analysis.plan.study_file import read_study
from lofit_lens.analysis.reporting.page import report
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError, told
from lofit_lens.fast.memory import ran_out
from lofit_lens.progress import say

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class StudyRun:
    """How the run of a study ended.

    Attributes:
        folder: The folder.
        report: The page; None if no part was finished.
        failed: What went wrong, by name of the part.
        left_out: Parts that were not begun or not finished because the budget was spent.
    """

    folder: Path
    report: Path | None
    failed: dict[str, list[str]]
    left_out: list[str]


class _Spent(LofitLensError):
    """The budget of a study is spent."""


def run_study(
    file: str | Path,
    out: str | Path,
    *,
    workers: Executor | int = 1,
    together: int = 8,
    resume: bool = False,
    on_failure: Callable[[LofitLensError], object] | None = None,
    progress: bool = True,
) -> StudyRun:
    """Run a study.

    Each model is loaded once; each experiment on it fills a folder MODEL-EXPERIMENT in `out`, as the
    function of its kind does, and what fails there does not keep the others from being run. The page
    of all of it is `report.html` in `out`.

    Args:
        file: The study file.
        out: The folder; it gets a copy of the file.
        workers: How many processes share the work of an experiment, or an executor.
        together: As in `compare`.
        resume: Whether to go on with what is in the folder; what is finished is not run again.
        on_failure: Called with each error that was gone on after.
        progress: Whether to show bars and say what is begun.

    Raises:
        StudyFileError: The file has mistakes, or asks for what cannot be done.
        LofitLensError: The folder holds something else, or this study and `resume` is off.
    """
    study = read_study(file)
    folder = StudyFolder.begun(out, study, file, resume=resume)
    parts = parts_of(study, TaskEntry.load, ModelEntry.tokenizer)
    shapes = {model.name: shape_here(model) for model in study.models}
    planned = planned_parts(study, parts, shapes)
    folder.expect(parts, planned)
    folder.copy(file)
    end = None if study.budget_hours is None else time.monotonic() + 3600 * study.budget_hours
    how = {"workers": workers, "together": together, "progress": progress}
    for entry, of_model in groupby(parts, key=lambda part: part.model):
        _run_model(folder, entry, list(of_model), end, on_failure or (lambda _: None), how)
    left_out = folder.told["left_out"]
    if left_out:
        assert study.budget_hours is not None
        say(
            f"The budget of {in_words(study.budget_hours)} is spent; not finished: {', '.join(left_out)}. "
            "Run it again with --resume to go on."
        )
    finished = any(folder.is_finished(part) for part in parts)
    page = report(out, title=study.name) if finished else None
    return StudyRun(Path(out), page, folder.told["failed"], left_out)


def _run_model(
    folder: StudyFolder,
    entry: ModelEntry,
    parts: list[Part],
    end: float | None,
    on_failure: Callable[[LofitLensError], object],
    how: dict[str, Any],
) -> None:
    """Run the parts of a model that are not finished."""
    model = None
    for part in parts:
        if folder.is_finished(part):
            continue
        if end is not None and time.monotonic() > end:
            folder.told["left_out"].append(part.folder)
            continue
        with _noted(folder, part, on_failure):
            model = model or entry.load()
            beside = [folder.path / other.folder for other in parts if other is not part]
            _run_part(folder, part, model, end, on_failure, how, beside)
    folder.save()


def _run_part(
    folder: StudyFolder,
    part: Part,
    model: TransformerBridge,
    end: float | None,
    on_failure: Callable[[LofitLensError], object],
    how: dict[str, Any],
    beside: Sequence[Path],
) -> None:
    """Run a part, or go on with it, and with what others on the model gave."""
    cells = part.cells(heads_of(model), folder.path)
    n = len({cell.place for cell in cells})
    threads = torch.get_num_threads() if how["workers"] == 1 else 1
    ran = {**place_of(model), "threads": threads, "together": how["together"]}
    as_before = folder.told["parts"][part.folder].get("ran", ran) == ran
    folder.begin(part, cells=n, ran=ran if as_before else None)  # None: some of it so, some so

    def stop(_: Record) -> None:
        if end is not None and time.monotonic() > end:
            raise _Spent

    def fail(error: LofitLensError) -> None:
        _note(folder, part, error)
        on_failure(error)

    if how["progress"]:
        say(f"{part.folder}: {n} cells")
    store = Store(folder.path / part.folder, part.experiment.folder, resume=True, beside=beside)
    store.ask(study=folder.told["name"])
    part.experiment.run(part, model, store, on_run=stop, on_failure=fail, **how)


def place_of(model: TransformerBridge) -> dict[str, str]:
    """What the last digits depend on beside weights and software: the device, and of CPUs the kind."""
    device = str(model.cfg.device)
    return {"device": device, "cpu": torch.backends.cpu.get_cpu_capability()}


@contextmanager
def _noted(
    folder: StudyFolder, part: Part, on_failure: Callable[[LofitLensError], object]
) -> Iterator[None]:
    """Note what keeps a part from its end, and go on."""
    try:
        yield
    except _Spent:
        folder.told["left_out"].append(part.folder)
    except (LofitLensError, OSError) as error:
        _note(folder, part, error)
        on_failure(LofitLensError(f"{part.folder}: {told(error)}"))
    except (RuntimeError, MemoryError) as error:  # while the model was loaded
        if not ran_out(error):
            raise
        _note(folder, part, error)
        on_failure(LofitLensError(f"{part.folder}: {error}"))
    finally:
        folder.save()


def _note(folder: StudyFolder, part: Part, error: Exception) -> None:
    folder.told["failed"].setdefault(part.folder, []).append(told(error))
