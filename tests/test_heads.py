from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import Head, HeadSet, number_of_heads

LAYERS, HEADS = 4, 3
Pairs = list[tuple[int, int]]
PAIRS = st.lists(st.tuples(st.integers(0, LAYERS - 1), st.integers(0, HEADS - 1)), unique=True)


def head_set(*pairs: tuple[int, int]) -> HeadSet:
    return HeadSet(pairs, n_layers=LAYERS, n_heads=HEADS)


@settings(deadline=None)
@given(PAIRS, PAIRS)
def test_set_operations_keep_the_order_of_the_left_set_first(left: Pairs, right: Pairs) -> None:
    a, b = head_set(*left), head_set(*right)
    assert list(a | b) == list(dict.fromkeys(left + right))
    assert list(a & b) == [pair for pair in left if pair in right]
    assert list(a - b) == [pair for pair in left if pair not in right]


@settings(deadline=None)
@given(PAIRS, PAIRS)
def test_jaccard_is_intersection_over_union(left: Pairs, right: Pairs) -> None:
    a, b = head_set(*left), head_set(*right)
    either = set(left) | set(right)
    assert a.jaccard(b) == (len(set(left) & set(right)) / len(either) if either else 1.0)
    assert a.jaccard(b) == b.jaccard(a)
    assert a.jaccard(a) == 1.0


@settings(deadline=None)
@given(PAIRS)
def test_counts_mask_frame_and_layers_tell_of_the_same_heads(pairs: Pairs) -> None:
    heads = head_set(*pairs)
    frame = heads.frame()
    assert list(zip(frame["layer"], frame["head"], strict=True)) == pairs
    assert frame["rank"].tolist() == list(range(1, len(heads) + 1))
    assert frame["name"].tolist() == [f"L{layer}H{head}" for layer, head in pairs]
    assert heads.mask().sum(1).tolist() == heads.layer_counts().tolist()
    assert {tuple(place) for place in heads.mask().nonzero().tolist()} == set(pairs)
    assert heads.layers() == heads.layer_counts().nonzero()[0].tolist()


@settings(deadline=None)
@given(PAIRS)
def test_in_layer_gives_rank_and_head(pairs: Pairs) -> None:
    heads = head_set(*pairs)
    found = {rank: (layer, head) for layer in range(LAYERS) for rank, head in heads.in_layer(layer)}
    assert [found[rank] for rank in range(len(heads))] == pairs


def test_a_head_set_cannot_be_changed() -> None:
    heads = head_set((0, 1))
    for name in ("heads", "n_layers", "n_heads"):
        with pytest.raises(FrozenInstanceError):
            setattr(heads, name, ())
    assert isinstance(heads.heads, tuple)


def test_operations_leave_their_operands_as_they_were() -> None:
    a, b = head_set((0, 1), (2, 2)), head_set((2, 2))
    assert (len(a | b), len(a & b), len(a - b)) == (2, 1, 1)
    assert (a, b) == (head_set((0, 1), (2, 2)), head_set((2, 2)))


def test_equal_sets_hash_alike_and_order_counts() -> None:
    assert len({head_set((0, 1), (2, 2)), head_set((0, 1), (2, 2))}) == 1
    assert head_set((0, 1), (2, 2)) != head_set((2, 2), (0, 1))


def test_every_head_is_there_once_by_layer_and_head() -> None:
    every = HeadSet.every(n_layers=LAYERS, n_heads=HEADS)
    assert list(every) == [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


@pytest.mark.parametrize("pair", [(4, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_head_outside_the_model_is_refused_by_name(pair: tuple[int, int]) -> None:
    with pytest.raises(LofitLensError) as error:
        head_set((0, 0), pair)
    assert all(text in str(error.value) for text in (str(pair), "4 layers", "0 to 3", "0 to 2"))


def test_a_repeated_head_is_refused_by_name() -> None:
    with pytest.raises(LofitLensError, match="L2H1") as error:
        head_set((2, 1), (0, 0), (2, 1))
    assert "L0H0" not in str(error.value)


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__", "jaccard"])
def test_sets_of_different_models_do_not_mix(operation: str) -> None:
    other = HeadSet([(0, 0)], n_layers=LAYERS + 1, n_heads=HEADS)
    with pytest.raises(ModelMismatchError, match="4x3 and 5x3"):
        getattr(head_set((0, 0)), operation)(other)


def test_first_gives_the_best_heads_in_order() -> None:
    assert head_set((3, 1), (0, 2), (1, 1)).first(2) == head_set((3, 1), (0, 2))


@pytest.mark.parametrize("k", [0, -1, 4])
def test_first_refuses_more_heads_than_there_are(k: int) -> None:
    with pytest.raises(LofitLensError, match=f"from 1 to 3, got {k}"):
        head_set((3, 1), (0, 2), (1, 1)).first(k)


def test_a_random_set_depends_on_its_seed_alone() -> None:
    def draw(seed: int) -> HeadSet:
        return HeadSet.random(10, n_layers=20, n_heads=10, seed=seed)

    np.random.seed(0)  # noqa: NPY002
    first = draw(1)
    np.random.seed(1)  # noqa: NPY002
    assert draw(1) == first
    assert draw(2) != first


def test_a_random_set_leaves_the_global_generators_alone() -> None:
    # In a process of its own: the shape checks of this one draw from `random`.
    code = """
import random, numpy, torch
from lofit_lens.heads import HeadSet
def states():
    seeded = numpy.random.get_state(legacy=False)["state"]
    return random.getstate(), seeded["pos"], str(seeded), torch.get_rng_state().tolist()
before = states()
drawn = HeadSet.random(5, n_layers=4, n_heads=3, seed=0)
HeadSet.random_like(drawn, seed=0)
assert states() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_random_draws_every_head_about_equally_often() -> None:
    drawn = Counter(
        head
        for seed in range(600)
        for head in HeadSet.random(3, n_layers=LAYERS, n_heads=HEADS, seed=seed)
    )
    assert len(drawn) == LAYERS * HEADS
    assert all(100 <= count <= 200 for count in drawn.values())  # 150 expected, spread 10.6


@pytest.mark.parametrize("k", [0, 13])
def test_random_refuses_more_heads_than_there_are(k: int) -> None:
    with pytest.raises(LofitLensError, match=f"from 1 to 12, got {k}"):
        HeadSet.random(k, n_layers=LAYERS, n_heads=HEADS, seed=0)


@settings(deadline=None)
@given(PAIRS, st.integers(0, 2**32 - 1))
def test_a_set_drawn_like_another_has_its_layers_place_by_place(pairs: Pairs, seed: int) -> None:
    other = head_set(*pairs)
    drawn = HeadSet.random_like(other, seed=seed)
    assert [head.layer for head in drawn] == [head.layer for head in other]
    assert HeadSet.random_like(other, seed=seed) == drawn


def test_a_set_drawn_like_another_takes_every_head_of_a_layer_about_equally_often() -> None:
    other = head_set((3, 1), (0, 2), (3, 0))
    drawn = Counter(head for seed in range(600) for head in HeadSet.random_like(other, seed=seed))
    assert set(drawn) == {(layer, head) for layer in (0, 3) for head in range(HEADS)}
    assert all(150 <= drawn[Head(0, head)] <= 250 for head in range(HEADS))  # 200, spread 11.5
    assert all(340 <= drawn[Head(3, head)] <= 460 for head in range(HEADS))  # 400, spread 11.5


@pytest.mark.parametrize("draw", [
    lambda: HeadSet.random(1, n_layers=LAYERS, n_heads=HEADS, seed=-1),
    lambda: HeadSet.random_like(head_set((0, 0)), seed=-1),
])  # fmt: skip
def test_a_negative_seed_is_refused(draw: Callable[[], HeadSet]) -> None:
    with pytest.raises(LofitLensError, match="whole number from 0 to 4294967295, got -1"):
        draw()


def test_npy_files_are_rows_of_int64_as_lofit_writes_them(tmp_path: Path) -> None:
    path = head_set((3, 1), (0, 2)).save(tmp_path / "new" / "heads.npy")
    rows = np.load(path)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, [[3, 1], [0, 2]])


def test_a_head_list_written_by_plain_numpy_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "top_heads.npy", np.array([[3, 1], [0, 2]]))
    loaded = HeadSet.load(tmp_path / "top_heads.npy", n_layers=LAYERS, n_heads=HEADS)
    assert loaded == head_set((3, 1), (0, 2))


@pytest.mark.parametrize("ending", [".npy", ".json"])
@pytest.mark.parametrize("pairs", [[(3, 1), (0, 2), (1, 0)], []], ids=["some", "empty"])
def test_a_saved_set_is_read_back_in_order(
    tmp_path: Path, ending: str, pairs: list[tuple[int, int]]
) -> None:
    path = head_set(*pairs).save(tmp_path / f"heads{ending}")
    assert HeadSet.load(path, n_layers=LAYERS, n_heads=HEADS) == head_set(*pairs)


def test_json_needs_no_shape(tmp_path: Path) -> None:
    heads = head_set((3, 1), (0, 2))
    assert HeadSet.load(heads.save(tmp_path / "heads.json")) == heads


def test_npy_needs_the_shape(tmp_path: Path) -> None:
    path = head_set((3, 1)).save(tmp_path / "heads.npy")
    with pytest.raises(LofitLensError, match="pass n_layers and n_heads"):
        HeadSet.load(path, n_layers=LAYERS)


@pytest.mark.parametrize(("n_layers", "n_heads"), [(5, 3), (4, 4), (5, None), (None, 2)])
def test_a_list_of_another_model_is_refused(
    tmp_path: Path, n_layers: int | None, n_heads: int | None
) -> None:
    path = head_set((3, 1)).save(tmp_path / "heads.json")
    with pytest.raises(ModelMismatchError, match="4 layers x 3 heads"):
        HeadSet.load(path, n_layers=n_layers, n_heads=n_heads)


def test_a_list_with_a_head_outside_the_model_is_refused(tmp_path: Path) -> None:
    path = head_set((3, 1)).save(tmp_path / "heads.npy")
    with pytest.raises(LofitLensError, match=r"\(3, 1\)"):
        HeadSet.load(path, n_layers=2, n_heads=HEADS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("heads.npy", b"not an array"),
        pytest.param("heads.npy", b""),
        ("heads.json", b"not json"),
        ("heads.json", b"\xff\xfe"),
        ("heads.json", b"[[0, 1]]"),
        ("heads.json", b'{"heads": [[0, 1]], "n_layers": 4}'),
        ("heads.json", b'{"heads": [[0, 1, 2]], "n_layers": 4, "n_heads": 3}'),
        ("heads.json", b'{"heads": 7, "n_layers": 4, "n_heads": 3}'),
    ],
)
def test_a_file_that_is_no_head_list_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    shape: Any = {} if path.suffix == ".json" else {"n_layers": LAYERS, "n_heads": HEADS}
    with pytest.raises(LofitLensError, match="head"):
        HeadSet.load(path, **shape)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4),
        np.zeros((2, 3), dtype=np.int64),
        pytest.param(np.array([[0.5, 1.2]])),
        np.array([[np.nan, 1.0]]),
        pytest.param(np.array([[np.inf, 1.0]])),
    ],
    ids=["flat", "three columns", "fractions", "nan", "infinite"],
)
def test_an_array_that_is_no_head_list_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "heads.npy", array)
    with pytest.raises(LofitLensError, match="not a head list"):
        HeadSet.load(tmp_path / "heads.npy", n_layers=LAYERS, n_heads=HEADS)


def test_a_missing_head_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match=r"none\.npy"):
        HeadSet.load(tmp_path / "none.npy", n_layers=LAYERS, n_heads=HEADS)


def test_other_endings_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match=r"heads\.txt"):
        head_set((0, 0)).save(tmp_path / "heads.txt")


def test_the_plot_marks_each_head_with_its_rank() -> None:
    figure = head_set((3, 1), (0, 2)).plot()
    assert isinstance(figure, go.Figure)
    heat: Any = figure.data[0]
    grid = np.array(heat.z, dtype=float)
    assert grid.shape == (LAYERS, HEADS)
    assert (grid[3, 1], grid[0, 2], np.isfinite(grid).sum()) == (1, 2, 2)


def test_the_repr_of_a_large_set_is_short() -> None:
    text = repr(HeadSet.every(n_layers=32, n_heads=32))
    assert text.startswith("HeadSet(1024 of 32x32: L0H0, ")
    assert len(text) < 100


SCORES = st.lists(st.integers(0, 3), min_size=LAYERS * HEADS, max_size=LAYERS * HEADS)


@settings(deadline=None)
@given(SCORES, st.integers(1, LAYERS * HEADS))
def test_ties_go_to_the_lower_layer_then_head(values: list[int], k: int) -> None:
    scores = HeadScores(torch.tensor(values, dtype=torch.float32).reshape(LAYERS, HEADS))
    places = [divmod(i, HEADS) for i in range(LAYERS * HEADS)]
    ordered = sorted(places, key=lambda place: (-values[place[0] * HEADS + place[1]], place))
    assert list(scores.top(k=k)) == ordered[:k]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_top_works_in_every_precision(dtype: torch.dtype) -> None:
    scores = HeadScores(torch.tensor([[1.0, 3.0], [2.0, 0.0]], dtype=dtype))
    assert list(scores.top(k=2)) == [(0, 1), (1, 0)]


def test_top_by_fraction_takes_that_share_of_the_whole_network() -> None:
    scores = HeadScores(torch.arange(20.0).reshape(5, 4))
    assert scores.top(fraction=0.1) == scores.top(k=2)


@pytest.mark.parametrize("k", [0, -3, 13])
def test_a_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(LofitLensError, match=f"from 1 to 12, got {k}"):
        HeadScores(torch.zeros(LAYERS, HEADS)).top(k=k)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, 3.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(LofitLensError, match=rf"\(0, 1\], got {fraction}"):
        number_of_heads(100, fraction=fraction)


@pytest.mark.parametrize(("k", "fraction"), [(None, None), (3, 0.1)])
def test_exactly_one_of_k_and_fraction_is_needed(k: int | None, fraction: float | None) -> None:
    with pytest.raises(LofitLensError, match="either k or fraction"):
        number_of_heads(100, k=k, fraction=fraction)


@pytest.mark.parametrize(
    ("total", "fraction", "expected"),
    [
        (270, 0.03, 8), (270, 0.1, 27), (1024, 0.03, 31), (448, 0.03, 13), (72, 0.03, 2), (9, 0.03, 1),
    ],
)  # fmt: skip
def test_a_fraction_gives_the_nearest_number_of_heads(
    total: int, fraction: float, expected: int
) -> None:
    assert number_of_heads(total, fraction=fraction) == expected


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0.0, 1.0, exclude_min=True))
def test_a_fraction_gives_between_one_and_all_heads(total: int, fraction: float) -> None:
    found = number_of_heads(total, fraction=fraction)
    assert 1 <= found <= total
    assert found == max(1, round(fraction * total))


@settings(deadline=None)
@given(st.integers(1, 3000))
def test_the_whole_fraction_gives_every_head(total: int) -> None:
    assert number_of_heads(total, fraction=1.0) == total


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    values = torch.zeros(LAYERS, HEADS)
    values[2, 1] = bad
    with pytest.raises(LofitLensError, match=r"not for L2H1\.$"):
        HeadScores(values)


def test_the_frame_lists_every_head_with_its_score_best_first() -> None:
    values = torch.tensor([[0.5, 2.0], [1.0, 0.0]])
    frame = HeadScores(values).frame()
    assert list(frame.columns) == ["layer", "head", "name", "score", "rank"]
    assert frame["name"].tolist() == ["L0H1", "L1H0", "L0H0", "L1H1"]
    assert frame["score"].tolist() == [2.0, 1.0, 0.5, 0.0]
    assert frame["rank"].tolist() == [1, 2, 3, 4]


def test_saved_scores_are_read_back_exactly(tmp_path: Path) -> None:
    scores = HeadScores(torch.randn(LAYERS, HEADS, generator=torch.Generator().manual_seed(0)))
    read = HeadScores.load(scores.save(tmp_path / "new" / "scores.json"))
    assert torch.equal(read.scores, scores.scores)
    assert (read.method, read.provenance) == ("lofit", None)


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[1]",
        '{"schema": 99}',
        pytest.param('{"schema": 1}'),
        pytest.param(
            '{"schema": 1, "method": "lofit", "scores": [[1, 2], [3]], "provenance": null}'
        ),
        '{"schema": 1, "method": "lofit", "scores": [[1, NaN]], "provenance": null}',
        pytest.param('{"schema": 1, "method": "lofit", "scores": [["a"]], "provenance": null}'),
    ],
)
def test_a_file_that_holds_no_scores_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LofitLensError):
        HeadScores.load(path)


def test_missing_scores_are_named(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match=r"none\.json"):
        HeadScores.load(tmp_path / "none.json")


def test_saved_scores_are_plain_json(tmp_path: Path) -> None:
    values = torch.tensor([[0.5, 2.0], [1.0, 0.0]])
    path = HeadScores(values, method="random").save(tmp_path / "scores.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["scores"], content["method"]) == (values.tolist(), "random")


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.bfloat16),
    ],
)
def test_the_score_plot_holds_the_scores(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.5, 2.0], [1.0, 0.0]], dtype=dtype)
    heat: Any = HeadScores(values).plot().data[0]
    np.testing.assert_array_equal(heat.z, values.tolist())


def test_a_head_is_a_tuple_with_a_name() -> None:
    assert Head(3, 1) == (3, 1)
    assert str(Head(3, 1)) == "L3H1"


def test_the_repr_of_scores_names_the_best_heads() -> None:
    assert "best: L0H1 2, L1H0 1" in repr(HeadScores(torch.tensor([[0.5, 2.0], [1.0, 0.0]])))
