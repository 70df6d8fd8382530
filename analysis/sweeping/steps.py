"""What the sweeps share: comparisons one after the other, each run kept, zero-shot scored once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lofit_lens.analysis.comparison.compare import ZERO_SHOT, Methods, compare
from lofit_lens.analysis.comparison.rates import with_rates
from lofit_lens.analysis.comparison.results import Comparison
from lofit_lens.analysis.comparison.run import ComparisonRun
from lofit_lens.analysis.measure.templates import check_templates
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.sweeping.folder import SweepFolder
from lofit_lens.analysis.sweeping.results import Sweep, Swept
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass
class Steps:
    """The comparisons of a sweep, made one by one.

    Attributes:
        model: The model.
        swept: What is swept.
        texts: Plain text for side effects.
        folder: Where runs are kept, if anywhere.
    """

    model: TransformerBridge
    swept: Swept
    texts: Sequence[EncodedText]
    folder: SweepFolder | None
    _runs: dict[int, list[ComparisonRun]] = field(default_factory=dict, init=False)
    _untuned: dict[str, ComparisonRun] = field(default_factory=dict, init=False)
    _settings: dict[tuple[int, str], Settings] = field(default_factory=dict, init=False)

    def with_rates(
        self, x: int, task: Task, seed: int, methods: Methods, settings: Settings
    ) -> Settings:
        """Settings at `x`, with learning rates of "auto" chosen once for each task there."""
        if isinstance(methods, Mapping):
            return settings
        if (x, task.name) not in self._settings:
            runs = self.folder.runs(x) if self.folder is not None else ()
            earlier = [run.protocol for run in runs if run.fold == task.name]
            self._settings[x, task.name] = with_rates(
                self.model, task, settings, methods, seed=seed, earlier=earlier
            )
        return self._settings[x, task.name]

    def run(
        self,
        x: int,
        task: Task,
        seed: int,
        methods: Methods,
        settings: Settings,
        still_good: Callable[[Sequence[ComparisonRun]], Sequence[ComparisonRun]] = tuple,
    ) -> tuple[ComparisonRun, ...]:
        """Methods on a task as it is at `x`, with one seed; what the folder has is not run again.

        Args:
            x: The number.
            task: The task.
            seed: The seed.
            methods: As for `compare`.
            settings: As for `compare`.
            still_good: Which of the runs in the folder count; the others are run again.

        Raises:
            LofitLensError: As `compare`.
        """
        folder = self.folder
        kept = folder.runs(x) if folder is not None else ()
        done = [run for run in kept if (run.fold, run.seed) == (task.name, seed)]
        done = list(still_good(done))
        untuned = self._untuned.get(task.name)
        if untuned is not None and not any(run.method == ZERO_SHOT for run in done):
            done.append(_as_at(untuned, task, settings))
        runs = compare(
            self.model,
            [task],
            methods,
            seeds=(seed,),
            settings=settings,
            texts=self.texts,
            done=done,
            on_run=None if folder is None else lambda run: folder.add(x, run),
            progress=False,
        ).runs
        self._untuned.setdefault(task.name, runs[0])
        found = self._runs.setdefault(x, [])
        if any((run.method, run.fold) == (ZERO_SHOT, task.name) for run in found):
            runs = runs[1:]
        elif folder is not None and runs[0] not in folder.runs(x):
            folder.add(x, runs[0])
        found += runs
        return runs

    def sweep(self) -> Sweep:
        """All that was run."""
        runs = {x: tuple(found) for x, found in self._runs.items()}
        n_heads = heads_of(self.model).total
        if self.folder is not None:
            self.folder.finish(runs, n_heads=n_heads)
        return Sweep(self.swept, {x: Comparison(found) for x, found in runs.items()}, n_heads)


def check_request(tasks: Sequence[Task], seeds: Sequence[int]) -> None:
    """Refuse a sweep of nothing.

    Raises:
        LofitLensError: There are no tasks, their names repeat, or there are no seeds.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise LofitLensError(f"Tasks need different names, and at least one; got {names}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise LofitLensError(f"Seeds must differ, and there must be one; got {list(seeds)}.")


def settings_for(task: Task, settings: Settings | Mapping[str, Settings] | None) -> Settings:
    """The settings of one task.

    Raises:
        LofitLensError: There are settings by task, but none for this one.
    """
    if not isinstance(settings, Mapping):
        return settings or Settings()
    if task.name not in settings:
        raise LofitLensError(f"`settings` lacks {task.name}; it has {', '.join(settings)}.")
    return settings[task.name]


def _as_at(untuned: ComparisonRun, task: Task, settings: Settings) -> ComparisonRun:
    """Zero-shot elsewhere in the sweep: it uses neither training examples nor settings."""
    own = {
        "settings": settings.to_json(),
        "data_hash": task.data_hash(),
        "templates": check_templates(task),
    }
    return replace(untuned, protocol={**untuned.protocol, **own})
