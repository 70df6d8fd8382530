"""What the finished runs of a folder hold, read without the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lofit_lens.analysis.inside.layers import LayerDistribution
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lofit_lens.analysis.inside.explorer.cards import HeadCards
    from lofit_lens.analysis.kinds.comparison import Comparison
    from lofit_lens.analysis.kinds.curves import CausalCurves
    from lofit_lens.analysis.kinds.lofit import LofitRun
    from lofit_lens.analysis.kinds.matrix import TransferMatrix
    from lofit_lens.analysis.kinds.sweep import Sweep

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Study:
    """Results of one run, or of several in the sub-folders of one.

    A name that two runs give to different things gets the second run's name behind it, as
    "truthfulqa (llama2-13b)".

    Attributes:
        path: The folder.
        results: Results by kind and name, such as `results["comparisons"]["first run"]`.
        scores: Scores of every head by task (a fold is a task) and seed.
        chosen: The heads chosen from them likewise; a run with several sizes gives its largest.
        edits: Learned edits by task.
        tables: Tables of other runs than comparisons by name of the run.
        provenance: By name of the run what was run and how, as plain JSON values: `kind`,
            `versions`, `command_line` if it was run by one, and what the kind of run tells of
            model, settings and seconds.
        left_out: Unfinished runs by name of the folder, and what is wrong with each.
    """

    path: Path
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[int, HeadScores]] = field(default_factory=dict)
    chosen: Mapping[str, Mapping[int, HeadSet]] = field(default_factory=dict)
    edits: Mapping[str, HeadIntervention] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def of(self, kind: str) -> Mapping[str, Any]:
        """The results of a kind by name; empty if there are none."""
        return self.results.get(kind, {})

    @property
    def comparisons(self) -> Mapping[str, Comparison]:
        """Comparisons by name of the run."""
        return self.of("comparisons")

    @property
    def matrices(self) -> Mapping[str, TransferMatrix]:
        """Transfer of heads by number of heads, as "10% of heads"."""
        return self.of("transfer matrices")

    @property
    def runs(self) -> Mapping[str, LofitRun]:
        """Both stages with their scores, by task."""
        return self.of("runs of both stages")

    @property
    def sweeps(self) -> Mapping[str, Sweep]:
        """Sweeps over examples or heads by name of the run."""
        return self.of("sweeps")

    @property
    def curves(self) -> Mapping[str, CausalCurves]:
        """Ablation and patching of heads by task."""
        return self.of("causal curves")

    @property
    def cards(self) -> Mapping[str, HeadCards]:
        """Cards of the heads by name of the run."""
        return self.of("head cards")

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def heads(self) -> dict[str, tuple[HeadSet, ...]]:
        """The chosen heads by task, one set per seed."""
        return {task: tuple(sets.values()) for task, sets in self.chosen.items()}

    @property
    def layers(self) -> dict[str, LayerDistribution]:
        """The chosen heads by layer, for tasks with equally many heads of one model shape together.

        By number of heads and shape, as "32 of 32x32 heads" (layers x heads).
        """
        found: dict[str, dict[str, tuple[HeadSet, ...]]] = {}
        for task, sets in self.heads.items():
            k, grid = len(sets[0]), sets[0].grid
            found.setdefault(f"{k} of {grid.n_layers}x{grid.n_heads} heads", {})[task] = sets
        return {label: LayerDistribution(heads) for label, heads in found.items()}

    @property
    def figure_names(self) -> tuple[str, ...]:
        """The names of the figures; none is drawn."""
        from lofit_lens.analysis.kinds.table import drawings

        return tuple(drawings(self))

    def figures(self, only: Sequence[str] = ()) -> dict[str, go.Figure]:
        """Draw the figures.

        Args:
            only: Names of those wanted; without any, all.

        Raises:
            LofitLensError: There is no figure of a name, or the results are incomplete.
        """
        from lofit_lens.analysis.figures.drawing import draw
        from lofit_lens.analysis.kinds.table import drawings

        return draw(drawings(self), only, what=repr(self.name))

    def __repr__(self) -> str:
        counts = {
            **self.results,
            "tasks with scores": self.scores,
            "tasks with chosen heads": self.chosen,
            "edits": self.edits,
            "unfinished, left out": self.left_out,
        }
        held = ", ".join(f"{name}: {len(there)}" for name, there in counts.items() if there)
        return f"Study({self.name}; {held})"

    def _repr_html_(self) -> str:
        names = "".join(f"<li>{escape(name)}</li>" for name in self.figure_names)
        return f"<p>{escape(repr(self))}</p><p>Figures:</p><ul>{names}</ul>"


def joined(path: Path, parts: Sequence[Study]) -> Study:
    """Several studies as one."""
    kinds = dict.fromkeys(kind for part in parts for kind in part.results)
    return Study(
        path,
        {kind: _by_name(parts, methodcaller("of", kind)) for kind in kinds},
        scores=_by_seed(parts, lambda part: part.scores, _alike_scores),
        chosen=_by_seed(parts, lambda part: part.chosen, _alike_sets),
        **{name: _by_name(parts, attrgetter(name)) for name in ("edits", "tables", "provenance")},
    )


def _by_name(parts: Sequence[Study], things: Callable[[Study], Mapping[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for part in parts:
        for name, thing in things(part).items():
            found[f"{name} ({part.name})" if name in found else name] = thing
    return found


def _by_seed(
    parts: Sequence[Study],
    things: Callable[[Study], Mapping[str, Mapping[int, T]]],
    alike: Callable[[T, T, bool], bool],
) -> dict[str, dict[int, T]]:
    """Seeds of a task from several runs are put together, unless they cannot be of one experiment."""
    found: dict[str, dict[int, T]] = {}
    for part in parts:
        for task, seeds in things(part).items():
            fits = all(
                alike(mine, theirs, a == b)
                for a, mine in found.get(task, {}).items()
                for b, theirs in seeds.items()
            )
            found.setdefault(task if fits else f"{task} ({part.name})", {}).update(seeds)
    return {task: dict(sorted(seeds.items())) for task, seeds in found.items()}


def _alike_sets(a: HeadSet, b: HeadSet, same_seed: bool) -> bool:
    kinds = {(len(heads), heads.grid) for heads in (a, b)}
    return len(kinds) == 1 and (a == b or not same_seed)


def _alike_scores(a: HeadScores, b: HeadScores, same_seed: bool) -> bool:
    kinds = {
        (s.method, s.scores.shape, s.provenance and s.provenance.fingerprint.weights)
        for s in (a, b)
    }
    return len(kinds) == 1 and (
        not same_seed or torch.equal(a.scores.nan_to_num(), b.scores.nan_to_num())
    )
