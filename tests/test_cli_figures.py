"""`lofit-lens figures`: files of a finished run, or of the paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from lofit_lens.analysis.cli.figures import figures
from lofit_lens.analysis.figures import files
from tests.test_study import write_comparison, write_transfer

app = typer.Typer()
app.command()(figures)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def refused(*arguments: object) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def test_every_figure_of_a_run_is_written_as_a_page_that_needs_no_network(tmp_path: Path) -> None:
    write_transfer(tmp_path / "run")
    out = tmp_path / "out"
    done = invoke(tmp_path / "run", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    names = {
        "figure2-2-of-12", "figure3", "figure6", "chosen",
        *(f"scores-{task}-{seed}" for task in ("a-truth", "kin") for seed in (7, 42)),
    }  # fmt: skip
    assert {Path(path).stem for path in printed["paths"]} == names
    assert {path.name for path in out.iterdir()} == {f"{n}.html" for n in names} | {"plotly.min.js"}
    text = (out / "figure2-2-of-12.html").read_text(encoding="utf-8")
    assert 'src="plotly.min.js"' in text
    assert "updatemenus" in text and 'src="http' not in text


def test_people_get_the_files_one_a_line(tmp_path: Path) -> None:
    done = invoke("paper", "--only", "paper-figure3, paper-figure2", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(tmp_path / "out" / f"paper-figure{n}.html") for n in (3, 2)]
    assert "2 figures as html" in done.stderr
    quiet = invoke("paper", "--only", "paper-figure4", "--out", tmp_path / "out", "--quiet")
    assert quiet.stderr == ""


def test_files_are_replaced_only_on_request(tmp_path: Path) -> None:
    request = ("paper", "--only", "paper-figure2,paper-figure3", "--out", tmp_path)
    mine = tmp_path / "paper-figure3.html"
    mine.write_text("mine", encoding="utf-8")
    assert "--overwrite" in refused(*request)
    assert [path.name for path in tmp_path.iterdir()] == ["paper-figure3.html"]
    assert mine.read_text(encoding="utf-8") == "mine"
    assert invoke(*request, "--overwrite").exit_code == 0
    assert mine.read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--format", "html,tiff"), "html, svg, pdf, png; got 'tiff'"),
        (("--format", ""), "html, svg, pdf, png; got nothing"),
        (("--only", "figure3,figure9"), "There is no figure figure9"),
        (("--only", "figure9"), "There are: figure3, figure6, chosen, forest."),
        (("--only", ","), "Name at least one figure"),
        (("--width", "broad"), "column, text, wide or a number of inches from 1 on; got 'broad'"),
        (("--width", "0.2"), "got '0.2'"),
    ],
)
def test_a_wrong_request_is_told_before_anything_is_written(
    options: tuple[str, str], told: str, tmp_path: Path
) -> None:
    write_comparison(tmp_path / "run")
    assert told in refused(tmp_path / "run", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    assert "holds a finished run" in refused(tmp_path, "--out", tmp_path / "out")
    assert "There is no folder" in refused(tmp_path / "nowhere", "--out", tmp_path / "out")
    out = tmp_path / "file"
    out.write_text("x", encoding="utf-8")
    assert "is a file" in refused("paper", "--out", out)


def test_without_kaleido_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "find_spec", lambda _name: None)
    told = refused("paper", "--format", "html,pdf", "--out", tmp_path / "out")
    assert "pip install 'lofit-lens[static]'" in told
    assert not (tmp_path / "out").exists()


def test_without_a_browser_it_is_told_which_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "find_spec", lambda name: name)
    monkeypatch.setattr(files, "_browser", lambda: None)
    told = refused("paper", "--format", "svg", "--out", tmp_path / "out")
    for way in ("chromium", "plotly_get_chrome", "BROWSER_PATH"):
        assert way in told
    assert not (tmp_path / "out").exists()


def test_a_figure_that_does_not_fit_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(files, "check_formats", lambda _formats: None)
    monkeypatch.setattr(files, "_draw", drawn.extend)
    request = ("paper", "--format", "html,pdf", "--width", "column", "--out", tmp_path, "--json")
    done = invoke(*request, "--only", "paper-figure2,paper-figure5")
    assert done.exit_code == 0, done.output
    assert [path.name for path in drawn] == ["paper-figure5.pdf"]
    printed = json.loads(done.stdout)
    assert len(printed["paths"]) == 3
    assert "It needs about 4." in printed["left_out"][str(tmp_path / "paper-figure2.pdf")]
    assert "paper-figure2.pdf: At 3.25 inches" in done.stderr
    alone = ("paper", "--format", "pdf", "--width", "column", "--only", "paper-figure2")
    assert "It needs about 4." in refused(*alone, "--out", tmp_path)
