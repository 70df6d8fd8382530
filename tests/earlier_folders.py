"""Folders as earlier versions wrote them, from today's results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.demo import Demo
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.study.experiment_folder import command_line, rows_of
from lofit_lens.analysis.study.keys import plain
from lofit_lens.analysis.study.record import Record
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.files import write_json_gz
from lofit_lens.head_scores import HeadScores

AllScores = Mapping[str, Mapping[int, HeadScores]]


def write_comparison(path: Path, found: Comparison) -> None:
    files = _write_runs(path / "records", found.runs)
    told = {"command_line": command_line(), "runs": files, "base": found.base}
    _mark(path / "comparison.json", told | {"table": rows_of(found.frame())})


def write_transfer(path: Path, found: TransferMatrix, scores: AllScores, **request: Any) -> None:
    write_transfer_records(path / "records", found)
    write_scores(path / "scores", scores)
    told = {"schema": 1, **request, "command_line": command_line()}
    _mark(path / "transfer.json", told | {"table": rows_of(found.frame(zero_shot=True))})


def write_sweep(path: Path, found: Sweep) -> None:
    files = {}
    for x, comparison in found.comparisons.items():
        own = {"data_hash": f"of {x}"}  # zero-shot told it too
        runs = tuple(replace(run, protocol={**run.protocol, **own}) for run in comparison.runs)
        files[x] = _write_runs(path / f"{found.swept}-{x}", runs)
    told = {"schema": 1, "swept": found.swept, "n_heads": found.n_heads, "runs": files}
    _mark(path / "sweep.json", told)


def write_demo(path: Path, found: Demo, edits: Mapping[str, HeadIntervention]) -> None:
    for fraction, matrix in found.matrices.items():
        write_transfer_records(path / "records" / "runs" / f"{fraction:g}", matrix)
    write_scores(path / "records" / "scores", found.scores)
    for task, edit in edits.items():
        edit.save(path / "records" / "edits" / plain(task))
    told = {
        "size": {"fractions": list(found.matrices), "seeds": [7, 42]},
        "versions": {"torch": "2"},
        "command_line": command_line(),
        "seconds": 12.3,
        "table": rows_of(found.frame()),
        "transfer": {},
        "sample": asdict(found.sample),
    }
    _mark(path / "demo.json", told)


def write_transfer_records(path: Path, found: TransferMatrix) -> None:
    for place, run in enumerate(found.runs):
        assert run.heads is not None
        content = {
            "schema": 2,
            "source": run.source,
            "task": run.fold,
            "seed": run.seed,
            "heads": run.heads.to_json(),
            "evaluation": run.evaluation.to_json(),
            "config": None,
        }
        name = f"{place:03}-{plain(str(run.source))}-on-{plain(run.fold)}-{run.seed}.json.gz"
        write_json_gz(path / name, content)
    for place, (task, evaluation) in enumerate(found.zero_shot.items()):
        evaluation.save(path / f"zero-shot-{place:03}-{plain(task)}.json.gz")


def write_scores(path: Path, scores: AllScores) -> None:
    for task, by_seed in scores.items():
        for seed, found in by_seed.items():
            found.save(path / f"{plain(task)}-{seed}.json")


def write_run(path: Path, run: Record, place: int = 0) -> str:
    """A run of a comparison; returns the name of its file."""
    content = {
        "schema": 1,
        "method": run.method,
        "task": run.task,
        "fold": run.fold,
        "seed": run.seed,
        "cost": asdict(run.cost),
        "side_effects": dict(run.side_effects),
        "choices": dict(run.choices),
        "heads": None if run.heads is None else [list(head) for head in run.heads],
        "answers": list(run.answers),
        "protocol": dict(run.protocol),
        "evaluation": run.evaluation.to_json(),
    }
    name = f"{place:04}-{plain(run.method)}-on-{plain(run.fold)}-{run.seed}.json.gz"
    write_json_gz(path / name, content)
    return name


def _write_runs(path: Path, runs: tuple[Record, ...]) -> list[str]:
    return [write_run(path, run, place) for place, run in enumerate(runs)]


def _mark(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
