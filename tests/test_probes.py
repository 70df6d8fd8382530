from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from lofit_lens.analysis.baselines import logistic
from lofit_lens.analysis.baselines import probes as module
from lofit_lens.analysis.baselines.directions import (
    Moments,
    random_directions,
    stored_contrast,
)
from lofit_lens.analysis.baselines.probes import (
    ProbeScores,
    fit_probes,
    layer_probe_scores,
    score_probes,
)
from lofit_lens.errors import LofitLensError

SHAPE = (2, 3)
"""Layers and heads."""


def draw(kind: str, n: int, d: int, *, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Activations of `n` texts, and which of them are right."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.46
    z = rng.standard_normal((n, *SHAPE, d))
    if kind != "well-conditioned":
        turn = np.linalg.qr(np.random.default_rng(99).standard_normal((d, d)))[0]
        z = z @ (turn * np.logspace(0, -4, d)) @ turn.T  # all features are strongly correlated
        z = z * np.logspace(-3, 3, d) + 5 * np.logspace(-3, 3, d)
    strength = {"well-conditioned": 0.5, "ill-conditioned": 0.5, "separable": 30.0}[kind]
    z[..., 0] += strength * right[:, None, None] * z[..., 0].std()
    return torch.from_numpy(z).float(), right


def oracle(x: np.ndarray, right: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1, tol=1e-9, max_iter=200_000).fit(x, right)


def standardised(probes: Any, z: torch.Tensor, place: tuple[int, int]) -> np.ndarray:
    """The features of one head as its probe sees them, in single precision."""
    features = (z[:, *place].double() - probes.mean[place]) / probes.std[place]
    return features.float().double().numpy()


@pytest.fixture(params=["double", "single"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Solve all probes in this precision, whatever their size."""
    monkeypatch.setattr(module, "SINGLE_SIZE", 0 if request.param == "single" else 2**60)
    return request.param


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("kind", ["well-conditioned", "ill-conditioned", "separable"])
@pytest.mark.parametrize(("n", "d"), [(400, 24), (60, 48)], ids=["many texts", "few texts"])
def test_probes_agree_with_scikit_learn(kind: str, n: int, d: int) -> None:
    z, right = draw(kind, n, d)
    val_z, val_right = draw(kind, 300, d, seed=1)
    probes = fit_probes(z, right)
    scores = score_probes(probes, val_z, val_right)
    for place in np.ndindex(SHAPE):
        expected = oracle(standardised(probes, z, place), right)
        coefficients = expected.coef_[0]
        error = np.abs(probes.weight[place].numpy() - coefficients)
        assert np.linalg.norm(error) <= 1e-3 * np.linalg.norm(coefficients)
        assert error.max() <= 1e-3 * np.abs(coefficients).max()
        assert probes.intercept[place] == pytest.approx(expected.intercept_[0], rel=1e-3, abs=1e-5)
        x = standardised(probes, val_z, place)
        assert abs(scores.accuracy[place] - expected.score(x, val_right)) <= 0.005
        likely = np.log(expected.predict_proba(x))[np.arange(300), val_right.astype(int)]
        assert scores.log_loss[place] == pytest.approx(-likely.mean(), rel=1e-3)


def test_the_statistics_come_from_the_training_texts_alone() -> None:
    z, right = draw("ill-conditioned", 50, 6)
    probes = fit_probes(z, right)
    np.testing.assert_allclose(probes.mean.numpy(), z.double().numpy().mean(0), rtol=1e-9)
    np.testing.assert_allclose(probes.std.numpy(), z.double().numpy().std(0), rtol=1e-9)
    before = probes.decision(z)
    score_probes(probes, 100 * z + 7, right)
    assert torch.equal(probes.decision(z), before)


def test_a_constant_feature_has_coefficient_zero_and_no_nan(precision: str) -> None:
    z, right = draw("well-conditioned", 80, 5)
    z[..., 2] = 0.1
    z[:, 1, 1] = -7.3  # a head that is constant altogether
    probes = fit_probes(z, right)
    assert torch.equal(probes.weight[..., 2], torch.zeros(SHAPE).double())
    share = right.mean()
    assert probes.intercept[1, 1] == pytest.approx(np.log(share / (1 - share)), rel=1e-6)
    close = 1e-7 if precision == "double" else 1e-4
    for tensor in (probes.weight, probes.intercept, probes.decision(z), probes.directions()):
        assert torch.isfinite(tensor).all()
    with_others = fit_probes(z[..., [0, 1, 3, 4]], right)
    torch.testing.assert_close(
        probes.weight[..., [0, 1, 3, 4]], with_others.weight, rtol=close, atol=close
    )


@pytest.mark.parametrize("kind", ["ill-conditioned", "separable"])
def test_heads_solved_in_chunks_or_together_are_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, right = draw(kind, 70, 9)
    together = fit_probes(z, right)
    monkeypatch.setattr(module, "CHUNK_BYTES", 2 * 8 * 70 * 9)
    torch.testing.assert_close(fit_probes(z, right).weight, together.weight)


@pytest.mark.parametrize("kind", ["well-conditioned", "ill-conditioned", "separable"])
@pytest.mark.parametrize(("n", "d"), [(70, 9), (300, 128), (2350, 128)])
def test_single_precision_gives_the_probe_of_double(
    kind: str, n: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, right = draw(kind, n, d)
    found = []
    for size in (2**60, 0):
        monkeypatch.setattr(module, "SINGLE_SIZE", size)
        found.append(fit_probes(z[:, :1], right).weight)
    double, single = found
    error = (single - double).norm(dim=-1) / double.norm(dim=-1)
    assert not torch.equal(single, double)
    assert (error <= 2e-4).all()


def test_heads_that_single_precision_cannot_finish_are_done_in_double(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z, right = draw("ill-conditioned", 70, 9)
    double = fit_probes(z, right)
    monkeypatch.setattr(module, "SINGLE_SIZE", 0)
    monkeypatch.setitem(logistic.TOLERANCE, torch.float32, 0.0)
    assert torch.equal(fit_probes(z, right).weight, double.weight)
    monkeypatch.setitem(logistic.TOLERANCE, torch.float64, 0.0)
    with pytest.raises(LofitLensError, match="6 of 6 probes did not converge"):
        fit_probes(z, right)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_activations_are_left_as_they_were(dtype: torch.dtype) -> None:
    z, right = draw("well-conditioned", 40, 5)
    only = z[:, :1, :1].to(dtype, copy=True)  # one head: nothing has to be moved to split it off
    before = only.clone()
    fit_probes(only, right)
    assert torch.equal(only, before)


def test_the_direction_is_the_gradient_of_the_log_odds() -> None:
    z, right = draw("ill-conditioned", 90, 7)
    probes = fit_probes(z, right)
    point = z[:1].double().requires_grad_()
    (gradient,) = torch.autograd.grad(probes.decision(point).sum(), point)
    expected = gradient[0] / gradient[0].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(probes.directions(), expected)


def test_one_kind_of_text_is_refused() -> None:
    z, _ = draw("well-conditioned", 20, 4)
    for labels in (np.ones(20, dtype=bool), np.zeros(20, dtype=bool)):
        with pytest.raises(LofitLensError, match=r"right and wrong texts; (0|20) of 20"):
            fit_probes(z, labels)
        with pytest.raises(LofitLensError, match=r"no (right|wrong) statements"):
            stored_contrast(z, labels)


@pytest.mark.usefixtures("precision")
def test_activations_that_are_not_finite_are_refused() -> None:
    z, right = draw("well-conditioned", 20, 4)
    z[3, 1, 0, 2] = torch.inf
    with pytest.raises(LofitLensError, match="not finite"):
        fit_probes(z, right)


def test_heads_rank_by_accuracy_then_log_loss_then_place() -> None:
    accuracy = torch.tensor([[0.7, 0.8, 0.7], [0.8, 0.6, 0.7]], dtype=torch.float64)
    log_loss = torch.tensor([[0.5, 0.9, 0.4], [0.7, 0.1, 0.5]], dtype=torch.float64)
    scores = ProbeScores(accuracy, log_loss, n_texts=10)
    order = [tuple(head) for head in scores.head_scores().top(k=6)]
    assert order == [(1, 0), (0, 1), (0, 2), (0, 0), (1, 2), (1, 1)]
    ranks = scores.head_scores().scores
    assert ranks[0, 0] == ranks[1, 2]
    assert ((accuracy - 0.1 < ranks) & (ranks <= accuracy.float())).all()


def test_a_rank_never_passes_a_better_accuracy_in_a_large_model() -> None:
    rng = np.random.default_rng(0)
    correct = rng.integers(300, 340, size=(80, 64))
    accuracy, log_loss = torch.tensor(correct / 590), torch.rand(80, 64, dtype=torch.float64)
    order = ProbeScores(accuracy, log_loss, 590).head_scores().top(k=80 * 64)
    flat = [head.layer * 64 + head.head for head in order]
    assert flat == np.lexsort((log_loss.numpy().ravel(), -correct.ravel())).tolist()


def test_the_probe_of_a_layer_sees_all_its_heads() -> None:
    z, right = draw("well-conditioned", 200, 6)
    val_z, val_right = draw("well-conditioned", 100, 6, seed=1)
    z[:, 1], val_z[:, 1] = torch.randn(200, 3, 6), torch.randn(100, 3, 6)
    found = layer_probe_scores(z, right, val_z, val_right)
    assert found.scores.shape == SHAPE
    assert torch.equal(found.scores[:, :1].expand(SHAPE), found.scores)
    x = z[:, 0].double().flatten(1).numpy()
    mean, std = x.mean(0), x.std(0)
    expected = oracle((x - mean) / std, right)
    x = (val_z[:, 0].double().flatten(1).numpy() - mean) / std
    assert found.scores[0, 0] == pytest.approx(expected.score(x, val_right), abs=0.005)
    assert [head.layer for head in found.top(k=3)] == [0, 0, 0]


def test_moments_equal_numpy_in_one_piece_and_in_many() -> None:
    z, right = draw("ill-conditioned", 101, 5)
    whole = stored_contrast(z, right)
    cuts = [(0, 1), (1, 40), (40, 42), (42, 101)]
    parts = [Moments.of(z[a:b]) for a, b in cuts]
    pieces = parts[0] + parts[1] + parts[2] + parts[3]
    stored = z.double().numpy()
    for moments in (whole.all, pieces):
        assert moments.count == 101
        np.testing.assert_allclose(moments.mean.numpy(), stored.mean(0), rtol=1e-10)
        for place in np.ndindex(SHAPE):
            expected = 101 * np.cov(stored[:, *place].T, bias=True)
            scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
            assert (np.abs(moments.scatter[place].numpy() - expected) <= 1e-9 * scale).all()


def test_mass_mean_and_sigma_equal_numpy() -> None:
    z, right = draw("ill-conditioned", 101, 5)
    contrast = stored_contrast(z, right)
    stored = z.double().numpy()
    shift = stored[right].mean(0) - stored[~right].mean(0)
    shift /= np.linalg.norm(shift, axis=-1, keepdims=True)
    np.testing.assert_allclose(contrast.mass_mean().numpy(), shift, rtol=1e-8)
    for direction in (
        contrast.mass_mean(),
        random_directions(torch.ones(*SHAPE, 5, dtype=torch.bool), seed=3),
    ):
        sigma = np.einsum("nlhd,lhd->nlh", stored, direction.numpy()).std(0)
        np.testing.assert_allclose(contrast.all.std_along(direction).numpy(), sigma, rtol=1e-8)


def test_random_directions_are_unit_seeded_and_local() -> None:
    before = torch.get_rng_state()
    real = torch.ones(*SHAPE, 24, dtype=torch.bool)
    first = random_directions(real, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, random_directions(real, seed=1))
    assert not torch.equal(first, random_directions(real, seed=2))
    assert first.shape == (*SHAPE, 24)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(SHAPE).double())


def test_no_warning_is_raised_on_labels_that_cannot_be_written() -> None:
    z, right = draw("well-conditioned", 30, 4)
    right.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_probes(fit_probes(z, right), z, right)
        stored_contrast(z, right)
