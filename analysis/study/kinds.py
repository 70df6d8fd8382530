"""Kinds of finished runs: by which files each is known, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.inside.layers import LayerDistribution
from lofit_lens.analysis.kinds.comparison import KIND as COMPARISON
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.curves import CausalCurves
from lofit_lens.analysis.kinds.demo import KIND as DEMO
from lofit_lens.analysis.kinds.lofit import LofitRun
from lofit_lens.analysis.kinds.matrix import KIND as TRANSFER
from lofit_lens.analysis.kinds.matrix import RANDOM, TransferMatrix
from lofit_lens.analysis.kinds.sweep import KIND as SWEEP
from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.methods.names import ALIASES
from lofit_lens.analysis.runs import RUN_FILE, read_heads
from lofit_lens.analysis.study.earlier import earlier_demo
from lofit_lens.analysis.study.lofit_table import lofit_table
from lofit_lens.analysis.study.record import ZERO_SHOT, Record
from lofit_lens.analysis.study.results import Study, joined
from lofit_lens.analysis.study.store import EDITS, RECORDS, Kind, read_records
from lofit_lens.edits.files import DESCRIPTION
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import Provenance

SCORES, CARDS, CURVES = "scores.json", "cards.json", "causal*.json.gz"
LAYERS = "layers*.json"
SCORED = ("zero_shot.json.gz", "tuned.json.gz")


NO_RUN_FILE = f"unfinished or saved in Python: no {RUN_FILE}"


class UnfinishedError(LofitLensError):
    """A run was stopped before its end."""


@dataclass(frozen=True)
class RunKind:
    """A kind of run.

    Attributes:
        what: What makes it.
        files: Patterns of files, any of which it is known by.
        read: Reads it from its folder.
    """

    what: str
    files: tuple[str, ...]
    read: Callable[[Path], Study]

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds one."""
        return any(path.is_file() for pattern in self.files for path in folder.glob(pattern))


def _comparison(folder: Path) -> Study:
    content = _finished(folder, COMPARISON, "runs")
    found = Comparison.load(folder)
    name = folder.resolve().name
    told = {"kind": "comparison", "command_line": content.get("command_line")}
    told |= _protocol(found, found.runs)
    return Study(
        folder, comparisons={name: found}, chosen=_lofit_heads(found), provenance={name: told}
    )


def _sweep(folder: Path) -> Study:
    found = Sweep.load(folder)
    name = folder.resolve().name
    runs = [run for comparison in found.comparisons.values() for run in comparison.runs]
    told = {"kind": f"sweep over {found.swept}", **_protocol(found, runs)}
    return Study(folder, sweeps={name: found}, provenance={name: told})


def _protocol(found: Comparison | Sweep, runs: Sequence[Record]) -> dict[str, Any]:
    """What all runs had in common, and how long they took."""
    first = runs[0].protocol
    return {
        "methods": list(found.methods),
        "tasks": list(found.tasks),
        "seeds": list(found.seeds),
        "model": first.get("model"),
        "settings": {
            f"{run.method} on {run.fold}": run.protocol.get("recipe", run.protocol.get("settings"))
            for run in runs
        },
        "seconds": sum(run.cost.fit_seconds + run.cost.score_seconds for run in runs),
        "versions": first.get("versions", {}),
    }


def _lofit_heads(comparison: Comparison) -> dict[str, dict[int, HeadSet]]:
    """The heads that LoFiT chose."""
    found: dict[str, dict[int, HeadSet]] = {}
    for run in comparison.runs:
        if ALIASES.get(run.method, run.method) == ALIASES["lofit"] and run.heads:
            found.setdefault(run.fold, {})[run.seed] = run.heads
    return found


def _demo(folder: Path) -> Study:
    import pandas as pd

    content, parts = earlier_demo(folder) or _demo_records(folder)
    matrices = {f"{100 * f:g}% of heads": TransferMatrix.of(parts[f]) for f in sorted(parts)}
    last = list(matrices.values())[-1]
    edits = _edits_of(folder, last)
    results = ("table", "transfer", "stability", "overlap", "runs", "schema")
    told = {name: value for name, value in content.items() if name not in results}
    name = folder.resolve().name
    return Study(
        folder,
        matrices=matrices,
        scores=_all_scores(folder, last),
        chosen=_own_heads(last),
        edits=edits,
        tables={name: pd.DataFrame(content["table"])},
        provenance={
            name: {
                "kind": "demo",
                "stages": {task: _stage(edit.provenance) for task, edit in edits.items()},
                **told,
            }
        },
    )


def _demo_records(folder: Path) -> tuple[dict[str, Any], dict[float, list[Record]]]:
    """The marker of a demo, and the records of each of its matrices."""
    content, records = read_records(folder, DEMO)
    untuned = [record for record in records if record.method == ZERO_SHOT]
    parts: dict[float, list[Record]] = {}
    for record in records:
        if record.cut.get("does") == "bias":
            parts.setdefault(record.cut["fraction"], [*untuned]).append(record)
    return content, parts


def _edits_of(folder: Path, matrix: TransferMatrix) -> dict[str, HeadIntervention]:
    """The edit of each task on its own heads, with the first seed."""
    earlier = folder / RECORDS / EDITS  # of earlier versions
    if earlier.is_dir():
        saved = [HeadIntervention.load(path) for path in sorted(earlier.iterdir())]
        return {_task_and_seed(edit.provenance, "")[0]: edit for edit in saved}
    own = [run for run in matrix.runs if run.source == run.fold and run.seed == matrix.seeds[0]]
    places = {run.fold: folder / EDITS / run.name for run in own}
    return {task: HeadIntervention.load(path) for task, path in places.items() if path.is_dir()}


def _transfer(folder: Path) -> Study:
    content = _finished(folder, TRANSFER, "table", "saved", "runs")
    matrix = TransferMatrix.load(folder)
    told = {name: value for name, value in content.items() if name != "table"}
    heads, name = matrix.runs[0].heads, folder.resolve().name
    assert heads is not None
    return Study(
        folder,
        matrices={f"{len(heads)} of {heads.grid.total} heads": matrix},
        scores=_all_scores(folder, matrix),
        chosen=_own_heads(matrix),
        provenance={name: {"kind": "transfer", **told}},
    )


def _all_scores(folder: Path, matrix: TransferMatrix) -> dict[str, dict[int, HeadScores]]:
    """The scores in a folder by task and seed, in the order of a matrix."""
    scores: dict[str, dict[int, HeadScores]] = {task: {} for task in matrix.tasks}
    paths = [*folder.glob("scores/*.json"), *folder.glob("records/scores/*.json")]
    for path in sorted(paths):
        found = HeadScores.load(path)
        task, seed = _task_and_seed(found.provenance, path.stem)
        scores.setdefault(task, {})[seed] = found
    return {task: by_seed for task, by_seed in scores.items() if by_seed}


def _own_heads(matrix: TransferMatrix) -> dict[str, dict[int, HeadSet]]:
    """The heads of each task by seed, from the runs that tuned them."""
    found: dict[str, dict[int, HeadSet]] = {}
    for run in matrix.runs:
        if run.source not in (None, RANDOM) and run.heads is not None:
            found.setdefault(run.source, {})[run.seed] = run.heads
    return found


def _lofit(folder: Path) -> Study:
    """A run of `lofit`, `select` or `tune`: one fold, or one sub-folder a fold."""
    import pandas as pd

    folds = sorted(folder.glob("fold-*")) or [folder]
    found = joined(folder, [_fold(fold) for fold in folds])
    told: dict[str, Any] = {"kind": NO_RUN_FILE}
    if (folder / RUN_FILE).is_file():
        run = _json(folder / RUN_FILE)
        told = {"kind": run["command"], "command_line": run.get("command_line")}
        told |= {key: run[key] for key in ("loaded", "versions")}
    frames = [lofit_table(run) for run in found.runs.values()]
    name = folder.resolve().name
    return replace(
        found,
        tables={name: pd.concat(frames, ignore_index=True)} if frames else {},
        provenance={name: told | {"stages": dict(found.provenance)}},
    )


def _fold(folder: Path) -> Study:
    """What a fold has of the two stages."""
    stages: dict[str, Any] = {}
    scores = chosen = edits = runs = {}
    if (folder / SCORES).is_file():
        found = HeadScores.load(folder / SCORES)
        task, seed = _task_and_seed(found.provenance, folder.name)
        scores = {task: {seed: found}}
        stages[f"selection on {task}"] = _stage(found.provenance)
        if any((folder / name).is_file() for name in (DESCRIPTION, "heads.npy")):
            chosen = {task: {seed: read_heads(folder)}}
    if (folder / DESCRIPTION).is_file():
        edit = HeadIntervention.load(folder)
        task, seed = _task_and_seed(edit.provenance, folder.name)
        edits = {task: edit}
        chosen = chosen or {task: {seed: edit.heads}}
        stages[f"tuning on {task}"] = _stage(edit.provenance)
        if all((folder / name).is_file() for name in (SCORES, *SCORED)):
            runs = {task: LofitRun.load(folder)}
    return Study(folder, scores=scores, chosen=chosen, edits=edits, runs=runs, provenance=stages)


def _task_and_seed(provenance: Provenance | None, name: str) -> tuple[str, int]:
    """What a result was learned on, and with which seed; without a provenance, a name and 0."""
    if provenance is None:
        return name, 0
    return provenance.task, provenance.config.get("seed", 0)


def _stage(provenance: Provenance | None) -> dict[str, Any]:
    """Everything a provenance tells, but for the training curve."""
    told = {} if provenance is None else provenance.to_json()
    return {name: value for name, value in told.items() if name != "history"}


def _finished(folder: Path, kind: Kind, *results: str) -> dict[str, Any]:
    """The marker of a folder that a command fills, if one of its results is there."""
    content = _json(folder / kind.marker)
    if not content.keys() & set(results):
        raise UnfinishedError(
            f"The {kind.name} in {folder} did not finish. Run it again with --overwrite."
        )
    return content


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _cards(folder: Path) -> Study:
    filled = (COMPARISON, DEMO, TRANSFER)
    if (folder / RECORDS).is_dir() and not any((folder / k.marker).exists() for k in filled):
        raise UnfinishedError(
            f"{folder} holds {CARDS} and {RECORDS}, as of a demo, but no {DEMO.marker}. Run `demo` "
            "again in a new folder."
        )
    return Study(folder, cards={folder.resolve().name: HeadCards.load(folder / CARDS)})


def _curves(folder: Path) -> Study:
    found = [CausalCurves.load(path) for path in sorted(folder.glob(CURVES))]
    return joined(folder, [Study(folder, curves={one.task: one}) for one in found])


def _layers(folder: Path) -> Study:
    chosen: dict[str, dict[int, HeadSet]] = {}
    for path in sorted(folder.glob(LAYERS)):
        for task, sets in LayerDistribution.load(path).heads.items():
            chosen[task] = dict(enumerate(sets))
    return Study(folder, chosen=chosen)


KINDS = (
    RunKind("`compare`", (COMPARISON.marker,), _comparison),
    RunKind("`demo`", (DEMO.marker,), _demo),
    RunKind("`transfer`", (TRANSFER.marker,), _transfer),
    RunKind("a sweep", (SWEEP.marker,), _sweep),
    RunKind(
        "`lofit`, `select` or `tune`",
        tuple(place + name for place in ("", "fold-*/") for name in (SCORES, DESCRIPTION)),
        _lofit,
    ),
    RunKind("head cards", (CARDS,), _cards),
    RunKind("causal curves", (CURVES,), _curves),
    RunKind("heads by layer", (LAYERS,), _layers),
)
"""Every kind that a study is read from."""
