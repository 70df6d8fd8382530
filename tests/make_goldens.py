"""The tidy frames of every kind of experiment on the embedded model, kept in `tests/goldens/`.

`python -m tests.make_goldens` writes them all, with names after it only those. What they hold is not
true in itself: it is what the code gave when they were written, so that a change which is not meant
to change results shows where it does. Who means to change results writes them anew and says why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lofit_lens.analysis import (
    SELECTOR_METHODS,
    Comparison,
    Settings,
    causal_curves,
    compare,
    example_sweep,
    head_overlap,
    head_sweep,
    selector_table,
    transfer_matrix,
)
from lofit_lens.analysis.kinds.demo import QUICK, run_demo
from lofit_lens.analysis.kinds.lofit import LofitRun, lofit
from lofit_lens.analysis.measure.side_effects import sample_texts
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.embedded.world import Ability
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.model import load_model
from lofit_lens.tasks import ExactMatch, Task
from lofit_lens.tasks.embedded import embedded

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

FOLDER = Path(__file__).parent / "goldens"

Frames = Mapping[str, "pd.DataFrame"]
Golden = dict[str, dict[str, list[Any]]]
"""Columns and rows of frames, by their names."""

SELECTION_2 = replace(SELECTION, epochs=2)
TUNING_2 = replace(TUNING, epochs=2)
SETTINGS = replace(
    Settings.embedded(k=6), selection=SELECTION_2, tuning=TUNING_2, random_draws=2, batch_size=64
)

ON_HEADS = (*SELECTOR_METHODS, "lofit-scale", "iti")
OTHERS = (
    "attribution/bias", "gates/bias", "random-in-layers", "lofit/mass-mean", "random/probe",
    "repe-reading", "repe-mean", "repe-random", "repe-contrast", "lorra", "lora", "ia3", "red",
    "loreft", "bitfit", "jola", "iti-legacy", "lofit@after_prompt", "iti@iti_compat",
)  # fmt: skip

TIMES = ("fit_seconds", "score_seconds")
"""Columns that are never the same twice."""


@cache
def model() -> TransformerBridge:
    return load_model("embedded", device="cpu", dtype="float32")


@cache
def texts() -> Sequence[Any]:
    return sample_texts(model(), n=8, tokens=16)


@cache
def task(ability: Ability, train: int = 40, val: int = 12, test: int = 40) -> Task:
    """An embedded task with few items, spread over its splits."""
    whole = embedded(ability)
    cut = {
        split: getattr(whole, split)[:: max(1, len(getattr(whole, split)) // n)][:n]
        for split, n in (("train", train), ("val", val), ("test", test))
    }
    scoring = whole.scoring
    if isinstance(scoring, ExactMatch):
        scoring = replace(scoring, max_new_tokens=4)
    return replace(whole, **cut, val_as_test=cut["val"], scoring=scoring)


@cache
def compared() -> Comparison:
    """Methods on heads, two tasks, two seeds."""
    return compare(
        model(), [task("truth"), task("kinship")], ON_HEADS,
        seeds=(42, 43), settings=SETTINGS, texts=texts(), progress=False,
    )  # fmt: skip


@cache
def lofit_run(ability: Ability = "kinship") -> LofitRun:
    return lofit(
        model(), task(ability),
        k=6, selection=SELECTION_2, tuning=TUNING_2, random_draws=2, batch_size=64, progress=False,
    )  # fmt: skip


def demo() -> Frames:
    with tempfile.TemporaryDirectory() as folder:
        found = run_demo(model(), QUICK, Path(folder), progress=False)
    frames = {"table": found.frame(), "overlap": head_overlap(found.layers.heads).frame()}
    for share, matrix in found.matrices.items():
        frames[f"transfer {share:g}"] = matrix.frame(zero_shot=True)
        frames[f"scale {share:g}"] = found.scale[share].frame(zero_shot=True)
    for name, seeds in found.scores.items():
        frames |= {f"scores {name} {seed}": scores.frame() for seed, scores in seeds.items()}
    return frames


def comparison() -> Frames:
    return {"frame": compared().frame(), "choices": compared().choices()}


def rivals() -> Frames:
    found = compare(
        model(), [task("truth")], OTHERS,
        seeds=(42,), settings=replace(SETTINGS, kl_budget=0.05, random_draws=1), texts=texts(), n_answers=2,
        progress=False,
    )  # fmt: skip
    return {"frame": found.frame(), "choices": found.choices()}


def selectors() -> Frames:
    return {"table": selector_table(compared()).frame()}


def transfer() -> Frames:
    tasks = [task("truth"), task("kinship"), task("edit")]
    shared: dict[str, Any] = {"selection": SELECTION_2, "batch_size": 64, "progress": False}
    fixed = transfer_matrix(
        model(), tasks, seeds=(42, 43), k=6, random_draws=2, tuning=TUNING_2, **shared
    )
    auto = transfer_matrix(
        model(), tasks[1:2],
        seeds=(42,), k=6, tuning=replace(TUNING_2, learning_rate="auto", epochs=1), **shared,
    )  # fmt: skip
    return {
        "fixed rate": fixed.frame(zero_shot=True),
        "chosen rate": auto.frame(zero_shot=True),
    }


def sweeps() -> Frames:
    shared: dict[str, Any] = {"texts": texts(), "progress": False}
    by_examples = example_sweep(
        model(), [task("truth")], (10, 40),
        methods=("lofit", "red"), seeds=(42,), settings=SETTINGS, **shared,
    )  # fmt: skip
    by_heads = head_sweep(
        model(), [task("kinship")], (0.03, 0.1),
        methods=("lofit", "random-heads", "probes/bias", "iti"), seeds=(42,),
        settings=replace(SETTINGS, k=None), **shared,
    )  # fmt: skip
    return {"examples": by_examples.frame(), "heads": by_heads.frame()}


def lofit_frames() -> Frames:
    run = lofit_run()
    frame = run.frame()
    own = frame[~frame["method"].str.startswith("random")]
    return {"frame": own, "scores": run.scores.frame(), "heads": run.heads.frame()}


def lofit_random() -> Frames:
    """The random heads of `lofit`, where they score more than nothing."""
    frame = lofit_run("truth").frame()
    return {"frame": frame[frame["method"].str.startswith("random")]}


@cache
def _curves() -> Frames:
    run, cut = lofit_run(), task("kinship")
    shared: dict[str, Any] = {"draws": 3, "batch_size": 64, "progress": False}
    of_model = causal_curves(model(), task("truth"), run.scores.ranking(), ks=(0, 2, 16), **shared)
    of_edit = causal_curves(model(), cut, run.heads, edit=run.intervention, ks=(0, 1, 6), **shared)
    return {"model": of_model.frame(), "edit": of_edit.frame()}


def causal() -> Frames:
    """Chosen heads alone, as far as they do not depend on the random ones."""
    kept = ["curve", "heads", "k", "metric", "value", "low", "high", "n"]
    return {name: f[f["heads"] == "chosen"][kept] for name, f in _curves().items()}


def causal_random() -> Frames:
    """Random heads, and chosen ones against them; apart as those of `lofit` are."""
    return _curves()


KINDS: dict[str, Callable[[], Frames]] = {
    "demo": demo,
    "comparison": comparison,
    "rivals": rivals,
    "selectors": selectors,
    "transfer": transfer,
    "sweeps": sweeps,
    "lofit": lofit_frames,
    "lofit-random": lofit_random,
    "causal": causal,
    "causal-random": causal_random,
}


def made(kind: str) -> Golden:
    """The frames of a kind as the code makes them now, as plain values."""
    found = {}
    for name, frame in KINDS[kind]().items():
        frame = frame.drop(columns=list(TIMES), errors="ignore")
        rows = frame.astype(object).to_numpy().tolist()
        found[name] = {"columns": list(map(str, frame.columns)), "rows": rows}
    return json.loads(json.dumps(found))


def stored(kind: str) -> Golden:
    """The frames of a kind as they were."""
    return read_json_gz(FOLDER / f"{kind}.json.gz", dict, what="golden frames")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or KINDS:
        write_json_gz(FOLDER / f"{name}.json.gz", made(name))
