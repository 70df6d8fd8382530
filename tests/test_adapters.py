from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import pytest
import torch
from torch import Tensor

from lofit_lens.analysis.baselines.adapters import AdapterEdit, new_adapter
from lofit_lens.edits.files import load_edit
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.fast.switches import shortcuts
from lofit_lens.identity import fingerprint
from lofit_lens.provenance import learned_on
from lofit_lens.randomness import random_state_kept
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tokens import Encoder
from tests.helpers import (
    BIT_EQUAL,
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    assert_same_logits,
    count_hooks,
    draw_edit,
    draw_tokens,
    load_plain,
)
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ModelBuilder = Callable[[str], "TransformerBridge"]

# peft 0.21 asks transformers 5.23 for a property under its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

SPLIT = ("llama", "qwen3", "gemma2", "mistral")
"""Families whose query, key and value projections are layers of their own in Hugging Face."""

PLAIN_NAMES = {
    "attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj",
    "mlp.out": "mlp.down_proj",
}  # fmt: skip

PROJECTIONS = {"lora": ("attn.q", "attn.v"), "ia3": ("attn.k", "attn.v", "mlp.out")}


def config_of(kind: str, *, plain: bool = False, dropout: float = 0.0) -> Any:
    names = [PLAIN_NAMES[n].split(".")[1] if plain else n for n in PROJECTIONS[kind]]
    if kind == "lora":
        return peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=names)
    return peft.IA3Config(target_modules=names, feedforward_modules=names[2:])


def places_of(kind: str) -> list[str]:
    return [f"blocks.{layer}.{name}" for layer in range(N_LAYERS) for name in PROJECTIONS[kind]]


def draw_adapter(model: TransformerBridge, kind: str, *, dropout: float = 0.0) -> AdapterEdit:
    """A random adapter in training, large enough to change every logit."""
    edit = new_adapter(model, config_of(kind, dropout=dropout), places_of(kind), seed=0)
    generator = torch.Generator().manual_seed(1)
    for weight in edit.weights.values():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return edit


def finished(edit: AdapterEdit) -> AdapterEdit:
    weights = {name: weight.detach().clone() for name, weight in edit.weights.items()}
    return AdapterEdit(edit.peft_config, edit.places, weights)


def in_plain(folder: Path, kind: str, edit: AdapterEdit) -> Any:
    """The same adapter in a plain Hugging Face model, by `peft` alone."""
    model = peft.get_peft_model(load_plain(folder), config_of(kind, plain=True)).eval()
    plain = {}
    for name, weight in edit.weights.items():
        _, layer, part, module, rest = name.split(".", 4)
        path = PLAIN_NAMES[f"{part}.{module}"]
        plain[f"base_model.model.model.layers.{layer}.{path}.{rest}"] = weight.detach().clone()
    result = peft.set_peft_model_state_dict(model, plain)
    assert not result.unexpected_keys
    return model


def count_trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("family", SPLIT)
def test_an_adapter_gives_the_logits_of_peft_on_a_plain_model(
    family: str, kind: str, tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    edit = draw_adapter(model, kind)
    plain = in_plain(tiny_folder(family), kind, edit)
    with torch.no_grad():
        before = model(tokens)
        with edit.applied(model):
            found = model(tokens)
        assert_same_logits(found, plain(tokens).logits, exactly=family in BIT_EQUAL)
        assert_same_logits(found, plain.merge_and_unload()(tokens).logits, rel=1e-5)
    assert (found - before).abs().max() > 0.1
    assert edit.n_parameters == count_trainable(
        peft.get_peft_model(load_plain(tiny_folder(family)), config_of(kind, plain=True))
    )


def change_of(edit: AdapterEdit, place: str) -> Tensor:
    """What LoRA adds to a weight: alpha / rank * B A, here 6 / 4."""
    down, up = (edit.weights[f"{place}.lora_{part}.weight"].detach() for part in "AB")
    return 1.5 * up @ down


def test_lora_on_a_fused_projection_changes_its_own_part_of_the_weight(
    tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    tokens = draw_tokens()
    for family in ("gpt2", "neox"):
        model, plain = tiny_model(family), load_plain(tiny_folder(family))
        edit = draw_adapter(model, "lora")
        for layer in range(N_LAYERS):
            query, value = (change_of(edit, f"blocks.{layer}.attn.{part}") for part in "qv")
            if family == "gpt2":  # [d_model, 3 d_model], query, key and value side by side
                weight = plain.transformer.h[layer].attn.c_attn.weight.data
                weight += torch.cat([query, torch.zeros_like(query), value]).T
            else:  # [n_heads 3 d_head, d_model], query, key and value of each head in turn
                weight = plain.gpt_neox.layers[layer].attention.query_key_value.weight.data
                parts = [p.unflatten(0, (N_HEADS, -1)) for p in (query, 0 * query, value)]
                weight += torch.stack(parts, dim=1).flatten(0, 2)
        with torch.no_grad(), edit.applied(model):
            assert_same_logits(model(tokens), plain(tokens).logits, rel=1e-5)


def test_ia3_on_a_fused_projection_scales_its_own_part(
    tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, plain, tokens = tiny_model("gpt2"), load_plain(tiny_folder("gpt2")), draw_tokens()
    edit = draw_adapter(model, "ia3")
    for layer in range(N_LAYERS):
        key, value, inner = (
            edit.weights[f"blocks.{layer}.{name}.ia3_l"].detach().flatten()
            for name in PROJECTIONS["ia3"]
        )
        block = plain.transformer.h[layer]
        factor = torch.cat([torch.ones_like(key), key, value])
        block.attn.c_attn.weight.data *= factor
        block.attn.c_attn.bias.data *= factor
        block.mlp.c_proj.weight.data *= inner[:, None]
    with torch.no_grad(), edit.applied(model):
        assert_same_logits(model(tokens), plain(tokens).logits, rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_nothing(family: str, kind: str, tiny_model: ModelBuilder) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    edit = new_adapter(model, config_of(kind), places_of(kind), seed=0)
    with torch.no_grad():
        before = model(tokens)
        with edit.applied(model):
            assert torch.equal(model(tokens), before)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_nothing_of_an_adapter_stays_behind(kind: str, llama: TransformerBridge) -> None:
    tokens, edit = draw_tokens(), draw_adapter(llama, kind)
    before, hooks, names = llama(tokens), count_hooks(llama), list(llama.state_dict())
    who = fingerprint(llama)
    with pytest.raises(ZeroDivisionError), edit.applied(llama):
        assert not torch.equal(llama(tokens), before)
        assert fingerprint(llama) == who
        assert list(llama.state_dict()) == names
        assert not any(p.requires_grad for p in llama.parameters())
        raise ZeroDivisionError
    assert torch.equal(llama(tokens), before)
    assert count_hooks(llama) == hooks
    assert not any("forward" in module.__dict__ for module in llama.modules())
    assert not any(p.requires_grad for p in llama.parameters())


def test_gradients_reach_the_adapter_alone_and_equal_those_of_peft(
    tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, tokens = tiny_model("llama"), draw_tokens()
    for kind in ("lora", "ia3"):
        edit = draw_adapter(model, kind)
        plain = in_plain(tiny_folder("llama"), kind, edit)
        with edit.applied(model):
            model(tokens).log_softmax(-1)[..., 5].sum().backward()
        plain(tokens).logits.log_softmax(-1)[..., 5].sum().backward()
        expected = [p.grad for p in plain.parameters() if p.requires_grad]
        found = [weight.grad for weight in edit.weights.values()]
        assert all(gradient is not None for gradient in found)
        assert sorted(float(g.norm()) for g in found if g is not None) == pytest.approx(
            sorted(float(g.norm()) for g in expected if g is not None), rel=1e-4
        )
        assert all(p.grad is None for p in model.parameters())


def test_dropout_works_in_training_steps_alone(llama: TransformerBridge) -> None:
    tokens, edit = draw_tokens(), draw_adapter(llama, "lora", dropout=0.5)

    def twice(edit: AdapterEdit) -> tuple[Tensor, Tensor]:
        with edit.applied(llama):
            return llama(tokens).detach(), llama(tokens).detach()

    with random_state_kept():
        assert not torch.equal(*twice(edit))
        with torch.no_grad():
            assert torch.equal(*twice(edit))
        assert torch.equal(*twice(finished(edit)))


def test_a_finished_adapter_needs_no_gradient(llama: TransformerBridge) -> None:
    with finished(draw_adapter(llama, "lora")).applied(llama):
        assert not llama(draw_tokens()).requires_grad


def test_generation_with_a_cache_equals_generation_without(tiny_model: ModelBuilder) -> None:
    for family in ("llama", "gpt2"):
        model = tiny_model(family)
        for kind in ("lora", "ia3"):
            with finished(draw_adapter(model, kind)).applied(model):
                texts: list[Any] = [
                    model.generate(
                        draw_tokens(), max_new_tokens=8, do_sample=False, stop_at_eos=False,
                        use_past_kv_cache=cached, return_type="tokens", verbose=False,
                    )
                    for cached in (True, False)
                ]  # fmt: skip
            assert torch.equal(*texts)


def test_a_shared_prefix_gives_the_same_scores(llama: TransformerBridge) -> None:
    encoder = Encoder(llama)
    start = "The colour of the house is red. The colour of the cat is"
    texts = [encoder.continuation(start, answer) for answer in (" grey.", " blue.", " red now.")]
    edit = finished(draw_adapter(llama, "lora"))
    shared = answer_logprobs(llama, texts, edit)
    with shortcuts(False):
        whole = answer_logprobs(llama, texts, edit)
    assert torch.allclose(shared, whole, atol=1e-4)
    assert not torch.allclose(whole, answer_logprobs(llama, texts), atol=1e-2)


def test_adapters_nest_with_each_other_and_with_learned_edits_of_heads(
    tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    model, tokens = tiny_model("llama"), draw_tokens()
    lora, ia3 = draw_adapter(model, "lora"), draw_adapter(model, "ia3")
    plain = in_plain(tiny_folder("llama"), "lora", lora).merge_and_unload()
    for layer in range(N_LAYERS):
        for name, path in list(PLAIN_NAMES.items())[1:]:
            module = plain.model.layers[layer].get_submodule(path)
            factor = ia3.weights[f"blocks.{layer}.{name}.ia3_l"].detach()
            module.weight.data *= factor
    edit = draw_edit(model)
    object.__setattr__(edit, "provenance", learned_on(model, colour_task(), {}))
    with torch.no_grad(), lora.applied(model):
        alone = model(tokens)
        with ia3.applied(model):
            assert_same_logits(model(tokens), plain(tokens).logits, rel=1e-5)
            with edit.applied(model):
                assert not torch.equal(model(tokens), alone)
        assert torch.equal(model(tokens), alone)


def test_an_adapter_stays_float32_on_a_bfloat16_model(tiny_folder: Callable[[str], Path]) -> None:
    from lofit_lens.model import load_model

    model = load_model(tiny_folder("llama"), device="cpu", dtype="bfloat16")
    for kind in ("lora", "ia3"):
        edit = draw_adapter(model, kind)
        assert all(weight.dtype == torch.float32 for weight in edit.weights.values())
        with edit.applied(model):
            assert model(draw_tokens()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_saved_adapter_comes_back_as_it_was(
    kind: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    tokens, edit = draw_tokens(), finished(draw_adapter(llama, kind))
    object.__setattr__(edit, "provenance", learned_on(llama, colour_task(), {"seed": 1}))
    loaded = AdapterEdit.load(edit.save(tmp_path / "adapter"), llama)
    with torch.no_grad():
        with edit.applied(llama):
            expected = llama(tokens)
        with loaded.applied(llama):
            assert torch.equal(llama(tokens), expected)
    assert loaded.provenance == edit.provenance
    assert repr(loaded) == repr(edit)
    assert kind in repr(loaded)


def test_an_adapter_of_another_model_is_refused(tiny_model: ModelBuilder, tmp_path: Path) -> None:
    model, other = tiny_model("llama"), tiny_model("mistral")
    edit = finished(draw_adapter(model, "lora"))
    object.__setattr__(edit, "provenance", learned_on(model, colour_task(), {}))
    folder = edit.save(tmp_path)
    with pytest.raises(ModelMismatchError, match="another one"):
        AdapterEdit.load(folder, other)
    with pytest.raises(ModelMismatchError, match="another one"), edit.applied(other):
        pass


def test_a_damaged_or_missing_adapter_is_refused(llama: TransformerBridge, tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match="No adapter"):
        AdapterEdit.load(tmp_path)
    folder = finished(draw_adapter(llama, "lora")).save(tmp_path)
    (folder / "adapter.safetensors").write_bytes(b"no tensors")
    with pytest.raises(LofitLensError, match="damaged"):
        AdapterEdit.load(folder)


def test_layers_that_are_missing_or_not_called_are_refused(tiny_model: ModelBuilder) -> None:
    model = tiny_model("gpt2")
    config = peft.LoraConfig(target_modules=["attn.qkv"], fan_in_fan_out=True)
    with pytest.raises(UnsupportedError, match=r"does not call blocks\.0\.attn\.qkv"):
        new_adapter(model, config, ["blocks.0.attn.qkv"], seed=0)
    assert not any("forward" in module.__dict__ for module in model.modules())
    with pytest.raises(UnsupportedError, match=r"no linear layer blocks\.0\.attn\.nothing"):
        new_adapter(model, config, ["blocks.0.attn.nothing"], seed=0)


def test_drawing_an_adapter_leaves_the_global_random_state_and_the_config_alone(
    llama: TransformerBridge,
) -> None:
    before, config = torch.get_rng_state(), config_of("lora")
    kept = copy.deepcopy(config)
    one, same, other = (
        new_adapter(llama, config, places_of("lora"), seed=seed) for seed in (1, 1, 2)
    )
    name = "blocks.0.attn.q.lora_A.weight"
    assert torch.equal(one.weights[name], same.weights[name])
    assert not torch.equal(one.weights[name], other.weights[name])
    assert torch.equal(before, torch.get_rng_state())
    assert config == kept


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"r": "many"}, "peft cannot put AdapterEdit"),
        ({"target_modules": [0.5]}, "peft cannot put AdapterEdit"),
        ({"megatron_config": {"a": 1}}, "adapters with a megatron_config cannot be read"),
    ],
)
def test_a_damaged_file_of_an_adapter_is_an_error_of_ours(
    llama: TransformerBridge, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    tokens = draw_tokens()
    clean = llama(tokens)
    file = finished(draw_adapter(llama, "lora")).save(tmp_path) / "adapter.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"peft": content["peft"] | changes}))
    with pytest.raises(LofitLensError, match=told), load_edit(tmp_path).applied(llama):
        pass
    assert torch.equal(llama(tokens), clean)


def test_an_adapter_without_some_of_its_numbers_is_refused(llama: TransformerBridge) -> None:
    whole = finished(draw_adapter(llama, "lora"))
    _, *kept = whole.weights
    edit = replace(whole, weights={name: whole.weights[name] for name in kept})
    with pytest.raises(LofitLensError, match="there are no numbers for"), edit.applied(llama):
        pass
