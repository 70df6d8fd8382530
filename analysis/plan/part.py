"""A part of a study: one experiment on one model, which has a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lofit_lens.analysis.kinds.lofit import LofitRun
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.plan.entries import ModelEntry
from lofit_lens.analysis.plan.experiments import Experiment
from lofit_lens.analysis.plan.options import Options, combined, settings_of
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.grid import HeadGrid
from lofit_lens.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Part:
    """An experiment on a model.

    Attributes:
        folder: Name of its folder.
        model: The model.
        experiment: The experiment.
        tasks: The tasks.
        seeds: The seeds.
        options: What the study says of each task, by its name.
        explains: Of a causal experiment the part whose edit it explains.
    """

    folder: str
    model: ModelEntry
    experiment: Experiment
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    options: Mapping[str, Options]
    explains: Part | None = None

    def settings(self, heads: HeadGrid, share: float | None = None) -> dict[str, Settings]:
        """The settings of the methods by name of the task, at a share of the heads if one is given.

        Raises:
            LofitLensError: A value is out of range.
        """
        at = Options() if share is None else Options(fraction=share)
        found = {}
        for name, options in self.options.items():
            every = combined(options, at)
            own = settings_of(every, self.model.preset, name, heads, seed=self.seeds[0])
            own.n_heads(heads)
            draws = max(1, self.experiment.random_draws)  # none are listed where it is 0
            found[name] = replace(own, random_draws=draws)
        return found

    def sized(self, heads: HeadGrid) -> dict[str, Settings]:
        """The same with the number of heads in place of a share."""
        found = self.settings(heads)
        return {n: replace(own, k=own.n_heads(heads), fraction=None) for n, own in found.items()}

    def batch_size(self, heads: HeadGrid) -> int:
        """Sequences of a forward pass in scoring: those of the first task."""
        return next(iter(self.settings(heads).values())).batch_size

    def cells(self, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        """What it runs on a model with such heads; `study` is the folder of the study, if run."""
        return self.experiment.cells(self, heads, study)

    def edit_in(self, study: Path) -> HeadIntervention:
        """The edit that it explains, from the folder of the study.

        Raises:
            LofitLensError: It is not there.
        """
        assert self.explains is not None
        return LofitRun.load(study / self.explains.folder).intervention
