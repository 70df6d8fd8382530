from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.export import export_checkpoint
from lofit_lens.folding import fold
from lofit_lens.identity import fingerprint, source_of
from lofit_lens.loading.find import find_model
from lofit_lens.loading.rope import LLAMA3, llama3_divisors
from lofit_lens.model import load_model
from lofit_lens.randomness import random_state_kept
from lofit_lens.scoring import evaluate
from lofit_lens.stages import select_heads, tune_heads
from lofit_lens.tasks import from_file
from lofit_lens.tokens import Encoder
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.helpers import (
    HEAD_DIM,
    VOCAB,
    assert_same_logits,
    draw_edit,
    draw_tokens,
    edited_plain,
    load_plain,
    save_tiny_model,
    type_checks_off,
)
from tests.tiny_gguf import write_gguf

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a GGUF file in float32, alone in its folder; the plain one lies beside."""
    root = tmp_path_factory.mktemp("gguf")
    (root / "alone").mkdir()
    return write_gguf(save_tiny_model("llama", root / "llama"), root / "alone" / "tiny.gguf")


def plain_gguf(file: Path, **options: Any) -> Any:
    """A GGUF file in plain `transformers`."""
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, attn_implementation="eager", **options
    ).eval()


def test_a_gguf_file_gives_the_logits_of_plain_transformers_and_of_the_original(
    gguf_file: Path,
) -> None:
    model = load_model(gguf_file, device="cpu")
    tokens = draw_tokens()
    with torch.no_grad():
        found = model(tokens)
        assert torch.equal(found, plain_gguf(gguf_file, dtype=torch.float32)(tokens).logits)
        assert torch.equal(found, load_plain(gguf_file.parents[1] / "llama")(tokens).logits)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gguf_file_in_half_precision_is_read_in_the_type_asked_for(
    dtype: torch.dtype, gguf_file: Path, tmp_path: Path
) -> None:
    file = write_gguf(gguf_file.parents[1] / "llama", tmp_path / "half.gguf", half=True)
    model = load_model(file, device="cpu", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    tokens = draw_tokens()
    with torch.no_grad():
        assert torch.equal(model(tokens), plain_gguf(file, dtype=dtype)(tokens).logits)


def test_a_gguf_file_has_its_own_tokenizer(gguf_file: Path) -> None:
    model = load_model(gguf_file, device="cpu")
    plain = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    text = "Q: Who lives in the old house?\nA: A grey cat."
    assert list(Encoder(model).prompt(text).ids) == plain(text).input_ids
    original = AutoTokenizer.from_pretrained(gguf_file.parents[1] / "llama")
    assert plain(text).input_ids == original(text, add_special_tokens=False).input_ids


def test_a_folder_with_one_gguf_file_is_that_file(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_model(gguf_file.parent) == str(gguf_file.resolve())
    monkeypatch.setenv("LOFIT_LENS_MODELS", str(gguf_file.parent))
    monkeypatch.chdir(tmp_path)
    assert find_model("tiny.gguf") == str(gguf_file.resolve())
    with_config = tmp_path / "with-config"
    shutil.copytree(gguf_file.parent, with_config)
    (with_config / "config.json").write_text("{}", encoding="utf-8")
    assert find_model(with_config) == str(with_config / "tiny.gguf")
    (with_config / "model.safetensors").write_bytes(b"")
    assert find_model(with_config) == str(with_config)


def test_a_folder_with_two_gguf_files_is_refused_by_their_names(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(LofitLensError, match=r"2 GGUF files: a\.gguf, b\.gguf"):
        load_model(tmp_path, device="cpu")


def test_one_part_of_a_gguf_model_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    part = tmp_path / "big-00001-of-00003.gguf"
    part.write_bytes(b"")
    with pytest.raises(LofitLensError, match=r"(?s)several files.*merge"):
        load_model(part, device="cpu")
    (tmp_path / "no.gguf").write_bytes(b"no such format, but long enough for a header")
    with pytest.raises(LofitLensError, match="Could not load"):
        load_model(tmp_path / "no.gguf", device="cpu")


def test_without_the_package_a_gguf_file_names_what_to_install(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lofit_lens.loading.gguf.find_spec", lambda _: None)
    with pytest.raises(LofitLensError, match=r'pip install "lofit-lens\[gguf\]"'):
        load_model(gguf_file, device="cpu")


def test_the_fingerprint_of_a_gguf_file_is_that_of_its_weights(gguf_file: Path) -> None:
    found = fingerprint(load_model(gguf_file, device="cpu"))
    original = fingerprint(load_model(gguf_file.parents[1] / "llama", device="cpu"))
    assert found.name == "tiny.gguf"
    assert found.weights == original.weights
    assert found.tokenizer != original.tokenizer, "the file puts no BOS in front"


def test_an_edit_of_a_gguf_model_is_kept_and_exported_as_a_plain_folder(
    gguf_file: Path, tmp_path: Path
) -> None:
    model = load_model(gguf_file, device="cpu")
    assert source_of(model) == (str(gguf_file.resolve()), None)
    edit = draw_edit(model)
    edit.save(tmp_path / "edit")
    again = HeadIntervention.load(tmp_path / "edit", load_model(source_of(model)[0], device="cpu"))
    report = export_checkpoint(model, again, tmp_path / "out")
    assert report.architecture == "LlamaForCausalLM"
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    tokens = draw_tokens()
    plain = load_plain(gguf_file.parents[1] / "llama")
    with torch.no_grad(), edited_plain(plain, edit):
        expected = plain(tokens).logits
    with torch.no_grad():
        assert_same_logits(load_plain(tmp_path / "out")(tokens).logits, expected, rel=1e-5)
    text = "The cat is grey."
    written = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert written(text).input_ids == list(Encoder(model).prompt(text).ids)


def llama3_folder(folder: Path, context: int = 16384) -> Path:
    """A tiny Llama with the rotary positions of Llama 3.1."""
    save_tiny_model("llama", folder)
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, **LLAMA3}
    config = LlamaConfig.from_pretrained(folder)
    config.rope_parameters, config.max_position_embeddings = rope, context
    config.save_pretrained(folder)
    return folder


def test_the_scaled_positions_of_llama_3_are_read_from_a_gguf_file(tmp_path: Path) -> None:
    folder = llama3_folder(tmp_path / "llama3")
    divisors = llama3_divisors(HEAD_DIM, theta=10000.0, factor=8.0, **LLAMA3)
    file = write_gguf(folder, tmp_path / "llama3.gguf", rope_factors=divisors)
    tokens = draw_tokens(length=60)
    with torch.no_grad():
        found = load_model(file, device="cpu")(tokens)
        expected = load_plain(folder)(tokens).logits
        unscaled = plain_gguf(file, dtype=torch.float32)(tokens).logits
    assert torch.equal(found, expected)
    assert not torch.allclose(unscaled, expected, atol=1e-3), "plain Transformers misreads the file"


def test_positions_scaled_in_an_unknown_way_are_refused(gguf_file: Path, tmp_path: Path) -> None:
    divisors = torch.linspace(1, 3, HEAD_DIM // 2)
    folder = gguf_file.parents[1] / "llama"
    file = write_gguf(folder, tmp_path / "strange.gguf", rope_factors=divisors)
    with pytest.raises(UnsupportedError, match="rope_freqs"):
        load_model(file, device="cpu")


@pytest.mark.real
def test_a_real_gguf_file_gives_the_logits_of_plain_transformers() -> None:
    value = os.environ.get("LOFIT_LENS_GGUF")
    if not value or not Path(value).is_file():
        pytest.skip("LOFIT_LENS_GGUF does not name a GGUF file")
    file = Path(value)
    model = load_model(file, device="cpu", dtype="float32")
    tokens = draw_tokens(vocab=model.cfg.d_vocab)
    with torch.no_grad():
        expected = plain_gguf(file, dtype=torch.float32)(tokens).logits
        assert_same_logits(model(tokens), expected)


# ---------------------------------------------------------------- quantised weights


@pytest.mark.parametrize("quantization", ["bnb-4bit", "bnb-8bit"])
def test_quantisation_without_a_gpu_is_refused_before_anything_is_read(
    quantization: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "config.json").write_text("not even JSON", encoding="utf-8")
    with pytest.raises(UnsupportedError, match="needs a CUDA device"):
        load_model(tmp_path, quantization=quantization)


def test_quantisation_is_refused_on_the_cpu_without_its_package_and_for_gguf(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Folder, gguf_file: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with pytest.raises(UnsupportedError, match="device='cpu'"):
        load_model(tiny_folder("llama"), quantization="bnb-4bit", device="cpu")
    monkeypatch.setattr("lofit_lens.loading.quantized.find_spec", lambda _: None)
    with pytest.raises(LofitLensError, match=r'pip install "lofit-lens\[quantized\]"'):
        load_model(tiny_folder("llama"), quantization="bnb-4bit")
    with pytest.raises(LofitLensError, match="dequantised when it is read"):
        load_model(gguf_file, quantization="bnb-8bit")


def test_an_unknown_quantisation_is_refused(tiny_folder: Folder) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match="bnb-4bit, bnb-8bit, got 'int4'"):
        load_model(tiny_folder("llama"), quantization="int4")  # pyright: ignore


class Quantised(nn.Module):
    """A linear layer whose weight is kept in 8 bits, as the libraries do it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.data.abs().max() / 127
        packed = (linear.weight.data / self.scale).round().to(torch.int16) + 128
        self.weight = nn.Parameter(packed.to(torch.uint8), requires_grad=False)
        self.bias = linear.bias

    def whole(self) -> torch.Tensor:
        return (self.weight.to(torch.float32) - 128) * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.whole(), self.bias)


@pytest.fixture
def quantised(llama: TransformerBridge) -> TransformerBridge:
    """A bridge whose attention output projections are quantised."""
    for block in llama.blocks:
        projection: Any = block.attn.o
        projection.set_original_component(Quantised(projection.original_component))
    return llama


def test_a_quantised_model_is_edited_like_a_plain_one_with_its_rounded_weights(
    quantised: TransformerBridge, tiny_folder: Folder
) -> None:
    plain = load_plain(tiny_folder("llama"))
    for layer, block in zip(plain.model.layers, quantised.blocks, strict=True):
        layer.self_attn.o_proj.weight.data = block.attn.o.original_component.whole()
    edit, tokens = draw_edit(quantised), draw_tokens()
    with torch.no_grad(), edit.applied(quantised):
        found = quantised(tokens)
    with torch.no_grad(), edited_plain(plain, edit):
        expected = plain(tokens).logits
    assert_same_logits(found, expected)
    assert fingerprint(quantised).weights != fingerprint(load_model(tiny_folder("llama"))).weights


def test_a_quantised_model_is_selected_tuned_and_scored(
    quantised: TransformerBridge, tmp_path: Path
) -> None:
    rows = [{"q": f"Who is {i}?", "a": "a cat" if i % 2 else "a dog"} for i in range(20)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = from_file(file, prompt="{q}", answer="a")
    scores = select_heads(quantised, task, SelectionConfig(epochs=1), progress=False)
    assert scores.scores.abs().sum() > 0
    edit = tune_heads(quantised, task, scores.top(k=2), TuningConfig(epochs=1), progress=False)
    assert edit.bias is not None and edit.bias.abs().sum() > 0
    assert evaluate(quantised, task, edit, progress=False).main.n == 10


@pytest.mark.parametrize("kind", ["uint8", "packed", "no weight"])
def test_quantised_weights_are_neither_folded_nor_exported(
    kind: str, llama: TransformerBridge, tmp_path: Path
) -> None:
    for block in llama.blocks:
        linear: Any = block.attn.o.original_component
        if kind == "uint8":
            block.attn.o.set_original_component(Quantised(linear))
        elif kind == "packed":
            linear.weight.quant_state = "as bitsandbytes marks what it has packed into floats"
        else:
            linear.qweight = linear._parameters.pop("weight")
    for attempt in (
        lambda: fold(llama, draw_edit(llama)),
        lambda: export_checkpoint(llama, draw_edit(llama), tmp_path / "out"),
    ):
        with pytest.raises(UnsupportedError, match="quantised"):
            attempt()
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the user's environment

_TEXT_ONLY = """
import sys

def forbid(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork"):
        raise SystemExit(f"a process was started: {arguments}")

sys.modules["torchvision"] = None  # as where it is not installed
sys.addaudithook(forbid)
import torch
from lofit_lens.model import load_model
from lofit_lens.randomness import random_state_kept
from lofit_lens.tokens import Encoder
from transformer_lens.model_bridge.sources.transformers import helpers

before = helpers._ensure_torchvision
model = load_model(sys.argv[1], device="cpu")
assert helpers._ensure_torchvision is before
tokens = torch.tensor([Encoder(model).prompt("The cat is grey.").ids])
torch.save(model(tokens).detach(), sys.argv[2])
torch.save(tokens, sys.argv[3])
"""


def test_loading_a_model_that_also_sees_starts_no_process_and_text_works(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 48, "sliding_window": 64,
        "max_position_embeddings": 128,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 24, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    with random_state_kept():
        torch.manual_seed(0)
        config = Gemma3Config(
            text_config=text, vision_config=vision, mm_tokens_per_image=4,
            image_token_index=5, boi_token_index=6, eoi_token_index=7,
        )  # fmt: skip
        plain: Any = Gemma3ForConditionalGeneration(config).eval()
    folder = tmp_path / "sees"
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder("llama")).save_pretrained(folder)
    out = [str(tmp_path / name) for name in ("logits.pt", "tokens.pt")]
    done = subprocess.run(
        [sys.executable, "-c", _TEXT_ONLY, str(folder), *out],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logits, tokens = map(torch.load, out)
    with torch.no_grad():
        assert_same_logits(logits, plain(input_ids=tokens).logits)


# ---------------------------------------------------------------- names without a network

_BY_NAME = """
import sys, time
from lofit_lens.errors import LofitLensError
from lofit_lens.model import load_model
from lofit_lens.randomness import random_state_kept
from lofit_lens.randomness import random_state_kept
started = time.perf_counter()
try:
    load_model(sys.argv[1], device="cpu")
except LofitLensError as error:
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    print(time.perf_counter() - started, behind, error, sep="|")
"""


def load_by_name(name: str, tmp_path: Path, **environment: str) -> tuple[float, str, str]:
    """Load a name in a process of its own: seconds, what stands behind the error, the error."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "LOFIT_LENS_MODELS")}
    done = subprocess.run(
        [sys.executable, "-c", _BY_NAME, name],
        env=kept | {"HF_HOME": str(tmp_path), **environment},
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, behind, message = done.stdout.strip().split("|")
    return float(seconds), behind, message


def test_a_name_where_the_hub_cannot_be_reached_is_told_in_a_line_at_once(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the port that discards
    seconds, behind, message = load_by_name("somebody/something", tmp_path, HF_ENDPOINT=nobody)
    assert seconds < 10, "libraries try for 23 s, the rest is starting"
    assert behind == "None"
    assert message.count("\n") == 0
    for part in (
        "'somebody/something'",
        str(Path(__file__).parents[1]),
        nobody,
        "cannot be reached",
    ):
        assert part in message


def test_a_name_in_offline_mode_is_told_at_once_too(tmp_path: Path) -> None:
    _, behind, message = load_by_name("somebody/something", tmp_path, HF_HUB_OFFLINE="1")
    assert behind == "None"
    assert "HF_HUB_OFFLINE is set" in message and str(tmp_path) in message


def test_a_name_that_is_in_the_cache_loads_without_a_network(
    tiny_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, file_download

    commit = "a0" * 20
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(tiny_folder("llama"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    for module in (constants, file_download):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    model = load_model("somebody/tiny", device="cpu")
    assert time.perf_counter() - started < 5
    assert source_of(model) == ("somebody/tiny", commit)
    assert constants.HF_HUB_OFFLINE is False


def test_a_text_that_can_be_no_name_on_the_hub_is_refused() -> None:
    with pytest.raises(LofitLensError, match=r"no folder .*a/b/c") as caught:
        load_model("a/b/c", device="cpu")
    assert caught.value.__cause__ is None


def test_short_names_of_earlier_transformer_lens_are_still_known() -> None:
    assert find_model("mGPT") == "ai-forever/mGPT"
    assert find_model("somebody/something") == "somebody/something"


# ---------------------------------------------------------------- no tokenizer


def test_a_folder_without_a_tokenizer_loads_for_hooks_and_refuses_text_by_name(
    tiny_folder: Folder, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_folder("llama"), folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    model = load_model(folder, device="cpu")
    assert model.tokenizer is None
    edit, tokens, plain = draw_edit(model), draw_tokens(), load_plain(folder)
    with torch.no_grad(), edit.applied(model):
        found = model(tokens)
    with torch.no_grad(), edited_plain(plain, edit):
        assert torch.equal(found, plain(tokens).logits)
    with pytest.raises(UnsupportedError, match="without a tokenizer"):
        Encoder(model)
    export_checkpoint(model, edit, tmp_path / "out")
    assert not list((tmp_path / "out").glob("tokenizer*"))
