"""Studies run: one folder for each part, resumed, watched, reported and done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.plan.folder import MARKER, StudyFolder
from lofit_lens.analysis.plan.plan import plan_study
from lofit_lens.analysis.plan.reproduce import TOLERANCE, differences, reproduce
from lofit_lens.analysis.plan.run_study import StudyRun, run_study
from lofit_lens.analysis.plan.status import PartStatus, StudyStatus, study_status
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.study.record import Record
from lofit_lens.errors import LofitLensError
from lofit_lens.files import write_json_gz

STUDY = """name = "tiny, every kind"
[[models]]
model = "{model}"
name = "tiny"
device = "cpu"
[[tasks]]
task = "{pairs}"
name = "pairs"
[settings]
k = 2
epochs = 1
[[experiments]]
kind = "compare"
methods = ["iti", "lofit"]
seeds = [1, 2]
[[experiments]]
kind = "transfer"
[[experiments]]
kind = "sweep-examples"
examples = [4]
[[experiments]]
kind = "sweep-heads"
fractions = [0.5]
[[experiments]]
kind = "lofit"
[[experiments]]
kind = "causal"
ks = [0, 1]
random_draws = 1
"""


@pytest.fixture(scope="module")
def file(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    rows = [
        {"sentence_good": f"The cat {i} is grey.", "sentence_bad": f"The grey {i} cat is."}
        for i in range(24)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = STUDY.format(model=tiny_folder("llama"), pairs=folder / "pairs.jsonl")
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return folder / "study.toml"


@pytest.fixture(scope="module")
def done(file: Path) -> StudyRun:
    return run_study(file, file.parent / "out", together=3, progress=False)


def records(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*/records/*.json.gz"))


def test_a_run_fills_a_folder_for_each_part_with_the_cells_that_were_planned(
    file: Path, done: StudyRun
) -> None:
    assert (done.failed, done.left_out) == ({}, [])
    assert (done.folder / "study.toml").read_bytes() == file.read_bytes()
    for planned in plan_study(file).parts:
        found = list((done.folder / planned.part.folder / "records").glob("*.json.gz"))
        assert len(found) == planned.cost.cells, planned.part.folder


def test_what_parts_on_one_model_have_in_common_is_trained_once(done: StudyRun) -> None:
    stages = {
        part: [
            step
            for file in (done.folder / f"tiny-{part}" / "records").glob("*.json.gz")
            for step in Record.load(file).steps
            if step["step"] == "pairs-42"
        ]
        for part in ("transfer", "sweep-heads")
    }
    found = {json.dumps(step, sort_keys=True) for steps in stages.values() for step in steps}
    assert all(stages.values())
    assert len(found) == 1  # with the same seconds
    for part in stages:
        assert len(list((done.folder / f"tiny-{part}" / "scores").glob("*.json"))) == 1


def test_the_page_and_the_reader_have_every_part(done: StudyRun) -> None:
    assert done.report is not None
    assert "tiny, every kind" in done.report.read_text(encoding="utf-8")
    study = open_study(done.folder)
    assert not study.left_out
    for found in (study.comparisons, study.matrices, study.sweeps, study.runs, study.curves):
        assert found


def test_the_status_counts_what_is_done(done: StudyRun, tmp_path: Path) -> None:
    whole = study_status(done.folder)
    assert all(part.done == part.cells for part in whole.parts)
    assert whole.hours_left == 0
    shutil.copytree(done.folder, tmp_path / "out")
    gone, copied, damaged = records(tmp_path / "out")[:3]
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:50])
    shutil.copy(copied, copied.with_name("copy-of-it.json.gz"))
    (gone.parent.parent / "claims").mkdir()
    (gone.parent.parent / "claims" / "key.json").write_text("{}", encoding="utf-8")
    found = study_status(tmp_path / "out")
    parts = {part.part: part for part in found.parts}
    part = parts[gone.parents[1].name]
    assert (part.left, part.running) == (2, 1)
    (error,) = found.errors[part.part]
    assert damaged.name in error and "Remove it" in error


def test_what_is_left_is_reckoned_by_the_pace_of_what_is_done() -> None:
    begun = PartStatus("a", 4, 2, 0, 0, seconds=7200.0, planned=2.0)  # 2 h, 1 h was planned
    waiting = PartStatus("b", 10, 0, 0, 0, seconds=0.0, planned=3.0)
    unknown = PartStatus("c", None, 0, 0, 0, seconds=0.0, planned=None)
    found = StudyStatus("s", [begun, waiting], [], {})
    assert found.hours_left == pytest.approx(2 + 3 * 2)
    assert "2 of 14 cells, about 8.0 h left" in repr(found)
    found = StudyStatus("s", [begun, unknown], [], {})
    assert found.hours_left is None
    assert "2 of 4 cells and those of parts marked ?" in repr(found)


def test_a_finished_study_is_not_run_again_and_a_part_that_is_missing_is(
    file: Path, done: StudyRun, tmp_path: Path
) -> None:
    shutil.copytree(done.folder, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "tiny-transfer")
    before = {path: path.stat().st_mtime_ns for path in records(tmp_path / "out")}
    run_study(file, tmp_path / "out", resume=True, progress=False)
    after = {path: path.stat().st_mtime_ns for path in records(tmp_path / "out")}
    assert before.items() < after.items()
    assert [path.name for path in records(tmp_path / "out")] == [
        p.name for p in records(done.folder)
    ]


def test_a_folder_is_refused_that_holds_this_study_another_or_anything_else(
    file: Path, done: StudyRun, tmp_path: Path
) -> None:
    with pytest.raises(LofitLensError, match="--resume"):
        run_study(file, done.folder, progress=False)
    other = tmp_path / "other.toml"
    other.write_text(file.read_text(encoding="utf-8").replace("k = 2", "k = 1"), encoding="utf-8")
    with pytest.raises(LofitLensError, match="another study"):
        run_study(other, done.folder, resume=True, progress=False)
    with pytest.raises(LofitLensError, match="not empty"):
        run_study(file, tmp_path, progress=False)


def test_a_part_that_fails_is_told_the_others_go_on_and_it_is_tried_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LofitLensError("broken")

    short = tmp_path / "short.toml"
    text = file.read_text(encoding="utf-8")
    kept = text[: text.index('[[experiments]]\nkind = "sweep-examples"')]
    short.write_text(kept.replace('"iti", ', ""), encoding="utf-8")
    told: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("lofit_lens.analysis.plan.experiments.transfer_matrix", broken)
        run = run_study(
            short, tmp_path / "out", progress=False, on_failure=lambda e: told.append(str(e))
        )
    assert told == ["tiny-transfer: broken"]
    assert run.failed == {"tiny-transfer": ["broken"]}
    assert study_status(run.folder).errors == run.failed
    again = run_study(short, tmp_path / "out", resume=True, progress=False)
    assert again.failed == {}
    assert (run.folder / "tiny-transfer" / "figure2.html").is_file()
    assert again.report is not None
    assert "tiny-transfer" in again.report.read_text(encoding="utf-8")


def test_nothing_is_begun_when_the_budget_is_spent_and_the_budget_may_be_raised(
    file: Path, tmp_path: Path
) -> None:
    hasty, patient = tmp_path / "hasty.toml", tmp_path / "patient.toml"
    text = file.read_text(encoding="utf-8")
    text = text[: text.index('[[experiments]]\nkind = "transfer"')].replace('"iti", ', "")
    hasty.write_text(f"budget_hours = 1e-9\n{text}", encoding="utf-8")
    patient.write_text(f"budget_hours = 1.0\n{text}", encoding="utf-8")
    run = run_study(hasty, tmp_path / "out", progress=False)
    assert (run.left_out, run.report) == (["tiny-compare"], None)
    (part,) = study_status(run.folder).parts
    (planned,) = plan_study(hasty).parts
    assert (part.cells, part.left, part.done) == (planned.cost.cells, planned.cost.cells, 0)
    assert study_status(run.folder).hours_left == pytest.approx(planned.hours)
    assert "Not all" in repr(plan_study(hasty))
    again = run_study(patient, tmp_path / "out", resume=True, progress=False)
    assert again.left_out == []
    assert again.report is not None


def test_reproduce_confirms_records_and_finds_one_that_was_changed(
    done: StudyRun, tmp_path: Path
) -> None:
    n = len(records(done.folder))
    found = reproduce(done.folder, cells=n, progress=False)
    assert len(found.cells) == n
    assert {cell.difference for cell in found.cells} == {0.0}, found
    assert {c.tolerance for c in found.cells if c.part == "tiny-compare"} == {0.0}
    # what they share with others may have been trained beside other runs there
    assert {c.tolerance for c in found.cells if c.part == "tiny-transfer"} == {TOLERANCE}
    shutil.copytree(done.folder, tmp_path / "out")
    path = next(path for path in records(tmp_path / "out") if "iti" in path.name)
    content = Record.load(path).to_json()
    content["evaluation"]["records"][0]["accuracy"] = 0.5
    write_json_gz(path, content)
    changed = [
        cell
        for cell in reproduce(tmp_path / "out", cells=n, progress=False).cells
        if not cell.holds
    ]
    assert [cell.record for cell in changed] == [path.name.removesuffix(".json.gz")]
    assert changed[0].where == "evaluation.records[0].accuracy"


def test_on_another_machine_records_are_compared_within_a_tolerance(
    done: StudyRun, tmp_path: Path
) -> None:
    shutil.copytree(done.folder, tmp_path / "out")
    folder = StudyFolder.opened(tmp_path / "out")

    for part in folder.told["parts"].values():
        part["ran"]["cpu"] = "another"
    folder.save()
    (cell,) = reproduce(tmp_path / "out", cells=1, progress=False).cells
    assert cell.tolerance > 0
    assert json.loads((tmp_path / "out" / MARKER).read_text(encoding="utf-8"))["schema"] == 1


def test_the_command_line_says_the_same(done: StudyRun, file: Path, tmp_path: Path) -> None:
    def said(*words: object) -> tuple[int, str]:
        found = CliRunner().invoke(app, [*map(str, words)])
        return found.exit_code, found.stdout if found.exit_code == 0 else found.output

    planned, status = (
        json.loads(said(*words, "--json")[1]) for words in (("plan", file), ("status", done.folder))
    )
    cells = {part["part"]: part["done"] for part in status["parts"]}
    assert sum(row["cells"] for row in planned["table"]) == sum(cells.values())
    code, text = said("reproduce", done.folder, "--cells", 1, "--quiet")
    assert code == 0 and "1 of 1 records confirmed" in text
    code, text = said("run", file, "--out", done.folder)
    assert code == 1 and "--resume" in text
    code, text = said("status", tmp_path)
    assert code == 1 and "No study" in text


def test_differences_name_the_place_and_leave_out_the_costs() -> None:
    one = {"a": [1.0, {"b": 2}], "seconds": 1, "c": float("nan"), "d": "x"}
    assert list(differences(one, one | {"seconds": 2})) == []
    assert list(differences(one, one | {"a": [1.5, {"b": 2}]})) == [("a[0]", 0.5)]
    assert list(differences(one, one | {"d": None})) == [("d", float("inf"))]
