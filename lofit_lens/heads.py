"""Sets of attention heads."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from lofit_lens.documents import typed
from lofit_lens.errors import LofitLensError, ModelMismatchError, check_seed, check_whole
from lofit_lens.files import write_json, write_whole
from lofit_lens.grid import Head, HeadGrid
from lofit_lens.head_lists import EXPECTED, read_head_list
from lofit_lens.hub import kept_file

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HEADS = "heads.json"
"""A head list on the hub."""


@dataclass(frozen=True)
class HeadSet:
    """An ordered, immutable set of heads of one model shape, best head first.

    Attributes:
        heads: The heads, without repeats; the order is kept by the set operations.
        n_layers: Layers of the model.
        n_heads: Query heads per layer.
        without: Layers of the model that have no heads, as in hybrid families.

    Raises:
        LofitLensError: A head is repeated or lies outside the model.

    Examples:
        >>> heads = HeadSet([(3, 1), (0, 2)], n_layers=4, n_heads=4)
        >>> (3, 1) in heads, len(heads), heads.layer_counts().tolist()
        (True, 2, [1, 0, 0, 1])
    """

    heads: tuple[Head, ...]
    n_layers: int
    n_heads: int
    without: tuple[int, ...] = ()

    def __init__(
        self,
        heads: Iterable[tuple[int, int] | Head],
        *,
        n_layers: int,
        n_heads: int,
        without: Iterable[int] = (),
    ) -> None:
        chosen = tuple(Head(int(layer), int(head)) for layer, head in heads)
        shape = {"n_layers": n_layers, "n_heads": n_heads, "without": tuple(without)}
        for name, value in ({"heads": chosen} | shape).items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        grid = self.grid
        object.__setattr__(self, "without", grid.without)
        for head in self.heads:
            if head not in grid:
                raise LofitLensError(
                    f"Head {tuple(head)} lies outside a model of {grid}. Layers run from 0 to "
                    f"{self.n_layers - 1}, heads from 0 to {self.n_heads - 1}."
                )
        if len(set(self.heads)) != len(self.heads):
            counts = Counter(map(str, self.heads))
            repeated = sorted(name for name, times in counts.items() if times > 1)
            raise LofitLensError(f"Heads may appear once; repeated: {', '.join(repeated)}.")

    @classmethod
    def random(
        cls, k: int, *, n_layers: int, n_heads: int, without: Iterable[int] = (), seed: int
    ) -> HeadSet:
        """Draw `k` heads uniformly without replacement, from a local generator."""
        grid = HeadGrid(n_layers, n_heads, tuple(without))
        check_whole("k", k, 1, grid.total)
        check_seed(seed)
        drawn = np.random.default_rng(seed).choice(grid.total, size=k, replace=False)
        return cls((grid[i] for i in drawn), **grid.shape)

    @classmethod
    def random_like(cls, other: HeadSet, *, seed: int) -> HeadSet:
        """Draw as many heads in every layer as `other` has there, from a local generator.

        The layers come in the order of `other`, so the first heads of both agree in their layers too.
        """
        check_seed(seed)
        rng = np.random.default_rng(seed)
        rows = [iter(rng.permutation(other.n_heads)) for _ in range(other.n_layers)]
        return other._with(Head(layer, int(next(rows[layer]))) for layer, _ in other)

    @classmethod
    def every(cls, *, n_layers: int, n_heads: int, without: Iterable[int] = ()) -> HeadSet:
        """All heads of a model, by layer and head."""
        grid = HeadGrid(n_layers, n_heads, tuple(without))
        return cls((grid[i] for i in range(grid.total)), **grid.shape)

    @property
    def grid(self) -> HeadGrid:
        """The heads of the model."""
        return HeadGrid(self.n_layers, self.n_heads, self.without)

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def __contains__(self, head: object) -> bool:
        return head in self.heads

    def __or__(self, other: HeadSet) -> HeadSet:
        self._check_same_shape(other)
        return self._with(self.heads + tuple(head for head in other if head not in self))

    def __and__(self, other: HeadSet) -> HeadSet:
        self._check_same_shape(other)
        return self._with(head for head in self if head in other)

    def __sub__(self, other: HeadSet) -> HeadSet:
        self._check_same_shape(other)
        return self._with(head for head in self if head not in other)

    def jaccard(self, other: HeadSet) -> float:
        """Size of the intersection over size of the union; 1.0 for two empty sets."""
        union = len(self | other)
        return len(self & other) / union if union else 1.0

    @property
    def fraction(self) -> float:
        """Share of the model's heads, those that exist."""
        return len(self) / self.grid.total

    def first(self, k: int) -> HeadSet:
        """The first `k` heads."""
        check_whole("k", k, 1, len(self))
        return self._with(self.heads[:k])

    def in_layer(self, layer: int) -> list[tuple[int, int]]:
        """`(rank, head)` for each head of `layer`; rank is the place in this set."""
        return [(rank, head.head) for rank, head in enumerate(self.heads) if head.layer == layer]

    def layers(self) -> list[int]:
        """The layers that hold at least one head, lowest first."""
        return sorted({head.layer for head in self.heads})

    def layer_counts(self) -> Int[np.ndarray, " layer"]:
        """Heads per layer (Figure 3 of the paper)."""
        layers = np.array([head.layer for head in self.heads], dtype=np.int64)
        return np.bincount(layers, minlength=self.n_layers)

    def mask(self) -> Bool[Tensor, "layer head"]:
        """True where a head is in the set."""
        return self.placed(torch.ones(len(self), dtype=torch.bool), fill=False)

    def placed(
        self, rows: Shaped[Tensor, "row ..."], *, fill: float | bool = 0.0
    ) -> Shaped[Tensor, "layer head ..."]:
        """Values of the heads, in the order of the set, by layer and head; `fill` elsewhere."""
        grid = rows.new_full((self.n_layers, self.n_heads, *rows.shape[1:]), fill)
        layer, head = torch.tensor(self.heads, dtype=torch.long).reshape(-1, 2).T
        return grid.index_put((layer.to(rows.device), head.to(rows.device)), rows)

    def frame(self) -> pd.DataFrame:
        """Columns `rank` (from 1), `layer`, `head`, `name`."""
        import pandas as pd

        rows = [(rank, *head, str(head)) for rank, head in enumerate(self.heads, start=1)]
        return pd.DataFrame(rows, columns=["rank", "layer", "head", "name"])

    def plot(self) -> go.Figure:
        """Layer x head grid with the chosen heads marked by rank."""
        from lofit_lens.plotting import head_grid

        ranks = torch.arange(1, len(self) + 1, dtype=torch.float64)
        values = self.placed(ranks, fill=np.nan).numpy()
        return head_grid(values, label="rank", title=f"{len(self)} heads", without=self.without)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        heads = [list(head) for head in self.heads]
        shape = {"n_layers": self.n_layers, "n_heads": self.n_heads}
        return shape | ({"without": list(self.without)} if self.without else {}) | {"heads": heads}

    @classmethod
    def from_json(cls, content: Any) -> HeadSet:
        """Read what `to_json` gave.

        Raises:
            LofitLensError: A field is missing, unknown or of another type, or a head is repeated or
                lies outside the model.
        """
        return typed(content, cls)

    def save(self, path: str | Path) -> Path:
        """Write the set as `.npy` (LoFiT's own format: int64 rows of layer, head) or `.json`.

        The `.npy` format does not hold the shape of the model; the JSON does.

        Raises:
            LofitLensError: The path ends in neither.
        """
        path = Path(path)
        if path.suffix == ".json":
            return write_json(path, self.to_json(), indent=None)
        if path.suffix != ".npy":
            raise LofitLensError(f"A head list is saved as .npy or .json, not {path.name!r}.")
        content = io.BytesIO()
        np.save(content, np.array(self.heads, dtype=np.int64).reshape(-1, 2))
        return write_whole(path, content.getvalue())

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        n_layers: int | None = None,
        n_heads: int | None = None,
        without: Iterable[int] = (),
        revision: str | None = None,
    ) -> HeadSet:
        """Read a head list: LoFiT's `.npy`, a `.json` written by `save`, or see `read_head_list`.

        Args:
            path: The file, or the heads themselves, as in "L1H3,L2H7"; or, as text, the name of what
                `push_to_hub` pushed, such as "user/repo".
            n_layers: Layers of the model; checked for a `.json` written by `save`, else needed.
            n_heads: Query heads per layer; likewise.
            without: Layers of the model without heads.
            revision: Branch, tag or commit on the hub.

        Raises:
            LofitLensError: The file is missing or is not a head list; or see `load_edit`.
            ModelMismatchError: The list was made for another model shape.
        """
        path = kept_file(path, HEADS, revision=revision, what="head list")
        try:
            found = read_head_list(path, cls.from_json)
            if isinstance(found, HeadSet):
                rows, shape = found.heads, (found.n_layers, found.n_heads)
                without = tuple(without) or found.without
            else:
                rows, shape = found, (n_layers, n_heads)
        except (TypeError, ValueError, OverflowError, EOFError, OSError) as error:
            raise LofitLensError(f"{path} is not a head list: {error}. {EXPECTED}") from error
        if shape[0] is None or shape[1] is None:
            raise LofitLensError(
                f"{path.name} does not say which model shape it belongs to; pass n_layers and n_heads."
            )
        if (n_layers or shape[0], n_heads or shape[1]) != shape:
            raise ModelMismatchError(
                f"{path.name} was made for {shape[0]} layers x {shape[1]} heads, the model has "
                f"{n_layers} x {n_heads}. Select heads on this model."
            )
        try:
            return cls(rows, n_layers=shape[0], n_heads=shape[1], without=without)
        except LofitLensError as error:
            raise LofitLensError(f"{path}: {error}") from error

    def __repr__(self) -> str:
        names = [str(head) for head in self.heads[:8]]
        dots = ", …" if len(self) > 8 else ""
        return f"HeadSet({len(self)} of {self.grid.short}: {', '.join(names)}{dots})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().head(20).to_html(index=False)}"

    def _with(self, heads: Iterable[Head]) -> HeadSet:
        return HeadSet(heads, **self.grid.shape)

    def _check_same_shape(self, other: HeadSet) -> None:
        if (self.n_layers, self.n_heads) != (other.n_layers, other.n_heads):
            raise ModelMismatchError(
                f"The sets belong to different models: {self.n_layers}x{self.n_heads} and "
                f"{other.n_layers}x{other.n_heads} (layers x heads)."
            )


def number_of_heads(total: int, *, k: int | None = None, fraction: float | None = None) -> int:
    """How many of `total` heads are meant by a number or a share.

    A share gives the nearest whole number, at least 1. The numbers of the paper are not always those
    of its shares (its 3% of Llama 2-7B are 32 of 1,024 heads, where 31 are nearest); `paper_heads`
    has them.

    Raises:
        LofitLensError: Not exactly one of the two is given, or it is out of range.
    """
    if (k is None) == (fraction is None):
        raise LofitLensError(f"Give either k or fraction, got k={k} and fraction={fraction}.")
    if fraction is None:
        assert k is not None
        check_whole("k", k, 1, total)
        return k
    if not 0 < fraction <= 1:
        raise LofitLensError(f"fraction must be in (0, 1], got {fraction}. For 3% give 0.03.")
    return max(1, round(fraction * total))
