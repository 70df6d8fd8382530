from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model of a family, made once."""
    from tests.helpers import save_tiny_model

    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        path = root / family
        return path if path.exists() else save_tiny_model(family, path)

    return folder


@pytest.fixture
def tiny_model(tiny_folder: Callable[[str], Path]) -> Callable[[str], TransformerBridge]:
    """A tiny random model of a family, loaded anew."""
    from lofit_lens.model import load_model

    return lambda family: load_model(tiny_folder(family), device="cpu")


@pytest.fixture
def llama(tiny_model: Callable[[str], TransformerBridge]) -> TransformerBridge:
    return tiny_model("llama")


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random chat model with a template of `tests.chats`, made once."""
    from tests.chats import save_chat_model

    root = tmp_path_factory.mktemp("chats")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else save_chat_model(name, path)

    return folder


@pytest.fixture
def chat_model(chat_folder: Callable[[str], Path]) -> Callable[[str], TransformerBridge]:
    """A tiny random chat model, loaded anew."""
    from lofit_lens.model import load_model

    return lambda name: load_model(chat_folder(name), device="cpu")


def _folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} does not name a folder; the real files are not here")
    return Path(value)


@pytest.fixture
def data_dir() -> Path:
    """The folder of the real task files."""
    return _folder_from("LOFIT_LENS_DATA")


@pytest.fixture
def models_dir() -> Path:
    """The folder of the small real models."""
    return _folder_from("LOFIT_LENS_MODELS")


@pytest.fixture
def real_model() -> Callable[[str], Path]:
    """The folder of a real language model, SmolLM2 or Gemma 3, by its name."""

    def folder(name: str) -> Path:
        found = _folder_from("LOFIT_LENS_REAL_MODELS") / name
        if not found.is_dir():
            pytest.skip(f"{name} is not in {found.parent}; `make models` fetches it")
        return found

    return folder


@pytest.fixture
def smollm2(real_model: Callable[[str], Path]) -> Path:
    """The folder of SmolLM2, a chat model."""
    return real_model("SmolLM2-135M-Instruct")


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The edits under which experiments score the model."""
    from lofit_lens.scoring.evaluate import evaluate

    edits: list[Any] = []

    def counted(model: Any, task: Any, edit: Any = None, **options: Any) -> Any:
        edits.append(edit)
        return evaluate(model, task, edit, **options)

    monkeypatch.setattr("lofit_lens.analysis.study.score.evaluate", counted)
    return edits
