"""Offsets against directions computed by numpy from what a plain Hugging Face model computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from lofit_lens.analysis.baselines.statements import all_statements
from lofit_lens.analysis.inside.decode.directions import compare_directions
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task
from lofit_lens.tokens import Encoder
from tests.helpers import HEAD_DIM, N_HEADS, draw_edit, load_plain, plain_projections

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

CHOICE = (
    Example("sky", "The colour of the sky is", (" blue.",), (" red.", " grey old cat.")),
    Example("cat", "Q: Who lives in the house?\nA:", (" A grey cat.",), (" Anna.",)),
    Example("ben", "Ben has a sister, Clara. Her name is", (" Clara.",), (" Ben.", " Anna.")),
)
MATCH = (
    Example("a", "The sky is", (" blue.",)),
    Example("b", "The cat is", (" grey.",)),
    Example("c", "The house is", (" red.",)),
)


def a_task(examples: tuple[Example, ...]) -> Task:
    scoring = MultipleChoice() if examples[0].incorrect else ExactMatch()
    return Task("toy", examples, examples[:2], examples[:1], examples[:2], "sft", scoring)


def plain_z(folder: Path, ids: list[tuple[int, ...]]) -> np.ndarray:
    """z at the last token, [text, layer, head, d_head], read before the projections."""
    plain, seen = load_plain(folder), []
    for projection in plain_projections(plain):
        projection.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1].detach()))
    with torch.no_grad():
        for text in ids:
            plain(torch.tensor([text]))
    z = torch.stack(seen).reshape(len(ids), -1, N_HEADS, HEAD_DIM)
    return z.double().numpy()


@pytest.mark.parametrize("examples", [CHOICE, MATCH], ids=["choice", "match"])
def test_columns_are_those_of_numpy(
    tiny_folder: Callable[[str], Path], llama: TransformerBridge, examples: tuple[Example, ...]
) -> None:
    task, edit = a_task(examples), draw_edit(llama)
    found = compare_directions(llama, edit, task, batch_size=2)
    statements = all_statements(Encoder(llama), examples, pool=examples, seed=42)
    z = plain_z(tiny_folder("llama"), [text.ids for text in statements.texts])
    assert found.n_statements == len(z)
    assert edit.bias is not None
    for rank, row in enumerate(found.frame().to_dict("records")):
        own, offset = z[:, row["layer"], row["head"]], edit.bias[rank].double().numpy()
        unit = offset / np.linalg.norm(offset)
        mass_mean = own[statements.right].mean(0) - own[~statements.right].mean(0)
        mean = own.mean(0)
        expected = {
            "offset_norm": np.linalg.norm(offset),
            "cosine_mass_mean": unit @ mass_mean / np.linalg.norm(mass_mean),
            "cosine_mean_z": unit @ mean / np.linalg.norm(mean),
            "z_norm": np.sqrt(np.square(own).sum(-1).mean()),
            "sigma": (own @ unit).std(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        assert row["in_sigmas"] == pytest.approx(
            expected["offset_norm"] / expected["sigma"], rel=1e-4
        )
        assert row["to_z_norm"] == pytest.approx(
            expected["offset_norm"] / expected["z_norm"], rel=1e-4
        )


def test_chance_holds_95_of_100_random_directions(llama: TransformerBridge) -> None:
    found = compare_directions(llama, draw_edit(llama), a_task(CHOICE))
    drawn = np.random.default_rng(0).normal(size=(100_000, HEAD_DIM))
    cosines = np.abs(drawn[:, 0]) / np.linalg.norm(drawn, axis=-1)
    assert found.chance == pytest.approx(np.quantile(cosines, 0.95), abs=0.005)


def test_the_size_and_the_scope_of_an_edit_do_not_turn_it(llama: TransformerBridge) -> None:
    task, edit = a_task(CHOICE), draw_edit(llama, scope="last")
    one, ten = (compare_directions(llama, factor * edit, task) for factor in (1.0, 10.0))
    torch.testing.assert_close(one.cosine_mass_mean, ten.cosine_mass_mean)
    torch.testing.assert_close(10 * one.offset_norm, ten.offset_norm)


def test_the_figure_shows_the_cosines_and_the_size(llama: TransformerBridge) -> None:
    found = compare_directions(llama, draw_edit(llama), a_task(CHOICE))
    frame = found.frame().sort_values(["layer", "head"])
    traces: Any = found.plot().data
    mass_mean, mean_z, size = traces
    assert list(mass_mean.y) == list(frame["name"])
    np.testing.assert_array_equal(mass_mean.x, frame["cosine_mass_mean"])
    np.testing.assert_array_equal(mean_z.x, frame["cosine_mean_z"])
    np.testing.assert_array_equal(size.x, frame["in_sigmas"])


def test_an_edit_without_a_direction_is_refused(llama: TransformerBridge) -> None:
    task = a_task(CHOICE)
    with pytest.raises(LofitLensError, match="has no bias"):
        compare_directions(llama, draw_edit(llama, bias=False), task)
    heads = HeadSet([(1, 2)], n_layers=3, n_heads=4)
    with pytest.raises(LofitLensError, match="offsets of L1H2 are zero"):
        compare_directions(llama, HeadIntervention(heads, bias=torch.zeros(1, HEAD_DIM)), task)


def test_a_task_with_one_answer_only_is_refused(llama: TransformerBridge) -> None:
    one = tuple(Example(str(i), f"Text {i} is", (" blue.",)) for i in range(3))
    with pytest.raises(DataError, match="no wrong answer"):
        compare_directions(llama, draw_edit(llama), a_task(one))
