from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.edits.files import load_intervention, save_intervention
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.folding import fold
from lofit_lens.identity import fingerprint
from lofit_lens.model import load_model
from lofit_lens.provenance import Provenance
from lofit_lens.training.history import History
from tests.helpers import CONFIGS, draw_edit, draw_tokens, save_tiny_model, type_checks_off

Folder = Callable[[str], Path]
Loader = Callable[[str], TransformerBridge]


def learned_edit(model: TransformerBridge, **options: Any) -> HeadIntervention:
    """An edit with the provenance of a training run."""
    provenance = Provenance(
        fingerprint=fingerprint(model),
        task="colours of Größe",
        data_hash="0" * 64,
        config={"learning_rate": 5e-3, "epochs": 2, "objective": None},
        history=History([1.5, 0.1 + 0.2], [3.0, 1e-30], [5e-3, 0.0], [1.25], [0]),
        task_source={"loader": "from_file"},
        metrics={"accuracy": 1 / 3},
    )
    return replace(draw_edit(model, **options), provenance=provenance)


def same_tensor(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the description of a saved intervention."""
    file = folder / "intervention.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("scale", "bias", "scope"),
    [(True, True, "all"), (True, False, "last"), (False, True, "iti_compat")],
)
def test_loading_gives_back_what_was_saved_bit_by_bit(
    scale: bool, bias: bool, scope: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    saved = learned_edit(llama, scale=scale, bias=bias, scope=scope)
    loaded = load_intervention(save_intervention(saved, tmp_path / "a" / "b"), llama)
    assert isinstance(loaded, HeadIntervention)
    assert loaded.heads == saved.heads
    assert loaded.scope == saved.scope
    assert loaded.provenance == saved.provenance
    assert same_tensor(loaded.scale, saved.scale)
    assert same_tensor(loaded.bias, saved.bias)


def test_the_methods_save_and_load_like_the_functions(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    saved = learned_edit(llama)
    loaded = HeadIntervention.load(saved.save(tmp_path), llama)
    assert loaded.provenance == saved.provenance
    assert same_tensor(loaded.scale, saved.scale)


def test_an_edit_without_provenance_comes_back_without(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    draw_edit(llama).save(tmp_path)
    assert HeadIntervention.load(tmp_path, llama).provenance is None


def test_a_loaded_edit_gives_the_same_logits(llama: TransformerBridge, tmp_path: Path) -> None:
    saved, tokens = learned_edit(llama), draw_tokens()
    loaded = HeadIntervention.load(saved.save(tmp_path), llama)
    with torch.no_grad(), saved.applied(llama):
        expected = llama(tokens)
    with torch.no_grad(), loaded.applied(llama):
        assert torch.equal(llama(tokens), expected)


def test_parameters_with_gradients_are_saved_without_them(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    edit = draw_edit(llama)
    edit.bias.requires_grad_()
    loaded: Any = HeadIntervention.load(edit.save(tmp_path))
    assert not loaded.bias.requires_grad
    assert torch.equal(loaded.bias, edit.bias)


def test_the_files_are_safetensors_and_json_only(llama: TransformerBridge, tmp_path: Path) -> None:
    learned_edit(llama).save(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {
        "intervention.safetensors",
        "intervention.json",
    }
    json.loads((tmp_path / "intervention.json").read_text(encoding="utf-8"))


def test_saving_again_replaces_the_intervention(llama: TransformerBridge, tmp_path: Path) -> None:
    learned_edit(llama).save(tmp_path)
    second = learned_edit(llama, bias=False, seed=1)
    second.save(tmp_path)
    loaded = HeadIntervention.load(tmp_path)
    assert loaded.bias is None
    assert same_tensor(loaded.scale, second.scale)


@pytest.mark.parametrize("family", CONFIGS)
def test_other_weights_of_the_same_family_are_refused(
    family: str, tiny_model: Loader, tmp_path: Path
) -> None:
    folder = learned_edit(tiny_model(family)).save(tmp_path / "edit")
    other = load_model(save_tiny_model(family, tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(ModelMismatchError, match="weights: ") as caught:
        load_intervention(folder, other)
    assert "architecture" not in str(caught.value)
    assert f"'{family}'" in str(caught.value)


@pytest.mark.parametrize("family", [family for family in CONFIGS if family != "llama"])
def test_another_family_is_refused(
    family: str, llama: TransformerBridge, tiny_model: Loader, tmp_path: Path
) -> None:
    folder = learned_edit(llama).save(tmp_path)
    with pytest.raises(ModelMismatchError, match=r"architecture: .*LlamaForCausalLM"):
        load_intervention(folder, tiny_model(family))


@pytest.mark.filterwarnings("ignore")
def test_a_model_with_processed_weights_is_refused(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    folder = learned_edit(llama).save(tmp_path)
    llama.enable_compatibility_mode()
    with pytest.raises(ModelMismatchError, match="processed"):
        load_intervention(folder, llama)


def test_a_folded_model_is_refused(llama: TransformerBridge, tmp_path: Path) -> None:
    edit = learned_edit(llama)
    folder = edit.save(tmp_path)
    with fold(llama, edit), pytest.raises(ModelMismatchError, match="weights"):
        load_intervention(folder, llama)


def test_a_renamed_or_copied_model_folder_is_the_same_model(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    folder = learned_edit(llama).save(tmp_path / "edit")
    copy = load_model(save_tiny_model("llama", tmp_path / "copy"), device="cpu")
    assert load_intervention(folder, copy).provenance is not None


@pytest.mark.parametrize("family", CONFIGS)
def test_the_fingerprint_of_a_checkpoint_is_the_same_in_float32_and_bfloat16(
    family: str, tiny_folder: Folder, tiny_model: Loader
) -> None:
    rounded = load_model(tiny_folder(family), device="cpu", dtype="bfloat16")
    assert fingerprint(rounded) == fingerprint(tiny_model(family))


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
def test_the_fingerprint_of_a_real_model_is_the_same_in_bfloat16(
    name: str, models_dir: Path
) -> None:
    found = [
        fingerprint(load_model(models_dir / name, device="cpu", dtype=dtype))
        for dtype in ("float32", "bfloat16")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"schema": 1', "[1, 2]", "null", "\N{REPLACEMENT CHARACTER}", '{"schema": 1}'],
)
def test_a_damaged_description_is_refused(
    text: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    learned_edit(llama).save(tmp_path)
    (tmp_path / "intervention.json").write_text(text, encoding="utf-8")
    with pytest.raises(LofitLensError, match=r"intervention"):
        load_intervention(tmp_path)


def test_a_description_that_is_not_text_is_refused(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    learned_edit(llama).save(tmp_path)
    (tmp_path / "intervention.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LofitLensError, match="cannot be read"):
        load_intervention(tmp_path)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_an_unknown_schema_is_refused(
    schema: Any, llama: TransformerBridge, tmp_path: Path
) -> None:
    learned_edit(llama).save(tmp_path)
    change(tmp_path, lambda content: content.update(schema=schema))
    with pytest.raises(LofitLensError, match="schema"):
        load_intervention(tmp_path)


@pytest.mark.parametrize("field", ["heads", "n_layers", "n_heads", "scope", "provenance"])
def test_a_description_without_one_of_its_fields_is_refused(
    field: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    learned_edit(llama).save(tmp_path)
    change(tmp_path, lambda content: content.pop(field))
    with pytest.raises(LofitLensError, match=field):
        load_intervention(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"heads": [[0]]},
        {"heads": [[0, 1, 2]]},
        {"heads": 7},
        {"heads": [["a", "b"]]},
        {"heads": [[0, 0]]},
        {"heads": [[9, 9]] * 4},
        {"n_layers": "three"},
        {"scope": "first"},
        {"provenance": "me"},
        {"provenance": {"task": "t"}},
    ],
    ids=str,
)
def test_a_description_with_a_wrong_value_is_refused(
    changed: dict[str, Any], llama: TransformerBridge, tmp_path: Path
) -> None:
    learned_edit(llama).save(tmp_path)
    change(tmp_path, lambda content: content.update(changed))
    with type_checks_off(), pytest.raises(LofitLensError):
        load_intervention(tmp_path)


@pytest.mark.parametrize("part", ["provenance", "fingerprint", "history"])
def test_an_unknown_field_of_the_provenance_is_refused(
    part: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    learned_edit(llama).save(tmp_path)

    def add_field(content: dict[str, Any]) -> None:
        place = content["provenance"]
        (place if part == "provenance" else place[part])["mood"] = "good"

    change(tmp_path, add_field)
    with pytest.raises(LofitLensError, match="mood"):
        load_intervention(tmp_path)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(LofitLensError, match=r"No (an )?intervention"):
            load_intervention(folder)


def test_a_missing_tensor_file_is_refused(llama: TransformerBridge, tmp_path: Path) -> None:
    learned_edit(llama).save(tmp_path)
    (tmp_path / "intervention.safetensors").unlink()
    with pytest.raises(LofitLensError, match="damaged"):
        load_intervention(tmp_path)


def test_a_truncated_tensor_file_is_refused(llama: TransformerBridge, tmp_path: Path) -> None:
    learned_edit(llama).save(tmp_path)
    file = tmp_path / "intervention.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(LofitLensError, match="damaged"):
        load_intervention(tmp_path)


def test_tensors_of_another_intervention_are_refused(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    learned_edit(llama).save(tmp_path / "one")
    learned_edit(llama, heads=[(1, 1)]).save(tmp_path / "other")
    name = "intervention.safetensors"
    (tmp_path / "one" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with type_checks_off(), pytest.raises(LofitLensError, match="4 heads"):
        load_intervention(tmp_path / "one")
