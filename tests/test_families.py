"""Families whose layers are not alike: without heads in some, heads of other widths, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import lofit_lens as ll
from benchmarks import families
from benchmarks.families import edited_plain, save_tiny, small_task, some_heads
from benchmarks.families_page import write_page
from benchmarks.family_configs import CONFIGS
from lofit_lens import analysis as an
from lofit_lens.analysis.baselines.iti import fit_iti
from lofit_lens.analysis.baselines.iti_config import ITIConfig
from lofit_lens.analysis.inside.overlap import _chances
from lofit_lens.analysis.methods.selectors import selector
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.attention import heads_of, real_columns, z_width, z_widths
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import HeadSet
from lofit_lens.training.config import SelectionConfig, TuningConfig
from tests.helpers import draw_edit, draw_tokens

ODD = {
    "Qwen3.5": (HeadGrid(4, 4, (0, 2)), (0, 24, 0, 24)),
    "LFM2": (HeadGrid(4, 4, (0, 2)), (0, 16, 0, 16)),
    "DeepSeek-V3": (HeadGrid(4, 4), (20, 20, 20, 20)),
    "Gemma 4": (HeadGrid(4, 4), (24, 40, 24, 40)),
}
"""What the configurations say of heads, by hand."""

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")

    def saved(family: str) -> Path:
        path = root / family
        return path if path.exists() else save_tiny(family, path)

    return saved


@pytest.fixture(scope="module")
def loaded(folder: Callable[[str], Path]) -> Callable[[str], TransformerBridge]:
    models: dict[str, TransformerBridge] = {}

    def model(family: str) -> TransformerBridge:
        if family not in models:
            models[family] = ll.load_model(folder(family), device="cpu", dtype="float32")
        return models[family]

    return model


@pytest.mark.parametrize("family", ODD)
def test_heads_and_the_width_of_z_are_read_from_the_model(
    family: str, loaded: Callable[[str], TransformerBridge]
) -> None:
    model = loaded(family)
    assert (heads_of(model), z_widths(model)) == ODD[family]
    widths = {i: width for i, width in enumerate(z_widths(model)) if width}
    names = [f"blocks.{layer}.attn.hook_z" for layer in widths]
    _, cache = model.run_with_cache(draw_tokens(), names_filter=names)
    assert [cache[name].shape[2:] for name in names] == [(4, width) for width in widths.values()]


@pytest.mark.parametrize("family", ODD)
def test_an_edit_is_the_pre_hook_of_the_plain_model(
    family: str, folder: Callable[[str], Path], loaded: Callable[[str], TransformerBridge]
) -> None:
    model, plain = loaded(family), families.load_plain(folder(family))
    edit = draw_edit(model, heads=some_heads(model))
    assert families.edit_difference(model, plain, edit) < 2e-6
    tokens = draw_tokens(seed=1)
    with torch.no_grad(), edited_plain(plain, edit):
        expected = plain(tokens).logits
    with torch.no_grad(), ll.fold(model, edit):
        torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ODD)
def test_both_stages_edit_real_heads_alone_and_survive_a_save(
    family: str, loaded: Callable[[str], TransformerBridge], tmp_path: Path
) -> None:
    model = loaded(family)
    grid, _ = ODD[family]
    selection = SelectionConfig(learning_rate=0.05, **SHORT)
    tuning = TuningConfig(learning_rate=0.1, **SHORT)
    run = ll.lofit(
        model, small_task(), fraction=0.25, random_draws=1, selection=selection, tuning=tuning,
        out=tmp_path, progress=False,
    )  # fmt: skip
    assert len(run.heads) == round(grid.total / 4)
    assert run.heads.fraction == len(run.heads) / grid.total
    assert run.scores.grid == grid
    assert torch.isnan(run.scores.scores[list(grid.without)]).all()
    assert len(run.scores.frame()) == len(run.scores.ranking()) == grid.total
    bias = run.intervention.bias
    assert bias is not None and bias.shape[1] == z_width(model)
    real = real_columns(model, run.heads)
    assert not bias[~real].any()
    assert (bias[real] != 0).all()
    again = ll.LofitRun.load(tmp_path, model)
    assert again.heads == run.heads and again.scores.grid == grid
    assert again.intervention.bias is not None and torch.equal(again.intervention.bias, bias)
    assert HeadSet.load(tmp_path / "heads.npy", **grid.shape) == run.heads
    with ll.shortcuts(False):
        plainly = ll.tune_heads(model, small_task(), run.heads, tuning, progress=False)
    assert plainly.bias is not None
    torch.testing.assert_close(plainly.bias, bias, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["Qwen3.5", "Gemma 4"])
@pytest.mark.parametrize("name", ["bias-norm", "probes", "probe-layers", "gates", "attribution"])
def test_every_way_to_choose_heads_scores_real_heads_alone(
    family: str, name: str, loaded: Callable[[str], TransformerBridge]
) -> None:
    model = loaded(family)
    settings = Settings(tuning=TuningConfig(**SHORT))
    scores = selector(name, settings)(model, small_task(), 42)
    grid, _ = ODD[family]
    assert scores.grid == grid
    assert set(scores.ranking()) == set(HeadSet.every(**grid.shape))


@pytest.mark.parametrize("family", ["Qwen3.5", "DeepSeek-V3", "Gemma 4"])
@pytest.mark.parametrize("direction", ["mass-mean", "probe", "random"])
def test_itis_directions_lie_in_the_heads(
    family: str, direction: str, loaded: Callable[[str], TransformerBridge]
) -> None:
    model = loaded(family)
    config = ITIConfig(direction=direction, ks=(3,), alphas=(5.0,))  # pyright: ignore
    edit = fit_iti(model, small_task(), config).edit()
    assert edit.bias is not None and edit.bias.any(-1).all()
    edit.check_model(model)  # zeros behind narrower heads, no head where there is none


def test_a_figure_of_a_hybrid_model_hatches_the_layers_without_heads(
    loaded: Callable[[str], TransformerBridge],
) -> None:
    grid, _ = ODD["Qwen3.5"]
    heads = HeadSet.random(3, **grid.shape, seed=0)
    layers = an.layer_distribution({"a": heads})
    frame = layers.frame()
    assert frame["count"].isna().tolist() == [True, False, True, False]
    assert frame["uniform"].unique().tolist() == [1.5]
    drawn: list[Any] = [heads.plot(), layers.plot_grid("a"), layers.plot_overlap(), layers.plot()]
    for figure, axis in zip(drawn, "yyyx", strict=True):
        (bars,) = [trace for trace in figure.data if trace.name == "no heads"]
        assert list(bars[axis]) == [0, 2]
        assert "hatched" in figure.layout.title.subtitle.text


def test_a_random_order_draws_each_real_head_as_often() -> None:
    grid = HeadGrid(4, 2, (0, 2))
    drawn = [head for seed in range(400) for head in HeadSet.random(1, **grid.shape, seed=seed)]
    counts = {head: drawn.count(head) for head in HeadSet.every(**grid.shape)}
    assert sum(counts.values()) == 400
    assert all(70 < count < 130 for count in counts.values())


def test_heads_by_chance_are_counted_over_real_heads() -> None:
    grid = HeadGrid(6, 2, (1, 2, 4))
    sets = [HeadSet.random(2, **grid.shape, seed=seed) for seed in range(600)]
    overlaps = [len(set(a) & set(b)) / 2 for a, b in zip(sets[::2], sets[1::2], strict=True)]
    moved = [
        np.abs(np.cumsum((a.layer_counts() - b.layer_counts()) / 2)).sum()
        for a, b in zip(sets[::2], sets[1::2], strict=True)
    ]
    expected = _chances(2, grid)
    assert expected["overlap"] == 2 / 6
    assert np.mean(overlaps) == pytest.approx(expected["overlap"], abs=0.06)
    assert np.mean(moved) == pytest.approx(expected["layer distance"], abs=0.12)


def test_heads_in_a_layer_without_any_are_refused(
    loaded: Callable[[str], TransformerBridge],
) -> None:
    model = loaded("Qwen3.5")
    by_hand = HeadSet([(0, 1)], n_layers=4, n_heads=4)
    with pytest.raises(ModelMismatchError, match=r"no heads in layer 0.*layers 1, 3"):
        ll.tune_heads(model, small_task(), by_hand, progress=False)
    with pytest.raises(
        LofitLensError, match=r"Head \(0, 1\) lies outside .*no heads in layers 0, 2"
    ):
        HeadSet([(0, 1)], **heads_of(model).shape)
    with pytest.raises(UnsupportedError, match="no heads in layers 0, 2"):
        an.direct_attribution(model, small_task().test, draw_edit(model, heads=[(1, 0)]))


def test_numbers_behind_a_narrow_head_are_refused(
    loaded: Callable[[str], TransformerBridge],
) -> None:
    model = loaded("Gemma 4")
    heads = HeadSet([(0, 1), (1, 1)], **heads_of(model).shape)
    edit = ll.HeadIntervention(heads, bias=torch.ones(2, 40))
    with pytest.raises(ModelMismatchError, match="rows must end in zeros"), edit.applied(model):
        pass


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("Mamba", "MambaForCausalLM has no attention heads"),
        ("RecurrentGemma", "RecurrentGemmaForCausalLM has no attention heads"),
        ("Helium", r"does not know HeliumForCausalLM.*Take a model"),
        ("BioGPT", "does not know BioGptForCausalLM"),
        ("BERT", "a token sees those that follow it"),
        ("T5", "not a decoder-only language model"),
    ],
)
def test_what_cannot_be_edited_is_refused_when_loaded(
    family: str, message: str, folder: Callable[[str], Path]
) -> None:
    with pytest.raises(LofitLensError, match=message) as caught:
        ll.load_model(folder(family), device="cpu")
    assert len(str(caught.value)) < 500


def test_a_window_that_counts_places_is_not_shared_by_candidates_of_an_item(
    loaded: Callable[[str], TransformerBridge],
) -> None:
    # four candidates of at most 11 tokens lie in a row of more than the 16 that GPT-Neo sees
    model = loaded("GPT-Neo")
    edit = draw_edit(model, heads=some_heads(model))
    assert families.fast_difference(model, edit) < 2e-4


def test_the_table_of_families_tells_what_was_found(tmp_path: Path) -> None:
    rows = [
        families.Row("A", "AForCausalLM", "2 of 4 x 4, 24", 0.0, 1e-6, True, True,
                     "no: AForCausalLM drops a bias."),
        families.Row("B", refused="B has no heads."),
        families.Row("C", "CForCausalLM", "4 x 4, 24", 1e-3, 1e-6, True, True, "1e-06 as C"),
    ]  # fmt: skip
    assert [row.passes for row in rows] == [True, True, False]
    text = write_page(rows, tmp_path / "families.md").read_text()
    assert "| A | 2 of 4 x 4, 24 | equal | 1e-06 | no (1) |" in text
    assert "1. The family drops a bias." in text
    assert "| B | B has no heads. |" in text
    assert len(CONFIGS) >= 45
