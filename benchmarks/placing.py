"""Which heads the benchmarks edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lofit_lens.analysis.inside.layers import PUBLISHED_LAYERS
from lofit_lens.analysis.published import figure_3
from lofit_lens.heads import HeadSet
from lofit_lens.training.config import PAPER_HEADS


def as_in_figure_3(config: Any) -> HeadSet:
    """3% of the heads at the depths at which Figure 3 of the paper has those for TruthfulQA.

    A model of 40 layers has the heads of Llama 2-13B, one of 32 those of Llama 2-7B. For a smaller
    one, its number of heads is picked evenly from the 32 of Llama 2-7B in their order from low to
    high, the first and the last included, and layer `l` of 32 becomes layer `floor(l * L / 32)` of
    its L. The lowest head of the 7B is in layer 2 of 32, so that of a model of less than 16 layers
    is in layer 0: nothing but the embedding lies below, and the backward pass runs through the
    whole model.
    """
    model = _published_model(config)
    panel = figure_3().query("model == @model and task == 'truthfulqa'")
    published = panel["layer"].repeat(panel["heads"].tolist()).tolist()
    k = number_of_heads(config)
    picked = [published[round(i * (len(published) - 1) / max(1, k - 1))] for i in range(k)]
    depth = config.num_hidden_layers / PUBLISHED_LAYERS[model]
    return _in_layers([int(layer * depth) for layer in picked], config)


def evenly(config: Any, *, lowest: int) -> HeadSet:
    """As many heads, spread evenly from a layer up to the last, both included."""
    k, top = number_of_heads(config), config.num_hidden_layers - 1
    return _in_layers([lowest + i * (top - lowest) // max(1, k - 1) for i in range(k)], config)


def number_of_heads(config: Any) -> int:
    """The paper's 32 of 1,024 heads (48 of 1,600), in proportion; at least one."""
    total = config.num_hidden_layers * config.num_attention_heads
    model = _published_model(config)
    of_paper, chosen, _ = PAPER_HEADS[model]
    return max(1, round(chosen * total / of_paper))


def every_head(config: Any) -> HeadSet:
    """All of them."""
    return HeadSet.every(n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads)


def _published_model(config: Any) -> str:
    return "llama2-13b" if config.num_hidden_layers == 40 else "llama2-7b"


def _in_layers(layers: Sequence[int], config: Any) -> HeadSet:
    """In each layer the heads from 0 on: which head it is makes no difference to the cost."""
    return HeadSet(
        ((layer, layers[:i].count(layer)) for i, layer in enumerate(layers)),
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
    )
