"""What a command prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lofit_lens.errors import LofitLensError, TrainingStopped, told

if TYPE_CHECKING:
    from lofit_lens.analysis.study.record import Record
    from lofit_lens.provenance import Provenance
    from lofit_lens.scoring import Evaluation

BAD_REQUEST = 1
INTERRUPTED = 130


@contextmanager
def command(as_json: bool, quiet: bool = False) -> Iterator[Report]:
    """Run the body of a command.

    Whatever libraries print goes to standard error. A user's mistake ends the process with a
    message and exit code 1, an interrupt with 130; the results are printed at the end.
    """
    report = Report(as_json, quiet)
    try:
        with redirect_stdout(sys.stderr):
            if quiet:
                from transformers.utils.logging import disable_progress_bar

                disable_progress_bar()
            yield report
    except TrainingStopped as error:
        _fail(f"{told(error)}\n{report.save_rescue(error)}")
    except (LofitLensError, OSError) as error:
        _fail(told(error))
    except (RuntimeError, MemoryError) as error:
        from lofit_lens.fast.memory import ran_out

        if not ran_out(error):
            raise
        _fail(f"{error}\nGive a smaller --batch-size; in training, --micro-batch-size auto.")
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    report.print()
    if report.failures:
        _fail("What failed, as said above, was left out.")


def _fail(message: str) -> None:
    typer.secho(f"Error: {message}", err=True, fg="red")
    raise typer.Exit(BAD_REQUEST) from None


def check_file(out: Path | None, *, overwrite: bool) -> None:
    """Refuse a file to write to, before any work is done.

    Raises:
        LofitLensError: It is a folder, or it is there and `overwrite` is off.
    """
    if out is not None and out.is_dir():
        raise LofitLensError(f"{out} is a folder; name a file with --out.")
    if out is not None and out.exists() and not overwrite:
        raise LofitLensError(
            f"{out} is there. Name another file with --out, or give --overwrite to replace it."
        )


class Report:
    """Collects what a command has to say."""

    def __init__(self, as_json: bool, quiet: bool = False) -> None:
        self._as_json = as_json
        self.quiet = quiet
        self._content: dict[str, Any] = {}
        self._lines: list[str] = []
        self.rescue: Path | None = None
        self.failures: list[str] = []
        self._hints: list[str] = []

    def say(self, message: str) -> None:
        """A message on the way, to standard error."""
        typer.echo(message, err=True)

    def hint(self, message: str | None, of: str = "") -> None:
        """Advice, of something: to standard error at once, and among the results as JSON."""
        if message is None:
            return
        message = f"{of}: {message}" if of else message
        if message not in self._hints:
            self._hints.append(message)
            self.say(message)

    def fail(self, error: Exception) -> None:
        """Something went wrong that the rest does not depend on; the exit code will tell."""
        self.failures.append(told(error))
        self.say(f"Failed: {told(error)}")

    def add(self, lines: str = "", **content: Any) -> None:
        """Add lines for people and fields for programs."""
        if lines:
            self._lines.append(lines)
        self._content.update(content)

    def add_training(self, what: str, provenance: Provenance | None) -> None:
        """Say how "auto" chose the learning rate of a training, and what it is to be warned of."""
        if provenance is not None:
            self.add_rate(what, provenance.config.get("rate_choice"))
            self.hint(provenance.history.warning(), what)

    def add_rate(self, what: str, choice: Mapping[str, Any] | None) -> None:
        """Note how a learning rate was chosen, if one was; who sees bars has been told already."""
        from lofit_lens.training.rates import RateChoice

        if choice is not None and what not in self._content.get("rates", {}):
            if self.quiet:
                self.say(f"{what}: {RateChoice.from_json(choice)}.")
            self._content.setdefault("rates", {})[what] = dict(choice)

    def add_records(self, records: Sequence[Record]) -> None:
        """Note the learning rates that were chosen for records, and what they are to be warned of."""
        for record in records:
            for step in record.steps:
                self.add_rate(step["step"], step.get("rate_choice"))
                self.hint(step.get("warning"), f"Choosing heads, {step['step']}")
            what = f"{record.method} on {record.fold}, seed {record.seed}"
            what += f", draw {record.draw}" if record.draw else ""
            self.hint(record.choices.get("warning"), what)
            self.hint(record.evaluation.warning(), what)

    def add_paths(self, out: Path, paths: Sequence[Path], what: str) -> None:
        """Say what was written where."""
        written = "\n".join(f"  {path}" for path in paths)
        told = [str(path) for path in paths]
        self.add(f"written to {out}, {what}:\n{written}", out=str(out), paths=told)

    @property
    def noted(self) -> dict[str, Any]:
        """The learning rates chosen and the hints, where there are any."""
        noted = {"rates": self._content.get("rates"), "hints": self._hints}
        return {key: value for key, value in noted.items() if value}

    def add_evaluations(self, evaluations: Mapping[str, Evaluation]) -> None:
        """Add scores with intervals, and the floors beside them."""
        first = next(iter(evaluations.values()))
        metrics = {name: metrics_json(evaluation) for name, evaluation in evaluations.items()}
        rows = [
            f"{name:<12} {metric:<9} {100 * e.value:6.1f}   [{100 * e.low:5.1f}, {100 * e.high:5.1f}]"
            f"   n={e.n}"
            for name, evaluation in evaluations.items()
            for metric, e in evaluation.metrics.items()
        ]
        rows += [f"{'floor':<12} {name}: {100 * v:.1f}" for name, v in first.floors.items()]
        title = f"{first.task}, {first.split} split, % with 95% interval"
        title += f", scored as {first.compat}" if first.compat else ""
        self.add(
            "\n".join([title, *rows]),
            task=first.task,
            split=first.split,
            compat=first.compat,
            metrics=metrics,
            floors=dict(first.floors),
        )
        finished = {name: evaluation.finished for name, evaluation in evaluations.items()}
        if any(share is not None for share in finished.values()):
            self.add(finished=finished)
        for name, evaluation in evaluations.items():
            self.hint(evaluation.warning(), name)

    def save_rescue(self, error: TrainingStopped) -> str:
        """Save what training had learned before it stopped; returns what to tell."""
        from lofit_lens.edits.on_heads import HeadIntervention

        if self.rescue is None or not isinstance(error.learned, HeadIntervention):
            return ""
        try:
            return f"Saved: {error.learned.save(self.rescue)}"
        except OSError as failure:
            return f"It could not be saved: {failure}."

    def print(self) -> None:
        """Print everything to standard output."""
        if self._as_json:
            typer.echo(
                json.dumps(self._content | {"hints": self._hints}, ensure_ascii=False, indent=1)
            )
        else:
            typer.echo("\n\n".join(self._lines))


def metrics_json(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """The metrics of an evaluation as value, low, high and n."""
    return {
        name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
        for name, e in evaluation.metrics.items()
    }
