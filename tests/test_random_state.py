"""Nothing we call leaves the global random state of torch or numpy changed.

Python's own is left out, because the type checks of the tests draw from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from lofit_lens.analysis.kinds.causal import causal_curves
from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.kinds.lofit import lofit
from lofit_lens.analysis.kinds.transfer import transfer_matrix
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.export import export_checkpoint
from lofit_lens.folding import fold
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.stages import select_heads, tune_heads
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.helpers import FAMILIES, N_HEADS, N_LAYERS, draw_edit
from tests.test_rates import apart

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SELECTION, TUNING = SelectionConfig(epochs=1), TuningConfig(epochs=1)
HEADS = HeadSet([(2, 1), (1, 3)], n_layers=N_LAYERS, n_heads=N_HEADS)
METHODS = ("lofit", "random-heads", "iti", "repe-reading", "repe-contrast", "lorra", "lora", "ia3")
METHODS += ("red", "loreft", "bitfit", "jola", "probes/bias", "attribution/bias")


@contextmanager
def unchanged() -> Iterator[None]:
    """The same global states after the context as before."""
    before = torch.get_rng_state(), of_numpy()
    yield
    assert torch.equal(torch.get_rng_state(), before[0]), "torch"
    assert of_numpy() == before[1], "numpy"


def of_numpy() -> tuple[bytes, int]:
    state: Any = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return state["key"].tobytes(), state["pos"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_exporting(
    family: str, tiny_model: Callable[[str], TransformerBridge], tmp_path: Path
) -> None:
    model = tiny_model(family)
    edit = draw_edit(model)
    with unchanged():
        export_checkpoint(model, edit, tmp_path / "exported")


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_and_folding(family: str, tiny_folder: Callable[[str], Path]) -> None:
    folder = tiny_folder(family)
    with unchanged():
        model = load_model(folder, device="cpu")
    edit = draw_edit(model)
    with unchanged():
        folded = fold(model, edit)
        folded.undo()


WORK: dict[str, Callable[[Any, Any], object]] = {
    "select": lambda model, task: select_heads(model, task, SELECTION, progress=False),
    "tune": lambda model, task: tune_heads(model, task, HEADS, TUNING, progress=False),
    "evaluate": lambda model, task: evaluate(model, task, progress=False),
    "generate": lambda model, task: generate_greedily(model, [task.test[0].prompt]),
    "lofit": lambda model, task: lofit(
        model, task, k=2, selection=SELECTION, tuning=TUNING, random_draws=1, progress=False
    ),
    "transfer": lambda model, task: transfer_matrix(
        model, [task], k=2, selection=SELECTION, tuning=TUNING, progress=False
    ),
    "curves": lambda model, task: causal_curves(model, task, HEADS, draws=1, progress=False),
    "compare": lambda model, task: compare(
        model, [task], METHODS, settings=Settings(k=2, selection=SELECTION, tuning=TUNING),
        progress=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("work", WORK)
def test_work(work: str, llama: TransformerBridge) -> None:
    with unchanged():
        WORK[work](llama, apart())
