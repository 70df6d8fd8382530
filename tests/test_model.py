from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from lofit_lens.attention import check_head_shape, output_projection
from lofit_lens.checking.model_check import check_model
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.heads import HeadSet
from lofit_lens.identity import _sample, check_same_model, fingerprint, weights_processed
from lofit_lens.model import find_model, freeze, load_model
from tests.helpers import (
    BIT_EQUAL,
    CONFIGS,
    D_MODEL,
    HEAD_DIM,
    N_HEADS,
    N_LAYERS,
    VOCAB,
    assert_same_logits,
    draw_tokens,
    load_plain,
    plain_projections,
    type_checks_off,
)

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_loaded_model_is_frozen_native_and_in_eval_mode(family: str, tiny_model: Loader) -> None:
    model = tiny_model(family)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in model.original_model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(module.training for module in model.original_model.modules())
    assert not weights_processed(model)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_loaded_model_gives_the_logits_of_the_plain_one(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    tokens = draw_tokens()
    with torch.no_grad():
        found = tiny_model(family)(tokens)
        expected = load_plain(tiny_folder(family))(tokens).logits
    assert_same_logits(found, expected, exactly=family in (*BIT_EQUAL, "qwen2"))


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
def test_a_real_model_gives_the_logits_of_the_plain_one(name: str, models_dir: Path) -> None:
    model = load_model(models_dir / name, device="cpu")
    tokens = draw_tokens(vocab=model.cfg.d_vocab)
    with torch.no_grad():
        assert torch.equal(model(tokens), load_plain(models_dir / name)(tokens).logits)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_freezing_reaches_the_parameters_that_booting_makes(
    family: str, tiny_folder: Folder
) -> None:
    folder = str(tiny_folder(family))
    plain = load_plain(folder).requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    raw = TransformerBridge.boot_transformers(
        folder, hf_model=plain, tokenizer=tokenizer, device="cpu"
    )
    assert any(p.requires_grad for p in raw.parameters())
    frozen = freeze(raw)
    assert frozen is raw
    assert not any(p.requires_grad for p in raw.parameters())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_weights_have_the_type_asked_for(
    dtype: Any, expected: torch.dtype, tiny_folder: Folder
) -> None:
    model = load_model(tiny_folder("llama"), device="cpu", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {expected}


def test_the_type_on_the_cpu_is_float32_by_default(llama: TransformerBridge) -> None:
    assert {p.dtype for p in llama.parameters()} == {torch.float32}


def test_a_model_is_found_by_name_among_the_models_of_the_environment(
    tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOFIT_LENS_MODELS", str(tiny_folder("llama").parent))
    monkeypatch.chdir(tmp_path)
    found = fingerprint(load_model("llama", device="cpu"))
    assert found == fingerprint(load_model(tiny_folder("llama"), device="cpu"))
    assert found.name == "llama"


def test_a_folder_here_goes_before_one_of_the_environment(
    tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOFIT_LENS_MODELS", str(tiny_folder("llama").parent))
    shutil.copytree(tiny_folder("gpt2"), tmp_path / "llama")
    monkeypatch.chdir(tmp_path)
    assert load_model("llama", device="cpu").cfg.architecture == "GPT2LMHeadModel"


def test_a_relative_folder_loads(tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folder("llama").parent)
    assert fingerprint(load_model("./llama", device="cpu")).name == "llama"


@pytest.mark.parametrize("name", ["./nothing", "../nothing", "~/nothing-here", "/nothing/here"])
def test_a_missing_path_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LofitLensError, match="There is no model folder"):
        load_model(name, device="cpu")


@pytest.mark.parametrize("load", [load_model, check_model])
@pytest.mark.parametrize("device", ["no such", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str, load: Callable[..., Any]) -> None:
    with pytest.raises(LofitLensError, match=f"There is no device '{device}'"):
        load("embedded", device=device)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LofitLensError, match=r"no config\.json"):
        load_model(tmp_path, device="cpu")


def test_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(LofitLensError, match="not a model folder"):
        load_model(file, device="cpu")


def test_an_unknown_name_says_what_a_name_may_be() -> None:
    with pytest.raises(LofitLensError, match=r"(?s)'no-such/model'.*folder.*hub") as caught:
        load_model("no-such/model", device="cpu")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", "not tensors"),
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "no-such-type"}'),
        ("tokenizer.json", "{"),
    ],
)
def test_a_damaged_model_folder_is_refused(
    file: str, content: str | None, tiny_folder: Folder, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_folder("llama"), folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(LofitLensError, match="damaged"):
        load_model(folder, device="cpu")


def test_an_unknown_type_is_refused(tiny_folder: Folder) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match="float32, bfloat16, float16"):
        load_model(tiny_folder("llama"), device="cpu", dtype="int8")  # pyright: ignore


@pytest.mark.parametrize("spread", [{"n_devices": 2}, {"device_map": "auto"}], ids=str)
def test_a_device_together_with_a_spread_is_refused(
    spread: dict[str, Any], tiny_folder: Folder
) -> None:
    with pytest.raises(LofitLensError, match="either device, or n_devices / device_map"):
        load_model(tiny_folder("llama"), device="cpu", **spread)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_fingerprint_holds_the_shape_of_the_model(family: str, tiny_model: Loader) -> None:
    config = CONFIGS[family]()
    found = fingerprint(tiny_model(family))
    grouped = family not in ("gpt2", "neox")
    assert (found.n_layers, found.n_heads, found.d_model) == (N_LAYERS, N_HEADS, D_MODEL)
    assert found.n_key_value_heads == (2 if grouped else N_HEADS)
    assert found.d_head == (HEAD_DIM if hasattr(config, "head_dim") and family != "qwen2" else 16)
    assert found.d_vocab == VOCAB
    assert found.name == family
    assert not found.processed


@pytest.mark.parametrize("family", CONFIGS)
def test_the_output_projection_is_that_of_the_plain_model(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    expected: Any
    for layer, expected in enumerate(plain_projections(load_plain(tiny_folder(family)))):
        projection: Any = output_projection(model, layer)
        assert torch.equal(projection.weight, expected.weight)
        assert (projection.bias is None) == (expected.bias is None)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_change_of_any_output_projection_changes_the_fingerprint(
    family: str, tiny_model: Loader
) -> None:
    model = tiny_model(family)
    for layer in range(N_LAYERS):
        before = fingerprint(model)
        projection: Any = output_projection(model, layer)
        projection.weight.data *= 1.1
        with pytest.raises(ModelMismatchError, match="weights"):
            check_same_model(model, before, "The edit")


def test_a_model_is_the_same_as_itself(llama: TransformerBridge) -> None:
    check_same_model(llama, fingerprint(llama), "The edit")
    check_head_shape(llama, HeadSet([], n_layers=N_LAYERS, n_heads=N_HEADS))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_fingerprint_sees_a_change_of_any_matrix(
    family: str, tiny_model: Callable[[str], TransformerBridge]
) -> None:
    model = tiny_model(family)
    before = fingerprint(model)
    hf_model: Any = model.original_model
    for parameter in hf_model.parameters():
        original = parameter.data.clone()
        parameter.data.mul_(1.1)
        assert fingerprint(model).differences(before), parameter.shape
        parameter.data.copy_(original)
    assert fingerprint(model) == before


def test_the_fingerprint_reaches_every_head_of_a_wide_projection() -> None:
    weight = torch.randn(1024, 1024)
    before = _sample(weight)
    weight[:, 128:] *= 2
    assert _sample(weight) != before


def test_only_the_bare_word_means_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "config.json").write_text("{}", encoding="utf-8")
    mine = str((tmp_path / "embedded").resolve())
    assert find_model("./embedded") == find_model(Path("embedded")) == mine
    assert find_model("embedded") != mine
