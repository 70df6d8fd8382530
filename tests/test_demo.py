from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.kinds.demo import KIND, QUICK, WHOLE, Demo, Sample
from lofit_lens.analysis.methods.recipes import OnHeads
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.reporting.demo import settings_of
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.run import run_cells, run_steps
from lofit_lens.analysis.study.step import Step
from lofit_lens.analysis.study.store import Store
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.embedded.settings import TUNING
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.tasks.embedded import embedded
from tests.test_transfer import matrix

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

REFUSE = """
import socket, sys

def refuse(*args, **kwargs):
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
WITHOUT_NETWORK = f"""{REFUSE}
from lofit_lens.analysis.cli.main import main
sys.argv = ["lofit-lens", "demo", "--quick", "--quiet", "--json", "--out", sys.argv[1]]
main()
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A quick demo in a process that cannot reach any network: its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, str(out)],
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_demo_runs_without_a_network_and_names_every_file_it_wrote(
    quick: tuple[Path, dict[str, Any]],
) -> None:
    out, printed = quick
    assert printed["out"] == str(out)
    assert {Path(path).name for path in printed["paths"]} == {
        "table.csv", "table.md", "demo.json", "figure2-10percent.html", "figure3.html",
        "report.html",
    }  # fmt: skip
    assert all(Path(path).is_file() for path in printed["paths"])
    assert (out / "plotly.min.js").is_file()
    for name in ("figure2-10percent.html", "figure3.html"):
        assert 'src="plotly.min.js"' in (out / name).read_text(encoding="utf-8")


def test_the_table_of_the_demo_holds_every_method_on_every_task(
    quick: tuple[Path, dict[str, Any]],
) -> None:
    out, printed = quick
    table = pd.read_csv(out / "table.csv")
    assert set(table["task"]) == {"embedded:truth", "embedded:kinship", "embedded:edit"}
    for _, rows in table.groupby("task"):
        floors = rows["method"].str.startswith("floor: ")
        assert list(rows["method"][~floors]) == [
            "zero-shot", "LoFiT", "random heads", "scale alone", "scale, random"
        ]  # fmt: skip
        assert floors.any() and rows["low"][floors].isna().all()
        scored = rows[~floors]
        assert ((scored["low"] <= scored["value"]) & (scored["value"] <= scored["high"])).all()
    assert [row["value"] for row in printed["table"]] == pytest.approx(table["value"].tolist())


def test_the_table_can_be_made_again_from_the_records_of_the_runs(
    quick: tuple[Path, dict[str, Any]],
) -> None:
    out, printed = quick
    loaded = open_study(out).matrices["10% of heads"]
    assert len(loaded.runs) == 3 * 4
    transfer = pd.DataFrame(printed["transfer"]["0.1"]).fillna(float("nan"))
    for name in ("value", "low", "high", "p_holm"):
        assert loaded.frame()[name].tolist() == pytest.approx(
            transfer[name].astype(float).tolist(), nan_ok=True
        )
    zero_shot = {
        row["task"]: row["value"] for row in printed["table"] if row["method"] == "zero-shot"
    }
    assert {name: e.main.value for name, e in loaded.zero_shot.items()} == pytest.approx(zero_shot)


def test_the_table_and_figure_2_say_the_same_of_own_and_random_heads() -> None:
    transfer = matrix()
    assert len(transfer.draws("random", "kin")) > len(transfer.seeds)
    table = Demo({}, {0.1: transfer}, {0.1: transfer}, Sample("Q", "A", "b", "A")).frame()
    rows = {(row["task"], row["method"]): row for row in table.to_dict("records")}
    for cell in transfer.frame().to_dict("records"):
        if cell["source"] in (cell["task"], "random"):
            method = "random heads" if cell["source"] == "random" else "LoFiT"
            row = rows[cell["task"], method]
            for name in ("value", "low", "high"):
                assert row[name] == cell[name]


def test_tuning_a_few_heads_teaches_kinship_and_random_heads_do_not(
    quick: tuple[Path, dict[str, Any]],
) -> None:
    _, printed = quick
    rows = {(row["task"], row["method"]): row for row in printed["table"]}
    zero, tuned, random = (
        rows["embedded:kinship", method]["value"]
        for method in ("zero-shot", "LoFiT", "random heads")
    )
    assert tuned > zero + 0.4
    assert tuned > random + 0.2
    assert (
        printed["sample"]["before"] != printed["sample"]["after"] == printed["sample"]["expected"]
    )


def test_results_of_a_demo_are_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("mine", encoding="utf-8")
    refused = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    assert (tmp_path / "demo.json").read_text(encoding="utf-8") == "mine"


def test_a_folder_that_does_not_hold_a_demo_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.json.gz").write_text("x", encoding="utf-8")
    with pytest.raises(LofitLensError, match="does not hold a demo"):
        Store(tmp_path, KIND, overwrite=True)
    assert (tmp_path / "runs" / "mine.json.gz").is_file()


def test_overwriting_removes_an_earlier_demo_and_nothing_else(tmp_path: Path) -> None:
    Store(tmp_path / "demo", KIND).tell(**settings_of(QUICK))
    for name in ("table.csv", "figure2-10percent.html", "figure-of-mine.html"):
        (tmp_path / "demo" / name).write_text("x", encoding="utf-8")
    Store(tmp_path / "demo", KIND, overwrite=True).tell(**settings_of(WHOLE))
    left = {path.name for path in (tmp_path / "demo").iterdir()}
    assert left == {"demo.json", "figure-of-mine.html"}
    record = json.loads((tmp_path / "demo" / "demo.json").read_text(encoding="utf-8"))
    assert record["size"]["seeds"] == list(WHOLE.seeds)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(LofitLensError, match="is a file"):
        Store(file, KIND, overwrite=True)


def tuning_cells(model: TransformerBridge) -> list[Cell]:
    """Four short runs on the embedded model, two of which are one job."""
    task = embedded("kinship")
    task = replace(task, train=task.train[:8], test=task.test[:8])
    heads = HeadSet([(1, 0), (2, 1)], n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    settings = Settings(k=2, tuning=replace(TUNING, epochs=1))
    recipe = OnHeads(heads="lofit", does="bias", settings=settings, given=heads)
    return [Cell("a", task, recipe, seed) for seed in (1, 2, 3, 4)]


@dataclass(frozen=True)
class Says(Step[str]):
    """A step of its own for each word."""

    word: str

    @property
    def name(self) -> str:
        return self.word

    def depends(self) -> Any:
        return self.word

    def run(self, bench: Bench, *given: Any) -> str:  # noqa: ARG002
        return self.word


@dataclass(frozen=True, eq=False)
class Stops(Says):
    edit: HeadIntervention | None = None

    def run(self, bench: Bench, *given: Any) -> str:  # noqa: ARG002
        assert self.edit is not None
        raise TrainingStopped("The loss is nan.", self.edit)


class IsKilled(Says):
    def run(self, bench: Bench, *given: Any) -> str:  # noqa: ARG002
        os.kill(os.getpid(), signal.SIGKILL)
        return self.word


@pytest.mark.parametrize(
    ("options", "expected"), [((), 2), (("--workers", "1"), 1), (("--quick",), 1)]
)
def test_a_whole_demo_takes_two_workers_unless_told_otherwise(
    options: tuple[str, ...], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def not_run(*_: object, workers: int, **__: object) -> None:
        asked.append(workers)
        raise LofitLensError("That is all.")

    monkeypatch.setattr("lofit_lens.analysis.kinds.demo.run_demo", not_run)
    monkeypatch.setattr("lofit_lens.analysis.study.engines.usable_workers", lambda: 2)
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), *options])
    assert done.exit_code == 1 and "That is all." in done.stderr
    assert asked == [expected]


def refuse(*args: object) -> None:
    raise OSError("no network in this test")


def test_workers_give_what_one_process_gives_without_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(REFUSE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    model = load_model("embedded", device="cpu", dtype="float32")
    edits: list[dict[int, torch.Tensor]] = []
    for workers in (1, 2):
        edits.append({})
        records = run_cells(
            Bench(model, ()), tuning_cells(model), Store(), together=2, workers=workers,
            keep_edits=True, progress=False,
        )  # fmt: skip
        for record in records:
            assert isinstance(record.edit, HeadIntervention) and record.edit.bias is not None
            edits[-1][record.seed] = record.edit.bias
    here, there = edits
    assert list(here) == list(there) == [1, 2, 3, 4]
    assert all(torch.equal(here[seed], there[seed]) for seed in here)
    assert not torch.equal(here[1], here[2])


@pytest.mark.parametrize("workers", [1, 2])
def test_training_that_stops_in_a_worker_is_told_as_here_after_what_came_before(
    workers: int,
) -> None:
    model = load_model("embedded", device="cpu", dtype="float32")
    heads = HeadSet([(1, 0)], n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    edit = HeadIntervention(heads, bias=torch.randn(1, model.cfg.d_head))
    seen: list[str] = []
    with pytest.raises(TrainingStopped, match="The loss is nan") as stopped:
        run_steps(
            Bench(model, ()), [Says("before"), Stops("stops", edit)], Store(), workers=workers,
            on_done=lambda _, word: seen.append(word), progress=False,
        )  # fmt: skip
    assert seen == ["before"]
    learned = stopped.value.learned
    assert isinstance(learned, HeadIntervention) and learned.bias is not None
    assert edit.bias is not None and torch.equal(learned.bias, edit.bias)


def test_a_worker_that_is_killed_is_told_with_what_to_do() -> None:
    model = load_model("embedded", device="cpu", dtype="float32")
    with pytest.raises(LofitLensError, match="lack of memory"):
        run_steps(Bench(model, ()), [IsKilled("never told")], Store(), workers=2, progress=False)
