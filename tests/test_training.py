"""The loop against a hand-written one in plain PyTorch and `transformers`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import DataError, LofitLensError, TrainingStopped
from lofit_lens.fast.switches import shortcuts
from lofit_lens.heads import HeadSet
from lofit_lens.stages import select_heads, tune_heads
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training import SelectionConfig, TuningConfig
from lofit_lens.training.objectives import dpo_loss, ipo_loss
from tests.helpers import D_MODEL, FAMILIES, N_HEADS, N_LAYERS, load_plain, plain_projections, train

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ModelBuilder = Callable[[str], "TransformerBridge"]
OBJECTIVES = ("sft", "dpo", "ipo", "choice")


def colour_task(n: int = 6) -> Task:
    colours = ["red", "blue", "grey", "green", "white", "black"]
    examples = tuple(
        Example(
            id=str(i),
            prompt=f"The colour of house {i} is",
            correct=(f" {colours[i % 6]}.",),
            incorrect=(f" {colours[(i + 1) % 6]}.", f" {colours[(i + 3) % 6]} now."),
        )
        for i in range(n)
    )
    return Task(
        name="colours", train=examples, val=examples[:3], test=examples, val_as_test=examples[:3],
        objective="sft", scoring=MultipleChoice(),
    )  # fmt: skip


def every_head() -> HeadSet:
    return HeadSet.every(n_layers=N_LAYERS, n_heads=N_HEADS)


class PlainLoop:
    """LoFiT by hand: dense scale and bias in pre-hooks of a plain Hugging Face model."""

    def __init__(self, folder: Path, encoder: Encoder, task: Task, objective: str) -> None:
        self.model: Any = load_plain(folder).requires_grad_(False)
        self.encoder = encoder
        self.task = task
        self.objective = objective
        self.edit: Callable[[int, Tensor], Tensor] | None = None
        for layer, projection in enumerate(plain_projections(self.model)):
            projection.register_forward_pre_hook(self._hook(layer))
        self.end = objective != "choice"
        self.reference = {
            example.id: [float(self.logprob(example, a)) for a in self._answers(example)]
            for example in task.train
        }

    def _hook(self, layer: int) -> Callable[[Any, tuple[Tensor]], tuple[Tensor] | None]:
        def hook(_module: Any, args: tuple[Tensor]) -> tuple[Tensor] | None:
            return None if self.edit is None else (self.edit(layer, args[0]),)

        return hook

    def _answers(self, example: Example) -> tuple[str, ...]:
        return {
            "sft": example.correct[:1],
            "dpo": (example.correct[0], example.incorrect[0]),
            "ipo": (example.correct[0], example.incorrect[0]),
            "choice": example.correct + example.incorrect,
        }[self.objective]

    def logprob(self, example: Example, answer: str) -> Tensor:
        """One sequence at a time, all positions unembedded."""
        text = self.encoder.continuation(example.prompt, answer, end=self.end)
        logits: Tensor = self.model(torch.tensor([text.ids])).logits[0]
        logprobs = logits.log_softmax(-1)
        total = torch.tensor(0.0)
        for place in range(text.n_prompt, len(text.ids)):
            total = total + logprobs[place - 1, text.ids[place]]
        return total

    def loss(self, batch: list[Example], beta: float) -> Tensor:
        losses, tokens = [], 0
        for example in batch:
            scores = [self.logprob(example, answer) for answer in self._answers(example)]
            if self.objective == "sft":
                text = self.encoder.continuation(example.prompt, example.correct[0], end=True)
                tokens += text.n_answer
                losses.append(-scores[0])
            elif self.objective in ("dpo", "ipo"):
                chosen, rejected = self.reference[example.id]
                margin = (scores[0] - chosen) - (scores[1] - rejected)
                ipo = (margin - 0.5 / beta) ** 2
                losses.append(
                    ipo if self.objective == "ipo" else torch.log1p(torch.exp(-beta * margin))
                )
            else:
                losses.append(-torch.stack(scores).log_softmax(0)[0])
        return torch.stack(losses).sum() / (tokens or len(batch))


def adamw_by_hand(
    parameter: Tensor, gradients: Callable[[], Tensor], *, steps: int, lr: float, decay: float
) -> None:
    """AdamW with linear decay and clipping to norm 1, as the formulas say."""
    first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
    for step in range(1, steps + 1):
        gradient = gradients()
        gradient = gradient * min(1.0, 1.0 / (float(gradient.norm()) + 1e-6))
        rate = lr * (1 - (step - 1) / steps)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        direction = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        with torch.no_grad():
            parameter.mul_(1 - rate * decay).sub_(rate * direction)


def train_by_hand(
    loop: PlainLoop, component: str, config: SelectionConfig | TuningConfig, heads: HeadSet
) -> Tensor:
    """The whole run, in the order of examples that the seed gives."""
    weight: Any = plain_projections(loop.model)[0].weight
    d_head = weight.numel() // (D_MODEL * N_HEADS)
    generator = torch.Generator().manual_seed(config.seed)
    rows = config.init_std * torch.randn(len(heads), d_head, generator=generator)
    rows.requires_grad_(True)
    examples = loop.task.train
    per_epoch = math.ceil(len(examples) / config.batch_size)
    order: list[int] = []
    for _ in range(config.epochs):
        order += torch.randperm(len(examples), generator=generator).tolist()
    epochs = [order[i : i + len(examples)] for i in range(0, len(order), len(examples))]
    batches = iter(
        [examples[i] for i in epoch[start : start + config.batch_size]]
        for epoch in epochs
        for start in range(0, len(epoch), config.batch_size)
    )

    def edit(layer: int, flat: Tensor) -> Tensor:
        dense = torch.zeros(N_LAYERS, N_HEADS, d_head)
        layers = torch.tensor([head.layer for head in heads])
        places = torch.tensor([head.head for head in heads])
        dense = dense.index_put((layers, places), rows)[layer].flatten()
        return flat * (1 + dense) if component == "scale" else flat + dense

    def gradients() -> Tensor:
        rows.grad = None
        loss = loop.loss(next(batches), config.beta)
        (loss + config.l1 * rows.abs().sum()).backward()
        assert rows.grad is not None
        return rows.grad.clone()

    loop.edit = edit
    adamw_by_hand(
        rows,
        gradients,
        steps=config.epochs * per_epoch,
        lr=config.rate,
        decay=config.weight_decay,
    )
    loop.edit = None
    return rows.detach()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_of_either_stage_equals_plain_pytorch(
    family: str, objective: Any, tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, task = tiny_model(family), colour_task(4)
    loop = PlainLoop(tiny_folder(family), Encoder(model), task, objective)
    some = HeadSet([(2, 1), (0, 3)], n_layers=N_LAYERS, n_heads=N_HEADS)
    stages = (
        ("scale", every_head(), SelectionConfig(epochs=1, batch_size=4, objective=objective)),
        ("bias", some, TuningConfig(epochs=1, batch_size=4, objective=objective)),
    )
    for component, heads, config in stages:
        ours = train(model, task, heads, component, config, progress=False)  # pyright: ignore[reportArgumentType]
        learned = ours.scale if component == "scale" else ours.bias
        expected = train_by_hand(loop, component, config, heads)
        assert learned is not None
        # Adam's first step is the sign of the gradient times the rate: a wrong sign would show
        assert torch.allclose(learned, expected, atol=2e-2 * config.rate)


def test_a_whole_run_with_decay_and_odd_batches_equals_plain_pytorch(
    tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, task = tiny_model("llama"), colour_task(6)
    loop = PlainLoop(tiny_folder("llama"), Encoder(model), task, "dpo")
    config = TuningConfig(
        epochs=3, batch_size=4, objective="dpo", weight_decay=0.1, beta=0.7, seed=7
    )
    heads = HeadSet([(1, 0), (1, 2), (2, 3)], n_layers=N_LAYERS, n_heads=N_HEADS)
    ours = tune_heads(model, task, heads, config, progress=False)
    expected = train_by_hand(loop, "bias", config, heads)
    assert ours.bias is not None
    assert torch.allclose(ours.bias, expected, atol=1e-5)


def test_the_l1_term_shrinks_scales(llama: TransformerBridge) -> None:
    def total(l1: float) -> float:
        config = SelectionConfig(l1=l1, epochs=5, batch_size=2)
        return float(select_heads(llama, colour_task(), config, progress=False).scores.sum())

    assert total(10.0) < 0.5 * total(0.0)


def test_dpo_loss_equals_the_formula_on_hand_numbers() -> None:
    # -log sigmoid(0.5 * 1.5) = log(1 + e^-0.75)
    loss = dpo_loss(torch.tensor(1.5), 0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-0.75)))


def test_ipo_loss_equals_the_formula_on_hand_numbers() -> None:
    # the margin of 1.5 is 0.5 above 1 / (2 * 0.5)
    loss = ipo_loss(torch.tensor(1.5), 0.5)
    assert float(loss) == pytest.approx(0.25)


def test_dpo_starts_at_log_two(llama: TransformerBridge) -> None:
    config = TuningConfig(objective="dpo", epochs=1, init_std=0.0)
    tuned = tune_heads(llama, colour_task(), every_head(), config, progress=False)
    assert tuned.provenance is not None
    assert tuned.provenance.history.loss[0] == pytest.approx(math.log(2), abs=1e-5)
    assert tuned.provenance.history.val_loss[0] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_give_the_same_run(llama: TransformerBridge, objective: Any) -> None:
    config = TuningConfig(objective=objective, epochs=2, batch_size=6)
    whole = tune_heads(llama, colour_task(), every_head(), config, progress=False)
    parts = tune_heads(
        llama, colour_task(), every_head(), replace(config, micro_batch_size=1), progress=False
    )
    assert whole.bias is not None
    assert parts.bias is not None
    assert torch.allclose(whole.bias, parts.bias, atol=1e-4)


@pytest.mark.parametrize("component", ["scale", "bias"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(
    family: str, component: Any, tiny_model: ModelBuilder
) -> None:
    model = tiny_model(family)
    config = TuningConfig(component=component, epochs=1, batch_size=6, validate=False)
    heads = HeadSet([(0, 1), (1, 1), (2, 2)], n_layers=N_LAYERS, n_heads=N_HEADS)
    kept = train(model, colour_task(), heads, component, config, progress=False)
    again = train(
        model, colour_task(), heads, component,
        replace(config, gradient_checkpointing=True), progress=False,
    )  # fmt: skip
    assert kept.provenance is not None
    assert again.provenance is not None
    norms = (kept.provenance.history.gradient_norm, again.provenance.history.gradient_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    for one, other in ((kept.scale, again.scale), (kept.bias, again.bias)):
        assert (one is None and other is None) or torch.equal(one, other)  # pyright: ignore[reportArgumentType]
    assert not any(module.training for module in model.modules())


def test_gradient_checkpointing_really_recomputes_the_blocks(llama: TransformerBridge) -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    layer: Any = llama.blocks[1].original_component
    layer.mlp.register_forward_pre_hook(count)
    config = TuningConfig(epochs=1, batch_size=6, validate=False)
    with shortcuts(False):
        train(llama, colour_task(), every_head(), "bias", config, progress=False)
        plain, calls = calls, 0
        with_checkpoints = replace(config, gradient_checkpointing=True)
        train(llama, colour_task(), every_head(), "bias", with_checkpoints, progress=False)
    assert calls == 2 * plain


def test_the_global_random_state_is_untouched(llama: TransformerBridge) -> None:
    # Python's own generator is left out: beartype, which checks shapes in tests, draws from it
    import numpy as np

    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    config = TuningConfig(epochs=1)
    tune_heads(llama, colour_task(), every_head(), config, progress=False)
    after = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]


def test_a_seed_gives_the_same_run_and_another_seed_another(llama: TransformerBridge) -> None:
    def bias(seed: int) -> Tensor:
        config = TuningConfig(epochs=1, batch_size=2, seed=seed)
        tuned = tune_heads(llama, colour_task(), every_head(), config, progress=False)
        assert tuned.bias is not None
        return tuned.bias

    assert torch.equal(bias(1), bias(1))
    assert not torch.equal(bias(1), bias(2))


def test_validation_loss_is_measured_before_training_and_after_each_epoch(
    llama: TransformerBridge,
) -> None:
    config = TuningConfig(epochs=3, batch_size=4, learning_rate=0.05)
    tuned = tune_heads(llama, colour_task(), every_head(), config, progress=False)
    assert tuned.provenance is not None
    history = tuned.provenance.history
    assert history.val_step == [0, 2, 4, 6]
    assert history.val_loss[-1] < history.val_loss[0]
    assert len(history.loss) == 6
    assert history.learning_rate[0] == 0.05
    assert history.learning_rate[-1] == pytest.approx(0.05 / 6)


def test_parameters_stay_float32_under_a_bfloat16_model(
    tiny_folder: Callable[[str], Path],
) -> None:
    from lofit_lens.model import load_model

    model = load_model(tiny_folder("llama"), device="cpu", dtype="bfloat16")
    config = TuningConfig(epochs=1, learning_rate=1e-4)
    tuned = tune_heads(model, colour_task(), every_head(), config, progress=False)
    assert tuned.bias is not None
    assert tuned.bias.dtype == torch.float32
    assert not torch.equal(tuned.bias, tuned.bias.bfloat16().float())


@contextmanager
def final_residual_times(
    model: TransformerBridge, factor: Callable[[int], float]
) -> Iterator[None]:
    """Break the model from outside: scale what reaches the unembedding, by the call's number."""
    hf_model: Any = model.original_model
    calls = itertools.count()

    def scale(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] * factor(next(calls)),)

    handle = hf_model.lm_head.register_forward_pre_hook(scale)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_learned(
    llama: TransformerBridge, broken: float
) -> None:
    tokens = llama.to_tokens("The colour of the sky")
    clean = llama(tokens)
    config = TuningConfig(epochs=5, batch_size=2, validate=False)
    expected = tune_heads(llama, colour_task(), every_head(), config, progress=False)
    with (
        shortcuts(replay=False),  # which passes the texts once more, beforehand
        final_residual_times(llama, lambda call: 1.0 if call < 3 else broken),
        pytest.raises(
            TrainingStopped, match=r"after 3 steps: the loss is .* below 0\.01"
        ) as stopped,
    ):
        tune_heads(llama, colour_task(), every_head(), config, progress=False)
    learned = stopped.value.learned
    assert isinstance(learned, HeadIntervention)
    assert learned.bias is not None
    assert torch.isfinite(learned.bias).all()
    assert learned.provenance is not None
    assert expected.provenance is not None
    assert learned.provenance.history.loss == pytest.approx(
        expected.provenance.history.loss[:3], rel=1e-5
    )
    assert torch.equal(llama(tokens), clean)


def test_a_step_that_overflows_is_taken_back(llama: TransformerBridge) -> None:
    config = TuningConfig(epochs=60, batch_size=1, learning_rate=3e37, validate=False)
    with pytest.raises(TrainingStopped, match=r"not finite|is nan|is inf") as stopped:
        tune_heads(llama, colour_task(), every_head(), config, progress=False)
    learned = stopped.value.learned
    assert isinstance(learned, HeadIntervention)
    bias = learned.bias
    assert bias is not None
    assert torch.isfinite(bias).all()
    assert float(bias.abs().max()) > 1e36


def test_no_heads_cannot_be_trained(llama: TransformerBridge) -> None:
    none = HeadSet([], n_layers=N_LAYERS, n_heads=N_HEADS)
    with pytest.raises(LofitLensError, match="no heads to train"):
        tune_heads(llama, colour_task(), none, progress=False)


def test_a_loss_that_diverges_stops_and_says_so(llama: TransformerBridge) -> None:
    config = TuningConfig(epochs=20, batch_size=2, validate=False)
    with (
        final_residual_times(llama, lambda call: 1.2**call),
        pytest.raises(TrainingStopped, match=r"the loss diverged, from .* over the last 10 steps"),
    ):
        tune_heads(llama, colour_task(), every_head(), config, progress=False)


def test_an_interrupt_in_training_leaves_no_hook(llama: TransformerBridge) -> None:
    tokens = llama.to_tokens("The colour of the sky")
    clean = llama(tokens)
    calls = 0

    def interrupt(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    hf_model: Any = llama.original_model
    handle = hf_model.register_forward_pre_hook(interrupt)
    config = TuningConfig(epochs=5, gradient_checkpointing=True, scope="after_prompt")
    with pytest.raises(KeyboardInterrupt):
        tune_heads(llama, colour_task(), every_head(), config, progress=False)
    handle.remove()
    assert torch.equal(llama(tokens), clean)
    assert not any(point.fwd_hooks for point in llama.hook_dict.values())
    assert not hf_model._forward_pre_hooks
    assert not any(module.training for module in llama.modules())


@pytest.mark.parametrize("scope", ["after_prompt", "iti_compat", "last"])
def test_every_scope_can_be_trained_and_lowers_the_loss(
    llama: TransformerBridge, scope: Any
) -> None:
    config = TuningConfig(epochs=8, batch_size=6, learning_rate=0.05, scope=scope)
    tuned = tune_heads(llama, colour_task(), every_head(), config, progress=False)
    assert tuned.scope == scope
    assert tuned.provenance is not None
    history = tuned.provenance.history
    assert history.val_loss[-1] < history.val_loss[0] - 0.05


def test_a_model_with_trainable_parameters_or_in_training_mode_is_refused(
    llama: TransformerBridge,
) -> None:
    llama.train()
    with pytest.raises(LofitLensError, match=r"model\.eval\(\)"):
        tune_heads(llama, colour_task(), every_head(), progress=False)
    llama.eval()
    llama.requires_grad_(True)
    with pytest.raises(LofitLensError, match="freeze"):
        tune_heads(llama, colour_task(), every_head(), progress=False)


def test_an_objective_without_incorrect_answers_is_refused_before_training(
    llama: TransformerBridge,
) -> None:
    task = colour_task()
    bare = replace(task, train=tuple(replace(e, incorrect=()) for e in task.train))
    with pytest.raises(DataError, match="needs incorrect answers"):
        tune_heads(llama, bare, every_head(), TuningConfig(objective="dpo"), progress=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("epochs", 0), ("l1", -1.0), ("micro_batch_size", 0)],
)
def test_a_config_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(LofitLensError, match=name):
        SelectionConfig(**{name: value})


def test_the_presets_are_table_6() -> None:
    assert SelectionConfig.paper("llama2-7b", "clutrr").l1 == 5e-3
    assert SelectionConfig.paper("llama2-7b", "clutrr").learning_rate == 5e-4
    assert TuningConfig.paper("gemma-7b", "truthfulqa").learning_rate == 2e-2
    assert TuningConfig.paper("gemma-7b", "truthfulqa", fraction=0.1).learning_rate == 8e-3
    with pytest.raises(LofitLensError, match="no row"):
        TuningConfig.paper("llama3-8b", "truthfulqa")
