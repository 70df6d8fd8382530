"""A kind of experiment is one file and one line; and modules import in any order."""

from __future__ import annotations

import json
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lofit_lens
from lofit_lens import analysis

ROOT = Path(lofit_lens.__file__).parents[1]

DOSE = '''
"""Dose-response: an edit scored at several strengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from lofit_lens.analysis.kinds.causal import InForce
from lofit_lens.analysis.reading.folders import told_of
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.section import Section, percent, plotted
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.cell import Cell
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.run import run_cells
from lofit_lens.analysis.study.store import Kind, Store, read_records

KIND = Kind("dose-response", "dose.json")


@dataclass(frozen=True)
class DoseResponse:
    records: Sequence[Record]

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(
            {"strength": r.cut.get("strength", 0), "value": r.evaluation.main.value}
            for r in self.records
        )

    def plot(self) -> go.Figure:
        frame = self.frame()
        return go.Figure(go.Scatter(x=frame["strength"], y=frame["value"]), {"title": {"text": "Dose"}})


def dose_response(model, task, edit, strengths, *, out=None, **how) -> DoseResponse:
    store = Store.at(out, KIND)
    cells = [Cell.zero_shot(task, 0, 32)]
    for strength in strengths:
        scaled = replace(edit, bias=strength * edit.bias)
        cells.append(Cell("edit", task, InForce(scaled), 0, cut={"strength": strength}))
    records = run_cells(Bench.of(model, ()), cells, store, **how)
    store.finish(records)
    return DoseResponse(records)


def _read(folder: Path, marker: Marker) -> Study:
    _, records = read_records(folder, KIND)
    results = {"dose responses": {folder.name: DoseResponse(records)}}
    return Study(folder, results, provenance={folder.name: {"kind": KIND.name, **told_of(records)}})


def _drawings(study: Study):
    return {f"dose-{name}": dose.plot for name, dose in study.of("dose responses").items()}


def _sections(study: Study) -> Iterator[Section]:
    found = study.of("dose responses").items()
    figures = {name: (dose.plot(), percent(dose.frame())) for name, dose in found}
    return plotted("dose", "Dose and response", figures, plot="dose", shows=("dose",))


def _sentences(study: Study) -> Iterator[str]:
    for dose in study.of("dose responses").values():
        best = dose.frame().sort_values("value").iloc[-1]
        yield f"The best strength is {best['strength']:g}."


def _items(study: Study) -> dict[str, int]:
    found = [dose.records[0] for dose in study.of("dose responses").values()]
    return {record.task: len(record.evaluation.records) for record in found}


DOSE = Row("`dose_response`", _read, KIND, drawings=_drawings, sections=_sections,
           sentences=_sentences, items=_items)
'''

USE = """
import json, sys
from dataclasses import replace
from pathlib import Path

import torch
from typer.testing import CliRunner

import lofit_lens
from lofit_lens.analysis import open_study, report
from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.kinds.dose import dose_response
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.tasks.embedded import embedded

out = Path(sys.argv[1])
model = load_model("embedded", device="cpu", dtype="float32")
task = embedded("kinship")
task = replace(task, test=task.test[:8])
heads = HeadSet([(1, 0)], n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
edit = HeadIntervention(heads, bias=torch.ones(1, model.cfg.d_head))
found = dose_response(model, task, edit, (1.0, 2.0), out=out / "doses", progress=False)
study = open_study(out)
page = report(out).read_text(encoding="utf-8")
drawn = CliRunner().invoke(app, ["figures", str(out), "--out", str(out / "drawn"), "--json"])
told = {
    "from": lofit_lens.__file__,
    "again": study.results["dose responses"]["doses"].frame().equals(found.frame()),
    "rows": len(found.frame()),
    "figures": study.figure_names,
    "repr": repr(study),
    "section": '<section id="dose"' in page and "Dose and response" in page,
    "sentence": "The best strength is" in page,
    "items": "embedded:kinship 8" in page,
    "drawn": [Path(path).name for path in json.loads(drawn.stdout)["paths"]],
    "further": "Further figures" in page,
}
print(json.dumps(told))
"""


def test_a_kind_of_experiment_is_one_file_and_one_line_of_the_table(tmp_path: Path) -> None:
    for name in ("lofit_lens", "analysis"):
        ignored = shutil.ignore_patterns("__pycache__", *(["analysis"] if name[0] == "l" else ()))
        place = tmp_path / ("lofit_lens" if name[0] == "l" else "lofit_lens/analysis")
        shutil.copytree(ROOT / name, place, ignore=ignored)
    kinds = tmp_path / "lofit_lens" / "analysis" / "kinds"
    (kinds / "dose.py").write_text(DOSE, encoding="utf-8")
    table = (kinds / "table.py").read_text(encoding="utf-8")
    line = "from lofit_lens.analysis.kinds.dose import DOSE\n\nKINDS: tuple[Row, ...] = (DOSE, "
    changed = table.replace("KINDS: tuple[Row, ...] = (", line)
    assert changed != table
    (kinds / "table.py").write_text(changed, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "out")],
        cwd=tmp_path, env={**_environment(), "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("from").startswith(str(tmp_path))
    assert "dose responses: 1" in told.pop("repr")
    assert told == {
        "again": True,
        "rows": 3,
        "figures": ["dose-doses"],
        "section": True,
        "sentence": True,
        "items": True,
        "drawn": ["dose-doses.html"],
        "further": False,
    }


@pytest.mark.parametrize("backwards", [False, True])
def test_every_module_imports_in_either_order(backwards: bool) -> None:
    found = pkgutil.walk_packages(analysis.__path__, "lofit_lens.analysis.")
    names = sorted((module.name for module in found), reverse=backwards)
    assert "lofit_lens.analysis.kinds.table" in names
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_spine_imports_nothing_from_above() -> None:
    above = ("analysis.kinds", "analysis.reading", "analysis.reporting", "analysis.figures")
    for path in (ROOT / "analysis" / "study").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [name for name in above if name in text], path


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONWARNINGS": "ignore"}
