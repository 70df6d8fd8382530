"""Executed notebooks as pages of the documentation, with figures that stay live and need no network.

python notebooks/as_pages.py build/notebooks docs/tutorials
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import MarkdownExporter
from plotly.offline import get_plotlyjs

from lofit_lens.analysis.figures.files import CONFIG
from lofit_lens.plotting import DARK, TEMPLATE

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
SCRIPT, THEME = "plotly.min.js", "theme.js"
PANDAS_TABLE = '<table border="1" class="dataframe">'
START = "start"
"""The figure of the start page is that of the cell with this tag."""

WIDE = "---\nhide:\n  - toc\n---\n\n"
"""Figures and tables get the room of the table of contents."""

START_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>html, body {{ margin: 0; height: 100% }} .figure {{ height: 100% }}</style>
<script src="{script}"></script>{figure}<script src="{theme}"></script>
"""


def main(executed: Path, pages: Path) -> None:
    """Write a page for every notebook, plotly's script, the themes, and the figure of the start page."""
    pages.mkdir(parents=True, exist_ok=True)
    (pages / SCRIPT).write_text(get_plotlyjs(), encoding="utf-8")
    themes = {"default": _on_the_page(TEMPLATE), "slate": _on_the_page(DARK)}
    script = Path(__file__).with_name("theme.js").read_text(encoding="utf-8")
    (pages / THEME).write_text(f"const themes = {_json(themes)};\n{script}", encoding="utf-8")
    for path in sorted(executed.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        figures = _make_figures_html(notebook, path.stem)
        _drop_progress(notebook)
        text, _ = MarkdownExporter().from_notebook_node(notebook)
        text = text.replace(PANDAS_TABLE, "<table>").replace("](../docs/", "](../")
        if figures:
            scripts = (f'<script src="../{name}"></script>\n' for name in (SCRIPT, THEME))
            text = next(scripts) + "\n" + text + "\n" + next(scripts)
        (pages / f"{path.stem}.md").write_text(WIDE + text, encoding="utf-8")
        if START in figures:
            page = START_PAGE.format(
                title="LoFiT Lens", script=SCRIPT, theme=THEME, figure=figures[START]
            )
            (pages / "start.html").write_text(page, encoding="utf-8")


def _on_the_page(template: Any) -> dict[str, Any]:
    """A template without a ground of its own."""
    content = template.to_plotly_json()
    clear = dict.fromkeys(("paper_bgcolor", "plot_bgcolor"), "rgba(0, 0, 0, 0)")
    return content | {"layout": content["layout"] | clear}


def _make_figures_html(notebook: Any, name: str) -> dict[str, str]:
    """Replace every plotly figure by HTML; returns the HTML by the tags of its cell, or its place."""
    found = {}
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            figure = output.get("data", {}).get(PLOTLY)
            if figure is not None:
                html = _figure_html(figure, f"{name}-{place}")
                output["data"] = nbformat.from_dict({"text/html": html})
                found |= dict.fromkeys([*cell.metadata.get("tags", ()), str(place)], html)
    return found


def _drop_progress(notebook: Any) -> None:
    """Drop what only tells how far a kernel has come: messages, and widgets without an HTML form."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]


def _is_progress(output: Any) -> bool:
    data = output.get("data", {})
    return output.get("name") == "stderr" or (WIDGET in data and "text/html" not in data)


def _figure_html(figure: dict[str, Any], name: str) -> str:
    layout = figure["layout"]
    height = layout.get("height", 450)
    width = f"; max-width: {layout.pop('width')}px" if "width" in layout else ""
    call = f'"{name}", {_json(figure["data"])}, {_json(layout)}, {_json(CONFIG)}'
    return (
        f'<div id="{name}" class="figure" style="height: {height}px{width}"></div>\n'
        f"<script>Plotly.newPlot({call})</script>"
    )


def _json(content: Any) -> str:
    return json.dumps(content).replace("</", "<\\/")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
