"""Figures as files: HTML from plotly itself, pictures from kaleido and a Chrome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lofit_lens.analysis.figures.presets import SCREEN
from lofit_lens.errors import LofitLensError
from lofit_lens.files import write_whole

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d"],
    "toImageButtonOptions": {"format": "svg"},
    "responsive": True,
}
"""Plotly's configuration of every figure on a page: its button that sends a figure to
cloud.plotly.com is left out, because pages ask nothing of a network."""

PICTURES = ("svg", "pdf", "png")
FORMATS = ("html", *PICTURES)
PNG_SCALE = 3
"""Pixels of a PNG for each of the figure: about 300 to the inch in print."""


def write_figure(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure in the format of the file's suffix; see `write_figures`."""
    return write_figures({Path(path): figure})[0]


def write_figures(figures: Mapping[Path, go.Figure]) -> list[Path]:
    """Write figures, each in the format of its file's suffix: .html, .svg, .pdf or .png.

    HTML opens without a network: plotly's script is written once beside the files. The others need
    the extra `static` and a Chrome or Chromium; one browser draws all of them.

    Args:
        figures: The figures by file; folders are made.

    Raises:
        LofitLensError: A suffix is none of these, or kaleido or a browser is missing; nothing is
            written then.
    """
    check_formats([path.suffix[1:] for path in figures])
    for path in figures:
        path.parent.mkdir(parents=True, exist_ok=True)
    pictures = {path: figure for path, figure in figures.items() if path.suffix[1:] in PICTURES}
    if pictures:
        _draw(pictures)
    for path, figure in figures.items():
        if path not in pictures:
            text = figure.to_html(include_plotlyjs="directory", config=CONFIG)
            write_whole(path, text.encode())
            script = path.with_name("plotly.min.js")
            if not script.is_file():
                write_whole(script, get_plotlyjs().encode())
    return list(figures)


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that cannot be written here.

    Raises:
        LofitLensError: A format is unknown, or needs kaleido or a browser and there is none.
    """
    unknown = [repr(name) for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise LofitLensError(
            f"Figures are written as {', '.join(FORMATS)}; got {', '.join(unknown) or 'nothing'}."
        )
    drawn = [name for name in formats if name in PICTURES]
    if drawn and find_spec("kaleido") is None:
        raise LofitLensError(
            f"Writing {drawn[0]} needs kaleido: pip install 'lofit-lens[static]'. HTML needs nothing more."
        )
    if drawn and _browser() is None:
        raise LofitLensError(
            f"Writing {drawn[0]} needs Chrome or Chromium, and none was found. Install one, as by `apt "
            "install chromium` or by running `plotly_get_chrome`; if it lies in an unusual place, name "
            "it in the environment variable BROWSER_PATH. HTML needs nothing more."
        )


def _browser() -> str | None:
    """The browser that kaleido would start, if there is one."""
    from choreographer.browsers.chromium import Chromium

    found = Chromium.find_browser(skip_local=False)
    return found if found and Path(found).is_file() else None


def _draw(pictures: Mapping[Path, go.Figure]) -> None:
    """Have one browser draw all the pictures."""
    import kaleido
    from kaleido.errors import BrowserClosedError, BrowserFailedError, JavascriptError, KaleidoError

    specs = [
        {
            "fig": figure.to_dict(),
            "path": path,
            "opts": {
                "format": path.suffix[1:],
                "width": figure.layout["width"] or SCREEN[0],
                "height": figure.layout["height"] or SCREEN[1],
                "scale": PNG_SCALE if path.suffix == ".png" else 1,
            },
        }
        for path, figure in pictures.items()
    ]
    try:  # no figure has formulas, and kaleido would fetch MathJax from the network
        kaleido.write_fig_from_object_sync(specs, kopts={"mathjax": False}, cancel_on_error=True)
    except (
        BrowserClosedError,
        BrowserFailedError,
        JavascriptError,
        KaleidoError,
        TimeoutError,
    ) as error:
        raise LofitLensError(
            f"{_browser()} could not draw {', '.join(map(str, pictures))}: {error}. Write HTML, or name "
            "another Chrome in the environment variable BROWSER_PATH."
        ) from error
