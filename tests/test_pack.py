"""A finished run as one zip: what is in it, that it reads back alike, and what is refused."""

from __future__ import annotations

import json
import os
import random
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_LZMA, ZipFile, ZipInfo

import pytest
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.reading import packed
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.reading.pack import pack
from lofit_lens.analysis.reporting.page import page
from lofit_lens.errors import LofitLensError
from tests.small_study import comparison, edit, matrix, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study of two runs, with a kept edit, a hidden file and a link."""
    place = tmp_path / "study"
    comparison().save(place / "compared")
    matrix().save(place / "transfer")
    edit("truth").save(place / "compared" / "edits" / "one")
    (place / ".hidden").write_text("x")
    (place / "compared" / "link.json").symlink_to(tmp_path / "elsewhere")
    return place


def test_a_packed_study_gives_the_page_of_its_folder(folder: Path) -> None:
    path = pack(folder)
    assert path == folder.with_suffix(".zip")
    found = open_study(path)
    assert found.path == path
    alike = [page(replace(study, path=folder)) for study in (found, open_study(folder))]
    assert alike[0] == alike[1]
    with ZipFile(path) as archive:
        names = archive.namelist()
    assert all(name.startswith("study/") for name in names)
    odd = ("hidden", "link", "safetensors", "edit.json", "intervention")
    assert not any(part in name for name in names for part in odd)


def test_the_same_files_give_the_same_bytes_whenever_they_were_written(
    folder: Path, tmp_path: Path
) -> None:
    first = pack(folder).read_bytes()
    for path in folder.rglob("*.json*"):
        os.utime(path, (0, 0), follow_symlinks=False)
    assert pack(folder, tmp_path / "again.zip").read_bytes() == first
    assert pack(folder, folder / "inside.zip").read_bytes() == first
    assert pack(folder, folder / "inside.zip").read_bytes() == first


def test_edits_go_along_when_asked_for_and_a_run_that_needs_them_says_so(
    folder: Path, tmp_path: Path
) -> None:
    with ZipFile(pack(folder, edits=True)) as archive:
        assert "study/compared/edits/one/intervention.safetensors" in archive.namelist()
    run("truth").save(tmp_path / "lofit")
    with pytest.raises(LofitLensError, match=r"would lose runs of both stages .*--edits"):
        pack(tmp_path / "lofit")
    assert not (tmp_path / "lofit.zip").exists()
    assert open_study(pack(tmp_path / "lofit", edits=True)).runs


def test_the_commands_write_a_pack_and_its_page(folder: Path) -> None:
    told = json.loads(invoke("pack", folder, "--json"))
    path = Path(told["out"])
    assert "is there" in invoke("pack", folder, code=1)
    invoke("pack", folder, "--overwrite")
    invoke("report", path)
    assert "compared" in folder.with_suffix(".html").read_text(encoding="utf-8")
    assert "There is no folder" in invoke("pack", folder / "nowhere", code=1)
    assert "holds a finished run" in invoke("pack", folder.parent / "empty", code=1, made=True)


def invoke(*args: object, code: int = 0, made: bool = False) -> str:
    if made:
        Path(str(args[1])).mkdir()
    done = CliRunner().invoke(app, [*map(str, args)])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.output


def entry(name: str, mode: int = 0) -> ZipInfo:
    info = ZipInfo("x")
    info.filename, info.external_attr = name, mode << 16
    return info


Write = Callable[[ZipFile], object]
HOSTILE: dict[str, Write] = {
    "a parent": lambda z: z.writestr(entry("study/../../out"), "x"),
    "an absolute path": lambda z: z.writestr(entry("/out"), "x"),
    "a drive": lambda z: z.writestr(entry("C:out/x"), "x"),
    "a backslash": lambda z: z.writestr(entry("study\\..\\out"), "x"),
    "a link": lambda z: z.writestr(entry("study/out", stat.S_IFLNK | 0o777), "/etc"),
    "a device": lambda z: z.writestr(entry("study/out", stat.S_IFCHR), ""),
    "a file that is a folder": lambda z: [z.writestr(f"study/{n}", "x") for n in ("a", "a/b")],
    "two folders": lambda z: [z.writestr(f"{n}/a", "x") for n in "ab"],
    "a file at the top": lambda z: z.writestr("study", "x"),
    "nothing": lambda _: None,
    "another compression": lambda z: z.writestr("study/a", "x", ZIP_LZMA),
    "a comment": lambda z: setattr(z, "comment", b"x"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_could_write_outside_its_folder_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / "study.zip"
    path.parent.mkdir()
    with ZipFile(path, "w") as archive:
        HOSTILE[what](archive)
    with pytest.raises(LofitLensError, match=r"study\.zip"):
        open_study(path)
    assert [place.name for place in tmp_path.rglob("*")] == ["in", "study.zip"]


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_BYTES", 1000), ("MOST_FILES", 3), ("LONGEST_LIST", 100)]
)
def test_what_is_too_large_is_refused_before_it_is_unpacked(
    limit: str, value: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(folder)
    monkeypatch.setattr(packed, limit, value)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(LofitLensError, match=r"study\.zip (holds|lists)"):
        open_study(path)


def test_a_damaged_pack_is_told_as_such(folder: Path) -> None:
    path = pack(folder)
    content, draw = path.read_bytes(), random.Random(0)
    for _ in range(200):
        cut = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for _ in range(draw.randrange(1, 4) if cut else 0):
            cut[
                draw.choice([-draw.randrange(1, min(len(cut), 3000)), draw.randrange(len(cut))])
            ] = draw.randrange(256)
        path.write_bytes(cut)
        try:
            open_study(path)
        except LofitLensError as error:
            assert str(error)
