"""The head cards of a study, and which tasks chose a head."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.inside.explorer.by_task import scores_by_task
from lofit_lens.analysis.inside.explorer.card import HeadEdit
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import Head

if TYPE_CHECKING:
    from lofit_lens.analysis.reading.study import Study
    from lofit_lens.identity import Fingerprint

Choices = dict[Head, dict[str, list[int]]]
"""For each head the tasks that chose it, with the seeds."""


def cards_of(study: Study) -> dict[str, HeadCards]:
    """The cards of a study by name of the run and model.

    Without any, what scores and edits tell without the model, by the heads of the model.
    """
    if study.cards:
        return {f"{name}: {_model(cards)}": cards for name, cards in study.cards.items()}
    scores: dict[HeadGrid, dict[str, dict[int, Any]]] = defaultdict(dict)
    for task, by_seed in study.scores.items():
        first = next(iter(by_seed.values()))
        scores[first.grid][task] = dict(by_seed)
    edits: dict[HeadGrid, list[HeadEdit]] = defaultdict(list)
    for task, edit in study.edits.items():
        edits[edit.heads.grid] += [
            HeadEdit(Head(row["layer"], row["head"]), task, row["bias_norm"], row["scale_norm"])
            for row in edit.frame().to_dict("records")
        ]
    names = {(mark.n_layers, mark.n_heads): mark.name for mark in _fingerprints(study)}
    found = [
        HeadCards(
            names.get((grid.n_layers, grid.n_heads), "model"),
            **grid.shape,
            scores=scores_by_task(scores[grid], {}, None) if grid in scores else (),
            edits=tuple(edits[grid]),
        )
        for grid in dict.fromkeys((*scores, *edits))
    ]
    return {_model(cards): cards for cards in found}


def chosen_by(study: Study, grid: HeadGrid) -> Choices:
    """Which tasks of a study chose each head of a model."""
    found: Choices = {}
    for task, by_seed in study.chosen.items():
        for seed, heads in by_seed.items():
            for head in heads if heads.grid == grid else ():
                found.setdefault(head, {}).setdefault(task, []).append(seed)
    return found


def _model(cards: HeadCards) -> str:
    return f"{cards.model}, {cards.grid}"


def _fingerprints(study: Study) -> Iterator[Fingerprint]:
    scores = (one for by_seed in study.scores.values() for one in by_seed.values())
    for one in (*scores, *study.edits.values()):
        if one.provenance is not None:
            yield one.provenance.fingerprint
