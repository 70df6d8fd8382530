"""The page: a study's sections with everything they need inside one file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from plotly.offline import get_plotlyjs

from lofit_lens.analysis.figures.files import CONFIG
from lofit_lens.analysis.inside.explorer.card_html import CARD_CSS
from lofit_lens.analysis.kinds.table import KINDS
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.reporting.markup import as_script, definitions
from lofit_lens.analysis.reporting.origins import (
    provenance_section,
    reproduce_section,
    summary_section,
)
from lofit_lens.analysis.reporting.plots import traces_frame
from lofit_lens.analysis.reporting.section import Section, plotted
from lofit_lens.errors import LofitLensError
from lofit_lens.files import write_whole
from lofit_lens.plotting import DARK, TEMPLATE
from lofit_lens.provenance import library_versions

if TYPE_CHECKING:
    from lofit_lens.analysis.reading.study import Study

PACKAGE = "lofit_lens.analysis.reporting"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
"""The browser refuses whatever would come from a network."""

LAST = ("further", "costs", "provenance", "reproduce")
"""The sections at the end."""


def report(folder: str | Path, *, out: str | Path | None = None, title: str | None = None) -> Path:
    """Write one HTML page of a finished study: tables, figures, head cards, costs, provenance.

    The page opens without a server or a network, and can be mailed.

    Args:
        folder: What `open_study` reads: the `--out` of a command, a folder of several, or a zip that
            `pack` wrote.
        out: The file; default `report.html` in the folder, or beside the zip with its name.
        title: The heading; default the name of the folder.

    Returns:
        The file.

    Raises:
        LofitLensError: There is no finished run in the folder, or a damaged one, or `out` is a
            folder.
    """
    folder = Path(folder)
    if out is None:
        out = folder.with_suffix(".html") if folder.is_file() else folder / "report.html"
    out = Path(out)
    if out.is_dir():
        raise LofitLensError(f"{out} is a folder; name a file, as {out / 'report.html'}.")
    return write_whole(out, page(open_study(folder), title=title).encode())


def page(study: Study, *, title: str | None = None) -> str:
    """The page as text.

    Args:
        study: The study.
        title: The heading; default its name.
    """
    parts = sections(study)
    title = escape(title or study.name)
    links = "".join(f'<li><a href="#{part.name}">{escape(part.title)}</a></li>' for part in parts)
    body = "\n".join(
        f'<section id="{part.name}" aria-labelledby="{part.name}-title">'
        f'<h2 id="{part.name}-title">{escape(part.title)}</h2>\n{part.body}\n</section>'
        for part in parts
    )
    figures = {plot.name: plot.json() for part in parts for plot in part.plots}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}: LoFiT Lens</title>
<link rel="icon" href="data:,">
<style>
{CARD_CSS}
{_file("style.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header>
<div class="top"><h1>{title}</h1><button type="button" id="theme" hidden>Dark theme</button></div>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<noscript><p>Figures and head cards need JavaScript; tables and texts do not.</p></noscript>
</header>
<main id="main" tabindex="-1">
{body}
</main>
<footer><p>Made with LoFiT Lens {library_versions()["lofit-lens"]}.</p></footer>
{as_script({"light": TEMPLATE, "dark": DARK}, "templates")}
{as_script(CONFIG, "config")}
{as_script(figures, "figures")}
<script>{get_plotlyjs()}</script>
<script>
{_file("page.js")}</script>
</body>
</html>
"""


def sections(study: Study) -> list[Section]:
    """The sections that a study has something for: the summary, those of each kind, the origins."""
    made = [summary_section(study)]
    made += [section for row in KINDS for section in row.sections(study)]
    shown = tuple(start for section in made for start in section.shows)
    made += [*_further(study, shown), *_seconds(study)]
    made += [provenance_section(study), reproduce_section(study)]
    found: dict[str, Section] = {}
    for part in made:
        there = found.setdefault(part.name, part)
        if there is not part:
            body, plots = f"{there.body}\n{part.body}", there.plots + part.plots
            found[part.name] = replace(there, body=body, plots=plots)
    return sorted(found.values(), key=lambda one: one.name in LAST and 1 + LAST.index(one.name))


def _further(study: Study, shown: tuple[str, ...]) -> Iterator[Section]:
    """The figures of a study that no other section shows."""
    names = [name for name in study.figure_names if not name.startswith(shown)]
    drawn = study.figures(names) if names else {}
    pairs = {name: (figure, traces_frame(figure)) for name, figure in drawn.items()}
    return plotted("further", "Further figures", pairs)


def _seconds(study: Study) -> Iterator[Section]:
    """How long each run took."""
    seconds = {
        name: f"{told['seconds']:,.0f} seconds"
        for name, told in study.provenance.items()
        if told.get("seconds")
    }
    if seconds:
        yield Section("costs", "Costs", definitions(seconds))


def _file(name: str) -> str:
    return (files(PACKAGE) / name).read_text(encoding="utf-8")
