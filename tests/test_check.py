from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, HeliumConfig, LlamaConfig, MambaConfig
from typer.testing import CliRunner

from lofit_lens import check_model
from lofit_lens.analysis.cli.main import app
from lofit_lens.checking.blank import shape_of, shape_of_loaded
from lofit_lens.checking.memory import memory_needed, mlp_width
from lofit_lens.checking.servers import READ, SERVERS, servers_of
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.export import export_checkpoint
from lofit_lens.fast.trial import try_shortcuts
from lofit_lens.loading.find import find_model
from lofit_lens.model import load_model
from lofit_lens.randomness import random_state_kept
from lofit_lens.scoring import evaluate
from lofit_lens.stages import select_heads
from lofit_lens.tasks import from_file
from lofit_lens.tokens import Encoder
from lofit_lens.training import SelectionConfig
from tests.helpers import (
    CONFIGS,
    EXPORTABLE,
    HEAD_DIM,
    N_HEADS,
    N_LAYERS,
    VOCAB,
    build_tokenizer,
    draw_edit,
    load_plain,
)
from tests.peak import PeakLive

Folder = Callable[[str], Path]
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_configuration_alone_tells_what_the_loaded_model_tells(
    family: str, tiny_folder: Folder
) -> None:
    folder = tiny_folder(family)
    found = shape_of(str(folder), None)
    loaded = shape_of_loaded(load_model(folder, device="cpu"))
    assert found is not None
    assert (found.heads, found.z_widths, found.n_ctx) == (
        loaded.heads,
        loaded.z_widths,
        loaded.n_ctx,
    )
    assert (found.heads.n_layers, found.heads.n_heads) == (N_LAYERS, N_HEADS)
    plain = load_plain(folder)
    assert found.sizes.parameters == sum(p.numel() for p in plain.parameters())
    assert found.sizes.d_mlp == next(
        m.weight.shape[0] if isinstance(m, torch.nn.Linear) else m.weight.shape[1]
        for name, m in plain.named_modules()
        if name.endswith(("up_proj", "c_fc", "dense_h_to_4h"))
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_it_says_as_what_an_edit_is_exported_before_it_is(
    family: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    found = check_model(tiny_folder(family), device="cpu")
    model = load_model(tiny_folder(family), device="cpu")
    if family in EXPORTABLE:
        report = export_checkpoint(model, draw_edit(model), tmp_path / "out")
        assert found.shape.exported_as == report.architecture
        assert set(found.servers) == set(SERVERS)
    else:
        assert found.shape.exported_as is None
        with pytest.raises(UnsupportedError) as caught:
            export_checkpoint(model, draw_edit(model), tmp_path / "out")
        assert found.shape.not_exported == str(caught.value)


def test_a_folder_with_a_configuration_alone_is_told_without_loading(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
        num_attention_heads=64, num_key_value_heads=8, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    found = check_model(tmp_path, device="cpu", dtype="bfloat16", batch_size=4)
    assert not found.loaded and "not there" in str(found.not_loaded)
    assert found.tokenizer is None
    assert found.shape.heads.total == 80 * 64
    assert found.shape.sizes.parameters == 70_553_706_496, "as Meta counts Llama 3 70B"
    assert found.memory.weights == 2 * found.shape.sizes.parameters
    assert "from the configuration alone" in repr(found)
    assert "not tried" in repr(found)


def test_weights_that_do_not_fit_are_not_loaded(
    tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lofit_lens.checking.model_check.free_memory", lambda _: 1000)
    found = check_model(tiny_folder("llama"), device="cpu")
    assert not found.loaded
    assert found.not_loaded is not None and "GiB are free" in found.not_loaded
    assert "more than is free" in repr(found)


def test_a_loaded_model_is_tried_and_its_tokenizer_looked_at(tiny_folder: Folder) -> None:
    found = check_model(tiny_folder("llama"), device="cpu")
    assert found.loaded
    assert (found.direct, found.shares) == ("sdpa", True)
    assert found.tokenizer is not None
    assert (found.tokenizer.lead, found.tokenizer.eos) == (("<s>",), "</s>")
    assert found.tokenizer.ends == ("</s>",) and found.tokenizer.template is None
    assert found.shape.z_widths == (HEAD_DIM,) * N_LAYERS
    assert len(found.frame()) == len(found.rows())
    assert json.loads(json.dumps(found.to_json()))["shape"]["heads"]["total"] == N_LAYERS * N_HEADS


def test_a_chat_template_is_told_by_its_hash(tiny_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_folder("llama"), folder)
    tokenizer = build_tokenizer()
    hashes = []
    for template in ("{{ messages }}", "{{ messages[0] }}"):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        found = check_model(folder, device="cpu").tokenizer
        assert found is not None and found.template is not None
        hashes.append(found.template)
    assert len(set(hashes)) == 2


def test_weights_are_not_fetched_from_the_hub(
    tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, file_download

    commit = "a0" * 20
    snapshot = tmp_path / "models--somebody--tiny" / "snapshots" / commit
    without = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(tiny_folder("llama"), snapshot, ignore=without)
    (tmp_path / "models--somebody--tiny" / "refs").mkdir()
    (tmp_path / "models--somebody--tiny" / "refs" / "main").write_text(commit, encoding="utf-8")
    for module in (constants, file_download):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    found = check_model("somebody/tiny", device="cpu")
    assert found.not_loaded == "its weights are not there"
    assert found.shape.heads.total == N_LAYERS * N_HEADS
    for file in tiny_folder("llama").glob("*.safetensors"):
        shutil.copy(file, snapshot)
    assert check_model("somebody/tiny", device="cpu").loaded


def wide_llama(folder: Path) -> Path:
    """A Llama with widths that differ from those the memory estimate was fitted on."""
    with random_state_kept():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=4000, hidden_size=192, intermediate_size=512, num_hidden_layers=5,
            num_attention_heads=6, num_key_value_heads=2, head_dim=32,
            max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def test_the_estimated_memory_is_near_what_is_measured(tmp_path: Path) -> None:
    folder = wide_llama(tmp_path / "wide")
    model = load_model(folder, device="cpu")
    try_shortcuts(model)
    words = "The colour of the house is red and the cat is grey. " * 6
    rows = [{"q": f"{i % 10} {words}", "a": "a cat"} for i in range(20)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = from_file(file, prompt="{q}", answer="a", split=(0.4, 0.2, 0.4))
    length = len(Encoder(model).continuation(task.train[0].prompt, " a cat").ids)
    shape = shape_of(str(folder), None)
    assert shape is not None
    need = memory_needed(shape.sizes, batch_size=8, length=length, bytes_each=4)
    with PeakLive(model.parameters()) as training:
        select_heads(model, task, SelectionConfig(epochs=1, batch_size=8), progress=False)
    with PeakLive(model.parameters()) as generation:
        evaluate(model, task, batch_size=8, progress=False)
    assert 0.8 < (need.training - need.weights) / training.bytes < 1.25
    assert 0.8 < (need.scoring - need.weights) / generation.bytes < 1.25


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({"hidden_size": 64, "intermediate_size": 96}, 96),
        ({"n_embd": 64, "n_inner": None}, 256),
        ({"hidden_size": 64, "intermediate_size": [32, 48]}, 48),
        ({"hidden_size": 64, "intermediate_size": 96, "num_experts_per_tok": 4,
          "moe_intermediate_size": 40}, 160),
    ],
)  # fmt: skip
def test_the_width_of_the_mlp_is_read_from_configurations_of_all_kinds(
    settings: dict[str, Any], width: int
) -> None:
    config = type("Config", (), settings)()
    assert mlp_width(config) == width


def save_mamba(folder: Path) -> Path:
    config = MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def test_a_model_without_heads_and_an_unknown_family_are_refused_with_exit_code_1(
    tmp_path: Path,
) -> None:
    mamba = save_mamba(tmp_path / "mamba")
    with pytest.raises(UnsupportedError, match="no attention heads"):
        check_model(mamba, device="cpu")
    done = CliRunner().invoke(app, ["check", str(mamba), "--device", "cpu"])
    assert done.exit_code == 1 and "no attention heads" in done.output
    unknown = tmp_path / "unknown"
    HeliumConfig(hidden_size=32, architectures=["HeliumForCausalLM"]).save_pretrained(unknown)
    with pytest.raises(UnsupportedError, match="does not know HeliumForCausalLM") as caught:
        load_model(unknown, device="cpu")
    assert len(str(caught.value)) < 400, "not the list of all families"
    done = CliRunner().invoke(app, ["check", str(unknown)])
    assert done.exit_code == 1 and "HeliumForCausalLM" in done.output


def test_the_command_prints_a_table_or_json(tiny_folder: Folder) -> None:
    folder = str(tiny_folder("qwen3"))
    done = CliRunner().invoke(app, ["check", folder, "--device", "cpu", "--batch-size", "4"])
    assert done.exit_code == 0, done.output
    for part in ("Qwen3ForCausalLM", "12 in 3 layers x 4 heads", "the edit is lost (0.33.0)"):
        assert part in done.stdout
    done = CliRunner().invoke(app, ["check", folder, "--device", "cpu", "--json"])
    found = json.loads(done.stdout)
    assert found["servers"]["vLLM"] == {"outcome": "drops it", "source": "0.33.0"}
    assert found["memory"]["training"] > found["memory"]["weights"]


def test_a_length_beyond_the_context_is_refused(tiny_folder: Folder) -> None:
    with pytest.raises(LofitLensError, match="length must be a whole number from 1 to 128"):
        check_model(tiny_folder("llama"), device="cpu", length=200)


def test_the_table_of_servers_in_the_docs_is_the_one_that_is_used() -> None:
    page = (ROOT / "docs" / "guide" / "keep-and-share.md").read_text(encoding="utf-8")
    for family in READ:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{family}`"))
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert cells == [str(servers_of(family)[server]) for server in SERVERS], family


@pytest.mark.parametrize("name", ["embedded"])
def test_the_embedded_model_is_checked_by_its_name(name: str) -> None:
    found = check_model(name, device="cpu")
    assert found.shape.sizes.parameters == sum(
        p.numel() for p in load_plain(find_model(name)).parameters()
    )
