"""Planted truth: stage 1 must find the only heads that can carry the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.stages import select_heads
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.training import SelectionConfig
from tests.helpers import D_MODEL, N_HEADS, N_LAYERS, load_plain, plain_projections, save_tiny_model

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PLANTED = ((0, 2), (1, 0), (2, 3))
READ = D_MODEL // 2
"""Only the first half of the residual stream is ever read: by queries, keys, values and logits."""


def colours_of_things() -> Task:
    """Which colour follows depends on the thing, which only attention can bring to the end."""
    colours = {"sky": " blue.", "cat": " grey.", "house": " red.", "sister": " old."}
    examples = tuple(
        Example(f"{thing}-{i}", f"{'The ' * i}{thing} is", (colour,), group=thing)
        for thing, colour in colours.items()
        for i in range(1, 5)
    )
    return Task(
        name="things", train=examples, val=examples, test=examples, val_as_test=examples,
        objective="sft", scoring=MultipleChoice(),
    )  # fmt: skip


@pytest.fixture
def planted(tmp_path: Path) -> TransformerBridge:
    """A Llama whose planted heads write where others read, and whose other heads write elsewhere.

    All heads have outputs of like size and a gradient (through the norm of the residual stream),
    but what the other heads write is multiplied by zero before anything reads it.
    """
    folder = save_tiny_model("llama", tmp_path / "random")
    model = load_plain(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, READ:] = 0
        norms = [m for name, m in model.named_modules() if name.endswith(("layernorm", "norm"))]
        for norm in norms:
            norm.weight[READ:] = 0
        for layer, (block, projection) in enumerate(
            zip(model.model.layers, plain_projections(model), strict=True)
        ):
            block.mlp.down_proj.weight.zero_()
            weight: Any = projection.weight
            by_head = weight.view(D_MODEL, N_HEADS, -1)
            for head in range(N_HEADS):
                unwritten = slice(READ, None) if (layer, head) in PLANTED else slice(0, READ)
                by_head[unwritten, head] = 0
    model.save_pretrained(tmp_path / "planted")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "planted" / name).write_bytes((folder / name).read_bytes())
    return load_model(tmp_path / "planted", device="cpu")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stage_one_ranks_exactly_the_planted_heads_first(
    planted: TransformerBridge, seed: int
) -> None:
    config = SelectionConfig(learning_rate=2e-2, epochs=15, batch_size=4, seed=seed)
    scores = select_heads(planted, colours_of_things(), config, progress=False)
    expected = HeadSet(PLANTED, n_layers=N_LAYERS, n_heads=N_HEADS)
    assert set(scores.top(k=len(PLANTED))) == set(expected)
    assert scores.method == "lofit"
    assert scores.provenance is not None
    assert scores.provenance.task == "things"
