"""The shape of a model that is not loaded: from its configuration here, or from a small table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lofit_lens.analysis.plan.entries import ModelEntry
from lofit_lens.checking.blank import shape_of
from lofit_lens.checking.memory import Sizes
from lofit_lens.grid import HeadGrid
from lofit_lens.loading.boot import told_in_a_line
from lofit_lens.loading.find import find_model
from lofit_lens.loading.hub import folder_of


@dataclass(frozen=True)
class PlanShape:
    """What a plan needs to know of a model.

    Attributes:
        heads: Its heads.
        sizes: What memory is reckoned by.
        n_ctx: Context in tokens.
    """

    heads: HeadGrid
    sizes: Sizes
    n_ctx: int


def _known(
    parameters: int, layers: int, width: int, heads: int, d_head: int, key_heads: int, mlp: int,
    vocabulary: int, n_ctx: int,
) -> PlanShape:  # fmt: skip
    sizes = Sizes(parameters, layers, width, heads * d_head, mlp, key_heads * d_head, vocabulary)
    return PlanShape(HeadGrid(layers, heads), sizes, n_ctx)


KNOWN = {
    "llama-2-7b": _known(6_738_415_616, 32, 4096, 32, 128, 32, 11008, 32000, 4096),
    "llama-2-13b": _known(13_015_864_320, 40, 5120, 40, 128, 40, 13824, 32000, 4096),
    "gemma-7b": _known(8_537_680_896, 28, 3072, 16, 256, 16, 24576, 256000, 8192),
    "smollm2-135m": _known(134_515_008, 30, 576, 9, 64, 3, 1536, 49152, 8192),
    "gemma-3-270m": _known(268_098_176, 18, 640, 4, 256, 1, 2048, 262144, 32768),
    "qwen3-0.6b": _known(596_049_920, 28, 1024, 16, 128, 8, 3072, 151936, 40960),
    "llama-3.2-1b": _known(1_235_814_400, 16, 2048, 32, 64, 8, 8192, 128256, 131072),
}
"""Models of the paper and of the shipped studies, by how their names on the hub begin."""


def shape_here(entry: ModelEntry) -> PlanShape | None:
    """The shape of a model without a network; None if nothing here tells it.

    Raises:
        LofitLensError: It is a path to something that is not a model, or of an unknown family.
    """
    source = find_model(entry.model)
    folder = folder_of(source, entry.revision)
    place = source if folder is None else str(folder)
    if Path(place).exists():
        with told_in_a_line(entry.model, None):
            shape = shape_of(place, None)
        if shape is not None:
            return PlanShape(shape.heads, shape.sizes, shape.n_ctx)
    name = Path(entry.model).name.lower()
    return next((shape for known, shape in KNOWN.items() if name.startswith(known)), None)


def tokenizer_here(entry: ModelEntry) -> object | None:
    """The tokenizer of a model whose folder is on this machine; else None."""
    from lofit_lens.tokenizer import load_tokenizer

    folder = folder_of(find_model(entry.model), entry.revision)
    return None if folder is None else load_tokenizer(str(folder))
