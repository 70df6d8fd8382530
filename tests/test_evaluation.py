from __future__ import annotations

import gzip
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.scoring.evaluation import Evaluation


def evaluation(n: int = 6, *, name: str = "colours:0", seed: int = 0) -> Evaluation:
    rng = np.random.default_rng(seed)
    records = tuple(
        {
            "id": f"item {i} é",
            "group": f"g{i // 2}",
            "MC1": float(rng.integers(2)),
            "MC2": float(rng.uniform()),
            "correct": rng.normal(size=2).tolist(),
            "incorrect": rng.normal(size=3).tolist(),
        }
        for i in range(n)
    )
    return Evaluation(name, "test", ("MC1", "MC2"), records, {"chance": 0.1 * (1 + seed)})


def written(path: Path, content: Any) -> Path:
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


def test_metrics_are_means_over_the_records() -> None:
    result = evaluation(40)
    for name in result.metric_names:
        assert result.metrics[name].value == pytest.approx(
            np.mean([record[name] for record in result.records])
        )
        assert result.metrics[name].n == 40


def test_the_main_metric_is_the_first() -> None:
    result = evaluation()
    assert result.main == result.metrics["MC1"] != result.metrics["MC2"]


def test_pooled_folds_weight_every_item_equally() -> None:
    small, large = evaluation(3), evaluation(30, seed=1)
    pooled = Evaluation.pooled("colours", [small, large])
    for name in ("MC1", "MC2"):
        every = [record[name] for record in small.records + large.records]
        assert pooled.metrics[name].value == pytest.approx(sum(every) / 33)
    assert pooled.floors["chance"] == pytest.approx((3 * 0.1 + 30 * 0.2) / 33)
    assert (pooled.task, pooled.split, pooled.compat) == ("colours", "test", None)


@pytest.mark.parametrize(
    "other",
    [
        Evaluation("b", "val", ("MC1", "MC2"), (), {}),
        Evaluation("b", "test", ("MC1",), (), {}),
        Evaluation("b", "test", ("MC1", "MC2"), (), {}, "paper-code"),
    ],
    ids=["split", "metrics", "compat"],
)
def test_unlike_folds_are_not_pooled(other: Evaluation) -> None:
    with pytest.raises(LofitLensError, match="pooled"):
        Evaluation.pooled("both", [evaluation(), other])


def test_no_folds_are_not_pooled() -> None:
    with pytest.raises(LofitLensError, match="pooled"):
        Evaluation.pooled("none", [])


def test_a_saved_evaluation_is_read_back_identical(tmp_path: Path) -> None:
    result = evaluation()
    read = Evaluation.load(result.save(tmp_path / "new" / "result.json.gz"))
    for field in fields(Evaluation):
        assert getattr(read, field.name) == getattr(result, field.name)
    assert read.metrics == result.metrics


def test_two_saves_are_byte_identical(tmp_path: Path) -> None:
    result = evaluation()
    first = result.save(tmp_path / "a.json.gz")
    second = Evaluation.load(first).save(tmp_path / "b.json.gz")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4)  # gzip's time stamp


def test_the_file_is_plain_gzipped_json(tmp_path: Path) -> None:
    result = evaluation()
    with gzip.open(result.save(tmp_path / "a.json.gz"), "rt", encoding="utf-8") as file:
        content = json.load(file)
    assert content["records"] == list(result.records)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "old.json.gz", {"schema": 99})
    with pytest.raises(LofitLensError, match="schema 99"):
        Evaluation.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"not json"), gzip.compress(b"\xff\xfe\xfa")],
    ids=["empty", "not gzip", "not json", "not utf-8"],
)
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json.gz"
    path.write_bytes(content)
    with pytest.raises(LofitLensError, match=r"bad\.json\.gz"):
        Evaluation.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match=r"none\.json\.gz"):
        Evaluation.load(tmp_path / "none.json.gz")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = evaluation().save(tmp_path / "cut.json.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LofitLensError, match=r"cut\.json\.gz"):
        Evaluation.load(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = evaluation().save(tmp_path / "damaged.json.gz")
    content = path.read_bytes()
    path.write_bytes(content[:10] + b"\xff" * 20 + content[30:])
    with pytest.raises(LofitLensError, match=r"damaged\.json\.gz"):
        Evaluation.load(path)


@pytest.mark.parametrize(
    "content", [[1, 2], "text", 3, None], ids=["list", "text", "number", "null"]
)
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(LofitLensError, match=r"odd\.json\.gz"):
        Evaluation.load(written(tmp_path / "odd.json.gz", content))


def test_missing_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match=r"part\.json\.gz"):
        Evaluation.load(written(tmp_path / "part.json.gz", {"schema": 1, "task": "colours"}))


def test_the_frame_has_a_row_per_item_and_names_the_task() -> None:
    result = evaluation()
    frame = result.frame()
    assert list(frame.columns) == ["task", "id", "group", "MC1", "MC2", "correct", "incorrect"]
    assert frame["MC2"].tolist() == [record["MC2"] for record in result.records]
    assert set(frame["task"]) == {"colours:0"}


def test_the_plot_shows_the_metrics_in_percent_with_their_intervals() -> None:
    result = evaluation()
    figure = result.plot()
    assert isinstance(figure, go.Figure)
    (bars,) = figure.to_dict()["data"]
    assert list(bars["x"]) == ["MC1", "MC2"]
    estimates = [result.metrics[name] for name in bars["x"]]
    np.testing.assert_allclose(bars["y"], [100 * e.value for e in estimates])
    ends = np.add(bars["y"], bars["error_y"]["array"])
    np.testing.assert_allclose(ends, [100 * e.high for e in estimates])
    starts = np.subtract(bars["y"], bars["error_y"]["arrayminus"])
    np.testing.assert_allclose(starts, [100 * e.low for e in estimates])


def test_the_repr_is_one_short_line_however_many_items_there_are() -> None:
    text = repr(evaluation(500))
    assert len(text) < 160
    assert "\n" not in text
    assert str(evaluation(500).main) in text


def test_the_html_shows_every_metric_and_floor() -> None:
    html = evaluation()._repr_html_()
    assert all(word in html for word in ("MC1", "MC2", "chance 10.0"))


def test_a_record_whose_metric_is_not_a_number_is_refused() -> None:
    with pytest.raises(ScoringError, match="MC1 of item 0 is not a finite number: nan"):
        Evaluation("t", "test", ("MC1",), ({"MC1": float("nan")}, {"MC1": 1.0}), {})
