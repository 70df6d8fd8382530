"""Splits that are ready: a column, or files of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import DataError, LofitLensError, RowErrors
from lofit_lens.tasks import from_file, reload_task
from tests.own_files import Rows, jsonl, problem


def by_split(name: str, n: int) -> Rows:
    return [{"q": f"{name} {i}", "a": "x", "part": name} for i in range(n)]


QA: dict[str, Any] = {"prompt": "{q}", "answer": "a"}


@pytest.mark.parametrize("val", ["val", "validation", "dev", "Valid"])
def test_a_column_says_the_split(tmp_path: Path, val: str) -> None:
    rows = by_split("test", 5) + by_split("train", 4) + by_split(val, 3)
    task = from_file(jsonl(tmp_path, rows), **QA, split="part")
    assert [len(part) for part in (task.train, task.val, task.test)] == [4, 3, 5]
    assert {e.prompt.split()[0] for e in task.val} == {val}


def test_without_validation_a_fifth_of_training_validates_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = by_split("test", 5) + by_split("train", 20)
    path = jsonl(tmp_path, rows)
    task = from_file(path, **QA, split="part", split_seed=3)
    assert [len(part) for part in (task.train, task.val, task.test)] == [16, 4, 5]
    assert "4 of 20 training rows validate (seed 3)" in capsys.readouterr().err
    assert from_file(path, **QA, split="part", split_seed=4).val != task.val


def test_other_values_of_the_split_are_problems(tmp_path: Path) -> None:
    rows = [*by_split("train", 1), *by_split("extra", 1)]
    found = problem(tmp_path, rows, **QA, split="part")
    assert "column 'part': 'extra', expected train, val or test" in found


def test_a_column_without_test_rows_is_refused(tmp_path: Path) -> None:
    rows = by_split("train", 4) + by_split("val", 3)
    with pytest.raises(DataError, match=r"own\.jsonl has no test rows; it has 4 train, 3 val"):
        from_file(jsonl(tmp_path, rows), **QA, split="part")


def test_three_files_are_three_splits(tmp_path: Path) -> None:
    files = {
        split: jsonl(tmp_path, by_split(name, n), f"clutrr_{name}.jsonl")
        for split, name, n in (("test", "test", 5), ("train", "train", 4), ("val", "dev", 3))
    }
    task = from_file(files, **QA)
    assert [len(part) for part in (task.train, task.val, task.test)] == [4, 3, 5]
    assert task.name == "clutrr"
    every = task.train + task.val + task.test
    assert len({e.id for e in every}) == len({e.group for e in every}) == 12
    assert reload_task(json.loads(json.dumps(dict(task.source)))) == task


def test_two_files_and_a_part_of_training_are_three_splits(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, by_split(name, 10), f"{name}.jsonl") for name in ("train", "test")
    }
    task = from_file(files, **QA)
    assert [len(part) for part in (task.train, task.val, task.test)] == [8, 2, 10]
    assert task.name == tmp_path.name


def test_equal_prompts_of_two_files_are_one_group(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, by_split("same", 10), f"{name}.jsonl") for name in ("train", "test")
    }
    task = from_file(files, **QA)
    assert {e.group for e in task.test} == {e.group for e in task.train + task.val}


def test_problems_of_several_files_name_their_file(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, [*by_split(name, 3), {"q": name}], f"{name}.jsonl")
        for name in ("train", "test")
    }
    with pytest.raises(RowErrors) as error:
        from_file(files, **QA)
    assert [p.split(",")[0] for p in error.value.problems] == [
        "train.jsonl line 4",
        "test.jsonl line 4",
    ]


@pytest.mark.parametrize("names", [("train",), ("train", "exam"), ("train", "test", "val", "dev")])
def test_files_of_other_splits_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    files = {name: jsonl(tmp_path, by_split(name, 5), f"{name}.jsonl") for name in names}
    with pytest.raises(LofitLensError, match=r"named train, val \(may lack\) and test"):
        from_file(files, **QA)


def test_a_column_cannot_name_splits_that_are_ready(tmp_path: Path) -> None:
    files = {
        name: jsonl(tmp_path, by_split(name, 5), f"{name}.jsonl") for name in ("train", "test")
    }
    with pytest.raises(LofitLensError, match="splits are ready"):
        from_file(files, **QA, split="part")
