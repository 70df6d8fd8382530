from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, wasserstein_distance

from lofit_lens.analysis import published
from lofit_lens.analysis.figures.overlap import pair_maps
from lofit_lens.analysis.inside.overlap import head_overlap
from lofit_lens.analysis.inside.ranks import rank_stability
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet

SHAPE: Any = {"n_layers": 5, "n_heads": 4}


def drawn(*seeds: int, k: int = 6) -> list[HeadSet]:
    return [HeadSet.random(k, **SHAPE, seed=seed) for seed in seeds]


def rows(frame: Any, **where: str) -> list[dict[str, Any]]:
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame.to_dict("records")


def by_cdf(a: HeadSet, b: HeadSet) -> float:
    """Earth mover's distance by hand: the area between the cumulative shares of two sets."""
    layers = range(a.n_layers)
    ours, theirs = (
        [sum(head.layer <= layer for head in s) / len(s) for layer in layers] for s in (a, b)
    )
    return sum(abs(x - y) for x, y in zip(ours, theirs, strict=True))


def in_layers(counts: dict[int, int], n_layers: int, n_heads: int) -> HeadSet:
    pairs = [(layer, head) for layer, n in counts.items() for head in range(n)]
    return HeadSet(pairs, n_layers=n_layers, n_heads=n_heads)


def test_a_pair_of_tasks_is_the_mean_least_and_most_over_every_pair_of_their_sets() -> None:
    a, b = drawn(0, 1, 2), drawn(3, 4)
    pairs = [(set(x.heads), set(y.heads)) for x in a for y in b]
    expected = {
        "overlap": [len(x & y) / len(x) for x, y in pairs],
        "jaccard": [len(x & y) / len(x | y) for x, y in pairs],
        "layer distance": [by_cdf(x, y) for x in a for y in b],
    }
    frame = head_overlap({"a": a, "b": b}).frame()
    for measure, values in expected.items():
        (row,) = rows(frame, measure=measure, first="a", second="b")
        numbers = [row[name] for name in ("value", "low", "high", "pairs")]
        assert numbers == pytest.approx([np.mean(values), min(values), max(values), 6])


def test_a_task_with_itself_is_its_pairs_of_seeds() -> None:
    sets = drawn(0, 1, 2, 3)
    frame = head_overlap({"a": sets}).frame()
    masks = [np.asarray(s.mask()) for s in sets]
    expected = [(x & y).sum() / (x | y).sum() for x, y in combinations(masks, 2)]
    (row,) = rows(frame, measure="jaccard", first="a", second="a")
    assert (row["value"], row["pairs"]) == (pytest.approx(np.mean(expected)), 6)
    assert (row["low"], row["high"]) == pytest.approx((min(expected), max(expected)))


def test_one_seed_has_no_pairs_and_the_figure_says_so() -> None:
    found = head_overlap({"a": drawn(0)[0]})
    for row in rows(found.frame(), second="a"):
        assert row["pairs"] == 0
        assert np.isnan([row["value"], row["low"], row["high"]]).all()
    figure: Any = found.plot()
    assert figure.data[0].text[0][0] == "one seed"


def test_equal_sets_share_everything_at_no_distance() -> None:
    frame = head_overlap({"a": drawn(0), "b": drawn(0)}).frame()
    found = {row["measure"]: row["value"] for row in rows(frame, first="a", second="b")}
    assert found == {"overlap": 1, "jaccard": 1, "layer distance": 0}


@pytest.mark.parametrize("seed", range(5))
def test_the_layer_distance_is_scipys_on_the_layers_and_on_their_histogram(seed: int) -> None:
    (a,), (b,) = drawn(seed), drawn(seed + 100)
    frame = head_overlap({"a": a, "b": b}).frame()
    (row,) = rows(frame, measure="layer distance", first="a", second="b")
    layers = np.arange(5)
    weighted = wasserstein_distance(layers, layers, a.layer_counts(), b.layer_counts())
    assert row["value"] == pytest.approx(weighted, abs=1e-12)
    assert row["value"] == pytest.approx(by_cdf(a, b), abs=1e-12)


def test_the_papers_distances_between_tasks_follow_from_its_counts_by_layer() -> None:
    shapes = {"gemma-7b": (28, 16), "llama2-7b": (32, 32), "llama2-13b": (40, 40)}
    counts = published.figure_3()
    for model, shape in shapes.items():
        panels = counts[counts["model"] == model].groupby("task", sort=False)
        heads = {
            str(task): in_layers(dict(zip(panel["layer"], panel["heads"], strict=True)), *shape)
            for task, panel in panels
        }
        frame = head_overlap(heads).frame()
        printed = published.figure_6()
        for first, second in combinations(published.TASKS, 2):
            where = {"measure": "layer distance", "first": first, "second": second}
            (ours,), (theirs,) = rows(frame, **where), rows(printed, model=model, **where)
            assert ours["value"] == pytest.approx(theirs["value"], abs=0.0051)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_chance_is_the_mean_over_every_set_there_is(k: int) -> None:
    everything = HeadSet.every(n_layers=3, n_heads=2).heads
    every = [HeadSet(s, n_layers=3, n_heads=2) for s in combinations(everything, k)]
    first = every[0]
    frame = head_overlap({"a": first}).frame()
    beside = {row["measure"]: row["value"] for row in rows(frame, second="random")}
    chance = {row["measure"]: row["chance"] for row in rows(frame, second="random")}
    shared = [len(set(first.heads) & set(s.heads)) for s in every]
    assert chance["overlap"] == pytest.approx(np.mean(shared) / k)
    assert chance["jaccard"] == pytest.approx(np.mean([n / (2 * k - n) for n in shared]))
    assert beside["overlap"] == chance["overlap"] and beside["jaccard"] == chance["jaccard"]
    assert beside["layer distance"] == pytest.approx(np.mean([by_cdf(first, s) for s in every]))
    both = np.mean([by_cdf(a, b) for a in every for b in every])
    assert chance["layer distance"] == pytest.approx(both)


def test_a_model_of_one_layer_has_no_distance_of_layers() -> None:
    heads = HeadSet([(0, 1), (0, 2)], n_layers=1, n_heads=4)
    found = rows(head_overlap({"a": heads}).frame(), measure="layer distance", second="random")
    assert [(row["value"], row["chance"]) for row in found] == [(0, 0)]


def test_sets_of_other_size_or_model_are_refused_with_a_reason() -> None:
    with pytest.raises(LofitLensError, match=r"differ in size: a 6, b 3.*which comes first"):
        head_overlap({"a": drawn(0), "b": drawn(0, k=3)})
    other = HeadSet.random(6, n_layers=5, n_heads=8, seed=0)
    with pytest.raises(ModelMismatchError, match="a 5x4, b 5x8"):
        head_overlap({"a": drawn(0), "b": other})
    with pytest.raises(LofitLensError, match="no heads for 'a'"):
        head_overlap({"a": []})
    with pytest.raises(LofitLensError, match=r'No task may be named "random".*got a, random'):
        head_overlap({"a": drawn(0), "random": drawn(1)})


def test_the_figure_is_a_triangle_with_random_heads_as_its_last_row() -> None:
    found = head_overlap({"a": drawn(0, 1), "b": drawn(2, 3)})
    figure: Any = found.plot()
    overlap, distance = figure.data
    assert list(overlap.x) == ["a", "b"] and list(overlap.y) == ["a", "b", "random"]
    frame = found.frame()
    for trace, measure in ((overlap, "overlap"), (distance, "layer distance")):
        for row in rows(frame, measure=measure):
            place = list(trace.y).index(row["second"]), list(trace.x).index(row["first"])
            assert trace.z[place] == row["value"]
            assert trace.text[place].startswith(f"{row['value']:.2f}")
        assert np.isnan(trace.z[0, 1]) and trace.text[0, 1] == ""
    assert "two random sets: 0.3" in overlap.hovertext[1, 0]


def test_figure_6_of_the_paper_is_drawn_by_the_same_function() -> None:
    printed = published.figure_6()
    figure: Any = pair_maps(printed, title="of the paper")
    panels = product(published.MODELS, ("overlap", "layer distance"))
    traces: dict[Any, Any] = dict(zip(panels, figure.data, strict=True))
    for row in printed.itertuples():
        trace = traces[row.model, row.measure]
        cell = list(trace.y).index(row.second), list(trace.x).index(row.first)
        assert trace.z[cell] == row.value
        assert trace.text[cell] == f"{row.value:.2f}"
    assert all(np.isnan(trace.z).sum() == 3 for trace in figure.data)


def test_an_overlap_is_shown_by_task_and_measure() -> None:
    found = head_overlap({"a": drawn(0, 1), "b": drawn(2)})
    assert repr(found) == "HeadOverlap(6 heads each; a, seeds: 2, b, seeds: 1)"
    assert "<th>layer distance</th>" in found._repr_html_()


def scores(seed: int, *, n_heads: int = 4) -> HeadScores:
    generator = torch.Generator().manual_seed(seed)
    return HeadScores(torch.randn(5, n_heads, generator=generator))


def test_rank_correlations_are_those_of_the_ranks_of_all_heads() -> None:
    given = {"a": {42: scores(0), 43: scores(1), 44: scores(2)}, "b": {42: scores(3)}}
    frame = rank_stability(given).frame()
    flat = [s.scores.numpy().ravel() for s in given["a"].values()]
    pearson = [np.corrcoef(rankdata(x), rankdata(y))[0, 1] for x, y in combinations(flat, 2)]
    (row,) = rows(frame, measure="spearman", first="a", second="a")
    assert (row["value"], row["pairs"]) == (pytest.approx(np.mean(pearson)), 3)
    assert (row["low"], row["high"]) == pytest.approx((min(pearson), max(pearson)))
    other = given["b"][42].scores.numpy().ravel()
    (row,) = rows(frame, measure="kendall", first="a", second="b")
    concordant = np.mean(
        [np.mean([np.sign((x[i] - x[j]) * (other[i] - other[j])) for i, j in PAIRS]) for x in flat]
    )
    assert row["value"] == pytest.approx(concordant)
    (row,) = rows(frame, measure="kendall", first="b", second="b")
    assert row["pairs"] == 0 and np.isnan(row["value"])


PAIRS = list(combinations(range(20), 2))


def test_the_curve_is_the_overlap_of_the_sets_that_would_be_chosen() -> None:
    given = {"a": {42: scores(0), 43: scores(1)}, "b": {42: scores(2)}}
    curve = rank_stability(given).curve()
    for k in (1, 3, 10, 20):
        chosen = {task: [s.top(k=k) for s in seeds.values()] for task, seeds in given.items()}
        overlap = head_overlap(chosen).frame()
        for first, second in (("a", "a"), ("a", "b")):
            (ours,) = rows(curve[curve["k"] == k], first=first, second=second)
            (theirs,) = rows(overlap, measure="overlap", first=first, second=second)
            names = ["value", "low", "high", "pairs", "chance"]
            assert [ours[n] for n in names] == pytest.approx([theirs[n] for n in names])
    assert set(zip(curve["first"], curve["second"], strict=True)) == {("a", "a"), ("a", "b")}


def test_the_curve_is_drawn_for_each_pair_of_tasks_beside_chance() -> None:
    figure: Any = rank_stability({"a": {1: scores(0), 2: scores(1)}, "b": {1: scores(2)}}).plot()
    assert [line.name for line in figure.data] == ["a, seeds", "a, b", "random rankings"]
    assert figure.data[2].y == pytest.approx(np.arange(1, 21) / 20)
    assert len({line.line.dash for line in figure.data[:2]}) == 2
    assert figure.layout.xaxis.type == "log"


def test_rankings_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(LofitLensError, match="no scores for 'a'"):
        rank_stability({"a": {}})
    with pytest.raises(LofitLensError, match=r"no scores\. Give"):
        rank_stability({})
    with pytest.raises(ModelMismatchError, match="a 5x4, b 5x8"):
        rank_stability({"a": {1: scores(0)}, "b": {1: scores(0, n_heads=8)}})
    flat = HeadScores(torch.zeros(5, 4))
    with pytest.raises(LofitLensError, match="the score 0 on 'a' with seed 7"):
        rank_stability({"a": {1: scores(0), 7: flat}})
    with pytest.raises(LofitLensError, match="one ranking"):
        rank_stability({"a": {1: scores(0)}}).plot()
