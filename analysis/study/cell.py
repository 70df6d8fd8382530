"""A cell: one number of an experiment, as asked for, before it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lofit_lens.analysis.measure.templates import check_templates
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.keys import as_json, key_of
from lofit_lens.analysis.study.record import ZERO_SHOT, Cost, Record, place_of
from lofit_lens.analysis.study.score import Score, Scored
from lofit_lens.fast.memory import BatchSize
from lofit_lens.grid import HeadGrid
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    from lofit_lens.analysis.study.bench import Bench
    from lofit_lens.analysis.study.step import Step


@runtime_checkable
class Recipe(Protocol):
    """How an edit is made from a task, a seed and a draw: data, so that it has a key."""

    @property
    def leaky(self) -> bool:
        """Whether it may read the test split, because that is what it is there to show."""
        ...

    def told(self) -> Mapping[str, Any]:
        """All of it as plain JSON values, for the record."""
        ...

    def depends(self) -> Any:
        """All that `fit` depends on beside task, seed and heads."""
        ...

    def step(self, heads: HeadGrid, task: Task, seed: int, draw: int) -> Step[Fitted]:
        """The last step of making the edit, which names those it needs; of a model only its heads."""
        ...

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:
        """Fit it in one piece; `given` are the heads, if it starts from some, and what else it needs."""
        ...


@dataclass(frozen=True, eq=False)
class Cell:
    """A method on one fold of a task with one seed and draw.

    Attributes:
        method: Name of the method.
        task: The fold.
        recipe: How its edit is made; None leaves the model as it is.
        seed: Seed of the run.
        draw: Which draw of one seed.
        source: In a transfer of heads where they come from.
        cut: What makes it a point of a sweep.
        batch_size: Sequences per forward pass in scoring.
        split: The split scored.
        compat: A scoring rule of the task by name.
        must_act: Whether an edit that changes no score is refused.
    """

    method: str
    task: Task
    recipe: Recipe | None
    seed: int
    draw: int = 0
    source: str | None = None
    cut: Mapping[str, Any] = field(default_factory=dict)
    batch_size: BatchSize = 32
    split: Literal["test", "val"] = "test"
    compat: str | None = None
    must_act: bool = True

    @classmethod
    def zero_shot(cls, task: Task, seed: int, batch_size: BatchSize = 32) -> Cell:
        """The model as it is on a task."""
        return cls(ZERO_SHOT, task, None, seed, batch_size=batch_size)

    @property
    def place(self) -> tuple[Any, ...]:
        """Which cell it is, whatever it is made with."""
        return place_of(self.method, self.task.name, self.seed, self.draw, self.cut)

    def score(self, heads: HeadGrid) -> Score:
        """Its last step, on a model with such heads."""
        zero_shot = self._zero_shot
        if self.recipe is None:
            return zero_shot
        fit = self.recipe.step(heads, self.task, self.seed, self.draw)
        return replace(zero_shot, fit=fit, zero_shot=zero_shot if self.must_act else None)

    def protocol(self, bench: Bench) -> dict[str, Any]:
        """All that its scores depend on, as plain JSON values."""
        chat = self.task.source.get("chat")
        told = {**bench.identity, "scoring": as_json(self._zero_shot.depends())}
        told |= {"templates": self._templates} | ({"chat": chat} if chat else {})
        if self.recipe is None:
            return told
        return told | {"data_hash": self.task.data_hash(), "recipe": as_json(self.recipe.told())}

    def key(self, bench: Bench, score: Score) -> str:
        """Its key: everything that its record depends on; `score` is its last step."""
        return key_of([bench.identity, score.key, self.place])

    def record(
        self,
        bench: Bench,
        key: str,
        scored: Scored,
        fitted: Fitted,
        steps: Sequence[Mapping[str, Any]],
    ) -> Record:
        """Its record, from the products of its steps.

        Args:
            bench: Where it was measured.
            key: Its key.
            scored: The scores.
            fitted: The edit.
            steps: All steps that made it, with what each cost.
        """
        edit = fitted.edit
        origin = None if edit is None else edit.provenance
        warning = None if origin is None else origin.history.warning()
        return Record(
            method=self.method,
            task=base_name(self.task),
            fold=self.task.name,
            seed=self.seed,
            evaluation=scored.evaluation,
            cost=Cost(
                parameters=0 if edit is None else edit.n_parameters,
                fit_seconds=sum((step["seconds"] for step in steps), 0.0),
                score_seconds=scored.seconds,
                fit_tokens=sum(step["tokens"] for step in steps),
                score_tokens=scored.tokens,
            ),
            side_effects=scored.side_effects,
            choices={**fitted.choices, **({"warning": warning} if warning else {})},
            heads=fitted.heads,
            answers=scored.answers,
            protocol=self.protocol(bench),
            source=self.source,
            draw=self.draw,
            cut=self.cut,
            config=None if origin is None else origin.config,
            steps=steps,
            key=key,
            edit=edit,
        )

    @property
    def _zero_shot(self) -> Score:
        shared = {"split": self.split, "compat": self.compat, "batch_size": self.batch_size}
        return Score(self.task, **shared)

    @cached_property
    def _templates(self) -> str | None:
        return check_templates(self.task)


def base_name(task: Task) -> str:
    """The name that all folds of a task under one protocol share."""
    if "fold" not in task.source:
        return task.name
    parts = task.source["name"], task.source.get("protocol")
    return ":".join(str(part) for part in parts if part is not None)
