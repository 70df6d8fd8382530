"""What a study would run and cost, told without a model, a network or any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lofit_lens.analysis.plan.estimate import TFLOPS, Cost, cost_of, memory_of
from lofit_lens.analysis.plan.part import Part
from lofit_lens.analysis.plan.parts import parts_of
from lofit_lens.analysis.plan.shapes import KNOWN, PlanShape, shape_here, tokenizer_here
from lofit_lens.analysis.plan.stand_ins import load_or_stand_in
from lofit_lens.analysis.plan.study_file import StudyFile, read_study
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.plan.entries import ModelEntry, TaskEntry

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED = {"bnb-8bit": 1.0, "bnb-4bit": 0.5}
"""Bytes of a weight; what is computed with them has those of its type."""


@dataclass(frozen=True)
class PlannedPart:
    """A part with what it would cost.

    Attributes:
        part: The part.
        cost: Cells, trainings, operations.
        memory: Bytes, the weights included.
        hours: By the rate that was assumed.
    """

    part: Part
    cost: Cost
    memory: int
    hours: float


@dataclass(frozen=True)
class Plan:
    """What a study would run and cost.

    Attributes:
        study: The study.
        parts: Its parts.
        notes: What was assumed.
    """

    study: StudyFile
    parts: Sequence[PlannedPart]
    notes: Sequence[str]

    @property
    def hours(self) -> float:
        """Hours of all parts, one after the other."""
        return sum(one.hours for one in self.parts)

    def frame(self) -> pd.DataFrame:
        """Columns `model`, `experiment`, `cells`, `trainings`, `memory` (GiB) and `hours`."""
        import pandas as pd

        rows = [
            {
                "model": one.part.model.name,
                "experiment": one.part.experiment.name,
                "cells": one.cost.cells,
                "trainings": one.cost.trainings,
                "memory": one.memory / 2**30,
                "hours": one.hours,
            }
            for one in self.parts
        ]
        by = {"cells": "sum", "trainings": "sum", "memory": "max", "hours": "sum"}
        return pd.DataFrame(rows).groupby(["model", "experiment"], sort=False).agg(by).reset_index()  # pyright: ignore

    def __repr__(self) -> str:
        told = self.frame()
        text = told.assign(
            memory=told["memory"].map("{:.1f} GiB".format), hours=told["hours"].map(in_words)
        )
        cells, trainings = told["cells"].sum(), told["trainings"].sum()
        total = (
            f"{self.study.name}: {cells} cells, {trainings} trainings, about {in_words(self.hours)}"
        )
        budget = self.study.budget_hours
        if budget is not None:
            over = " Not all of it will be done." if budget < self.hours else ""
            total += f"; nothing is begun after {in_words(budget)}.{over}"
        table = text.rename(columns={"hours": "time"}).to_string(index=False)
        return "\n".join([table, "", total, *(f"* {note}" for note in self.notes)])


def plan_study(path: str | Path, *, tflops: float | None = None) -> Plan:
    """Plan a study from its file, without loading a model or fetching anything.

    Args:
        path: The study file.
        tflops: Floating-point operations a second that are reckoned with, in 10^12. Default: 50, or
            0.05 for a model on the CPU.

    Raises:
        StudyFileError: The file has mistakes, or asks for what cannot be done.
        LofitLensError: Nothing on this machine tells the shape of a model.
    """
    if tflops is not None and not tflops > 0:
        raise LofitLensError(f"tflops must be above 0, got {tflops}.")
    study = read_study(path)
    missing: list[str] = []

    def load(entry: TaskEntry) -> list[Task]:
        tasks, real = load_or_stand_in(entry)
        if not real:
            missing.append(entry.called)
        return tasks

    shapes = {model.name: _shape(study, number) for number, model in enumerate(study.models)}
    parts = parts_of(study, load, tokenizer_here)
    planned = planned_parts(study, parts, shapes, tflops=tflops)
    rates = {rate_for(model, tflops) for model in study.models}
    told = " and ".join(f"{rate:g}" for rate in sorted(rates))
    notes = [
        f"Time: 4 N operations a token of training, 2 N of scoring, at {told} x 10^12 a second on one "
        "device (--tflops gives another rate). Small models take longer."
    ]
    if missing:
        notes.append(
            f"Not on this machine, planned by the sizes in the paper: {', '.join(missing)}."
        )
    return Plan(study, planned, notes)


def planned_parts(
    study: StudyFile,
    parts: Sequence[Part],
    shapes: Mapping[str, PlanShape | None],
    *,
    tflops: float | None = None,
) -> list[PlannedPart]:
    """What parts would cost, of those on models whose shapes are known.

    Raises:
        StudyFileError: A part asks for what cannot be done.
    """
    known = [(part, shape) for part in parts if (shape := shapes[part.model.name]) is not None]
    given: dict[str, set[str]] = {part.model.name: set() for part, _ in known}
    planned = [
        _planned(study, part, shape, tflops, given[part.model.name]) for part, shape in known
    ]
    study.problems.check()
    return [one for one in planned if one is not None]


def rate_for(model: ModelEntry, tflops: float | None) -> float:
    """The assumed rate for a model, in 10^12 operations a second."""
    return tflops or TFLOPS["cpu" if (model.device or "").startswith("cpu") else "cuda"]


def in_words(hours: float) -> str:
    """A time as "40 s", "12 min", "3.5 h" or "4.2 days"."""
    seconds = 3600 * hours
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _shape(study: StudyFile, number: int) -> PlanShape:
    model = study.models[number]
    found = shape_here(model)
    if found is None:
        study.problems.add(
            ("models", number, "model"),
            f"nothing on this machine tells the shape of {model.model}. Give a folder with its config.json, "
            f"as `hf download {model.model} config.json` puts one into the cache. Known without: "
            f"{', '.join(KNOWN)}.",
        )
        study.problems.check()
    assert found is not None
    return found


def _planned(
    study: StudyFile, part: Part, shape: PlanShape, tflops: float | None, given: set[str]
) -> PlannedPart | None:
    """What a part would cost beside what earlier parts on the model give, to which it adds its own."""
    with study.problems.at(("experiments", study.experiments.index(part.experiment))):
        cost = cost_of(part.cells(shape.heads), shape, given=given)
        settings = next(iter(part.settings(shape.heads).values()))
        kind = part.model.dtype or ("float32" if (part.model.device or "") == "cpu" else "bfloat16")
        memory = memory_of(part.tasks, settings, shape, BYTES.get(kind, 4))
        if part.model.quantization is not None:
            each = BYTES.get(kind, 4) - QUANTIZED.get(part.model.quantization, 1.0)
            memory -= int(each * shape.sizes.parameters)
        hours = cost.operations / (rate_for(part.model, tflops) * 1e12) / 3600
        return PlannedPart(part, cost, memory, hours)
    return None
