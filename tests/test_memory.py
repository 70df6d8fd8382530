"""Batch sizes found by what fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.errors import LofitLensError
from lofit_lens.fast.memory import free_memory, within_memory
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.stages import tune_heads, tune_together
from lofit_lens.tokens import EncodedText
from lofit_lens.training.config import TuningConfig
from tests.helpers import N_HEADS, N_LAYERS, type_checks_off
from tests.test_fast import TEXTS
from tests.test_training import colour_task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

CPU = torch.device("cpu")


@contextmanager
def room_for(model: TransformerBridge, rows: int) -> Iterator[list[int]]:
    """Let forward passes of more rows run out of memory, as a GPU says it; yields their sizes."""
    sizes = []

    def refuse(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        size = len(args[0] if args else kwargs["input_ids"])
        sizes.append(size)
        if size > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with model.original_model.register_forward_pre_hook(refuse, with_kwargs=True):
        yield sizes


def test_auto_halves_the_batch_until_it_fits(llama: TransformerBridge) -> None:
    texts = [EncodedText((*range(2, 2 + n), 70, 71), n) for n in range(3, 40)]
    expected = answer_logprobs(llama, texts)
    with room_for(llama, 2) as sizes:
        found = answer_logprobs(llama, texts, batch_size="auto")
        with pytest.raises(torch.OutOfMemoryError):
            answer_logprobs(llama, texts, batch_size=32)
    assert max(sizes) > 2
    assert torch.allclose(found, expected, atol=1e-4)


def test_generation_and_evaluation_take_auto(llama: TransformerBridge) -> None:
    prompts = ["The colour of", "Who is Anna?", "A"]
    expected = generate_greedily(llama, prompts, max_new_tokens=4)
    with room_for(llama, 1):
        assert generate_greedily(llama, prompts, max_new_tokens=4, batch_size="auto") == expected
    task = colour_task()
    scores = [evaluate(llama, task, batch_size=size, progress=False) for size in (32, "auto")]
    assert scores[0].main.value == scores[1].main.value


@pytest.mark.parametrize("room", [1, 2, 3])
def test_training_goes_on_with_smaller_parts_and_the_same_gradient(
    llama: TransformerBridge, every: Any, room: int
) -> None:
    config = TuningConfig(epochs=2, batch_size=4, validate=False, objective="sft")
    whole = tune_heads(llama, colour_task(), every, config, progress=False)
    part = replace(config, micro_batch_size="auto")
    with room_for(llama, room) as sizes, one_text_a_row():
        found = tune_heads(llama, colour_task(), every, part, progress=False)
    assert max(sizes) > room
    assert whole.provenance is not None
    assert found.provenance is not None
    assert found.provenance.history.loss == pytest.approx(whole.provenance.history.loss, rel=1e-5)
    assert found.provenance.history.gradient_norm == pytest.approx(
        whole.provenance.history.gradient_norm, rel=1e-4
    )


def test_runs_trained_together_halve_their_parts_too(llama: TransformerBridge, every: Any) -> None:
    config = TuningConfig(epochs=1, batch_size=4, validate=False, objective="sft")
    auto = replace(config, micro_batch_size="auto")
    whole = tune_together(llama, colour_task(), [(every, config)] * 2, progress=False)
    with room_for(llama, 4), one_text_a_row():
        found = tune_together(llama, colour_task(), [(every, auto)] * 2, progress=False)
    for one, other in zip(whole, found, strict=True):
        assert torch.allclose(one.bias, other.bias, atol=1e-5)  # pyright: ignore


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    calls = []

    def run(size: int) -> None:
        calls.append(size)
        raise RuntimeError("another fault")

    with pytest.raises(RuntimeError, match="another fault"):
        within_memory(run, "auto", CPU)
    assert len(calls) == 1


def test_a_single_text_that_does_not_fit_is_an_error(llama: TransformerBridge) -> None:
    with room_for(llama, 0), pytest.raises(torch.OutOfMemoryError):
        answer_logprobs(llama, TEXTS, batch_size="auto")


@pytest.mark.parametrize("size", [0, -1, 1.5, "all"])
def test_other_sizes_are_refused(size: Any) -> None:
    with (
        type_checks_off(),
        pytest.raises(LofitLensError, match=r'micro_batch_size must be .* or "auto"'),
    ):
        TuningConfig(micro_batch_size=size)


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < free_memory(CPU) < 2**50


def test_the_peak_is_measured_on_a_gpu_only(llama: TransformerBridge, every: Any) -> None:
    config = TuningConfig(epochs=1, validate=False)
    learned = tune_heads(llama, colour_task(), every, config, progress=False)
    assert learned.provenance is not None
    assert learned.provenance.history.peak_memory is None


@pytest.fixture
def every() -> Any:
    from lofit_lens.heads import HeadSet

    return HeadSet.every(n_layers=N_LAYERS, n_heads=N_HEADS)


@contextmanager
def one_text_a_row() -> Iterator[None]:
    """So that the size of a forward pass is its number of texts, and nothing runs beforehand."""
    from lofit_lens.fast.switches import shortcuts

    with shortcuts(replay=False, shared=False):
        yield
