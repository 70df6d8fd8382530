"""Rows in memory as a task: frames, datasets, lists of dicts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lofit_lens.errors import DataError, LofitLensError, RowErrors
from lofit_lens.tasks import from_file, from_rows, reload_task
from lofit_lens.tasks.data import read_files
from lofit_lens.tasks.load import check_not_trained_on

ROWS = [{"q": f"Q{i}", "options": ["red", "blue"], "a": i % 2} for i in range(20)]
CHOICE: dict[str, Any] = {
    "prompt": "{q}?", "answer": "a", "choices": "options", "answer_is": "index0",
}  # fmt: skip


def dataset(rows: list[dict[str, Any]]) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(rows)


KINDS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a list": list,
    "a generator": iter,
    "a frame": pd.DataFrame,
    "a frame with an index": lambda rows: pd.DataFrame(rows, index=range(100, 100 + len(rows))),
    "a frame with arrays": lambda rows: pd.DataFrame(
        [{**row, "options": np.array(row["options"])} for row in rows]
    ),
    "a dataset": dataset,
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_rows_in_memory_give_what_a_file_of_them_gives(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task, of_file = from_rows(KINDS[kind](ROWS), **CHOICE), from_file(path, **CHOICE)
    for split in ("train", "val", "test"):
        ours, theirs = getattr(task, split), getattr(of_file, split)
        assert [e.id for e in ours] == [e.id.replace("line", "row") for e in theirs]
        assert [(e.prompt, e.correct, e.incorrect) for e in ours] == [
            (e.prompt, e.correct, e.incorrect) for e in theirs
        ]


def test_the_options_are_those_of_from_file() -> None:
    ours, theirs = (list(inspect.signature(f).parameters.values()) for f in (from_rows, from_file))
    assert [str(p) for p in ours[1:]] == [str(p) for p in theirs[1:]]
    assert (ours[0].name, from_rows.__name__) == ("rows", "from_rows")


def test_formats_of_rows_are_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"goal": f"G{i}", "sol1": "a", "sol2": "b", "label": np.int64(1)} for i in range(9)]
    task = from_rows(pd.DataFrame(rows), name="mine")
    assert (task.name, task.test[0].correct) == ("mine", (" b",))
    assert "read as PIQA" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["lists", "a dataset dictionary"])
def test_splits_in_memory_stay_splits(kind: str) -> None:
    parts: Any = {"train": ROWS[:8], "validation": ROWS[8:12], "test": ROWS[12:]}
    if kind == "a dataset dictionary":
        datasets = pytest.importorskip("datasets")
        parts = datasets.DatasetDict({name: dataset(rows) for name, rows in parts.items()})
    task = from_rows(parts, **CHOICE)
    assert [len(part) for part in (task.train, task.val, task.test)] == [8, 4, 8]
    assert [e.prompt for e in task.val] == [row["q"] + "?" for row in ROWS[8:12]]


def test_what_is_missing_in_a_frame_is_a_problem_of_its_row() -> None:
    frame = pd.DataFrame({"q": ["a", None, "c"], "a": ["x", "y", float("nan")]})
    with pytest.raises(RowErrors) as error:
        from_rows(frame, prompt="{q}", answer="a")
    assert error.value.problems == [
        "the data row 2, column 'q': nothing, expected text",
        "the data row 3, column 'a': nothing, expected text",
    ]


def test_a_task_of_rows_says_that_it_cannot_be_loaded_again() -> None:
    source = json.loads(json.dumps(dict(from_rows(ROWS, **CHOICE).source)))
    with pytest.raises(LofitLensError, match="rows in memory, so it cannot be loaded again"):
        reload_task(source)


def test_the_same_rows_dealt_in_another_way_are_not_scored() -> None:
    task, other = from_rows(ROWS, **CHOICE), from_rows(ROWS[1:], **CHOICE)
    again = from_rows(pd.DataFrame(ROWS), **CHOICE, split_seed=7)
    check_not_trained_on(task, task.source)
    check_not_trained_on(task, other.source)
    with pytest.raises(LofitLensError, match="split_seed = 42"):
        check_not_trained_on(again, task.source)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (7, "got a int"),
        ("own.csv", "got a str"),
        ([1, 2], "got a list with a int"),
        (None, "NoneType"),
    ],
)
def test_what_holds_no_rows_is_refused(rows: Any, what: str) -> None:
    with pytest.raises(LofitLensError, match=f"{what}.*For a file use from_file"):
        from_rows(rows, **CHOICE)


@pytest.mark.parametrize("rows", [[], pd.DataFrame({"q": []})])
def test_no_rows_are_refused(rows: Any) -> None:
    with pytest.raises(DataError, match="no rows"):
        from_rows(rows, **CHOICE)


@pytest.mark.parametrize("rows", [pd.DataFrame(ROWS), ROWS, None])
def test_reading_a_file_that_is_none_names_from_rows(rows: Any) -> None:
    read: Any = read_files  # as `from_file` calls it; types are checked in tests alone
    with pytest.raises(LofitLensError, match="use from_rows"):
        inspect.unwrap(read)(rows)
