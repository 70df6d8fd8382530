"""A study made by hand, with names and tokens that would break a careless page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lofit_lens.analysis.inside.explorer.card import HeadAttention, HeadEdit, TaskScores
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.curves import CausalCurves
from lofit_lens.analysis.kinds.lofit import LofitRun
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.study.record import Cost, Record
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import Head, HeadSet
from lofit_lens.scoring.evaluation import Evaluation

NASTY = "<b>x</script><img src=x onerror=alert(1)>"
"""Name of a task."""

TASKS, SEEDS, ITEMS = ("truth", NASTY), (7, 42), 40
N_LAYERS, N_HEADS = 3, 4
BOTH = Head(2, 1)
"""Chosen and edited for both tasks."""

CHOSEN = {
    "truth": {7: [BOTH, Head(0, 3)], 42: [BOTH, Head(1, 0)]},
    NASTY: {7: [Head(1, 2), BOTH], 42: [Head(1, 2), BOTH]},
}
RATES = {"zero-shot": 0.2, "random": 0.3, "own": 0.9, "other": 0.6}


def evaluation(task: str, rate: float, rng: np.random.Generator) -> Evaluation:
    right = rng.uniform(size=ITEMS) < rate
    records = ({"id": f"{task} {i}", "group": "", "MC1": float(r)} for i, r in enumerate(right))
    return Evaluation(task, "test", ("MC1",), tuple(records), {"chance": 0.25})


@cache
def comparison(seeds: tuple[int, ...] = SEEDS) -> Comparison:
    """LoFiT far above zero-shot, ITI about the same."""
    rng = np.random.default_rng(0)
    runs = []
    for task in TASKS:
        zero_shot = evaluation(task, RATES["zero-shot"], rng)
        runs.append(Record("zero-shot", task, task, seeds[0], zero_shot, Cost()))
        for method, rate in (("iti", 0.22), ("lofit", RATES["own"])):
            for seed in seeds:
                cost = Cost(parameters=64, fit_seconds=1.5, fit_tokens=1000)
                scored = evaluation(task, rate, rng)
                runs.append(Record(method, task, task, seed, scored, cost))
    return Comparison(tuple(runs))


@cache
def matrix() -> TransferMatrix:
    """Own heads are best, then those of the other task, then random ones."""
    rng = np.random.default_rng(0)
    runs = []
    for task in TASKS:
        for source in (*TASKS, "random"):
            kind = "own" if source == task else "random" if source == "random" else "other"
            for seed in SEEDS:
                scored = evaluation(task, RATES[kind], rng)
                name, drawn = f"heads of {source}", heads("truth", 7)
                runs.append(Record(name, task, task, seed, scored, heads=drawn, source=source))
    zero_shot = {task: evaluation(task, RATES["zero-shot"], rng) for task in TASKS}
    return TransferMatrix(tuple(runs), zero_shot)


def heads(task: str, seed: int) -> HeadSet:
    return HeadSet(CHOSEN[task][seed], n_layers=N_LAYERS, n_heads=N_HEADS)


def scores(task: str, seed: int) -> HeadScores:
    values = torch.rand(N_LAYERS, N_HEADS, generator=torch.Generator().manual_seed(seed))
    for head in CHOSEN[task][seed]:
        values[head] += 1
    return HeadScores(values)


def edit(task: str) -> HeadIntervention:
    return HeadIntervention(heads(task, 7), bias=torch.full((2, 8), 0.5))


def cards() -> HeadCards:
    """Tokens that are HTML, and attention that the edit moves."""
    tokens = ("<s>", "</script>", " a&b")
    rows = ((1.0,), (0.5, 0.5), (0.2, 0.3, 0.5))
    after = ((1.0,), (0.9, 0.1), (0.2, 0.3, 0.5))
    return HeadCards(
        model="tiny",
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        scores=tuple(
            TaskScores(t, s, tuple(map(tuple, scores(t, s).scores.double().tolist())))
            for t in TASKS
            for s in SEEDS
        ),
        edits=tuple(
            HeadEdit(head, task, 1.4, 0.0, ((" yes", 2.0), ("</script>", 1.0)), ((" no", -2.0),))
            for task in TASKS
            for head in CHOSEN[task][7]
        ),
        attention=(HeadAttention(BOTH, "truth", tokens, rows, after),),
        text="a&b",
    )


def large_cards(n_tasks: int = 1) -> HeadCards:
    """40x40 heads, 160 of them edited for each task, with attention on 64 tokens."""
    rng = np.random.default_rng(0)
    shape, n_tokens = (40, 40), 64
    tokens = tuple(f" t{i}" for i in range(n_tokens))
    names = [f"task {i}" for i in range(n_tasks)]
    scores = rng.uniform(size=(n_tasks, *shape))
    edits, attention = [], []
    for task, of_task in zip(names, scores, strict=True):
        for cell in np.argsort(-of_task, axis=None)[:160].tolist():
            head = Head(*divmod(cell, shape[1]))
            edits.append(HeadEdit(head, task, 1.0, 0.0, ((" yes", 2.0),), ((" no", -2.0),)))
            before, after = (
                tuple(tuple(rng.dirichlet(np.ones(n)).tolist()) for n in range(1, n_tokens + 1))
                for _ in range(2)
            )
            attention.append(HeadAttention(head, task, tokens, before, after))
    tables = tuple(
        TaskScores(task, 42, tuple(map(tuple, of_task.tolist())))
        for task, of_task in zip(names, scores, strict=True)
    )
    return HeadCards("large", *shape, tables, tuple(edits), tuple(attention), "".join(tokens))


def curves() -> CausalCurves:
    """Removing the chosen heads costs more than removing random ones."""
    rng = np.random.default_rng(0)
    scores = {
        curve: (rng.uniform(size=(4, 3, ITEMS)) < 0.5).astype(float)
        for curve in ("necessity", "sufficiency")
    }
    return CausalCurves(
        task=NASTY,
        split="test",
        metric="MC1",
        heads=heads("truth", 7),
        ks=(0, 1, 2),
        ablation="mean",
        scores=scores,  # pyright: ignore[reportArgumentType]
        unedited=np.ones(ITEMS),
        edited=None,
        groups=tuple(map(str, range(ITEMS))),
    )


def run(task: str) -> LofitRun:
    rng = np.random.default_rng(0)
    before, after = (evaluation(task, RATES[kind], rng) for kind in ("zero-shot", "own"))
    return LofitRun(scores(task, 7), edit(task), before, after)


def table() -> pd.DataFrame:
    """As the demo has it."""
    start = {"task": NASTY, "metric": "MC1", "heads": 2.0, "n": ITEMS, "runs": 2}
    own = start | {"method": "LoFiT", "value": 0.9, "low": 0.8, "high": 0.95}
    drawn = start | {"method": "random heads", "value": 0.3, "low": 0.2, "high": 0.4}
    drawn |= {"difference": 0.6, "difference_low": 0.4, "difference_high": 0.7, "p_holm": 0.01}
    floor = {"task": NASTY, "metric": "MC1", "method": "floor: chance", "value": 0.25}
    return pd.DataFrame([floor, own, drawn])


def study(path: Path = Path("a study & more")) -> Study:
    """Everything a study can have."""
    chosen = {task: {seed: heads(task, seed) for seed in SEEDS} for task in TASKS}
    return Study(
        path,
        {
            "comparisons": {"compared": comparison()},
            "transfer matrices": {"10% of heads": matrix()},
            "runs of both stages": {task: run(task) for task in TASKS},
            "sweeps": {"run": Sweep("examples", {8: comparison(), 16: comparison()}, 12)},
            "causal curves": {NASTY: curves()},
            "head cards": {"run": cards()},
        },
        scores={task: {seed: scores(task, seed) for seed in SEEDS} for task in TASKS},
        chosen=chosen,
        edits={task: edit(task) for task in TASKS},
        tables={"run": table()},
        provenance={
            "run": {
                "kind": "demo",
                "command_line": "lofit-lens demo --out 'a study & more' --seeds 2",
                "seconds": 12.5,
                "selection": {"learning_rate": 0.02, "scope": "all", "seeds": [7, 42]},
                "versions": {"torch": "2.13.0"},
                "sample": {"prompt": NASTY},
            }
        },
    )
