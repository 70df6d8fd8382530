"""Necessity and sufficiency of a ranking of heads, against random heads of the same layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
from torch import Tensor

from lofit_lens.analysis.causal.ablation import ablation_to, mean_z, training_texts
from lofit_lens.analysis.causal.controls import others_like
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.analysis.kinds.curves import ABLATIONS, CURVES, KIND, Ablation, CausalCurves, Curve
from lofit_lens.analysis.methods.steps import Fit, learned_from
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.keys import plain
from lofit_lens.analysis.study.paired import item_groups, main_scores
from lofit_lens.analysis.study.record import ZERO_SHOT
from lofit_lens.analysis.study.run import run_cells
from lofit_lens.analysis.study.step import Step
from lofit_lens.analysis.study.store import Store
from lofit_lens.attention import check_head_shape, heads_of, no_z
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import hash_of
from lofit_lens.errors import LofitLensError, check_seed, check_whole
from lofit_lens.fast.memory import check_batch_size
from lofit_lens.grid import Head, HeadGrid
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def causal_curves(
    model: TransformerBridge,
    task: Task,
    heads: HeadSet,
    *,
    edit: Edit | None = None,
    ks: Sequence[SupportsIndex] | None = None,
    ablation: Ablation | None = None,
    draws: int = 5,
    seed: int = 0,
    split: Literal["test", "val"] = "test",
    compat: str | None = None,
    texts: Sequence[EncodedText] | None = (),
    batch_size: int = 32,
    out: str | Path | Store | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    workers: Executor | int = 1,
    keep_edits: bool = False,
    progress: bool = True,
) -> CausalCurves:
    """How far a score needs the first K heads, and how far they suffice for it, over K.

    Without an edit the question is where the model does the task:

    * necessity: the first K heads are ablated, the others are left alone;
    * sufficiency: all heads of the model but the first K are ablated (the faithfulness of Wang et
      al., 2023, "Interpretability in the wild"). A few heads alone seldom do a task; a ranking of
      all heads, `scores.ranking()`, shows the whole curve.

    With an edit it is through which heads the edit works:

    * necessity: in the edited model the first K heads give what they give in the unedited one
      (`ablation="unedited"`), or are ablated;
    * sufficiency: in the unedited model the first K heads give what they give in the edited one
      (the noising and denoising of Heimersheim and Nanda, 2024, "How to use and interpret
      activation patching").

    An edit of the given heads alone works through them by construction: there the curves say how few
    of them carry it. Of an edit that acts elsewhere too, as LoRA or a residual vector, they say
    whether it goes through these heads at all.

    Random heads are other heads of the same layers, as many in each as of the chosen ones; chosen
    heads are drawn only where a layer has too few others. A draw is one ranking, so its sets are
    nested as the chosen ones are.

    Args:
        model: A bridge from `load_model`, with no edit in force.
        task: The task.
        heads: The heads, best first.
        edit: The edit to explain, one of all token positions; None explains the model.
        ks: Numbers of heads; default 0, 1, 2, 4, 8, … and all.
        ablation: What ablated heads give: "mean" (of the unedited model over the training texts of
            the task; the default without an edit), "zero", or "unedited" (the default with one).
        draws: Random rankings.
        seed: Their seed.
        split: The split scored.
        compat: A scoring rule of the task by name.
        texts: As in `compare`, but by default side effects are not measured.
        batch_size: Sequences per forward pass.
        out: As in `compare`, and so `workers` and `progress`; the curves are written in the end.
        on_failure: Called with the error of a curve that fails; the other one is then alone. None:
            the error is raised.
        keep_edits: Whether the folder keeps the ablations and patches themselves.

    Raises:
        LofitLensError: There are no heads or no draws, `ks` are not rising numbers of heads, or
            the ablation is unknown, or "unedited" without an edit.
        ModelMismatchError: The heads or the edit belong to another model.
        UnsupportedError: The edit spares some token positions.
    """
    check_head_shape(model, heads)
    plan = causal_plan(
        task, heads, edit=edit, ks=ks, ablation=ablation, draws=draws, seed=seed, split=split,
        compat=compat, batch_size=batch_size,
    )  # fmt: skip
    if edit is not None:
        with PatchIntervention(heads, donor=edit).applied(model):
            pass  # refuses what cannot be patched
    store = Store.at(out, KIND)
    records = run_cells(
        Bench.of(model, texts, batch_size=batch_size), plan.cells, store,
        workers=workers, on_failure=on_failure, keep_edits=keep_edits, what="causal", progress=progress,
    )  # fmt: skip
    found = {record.place: main_scores(record.evaluation) for record in records}
    whole = {record.method: record.evaluation for record in records}
    unedited, edited = whole[ZERO_SHOT], whole.get("edited")
    scores: dict[Curve, np.ndarray] = {
        curve: np.stack([found[cell.place] for cell in points]).reshape(1 + draws, len(plan.ks), -1)
        for curve, points in plan.points.items()
        if points[0].place in found
    }
    if not scores:
        raise LofitLensError(f"Both curves on {task.name} failed, so there is nothing to show.")
    curves = CausalCurves(
        task=task.name,
        split=split,
        metric=unedited.metric_names[0],
        heads=heads,
        ks=plan.ks,
        ablation=plan.ablation,
        scores=scores,
        unedited=main_scores(unedited),
        edited=None if edited is None else main_scores(edited),
        groups=tuple(item_groups(unedited)),
    )
    if store.path is not None:
        curves.save(store.path / f"causal-{plain(task.name)}.json.gz")
    store.finish(records)
    return curves


@dataclass(frozen=True, eq=False)
class CausalPlan:
    """The cells of causal curves.

    Attributes:
        ks: Numbers of heads.
        ablation: What ablated heads give.
        points: By curve the cell of each ranking, the chosen heads first, and number of heads; no head
            and all heads of a layer are the same in every ranking, and one cell.
        models: The model as it is, and under the edit if there is one.
    """

    ks: tuple[int, ...]
    ablation: Ablation
    points: Mapping[Curve, Sequence[Cell]]
    models: Sequence[Cell]

    @property
    def cells(self) -> list[Cell]:
        """Every cell once."""
        every = (cell for points in self.points.values() for cell in points)
        return [*{id(cell): cell for cell in every}.values(), *self.models]


def causal_plan(
    task: Task,
    heads: HeadSet,
    *,
    edit: Edit | None,
    ks: Sequence[SupportsIndex] | None,
    ablation: Ablation | None,
    draws: int,
    seed: int,
    split: Literal["test", "val"],
    compat: str | None,
    batch_size: int,
) -> CausalPlan:
    """What `causal_curves` runs; arguments and errors are its own."""
    numbers = _checked_ks(ks, len(heads))
    check_whole("draws", draws, 1)
    check_seed(seed)
    check_batch_size(batch_size)
    ablation = ablation or ("mean" if edit is None else "unedited")
    if ablation not in ABLATIONS or (edit is None and ablation == "unedited"):
        raise LofitLensError(
            f"ablation must be one of {', '.join(ABLATIONS)}, the last only with an edit; got "
            f"{ablation!r} {'without' if edit is None else 'with'} an edit."
        )
    shared: dict[str, Any] = {"split": split, "compat": compat, "must_act": False}
    shared["batch_size"] = batch_size
    rankings = [heads, *(others_like(heads, seed=seed, draw=draw) for draw in range(draws))]
    cells: dict[tuple[Curve, frozenset[Head]], Cell] = {}
    points: dict[Curve, list[Cell]] = {curve: [] for curve in CURVES}
    for curve in CURVES:
        for (draw, ranking), k in product(enumerate(rankings), numbers):
            some = ranking.first(k) if k else ranking - ranking
            recipe = Ablated(curve, some, ablation, edit, batch_size)
            cell = Cell(curve, task, recipe, seed, draw, cut={"k": k}, **shared)
            points[curve].append(cells.setdefault((curve, frozenset(some)), cell))
    models = [Cell(ZERO_SHOT, task, None, seed, **shared)]
    if edit is not None:
        models.append(
            Cell("edited", task, Ablated(None, heads, ablation, edit, batch_size), seed, **shared)
        )
    return CausalPlan(numbers, ablation, points, models)


@dataclass(frozen=True, eq=False)
class Ablated:
    """What the model is scored under at a point of a curve.

    Attributes:
        curve: The curve; None: under the edit alone.
        heads: The heads.
        ablation: What ablated heads give.
        edit: The edit that is explained, if one is.
        batch_size: Sequences per forward pass where means are measured.
    """

    curve: Curve | None
    heads: HeadSet
    ablation: Ablation
    edit: Edit | None
    batch_size: int

    leaky = False

    def told(self) -> Mapping[str, Any]:
        """Curve, heads, ablation and edit."""
        edit = None if self.edit is None else hash_of(self.edit)
        heads = sorted(map(list, self.heads))
        return {"curve": self.curve, "heads": heads, "ablation": self.ablation, "edit": edit}

    depends = told

    def step(self, heads: HeadGrid, task: Task, seed: int, draw: int) -> Step[Fitted]:  # noqa: ARG002
        """Making the edit, from the means of the heads if they give those."""
        means = self.ablation == "mean" and self.curve is not None
        return Fit(task, self, 0, also=(Means(task, self.batch_size),) if means else ())

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:  # noqa: ARG002
        """The edit."""
        if self.curve is None:
            return Fitted(self.edit)
        (outputs,) = given or (no_z(bench.model),)
        if self.curve == "sufficiency":
            if self.edit is not None:
                return Fitted(PatchIntervention(self.heads, donor=self.edit))
            others = HeadSet.every(**heads_of(bench.model).shape) - self.heads
            return Fitted(ablation_to(bench.model, others, outputs))
        if self.ablation == "unedited":
            return Fitted(PatchIntervention(self.heads, base=self.edit))
        ablated = ablation_to(bench.model, self.heads, outputs)
        return Fitted(ablated if self.edit is None else StackedEdits((self.edit, ablated)))


@dataclass(frozen=True, eq=False)
class Means(Step[Tensor]):
    """The mean of `hook_z` of every head over the training texts of a task.

    Attributes:
        task: The task.
        batch_size: Texts per forward pass.
    """

    noun = "means of the heads"

    task: Task
    batch_size: int

    def depends(self) -> Any:
        """The data."""
        return learned_from(self.task)

    def run(self, bench: Bench, *given: Any) -> Tensor:  # noqa: ARG002
        """Measure them."""
        texts = training_texts(bench.model, self.task)
        return mean_z(bench.model, texts, batch_size=self.batch_size)


def _checked_ks(ks: Sequence[SupportsIndex] | None, n: int) -> tuple[int, ...]:
    """Rising numbers of heads out of `n`; by default 0, the powers of two and all."""
    if n == 0:
        raise LofitLensError("There are no heads to put in order. Give a HeadSet, best head first.")
    if ks is None:
        return (0, *(2**i for i in range(n.bit_length()) if 2**i < n), n)
    numbers = tuple(operator.index(k) for k in ks)
    rising = numbers == tuple(sorted(set(numbers)))
    if not numbers or not rising or not 0 <= numbers[0] <= numbers[-1] <= n:
        raise LofitLensError(
            f"ks must be rising numbers of heads from 0 to {n}, such as (0, 1, {n}); got {numbers}."
        )
    return numbers
