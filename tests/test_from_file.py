from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lofit_lens.errors import DataError, LofitLensError, RowErrors
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task, from_file, reload_task

Rows = list[dict[str, Any]]


def write_separated(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    ".csv": write_separated,
    ".tsv": write_separated,
    ".jsonl": write_jsonl,
    ".json": write_json,
}
ENDINGS = pytest.mark.parametrize("ending", list(WRITERS))


def written(folder: Path, rows: Rows, ending: str = ".jsonl") -> Path:
    path = folder / f"own{ending}"
    WRITERS[ending](path, rows)
    return path


def text_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def in_order(task: Task) -> list[Example]:
    """All examples of a task, in the order of the file."""
    every = task.train + task.val + task.test
    return sorted(every, key=lambda example: int(example.id.removeprefix("line-")))


def problems_of(path: Path, **arguments: Any) -> list[str]:
    with pytest.raises(RowErrors) as error:
        from_file(path, **arguments)
    assert all(problem in str(error.value) for problem in error.value.problems)
    return error.value.problems


def questions(n: int = 20) -> Rows:
    return [{"thing": f"Thing, {i}", "colour": f'a "colour" {i}'} for i in range(n)]


ASK: dict[str, Any] = {"prompt": "What is {thing}?\nA:", "answer": "colour"}

# --- the three kinds


@ENDINGS
def test_questions_are_read_from_every_format(tmp_path: Path, ending: str) -> None:
    task = from_file(written(tmp_path, questions(), ending), **ASK)
    examples = in_order(task)
    assert [e.prompt for e in examples] == [f"What is Thing, {i}?\nA:" for i in range(20)]
    assert [e.correct for e in examples] == [(f' a "colour" {i}',) for i in range(20)]
    assert all(e.incorrect == () for e in examples)
    assert (task.name, task.objective, task.scoring) == ("own", "sft", ExactMatch())


@ENDINGS
def test_choices_of_several_columns_are_read_from_every_format(tmp_path: Path, ending: str) -> None:
    rows = [{"q": f"Q{i}", "a": "red", "b": "blue", "c": "grey", "right": "blue"} for i in range(9)]
    path = written(tmp_path, rows, ending)
    task = from_file(path, prompt="{q}", answer="right", choices=["a", "b", "c"])
    assert all(e.correct == (" blue",) for e in in_order(task))
    assert all(e.incorrect == (" red", " grey") for e in in_order(task))
    assert (task.objective, task.scoring) == ("choice", MultipleChoice())
    assert task.floors["chance"] == pytest.approx(1 / 3)


@ENDINGS
def test_pairs_are_read_from_every_format(tmp_path: Path, ending: str) -> None:
    rows = [{"well": f"He has {i}.", "badly": f"He have {i}."} for i in range(10)]
    task = from_file(written(tmp_path, rows, ending), good="well", bad="badly")
    for i, example in enumerate(in_order(task)):
        assert example.prompt == ""
        assert example.correct == (f"He has {i}.",)
        assert example.incorrect == (f"He have {i}.",)
    assert (task.objective, task.floors["chance"]) == ("choice", 0.5)


def test_pairs_may_share_a_prompt(tmp_path: Path) -> None:
    rows = [{"start": f"Person {i}", "well": "sings.", "badly": "sing."} for i in range(10)]
    task = from_file(written(tmp_path, rows), good="well", bad="badly", prompt="{start}")
    example = in_order(task)[3]
    assert (example.prompt, example.correct[0]) == ("Person 3", " sings.")


@pytest.mark.real
def test_blimp_files_are_recognised(data_dir: Path) -> None:
    path = data_dir / "blimp/wh_vs_that_with_gap.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    task = from_file(path)
    assert [(e.correct, e.incorrect) for e in in_order(task)] == [
        ((row["sentence_good"],), (row["sentence_bad"],)) for row in rows
    ]


@pytest.mark.real
def test_a_json_list_of_words_makes_a_choice_among_its_parts(data_dir: Path) -> None:
    path = data_dir / "function_vectors/choose_last_of_3.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    task = from_file(
        path, prompt="{input}. The last is", answer="output", choices="input", separator=","
    )
    for row, example in zip(rows, in_order(task), strict=True):
        words = row["input"].split(", ")
        assert example.prompt == f"{row['input']}. The last is"
        assert example.correct == (" " + words[-1],)
        assert example.incorrect == tuple(" " + word for word in words[:-1])


CHOICE_COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a list": ({"options": ["red", "blue", "grey"]}, {"choices": "options"}),
    "several": ({"a": "red", "b": "blue", "c": "grey"}, {"choices": ("a", "b", "c")}),
    "parts": ({"options": "red | blue|grey"}, {"choices": "options", "separator": "|"}),
}


@pytest.mark.parametrize("how", list(CHOICE_COLUMNS))
@pytest.mark.parametrize(
    ("answer_is", "value"),
    [
        ("text", "blue"),
        ("letter", "B"),
        ("letter", "b"),
        ("index0", 1),
        ("index0", "1"),
        ("index1", 2),
    ],
)
def test_the_answer_is_found_among_the_choices(
    tmp_path: Path, how: str, answer_is: Any, value: Any
) -> None:
    columns, arguments = CHOICE_COLUMNS[how]
    rows = [{"q": f"Q{i}", "right": value, **columns} for i in range(10)]
    path = written(tmp_path, rows)
    task = from_file(path, prompt="{q}", answer="right", answer_is=answer_is, **arguments)
    for example in in_order(task):
        assert example.correct == (" blue",)
        assert example.incorrect == (" red", " grey")


@pytest.mark.parametrize(
    ("answer_is", "value"),
    [
        ("text", "Blue"),
        ("letter", "D"),
        ("letter", "AB"),
        ("index0", "3"),
        ("index1", "0"),
        ("index0", "-1"),
        ("index0", "one"),
    ],
)
def test_an_answer_that_is_no_choice_is_a_problem_of_its_row(
    tmp_path: Path, answer_is: Any, value: str
) -> None:
    good = {"text": "red", "letter": "A", "index0": "0", "index1": "1"}[answer_is]
    rows = [{"q": f"Q{i}", "options": ["red", "blue", "grey"], "right": good} for i in range(9)]
    rows[4]["right"] = value
    (problem,) = problems_of(
        written(tmp_path, rows),
        prompt="{q}",
        answer="right",
        answer_is=answer_is,
        choices="options",
    )
    assert all(text in problem for text in ("own.jsonl line 5", "'right'", repr(value), answer_is))


def test_accepted_spellings_follow_the_answer(tmp_path: Path) -> None:
    rows = [{"q": f"Q{i}", "a": "Sweden", "also": ["SE", "Sverige"]} for i in range(9)]
    task = from_file(written(tmp_path, rows), prompt="{q}", answer="a", accepted="also")
    assert in_order(task)[0].correct == (" Sweden", " SE", " Sverige")
    assert isinstance(task.scoring, ExactMatch)
    assert task.scoring.is_correct("sverige", in_order(task)[0].correct)


def test_the_prefix_and_the_rule_can_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, questions())
    task = from_file(path, **ASK, answer_prefix="", max_new_tokens=3, stop=".", name="colours")
    assert in_order(task)[0].correct == ('a "colour" 0',)
    assert task.scoring == ExactMatch(max_new_tokens=3, stop=".")
    assert task.name == "colours"


def test_the_floor_of_questions_is_the_most_frequent_test_answer(tmp_path: Path) -> None:
    rows = [{"q": f"Q{i}", "a": "red" if i % 4 else "blue"} for i in range(100)]
    task = from_file(written(tmp_path, rows), prompt="{q}", answer="a")
    red = sum(example.correct == (" red",) for example in task.test)
    assert task.floors == {"most frequent answer": red / len(task.test)}


def test_numbers_count_as_text(tmp_path: Path) -> None:
    rows = [{"q": i, "a": 2 * i} for i in range(10)]
    task = from_file(written(tmp_path, rows), prompt="{q}+{q}=", answer="a")
    assert (in_order(task)[3].prompt, in_order(task)[3].correct) == ("3+3=", (" 6",))


def test_numbers_in_a_list_of_choices_count_as_text(tmp_path: Path) -> None:
    rows = [{"q": f"{i}+1=", "a": 1 + i, "options": [i, 1 + i]} for i in range(10)]
    task = from_file(written(tmp_path, rows), prompt="{q}", answer="a", choices="options")
    assert (in_order(task)[3].correct, in_order(task)[3].incorrect) == ((" 4",), (" 3",))


def test_braces_in_cells_and_doubled_ones_in_the_template_stay_braces(tmp_path: Path) -> None:
    rows = [{"q": f"{{x}} {i}", "a": "yes"} for i in range(10)]
    task = from_file(written(tmp_path, rows), prompt="{{{q}}}", answer="a")
    assert in_order(task)[0].prompt == "{{x} 0}"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = written(tmp_path, questions(), ".csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(in_order(from_file(path, **ASK))) == 20


# --- malformed rows


def test_rows_after_a_cell_of_several_lines_have_the_right_line_number(tmp_path: Path) -> None:
    text = 'thing,colour\nsky,blue\n"two\nlines",red\n\nsea,\n"a\nb",green\ngrass,\n'
    path = text_file(tmp_path, "own.csv", text)
    empty = problems_of(path, **ASK)
    lines = [1 + text.split("\n").index(row) for row in ("sea,", "grass,")]
    assert [problem.split(",")[0] for problem in empty] == [f"own.csv line {n}" for n in lines]
    assert all("column 'colour': nothing, expected text" in problem for problem in empty)


def test_ids_are_the_lines_where_rows_start(tmp_path: Path) -> None:
    body = "".join(f'"two\nlines {i}",red\n' for i in range(10))
    task = from_file(text_file(tmp_path, "own.csv", "thing,colour\n" + body), **ASK)
    assert [e.id for e in in_order(task)] == [f"line-{2 + 2 * i}" for i in range(10)]


def test_all_malformed_rows_of_a_csv_are_reported_at_once(tmp_path: Path) -> None:
    text = (
        "q,a,b,right\n"
        "fine,red,blue,red\n"
        "short,red,blue\n"
        '"over\ntwo lines",red,blue,green\n'
        ",red,blue,red\n"
        "same,red,red,red\n"
        "long,red,blue,red,red\n"
        "no choice,red,,red\n"
    )
    problems = problems_of(
        text_file(tmp_path, "own.csv", text), prompt="{q}", answer="right", choices=["a", "b"]
    )
    expected = {
        3: "3 cells, expected 4 (q, a, b, right)",
        4: "column 'right': 'green', expected the text of one of ['red', 'blue']",
        6: "column 'q': nothing, expected text",
        7: "column 'a, b': ['red', 'red'], expected two or more different choices",
        8: "5 cells, expected 4 (q, a, b, right)",
        9: "column 'b': nothing, expected text",
    }
    found = {
        int(problem.split("line ")[1].split(",")[0].split(":")[0]): problem for problem in problems
    }
    assert sorted(found) == sorted(expected)
    assert len(problems) == len(expected)
    for line, what in expected.items():
        assert found[line].startswith(f"own.csv line {line}")
        assert what in found[line]


def test_all_malformed_rows_of_a_jsonl_are_reported_at_once(tmp_path: Path) -> None:
    lines = [
        '{"q": "fine", "a": "x", "also": ["y"]}',
        '{"q": "broken", ',
        "",
        '["no", "object"]',
        '{"q": "no answer", "also": []}',
        '{"q": true, "a": "x", "also": []}',
        '{"q": "spelling", "a": "x", "also": "y"}',
        '{"q": "spelling", "a": null, "also": [null, ""]}',
    ]
    path = text_file(tmp_path, "own.jsonl", "\n".join(lines))
    problems = problems_of(path, prompt="{q}", answer="a", accepted="also")
    parts = [
        "line 2: not JSON",
        "line 4: list, expected an object",
        "line 5, column 'a': nothing, expected text",
        "line 6, column 'q': True, expected text",
        "line 7, column 'also': 'y', expected a list of texts",
        "line 8, column 'a': nothing, expected text",
        "line 8, column 'also': [None, ''], expected a list of texts",
    ]
    assert len(problems) == len(parts)
    for part in parts:
        assert any(part in problem for problem in problems), part


def test_many_problems_are_counted_and_the_first_twenty_shown(tmp_path: Path) -> None:
    rows = [{"thing": f"t{i}", "colour": ""} for i in range(50)]
    with pytest.raises(RowErrors, match="50 problems in malformed rows") as error:
        from_file(written(tmp_path, rows), **ASK)
    assert len(error.value.problems) == 50
    assert str(error.value).count("expected text") == 20
    assert str(error.value).endswith("and 30 more")


def test_every_problem_of_a_row_counts(tmp_path: Path) -> None:
    rows = [*questions(), {"thing": "", "colour": ""}]
    with pytest.raises(RowErrors, match=r"^2 problems"):
        from_file(written(tmp_path, rows), **ASK)


def test_a_pair_of_equal_sentences_is_a_problem(tmp_path: Path) -> None:
    rows = [{"well": f"s{i}", "badly": f"t{i}"} for i in range(9)] + [{"well": "x", "badly": "x"}]
    (problem,) = problems_of(written(tmp_path, rows), good="well", bad="badly")
    assert "own.jsonl line 10, column 'badly': the same text as 'well'" in problem


def test_a_file_without_one_good_row_reports_its_rows(tmp_path: Path) -> None:
    path = text_file(tmp_path, "own.csv", "thing,colour\nsky\nsea\n")
    assert [p.split(":")[0] for p in problems_of(path, **ASK)] == [
        "own.csv line 2",
        "own.csv line 3",
    ]


def test_a_json_list_on_one_line_is_counted_by_its_rows(tmp_path: Path) -> None:
    task = from_file(text_file(tmp_path, "own.json", json.dumps(questions(10))), **ASK)
    every = task.train + task.val + task.test
    assert {e.id for e in every} == {f"row-{n}" for n in range(1, 11)}
    rows = [*questions(3), {"thing": "x"}, "no object"]
    problems = problems_of(text_file(tmp_path, "bad.json", json.dumps(rows)), **ASK)
    assert [p.split(",")[0].split(":")[0] for p in problems] == ["bad.json row 4", "bad.json row 5"]


# --- files and arguments that are refused


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": "{thing}", "answer": "hue"},
        {"prompt": "{hue}", "answer": "colour"},
        {"prompt": "{thing}", "answer": "colour", "choices": ["colour", "hue"]},
        {"prompt": "{thing}", "answer": "colour", "accepted": "hue"},
        {"prompt": "{thing}", "answer": "colour", "group": "hue"},
        {"good": "thing", "bad": "hue"},
    ],
)
def test_a_missing_column_is_refused_with_those_there_are(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"no column 'hue'.*thing, colour"):
        from_file(written(tmp_path, questions()), **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"prompt": "{thing}"},
        {"answer": "colour"},
        {"good": "thing"},
        {"choices": "colour", "prompt": "{thing}"},
    ],
)
def test_arguments_of_no_kind_are_refused_with_the_columns(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(LofitLensError, match=r"thing, colour"):
        from_file(written(tmp_path, questions()), **arguments)


@pytest.mark.parametrize(
    "template", ["{thing", "thing}", "{}", "{0}", "{thing.real}", "{thing[0]}"]
)
def test_a_malformed_template_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(LofitLensError, match="template"):
        from_file(written(tmp_path, questions()), prompt=template, answer="colour")


@pytest.mark.parametrize("template", ["{thing:d}", "{thing!x}", "{thing:{colour}}"])
def test_a_template_that_formats_its_columns_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(LofitLensError, match="template"):
        from_file(written(tmp_path, questions()), prompt=template, answer="colour")


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"own\.xlsx.*\.csv, \.tsv, \.jsonl, \.json"):
        from_file(text_file(tmp_path, "own.xlsx", "x"), **ASK)


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_a_json_file_that_is_not_utf8_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"own{ending}"
    path.write_bytes("thing,colour\nciel,bleu foncé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"own\S+ line 2: not UTF-8"):
        from_file(path, **ASK)


@pytest.mark.parametrize("text", ["", "thing,colour\n"], ids=["nothing", "a header"])
def test_a_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="no rows"):
        from_file(text_file(tmp_path, "own.csv", text), **ASK)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"thing": "a",\n "colour": "b"},\n{"thing": oops}]', 3),
        ('[{"thing": "a"}\n\n{"thing": "b"}]', 3),
        ('[\n{"thing": "a"}\n', 3),
        pytest.param('[{"thing": "a", "colour": "b"}]\n[{"thing": "c", "colour": "d"}]', 2),
    ],
    ids=["a bad value", "no comma", "no end", "text after the list"],
)
def test_broken_json_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(DataError, match=rf"own\.json line {line}:"):
        from_file(text_file(tmp_path, "own.json", text), **ASK)


def test_a_json_object_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not start with a list.*\.jsonl"):
        from_file(text_file(tmp_path, "own.json", '{"thing": "a"}'), **ASK)


def test_an_unclosed_quote_is_refused_as_csv(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"own\.csv line \d+: not readable as CSV"):
        from_file(text_file(tmp_path, "own.csv", 'thing,colour\nsky,"blue\n'), **ASK)


def test_repeated_column_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names repeat"):
        from_file(text_file(tmp_path, "own.csv", "thing,thing\nsky,blue\n"), **ASK)


def test_training_questions_by_preference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs incorrect answers"):
        from_file(written(tmp_path, questions()), **ASK, objective="dpo")


# --- splits


@pytest.mark.parametrize(
    "shares", [(0.4, 0.1, 0.5), (0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.1, 0.1, 0.1)]
)
def test_splits_have_their_shares_and_no_item_twice(
    tmp_path: Path, shares: tuple[float, float, float]
) -> None:
    task = from_file(written(tmp_path, questions(1000)), **ASK, split=shares)
    for split, share in zip((task.train, task.val, task.test), shares, strict=True):
        assert abs(len(split) - 1000 * share) <= 1
    assert len({e.id for e in in_order(task)}) == len(in_order(task)) <= 1000


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (-0.1, 0.5, 0.5)])
def test_impossible_shares_are_refused(tmp_path: Path, shares: tuple[float, float, float]) -> None:
    with pytest.raises(LofitLensError, match="three positive shares"):
        from_file(written(tmp_path, questions()), **ASK, split=shares)


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_straddle_splits(tmp_path: Path, seed: int) -> None:
    rows = [{"q": f"Q{i}", "a": "x", "family": f"f{i % 17}", "size": i % 17} for i in range(200)]
    path = written(tmp_path, rows)
    task = from_file(path, prompt="{q}", answer="a", group="family", split_seed=seed)
    train, val, test = ({e.group for e in split} for split in (task.train, task.val, task.test))
    assert not (train & val or train & test or val & test)
    assert len(train | val | test) == 17


def test_equal_prompts_stay_together_without_a_group(tmp_path: Path) -> None:
    rows = [{"thing": f"t{i % 10}", "colour": f"c{i}"} for i in range(100)]
    task = from_file(written(tmp_path, rows), **ASK)
    train, val, test = ({e.prompt for e in split} for split in (task.train, task.val, task.test))
    assert not (train & val or train & test or val & test)


def test_the_split_depends_on_its_seed_alone(tmp_path: Path) -> None:
    path = written(tmp_path, questions(100))
    np.random.seed(0)  # noqa: NPY002
    first = from_file(path, **ASK, split_seed=1)
    np.random.seed(1)  # noqa: NPY002
    again, other = from_file(path, **ASK, split_seed=1), from_file(path, **ASK, split_seed=2)
    assert (first.train, first.val, first.test) == (again.train, again.val, again.test)
    assert {e.id for e in first.train} != {e.id for e in other.train}


def generator_states() -> list[object]:
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return [state["key"].tolist(), state["pos"], torch.get_rng_state().tolist()]


def test_reading_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    path = written(tmp_path, questions(100))
    before = generator_states()
    from_file(path, **ASK)
    assert generator_states() == before


@pytest.mark.parametrize("n", [1, 2])
def test_a_file_too_small_to_split_is_refused(tmp_path: Path, n: int) -> None:
    with pytest.raises(DataError, match=f"{n} rows in {n} groups.* cannot be dealt"):
        from_file(written(tmp_path, questions(n)), **ASK)


# --- where the file is, and loading it again


def test_a_relative_path_is_looked_for_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    written(tmp_path / "data", questions())
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("LOFIT_LENS_DATA", str(tmp_path / "data"))
    assert len(in_order(from_file("own.jsonl", **ASK))) == 20


def test_a_file_of_the_current_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    written(tmp_path / "data", questions(20))
    written(tmp_path, questions(30))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOFIT_LENS_DATA", str(tmp_path / "data"))
    assert len(in_order(from_file("own.jsonl", **ASK))) == 30


@pytest.mark.parametrize(
    "arguments",
    [
        {**ASK, "split": (0.5, 0.2, 0.3), "split_seed": 7, "answer_prefix": ""},
        {"good": "thing", "bad": "colour", "objective": "dpo"},
        {"prompt": "{thing}?", "answer": "colour", "choices": ["colour", "thing"]},
    ],
    ids=["questions", "pairs", "choices"],
)
def test_a_file_is_loaded_again_from_its_source_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    written(tmp_path, questions())
    monkeypatch.chdir(tmp_path)
    task = from_file("own.jsonl", **arguments)
    monkeypatch.chdir("/")
    again = reload_task(json.loads(json.dumps(dict(task.source))))
    assert again == task


def test_a_chosen_name_survives_loading_again(tmp_path: Path) -> None:
    task = from_file(written(tmp_path, questions()), **ASK, name="colours")
    assert reload_task(task.source).name == "colours"
