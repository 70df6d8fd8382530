"""What the folders of several kinds have in common: scores of heads, and what is told of records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lofit_lens.analysis.study.record import Record
from lofit_lens.head_scores import HeadScores
from lofit_lens.provenance import Provenance

SCORES = "scores.json"
_PLACES = (SCORES, "scores/*.json", "records/scores/*.json")
"""Where scores lie: by themselves; in a store; in a demo of earlier versions."""

_RESULTS = {"table", "transfer", "stability", "overlap", "runs", "schema", "kind", "saved"}


def scores_in(folder: Path, tasks: Sequence[str] = ()) -> dict[str, dict[int, HeadScores]]:
    """The scores of heads in a folder by task and seed: LoFiT's, or if there are none those of others.

    Args:
        folder: The folder.
        tasks: Tasks that come first, in this order.
    """
    places = (sorted(folder.glob(pattern)) for pattern in _PLACES)
    paths = next(filter(None, places), [])
    found = [(HeadScores.load(path), path) for path in paths]
    lofit = [(one, path) for one, path in found if one.method == "lofit"]
    scores: dict[str, dict[int, HeadScores]] = {task: {} for task in tasks}
    for one, path in lofit or found:
        task, seed = task_and_seed(one.provenance, path)
        scores.setdefault(task, {})[seed] = one
    return {task: by_seed for task, by_seed in scores.items() if by_seed}


def task_and_seed(provenance: Provenance | None, path: Path) -> tuple[str, int]:
    """What a result was learned on, and with which seed.

    Without a provenance, what the name of its file says; else the name of its folder, and 0.
    """
    if provenance is not None:
        return provenance.task, provenance.config.get("seed", 0)
    named = re.fullmatch(r"(.+)-(\d+)-[0-9a-f]{12}", path.stem)
    return (named[1], int(named[2])) if named else (path.parent.name, 0)


def stage(provenance: Provenance | None) -> dict[str, Any]:
    """Everything a provenance tells, but for the training curve."""
    told = {} if provenance is None else provenance.to_json()
    return {name: value for name, value in told.items() if name != "history"}


def settings_in(marker: Any) -> dict[str, Any]:
    """What a marker tells of the request, without the results."""
    return {name: value for name, value in marker.items() if name not in _RESULTS}


def told_of(records: Sequence[Record]) -> dict[str, Any]:
    """What all records had in common, and how long they took."""
    first = records[0].protocol
    seeds = {record.seed for record in records}
    return {
        "methods": list(dict.fromkeys(record.method for record in records)),
        "tasks": list(dict.fromkeys(record.task for record in records)),
        "seeds": sorted({record.seed for record in records if record.fitted} or seeds),
        "model": first.get("model"),
        "settings": {
            f"{record.method} on {record.fold}": record.protocol.get(
                "recipe", record.protocol.get("settings")
            )
            for record in records
        },
        "seconds": sum(r.cost.fit_seconds + r.cost.score_seconds for r in records),
        "versions": first.get("versions", {}),
    }
