# ruff: noqa: D102, ARG002 (`cells` and `run` are described in `Experiment`)
"""The kinds of experiment that a study can ask for: what each lists, and what runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import torch

from lofit_lens.analysis.kinds.causal import causal_curves, causal_plan
from lofit_lens.analysis.kinds.compare import (
    check_tasks,
    compare,
    comparison_cells,
    recipes_by_task,
)
from lofit_lens.analysis.kinds.comparison import KIND as COMPARISON
from lofit_lens.analysis.kinds.curves import KIND as CURVES
from lofit_lens.analysis.kinds.curves import Ablation
from lofit_lens.analysis.kinds.lofit import KIND as LOFIT
from lofit_lens.analysis.kinds.lofit import lofit, lofit_cells
from lofit_lens.analysis.kinds.matrix import KIND as MATRIX
from lofit_lens.analysis.kinds.sweep import KIND as SWEEP
from lofit_lens.analysis.kinds.sweeps import example_cells, example_sweep, head_cells, head_sweep
from lofit_lens.analysis.kinds.transfer import transfer_cells, transfer_matrix
from lofit_lens.analysis.plan.options import Options
from lofit_lens.analysis.reporting.written import write_results, write_tables
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.experiment_folder import Kind
from lofit_lens.analysis.study.record import ZERO_SHOT
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import heads_of
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.grid import Head, HeadGrid
from lofit_lens.heads import HeadSet
from lofit_lens.training.config import PAPER_HEADS

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.plan.part import Part


class Experiment(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all kinds share.

    Attributes:
        name: Its name, part of the names of its folders; default its kind.
        models: Names of models; default all of the study.
        tasks: Names of tasks, likewise.
        seeds: Seeds of the methods.
        random_draws: Sets of random heads for each seed.
        settings: What differs from the settings of the study.
    """

    name: str = ""
    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (42,)
    random_draws: int = 1
    settings: Options = Options()

    folder: ClassVar[Kind]
    """What its folders are."""
    folds: ClassVar[bool] = True
    """Whether it takes every fold of a task, or the first."""
    apart: ClassVar[bool] = False
    """Whether every task and seed has a folder of its own."""
    texts: ClassVar[Any] = None
    """The plain text side effects are measured on; None: sampled from the model."""

    def cells(self, part: Part, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        """What `run` runs on a model with such heads; `study` is the folder of the study, if run."""
        raise NotImplementedError

    def run(self, part: Part, model: TransformerBridge, store: Store, **how: Any) -> None:
        """Run it, or go on with it, and write its tables.

        Raises:
            LofitLensError: It cannot be run.
        """
        raise NotImplementedError


class Compare(Experiment, frozen=True, kw_only=True, tag="compare"):
    """Methods under one protocol (Tables 1 to 3).

    Attributes:
        methods: Names, as `compare` takes them.
        base: The method the others are compared with.
        answers: Multiple-choice questions to answer in free text as well.
    """

    methods: tuple[str, ...]
    base: str = ZERO_SHOT
    answers: int = 0

    folder = COMPARISON

    def cells(self, part: Part, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        check_tasks(part.tasks)
        settings = part.settings(heads)
        recipes = recipes_by_task(part.tasks, self.methods, settings)
        return list(comparison_cells(part.tasks, recipes, part.seeds, settings))

    def run(self, part: Part, model: TransformerBridge, store: Store, **how: Any) -> None:
        found = compare(
            model, part.tasks, self.methods, seeds=part.seeds, n_answers=self.answers,
            settings=part.settings(heads_of(model)), out=store, **how,
        )  # fmt: skip
        if self.base not in found.methods:
            raise LofitLensError(f"{self.base} failed, so there is nothing to compare with.")
        published = part.model.preset if part.model.preset in PAPER_HEADS else None
        write_tables(store, found, base=self.base, published=published)


class Transfer(Experiment, frozen=True, kw_only=True, tag="transfer"):
    """Heads of every task tuned on every task (Figure 2).

    Attributes:
        heads: The selector that chooses them.
        does: What is tuned on them.
    """

    heads: str = "lofit"
    does: str = "bias"

    folder, folds = MATRIX, False

    def cells(self, part: Part, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        settings = part.sized(heads)
        cells = transfer_cells(
            part.tasks, settings, seeds=part.seeds, draws=self.random_draws, heads=self.heads,
            does=self.does, batch_size=part.batch_size(heads),
        )  # fmt: skip
        return list(cells)

    def run(self, part: Part, model: TransformerBridge, store: Store, **how: Any) -> None:
        heads = heads_of(model)
        settings = part.sized(heads)
        found = transfer_matrix(
            model, part.tasks, seeds=part.seeds, k=next(iter(settings.values())).k,
            heads=self.heads, does=self.does, random_draws=self.random_draws,
            selection={name: own.selection for name, own in settings.items()},
            tuning={name: own.tuning for name, own in settings.items()},
            batch_size=part.batch_size(heads), out=store, **how,
        )  # fmt: skip
        write_results(store, found.frame(zero_shot=True), {"figure2.html": found.plot()})


class SweepExamples(Experiment, frozen=True, kw_only=True, tag="sweep-examples"):
    """Methods on fewer and more training examples (Figure 4).

    Attributes:
        methods: Names, as `compare` takes them.
        examples: Numbers of training examples.
    """

    methods: tuple[str, ...] = ("lofit",)
    examples: tuple[int, ...]

    folder = SWEEP

    def cells(self, part: Part, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        return example_cells(
            part.tasks, self.examples, methods=self.methods, seeds=part.seeds,
            settings=part.settings(heads),
        )  # fmt: skip

    def run(self, part: Part, model: TransformerBridge, store: Store, **how: Any) -> None:
        found = example_sweep(
            model, part.tasks, self.examples, methods=self.methods, seeds=part.seeds,
            settings=part.settings(heads_of(model)), out=store, **how,
        )  # fmt: skip
        write_results(store, found.frame(), {"sweep.html": found.plot()})


class SweepHeads(Experiment, frozen=True, kw_only=True, tag="sweep-heads"):
    """Methods on fewer and more heads (Figure 5).

    Attributes:
        methods: Names of methods that choose heads.
        fractions: Shares of the heads.
    """

    methods: tuple[str, ...] = ("lofit",)
    fractions: tuple[float, ...]

    folder = SWEEP

    def cells(self, part: Part, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        return head_cells(
            heads, part.tasks, self.fractions, methods=self.methods, seeds=part.seeds,
            settings=lambda share: part.settings(heads, share),
        )  # fmt: skip

    def run(self, part: Part, model: TransformerBridge, store: Store, **how: Any) -> None:
        heads = heads_of(model)
        found = head_sweep(
            model, part.tasks, self.fractions, methods=self.methods, seeds=part.seeds,
            settings=lambda share: part.settings(heads, share), out=store, **how,
        )  # fmt: skip
        write_results(store, found.frame(), {"sweep.html": found.plot()})


class Lofit(Experiment, frozen=True, kw_only=True, tag="lofit"):
    """Both stages on each task, with the edit kept.

    Attributes:
        heads: The selector that chooses the heads.
    """

    heads: str = "lofit"

    folder, apart, texts = LOFIT, True, ()

    def cells(self, part: Part, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        (task,), (settings,) = part.tasks, part.sized(heads).values()
        return lofit_cells(task, settings, self.heads, self.random_draws, settings.batch_size)

    def run(self, part: Part, model: TransformerBridge, store: Store, **how: Any) -> None:
        (task,), (settings,) = part.tasks, part.sized(heads_of(model)).values()
        del how["on_run"]
        lofit(
            model, task, k=settings.k, heads=self.heads, selection=settings.selection,
            tuning=settings.tuning, random_draws=self.random_draws,
            batch_size=settings.batch_size, out=store, **how,
        )  # fmt: skip


class Causal(Experiment, frozen=True, kw_only=True, tag="causal"):
    """Through which of the heads that a `lofit` experiment chose its edit works.

    Models, tasks and seeds are those of that experiment.

    Attributes:
        of: Name of that experiment.
        random_draws: Random rankings of the same layers.
        ablation: What ablated heads give; default "unedited", or "mean" without the edit.
        edit: Whether the edit is explained, or the model as it is.
        ks: Numbers of heads; default 0, 1, 2, 4, 8, … and all.
    """

    of: str = "lofit"
    random_draws: int = 5
    ablation: Ablation | None = None
    edit: bool = True
    ks: tuple[int, ...] | None = None

    folder, apart, texts = CURVES, True, ()

    def cells(self, part: Part, heads: HeadGrid, study: Path | None = None) -> list[Cell]:
        edit = _any_edit(part, heads) if study is None else part.edit_in(study)
        batch_size = part.batch_size(heads)
        given = {"compat": None, "split": "test", "seed": part.seeds[0], "batch_size": batch_size}
        return causal_plan(part.tasks[0], edit.heads, **self._of(edit), **given).cells  # pyright: ignore[reportArgumentType]

    def run(self, part: Part, model: TransformerBridge, store: Store, **how: Any) -> None:
        assert store.path is not None
        del how["on_run"], how["together"]
        edit = part.edit_in(store.path.parent)
        found = causal_curves(
            model, part.tasks[0], edit.heads, **self._of(edit), seed=part.seeds[0],
            batch_size=part.batch_size(heads_of(model)), out=store, **how,
        )  # fmt: skip
        write_results(store, found.frame(), {"causal.html": found.plot()})

    def _of(self, edit: HeadIntervention) -> dict[str, Any]:
        explained = edit if self.edit else None
        own = {"ks": self.ks, "ablation": self.ablation, "draws": self.random_draws}
        return {"edit": explained, **own}


def _any_edit(part: Part, heads: HeadGrid) -> HeadIntervention:
    """An edit of as many heads, spread over the layers, where the real one is not there yet."""
    (settings,) = part.settings(heads).values()
    k = settings.n_heads(heads)
    rows = range(heads.n_heads)
    spread = [Head(layer, row) for row in rows for layer in heads.layers]
    return HeadIntervention(HeadSet(spread[:k], **heads.shape), bias=torch.zeros(k, 1))


KINDS: tuple[type[Experiment], ...] = (
    Compare, Transfer, SweepExamples, SweepHeads, Lofit, Causal,
)  # fmt: skip
"""The kinds: to add one, write a class with `cells` and `run`, and name it here."""

BY_NAME = {str(kind.__struct_config__.tag): kind for kind in KINDS}
"""The same by the name in a file."""
