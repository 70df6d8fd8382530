"""The commands of experiments: sweeps, causal curves, heads of any selector, and going on with a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from lofit_lens.analysis.baselines.selectors import by_probes
from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.kinds.curves import CausalCurves
from lofit_lens.analysis.kinds.lofit import KIND as LOFIT
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.study.store import Store
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.tasks import from_file
from lofit_lens.training.history import History


def succeed(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def fail(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
    assert done.exit_code == 1, done.output
    return " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"sentence_good": f"The cat {i} is grey.", "sentence_bad": f"The grey {i} cat is."}
        for i in range(16)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def request_of(tiny_folder: Callable[[str], Path], pairs: Path) -> tuple[object, ...]:
    """The options that all commands here share."""
    return "--model", tiny_folder("llama"), "--task", pairs, "--epochs", 1


@pytest.fixture(scope="module")
def lofit_run(
    request_of: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A finished run with one draw of random heads, and what it printed."""
    out = tmp_path_factory.mktemp("run") / "run"
    return out, succeed("lofit", *request_of, "--k", 3, "--random-draws", 1, "--out", out)


@pytest.fixture
def sweep_of(request_of: tuple[object, ...], tmp_path: Path) -> tuple[object, ...]:
    text = tmp_path / "text.txt"
    text.write_text("The cat is grey.\nWho lives in the old house?\n", encoding="utf-8")
    return *request_of, "--text", text, "--methods", "lofit,random-heads", "--out", tmp_path / "out"


def test_a_sweep_over_examples_writes_what_it_prints_and_goes_on_with_more_numbers(
    sweep_of: tuple[object, ...], tmp_path: Path, scored: list[Any]
) -> None:
    request = ("sweep", "examples", *sweep_of, "--k", 2)
    printed = succeed(*request, "--numbers", "2,4")
    of_lofit = [row["x"] for row in printed["table"] if row["method"] == "lofit"]
    assert of_lofit == [2, 4]
    names = {"table.csv", "sweep.html", "sweep.json"}
    assert {Path(path).name for path in printed["paths"]} == names
    loaded = Sweep.load(tmp_path / "out").frame()
    assert loaded["value"].tolist() == [row["value"] for row in printed["table"]]
    assert pd.read_csv(tmp_path / "out" / "table.csv")["value"].tolist() == pytest.approx(
        loaded["value"].tolist()
    )
    assert len(scored) == 1 + 2 * 2
    assert "--overwrite" in fail(*request)
    more = succeed(*request, "--numbers", "2,4,5", "--resume")
    assert len(scored) == 1 + 2 * 3
    again = [row for row in more["table"] if row["x"] in (2, 4)]
    assert [row["value"] for row in again] == [row["value"] for row in printed["table"]]


def test_a_sweep_over_heads_takes_shares_and_a_wrong_one_leaves_no_folder(
    sweep_of: tuple[object, ...], tmp_path: Path
) -> None:
    assert "examples or heads, got 'layers'" in fail("sweep", "layers", *sweep_of)
    assert "shares of the heads with commas, got 'few'" in fail(
        "sweep", "heads", *sweep_of, "--numbers", "few"
    )
    assert not (tmp_path / "out").exists()
    printed = succeed("sweep", "heads", *sweep_of, "--numbers", "0.1,0.25")
    rows = [row for row in printed["table"] if row["method"] == "random-heads"]
    assert sorted(row["heads"] for row in rows) == [1, 3]


def test_curves_of_a_run_end_at_its_own_scores_and_are_gone_on_with(
    lofit_run: tuple[Path, dict[str, Any]], tmp_path: Path, scored: list[Any]
) -> None:
    run, printed = lofit_run
    request = ("causal", run, "--out", tmp_path / "out", "--draws", 1)
    found = pd.DataFrame(succeed(*request)["table"])
    ends = found[(found["heads"] == "chosen") & (found["k"] == 3)].set_index("curve")["value"]
    before, after = (
        printed["metrics"][name]["accuracy"]["value"] for name in ("zero_shot", "tuned")
    )
    assert (ends["sufficiency"], ends["necessity"]) == (after, before)
    (file,) = (tmp_path / "out").glob("causal-*.json.gz")
    assert CausalCurves.load(file).frame()["value"].tolist() == found["value"].tolist()
    for name in ("causal.html", "table.csv", "causal.json"):
        assert (tmp_path / "out" / name).is_file()
    done = len(scored)
    succeed(*request, "--resume")
    assert len(scored) == done
    assert "--overwrite" in fail(*request)


def test_overwriting_removes_tables_and_figures_of_the_earlier_run_before_new_ones_are_there(
    sweep_of: tuple[object, ...],
    lofit_run: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = ("sweep", "examples", *sweep_of, "--k", 2, "--numbers", "2")
    curves = ("causal", lofit_run[0], "--draws", 1, "--out", tmp_path / "curves")
    for request in (sweep, curves):
        succeed(*request)

    def full(*_: object, **__: object) -> None:
        raise OSError("The disk is full.")

    monkeypatch.setattr("lofit_lens.analysis.reporting.written.write_results", full)
    for request, folder in ((sweep, tmp_path / "out"), (curves, tmp_path / "curves")):
        for_people = [*folder.glob("*.html"), *folder.glob("*.csv"), *folder.glob("*.js")]
        assert len(for_people) == 3
        assert "The disk is full." in fail(*request, "--overwrite")
        assert not any(path.exists() for path in for_people)


def test_curves_can_ask_where_the_model_does_the_task(
    lofit_run: tuple[Path, dict[str, Any]], pairs: Path, tmp_path: Path
) -> None:
    run, _ = lofit_run
    request = ("causal", run, "--no-edit", "--draws", 1, "--out", tmp_path / "out")
    assert "--split is test or val, got 'train'" in fail(*request, "--split", "train")
    assert "the last only with an edit" in fail(*request, "--ablation", "unedited")
    printed = succeed(*request, "--ablation", "zero", "--split", "val")
    assert {row["n"] for row in printed["table"]} == {len(from_file(pairs).val)}


def test_heads_of_probes_can_be_selected_tuned_and_transferred(
    request_of: tuple[object, ...], pairs: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model, task = load_model(tiny_folder("llama"), device="cpu"), from_file(pairs)
    expected = [list(head) for head in by_probes()(model, task, 42).top(k=2)]
    options = (*request_of, "--heads", "probes", "--k", 2)
    selected = succeed("select", *options, "--out", tmp_path / "selected")
    assert selected["heads"] == [expected]
    assert HeadScores.load(tmp_path / "selected" / "scores.json").method == "probes"
    assert succeed("lofit", *options, "--out", tmp_path / "run")["heads"] == [expected]
    succeed("transfer", *options, "--out", tmp_path / "transfer")
    own, drawn = TransferMatrix.load(tmp_path / "transfer").runs
    assert own.heads is not None and [list(head) for head in own.heads] == expected
    assert (own.source, drawn.source) == ("pairs", "random")


def test_a_name_that_chooses_no_heads_is_refused_before_any_work(
    request_of: tuple[object, ...], tmp_path: Path
) -> None:
    for command in ("lofit", "select", "transfer"):
        message = fail(command, *request_of, "--k", 2, "--heads", "best", "--out", tmp_path / "out")
        assert "No head selector is called 'best'" in message
        assert not (tmp_path / "out").exists()


def test_a_run_of_both_stages_that_was_cut_short_is_not_removed_unasked(
    request_of: tuple[object, ...], tmp_path: Path
) -> None:
    Store(tmp_path, LOFIT).tell()
    message = fail("lofit", *request_of, "--k", 3, "--out", tmp_path)
    assert "--resume" in message and "--overwrite" in message
    assert "--resume" not in fail("select", *request_of, "--out", tmp_path)
    assert (tmp_path / LOFIT.marker).is_file()


def test_what_another_command_or_an_earlier_version_left_is_not_gone_on_with(
    request_of: tuple[object, ...], tmp_path: Path, scored: list[Any]
) -> None:
    (tmp_path / "run" / "fold-0").mkdir(parents=True)
    for place in ("tuned.json.gz", "fold-0/scores.json"):
        file = tmp_path / "run" / place
        file.write_bytes(b"as it was")
        told = fail("lofit", *request_of, "--k", 3, "--out", tmp_path / "run", "--resume")
        assert "They can be read, but not gone on with" in told
        assert file.read_bytes() == b"as it was"
        file.unlink()
    assert scored == []


def test_a_run_stopped_while_it_is_scored_has_its_heads_and_its_edit(
    request_of: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(model: Any, task: Any, edit: Any = None, **options: Any) -> Any:
        if edit is not None:
            raise LofitLensError("It stopped.")
        return evaluate(model, task, edit, **options)

    request = ("lofit", *request_of, "--k", 3, "--out", tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr("lofit_lens.analysis.study.score.evaluate", stopped)
        assert "It stopped." in fail(*request)
    edit = HeadIntervention.load(tmp_path / "run")
    tuned = (tmp_path / "run" / "intervention.safetensors").read_bytes()
    heads = HeadSet.load(tmp_path / "run" / "heads.npy", **edit.heads.grid.shape)
    assert heads == edit.heads == HeadScores.load(tmp_path / "run" / "scores.json").top(k=3)
    assert succeed(*request, "--resume")["heads"] == [[list(head) for head in heads]]
    assert (tmp_path / "run" / "intervention.safetensors").read_bytes() == tuned


def test_what_random_and_selected_heads_share_and_fails_is_the_selected_ones_failure(
    request_of: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_: Any, **__: Any) -> Any:
        raise LofitLensError("No rate would do.")

    monkeypatch.setattr("lofit_lens.analysis.methods.steps.with_rate", stopping)
    options = ("--k", 3, "--random-draws", 1, "--tuning-lr", "auto", "--out", tmp_path / "run")
    assert "No rate would do." in fail("lofit", *request_of, *options)


def test_warnings_of_both_stages_are_told_once_each_and_kept(
    request_of: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(History, "warning", lambda _: "It did not learn.")
    options = ("--k", 3, "--random-draws", 2, "--out", tmp_path / "run")
    own, *drawn = hints = succeed("transfer", *request_of, *options)["hints"]
    assert own == "Choosing heads, pairs-42: It did not learn."
    assert len(drawn) == len(set(drawn)) == 3
    assert succeed("transfer", *request_of, *options, "--resume")["hints"] == hints


def test_a_run_of_both_stages_goes_on_with_more_draws(
    request_of: tuple[object, ...],
    lofit_run: tuple[Path, dict[str, Any]],
    scored: list[Any],
) -> None:
    run, printed = lofit_run
    request = ("lofit", *request_of, "--out", run, "--random-draws")
    edit = (run / "intervention.safetensors").read_bytes()
    more = succeed(*request, 2, "--k", 3, "--resume")
    assert len(scored) == 1
    assert set(more["metrics"]) == {"zero_shot", "tuned", "random_0", "random_1"}
    assert {name: more["metrics"][name] for name in printed["metrics"]} == printed["metrics"]
    assert (run / "intervention.safetensors").read_bytes() == edit
    assert "was made with other recipe" in fail(*request, 2, "--k", 2, "--resume")
    assert "give one of them" in fail(*request, 2, "--k", 3, "--resume", "--overwrite")
