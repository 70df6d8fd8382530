"""Hard concrete gates against numbers worked out by hand, and the edit they end in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lofit_lens.analysis.baselines.gates import (
    GateConfig,
    Gates,
    _GatesInTraining,
    chance_open,
    expected_gate,
    sample_gate,
    train_gates,
)
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.randomness import random_state_kept
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.tasks import Example, MultipleChoice, Task
from tests.helpers import (
    assert_same_logits,
    count_hooks,
    draw_tokens,
    edited_plain,
    load_plain,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LOCATIONS = (-2.0, 0.0, 1.5)
EXAMPLES = (
    Example("sky", "The colour of the sky is", (" blue.",), (" red.",)),
    Example("cat", "Q: Who lives in the house?\nA:", (" A grey cat.",), (" Anna.",)),
    Example("ben", "Ben has a sister, Clara. Her name is", (" Clara.",), (" Ben.",)),
    Example("end", "The", (" old house of Anna",), (" cat",)),
)
TASK = Task("toy", EXAMPLES, EXAMPLES[:2], EXAMPLES, EXAMPLES[:2], "sft", MultipleChoice())
FAST = GateConfig(learning_rate=0.05, epochs=2, batch_size=2, validate=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_gates(model: TransformerBridge, *, seed: int = 0, size: float = 0.3) -> Gates:
    """Gates with some closed, some half open and some open."""
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    one = generator(seed)
    log_alpha = 3 * torch.randn(*shape, 2, generator=one)
    scale, bias = (size * torch.randn(*shape, model.cfg.d_head, generator=one) for _ in range(2))
    return Gates(log_alpha, scale, bias)


def in_training(gates: Gates, *, scope: Any = "all") -> _GatesInTraining:
    n_layers, n_heads, _ = gates.log_alpha.shape
    every = HeadSet.every(n_layers=n_layers, n_heads=n_heads)
    log_alpha, scale, bias = (
        part.flatten(0, 1) for part in (gates.log_alpha, gates.scale, gates.bias)
    )
    return _GatesInTraining(every, log_alpha, scale, bias, scope, generator())


def test_the_formulas_give_the_numbers_worked_out_by_hand() -> None:
    # sigmoid(x + 0.33 * ln 11), with 0.33 * ln 11 = 0.791305
    log_alpha = torch.tensor([0.0, -0.791305, 2.0])
    expected = torch.tensor([0.6881116, 0.5, 0.9422042])
    torch.testing.assert_close(chance_open(log_alpha), expected, rtol=0, atol=2e-6)
    # 1.2 * sigmoid(x) - 0.1, cut to [0, 1]; sigmoid(-ln 11) = 1 / 12 is the edge
    log_alpha = torch.tensor([0.0, 2.0, -1.0, -2.5, 2.5, -math.log(11) + 1e-3])
    expected = torch.tensor([0.5, 0.9569565, 0.2227297, 0.0, 1.0, 0.0000917])
    torch.testing.assert_close(expected_gate(log_alpha), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("location", LOCATIONS)
def test_drawn_gates_have_the_probabilities_of_the_distribution(location: float) -> None:
    n = 100_000
    drawn = sample_gate(torch.full((n,), location), generator()).double().numpy()

    def above(t: float | np.ndarray) -> Any:
        """The probability of a stretched gate above t, from the definition."""
        inside = (t + 0.1) / 1.2
        return 1 / (1 + np.exp(-(location - 0.33 * np.log(inside / (1 - inside)))))

    for found, expected in (
        ((drawn > 0).mean(), above(0.0)),
        ((drawn == 1).mean(), above(1.0)),
        ((drawn > 0.4).mean(), above(0.4)),
    ):
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    mean = above(np.linspace(0, 1, 2001)).mean()  # of a number in [0, 1]: the integral of above
    assert abs(drawn.mean() - mean) < 4 * 0.5 / math.sqrt(n) + 3e-4
    assert chance_open(torch.tensor(location)).item() == pytest.approx(above(0.0), abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.floats(-50, 50), st.integers(0, 2**32))
def test_gates_lie_in_zero_to_one(location: float, seed: int) -> None:
    log_alpha = torch.full((64,), location)
    for gate in (sample_gate(log_alpha, generator(seed)), expected_gate(log_alpha)):
        assert gate.min() >= 0
        assert gate.max() <= 1


def test_the_gate_and_its_penalty_have_the_gradient_of_differences() -> None:
    log_alpha = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_(True)
    for function in (chance_open, expected_gate, lambda x: sample_gate(x, generator())):
        (found,) = torch.autograd.grad(function(log_alpha).sum(), log_alpha)
        with torch.no_grad():
            step = 1e-6
            slope = (function(log_alpha + step) - function(log_alpha - step)) / (2 * step)
        torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-7)
        assert found.abs().max() > 0.05


@pytest.mark.parametrize("scope", ["all", "last"])
def test_without_vectors_the_gated_model_is_the_model(llama: TransformerBridge, scope: Any) -> None:
    tokens = draw_tokens()
    gates = drawn_gates(llama, size=0.0)
    expected = llama(tokens)
    for edit in (gates.edit(), in_training(gates, scope=scope)):
        with edit.applied(llama):
            assert torch.equal(llama(tokens), expected)
            with torch.no_grad():
                assert torch.equal(llama(tokens), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_edit_is_that_of_a_plain_model_with_the_gates_in_it(
    tiny_model: Callable[[str], TransformerBridge],
    tiny_folder: Callable[[str], Path],
    family: str,
) -> None:
    bridge, plain, tokens = tiny_model(family), load_plain(tiny_folder(family)), draw_tokens()
    gates = drawn_gates(bridge)
    gate = (1.2 * torch.sigmoid(gates.log_alpha) - 0.1).clamp(0, 1)
    every = HeadSet.every(n_layers=bridge.cfg.n_layers, n_heads=bridge.cfg.n_heads)
    dense = HeadIntervention(
        every,
        scale=(gate[..., :1] * gates.scale).flatten(0, 1),
        bias=(gate[..., 1:] * gates.bias).flatten(0, 1),
    )
    with torch.no_grad(), edited_plain(plain, dense):
        expected = plain(tokens).logits
    for edit in (gates.edit(), in_training(gates)):
        with torch.no_grad(), edit.applied(bridge):
            assert_same_logits(bridge(tokens), expected, rel=1e-5)


def test_heads_with_both_gates_closed_are_left_out_and_the_best_come_first(
    llama: TransformerBridge,
) -> None:
    gates = drawn_gates(llama)
    closed = (gates.log_alpha < -math.log(11)).all(-1)
    assert 0 < closed.sum() < closed.numel()
    edit, scores = gates.edit(), gates.scores()
    assert torch.equal(edit.heads.mask(), ~closed)
    assert edit.heads == scores.top(k=len(edit.heads))
    assert (scores.scores[closed] == 0).all()
    assert (scores.scores[~closed] > 0).all()
    assert edit.n_parameters == 2 * len(edit.heads) * llama.cfg.d_head


def test_scores_are_the_norms_of_what_the_gates_let_through(llama: TransformerBridge) -> None:
    gates = drawn_gates(llama)
    frame = gates.edit().frame()
    expected = np.hypot(frame["scale_norm"], frame["bias_norm"])
    scores = gates.scores().scores
    found = [float(scores[head]) for head in gates.edit().heads]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_frame_has_a_row_for_every_head(llama: TransformerBridge) -> None:
    gates = drawn_gates(llama)
    frame = gates.frame()
    assert len(frame) == llama.cfg.n_layers * llama.cfg.n_heads
    assert frame["rank"].tolist() == list(range(1, len(frame) + 1))
    assert frame["score"].is_monotonic_decreasing
    row = frame.iloc[0]
    place = int(row["layer"]), int(row["head"])
    assert row["bias_gate"] == expected_gate(gates.log_alpha)[place][1].item()
    assert row["scale_chance_open"] == chance_open(gates.log_alpha)[place][0].item()
    assert row["bias_norm"] == pytest.approx(gates.bias[place].norm().item())
    assert "gates open" in repr(gates)


def test_training_depends_on_the_seed_alone(llama: TransformerBridge) -> None:
    np.random.seed(0)  # noqa: NPY002
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    first = train_gates(llama, TASK, FAST, seed=3, progress=False)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002
    with random_state_kept():
        torch.manual_seed(5)
        second = train_gates(llama, TASK, FAST, seed=3, progress=False)
    other = train_gates(llama, TASK, FAST, seed=4, progress=False)
    for name in ("log_alpha", "scale", "bias"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_gates_are_drawn_once_a_forward_pass_also_when_blocks_are_recomputed(
    llama: TransformerBridge,
) -> None:
    plain = train_gates(llama, TASK, FAST, progress=False)
    again = train_gates(llama, TASK, replace(FAST, gradient_checkpointing=True), progress=False)
    torch.testing.assert_close(again.log_alpha, plain.log_alpha, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.bias, plain.bias, rtol=1e-3, atol=1e-4)


def test_gates_are_drawn_in_training_and_fixed_without_gradients(
    llama: TransformerBridge,
) -> None:
    tokens, edit = draw_tokens(), in_training(drawn_gates(llama))
    with edit.applied(llama):
        assert not torch.equal(llama(tokens), llama(tokens))
        with torch.no_grad():
            assert torch.equal(llama(tokens), llama(tokens))


def test_a_high_penalty_closes_every_gate_and_leaves_the_model_alone(
    llama: TransformerBridge,
) -> None:
    config = replace(FAST, learning_rate=0.5, epochs=10, gate_penalty=100.0)
    gates = train_gates(llama, TASK, config, progress=False)
    assert (gates.log_alpha < -math.log(11)).all()
    edit, tokens = gates.edit(), draw_tokens()
    assert (len(edit.heads), edit.n_parameters) == (0, 0)
    expected = llama(tokens)
    with edit.applied(llama):
        assert torch.equal(llama(tokens), expected)


def test_a_higher_penalty_leaves_fewer_gates_open(llama: TransformerBridge) -> None:
    config = replace(FAST, learning_rate=0.1, epochs=5)
    found = [
        float(chance_open(gates.log_alpha).sum())
        for penalty in (0.0, 0.01, 1.0)
        for gates in [
            train_gates(llama, TASK, replace(config, gate_penalty=penalty), progress=False)
        ]
    ]
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize("objective", ["sft", "dpo", "choice"])
def test_training_lowers_the_loss_and_tells_where_it_was_done(
    llama: TransformerBridge, objective: Any
) -> None:
    config = replace(FAST, epochs=20, batch_size=4, objective=objective, validate=True)
    gates = train_gates(llama, TASK, config, seed=7, progress=False)
    origin = gates.provenance
    assert origin is not None
    assert origin.history.val_loss[-1] < 0.9 * origin.history.val_loss[0]
    assert {"component": "gates", "gate_penalty": 4e-5, "seed": 7}.items() <= origin.config.items()
    edit = gates.edit()
    assert isinstance(edit, Edit)
    assert edit.provenance == origin
    assert evaluate(llama, TASK, edit, progress=False).main.value >= 0


def test_scope_micro_batches_and_hooks(llama: TransformerBridge) -> None:
    llama("The cat")  # the first call of a bridge leaves hooks of its own
    before = count_hooks(llama)
    config = replace(FAST, scope="last", micro_batch_size=1)
    gates = train_gates(llama, TASK, config, progress=False)
    assert gates.edit().scope == "last"
    assert count_hooks(llama) == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gate_penalty": -1.0}, "gate_penalty must be 0 or greater, got -1"),
        ({"gate_penalty": math.nan}, "gate_penalty must be 0 or greater, got nan"),
        ({"l1": 0.1}, "l1 must be 0, got 0.1"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(LofitLensError, match=said):
        GateConfig(**wrong)
