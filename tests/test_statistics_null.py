"""With the labels permuted nothing is better than zero-shot, and nothing may be called so.

"Better" is one direction of a two-sided test at 5%, so it may be reported in 2.5% of toy runs, which
is half of what the level allows.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lofit_lens.statistics import holm, paired_difference

TOY_RUNS, SEEDS, ITEMS = 200, 3, 120
MOST = stats.binom.ppf(0.99, TOY_RUNS, 0.025)
EFFECTS = np.array([0.0, 1.5, 0.8, 0.4, -0.4])  # of zero-shot and four methods


def toy(
    rng: np.random.Generator, effects: np.ndarray, *, groups: int, between_seeds: float
) -> tuple[np.ndarray, np.ndarray]:
    """Right/wrong items [label, seed, item], zero-shot first, and the group of each item.

    Items differ in difficulty, groups in difficulty and in what each label does to them, and
    training runs in how well they went. Zero-shot is scored once and broadcast over seeds.
    """
    group = np.repeat(np.arange(groups), ITEMS // groups)
    labels = len(effects)
    shared = rng.normal(size=ITEMS) + 0.7 * rng.normal(size=groups)[group]
    own = (
        rng.normal(size=(labels, 1, ITEMS)) + 0.7 * rng.normal(size=(labels, 1, groups))[..., group]
    )
    run = between_seeds * rng.normal(size=(labels, SEEDS, 1))
    noise = 0.5 * rng.normal(size=(labels, SEEDS, ITEMS))
    # zero-shot has no seeds; its items vary by as much, so that no label is ahead of another
    noise[0] = np.hypot(0.5, between_seeds) / 0.5 * noise[0, 0]
    run[0] = 0.0
    return (effects[:, None, None] + shared + own + run + noise > 0).astype(float), group


def permuted(rng: np.random.Generator, right: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The same scores with the labels of every group of items in an order of its own."""
    labels = np.arange(len(right))[:, None]
    order = rng.permuted(np.tile(labels, group.max() + 1), axis=0)[:, group]
    return np.take_along_axis(right, np.broadcast_to(order[:, None], right.shape), axis=0)


def any_is_better(right: np.ndarray, groups: list[int] | None) -> bool:
    """Whether the comparison table would call a method better than zero-shot."""
    tests = [paired_difference(m, right[0], groups=groups, resamples=999) for m in right[1:]]
    corrected = holm(np.array([test.p for test in tests]))
    return any(p < 0.05 and t.value > 0 for p, t in zip(corrected, tests, strict=True))


@pytest.mark.parametrize("groups", [8, 24, ITEMS])
def test_with_permuted_labels_no_method_is_better_more_often_than_the_level_allows(
    groups: int,
) -> None:
    reported, true = 0, 0
    for seed in range(TOY_RUNS):
        rng = np.random.default_rng(seed)
        right, group = toy(rng, EFFECTS, groups=groups, between_seeds=0.25)
        clusters = group.tolist() if groups < ITEMS else None
        reported += any_is_better(permuted(rng, right, group), clusters)
        true += seed < 20 and any_is_better(right, clusters)
    assert reported <= MOST
    assert true >= 10  # with the true labels the same table does report something


@pytest.mark.parametrize("groups", [8, 24])
def test_methods_as_good_as_zero_shot_with_seeds_that_differ_are_not_better_either(
    groups: int,
) -> None:
    reported = 0
    for seed in range(TOY_RUNS):
        rng = np.random.default_rng(seed)
        right, group = toy(rng, 0 * EFFECTS, groups=groups, between_seeds=0.25)
        reported += any_is_better(right, group.tolist())
    assert reported <= MOST
