"""Figures as SVG, PDF and PNG: kaleido and a real browser."""

from __future__ import annotations

import os
import re
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from lofit_lens.analysis.figures.files import check_formats, write_figure, write_figures
from lofit_lens.analysis.figures.paper import published_figures
from lofit_lens.analysis.figures.presets import for_paper
from lofit_lens.errors import LofitLensError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HERE = find_spec("kaleido") is not None and any(map(shutil.which, BROWSERS))

needs_browser = pytest.mark.skipif(
    not HERE, reason="kaleido (the extra `static`) or a Chrome is not here"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figure 2 of the paper in every format, for a page of print."""
    folder = tmp_path_factory.mktemp("figures") / "new"
    figure = for_paper(published_figures(["paper-figure2"])["paper-figure2"], "wide")
    paths = [folder / f"figure2.{suffix}" for suffix in ("svg", "pdf", "png", "html")]
    assert write_figures(dict.fromkeys(paths, figure)) == paths
    return folder


@needs_browser
def test_the_pdf_has_the_inches_that_were_asked_for(written: Path) -> None:
    content = (written / "figure2.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    (box,) = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content)
    assert float(box[0]) == pytest.approx(6.75 * 72, abs=1)


@needs_browser
def test_the_png_has_about_300_pixels_an_inch(written: Path) -> None:
    content = (written / "figure2.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width == 3 * 96 * 6.75
    assert width / 5 < height < width


@needs_browser
def test_the_svg_holds_the_numbers_as_text_and_no_buttons(written: Path) -> None:
    content = (written / "figure2.svg").read_text(encoding="utf-8")
    for text in ("67.3*", "68.9+", "gemma-7b", "tuned and tested on"):
        assert text in content
    assert "updatemenu-button" not in content


@needs_browser
def test_what_a_browser_cannot_draw_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "chrome"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    figure = published_figures(["paper-figure5"])["paper-figure5"]
    with pytest.raises(LofitLensError, match=r"chrome could not draw .*figure5\.png"):
        write_figure(figure, tmp_path / "figure5.png")
    assert not (tmp_path / "figure5.png").exists()


@needs_browser
def test_a_browser_that_is_not_where_it_is_said_to_be_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BROWSER_PATH", os.fspath(Path("/nowhere/chrome")))
    with pytest.raises(LofitLensError, match="BROWSER_PATH"):
        check_formats(["png"])


def test_html_needs_neither_and_opens_from_its_folder(tmp_path: Path) -> None:
    figure = published_figures(["paper-figure3"])["paper-figure3"]
    path = write_figure(figure, tmp_path / "deep" / "figure3.html")
    assert {found.name for found in path.parent.iterdir()} == {"figure3.html", "plotly.min.js"}
    assert 'src="http' not in path.read_text(encoding="utf-8")


def test_another_suffix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    figure = published_figures(["paper-figure3"])["paper-figure3"]
    with pytest.raises(LofitLensError, match="html, svg, pdf, png; got 'jpg'"):
        write_figures({tmp_path / "new" / "a.html": figure, tmp_path / "new" / "a.jpg": figure})
    assert not (tmp_path / "new").exists()
