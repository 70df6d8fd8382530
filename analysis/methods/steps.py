"""The steps of fitting: choosing a learning rate, choosing heads, tuning them, fitting anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from lofit_lens.analysis.measure.leaks import sealed
from lofit_lens.analysis.methods.selectors import SELECTORS, Stage, selector
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.cell import Recipe
from lofit_lens.analysis.study.fitted import FITTED, Fitted
from lofit_lens.analysis.study.keys import as_json, key_of
from lofit_lens.analysis.study.step import Step
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.stages import select_together, tune_together
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import SelectionConfig, TuningConfig
from lofit_lens.training.rates import RateChoice, with_rate

if TYPE_CHECKING:
    from lofit_lens.analysis.study.bench import Bench

Config = TypeVar("Config", SelectionConfig, TuningConfig)


def learned_from(task: Task) -> Any:
    """What is fitted on a task depends on: its data, how it is trained on and how validation is scored."""
    told = [task.name, task.data_hash(), task.objective, task.scoring.to_json()]
    told.append(task.source.get("chat"))
    return told if task.val_as_test == task.val else [*told, key_of(task.val_as_test)]


@dataclass(frozen=True)
class Auto:
    """What a learning rate of "auto" is chosen with, once for all seeds and heads of a task.

    Attributes:
        task: The task.
        seed: The seed, the first of the experiment.
        heads: The selector whose heads stage 2's is chosen on, or these themselves.
        ranked_seed: The seed of the selector; None: the same.
    """

    task: Task
    seed: int
    heads: str | HeadSet = "lofit"
    ranked_seed: int | None = None


@dataclass(frozen=True)
class Chosen:
    """The heads of a selector, or given ones.

    Attributes:
        of: The step that scores all heads; None where they are given.
        k: How many of them.
        given: Given heads, best first.
    """

    of: Select | None
    k: int
    given: HeadSet | None = None

    @property
    def needs(self) -> tuple[Step[Any], ...]:
        """The step that scores them, if one does."""
        return () if self.of is None else (self.of,)

    def depends(self) -> Any:
        """How many, or which."""
        return self.k if self.given is None else self.given.to_json()

    def among(self, scores: HeadScores | None) -> HeadSet:
        """The heads, from the scores of the step."""
        if self.given is not None:
            return self.given
        assert scores is not None
        return scores.top(k=self.k)


@dataclass(frozen=True, eq=False)
class Rate(Step[RateChoice]):
    """The learning rate of a stage, chosen on validation.

    Attributes:
        stage: The stage.
        settings: With its configuration.
        auto: What it is chosen with.
        heads: The heads of stage 2; None for stage 1, which trains all.
    """

    stage: Stage
    settings: Settings
    auto: Auto
    heads: Chosen | None = None

    @property
    def folder(self) -> str:
        """Where choices are kept."""
        return "rates"

    @property
    def name(self) -> str:
        """As "Stage 2 on truthfulqa"."""
        return f"Stage {1 if self.stage == 'selection' else 2} on {self.auto.task.name}"

    @cached_property
    def needs(self) -> tuple[Step[Any], ...]:
        """The heads of stage 2."""
        return () if self.heads is None else self.heads.needs

    def depends(self) -> Any:
        """Task, configuration and heads."""
        heads = None if self.heads is None else self.heads.depends()
        return [self.stage, learned_from(self.auto.task), self._config, heads]

    @property
    def _config(self) -> Any:
        seed = self.auto.seed
        if self.stage == "selection" and self.auto.ranked_seed is not None:
            seed = self.auto.ranked_seed
        return replace(getattr(self.settings, self.stage), seed=seed)

    def run(self, bench: Bench, *given: Any) -> RateChoice:
        """Try every rate."""
        every = HeadSet.every(**heads_of(bench.model).shape)
        heads = every if self.heads is None else self.heads.among(*given or (None,))
        task = sealed(self.auto.task)
        found = with_rate(bench.model, task, heads, self._config, progress=bench.progress)
        assert found.rate_choice is not None
        return RateChoice.from_json(found.rate_choice)


def rates_for(stage: Stage | None, settings: Settings, auto: Auto, k: int) -> tuple[Rate, ...]:
    """The step that chooses the learning rate of a stage, if that is "auto"."""
    if stage is None or getattr(settings, stage).learning_rate != "auto":
        return ()
    if stage == "selection":
        return (Rate(stage, settings, auto),)
    if isinstance(auto.heads, HeadSet):
        return (Rate(stage, settings, auto, Chosen(None, k, auto.heads)),)
    seed = auto.seed if auto.ranked_seed is None else auto.ranked_seed
    # what is itself tuned, as the norm of a bias, cannot choose the rate of its own training
    by = "lofit" if SELECTORS[auto.heads].stage == "tuning" else auto.heads
    of = Select(auto.task, by, settings, seed, auto, k)
    return (Rate(stage, settings, auto, Chosen(of, k)),)


def with_choice(config: Config, choices: Sequence[Any]) -> Config:
    """A configuration with the learning rate that a step chose, if one did."""
    if not choices:
        return config
    (choice,) = choices
    return replace(config, learning_rate=choice.learning_rate, rate_choice=choice.to_json())


@dataclass(frozen=True, eq=False)
class Select(Step[HeadScores]):
    """The score of every head for a task.

    Attributes:
        task: The task.
        by: Name of the selector.
        settings: How to train what it trains.
        seed: The seed.
        auto: What a learning rate of "auto" is chosen with.
        k: How many heads will be tuned, for the choice of that rate.
        draw: Which of several draws with one seed.
    """

    task: Task
    by: str
    settings: Settings
    seed: int
    auto: Auto
    k: int
    draw: int = 0

    @property
    def folder(self) -> str:
        """Where scores are kept, but for heads drawn at random."""
        return "" if SELECTORS[self.by].drawn else "scores"

    @property
    def name(self) -> str:
        """As "truthfulqa-42"; of other selectors than LoFiT's with its name in front."""
        first = "" if self.by == "lofit" else f"{self.by}-"
        last = f"-{self.draw}" if self.draw else ""
        return f"{first}{self.task.name}-{self.seed}{last}"

    @cached_property
    def needs(self) -> tuple[Step[Any], ...]:
        """A chosen learning rate; the scores that it starts from."""
        row = SELECTORS[self.by]
        inner = () if row.around is None else (replace(self, by=row.around, draw=0),)
        return (*inner, *rates_for(row.stage, self.settings, self.auto, self.k))

    def depends(self) -> Any:
        """Task, selector, its part of the settings, seed and draw."""
        own = as_json(SELECTORS[self.by].depends(self.settings))
        if isinstance(own, dict):
            own.pop("seed", None)  # it is replaced
        return [learned_from(self.task), self.by, own, self.seed, self.draw]

    @cached_property
    def alike(self) -> str | None:
        """LoFiT's stage 1 with several seeds is one pass."""
        if self.by != "lofit":
            return None
        return key_of(["select", replace(self, seed=0).depends(), [n.key for n in self.needs]])

    def run(self, bench: Bench, *given: Any) -> HeadScores:
        """Score the heads."""
        row, settings = SELECTORS[self.by], self.settings
        if row.around is not None:
            (inner,) = given
            return row.make(lambda *_: inner, self.draw)(bench.model, sealed(self.task), self.seed)
        if row.stage is not None:
            found = with_choice(getattr(settings, row.stage), given)
            settings = replace(settings, **{row.stage: found})
        score = selector(self.by, settings, draw=self.draw)
        return score(bench.model, sealed(self.task), self.seed)

    def run_all(
        self, bench: Bench, steps: Sequence[Select], given: Sequence[Sequence[Any]]
    ) -> Sequence[HeadScores | LofitLensError]:
        """Several seeds of stage 1 in one pass."""
        if self.by != "lofit":
            return super().run_all(bench, steps, given)
        config = with_choice(self.settings.selection, given[0])
        seeded = [replace(config, seed=step.seed) for step in steps]
        return select_together(bench.model, sealed(self.task), seeded, progress=bench.progress)


@dataclass(frozen=True, eq=False)
class Tune(Step[Fitted]):
    """LoFiT's stage 2 on some heads.

    Attributes:
        task: The task.
        heads: The heads.
        settings: With the configuration, token scope and component included.
        seed: The seed.
        auto: What a learning rate of "auto" is chosen with.
    """

    noun = "tuning"

    task: Task
    heads: Chosen
    settings: Settings
    seed: int
    auto: Auto

    @property
    def folder(self) -> str:
        """Where edits wait for being scored."""
        return FITTED

    @cached_property
    def needs(self) -> tuple[Step[Any], ...]:
        """A chosen learning rate, and the heads."""
        return (*self._rates, *self.heads.needs)

    @property
    def _rates(self) -> tuple[Rate, ...]:
        bias = replace(self.settings.tuning, component="bias")  # one rate for both components
        return rates_for("tuning", replace(self.settings, tuning=bias), self.auto, self.heads.k)

    def depends(self) -> Any:
        """Task, heads and configuration."""
        config = replace(self.settings.tuning, seed=self.seed)
        return [learned_from(self.task), self.heads.depends(), config]

    @cached_property
    def alike(self) -> str:
        """Other heads and seeds on one task with one configuration are one pass."""
        config = replace(self.settings.tuning, seed=0)
        return key_of(["tune", learned_from(self.task), config, [s.key for s in self._rates]])

    def run(self, bench: Bench, *given: Any) -> Fitted:
        """Tune the heads."""
        (found,) = self.run_all(bench, [self], [given])
        if isinstance(found, LofitLensError):
            raise found
        return found

    def run_all(
        self, bench: Bench, steps: Sequence[Tune], given: Sequence[Sequence[Any]]
    ) -> Sequence[Fitted | LofitLensError]:
        """Tune several head sets in one pass."""
        n = len(self._rates)
        config = with_choice(self.settings.tuning, given[0][:n])
        runs = [
            (step.heads.among(*own[n:] or (None,)), replace(config, seed=step.seed))
            for step, own in zip(steps, given, strict=True)
        ]
        edits = tune_together(bench.model, sealed(self.task), runs, progress=bench.progress)
        choices = {"learning_rate": config.learning_rate} if config.rate_choice else {}
        return [
            edit if isinstance(edit, LofitLensError) else Fitted(edit, choices, edit.heads)
            for edit in edits
        ]


@dataclass(frozen=True, eq=False)
class Fit(Step[Fitted]):
    """A method fitted on a task in one piece.

    Attributes:
        task: The task.
        recipe: How.
        seed: The seed.
        heads: The heads it starts from, if it does.
        also: Further steps whose products it takes.
        kept: Whether a run cut short keeps the edit until it is scored.
    """

    noun = "fitting"

    task: Task
    recipe: Recipe
    seed: int
    heads: Chosen | None = None
    also: tuple[Step[Any], ...] = ()
    kept: bool = True

    @property
    def folder(self) -> str:
        """Where edits wait for being scored."""
        return FITTED if self.kept else ""

    @cached_property
    def needs(self) -> tuple[Step[Any], ...]:
        """The heads, and what else it takes."""
        return (*self.also, *(() if self.heads is None else self.heads.needs))

    def depends(self) -> Any:
        """Task, recipe, seed and heads."""
        heads = None if self.heads is None else self.heads.depends()
        return [learned_from(self.task), self.recipe.depends(), self.seed, heads]

    def run(self, bench: Bench, *given: Any) -> Fitted:
        """Fit it, without the test split."""
        n = len(self.also)
        heads = () if self.heads is None else (self.heads.among(*given[n:] or (None,)),)
        task = self.task if self.recipe.leaky else sealed(self.task)
        return self.recipe.fit(bench, task, self.seed, *heads, *given[:n])
