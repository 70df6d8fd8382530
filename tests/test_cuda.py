"""On a GPU everything gives what it gives on the CPU; skipped where there is none.

`pytest -m cuda` runs these alone. Products are of float32 on both sides, so that what is left is the
order of sums.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lofit_lens as ll
from lofit_lens.analysis import (
    attention_patterns,
    compare,
    compare_directions,
    direct_attribution,
    head_cards,
    logit_lens,
)
from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.bench import loaded_as
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tokens import EncodedText
from tests.helpers import FAMILIES, draw_edit, draw_tokens, load_plain, type_checks_off
from tests.make_goldens import ON_HEADS, OTHERS, task
from tests.test_abilities import EXPERIMENTS, plain, run
from tests.test_check import wide_llama

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

TEXTS = [EncodedText((*range(2, 2 + n), 70, 71), 2) for n in range(3, 40)]
SCOPES = ("all", "last", "after_prompt", "iti_compat")
HALF = ("bfloat16", "float16")


@pytest.fixture(scope="module")
def pair() -> tuple[TransformerBridge, TransformerBridge]:
    """The embedded model on the CPU and on the GPU."""
    on_cpu, on_gpu = (
        ll.load_model("embedded", device=device, dtype="float32") for device in ("cpu", "cuda")
    )
    return on_cpu, on_gpu


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Nothing that is called changes how the user's GPU computes, or what it draws."""

    def settings() -> list[Any]:
        return [
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.cuda.get_rng_state().tolist(),
        ]

    before = settings()
    yield
    assert settings() == before


def test_a_model_goes_onto_the_gpu_in_bfloat16_unless_told_otherwise(tiny_folder: Any) -> None:
    model = ll.load_model(tiny_folder("llama"))
    weight = next(model.original_model.parameters())
    assert (weight.device.type, weight.dtype) == ("cuda", torch.bfloat16)
    assert str(model.cfg.device).startswith("cuda")
    with pytest.raises(ll.LofitLensError, match="There is no device 'cuda:99'"):
        ll.load_model(tiny_folder("llama"), device="cuda:99")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_under_an_edit_are_as_likely_as_on_the_cpu(
    family: str, scope: Any, tiny_folder: Any
) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = ll.load_model(tiny_folder(family), device=device, dtype="float32")
        edit = draw_edit(model, scope=scope)
        found.append(answer_logprobs(model, TEXTS, edit, batch_size=8).cpu())
        with ll.shortcuts(False):
            found.append(answer_logprobs(model, TEXTS, edit, batch_size=8).cpu())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_hugging_face_on_the_same_gpu(family: str, tiny_folder: Any) -> None:
    model = ll.load_model(tiny_folder(family), device="cuda", dtype="float32")
    tokens = draw_tokens().cuda()
    expected = load_plain(tiny_folder(family)).cuda()(tokens).logits
    torch.testing.assert_close(model(tokens), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("ability", ["kinship", "truth"])
def test_both_stages_learn_what_they_learn_on_the_cpu(ability: Any, pair: Any) -> None:
    found = []
    for model in pair:
        scores = ll.select_heads(model, task(ability), SELECTION, progress=False)
        heads = scores.top(k=6)
        edit = ll.tune_heads(model, task(ability), heads, TUNING, progress=False)
        found.append((scores, edit, ll.evaluate(model, task(ability), edit, progress=False)))
    (cpu_scores, cpu_edit, cpu), (gpu_scores, gpu_edit, gpu) = found
    assert gpu_scores.scores.device.type == "cpu", "what is kept needs no GPU to be read"
    np.testing.assert_allclose(gpu_scores.scores, cpu_scores.scores, rtol=0.02, atol=0.02)
    assert gpu_edit.heads == cpu_edit.heads
    torch.testing.assert_close(gpu_edit.bias.cpu(), cpu_edit.bias.cpu(), rtol=0.05, atol=0.01)
    assert gpu.main.value == pytest.approx(cpu.main.value, abs=0.03)
    assert gpu_edit.provenance.history.peak_memory > 0


def test_the_same_run_gives_the_same_numbers_twice(pair: Any) -> None:
    first, second = (
        ll.select_heads(pair[1], task("kinship"), SELECTION, progress=False) for _ in range(2)
    )
    torch.testing.assert_close(first.scores, second.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_near_full_precision(family: str, dtype: Any, tiny_folder: Any) -> None:
    whole, half = (
        ll.load_model(tiny_folder(family), device="cuda", dtype=kind) for kind in ("float32", dtype)
    )
    edit = draw_edit(whole)
    expected, found = (answer_logprobs(model, TEXTS, edit).cpu() for model in (whole, half))
    worst = float((found - expected).abs().max() / expected.abs().max())
    assert worst < (0.1 if dtype == "bfloat16" else 0.02)
    with ll.shortcuts(False):
        plainly = answer_logprobs(half, TEXTS, edit).cpu()
    worst = float((found - plainly).abs().max() / expected.abs().max())
    assert worst < (0.1 if dtype == "bfloat16" else 0.02)


@pytest.mark.parametrize("dtype", HALF)
def test_both_stages_learn_in_half_precision(dtype: Any) -> None:
    model = ll.load_model("embedded", device="cuda", dtype=dtype)
    scores = ll.select_heads(model, task("kinship"), SELECTION, progress=False)
    edit = ll.tune_heads(model, task("kinship"), scores.top(k=6), TUNING, progress=False)
    assert edit.provenance is not None and edit.bias is not None
    history = edit.provenance.history
    assert np.isfinite(history.loss).all()
    assert np.mean(history.loss[-3:]) < 0.7 * history.loss[0]
    assert edit.bias.dtype == torch.float32


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_every_kind_of_experiment_gives_what_it_gives_on_the_cpu(
    kind: str, tiny_folder: Any, tmp_path: Path
) -> None:
    cpu, gpu = (
        plain(
            run(
                kind,
                ll.load_model(tiny_folder("llama"), device=device, dtype="float32"),
                tmp_path / device,
            )
        )
        for device in ("cpu", "cuda")
    )
    assert list(gpu.columns) == list(cpu.columns)
    names = cpu.select_dtypes(exclude="number").columns
    assert gpu[names].astype(str).equals(cpu[names].astype(str))
    gone = gpu["value"].isna()
    assert gone.equals(cpu["value"].isna())
    assert (gpu["value"] - cpu["value"]).abs().mean() < 0.05


def test_every_method_runs_and_scores_about_what_it_scores_on_the_cpu(pair: Any) -> None:
    settings = replace(
        Settings.embedded(k=6), selection=replace(SELECTION, epochs=2),
        tuning=replace(TUNING, epochs=2), random_draws=1, batch_size=64, kl_budget=0.05,
    )  # fmt: skip
    failures: list[Exception] = []
    cpu, gpu = (
        compare(
            model, [task("truth", 20, 12, 12)], (*ON_HEADS, *OTHERS),
            seeds=(42,), settings=settings, progress=False, on_failure=failures.append,
        )
        for model in pair
    )  # fmt: skip
    assert not failures
    values = cpu.frame().set_index("method")["value"], gpu.frame().set_index("method")["value"]
    apart = (values[0] - values[1]).abs()
    assert apart.max() < 0.2, apart[apart >= 0.2]
    assert apart.median() < 0.02


def test_worker_processes_share_the_gpu(pair: Any, tmp_path: Path) -> None:
    settings = replace(
        Settings.embedded(k=6), selection=replace(SELECTION, epochs=1),
        tuning=replace(TUNING, epochs=1), random_draws=1,
    )  # fmt: skip
    frames = [
        compare(
            pair[1], [task("truth"), task("kinship")], ("lofit", "random-heads"), seeds=(42,),
            settings=settings, workers=workers, out=tmp_path / str(workers), progress=False,
        ).frame()
        for workers in (1, 2)
    ]  # fmt: skip
    np.testing.assert_allclose(frames[0]["value"], frames[1]["value"], atol=0.05)


def test_generation_is_that_of_the_cpu(pair: Any) -> None:
    prompts = [example.prompt for example in task("kinship").test]
    cpu, gpu = (generate_greedily(model, prompts, max_new_tokens=6) for model in pair)
    assert sum(a == b for a, b in zip(cpu, gpu, strict=True)) >= len(cpu) - 1
    assert gpu == generate_greedily(pair[1], prompts, max_new_tokens=6, batch_size="auto")


def test_edits_go_between_devices_and_into_checkpoints(tiny_folder: Any, tmp_path: Path) -> None:
    cpu, gpu = (
        ll.load_model(tiny_folder("llama"), device=device, dtype="float32")
        for device in ("cpu", "cuda")
    )
    drawn = draw_edit(cpu)
    moved = replace(drawn, scale=drawn.scale.cuda(), bias=drawn.bias.cuda())
    tokens = draw_tokens()
    logits = []
    for model, edit in ((cpu, drawn), (gpu, drawn), (cpu, moved), (gpu, moved)):
        with edit.applied(model):
            logits.append(model(tokens.to(model.cfg.device)).cpu())
    ll.save_edit(moved, tmp_path / "edit")
    with ll.load_edit(tmp_path / "edit").applied(gpu):
        logits.append(gpu(tokens.cuda()).cpu())
    with ll.fold(gpu, moved):
        logits.append(gpu(tokens.cuda()).cpu())
    ll.export_checkpoint(gpu, moved, tmp_path / "exported")
    logits.append(load_plain(tmp_path / "exported")(tokens).logits)
    for found in logits[1:]:
        torch.testing.assert_close(found, logits[0], atol=1e-4, rtol=1e-4)


def test_looking_inside_heads_shows_what_the_cpu_shows(pair: Any) -> None:
    heads = ll.HeadSet([(1, 2), (3, 1)], n_layers=pair[0].cfg.n_layers, n_heads=pair[0].cfg.n_heads)
    edit = draw_edit(pair[0], heads=heads, scale=False)
    kinship, shown = task("kinship"), []
    scores = ll.select_heads(pair[0], kinship, replace(SELECTION, epochs=1), progress=False)
    for model in pair:
        shown.append(
            {
                "lens": logit_lens(model, edit).frame(),
                "attention": attention_patterns(
                    model, kinship.test[0].prompt, heads, edit=edit
                ).frame(),
                "directions": compare_directions(model, edit, task("truth")).frame(),
                "attribution": direct_attribution(model, task("truth").test[:4], edit=edit).frame(),
                "cards": head_cards(model, edit, scores).frame(),
            }
        )
    for name, frame in shown[0].items():
        numbers = frame.select_dtypes("number").astype(float)
        found = shown[1][name][numbers.columns].astype(float)
        np.testing.assert_allclose(found, numbers, atol=2e-3, rtol=2e-3, err_msg=name)


def test_auto_batches_are_found_by_what_fits_on_the_gpu(tmp_path: Path) -> None:
    model = ll.load_model(wide_llama(tmp_path / "wide"), device="cuda", dtype="float32")
    texts = [EncodedText((*(2 + (i + j) % 300 for j in range(400)), 70 + i), 1) for i in range(256)]
    expected = answer_logprobs(model, texts, batch_size=4)
    taken = torch.cuda.memory_allocated() + 400 * 2**20
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(taken / torch.cuda.mem_get_info()[1])
    try:
        with ll.shortcuts(False):
            with pytest.raises(torch.OutOfMemoryError):
                answer_logprobs(model, texts, batch_size=256)
            found = answer_logprobs(model, texts, batch_size="auto")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(found.cpu(), expected.cpu(), atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", ["bnb-8bit", "bnb-4bit"])
def test_quantised_weights_are_tuned_and_scored(bits: Any, tmp_path: Path) -> None:
    folder = wide_llama(tmp_path / "wide")
    model = ll.load_model(folder, quantization=bits)
    whole = ll.load_model(folder, device="cuda", dtype="float32")
    assert loaded_as(model)["quantization"] == bits
    edit = draw_edit(model, scale=False)
    expected, found = (answer_logprobs(m, TEXTS, edit).cpu() for m in (whole, model))
    assert float(np.corrcoef(expected, found)[0, 1]) > 0.9
    with type_checks_off():
        scores = ll.select_heads(model, task("truth"), SELECTION, progress=False)
        tuned = ll.tune_heads(model, task("truth"), scores.top(k=3), TUNING, progress=False)
    assert tuned.provenance is not None
    assert np.isfinite(tuned.provenance.history.loss).all()
    with pytest.raises(ll.LofitLensError, match="quanti"):
        ll.fold(model, edit)


FRESH = """
import torch
torch.manual_seed(7)
import lofit_lens as ll
model = ll.load_model("embedded")
task = ll.tasks.embedded("truth")
ll.evaluate(model, task, progress=False)
found = torch.rand(3, device="cuda")
torch.manual_seed(7)
assert torch.equal(found, torch.rand(3, device="cuda")), found
"""


def test_the_first_use_of_the_gpu_leaves_what_the_user_draws_as_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_command_line_runs_on_the_gpu(tmp_path: Path) -> None:
    run = [
        "lofit",
        "--model",
        "embedded",
        "--task",
        "embedded:truth",
        "--k",
        "6",
        "--json",
        "--out",
    ]
    for words in (["check", "embedded"], [*run, str(tmp_path / "run")]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
