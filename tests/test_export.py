from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.export import export_checkpoint
from lofit_lens.folding import fold
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from tests.helpers import (
    CONFIGS,
    EXPORTABLE,
    TEXT,
    assert_same_logits,
    build_tokenizer,
    draw_edit,
    draw_tokens,
    edited_plain,
    load_plain,
    save_tiny_model,
)

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]
EXPORT_REL = 1e-5
REHOMED = {"mistral": "LlamaForCausalLM", "qwen2": "LlamaForCausalLM"}


@torch.no_grad()
def oracle_logits(folder: Path, tokens: Tensor, edit: HeadIntervention) -> Tensor:
    plain = load_plain(folder)
    with edited_plain(plain, edit):
        return plain(tokens).logits


@torch.no_grad()
def reloaded_logits(folder: Path, tokens: Tensor) -> Tensor:
    return load_plain(folder)(tokens).logits


def save_with_config(family: str, folder: Path, **changes: Any) -> Path:
    """A tiny model whose configuration was changed in ways that keep the weights' shapes."""
    save_tiny_model(family, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    assert config.keys() >= changes.keys()
    file.write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


@pytest.mark.parametrize("family", EXPORTABLE)
@pytest.mark.parametrize(
    ("scale", "bias"), [(True, True), (True, False), (False, True)], ids=["both", "scale", "bias"]
)
def test_plain_transformers_gives_the_edited_logits_from_the_exported_folder(
    family: str,
    scale: bool,
    bias: bool,
    tiny_folder: Folder,
    tiny_model: Loader,
    tmp_path: Path,
) -> None:
    model, tokens = tiny_model(family), draw_tokens(3, 20)
    edit = draw_edit(model, scale=scale, bias=bias)
    expected = oracle_logits(tiny_folder(family), tokens, edit)
    assert (expected - reloaded_logits(tiny_folder(family), tokens)).abs().max() > 0.1
    report = export_checkpoint(model, edit, tmp_path / "new" / "out")
    assert report.folder == tmp_path / "new" / "out"
    assert_same_logits(reloaded_logits(report.folder, tokens), expected, rel=EXPORT_REL)


@pytest.mark.parametrize("family", EXPORTABLE)
def test_the_report_names_the_class_that_plain_transformers_loads(
    family: str, tiny_model: Loader, tmp_path: Path
) -> None:
    model = tiny_model(family)
    report = export_checkpoint(model, draw_edit(model), tmp_path / "out")
    found = type(load_plain(tmp_path / "out")).__name__
    assert report.architecture == found == REHOMED.get(family, model.cfg.architecture)
    assert 0 <= report.max_logit_difference <= EXPORT_REL * report.largest_logit


@pytest.mark.parametrize("family", REHOMED)
def test_a_scale_alone_keeps_the_class(family: str, tiny_model: Loader, tmp_path: Path) -> None:
    model = tiny_model(family)
    report = export_checkpoint(model, draw_edit(model, bias=False), tmp_path / "out")
    assert report.architecture == model.cfg.architecture


@pytest.mark.parametrize("family", EXPORTABLE)
def test_the_exported_checkpoint_generates_what_the_edited_plain_model_does(
    family: str, tiny_folder: Folder, tiny_model: Loader, tmp_path: Path
) -> None:
    model, plain = tiny_model(family), load_plain(tiny_folder(family))
    edit, tokens = 4.0 * draw_edit(model), draw_tokens(1, 6)
    options: dict[str, Any] = {
        "attention_mask": torch.ones_like(tokens), "max_new_tokens": 10, "do_sample": False,
        "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    with edited_plain(plain, edit):
        expected = plain.generate(tokens, **options)
    exported = load_plain(export_checkpoint(model, edit, tmp_path / "out").folder)
    assert torch.equal(exported.generate(tokens, **options), expected)


@pytest.mark.parametrize("family", EXPORTABLE)
def test_the_exported_tokenizer_gives_the_same_ids(
    family: str, tiny_folder: Folder, tiny_model: Loader, tmp_path: Path
) -> None:
    model = tiny_model(family)
    export_checkpoint(model, draw_edit(model), tmp_path / "out")
    before = AutoTokenizer.from_pretrained(tiny_folder(family))
    after = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert [after(text)["input_ids"] for text in TEXT] == [
        before(text)["input_ids"] for text in TEXT
    ]
    assert after.special_tokens_map == before.special_tokens_map


@pytest.mark.parametrize("family", EXPORTABLE)
def test_exporting_does_not_change_the_model(
    family: str, tiny_model: Loader, tmp_path: Path
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    with torch.no_grad():
        expected = model(tokens)
        export_checkpoint(model, draw_edit(model), tmp_path / "out")
        assert torch.equal(model(tokens), expected)


@pytest.mark.parametrize("family", EXPORTABLE)
@pytest.mark.parametrize("loaded_as", ["bfloat16", "float32"])
def test_a_bfloat16_checkpoint_exports_as_bfloat16(
    family: str, loaded_as: Any, tiny_folder: Folder, tmp_path: Path
) -> None:
    source, tokens = tmp_path / "source", draw_tokens()
    load_plain(tiny_folder(family)).to(torch.bfloat16).save_pretrained(source)
    AutoTokenizer.from_pretrained(tiny_folder(family)).save_pretrained(source)
    model = load_model(source, device="cpu", dtype=loaded_as)
    edit = draw_edit(model)
    export_checkpoint(model, edit, tmp_path / "out")
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}
    expected = oracle_logits(source, tokens, edit)
    assert_same_logits(reloaded_logits(tmp_path / "out", tokens), expected, rel=2e-2)


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
def test_a_real_model_exports(name: str, models_dir: Path, tmp_path: Path) -> None:
    model = load_model(models_dir / name, device="cpu")
    edit, tokens = draw_edit(model), draw_tokens(vocab=model.cfg.d_vocab)
    expected = oracle_logits(models_dir / name, tokens, edit)
    report = export_checkpoint(model, edit, tmp_path / "out")
    assert_same_logits(reloaded_logits(report.folder, tokens), expected, rel=EXPORT_REL)


def test_an_exported_checkpoint_can_be_loaded_edited_and_exported_again(
    tiny_folder: Folder, tiny_model: Loader, tmp_path: Path
) -> None:
    model, tokens = tiny_model("mistral"), draw_tokens()
    first, second = draw_edit(model, seed=1), draw_edit(model, seed=2)
    export_checkpoint(model, first, tmp_path / "one")
    export_checkpoint(load_model(tmp_path / "one", device="cpu"), second, tmp_path / "two")
    expected = oracle_logits(tmp_path / "one", tokens, second)
    assert_same_logits(reloaded_logits(tmp_path / "two", tokens), expected, rel=EXPORT_REL)


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_rehomed_model_keeps_the_settings_of_its_configuration(
    family: str, tmp_path: Path
) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
    folder = save_with_config(
        family, tmp_path / "source", rope_parameters=rope, rms_norm_eps=0.05, hidden_act="gelu"
    )
    model, tokens = load_model(folder, device="cpu"), draw_tokens(2, 40)
    edit = draw_edit(model)
    expected = oracle_logits(folder, tokens, edit)
    report = export_checkpoint(model, edit, tmp_path / "out")
    assert report.architecture == "LlamaForCausalLM"
    assert_same_logits(reloaded_logits(report.folder, tokens), expected, rel=EXPORT_REL)


WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
}


@pytest.mark.parametrize("family", WINDOWED)
def test_a_bias_on_a_rehomed_family_with_sliding_window_is_refused(
    family: str, tmp_path: Path
) -> None:
    folder = save_with_config(family, tmp_path / "source", **WINDOWED[family])
    model = load_model(folder, device="cpu")
    with pytest.raises(UnsupportedError, match=r"`save` and apply it with hooks"):
        export_checkpoint(model, draw_edit(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scale_on_a_mistral_with_sliding_window_exports(tmp_path: Path) -> None:
    folder = save_with_config("mistral", tmp_path / "source", sliding_window=8)
    model, tokens = load_model(folder, device="cpu"), draw_tokens(2, 20)
    edit = draw_edit(model, bias=False)
    expected = oracle_logits(folder, tokens, edit)
    report = export_checkpoint(model, edit, tmp_path / "out")
    assert report.architecture == "MistralForCausalLM"
    assert_same_logits(reloaded_logits(report.folder, tokens), expected, rel=EXPORT_REL)


def test_a_family_that_drops_the_bias_on_reload_is_refused(tmp_path: Path) -> None:
    config = Phi3Config(
        vocab_size=320, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=96, max_position_embeddings=128,
        original_max_position_embeddings=128, pad_token_id=None, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    source = tmp_path / "source"
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    build_tokenizer().save_pretrained(source)
    model = load_model(source, device="cpu")
    with pytest.raises(UnsupportedError, match=r"drops a bias.*`save`.*`fold`"):
        export_checkpoint(model, draw_edit(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_checkpoint(model, draw_edit(model, bias=False), tmp_path / "out")


def test_a_folder_with_something_in_it_is_refused_and_kept(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine", encoding="utf-8")
    for folder in (tmp_path, kept):
        with pytest.raises(LofitLensError, match="exists already"):
            export_checkpoint(llama, draw_edit(llama), folder)
    assert kept.read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_filled(llama: TransformerBridge, tmp_path: Path) -> None:
    export_checkpoint(llama, draw_edit(llama), tmp_path)
    assert (tmp_path / "config.json").is_file()


@pytest.mark.parametrize("scope", ["after_prompt", "iti_compat", "last"])
def test_an_edit_that_depends_on_the_position_is_refused(
    scope: Any, llama: TransformerBridge, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=scope):
        export_checkpoint(llama, draw_edit(llama, scope=scope), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_of_another_model_shape_are_refused(llama: TransformerBridge, tmp_path: Path) -> None:
    heads = HeadSet([(3, 0)], n_layers=4, n_heads=4)
    with pytest.raises(ModelMismatchError, match="4 layers"):
        export_checkpoint(llama, HeadIntervention(heads, bias=torch.zeros(1, 24)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_head_size_is_refused(llama: TransformerBridge, tmp_path: Path) -> None:
    heads = HeadSet([(0, 0)], n_layers=3, n_heads=4)
    with pytest.raises(LofitLensError, match="d_head = 16, the model 24"):
        export_checkpoint(llama, HeadIntervention(heads, bias=torch.zeros(1, 16)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_model_with_processed_weights_is_refused(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    llama.enable_compatibility_mode()
    with pytest.raises(UnsupportedError, match="load_model"):
        export_checkpoint(llama, draw_edit(llama, scale=False), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_no_longer_its_checkpoint_is_refused_and_nothing_left(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    fold(llama, draw_edit(llama, seed=1))
    with pytest.raises(UnsupportedError, match="differs from the hooked model"):
        export_checkpoint(llama, draw_edit(llama, seed=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_built_in_memory_is_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("llama"))
    model = TransformerBridge.boot_transformers(
        "in-memory", hf_model=plain, tokenizer=tokenizer, device="cpu"
    )
    with pytest.raises(LofitLensError, match="built in memory"):
        export_checkpoint(model, draw_edit(model), tmp_path / "out")
