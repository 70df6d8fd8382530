"""GGUF files: dequantised by Transformers into a plain model, with the tokenizer of the file."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lofit_lens.errors import LofitLensError
from lofit_lens.loading.rope import set_rope

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GGUF = ".gguf"
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def gguf_in(folder: Path) -> Path | None:
    """The one GGUF file of a folder, or None if it has none.

    Raises:
        LofitLensError: It has several.
    """
    if not folder.is_dir():
        return None
    files = sorted(folder.glob(f"*{GGUF}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise LofitLensError(
            f"{folder} holds {len(files)} GGUF files: {names}. Name one of them, as "
            f"{folder / files[0].name}."
        )
    return files[0].resolve() if files else None


def split_source(source: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` of Transformers takes for a model: where it lies, and the file there.

    Args:
        source: A folder, a name on the hub, or either with a GGUF file behind it.
    """
    if not source.endswith(GGUF):
        return source, {}
    folder, _, file = source.replace("\\", "/").rpartition("/")
    return folder, {"gguf_file": file}


def check_gguf(source: str) -> None:
    """Refuse a GGUF file that cannot be read, before any work; other sources pass.

    Raises:
        LofitLensError: The package is missing, or the file is one part of several.
    """
    if not source.endswith(GGUF):
        return
    if find_spec("gguf") is None:
        raise LofitLensError(
            f'{source} is a GGUF file; reading it needs a package: pip install "lofit-lens[gguf]".'
        )
    if _PART.search(Path(source).stem):
        raise LofitLensError(
            f"{source} is one part of a model in several files. Join them first: "
            "llama-gguf-split --merge FIRST_PART OUT.gguf."
        )


def read_gguf(
    source: str, config: Any, *, revision: str | None, dtype: torch.dtype, **placement: Any
) -> Any:
    """The model of a GGUF file as Transformers holds it, its weights as plain tensors.

    Args:
        source: The file.
        config: Its configuration, as `family_of` gives it.
        revision: Branch, tag or commit, for a file on the hub.
        dtype: Weights' type.
        placement: `device_map` and `max_memory` of Transformers.

    Raises:
        LofitLensError: Transformers would read its rotary positions as others than they are.
    """
    import transformers
    from transformers.utils.hub import cached_file

    folder, file = split_source(source)
    path = cached_file(folder, file["gguf_file"], revision=revision)
    assert path is not None
    set_rope(config, path)
    whole = {}
    if hasattr(transformers, "GgufConfig"):  # newer versions can keep the weights packed
        whole["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, revision=revision, dtype=dtype, **file, **whole, **placement
    )
    return _as_plain(model, source)


def _as_plain(model: PreTrainedModel, source: str) -> PreTrainedModel:
    """Without the marks of a quantised model: nothing in it is quantised any more."""
    config: Any = model.config
    for mark in ("quantization_config", "_model_name_or_path"):
        config.__dict__.pop(mark, None)
    config._name_or_path = source
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(mark, None)
    return model
