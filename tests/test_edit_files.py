"""Every kind of edit goes to a folder and comes back, and what earlier versions wrote is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.baselines.adapters import AdapterEdit
from lofit_lens.analysis.baselines.bitfit import OutputBias, train_bitfit
from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.baselines.gates import GateConfig, _GatesInTraining, train_gates
from lofit_lens.analysis.baselines.loreft import LoReFT, train_loreft
from lofit_lens.analysis.baselines.lorra import train_lorra
from lofit_lens.analysis.baselines.rivals import train_ia3, train_lora, train_red
from lofit_lens.analysis.causal.ablation import mean_ablation
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.edits.by_row import StackedHeads
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import KINDS, load_edit, load_intervention, save_edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.heads import HeadSet
from lofit_lens.positions import SPARE_PROMPTS
from lofit_lens.provenance import Provenance, learned_on
from lofit_lens.training.config import TrainingConfig
from tests.helpers import D_MODEL, N_HEADS, N_LAYERS, draw_edit, draw_tokens
from tests.test_adapters import draw_adapter
from tests.test_training import colour_task

Maker = Callable[[TransformerBridge], Any]
CONFIG = TrainingConfig(learning_rate=1e-2, epochs=1, batch_size=4, validate=False)
HEADS = HeadSet([(0, 1), (2, 3)], n_layers=N_LAYERS, n_heads=N_HEADS)


def origin(model: TransformerBridge) -> Provenance:
    found = learned_on(model, colour_task(), {"rate": 0.1 + 0.2, "seed": 1, "objective": None})
    return replace(found, metrics={"accuracy": 1 / 3})


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads(model: TransformerBridge, **options: Any) -> HeadIntervention:
    return replace(draw_edit(model, **options), provenance=origin(model))


def residual(model: TransformerBridge) -> ResidualIntervention:
    vectors = drawn(2, D_MODEL)
    return ResidualIntervention(vectors, (2, 0), N_LAYERS, "last", provenance=origin(model))


def contrast(model: TransformerBridge) -> ContrastIntervention:
    return ContrastIntervention(
        "Be good. ", "Grüße! ", (1, 0), N_LAYERS, 0.1 + 0.2, "last", (0, 5), origin(model)
    )


def trained(train: Callable[..., Edit]) -> Maker:
    return lambda model: train(model, colour_task(), CONFIG, progress=False)


def gates(model: TransformerBridge) -> HeadIntervention:
    config = GateConfig(epochs=1, batch_size=4, validate=False)
    return train_gates(model, colour_task(), config, progress=False).edit()


def stack(model: TransformerBridge) -> StackedEdits:
    tuned = heads(model, scope="last")
    inner = StackedEdits((tuned, residual(model), trained(train_ia3)(model)))
    ablation = mean_ablation(model, colour_task(), HEADS)
    return StackedEdits((inner, contrast(model).with_scope("all"), ablation, tuned))


def patch(model: TransformerBridge) -> PatchIntervention:
    return PatchIntervention(HEADS, donor=heads(model), base=contrast(model).with_scope("all"))


KEPT: dict[str, Maker] = {
    "heads": heads,
    "heads, scale": lambda model: heads(model, bias=False, scope="iti_compat"),
    "heads, bias": lambda model: heads(model, scale=False),
    "ablation": lambda model: mean_ablation(model, colour_task(), HEADS),
    "RED": trained(train_red),
    "JoLA": gates,
    "residual": residual,
    "contrast": contrast,
    "BitFit": trained(train_bitfit),
    "LoReFT": trained(train_loreft),
    "LoRA": trained(train_lora),
    "(IA)3": trained(train_ia3),
    "LoRRA": trained(train_lorra),
    "stack": lambda model: StackedEdits((heads(model), residual(model), heads(model))),
    "patch": patch,
    "patch without a base": lambda model: PatchIntervention(HEADS, donor=heads(model)),
}


def logits(model: TransformerBridge, edit: Edit | None) -> Tensor:
    with torch.no_grad(), nullcontext() if edit is None else edit.applied(model):
        return model(draw_tokens(), attention_mask=torch.ones_like(draw_tokens()))


def as_json(provenance: Provenance | None) -> Any:
    """What JSON can say of where an edit is from: it has no tuples."""
    return provenance and json.loads(json.dumps(provenance.to_json()))


@pytest.mark.parametrize("kind", KEPT)
def test_an_edit_of_any_kind_comes_back_as_it_was(
    kind: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    saved = KEPT[kind](llama)
    found = load_edit(save_edit(saved, tmp_path / "a" / "b"), llama)
    assert type(found) is type(saved)
    assert repr(found) == repr(saved)
    assert as_json(found.provenance) == as_json(saved.provenance) is not None
    assert (found.n_parameters, found.needs_whole_texts) == (
        saved.n_parameters,
        saved.needs_whole_texts,
    )
    assert callable(found.scope) or found.scope == saved.scope
    expected = logits(llama, saved)
    assert not torch.equal(expected, logits(llama, None))
    assert torch.equal(logits(llama, found), expected)


def test_a_stack_of_a_stack_keeps_each_edit_with_its_own_origin_and_scope(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    found: Any = load_edit(save_edit(stack(llama), tmp_path), llama)
    inner, contrasted, ablation, tuned = found.edits
    assert [edit.scope for edit in inner.edits] == ["last", "last", "all"]
    assert [edit.provenance.metrics for edit in (contrasted, tuned)] == [{}, {"accuracy": 1 / 3}]
    assert ablation.provenance.config == {"method": "mean-ablation"}
    for edit, expected in zip(inner.edits, stack(llama).edits[0].edits, strict=True):  # pyright: ignore[reportAttributeAccessIssue]
        assert torch.equal(logits(llama, edit), logits(llama, expected))


def test_every_kind_that_has_a_name_is_among_those_tested(llama: TransformerBridge) -> None:
    found = {type(make(llama)).__qualname__ for make in KEPT.values()}
    assert found == {path.partition(":")[2] for path in KINDS.values()}


def test_what_a_folder_holds_is_replaced_by_an_edit_of_another_kind(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    makers = ("heads", "LoRA", "BitFit", "heads")
    for kind, name in zip(makers, ("intervention", "adapter", "edit", "intervention"), strict=True):
        saved = KEPT[kind](llama)
        saved.save(tmp_path)
        files = {"notes.txt", f"{name}.json", f"{name}.safetensors"}
        assert {file.name for file in tmp_path.iterdir()} == files
        assert repr(type(saved).load(tmp_path, llama)) == repr(saved)


def test_an_edit_that_cannot_be_kept_is_refused_and_the_folder_left_alone(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    class Mine:
        scope = "all"
        provenance, n_parameters, needs_whole_texts = None, 0, False

        def applied(self, model: TransformerBridge) -> Any:  # noqa: ARG002
            return nullcontext()

    numbers = drawn(2, 24)
    tuned = heads(llama)
    tuned.save(tmp_path)
    by_row = StackedHeads([HEADS], [numbers], "bias", "all")
    gated = _GatesInTraining(HEADS, drawn(2, 2), numbers, numbers, "all", torch.Generator())
    for edit in (Mine(), by_row, gated, StackedEdits((tuned, Mine()))):  # pyright: ignore[reportArgumentType]
        with pytest.raises(LofitLensError, match=r"cannot be saved\. These can: heads, residual"):
            save_edit(edit, tmp_path)  # pyright: ignore[reportArgumentType]
    assert HeadIntervention.load(tmp_path, llama).provenance == tuned.provenance


def test_an_edit_of_another_kind_or_of_one_not_known_is_refused_by_name(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    KEPT["BitFit"](llama).save(tmp_path)
    with pytest.raises(LofitLensError, match=r"OutputBias\.load"):
        LoReFT.load(tmp_path)
    file = tmp_path / "edit.json"
    file.write_text(file.read_text("utf-8").replace("output-bias", "os:system"), encoding="utf-8")
    with pytest.raises(LofitLensError, match="no kind 'os:system'; known are heads, residual"):
        load_edit(tmp_path)


@pytest.mark.parametrize("kind", ["residual", "contrast", "BitFit", "LoReFT", "stack"])
def test_an_edit_learned_on_another_model_is_refused_when_read_and_when_applied(
    kind: str, tiny_model: Callable[[str], TransformerBridge], tmp_path: Path
) -> None:
    model, other = tiny_model("llama"), tiny_model("mistral")
    edit = KEPT[kind](model)
    with pytest.raises(ModelMismatchError, match="another one"):
        load_edit(edit.save(tmp_path), other)
    with pytest.raises(ModelMismatchError, match="another one"), edit.applied(other):
        pass


def test_folders_of_earlier_versions_are_read(llama: TransformerBridge, tmp_path: Path) -> None:
    tuned, added = heads(llama, scale=False, scope="last"), residual(llama)
    lora = draw_adapter(llama, "lora").learned(origin(llama))
    listed = [[layer, head] for layer, head in tuned.heads]
    shape = {"n_layers": N_LAYERS, "n_heads": N_HEADS}
    earlier: dict[str, tuple[Edit, str, dict[str, Any], Any]] = {
        "heads": (tuned, "intervention", {"bias": tuned.bias}, {"heads": listed, **shape}),
        "residual": (
            added, "intervention", {"vectors": added.vectors},
            {"layers": list(added.layers), "n_layers": N_LAYERS},
        ),
        "adapter": (
            lora, "adapter", dict(lora.weights),
            {"peft": lora.peft_config.to_dict(), "places": lora.places},
        ),
    }  # fmt: skip
    for kind, (edit, name, tensors, place) in earlier.items():
        folder = tmp_path / kind
        folder.mkdir()
        save_file(tensors, folder / f"{name}.safetensors")
        content = {"schema": 1, **place, "provenance": as_json(edit.provenance)}
        content |= {} if kind == "adapter" else {"scope": edit.scope}
        text = json.dumps(content, default=sorted)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        for found in (load_intervention(folder, llama), type(edit).load(folder, llama)):  # pyright: ignore[reportAttributeAccessIssue]
            assert type(found) is type(edit)
            assert as_json(found.provenance) == as_json(edit.provenance)
            assert torch.equal(logits(llama, found), logits(llama, edit))


def test_numbers_of_edits_are_kept_in_their_own_type(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    adapter = draw_adapter(llama, "lora")
    half = {name: weight.detach().bfloat16() for name, weight in adapter.weights.items()}
    found = AdapterEdit.load(replace(adapter, weights=half).save(tmp_path))
    assert {weight.dtype for weight in found.weights.values()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in found.weights.values())


def test_the_scope_of_a_stack_is_that_of_all_its_edits_or_spares_nothing(
    llama: TransformerBridge,
) -> None:
    everywhere, last = heads(llama), heads(llama, scope="last")
    assert StackedEdits((last, last)).scope == "last"
    assert StackedEdits((everywhere, everywhere)).scope == "all"
    mixed: Any = StackedEdits((everywhere, last)).scope
    assert mixed != "all"
    assert mixed not in SPARE_PROMPTS
    assert mixed(torch.arange(4)[None], torch.tensor([[2]])).all()


def test_positions_of_an_edit_s_own_cannot_be_changed() -> None:
    rows = drawn(N_LAYERS, 2, D_MODEL)
    loreft = LoReFT(rows, rows, torch.zeros(N_LAYERS, 2), positions=1)
    with pytest.raises(LofitLensError, match=r"LoReFT.* its own, got scope 'last'"):
        loreft.with_scope("last")
    bias = OutputBias(drawn(N_LAYERS, D_MODEL))
    assert (0.5 * bias).with_scope("last").scope == "last"
    assert torch.equal((0.5 * bias).vectors, 0.5 * bias.vectors)
