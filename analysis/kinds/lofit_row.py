"""Runs of both stages, or of one, in the table of kinds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.kinds.lofit import KIND, LofitRun
from lofit_lens.analysis.reading.folders import SCORES, scores_in, stage, task_and_seed
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study, joined
from lofit_lens.analysis.reporting.section import percent, plotted
from lofit_lens.analysis.runs import RUN_FILE, read_heads, read_run
from lofit_lens.analysis.study.keys import plain
from lofit_lens.analysis.tables.cells import FLOOR
from lofit_lens.edits.files import DESCRIPTION
from lofit_lens.edits.on_heads import HeadIntervention

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lofit_lens.statistics import Estimate

FILES = tuple(place + name for place in ("", "fold-*/") for name in (SCORES, DESCRIPTION))
NO_RUN_FILE = f"unfinished or saved in Python: no {RUN_FILE}"
SCORED = ("zero_shot.json.gz", "tuned.json.gz")


def _read(folder: Path, marker: Marker) -> Study:
    """One fold, or one sub-folder a fold."""
    import pandas as pd

    folds = sorted(folder.glob("fold-*")) or [folder]
    found = joined(folder, [_fold(fold) for fold in folds])
    told: dict[str, Any] = {"kind": NO_RUN_FILE}
    if "runs" in marker:
        told = {"kind": "lofit", "command_line": marker.get("command_line")}
    if (folder / RUN_FILE).is_file():
        run = read_run(folder)
        told = {"kind": run["command"], "command_line": run.get("command_line")}
        told |= {key: run.get(key) for key in ("loaded", "versions")}
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
    scores = scores_in(folder)
    chosen = edits = runs = {}
    for task, by_seed in scores.items():
        for seed, found in by_seed.items():
            stages[f"selection on {task}"] = stage(found.provenance)
            if any((folder / name).is_file() for name in (DESCRIPTION, "heads.npy")):
                chosen = {task: {seed: read_heads(folder)}}
    if (folder / DESCRIPTION).is_file():
        edit = HeadIntervention.load(folder)
        task, seed = task_and_seed(edit.provenance, folder / DESCRIPTION)
        edits = {task: edit}
        chosen = chosen or {task: {seed: edit.heads}}
        stages[f"tuning on {task}"] = stage(edit.provenance)
        if all((folder / name).is_file() for name in (SCORES, *SCORED)):
            runs = {task: LofitRun.load(folder)}
    found = {"runs of both stages": runs} if runs else {}
    return Study(folder, found, scores=scores, chosen=chosen, edits=edits, provenance=stages)


def lofit_table(run: LofitRun) -> pd.DataFrame:
    """The scores of a run in the columns of `LofitRun.frame`, the floors first."""
    import pandas as pd

    scored = run.frame()
    scored["method"] = scored["method"].map(_method)
    start = {"task": run.tuned.task, "metric": run.tuned.metric_names[0]}
    floors = [
        start | {"method": f"{FLOOR}{name}", "value": value}
        for name, value in run.tuned.floors.items()
    ]
    return pd.DataFrame([*floors, *scored.to_dict("records")])


def _bars(run: LofitRun) -> go.Figure:
    """`LofitRun.plot` with the names of the table."""
    figure = run.plot()
    figure.for_each_trace(lambda trace: trace.update(name=_method(trace.name)))
    return figure


def _method(name: str) -> str:
    """zero_shot as zero-shot, random_1 as random heads, draw 1."""
    known = {"zero_shot": "zero-shot", "tuned": "LoFiT"}
    return known.get(name) or name.replace("random_", "random heads, draw ")


def sentence(task: str, run: LofitRun) -> str:
    """The main metric before and after, beside random heads and the floor."""
    metric, tuned = run.tuned.metric_names[0], run.tuned.main
    floor = max(run.tuned.floors.values(), default=-1.0)
    below = f" It is not above the floor of {100 * floor:.1f}%." if floor >= tuned.value else ""
    draws = [f"{100 * found.main.value:.1f}%" for found in run.random.values()]
    beside = f", as many random heads {', '.join(draws)}" if draws else ""
    return (
        f"{task} (n = {tuned.n}): {metric} with {len(run.heads)} tuned heads {_estimate(tuned)}, "
        f"zero-shot {_estimate(run.zero_shot.main)}{beside}.{below}"
    )


def _estimate(found: Estimate) -> str:
    return f"{100 * found.value:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}]"


LOFIT = Row(
    "`lofit`, `select` or `tune`", _read, KIND, FILES,
    drawings=lambda study: {
        f"accuracy-{plain(task)}": partial(_bars, run) for task, run in study.runs.items()
    },
    sections=lambda study: plotted(
        "scores", "Scores",
        {task: (_bars(run), percent(lofit_table(run))) for task, run in study.runs.items()},
        shows=("accuracy",),
    ),
    sentences=lambda study: (sentence(task, run) for task, run in study.runs.items()),
    items=lambda study: {task: len(run.tuned.records) for task, run in study.runs.items()},
)  # fmt: skip
