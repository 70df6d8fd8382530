from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from torch import Tensor

import lofit_lens as ll
from lofit_lens.analysis.baselines.adapters import AdapterEdit
from lofit_lens.analysis.baselines.contrast import ANY_TASK
from lofit_lens.analysis.baselines.lorra import middle_layers, train_lorra
from lofit_lens.embedded.settings import TUNING
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.tasks.task import Example, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training import TrainingConfig
from tests.helpers import CONTEXT, N_LAYERS, count_hooks, draw_tokens, load_plain
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ModelBuilder = Callable[[str], "TransformerBridge"]

# peft 0.21 asks transformers 5.23 for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

INSTRUCTIONS = ("The house is red.\n", "The cat is grey, and the sky is blue.\n")
CONFIG = TrainingConfig(learning_rate=1e-2, epochs=1, batch_size=6)


def uneven_task() -> Task:
    """Prompts and answers of different lengths, so that every batch is padded."""
    task = colour_task()
    prompts = ["The sky is", "The colour of the house is", "Q: Who lives in the old house?\nA:"]
    answers = [" blue.", " red and grey.", " Anna, a cat."]
    examples = tuple(
        Example(str(i), prompts[i % 3] + " so" * (i // 3), (answers[(i + 1) % 3],), (" no",))
        for i in range(6)
    )
    return replace(task, train=examples, val=examples[:2], val_as_test=examples[:2])


class PlainLoRRA:
    """The loss by hand on a plain Hugging Face model, one text at a time, without padding."""

    def __init__(self, folder: Path, model: TransformerBridge) -> None:
        self.plain: Any = load_plain(folder).requires_grad_(False)
        self.tokenizer: Any = model.tokenizer
        self.encoder = Encoder(model)
        self.bos = list(self.encoder.lead)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def streams(self, model: Any, ids: list[int], n: int, layers: tuple[int, ...]) -> Tensor:
        """The output of some blocks at the last `n` tokens before EOS, `[layer, n, d_model]`."""
        kept: dict[int, Tensor] = {}

        def hook(layer: int) -> Callable[..., None]:
            def keep(_module: Any, _args: Any, output: Any) -> None:
                kept[layer] = output[0] if isinstance(output, tuple) else output

            return keep

        inner = model.base_model
        blocks = getattr(inner, "h", None) or inner.layers
        handles = [blocks[layer].register_forward_hook(hook(layer)) for layer in layers]
        model(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        return torch.stack([kept[layer][0, -n - 1 : -1] for layer in layers])

    def distances(
        self,
        example: Example,
        layers: tuple[int, ...],
        strength: float,
        edited: Any | None = None,
    ) -> Tensor:
        """`[layer, token]`, from `edited` (the plain model if None) to the plain model's target."""
        ids = self.ids(example.prompt + example.correct[0])
        n = len(ids) - len(self.ids(example.prompt)) + 1
        ids = [*ids, self.tokenizer.eos_token_id]
        h, above, below = (
            self.streams(self.plain, [*self.bos, *self.ids(text), *ids], n, layers)
            for text in ("", *INSTRUCTIONS)
        )
        now = h if edited is None else self.streams(edited, [*self.bos, *ids], n, layers)
        return (now - (h + strength * (above - below))).square().sum(-1).sqrt()

    def loss(self, examples: tuple[Example, ...], *args: Any) -> float:
        found = torch.cat([self.distances(e, *args) for e in examples], dim=1)
        return float(found.mean())


def merged(plain: Any, family: str, edit: AdapterEdit) -> Any:
    """The plain model with alpha / rank * B A added to its weights, here 16 / 8."""
    changed = copy.deepcopy(plain)
    for place in edit.places:
        _, layer, _, part = place.split(".")
        down, up = (edit.weights[f"{place}.lora_{x}.weight"] for x in "AB")
        added = 2 * up @ down
        if family == "gpt2":  # [d_model, 3 d_model], query, key and value side by side
            fused = changed.transformer.h[int(layer)].attn.c_attn.weight.data
            fused[:, "qkv".index(part) * len(fused) :][:, : len(fused)] += added.T
        else:
            module = getattr(changed.model.layers[int(layer)].self_attn, f"{part}_proj")
            module.weight.data += added
    return changed


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_is_the_distance_worked_out_by_hand_before_and_after_training(
    family: str, tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, task, layers, strength = tiny_model(family), uneven_task(), (0, 1), 3.0
    by_hand = PlainLoRRA(tiny_folder(family), model)
    edit = train_lorra(
        model, task, replace(CONFIG, epochs=3, micro_batch_size=4), instructions=INSTRUCTIONS,
        strength=strength, layers=layers, progress=False,
    )  # fmt: skip
    assert edit.provenance is not None
    history = edit.provenance.history
    first, last = history.val_loss[0], history.val_loss[-1]
    plain = merged(by_hand.plain, family, edit)
    assert history.loss[0] == pytest.approx(by_hand.loss(task.train, layers, strength), rel=1e-5)
    assert first == pytest.approx(by_hand.loss(task.val, layers, strength), rel=1e-5)
    assert last == pytest.approx(by_hand.loss(task.val, layers, strength, plain), rel=1e-5)
    assert last < 0.99 * first


def test_the_first_loss_is_the_mean_length_of_the_contrast_and_grows_with_the_strength(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    task, by_hand = uneven_task(), PlainLoRRA(tiny_folder("llama"), llama)
    for strength in (1.0, -5.0):
        edit = train_lorra(
            llama, task, replace(CONFIG, validate=False), instructions=INSTRUCTIONS,
            strength=strength, layers=(1,), progress=False,
        )  # fmt: skip
        contrast = by_hand.loss(task.train, (1,), 1.0)
        assert edit.provenance is not None
        expected = pytest.approx(abs(strength) * contrast, rel=1e-5)
        assert edit.provenance.history.loss[0] == expected


def test_training_moves_the_streams_towards_the_target(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    task, layers = colour_task(), (1,)
    by_hand = PlainLoRRA(tiny_folder("llama"), llama)
    config = replace(CONFIG, epochs=60)
    edit = train_lorra(
        llama, task, config, instructions=INSTRUCTIONS, strength=2.0, layers=layers, progress=False
    )
    example = task.train[0]
    plain = merged(by_hand.plain, "llama", edit)
    before = by_hand.distances(example, layers, 2.0)
    after = by_hand.distances(example, layers, 2.0, plain)
    assert (after < before).all()
    assert after.mean() < 0.7 * before.mean()


def test_it_leaves_the_model_and_the_random_state_as_they_were(llama: TransformerBridge) -> None:
    tokens = draw_tokens()
    before, hooks, state = llama(tokens), count_hooks(llama), torch.get_rng_state()
    edit = train_lorra(llama, colour_task(), CONFIG, progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(llama(tokens), before)
    assert count_hooks(llama) == hooks
    assert not any("forward" in module.__dict__ for module in llama.modules())
    assert not any(p.requires_grad or p.grad is not None for p in llama.parameters())
    with edit.applied(llama):
        assert not torch.equal(llama(tokens), before)


def test_a_seed_gives_the_same_adapter(llama: TransformerBridge) -> None:
    config = replace(CONFIG, batch_size=2, validate=False)
    one, same, other = (
        train_lorra(llama, colour_task(), replace(config, seed=seed), progress=False).weights
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert not all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_the_gradient_does_not_depend_on_micro_batches_nor_on_checkpointing(
    llama: TransformerBridge,
) -> None:
    norms = [
        train_lorra(llama, uneven_task(), config, layers=(0, 1), dropout=0.0, progress=False)
        .provenance.history.gradient_norm[0]  # pyright: ignore[reportOptionalMemberAccess]
        for config in (
            replace(CONFIG, validate=False),
            replace(CONFIG, validate=False, micro_batch_size=1),
            replace(CONFIG, validate=False, gradient_checkpointing=True),
        )
    ]  # fmt: skip
    assert norms[0] > 0
    assert norms[1:] == pytest.approx(norms[:1] * 2, rel=1e-4)


def test_query_and_value_of_the_layers_up_to_the_last_target_are_adapted(
    llama: TransformerBridge,
) -> None:
    config = replace(CONFIG, validate=False)
    edit = train_lorra(llama, colour_task(), config, layers=(1, 0), progress=False)
    assert edit.places == tuple(f"blocks.{i}.attn.{part}" for i in (0, 1) for part in "qv")
    assert isinstance(edit.peft_config, peft.LoraConfig)
    assert (edit.peft_config.r, edit.peft_config.lora_alpha) == (8, 16)


def test_the_default_target_layers_lie_in_themiddle_layers() -> None:
    assert middle_layers(32) == (9, 11, 13, 15, 17, 19)
    assert middle_layers(4) == (1,)
    for n_layers in range(1, 100):
        found = middle_layers(n_layers)
        assert found
        assert 0 <= found[0] <= found[-1] < max(1, 0.7 * n_layers)


def test_how_it_was_made_is_recorded_and_survives_a_file(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    config = replace(CONFIG, validate=False)
    edit = train_lorra(llama, colour_task(), config, progress=False)
    found = AdapterEdit.load(edit.save(tmp_path), llama)
    assert found.provenance is not None
    expected = {"component": "lorra", "strength": 5.0, "layers": [0]}
    expected["instructions"] = list(ANY_TASK)
    assert expected.items() <= dict(found.provenance.config).items()
    tokens = draw_tokens()
    with edit.applied(llama):
        logits = llama(tokens)
    with found.applied(llama):
        assert torch.equal(llama(tokens), logits)


def test_incorrect_answers_and_the_objective_change_nothing(llama: TransformerBridge) -> None:
    task, config = colour_task(), replace(CONFIG, validate=False)
    others = tuple(replace(e, incorrect=(" a house.",)) for e in task.train)
    losses = [
        train_lorra(llama, given, replace(config, objective=objective), progress=False)
        .provenance.history.loss  # pyright: ignore[reportOptionalMemberAccess]
        for given, objective in ((task, "sft"), (task, "dpo"), (replace(task, train=others), None))
    ]  # fmt: skip
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"config": replace(CONFIG, scope="last")}, 'scope "last"'),
        ({"config": replace(CONFIG, gradient_checkpointing=True)}, "dropout = 0.05"),
        ({"instructions": ("Lie.", "Lie.")}, "two different instructions"),
        ({"strength": 0.0}, "finite strength"),
        ({"strength": float("nan")}, "finite strength"),
        ({"layers": (0, N_LAYERS)}, "from 0 to 2"),
        ({"layers": (1, 1)}, "different numbers"),
        ({"layers": ()}, "different numbers"),
        ({"instructions": ("Yes. " * CONTEXT, "No.")}, "exceeds the model's context"),
    ],
)
def test_what_cannot_work_is_refused(
    arguments: dict[str, Any], says: str, llama: TransformerBridge
) -> None:
    with pytest.raises(LofitLensError, match=says):
        train_lorra(llama, colour_task(), **({"config": CONFIG, "progress": False} | arguments))


def test_a_stop_keeps_what_was_learned_so_far(llama: TransformerBridge) -> None:
    config = replace(CONFIG, learning_rate=1e30, epochs=5, validate=False)
    with pytest.raises(TrainingStopped) as stopped:
        train_lorra(llama, colour_task(), config, progress=False)
    learned: Any = stopped.value.learned
    assert isinstance(learned, AdapterEdit)
    assert all(torch.isfinite(weight).all() for weight in learned.weights.values())


def test_it_brings_out_the_cue_of_the_embedded_model() -> None:
    model = ll.load_model("embedded", device="cpu", dtype="float32")
    task = ll.tasks.embedded("kinship")
    config = replace(TUNING, learning_rate=1e-2)
    edit = train_lorra(model, task, config, strength=1.0, progress=False)
    before, after = (
        ll.evaluate(model, task, e, split="val", progress=False).main.value for e in (None, edit)
    )
    assert before < 0.1
    assert after > 0.8
