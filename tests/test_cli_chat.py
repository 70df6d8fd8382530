"""`--chat` on the command line, in one process."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.main import app
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.scoring import Evaluation

ASK = ("--prompt", "What colour is {thing}?", "--answer", "colour")
SHORT = ("--epochs", "1", "--max-new-tokens", "4", "-q")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "colours.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [[f"thing {i}", "blue" if i % 2 else "red"] for i in range(20)]
        csv.writer(file).writerows([["thing", "colour"], *rows])
    return path


def succeed(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def fail(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 1, done.output
    return " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def run(
    chat_folder: Callable[[str], Path], colours: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """A finished run in the chat template, its model, and what it printed."""
    folder, out = chat_folder("system"), tmp_path_factory.mktemp("work") / "run"
    printed = succeed(
        "lofit", "--model", folder, "--task", colours, *ASK, *SHORT, "--k", 2, "--chat",
        "--system", "Be brief.", "--out", out,
    )  # fmt: skip
    return out, folder, printed


def test_a_run_keeps_the_system_text_and_the_hash_of_the_template(
    run: tuple[Path, Path, dict[str, Any]],
) -> None:
    out, _, _ = run
    kept = json.loads((out / "run.json").read_text())["chat"]
    assert kept["system"] == "Be brief."
    assert len(kept["template"]) == 64
    provenance = HeadIntervention.load(out).provenance
    assert provenance is not None
    assert provenance.task_source["chat"] == kept
    cards = json.loads((out / "cards.json").read_text())
    assert cards["text"].startswith("<|system|>\nBe brief.</s>\n<|user|>\nWhat colour is")


def test_evaluate_takes_the_template_of_the_run_unless_told_otherwise(
    run: tuple[Path, Path, dict[str, Any]], colours: Path, tmp_path: Path
) -> None:
    out, _, printed = run
    common = ("evaluate", "--intervention", out, "-q")
    again = succeed(*common)
    assert again["metrics"]["tuned"] == printed["metrics"]["tuned"]
    named = ("--task", colours, *ASK, "--max-new-tokens", "4")
    records = {}
    for how, options in {
        "run": (), "named": named, "without": ("--no-chat",), "named without": (*named, "--no-chat"),
        "other": ("--chat", "--system", "Be kind."),
    }.items():  # fmt: skip
        file = tmp_path / f"{how}.json.gz"
        succeed(*common, *options, "--out", file)
        records[how] = [record["generated"] for record in Evaluation.load(file).records]
    said = fail(*common, *named, "--system", "Be kind.")
    assert "--system is a part of the chat template; give --chat" in said
    assert records["run"] == records["named"]
    assert records["without"] == records["named without"]
    assert records["without"] != records["run"] != records["other"]


def test_the_setting_of_a_run_holds_where_none_is_given() -> None:
    kept = {"system": "Be brief.", "template": "a0"}
    assert ChatOptions().of_run([{"chat": kept}]) == ChatOptions(True, "Be brief.")
    assert ChatOptions().of_run([{"chat": None}]) == ChatOptions(False)
    for given in (ChatOptions(False), ChatOptions(True, "Be kind."), ChatOptions(None, "Be kind.")):
        assert given.of_run([{"chat": kept}]) == given
    for sources in ([], [{"name": "a.csv"}]):
        assert ChatOptions().of_run(sources) == ChatOptions()


def test_select_and_tune_take_the_template(
    chat_folder: Callable[[str], Path], colours: Path, tmp_path: Path
) -> None:
    common = ("--model", chat_folder("plain"), "--task", colours, *ASK, "--chat", "-q")
    succeed("select", *common, "--epochs", 1, "--k", 2, "--out", tmp_path / "select")
    succeed(
        "tune", *common, "--epochs", 1, "--heads", tmp_path / "select", "--out", tmp_path / "tune"
    )
    for command in ("select", "tune"):
        assert json.loads((tmp_path / command / "run.json").read_text())["chat"]["system"] is None
    tuned = HeadIntervention.load(tmp_path / "tune").provenance
    assert tuned is not None
    assert "chat" in tuned.task_source


def test_compare_and_transfer_take_the_template(
    chat_folder: Callable[[str], Path], colours: Path, tmp_path: Path
) -> None:
    common = ("--model", chat_folder("plain"), "--task", colours, *ASK, *SHORT, "--k", 2, "--chat")
    printed = succeed(
        "compare", *common, "--methods", "repe-contrast", "--out", tmp_path / "compare"
    )
    assert not printed["failures"]
    succeed("transfer", *common, "--out", tmp_path / "transfer", "--random-draws", 0)
    told = json.loads((tmp_path / "transfer" / "transfer.json").read_text())
    assert "chat" in json.dumps(told)


def test_what_cannot_be_is_refused_before_any_work(
    chat_folder: Callable[[str], Path], colours: Path, tmp_path: Path
) -> None:
    common = ("lofit", "--task", colours, *ASK, "--k", 2, "--out", tmp_path / "out", "-q")
    said = fail(*common, "--model", "no-such-model", "--system", "Be brief.")
    assert "--system is a part of the chat template; give --chat" in said
    assert "has no chat template" in fail(*common, "--model", chat_folder("none"), "--chat")
    without_weights = tmp_path / "model"
    shutil.copytree(
        chat_folder("plain"), without_weights, ignore=shutil.ignore_patterns("*.safetensors")
    )
    said = fail(*common, "--model", without_weights, "--chat", "--system", "Be brief.")
    assert "no system turns here" in said
    said = fail(*common, "--model", "no-such-model", "--chat")
    assert "There is no model 'no-such-model' here: no folder" in said
    assert not (tmp_path / "out").exists()
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("sentence_good,sentence_bad\n" + "\n".join(f"a {i},b {i}" for i in range(20)))
    said = fail("evaluate", "--model", "no-such-model", "--task", pairs, "--chat", "-q")
    assert "has no prompt" in said


def test_the_note_that_there_is_a_template_is_one_line_on_standard_error(
    chat_folder: Callable[[str], Path], colours: Path
) -> None:
    program = Path(sys.executable).with_name("lofit-lens")
    arguments = ["evaluate", "--model", chat_folder("plain"), "--task", colours, *ASK, "-q"]
    done = subprocess.run(
        [str(program), *map(str, arguments), "--max-new-tokens", "2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len([line for line in done.stderr.splitlines() if "chat template" in line]) == 1


@pytest.mark.parametrize(("options", "notes"), [((), 1), (("--no-chat",), 0), (("--chat",), 0)])
def test_the_note_is_left_out_where_the_template_is_chosen(
    options: tuple[str, ...],
    notes: int,
    chat_folder: Callable[[str], Path],
    colours: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = ["evaluate", "--model", chat_folder("plain"), "--task", colours, *ASK, "-q"]
    succeed(*arguments, "--max-new-tokens", 2, *options)
    assert len([r for r in caplog.records if "has a chat template" in r.getMessage()]) == notes
