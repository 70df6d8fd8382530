"""Heads in the table of kinds: by layer and one by one, whichever kind chose or edited them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from lofit_lens.analysis.figures.drawing import Drawings, named, short
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.inside.layers import LayerDistribution
from lofit_lens.analysis.inside.overlap import head_overlap
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.heads import heads_section
from lofit_lens.analysis.reporting.plots import Plot
from lofit_lens.analysis.reporting.section import Section, plotted
from lofit_lens.analysis.runs import CARDS as CARDS_FILE
from lofit_lens.analysis.study.keys import plain
from lofit_lens.heads import HeadSet

_FILES = "layers*.json"


def _read_layers(folder: Path, marker: Marker) -> Study:  # noqa: ARG001
    chosen: dict[str, dict[int, HeadSet]] = {}
    for path in sorted(folder.glob(_FILES)):
        for task, sets in LayerDistribution.load(path).heads.items():
            chosen[task] = dict(enumerate(sets))
    return Study(folder, chosen=chosen)


def _layer_figures(study: Study) -> Drawings:
    """Figures 3 and 6, and which tasks chose a head."""
    ends = {
        label: "" if len(study.layers) == 1 else f"-{plain(short(label))}" for label in study.layers
    }
    found: dict[str, Any] = {f"figure3{ends[n]}": layers.plot for n, layers in study.layers.items()}
    for label, layers in _several(study).items():
        found[f"figure6{ends[label]}"] = head_overlap(layers.heads).plot
        found[f"chosen{ends[label]}"] = layers.plot_overlap
    return found


def _several(study: Study) -> dict[str, LayerDistribution]:
    """Where there are several sets of heads to set beside each other."""
    return {
        label: layers
        for label, layers in study.layers.items()
        if sum(map(len, layers.heads.values())) > 1
    }


def _sections(study: Study) -> Iterator[Section]:
    """Figures 3 and 6, and which tasks chose a head."""
    shown = {label: (layers.plot(), layers.frame()) for label, layers in study.layers.items()}
    title = "Figure 3: where the chosen heads lie"
    yield from plotted("layers", title, shown, shows=("figure3",))
    parts, plots = [], []
    for number, (label, layers) in enumerate(study.layers.items(), start=1):
        if label not in _several(study):
            continue
        overlap = head_overlap(layers.heads)
        pair = Plot(f"overlap-{number}", overlap.plot(), overlap.frame())
        grid = Plot(f"shared-{number}", layers.plot_overlap(), layers.chosen())
        parts.append(f"<h3>{escape(label)}</h3>{pair.html()}{grid.html()}")
        plots += [pair, grid]
    title, shows = "Figure 6: how alike the chosen heads are", ("figure6", "chosen")
    if parts:
        yield Section("overlap", title, "\n".join(parts), tuple(plots), shows)


def _sentences(study: Study) -> Iterator[str]:
    """How alike the heads of different seeds are, beside chance."""
    for layers in study.layers.values():
        frame = head_overlap(layers.heads).frame()
        of_seeds = (frame["measure"] == "jaccard") & (frame["first"] == frame["second"])
        for row in frame[of_seeds & (frame["pairs"] > 0)].to_dict("records"):
            sets = layers.heads[row["first"]]
            yield (
                f"{row['first']}: the {len(sets[0])} heads chosen with {len(sets)} seeds have a mean "
                f"Jaccard index of {row['value']:.2f}; of random heads {row['chance']:.2f} is expected."
            )


LAYERS = Row(
    "heads by layer", _read_layers, files=(_FILES,),
    drawings=_layer_figures, sections=_sections, sentences=_sentences,
)  # fmt: skip


def _read_cards(folder: Path, marker: Marker) -> Study:  # noqa: ARG001
    cards = HeadCards.load(folder / CARDS_FILE)
    return Study(folder, {"head cards": {folder.resolve().name: cards}})


def _head_figures(study: Study) -> Drawings:
    """The edits, then the score of every head."""
    found = {f"edit-{plain(task)}": edit.plot for task, edit in study.edits.items()}
    for task, seeds in study.scores.items():
        by_seed = {str(seed): scores.plot for seed, scores in seeds.items()}
        found |= named(f"scores-{plain(task)}", by_seed)
    return found


CARDS = Row(
    "head cards", _read_cards, files=(CARDS_FILE,), drawings=_head_figures, sections=heads_section
)
