"""Options of the commands, read in this process; no model is loaded but where a test says so."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from lofit_lens.analysis.cli.hints import doubt
from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.cli.options import HeadOptions, TrainingOptions
from lofit_lens.analysis.cli.task_options import (
    NO_OPTIONS,
    TaskOptions,
    TasksOptions,
    joined_shares,
)
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.scoring import Evaluation
from lofit_lens.tasks import Task, from_file
from tests.helpers import type_checks_off


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("lofit_lens.model.load_model", load)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of two shapes, a finished edit and a few old results."""
    monkeypatch.chdir(tmp_path)
    for name, columns in (("cats", "q,a"), ("dogs", "question,reply")):
        rows = "".join(f"{name} {i},colour {i}\n" for i in range(20))
        (tmp_path / f"{name}.csv").write_text(f"{columns}\n{rows}", encoding="utf-8")
    heads = HeadSet([(0, 1)], n_layers=3, n_heads=4)
    HeadIntervention(heads, bias=torch.zeros(1, 24), scope="last").save(tmp_path / "edit")
    (tmp_path / "old.json.gz").write_text("old")
    (tmp_path / "old.npy").write_text("old")
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "config.json").write_text("{}")
    return tmp_path


CATS = ("--task", "cats.csv", "--prompt", "{q}:", "--answer", "a")
REFUSED = [
    *(
        ((command, *CATS, "--out", "new", *odd), message)
        for command in ("lofit", "select", "transfer", "compare")
        for odd, message in (
            (("--k", 1, "--fraction", 0.1), "either k or fraction"),
            (("--k", 0), "k must be 1 or more"),
            (("--fraction", 3), "fraction must be in"),
            (("--k", 1, "--tuning-lr", -1), "learning_rate must be greater than 0"),
            (("--k", 1, "--l1", -1), "l1 must be 0 or greater"),
            (("--k", 1, "--scope", "some"), "scope must be one of"),
            (("--k", 1, "--objective", "dpo"), "needs incorrect answers"),
            (("--k", 1, "--objective", "ppo"), "objective must be one of"),
            (("--k", 1, "--preset", "llama9"), "Table 6 of the paper has no row"),
            (("--k", 1, "--shares", "0.4,0.1"), "three positive shares"),
            (("--k", 1, "--train-file", "cats.csv"), "Give either --task or --train-file"),
            (("--k", 1, "--choices", "red", "--choices", "blue"), "give them as labels"),
        )
    ),
    (("lofit", *CATS, "--out", "new"), "Give either k or fraction"),
    (("lofit", *CATS, "--k", 1, "--out", "edit"), "--overwrite"),
    (("tune", *CATS, "--out", "new", "--heads", "nowhere"), "No head list at nowhere"),
    (("tune", *CATS, "--out", "new", "--heads", "edit", "--component", "x"), "component must be"),
    (("compare", *CATS, "--batch-size", "auto"), "needs a number as --batch-size"),
    (("compare", *CATS, "--kl-budget", -1), "kl_budget"),
    (("compare", "--task", "cats.csv?prompt={q}&answer=a", "--task", "cats.csv?prompt=x {q}&answer=a"),
     "Tasks need different names"),
    (("transfer", "--task", "clutrr,cats.csv?answer=a", "--out", "new"), "give --task again for each"),
    (("compare", *CATS, "--text", "nowhere.txt"), "nowhere.txt cannot be read"),
    (("compare", *CATS, "--out", "stock"), "not empty"),
    (("transfer", *CATS, "--out", "stock"), "not empty"),
    (("evaluate", *CATS, "--compat", "paper"), "no compat mode 'paper'"),
    (("evaluate", *CATS, "--split", "train"), "--split is test or val"),
    (("evaluate", *CATS, "--out", "old.json.gz"), "old.json.gz is there"),
    (("evaluate", *CATS, "--out", "stock"), "is a folder"),
    (("evaluate", "--task", "mquake", "--stop", "."), "mquake is fixed"),
    (("evaluate", "--intervention", "edit", "--stop", "."), "stop describes a file"),
    (("export", "--intervention", "edit", "--out", "other"), "depends on the position"),
    (("heads", "edit", "--out", "old.npy"), "old.npy is there"),
    (("report", "edit", "--out", "old.npy"), "old.npy is there"),
]  # fmt: skip


@pytest.mark.usefixtures("here", "no_model")
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_refused_option_is_refused_before_a_model_is_loaded(
    arguments: tuple[object, ...], message: str
) -> None:
    model = () if arguments[0] in ("heads", "report") else ("--model", "some-model")
    with type_checks_off():
        done = invoke(*arguments, *model)
    assert done.exit_code == 1, done.output
    assert message in " ".join(done.stderr.split())
    assert not Path("new").exists()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("size", ["0", "-1", "many", "1.5"])
@pytest.mark.parametrize("option", ["--batch-size", "--micro-batch-size"])
def test_a_batch_size_is_a_number_or_auto(size: str, option: str) -> None:
    done = invoke("lofit", "--out", "x", option, size)
    assert done.exit_code == 2
    assert "neither a whole number" in " ".join(done.stderr.replace("│", " ").split())


def test_every_argument_of_from_file_has_an_option() -> None:
    options = {field.name for field in dataclasses.fields(TaskOptions)}
    for name in inspect.signature(from_file).parameters:
        assert (name in options) != (name in (*NO_OPTIONS, "path")), name


def test_what_is_typed_reaches_from_file(here: Path) -> None:
    typed = TaskOptions(
        task="cats.csv", prompt=r"Q:\t{q}\nA:", answer="a", stop=r"\n\n", shares="0.5, 0.2 0.3",
        split_seed=3, answer_prefix=r"\\",
    )  # fmt: skip
    (task,) = typed.load(42)
    expected = from_file(
        here / "cats.csv", prompt="Q:\t{q}\nA:", answer="a", stop="\n\n", split=(0.5, 0.2, 0.3),
        split_seed=3, answer_prefix="\\",
    )  # fmt: skip
    assert (task.data_hash(), task.scoring) == (expected.data_hash(), expected.scoring)


def test_ready_splits_are_a_column_or_files(here: Path) -> None:
    parts = ["train"] * 10 + ["val"] * 4 + ["test"] * 6
    rows = "".join(f"cat {i},colour {i},{part}\n" for i, part in enumerate(parts))
    (here / "parts.csv").write_text("q,a,part\n" + rows, encoding="utf-8")
    options = {"prompt": "{q}:", "answer": "a"}
    (by_column,) = TaskOptions(task="parts.csv", split_column="part", **options).load(42)
    assert [len(s) for s in (by_column.train, by_column.val, by_column.test)] == [10, 4, 6]
    cats = Path("cats.csv")
    (by_file,) = TaskOptions(train_file=Path("parts.csv"), test_file=cats, **options).load(42)
    assert len(by_file.test) == 20
    assert len(by_file.train) + len(by_file.val) == 20
    (only,) = TasksOptions(train_file=Path("parts.csv"), test_file=cats, **options).load_each(
        42, embedded=False
    )
    assert only[0].data_hash() == by_file.data_hash()


@pytest.mark.usefixtures("here")
def test_files_of_different_shape_are_named_in_one_command() -> None:
    def named(*typed: str, **options: Any) -> list[Task]:
        each = TasksOptions(task=list(typed), **options).load_each(42, embedded=False)
        return [task for folds in each for task in folds]

    cats = from_file("cats.csv", prompt="{q}, is", answer="a")
    dogs = from_file("dogs.csv", prompt="A, b & {question}", answer="reply")
    behind = named(
        "cats.csv?prompt={q}, is&answer=a", "dogs.csv?prompt=A, b & {question}&answer=reply"
    )
    assert [task.data_hash() for task in behind] == [cats.data_hash(), dogs.data_hash()]
    Path("dogs.toml").write_text(
        'file = "dogs.csv"\nprompt = "A, b & {question}"\nanswer = "reply"\n', encoding="utf-8"
    )
    shared = named("cats.csv, dogs.toml,embedded:edit", prompt="{q}, is", answer="a")
    assert [task.name for task in shared] == ["cats", "dogs", "embedded:edit"]
    assert [task.data_hash() for task in shared[:2]] == [cats.data_hash(), dogs.data_hash()]
    Path("cats.csv").rename("cats, all.csv")
    (alone,) = named("cats, all.csv", prompt="{q}, is", answer="a")
    assert alone.data_hash() == cats.data_hash()
    default = TasksOptions().load_each(42, embedded=True)
    assert [folds[0].name for folds in default] == [
        f"embedded:{a}" for a in ("truth", "kinship", "edit")
    ]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--shares", "0.4", "0.1", "0.5", "--k", "3"], ["--shares", "0.4,0.1,0.5", "--k", "3"]),
        (["--shares", "0.4,0.1,0.5", "--k", "3"], ["--shares", "0.4,0.1,0.5", "--k", "3"]),
        (["x", "--shares", ".4", ".1", "1"], ["x", "--shares", ".4,.1,1"]),
        (["--shares", "0.4 0.1 0.5"], ["--shares", "0.4 0.1 0.5"]),
        (["--k", "1", "2", "3"], ["--k", "1", "2", "3"]),
        ([], []),
    ],
)
def test_shares_may_be_typed_with_blanks_or_commas(typed: list[str], read: list[str]) -> None:
    assert joined_shares(typed) == read


def test_heads_that_no_model_has_are_refused_and_others_not() -> None:
    HeadOptions(k=5).check()
    HeadOptions(fraction=0.1).check()
    HeadOptions().check(needed=False)
    for odd in (HeadOptions(), HeadOptions(k=-1), HeadOptions(fraction=0.0)):
        with pytest.raises(LofitLensError):
            odd.check()


def test_evaluate_replaces_a_file_only_when_asked_and_takes_any_batch_size(
    here: Path, tiny_folder: Callable[[str], Path]
) -> None:
    request = ("evaluate", *CATS, "--model", tiny_folder("llama"), "--quiet", "--json")
    done = invoke(*request, "--batch-size", "auto", "--out", "old.json.gz", "--overwrite")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["hints"] == []
    assert (
        Evaluation.load(here / "old.json.gz").main.value
        == printed["metrics"]["zero_shot"]["EM"]["value"]
    )
    again = json.loads(invoke(*request, "--batch-size", 3).stdout)
    assert again["metrics"] == printed["metrics"]


# --- hints


def scored(right: int, n: int = 500, *, other_way: bool = False, floor: float = 0.0) -> Evaluation:
    """So many of n items right: the first ones, or the last."""
    order = range(n - 1, -1, -1) if other_way else range(n)
    records = [{"id": f"i{i}", "group": "", "EM": float(i < right)} for i in range(n)]
    records = [
        record | {"EM": records[place]["EM"]} for record, place in zip(records, order, strict=True)
    ]
    return Evaluation("t", "test", ("EM",), tuple(records), {"chance": floor})


@pytest.mark.parametrize(
    ("tuned", "zero_shot", "random", "floor", "told"),
    [
        (494, 100, [497], 0.0, []),
        (494, 100, [497, 496], 0.0, []),
        (494, 100, [], 0.99, []),
        (400, 100, [497], 0.0, ["random heads (-19.4 points"]),
        (400, 100, [497, 497], 0.0, ["random heads (-19.4 points"]),
        (400, 100, [], 0.9, ["the floor (chance: 90.0)"]),
        (100, 400, [], 0.0, ["the model as it is (-60.0 points"]),
        (100, 400, [200], 0.5, ["the floor", "the model as it is", "random heads (-20.0"]),
        (400, 100, [400], 0.8, []),
    ],
)
def test_learning_rates_are_doubted_only_where_the_interval_says_so(
    tuned: int, zero_shot: int, random: list[int], floor: float, told: list[str]
) -> None:
    evaluations = {
        "zero_shot": scored(zero_shot, floor=floor),
        "tuned": scored(tuned, floor=floor),
        **{f"random_{i}": scored(right, floor=floor) for i, right in enumerate(random)},
    }
    hint = doubt(evaluations)
    if not told:
        assert hint is None
    else:
        assert hint is not None
        assert "95% interval" in hint or "floor" in hint
        for part in told:
            assert part in hint


def test_the_doubt_is_that_of_paired_items() -> None:
    """94.0 against 95.0: nothing where the same items are right, and nothing in another order."""
    for other_way in (False, True):
        evaluations = {
            "zero_shot": scored(0, 100), "tuned": scored(94, 100),
            "random_0": scored(95, 100, other_way=other_way),
        }  # fmt: skip
        assert doubt(evaluations) is None
    differences = np.array([0.0] * 94 + [-1.0] * 6)
    assert differences.mean() == -0.06
    six = {"zero_shot": scored(0, 100), "tuned": scored(94, 100), "random_0": scored(100, 100)}
    hint = doubt(six)
    assert hint is not None
    assert "(-6.0 points" in hint


def test_a_preset_without_a_rate_for_three_per_cent_is_refused_there_alone(here: Path) -> None:
    task = from_file("cats.csv", prompt="{q}:", answer="a", name="siqa")
    options = TrainingOptions(preset="llama2-7b")
    for share in (None, 0.1):
        options.check([task], share)
    with pytest.raises(LofitLensError, match="siqa on 10% of the heads alone"):
        options.check([task], HeadOptions().share(0.03))
    own = dataclasses.replace(options, tuning_lr="0.02")
    own.check([task], 0.03)
    assert own.tuning(task, 0.03).learning_rate == 0.02
    assert HeadOptions(k=3).share(0.03) is None
