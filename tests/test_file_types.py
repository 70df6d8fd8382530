"""Spreadsheets, Parquet, zipped files, alternating lines: what the bytes are."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import DataError, RowErrors
from lofit_lens.tasks import from_file
from tests.own_files import in_order, ten

# --- minimal pairs in alternating lines


def test_alternating_lines_are_minimal_pairs(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("".join(f"He has {i}.\nHe have {i}.\n\n" for i in range(10)))
    task = from_file(path)
    assert [(e.id, e.prompt, e.correct, e.incorrect) for e in in_order(task)] == [
        (f"line-{1 + 3 * i}", "", (f"He has {i}.",), (f"He have {i}.",)) for i in range(10)
    ]


def test_a_line_without_its_twin_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("good\nbad\nalone\n")
    with pytest.raises(RowErrors, match=r"own\.txt line 3: .* expected its worse twin"):
        from_file(path)


# --- other containers


def test_parquet_files_are_read_with_their_nested_columns(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    choices = {"text": ["red", "blue", "grey", "pink"], "label": ["A", "B", "C", "D"]}
    rows = ten(lambda i: {"question": f"Q{i}", "choices": choices, "answerKey": "D"})
    pd.DataFrame(rows).to_parquet(tmp_path / "own.parquet")
    examples = in_order(from_file(tmp_path / "own.parquet"))
    assert [e.id for e in examples] == [f"row-{n}" for n in range(1, 11)]
    assert examples[9].prompt == "Question: Q9\nAnswer:"
    assert examples[9].correct == (" pink",)


def test_whole_numbers_of_parquet_stay_whole_beside_missing_ones(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"q": [f"Q{i}" for i in range(10)], "a": pd.array([1] * 9 + [None], "Int64")}
    )
    frame.to_parquet(tmp_path / "own.parquet")
    with pytest.raises(RowErrors) as error:
        from_file(tmp_path / "own.parquet", prompt="{q}", answer="a")
    assert error.value.problems == ["own.parquet row 10, column 'a': nothing, expected text"]
    frame[:9].to_parquet(tmp_path / "own.parquet")
    task = from_file(tmp_path / "own.parquet", prompt="{q}", answer="a")
    assert in_order(task)[0].correct == (" 1",)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "own.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match=r"own\.parquet is not readable as Parquet"):
        from_file(tmp_path / "own.parquet")


def test_parquet_without_pyarrow_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "own.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        from_file(tmp_path / "own.parquet")


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_zipped_files_are_read_as_what_they_hold(tmp_path: Path, ending: str) -> None:
    rows = ten(lambda i: {"sentence_good": f"He has {i}.", "sentence_bad": f"He have {i}."})
    text = {
        ".jsonl": "\n".join(map(json.dumps, rows)),
        ".json": json.dumps(rows),
        ".csv": "\n".join(["sentence_good,sentence_bad", *(",".join(r.values()) for r in rows)]),
    }[ending]
    path = tmp_path / f"own{ending}.gz"
    path.write_bytes(gzip.compress(text.encode()))
    task = from_file(path)
    assert task.name == "own"
    assert in_order(task)[0].correct == ("He has 0.",)


def test_a_zipped_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}' * 100)[:-9])
    with pytest.raises(DataError, match=r"own\.jsonl\.gz cannot be read: not a whole gzip file"):
        from_file(path)


# --- spreadsheets

SHEET = [("Frage", "Antwort"), *((f"Größe {i}, „grün“", "schön") for i in range(10))]
GERMAN: dict[str, Any] = {"prompt": "{Frage}", "answer": "Antwort"}


def sheet(path: Path, delimiter: str, encoding: str, start: str = "") -> Path:
    text = start + "\r\n".join(delimiter.join(f'"{c}"' for c in row) for row in SHEET)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_spreadsheets_are_read_in_their_delimiter_and_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], delimiter: str, encoding: str
) -> None:
    task = from_file(sheet(tmp_path / "own.csv", delimiter, encoding), **GERMAN)
    assert in_order(task)[2].prompt == "Größe 2, „grün“"
    assert in_order(task)[2].correct == (" schön",)
    said = capsys.readouterr().err
    assert (f"own.csv: cells separated by {delimiter!r}" in said) == (delimiter != ",")
    assert ("cp1252" in said) == (encoding == "cp1252")
    assert said.count("\n") == (delimiter != "," or encoding in ("cp1252", "utf-16"))


def test_a_first_line_that_names_the_delimiter_is_no_row(tmp_path: Path) -> None:
    path = sheet(tmp_path / "own.csv", ";", "utf-8-sig", start="sep=;\r\n")
    task = from_file(path, **GERMAN)
    assert [e.id for e in in_order(task)][:2] == ["line-3", "line-4"]


def test_cells_of_several_lines_with_other_delimiters_in_them_are_read(tmp_path: Path) -> None:
    rows = "".join(f'"one,\ntwo, three {i}";x\n' for i in range(10))
    (tmp_path / "own.csv").write_text("q;a\n" + rows)
    task = from_file(tmp_path / "own.csv", prompt="{q}", answer="a")
    assert in_order(task)[1].prompt == "one,\ntwo, three 1"


def test_empty_rows_and_columns_of_spreadsheets_do_not_count(tmp_path: Path) -> None:
    rows = "".join(f"Q{i};x;;\n" for i in range(10))
    (tmp_path / "own.csv").write_text("q; a;;\n;;;\n" + rows + ";;;\n;;\n")
    task = from_file(tmp_path / "own.csv", prompt="{q}", answer="a")
    assert [e.id for e in in_order(task)] == [f"line-{n}" for n in range(3, 13)]


def test_commas_in_prose_do_not_hide_the_semicolon_of_the_header(tmp_path: Path) -> None:
    rows = "".join(f"a, b, {i};x\n" for i in range(10))
    (tmp_path / "own.csv").write_text("question, of all;answer\n" + rows)
    task = from_file(tmp_path / "own.csv", prompt="{question, of all}", answer="answer")
    assert in_order(task)[3].prompt == "a, b, 3"


def test_bytes_of_no_encoding_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(b"q,a\nx,y\nx,\x81\x8d\n")
    with pytest.raises(DataError, match=r"own\.csv line 3: not UTF-8"):
        from_file(tmp_path / "own.csv", prompt="{q}", answer="a")
