"""`lofit-lens transfer`: Figure 2 from the command line, and the folder it leaves."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from lofit_lens.analysis.cli.transfer import transfer
from lofit_lens.analysis.figures.transfer import transfer_heatmap
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.stages import select_together, tune_together
from lofit_lens.training import TuningConfig

app = typer.Typer()
app.command()(transfer)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--quiet"])


def refused(*arguments: object) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 1, done.output
    return " ".join(done.stderr.split())


def write_pairs(path: Path, animal: str) -> Path:
    rows = [
        {
            "sentence_good": f"The {animal} {i} is grey.",
            "sentence_bad": f"The grey {i} {animal} is.",
        }
        for i in range(20)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def request_of(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[object, ...]:
    """Two tasks, named in both ways, on a tiny model."""
    data = tmp_path_factory.mktemp("data")
    cats, dogs = (write_pairs(data / f"{name}.jsonl", name) for name in ("cat", "dog"))
    return (
        "--model", tiny_folder("llama"), "--task", cats, "--task", dogs, "--k", 2, "--seeds", 2,
        "--seed", 7, "--epochs", 1, "--random-draws", 2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(
    request_of: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A finished folder, and what was printed."""
    out = tmp_path_factory.mktemp("work") / "out"
    done = invoke(*request_of, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


def test_the_folder_holds_scores_records_table_figure_and_marker(
    made: tuple[Path, dict[str, Any]],
) -> None:
    out, printed = made
    assert {path.name for path in out.iterdir()} == {
        "transfer.json", "table.csv", "figure2.html", "plotly.min.js", "scores", "records", "edits"
    }  # fmt: skip
    assert {Path(path).name for path in printed["paths"]} == {
        "transfer.json", "table.csv", "figure2.html"
    }  # fmt: skip
    scores = sorted(path.name[:-18] for path in (out / "scores").glob("*.json"))
    assert scores == ["cat-7", "cat-8", "dog-7", "dog-8"]
    records = sorted(path.name.removesuffix(".json.gz") for path in (out / "records").iterdir())
    assert len(records) == 2 * 2 * (2 + 2) + 2
    names = sorted(re.sub("-[0-9a-f]{12}$", "", name) for name in records)
    assert names[:3] == ["heads-of-cat-on-cat-7", "heads-of-cat-on-cat-8", "heads-of-cat-on-dog-7"]
    assert names[-4:-2] == ["random-heads-on-dog-8", "random-heads-on-dog-8-1"]
    assert names[-2:] == ["zero-shot-on-cat-7", "zero-shot-on-dog-7"]
    assert sorted(path.name for path in (out / "edits").iterdir()) == records[:-2]
    assert 'src="plotly.min.js"' in (out / "figure2.html").read_text(encoding="utf-8")


def test_the_marker_tells_how_it_was_made(made: tuple[Path, dict[str, Any]]) -> None:
    out, printed = made
    marker = json.loads((out / "transfer.json").read_text(encoding="utf-8"))
    assert (marker["schema"], marker["kind"]) == (2, "transfer of heads")
    assert (marker["k"], marker["seeds"], marker["random_draws"]) == (2, [7, 8], 2)
    assert Path(marker["loaded"]["model"]).name == "llama"
    assert marker["loaded"]["dtype"] == "float32"
    assert list(marker["tasks"]) == ["cat", "dog"]
    assert marker["tasks"]["cat"]["source"]["name"].endswith("cat.jsonl")
    assert len(marker["tasks"]["cat"]["data_hash"]) == 64
    assert marker["tuning"]["dog"] == TuningConfig(epochs=1, seed=7).to_json()
    assert marker["selection"]["cat"]["epochs"] == 1
    assert "torch" in marker["versions"]
    assert marker["table"] == printed["table"]


def test_the_matrix_and_its_figure_are_made_again_without_the_model(
    made: tuple[Path, dict[str, Any]],
) -> None:
    out, printed = made
    matrix = TransferMatrix.load(out)
    assert (matrix.tasks, matrix.seeds) == (("cat", "dog"), (7, 8))
    assert matrix.sources == ("cat", "dog", "random")
    table = pd.read_csv(out / "table.csv")
    expected = matrix.frame(zero_shot=True)
    assert list(table.columns) == ["model", *expected.columns]
    assert set(table["model"]) == {"llama"}
    for name in ("source", "task", "n", "seeds"):
        assert table[name].tolist() == expected[name].tolist()
    marks = [mark if isinstance(mark, str) else "" for mark in table["mark"]]
    assert marks == expected["mark"].tolist()
    for name in ("value", "low", "high", "relative", "p", "p_holm"):
        assert table[name].tolist() == pytest.approx(expected[name].tolist(), nan_ok=True)
    assert expected["source"].tolist()[-2:] == ["zero-shot"] * 2
    assert [row["value"] for row in printed["table"]] == pytest.approx(expected["value"].tolist())
    shown: Any = transfer_heatmap(pd.read_csv(out / "table.csv"))
    assert shown.layout.annotations[0].text == "<b>llama</b>"
    for run in matrix.runs:
        if run.source != "random":
            (scores,) = (out / "scores").glob(f"{run.source}-{run.seed}-*.json")
            assert run.heads == HeadScores.load(scores).top(k=2)
        assert run.config is not None and run.config["seed"] == run.seed


def test_a_finished_folder_is_replaced_only_when_asked(
    made: tuple[Path, dict[str, Any]], request_of: tuple[object, ...], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made[0], tmp_path / "out"))
    table = (out / "table.csv").read_bytes()
    assert "--overwrite" in refused(*request_of, "--out", out)
    assert "no task 'cats'" in refused(*request_of, "--task", "cats", "--out", out, "--overwrite")
    assert "500" in refused(*request_of, "--k", 500, "--out", out, "--overwrite")
    assert (out / "table.csv").read_bytes() == table
    done = invoke(*request_of, "--seeds", 1, "--random-draws", 1, "--out", out, "--overwrite")
    assert done.exit_code == 0, done.output
    assert TransferMatrix.load(out).seeds == (7,)
    assert len(list((out / "records").iterdir())) == 2 * 3 + 2
    for part in ("heads from", "random", "zero-shot", "Holm-corrected", "figure2.html"):
        assert part in done.stdout


def test_an_unfinished_or_foreign_folder_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match="No transfer of heads at"):
        TransferMatrix.load(tmp_path)
    for schema in (1, 2):  # 1 is that of earlier versions
        (tmp_path / "transfer.json").write_text(f'{{"schema": {schema}}}', encoding="utf-8")
        with pytest.raises(LofitLensError, match="was not finished"):
            TransferMatrix.load(tmp_path)


def test_wrong_requests_are_told_and_leave_no_folder(
    request_of: tuple[object, ...], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    again = request_of[request_of.index("--task") + 1]
    assert "comes once" in refused(*request_of, "--task", again, *out)
    assert "Say which tasks" in refused("--model", tiny_folder("llama"), "--k", 2, *out)
    assert "either k or fraction" in refused(*request_of, "--fraction", 0.1, *out)
    assert "no row 'llama2-7b', 'cat'" in refused(*request_of, "--preset", "llama2-7b", *out)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_matrix_is_gone_on_with_and_grows(
    made: tuple[Path, dict[str, Any]],
    request_of: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, out, made_again = TransferMatrix.load(made[0]), tmp_path / "out", Counter[str]()
    fail_after(monkeypatch, made_again, "tune_together", 5)
    stopped = invoke(*request_of, "--together", 5, "--out", out)
    assert isinstance(stopped.exception, KeyboardInterrupt) or stopped.exit_code == 130
    assert len(list((out / "scores").glob("*.json"))) == 4
    kept = [path.name for path in (out / "records").iterdir()]
    assert sum(not name.startswith("zero-shot-") for name in kept) == 5
    assert any(name.startswith("zero-shot-on-cat-") for name in kept)
    with pytest.raises(LofitLensError, match="--resume"):
        TransferMatrix.load(out)

    made_again.clear()
    fail_after(monkeypatch, made_again, "tune_together", 100)
    done = invoke(*request_of, "--out", out, "--resume")
    assert done.exit_code == 0, done.output
    assert made_again == {"tune_together": 16 - 5}
    pd.testing.assert_frame_equal(TransferMatrix.load(out).frame(), whole.frame())

    made_again.clear()
    done = invoke(*request_of, "--seeds", 3, "--random-draws", 3, "--out", out, "--resume")
    assert done.exit_code == 0, done.output
    assert made_again == {"tune_together": 2 * 3 * 5 - 16, "select_together": 2}
    assert TransferMatrix.load(out).seeds == (7, 8, 9)
    table = pd.read_csv(out / "table.csv")["value"].tolist()
    assert table == pytest.approx(TransferMatrix.load(out).frame(zero_shot=True)["value"].tolist())


def fail_after(
    monkeypatch: pytest.MonkeyPatch, counts: Counter[str], name: str, times: int
) -> None:
    """Count the runs of each stage, and interrupt one."""
    for stage in (select_together, tune_together):

        def counted(
            model: Any, task: Any, runs: Any, stage: Any = stage, **options: Any
        ) -> list[Any]:
            if stage.__name__ == name and counts[name] == times:
                raise KeyboardInterrupt
            counts[stage.__name__] += len(runs)
            return stage(model, task, runs, **options)

        monkeypatch.setattr(f"lofit_lens.analysis.methods.steps.{stage.__name__}", counted)


def test_a_matrix_saved_from_python_is_not_gone_on_with(
    made: tuple[Path, dict[str, Any]], request_of: tuple[object, ...], tmp_path: Path
) -> None:
    saved = TransferMatrix.load(made[0]).save(tmp_path / "saved")
    assert "made with other " in refused(*request_of, "--out", saved, "--resume")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (("--k", 3), "recipe.k"),
        (("--tuning-lr", 0.5), "recipe.tuning.learning_rate"),
        (("--l1", 0.5), "recipe.ranked_by.l1"),
        (("--heads", "probes"), "recipe.heads, recipe.ranked_by"),
    ],
)
def test_another_request_is_not_gone_on_with(
    made: tuple[Path, dict[str, Any]],
    request_of: tuple[object, ...],
    changes: tuple[object, ...],
    what: str,
) -> None:
    out, _ = made
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    told = refused(*request_of, *changes, "--out", out, "--resume")
    assert f"seed 7, was made with other {what}." in told
    assert "one of them" in refused(*request_of, "--out", out, "--resume", "--overwrite")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_fewer_seeds_and_draws_need_no_work_and_the_rest_stays(
    made: tuple[Path, dict[str, Any]],
    request_of: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Path(shutil.copytree(made[0], tmp_path / "out"))
    before = sorted((out / "records").iterdir())
    counts = Counter[str]()
    fail_after(monkeypatch, counts, "tune_together", 0)
    done = invoke(*request_of, "--seeds", 1, "--random-draws", 1, "--out", out, "--resume")
    assert done.exit_code == 0, done.output
    assert not counts and sorted((out / "records").iterdir()) == before
    less = TransferMatrix.load(out)
    assert (less.seeds, len(less.runs)) == ((7,), 2 * 3)


def test_tasks_whose_names_are_alike_in_files_have_files_of_their_own(
    request_of: tuple[object, ...], tmp_path: Path
) -> None:
    both = [write_pairs(tmp_path / f"{name}.jsonl", "cow") for name in ("the cow", "the-cow")]
    out = tmp_path / "out"
    done = invoke(
        *request_of[:2], "--task", both[0], "--task", both[1], "--k", 2, "--epochs", 1, "--out", out
    )
    assert done.exit_code == 0, done.output
    assert len(list((out / "scores").glob("the-cow-42-*.json"))) == 2
    assert TransferMatrix.load(out).tasks == ("the cow", "the-cow")
    assert len(list((out / "records").iterdir())) == len(TransferMatrix.load(out).runs) + 2 == 8


@pytest.mark.real
def test_one_fold_of_truthfulqa_is_taken_and_said(
    tiny_folder: Callable[[str], Path], data_dir: Path, tmp_path: Path
) -> None:
    base = ("--model", tiny_folder("llama"), "--data-dir", data_dir, "--k", 500)
    both = refused(*base, "--task", "truthfulqa", "--out", tmp_path / "out")
    assert "truthfulqa: only truthfulqa:0. For the other fold name it, as truthfulqa:1." in both
    two = refused(*base, "--task", "truthfulqa:0,truthfulqa:1", "--out", tmp_path / "out")
    assert "of TruthfulQA one fold" in two
    assert not (tmp_path / "out").exists()
