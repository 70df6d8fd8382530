"""Files named as tasks: with their arguments behind them, by a task file, by their splits."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.tasks import Task, from_file, load_tasks, reload_task
from lofit_lens.tasks.arguments import ARGUMENTS, unescaped
from lofit_lens.tasks.load import check_not_trained_on, load_each

TASK_FILE = r"""
file = "things.csv"
prompt = '''Q: {q}\nA:'''
answer = "a"
split = [0.5, 0.25, 0.25]
"""


def things(path: Path, n: int = 20, word: str = "thing") -> Path:
    rows = "".join(f"{word} {i},colour {i}\n" for i in range(n))
    path.write_text("q,a\n" + rows, encoding="utf-8")
    return path


def one(name: Any, **options: Any) -> Task:
    (task,) = load_tasks(name, **options)
    return task


def same(task: Task, other: Task) -> bool:
    made = [(t.data_hash(), t.scoring, t.objective, t.floors) for t in (task, other)]
    return made[0] == made[1]


def test_every_argument_of_from_file_is_known_with_its_help_and_its_types() -> None:
    signature = inspect.signature(from_file)
    assert list(ARGUMENTS) == [name for name in signature.parameters if name != "path"]
    assert all(argument.help for argument in ARGUMENTS.values())
    assert ARGUMENTS["answer"].help.startswith("Column of the right answer")
    assert ARGUMENTS["group"].help.endswith("stay together.")
    assert ARGUMENTS["choices"].several
    assert not ARGUMENTS["prompt"].several
    assert ARGUMENTS["split_seed"].read("7") == 7
    assert ARGUMENTS["split"].read("0.4, 0.1 0.5") == (0.4, 0.1, 0.5)
    assert ARGUMENTS["split"].read("part") == "part"
    assert ARGUMENTS["choices"].read(["all"]) == "all"
    assert ARGUMENTS["labels"].read("yes") == ["yes"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"Q: {x}\nA:", "Q: {x}\nA:"),
        (r"a\tb", "a\tb"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"\frac\d", r"\frac\d"),
        ("a\nb", "a\nb"),
        ("\\", "\\"),
    ],
)
def test_a_backslash_is_read_as_it_was_meant(typed: str, meant: str) -> None:
    assert unescaped(typed) == meant


def test_a_task_is_the_same_however_its_options_are_given(tmp_path: Path) -> None:
    file = things(tmp_path / "things.csv")
    (tmp_path / "own.toml").write_text(TASK_FILE, encoding="utf-8")
    shares = (0.5, 0.25, 0.25)
    expected = from_file(file, prompt="Q: {q}\nA:", answer="a", split=shares)
    behind = one(rf"{file}?prompt=Q: {{q}}\nA:&answer=a&shares=0.5,0.25,0.25")
    assert same(behind, expected)
    assert behind.name == "things"
    by_file = one(str(tmp_path / "own.toml"))
    assert same(by_file, expected)
    assert by_file.name == "own"
    assert same(
        one(str(file), options={"prompt": "Q: {q}\nA:", "answer": "a", "split": shares}), expected
    )
    for task in (behind, by_file):
        again = reload_task(json.loads(json.dumps(task.source)))
        assert same(again, expected)
        assert again.name == task.name


def test_what_stands_behind_a_task_file_replaces_what_it_says(tmp_path: Path) -> None:
    file = things(tmp_path / "things.csv")
    (tmp_path / "own.toml").write_text(TASK_FILE, encoding="utf-8")
    task = one(f"{tmp_path / 'own.toml'}?shares=0.4 0.1 0.5")
    assert same(task, from_file(file, prompt="Q: {q}\nA:", answer="a"))


@pytest.mark.parametrize(
    ("typed", "prompt"),
    [
        ("{q}? R&D=?", "{q}? R&D=?"),
        (r"{q}\&x=3", "{q}&x=3"),
        ("{q}, a & b = c", "{q}, a & b = c"),
        ("{q}+1%20=", "{q}+1%20="),
    ],
)
def test_a_prompt_behind_a_file_may_hold_any_character(
    typed: str, prompt: str, tmp_path: Path
) -> None:
    file = things(tmp_path / "a, b.csv")
    typed = typed.replace("&D=", r"\&D=")
    assert same(one(f"{file}?prompt={typed}&answer=a"), from_file(file, prompt=prompt, answer="a"))


def test_an_argument_given_again_makes_a_list(tmp_path: Path) -> None:
    (tmp_path / "moods.csv").write_text(
        "q,a\n" + "".join(f"text {i},{'good' if i % 2 else 'bad'}\n" for i in range(20))
    )
    file = tmp_path / "moods.csv"
    task = one(f"{file}?prompt={{q}}&answer=a&labels=good&labels=bad")
    assert same(task, from_file(file, prompt="{q}", answer="a", labels=["good", "bad"]))


def test_paths_in_a_task_file_count_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    file = things(tmp_path / "data" / "things.csv")
    (tmp_path / "data" / "own.toml").write_text(TASK_FILE, encoding="utf-8")
    expected = from_file(file, prompt="Q: {q}\nA:", answer="a", split=(0.5, 0.25, 0.25))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert same(one("../data/own.toml"), expected)
    monkeypatch.setenv("LOFIT_LENS_DATA", str(tmp_path / "data"))
    assert same(one("own.toml"), expected)


def test_the_splits_may_be_three_files(tmp_path: Path) -> None:
    files = {
        split: str(things(tmp_path / f"{split}.csv", n, word=split))
        for split, n in (("train", 8), ("val", 3), ("test", 5))
    }
    lines = [f'{split} = "{split}.csv"' for split in files]
    (tmp_path / "own.toml").write_text(
        "\n".join([*lines, 'prompt = "{q}:"', 'answer = "a"']), encoding="utf-8"
    )
    by_file, by_splits = (
        one(str(tmp_path / "own.toml")),
        one(files, options={"prompt": "{q}:", "answer": "a"}),
    )
    for task in (by_file, by_splits):
        assert [e.prompt for e in task.train] == [f"train {i}:" for i in range(8)]
        assert [e.prompt for e in task.val] == [f"val {i}:" for i in range(3)]
        assert [e.prompt for e in task.test] == [f"test {i}:" for i in range(5)]
        assert same(reload_task(json.loads(json.dumps(task.source))), task)
    check_not_trained_on(by_file, by_splits.source)


def test_a_file_that_was_trained_on_is_not_scored_under_another_name(tmp_path: Path) -> None:
    options = {"prompt": "{q}:", "answer": "a"}
    files = {s: str(things(tmp_path / f"{s}.csv", word=s)) for s in ("train", "test", "hard")}
    trained = one({"train": files["train"], "test": files["test"]}, options=options)
    harder = one({"train": files["train"], "test": files["hard"]}, options=options)
    check_not_trained_on(harder, trained.source)
    check_not_trained_on(one(files["hard"], options=options), trained.source)
    for odd in (files["train"], {"train": files["test"], "test": files["train"]}):
        with pytest.raises(LofitLensError, match=r"learned on .*train\.csv, which holds test"):
            check_not_trained_on(one(odd, options=options), trained.source)
    with pytest.raises(LofitLensError, match="holds test items"):
        check_not_trained_on(trained, one(files["test"], options=options).source)


def test_shared_options_are_for_the_files_that_do_not_say_them(tmp_path: Path) -> None:
    first, second = (things(tmp_path / f"{name}.csv", word=name) for name in ("cat", "dog"))
    (tmp_path / "cats.toml").write_text('file = "cat.csv"\nprompt = "A {q}:"\n', encoding="utf-8")
    (cats,), (dogs,), (fixed,) = load_each(
        [str(tmp_path / "cats.toml"), str(second), "embedded:truth"],
        options={"prompt": "The {q} is", "answer": "a"},
    )
    assert same(cats, from_file(first, prompt="A {q}:", answer="a"))
    assert same(dogs, from_file(second, prompt="The {q} is", answer="a"))
    assert fixed.name == "embedded:truth"


def test_an_option_that_no_task_takes_is_refused(tmp_path: Path) -> None:
    file = things(tmp_path / "things.csv")
    with pytest.raises(LofitLensError, match="embedded is fixed; stop is for a file"):
        load_each(["embedded:truth"], options={"stop": "."})
    with pytest.raises(
        LofitLensError, match=r"things.csv\?answer=a says it, embedded is fixed; ans"
    ):
        load_each([f"{file}?answer=a", "embedded:truth"], options={"answer": "q"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("things.csv?promt=x", "no option 'promt'. Did you mean prompt"),
        ("things.csv?answer-prefx=x", "Did you mean answer_prefix"),
        ("things.csv?zzz=x", r"no option 'zzz'\. Known: prompt, answer"),
        ("things.csv?split_seed=x", "split_seed takes a whole number, got 'x'"),
        ("things.csv?prompt=x&prompt=y", r"prompt takes text, got \['x', 'y'\]"),
        ("things.csv?shares=1&split_column=q", "says split twice"),
        ("none.toml", "no file|no task file"),
        ("truthfulqa?prompt=x", "no task 'truthfulqa"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_told(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    things(tmp_path / "things.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LofitLensError, match=message):
        load_tasks(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('prompt = "x"', "must name its data.*none of them"),
        ('file = "a.csv"\ntest = "b.csv"', "must name its data.*file, test"),
        ("file = 3", "must be paths in quotes"),
        ("file = a.csv", "is not TOML"),
        ('fil = "a.csv"', "no option 'fil'. Did you mean file"),
        ('file = "a.csv"\nanswr = "a"', "Did you mean answer"),
        ('file = "a.csv"\nprompt = 3', "prompt takes text, got 3"),
        ('file = "a.csv"\nchoices = [1, 2]', "choices takes text or a list of texts"),
        ('file = "none.csv"\nprompt = "{q}"\nanswer = "a"', "no file .*none.csv"),
    ],
)
def test_a_wrong_task_file_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises((LofitLensError, DataError), match=message):
        load_tasks(str(tmp_path / "own.toml"))


def test_of_several_tasks_an_error_says_which(tmp_path: Path) -> None:
    for name, prompt in (("good", "{q}"), ("bad", "{q")):
        told = f'file = "rows.csv"\nprompt = "{prompt}"\nanswer = "a"\n'
        (tmp_path / f"{name}.toml").write_text(told, encoding="utf-8")
    (tmp_path / "rows.csv").write_text("q,a\n" + "who,me\n" * 12, encoding="utf-8")
    names = [str(tmp_path / f"{name}.toml") for name in ("bad", "good")]
    with pytest.raises(LofitLensError, match="is malformed") as error:
        load_each(names)
    assert error.value.__notes__ == [f"This was the task {names[0]}."]
