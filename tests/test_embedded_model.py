from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import lofit_lens as ll
from lofit_lens.embedded.gates import read_gates
from lofit_lens.embedded.words import COUNTRIES, KIN, MEN, WOMEN
from lofit_lens.model import find_model

FOLDER = Path(find_model("embedded"))
WEIGHTS = "8c4c540f20834cbdc9ee56aac58e6b8354a65bc9f5ceb269d9ec65977bf16ad1"


def test_the_shipped_weights_are_the_ones_the_documentation_speaks_of() -> None:
    weights = FOLDER / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == WEIGHTS
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 16e6


def test_the_shipped_model_passes_its_gates_and_its_card_says_what_they_read() -> None:
    model = ll.load_model("embedded", device="cpu")
    log = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    assert log["parameters"] == sum(p.numel() for p in model.original_model.parameters())
    for ability, reading in read_gates(model).items():
        assert reading.failures() == []
        for name, value in reading.to_json().items():
            assert value == pytest.approx(log["gates"][ability][name], abs=0.02), (ability, name)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{100 * log['gates']['truth']['right_cue']:.1f}" in card


def test_the_embedded_model_has_at_least_64_heads_and_is_known_by_its_name_everywhere(
    tmp_path: Path,
) -> None:
    model = ll.load_model("embedded", device="cpu")
    assert model.cfg.n_layers * model.cfg.n_heads >= 64
    assert ll.fingerprint(model).name == "embedded"
    heads = ll.HeadSet([(0, 0)], n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    edit = ll.HeadIntervention(heads, bias=torch.full((1, model.cfg.d_head), 0.1))
    report = ll.export_checkpoint(model, edit, tmp_path / "stock")
    assert (report.folder / "model.safetensors").is_file()


def test_names_countries_and_kin_are_single_tokens_of_the_shipped_tokenizer() -> None:
    tokenizer = ll.load_model("embedded", device="cpu").tokenizer
    assert tokenizer is not None
    kin = {word for words in KIN.values() for word in words}
    for word in (*WOMEN, *MEN, *COUNTRIES, *kin):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1, word


def test_answers_of_the_truth_task_have_several_tokens() -> None:
    tokenizer = ll.load_model("embedded", device="cpu").tokenizer
    assert tokenizer is not None
    for example in ll.tasks.embedded("truth").test:
        for answer in example.correct + example.incorrect:
            assert len(tokenizer.encode(answer, add_special_tokens=False)) >= 3
