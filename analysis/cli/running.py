"""Options of every experiment: how it is run, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lofit_lens.analysis.cli.groups import option

if TYPE_CHECKING:
    from lofit_lens.analysis.cli.console import Report
    from lofit_lens.analysis.study.store import Kind, Store

RUNNING = "Running"

KeepEdits = Annotated[bool, option("Write every edit to --out.", RUNNING, "--keep-edits")]


@dataclass(frozen=True)
class RunningOptions:
    """How an experiment is run."""

    workers: Annotated[
        int | None,
        option(
            "Processes that share the work; each loads the model. One by default; a whole demo takes two.",
            RUNNING,
            min=1,
        ),
    ] = None
    together: Annotated[
        int, option("Runs trained in one forward pass; fewer need less memory.", RUNNING, min=1)
    ] = 8
    resume: Annotated[
        bool, option("Go on with what is in --out: finished runs are not run again.", RUNNING)
    ] = False
    overwrite: Annotated[bool, option("Replace what is in --out.", RUNNING)] = False

    def store(self, out: Path | None, kind: Kind) -> Store:
        """The store of an experiment in --out, or in memory.

        Raises:
            LofitLensError: The folder holds something else, or an experiment and neither --resume nor
                --overwrite is given.
        """
        from lofit_lens.analysis.study.store import Store

        return Store(out, kind, resume=self.resume, overwrite=self.overwrite)

    def how(self, report: Report) -> dict[str, Any]:
        """The arguments of what runs an experiment; of failures and progress the report tells."""
        told = {"on_failure": report.fail, "progress": not report.quiet}
        return {"workers": self.workers or 1, "together": self.together, **told}
