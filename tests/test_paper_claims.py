"""The paper's claims: differences by hand, and verdicts where they must be plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.tables.paper_claims import claims, spoken, verdict_of
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from tests.test_comparison import evaluation, run

ITEMS = 300


def scores(rate: float, seed: int) -> np.ndarray:
    """Right or wrong: the same items for every rate, so that pairs differ by rate alone."""
    hard = np.random.default_rng(0).uniform(size=ITEMS)
    noise = np.random.default_rng(seed).uniform(-0.02, 0.02, size=ITEMS)
    return ((hard + noise) < rate).astype(float)


def comparison(
    rates: Mapping[str, float], tasks: Sequence[str] = ("mquake", "clutrr")
) -> Comparison:
    runs = [run("zero-shot", scores(0.1, 0), task=task, metrics=("EM",)) for task in tasks]
    runs += [
        run(name, scores(rate, seed), task=task, seed=seed, metrics=("EM",))
        for name, rate in rates.items()
        for task in tasks
        for seed in (1, 2)
    ]
    return Comparison(tuple(runs))


def study(**results: Any) -> Study:
    return Study(Path("runs"), results)


def rows(found: Any, claim: str) -> list[dict[str, Any]]:
    return found[found["claim"] == claim].to_dict("records")


def test_a_difference_is_the_mean_over_tasks_beside_that_of_the_paper() -> None:
    table = comparison({"lofit": 0.6, "iti": 0.3, "repe-contrast": 0.599})
    found = claims(study(comparisons={"one": table}))
    iti, repe = rows(found, "steering")
    by_hand = [
        table.table("lofit", task).mean() - table.table("iti", task).mean() for task in table.tasks
    ]
    assert iti["difference"] == pytest.approx(np.mean(by_hand))
    assert iti["difference_low"] < iti["difference"] < iti["difference_high"]
    assert (iti["tasks"], iti["n"], iti["seeds"]) == ("mquake, clutrr", 2 * ITEMS, 2)
    # Table 1: LoFiT minus ITI on MQuAKE, then CLUTRR, of Gemma-7B, Llama 2-7B and Llama 2-13B
    paper = [69.4 - 49.5, 73.4 - 34.5, 76.2 - 40.3, 86.7 - 67.3, 89.7 - 68.2, 89.7 - 72.7]
    assert 100 * iti["paper"] == pytest.approx(np.mean(paper))
    assert iti["verdict"] == "holds"
    assert repe["verdict"] == "open"


def test_verdicts_of_wang_and_veitch_and_of_lora_go_the_other_way() -> None:
    alike = {"lofit": 0.6, "random-heads": 0.6, "lora": 0.6, "red": 0.9, "probes/bias": 0.9}
    found = claims(study(comparisons={"one": comparison(alike)}), margin=0.1)
    assert [row["verdict"] for row in rows(found, "tuning")] == ["holds", "fails"]
    assert [row["verdict"] for row in rows(found, "localization")] == ["holds", "fails"]
    selection = {row["other"]: row["verdict"] for row in rows(found, "selection")}
    assert selection == {"random-heads": "open", "probes/bias": "fails"}


@pytest.mark.parametrize(
    ("asks", "low", "high", "p", "verdict"),
    [
        ("better", 0.01, 0.05, 0.01, "holds"),
        ("better", 0.01, 0.05, 0.2, "open"),
        ("better", -0.05, -0.01, 0.01, "fails"),
        ("on par", -0.019, 0.5, 1.0, "holds"),
        ("on par", -0.03, 0.01, 1.0, "open"),
        ("on par", -0.3, -0.01, 1.0, "fails"),
        ("no better", -0.3, 0.019, 1.0, "holds"),
        ("no better", -0.01, 0.03, 1.0, "open"),
        ("no better", 0.01, 0.03, 1.0, "fails"),
    ],
)
def test_a_verdict_is_read_from_the_interval(
    asks: Any, low: float, high: float, p: float, verdict: str
) -> None:
    assert verdict_of(asks, low, high, p, margin=0.02) == verdict


def transferred(source: str, task: str, rate: float, seed: int) -> Record:
    return replace(run("bias", scores(rate, seed), task=task, seed=seed), source=source)


def test_own_heads_are_held_against_those_of_other_tasks_and_random_ones() -> None:
    tasks = ("a", "b")
    runs = tuple(
        transferred(source, task, 0.6 if source == task else 0.4, seed)
        for source in (*tasks, "random")
        for task in tasks
        for seed in (1, 2)
    )
    matrix = TransferMatrix(runs, {task: evaluation(task, scores(0.1, 0)) for task in tasks})
    other, drawn = rows(claims(study(**{"transfer matrices": {"3%": matrix}})), "own heads")
    by_hand = np.mean([
        matrix.table(t, t).mean() - matrix.table(s, t).mean() for t, s in (("a", "b"), ("b", "a"))
    ])  # fmt: skip
    assert other["difference"] == pytest.approx(by_hand)
    assert (other["verdict"], drawn["verdict"]) == ("holds", "holds")
    assert (other["other"], drawn["other"]) == ("heads of another task", "heads of random")


def test_heads_in_common_are_held_against_the_hypergeometric_distribution() -> None:
    grid: Any = {"n_layers": 10, "n_heads": 10}
    first = HeadSet([(0, i) for i in range(10)], **grid)
    second = HeadSet([(0, i) for i in range(4)] + [(1, i) for i in range(6)], **grid)
    found = Study(Path("runs"), chosen={"a": {1: first, 2: second}})
    (row,) = rows(claims(found), "stability")
    assert row["difference"] == pytest.approx(0.4 - 0.1)
    assert row["p"] == pytest.approx(hypergeom.sf(3, 100, 10, 10))
    assert row["p"] < binom.sf(2, 10, 0.1)
    assert row["verdict"] == "holds"


def test_what_cannot_be_tested_is_said() -> None:
    with pytest.raises(LofitLensError, match="can be tested"):
        claims(study(comparisons={"one": comparison({"bitfit": 0.5})}))
    for margin in (0.0, 1.0, 2.0, float("nan")):
        with pytest.raises(LofitLensError, match="between 0 and 1"):
            claims(study(), margin=margin)


def test_the_words_have_every_claim_once_and_every_verdict() -> None:
    found = claims(study(comparisons={"one": comparison({"lofit": 0.6, "iti": 0.3, "lora": 0.6})}))
    lines = spoken(found).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "LoFiT does better than inference-time interventions (Table 1)",
        "LoFiT is on par with methods that train far more parameters (Table 3)",
    ]
    assert "holds  lofit - iti: +" in lines[1]
