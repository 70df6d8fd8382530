"""Necessity and sufficiency of a ranking of heads, against random heads of the same layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, SupportsIndex

import numpy as np

from lofit_lens.analysis.causal.ablation import ablation_to, mean_z, training_texts
from lofit_lens.analysis.causal.controls import others_like
from lofit_lens.analysis.causal.patching import PatchIntervention, check_all_positions
from lofit_lens.analysis.causal.results import ABLATIONS, CURVES, Ablation, CausalCurves, Curve
from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.analysis.study.paired import item_groups, main_scores
from lofit_lens.attention import check_head_shape, heads_of, no_z
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import Head, HeadSet
from lofit_lens.progress import long_bar
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Task

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
    batch_size: int = 32,
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
        seed: Seed of the first; those that follow count on.
        split: The split scored.
        compat: A scoring rule of the task by name.
        batch_size: Sequences per forward pass.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: There are no heads or no draws, `ks` are not rising numbers of heads, or
            the ablation is unknown, or "unedited" without an edit.
        ModelMismatchError: The heads or the edit belong to another model.
        UnsupportedError: The edit spares some token positions.
    """
    check_head_shape(model, heads)
    numbers = _checked_ks(ks, len(heads))
    if draws < 1:
        raise LofitLensError(f"draws must be 1 or more, got {draws}.")
    ablation = ablation or ("mean" if edit is None else "unedited")
    if ablation not in ABLATIONS or (edit is None and ablation == "unedited"):
        raise LofitLensError(
            f"ablation must be one of {', '.join(ABLATIONS)}, the last only with an edit; got "
            f"{ablation!r} {'without' if edit is None else 'with'} an edit."
        )
    check_all_positions(model, edit)
    make = _edits(model, task, edit, ablation, batch_size=batch_size)
    rankings = [heads, *(others_like(heads, seed=seed + draw) for draw in range(draws))]
    found: dict[tuple[Curve, frozenset[Head]], np.ndarray] = {}

    def scored(in_force: Edit | None) -> Evaluation:
        return evaluate(
            model, task, in_force, split=split, compat=compat, batch_size=batch_size, progress=False
        )

    plan: list[tuple[Curve, HeadSet]] = [
        (curve, ranking.first(k) if k else ranking - ranking)
        for curve in CURVES
        for ranking in rankings
        for k in numbers
    ]
    distinct: dict[tuple[Curve, frozenset[Head]], HeadSet] = {}
    for curve, some in plan:  # no head and all heads of a layer are the same in every draw
        distinct.setdefault((curve, frozenset(some)), some)
    with long_bar(distinct, "causal", progress=progress) as bar:
        for key, some in distinct.items():
            found[key] = main_scores(scored(make(key[0], some)))
            bar.update()
    unedited = scored(None)
    shape = len(CURVES), len(rankings), len(numbers), -1
    table = np.stack([found[curve, frozenset(some)] for curve, some in plan]).reshape(shape)
    return CausalCurves(
        task=task.name,
        split=split,
        metric=unedited.metric_names[0],
        heads=heads,
        ks=numbers,
        ablation=ablation,
        scores=dict(zip(CURVES, table, strict=True)),
        unedited=main_scores(unedited),
        edited=None if edit is None else main_scores(scored(edit)),
        groups=tuple(item_groups(unedited)),
    )


def _edits(
    model: TransformerBridge, task: Task, edit: Edit | None, ablation: Ablation, *, batch_size: int
) -> Callable[[Curve, HeadSet], Edit]:
    """What the model is scored under, by curve and heads."""
    every = HeadSet.every(**heads_of(model).shape)
    outputs = no_z(model)
    if ablation == "mean":
        outputs = mean_z(model, training_texts(model, task), batch_size=batch_size)

    def make(curve: Curve, some: HeadSet) -> Edit:
        if curve == "sufficiency":
            if edit is None:
                return ablation_to(model, every - some, outputs)
            return PatchIntervention(some, donor=edit)
        if ablation == "unedited":
            return PatchIntervention(some, base=edit)
        ablated = ablation_to(model, some, outputs)
        return ablated if edit is None else StackedEdits((edit, ablated))

    return make


def _checked_ks(ks: Sequence[SupportsIndex] | None, n: int) -> tuple[int, ...]:
    """Rising numbers of heads out of `n`; by default 0, the powers of two and all.

    Raises:
        LofitLensError: There are no heads, or the numbers are none, out of range or do not rise.
    """
    if n == 0:
        raise LofitLensError("There are no heads to put in order. Give a HeadSet, best head first.")
    if ks is None:
        return (0, *(2**i for i in range(n.bit_length()) if 2**i < n), n)
    numbers = tuple(operator.index(k) for k in ks)
    if (
        not numbers
        or numbers != tuple(sorted(set(numbers)))
        or not 0 <= numbers[0] <= numbers[-1] <= n
    ):
        raise LofitLensError(
            f"ks must be rising numbers of heads from 0 to {n}, such as (0, 1, {n}); got {numbers}."
        )
    return numbers
