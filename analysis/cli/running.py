"""Options of every experiment: how it is run, and where it is kept."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lofit_lens.analysis.cli.groups import option
from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from lofit_lens.analysis.cli.console import Report
    from lofit_lens.analysis.study.experiment_folder import Kind
    from lofit_lens.analysis.study.store import Store

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
    parsl: Annotated[
        Path | None,
        option(
            "A Python file with a Parsl `config`, whose workers do the work (extra cluster).",
            RUNNING,
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

    def how(self, report: Report, workers: int = 1) -> dict[str, Any]:
        """The arguments of what runs an experiment; of failures and progress the report tells.

        `workers` are those of a command that names none.
        """
        told = {"on_failure": report.fail, "progress": not report.quiet}
        return {"workers": self.engine(workers), "together": self.together, **told}

    def engine(self, default: int = 1) -> Executor | int:
        """What does the work; an executor is shut down when the command ends.

        Raises:
            LofitLensError: Both --workers and --parsl are given; see `parsl_executor`.
        """
        if self.parsl is None:
            return self.workers or default
        if self.workers is not None:
            raise LofitLensError("Give either --workers or --parsl; the file says how many.")
        from click import get_current_context

        from lofit_lens.analysis.study.clusters import parsl_executor

        own = str(Path(sys.executable).parent)  # Parsl starts its programs by their names
        os.environ["PATH"] = os.pathsep.join([own, os.environ.get("PATH", "")])
        executor = parsl_executor(self.parsl)
        get_current_context().call_on_close(executor.shutdown)
        return executor
