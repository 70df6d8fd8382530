from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.baselines.reading import (
    DirectionKind,
    first_components,
    pair_states,
    reading_directions,
    reading_scores,
)
from lofit_lens.analysis.baselines.repe import ReadingConfig, ReadingVector, fit_reading_vector
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.scoring import evaluate
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task
from tests.helpers import N_LAYERS, build_tokenizer, load_plain
from tests.plain_blocks import hooked_blocks

Folder = Callable[[str], Path]
KINDS: tuple[Any, ...] = get_args(DirectionKind)
ALONG_MEAN, ALONG_NOISE = 3, 7


def draw_pairs(n: int = 40, n_layers: int = 3, d_model: int = 10, *, seed: int = 0) -> list[Tensor]:
    """States whose differences have a common part in one direction and spread in another."""
    generator = torch.Generator().manual_seed(seed)
    shared, noise = (torch.randn(n, n_layers, d_model, generator=generator) for _ in range(2))
    right = shared + 0.1 * noise
    right[..., ALONG_MEAN] += 3.0
    right[..., ALONG_NOISE] += 1.5 * torch.randn(n, n_layers, generator=generator)
    return [right, shared]


def component(rows: Tensor) -> np.ndarray:
    """The first principal component of scikit-learn."""
    return np.asarray(PCA(n_components=1).fit(rows.double().numpy()).components_)[0]


def axis(i: int, d_model: int = 10) -> Tensor:
    return torch.eye(d_model, dtype=torch.float64)[i]


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)


def toy_task(**changes: Any) -> Task:
    names = ("Anna", "Ben", "Clara", "the old house", "the grey cat", "the sky")

    def examples(part: str) -> tuple[Example, ...]:
        rows = enumerate(names)
        answers = (" a son.", " blue."), (" red.", " a grey cat.", " the house.")
        return tuple(Example(f"{part}{i}", f"Q: {part} {n}?\nA:", *answers, n) for i, n in rows)

    task = Task(
        "toy", examples("a"), examples("b"), examples("c"), val_as_test=examples("b"),
        objective="choice", scoring=MultipleChoice(("MC1", "MC2")),
    )  # fmt: skip
    return replace(task, **changes)


def test_the_first_component_is_that_of_scikit_learn_up_to_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 4, 12, generator=generator, dtype=torch.float64)
    rows = rows * torch.linspace(1, 3, 12) + 5.0
    for rows_now in (rows, rows[:6]):  # more rows than columns, and fewer
        for layer, found in enumerate(first_components(rows_now)):
            expected = component(rows_now[:, layer])
            assert abs(found.numpy() @ expected) == pytest.approx(1, abs=1e-12)
            assert min(abs(found.numpy() - s * expected).max() for s in (1, -1)) < 1e-7


def test_the_pca_direction_is_that_of_scikit_learn_on_the_same_differences() -> None:
    right, wrong = draw_pairs()
    found = reading_directions(right, wrong, "pca", seed=5)
    # the order within pairs, drawn again from the seed
    drawn = torch.randint(2, (40, 1, 1), generator=torch.Generator().manual_seed(5))
    differences = torch.where(drawn == 1, right - wrong, wrong - right)
    for layer in range(3):
        expected = component(differences[:, layer])
        assert min(abs(found[layer].numpy() - s * expected).max() for s in (1, -1)) < 1e-7


def test_pairs_in_one_order_would_lose_the_mean_difference_and_ours_keep_it() -> None:
    right, wrong = draw_pairs(200)
    for layer in range(3):
        lost = component((right - wrong)[:, layer])
        assert abs(lost[ALONG_MEAN]) < 0.1
        assert abs(lost[ALONG_NOISE]) > 0.95
    for seed in range(5):
        found = reading_directions(right, wrong, "pca", seed=seed)
        assert (cosines(found, axis(ALONG_MEAN).expand(3, -1)) > 0.95).all()


def test_the_mean_direction_is_the_difference_of_the_means_of_numpy() -> None:
    right, wrong = draw_pairs()
    expected = right.double().numpy().mean(0) - wrong.double().numpy().mean(0)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    found = reading_directions(right, wrong, "mean", seed=0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_directions_have_length_one_and_point_to_the_right_members(kind: Any) -> None:
    right, wrong = draw_pairs(41)  # odd: no ties
    found = reading_directions(right, wrong, kind, seed=0)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3).double())
    along = np.einsum("nld,ld->nl", (right - wrong).double().numpy(), found.numpy())
    assert ((along > 0).sum(0) > (along < 0).sum(0)).all()
    swapped = reading_directions(wrong, right, kind, seed=0)
    torch.testing.assert_close(cosines(swapped, found).abs(), torch.ones(3).double())
    if kind != "pca":  # whose drawn order makes other differences of swapped pairs
        torch.testing.assert_close(swapped, -found)


def test_the_sign_follows_the_majority_of_pairs_and_not_their_mean() -> None:
    lead = torch.tensor([1.0, 1.0, -9.0])
    right = lead[:, None, None] * torch.ones(3, 1, 4)
    found = reading_directions(right, torch.zeros(3, 1, 4), "mean", seed=0)
    assert (right.mean(0) < 0).all()
    assert (found > 0).all()


def test_of_as_many_pairs_either_way_the_direction_stays_as_it_was_found() -> None:
    right, wrong = draw_pairs(2)
    tied = [torch.stack([a[0], b[0]]) for a, b in ((right, wrong), (wrong, right))]
    for seed in range(5):
        raw = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = reading_directions(tied[0], tied[1], "random", seed=seed)
        torch.testing.assert_close(found, raw / raw.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_the_global_generator_is_left_alone(kind: Any) -> None:
    right, wrong = draw_pairs(12)
    state = torch.get_rng_state()
    first, again, other = (reading_directions(right, wrong, kind, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "mean")
    assert torch.equal(torch.get_rng_state(), state)


def test_reading_accuracy_counts_ties_half_and_the_margin_is_standardised() -> None:
    lead = torch.tensor([[2.0, 1.0], [0.0, 1.0], [-1.0, -1.0], [3.0, 1.0]])
    right = torch.zeros(4, 2, 5)
    right[..., 0] = lead
    directions = axis(0, 5).expand(2, -1)
    accuracy, margin = reading_scores(directions, right, torch.zeros(4, 2, 5))
    assert accuracy.tolist() == [2.5 / 4, 3 / 4]
    expected = lead.numpy().mean(0) / lead.numpy().std(0)
    assert margin.tolist() == pytest.approx(expected.tolist())


def test_fewer_than_two_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 pairs"):
        reading_directions(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), "pca", seed=0)


@torch.no_grad()
def test_states_are_those_behind_the_blocks_of_the_plain_model_at_the_last_token(
    tiny_folder: Folder, llama: TransformerBridge
) -> None:
    plain, tokenizer, task = load_plain(tiny_folder("llama")), build_tokenizer(), toy_task()
    right, wrong = pair_states(llama, task.train, pool=(), seed=0, batch_size=3)
    assert len(right) == len(wrong) == 12  # as many pairs a question as it has answers of both
    kept: dict[int, Tensor] = {}

    def keep(h: Tensor, layer: int) -> Tensor:
        kept[layer] = h[0, -1].clone()
        return h

    for i, example in enumerate(task.train):
        pairs = zip(example.correct, example.incorrect, strict=False)
        for j, (good, bad) in enumerate(pairs):
            for states, answer in ((right, good), (wrong, bad)):
                ids = tokenizer(example.prompt + answer)["input_ids"]
                layers = range(N_LAYERS)
                with hooked_blocks(plain, {i: partial(keep, layer=i) for i in layers}):
                    plain(torch.tensor([ids]))
                expected = torch.stack([kept[layer] for layer in layers])
                torch.testing.assert_close(states[2 * i + j], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_sigma_and_layer_and_strength_follow_their_definitions(
    kind: Any, llama: TransformerBridge
) -> None:
    task, config = toy_task(), ReadingConfig(direction=kind, alphas=(0.5, 2.0), scope="last")
    found = fit_reading_vector(llama, task, config, seed=3)
    train = pair_states(llama, task.train, pool=(), seed=3)
    directions = reading_directions(*train, kind, seed=3).numpy()
    along = np.einsum("nld,ld->nl", torch.cat(train).double().numpy(), directions)
    assert found.sigma.tolist() == pytest.approx(along.std(0).tolist(), rel=1e-5)

    right, wrong = (s.double().numpy() for s in pair_states(llama, task.val, pool=(), seed=3))
    lead = np.einsum("nld,ld->nl", right - wrong, directions)
    accuracy, margin = (lead > 0).mean(0), lead.mean(0) / lead.std(0)
    assert found.accuracy.tolist() == pytest.approx(accuracy.tolist())
    assert found.layer == max(range(N_LAYERS), key=lambda i: (accuracy[i], margin[i]))

    vector = found.sigma[found.layer] * found.directions[found.layer]
    scores = {}
    for alpha in config.alphas:
        edit = found.edit(alpha=alpha)
        torch.testing.assert_close(edit.vectors, alpha * vector[None])
        assert (edit.layers, edit.scope) == ((found.layer,), "last")
        scores[alpha] = evaluate(llama, task, edit, split="val", progress=False).main.value
    assert found.alpha == max(scores, key=lambda alpha: (scores[alpha], -alpha))
    assert torch.equal(found.edit().vectors, found.edit(alpha=found.alpha).vectors)
    assert found.by_alpha is not None
    assert found.by_alpha.frame()["score"].tolist() == pytest.approx(list(scores.values()))


def test_the_papers_setting_is_five_times_the_unit_vector_at_a_given_layer(
    llama: TransformerBridge,
) -> None:
    config = ReadingConfig(layer=1, alphas=(5.0,), unit="one")
    found = fit_reading_vector(llama, toy_task(), config, seed=0)
    edit = found.edit()
    assert edit.layers == (1,)
    assert float(edit.vectors.norm()) == pytest.approx(5.0, rel=1e-6)
    assert found.by_alpha is None


def test_the_test_split_plays_no_part(llama: TransformerBridge) -> None:
    other = tuple(Example(f"x{i}", "The sky", (" is red.",), (" is.",), "x") for i in range(3))
    config = ReadingConfig(alphas=(1.0, 3.0))
    first, second = (
        fit_reading_vector(llama, task, config, seed=0).edit()
        for task in (toy_task(), toy_task(test=other))
    )
    assert torch.equal(first.vectors, second.vectors)


def test_examples_of_exact_match_get_a_wrong_answer_from_the_seed(
    llama: TransformerBridge,
) -> None:
    answers = (" a son", " blue", " red", " a grey cat", " the house", " the sky")
    parts = [
        tuple(Example(f"{p}{i}", f"{p} The", (a,), (), f"{i}") for i, a in enumerate(answers))
        for p in "abc"
    ]
    task = Task(
        "spelled", parts[0], parts[1], parts[2], val_as_test=parts[1],
        objective="sft", scoring=ExactMatch(max_new_tokens=2),
    )  # fmt: skip
    config = ReadingConfig(alphas=(1.0,), direction="mean")
    first, again, other = (fit_reading_vector(llama, task, config, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.directions, again.directions)
    assert not torch.equal(first.directions, other.directions)
    alike = (replace(parts[1][0], id="b9"), parts[1][0])  # a small split with one answer
    fit_reading_vector(llama, replace(task, val=alike, val_as_test=alike), config, seed=0)


def test_the_edit_remembers_model_task_and_choices(llama: TransformerBridge) -> None:
    found = fit_reading_vector(llama, toy_task(), ReadingConfig(alphas=(1.0,)), seed=7)
    origin = found.edit(layer=2, alpha=4.0).provenance
    assert origin is not None
    assert (origin.task, origin.data_hash) == ("toy", toy_task().data_hash())
    chosen = {name: origin.config[name] for name in ("seed", "layer", "alpha", "direction")}
    assert chosen == {"seed": 7, "layer": 2, "alpha": 4.0, "direction": "pca"}


def test_a_budget_keeps_the_strong_edits_out(llama: TransformerBridge) -> None:
    def kl(edit: Any) -> float:
        return float(edit.vectors.norm())

    free = fit_reading_vector(llama, toy_task(), ReadingConfig(alphas=(1.0,)), seed=0)
    unit = float(free.edit().vectors.norm())
    config = ReadingConfig(alphas=(1.0, 2.0, 4.0), kl_budget=1.5 * unit)
    assert fit_reading_vector(llama, toy_task(), config, seed=0, kl=kl).alpha == 1.0
    with pytest.raises(LofitLensError, match="KL budget"):
        config = replace(config, alphas=(4.0,))
        fit_reading_vector(llama, toy_task(), config, seed=0, kl=kl)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "probe"}, "direction must be one of pca, mean, random"),
        ({"unit": "norm"}, "unit must be one of sigma, one"),
        ({"alphas": ()}, "alphas must be one or more"),
        ({"alphas": (1.0, float("inf"))}, "alphas must be one or more finite"),
        ({"scope": "first"}, "scope must be one of"),
        ({"kl_budget": 0.0}, "kl_budget must be greater than 0, got 0.0"),
        ({"kl_budget": -0.1}, "kl_budget must be greater than 0, got -0.1"),
    ],
)
def test_unknown_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    from tests.helpers import type_checks_off

    with type_checks_off(), pytest.raises(LofitLensError, match=message):
        ReadingConfig(**settings)


def test_a_layer_outside_the_model_is_refused(llama: TransformerBridge) -> None:
    for layer in (-1, N_LAYERS):
        with pytest.raises(LofitLensError, match="from 0 to 2"):
            fit_reading_vector(llama, toy_task(), ReadingConfig(layer=layer), seed=0)


def test_it_shows_its_layers() -> None:
    found = ReadingVector(
        directions=torch.eye(2, 4), accuracy=torch.tensor([0.5, 0.75]),
        margin=torch.tensor([0.0, 1.0]), sigma=torch.tensor([2.0, 3.0]),
        layer=1, alpha=2.0, config=ReadingConfig(),
    )  # fmt: skip
    assert found.frame()["accuracy"].tolist() == [0.5, 0.75]
    assert found.frame()["chosen"].tolist() == [False, True]
    assert repr(found) == "ReadingVector(pca, layer 1, alpha 2, reading accuracy 0.75)"
    assert "<table" in found._repr_html_()
    assert isinstance(found.plot(), go.Figure)
    torch.testing.assert_close(found.edit().vectors, torch.tensor([[0.0, 6.0, 0.0, 0.0]]))
