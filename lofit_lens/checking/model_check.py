"""What a model is and what can be done with it: `check_model`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lofit_lens.checking.blank import Shape, shape_of, shape_of_loaded
from lofit_lens.checking.memory import MemoryNeed, memory_needed
from lofit_lens.checking.servers import Reading, servers_of
from lofit_lens.errors import UnsupportedError, check_whole
from lofit_lens.fast.memory import free_memory
from lofit_lens.fast.trial import Trial, try_shortcuts
from lofit_lens.loading.boot import told_in_a_line
from lofit_lens.loading.find import find_model, has_weights
from lofit_lens.loading.hub import folder_of, on_hub
from lofit_lens.model import DtypeName, load_model, placed
from lofit_lens.tokenizer import load_tokenizer, rule_of
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

LENGTH = 512
"""Tokens of a text, where the context allows that many."""


@dataclass(frozen=True)
class TokenizerCheck:
    """What the tokenizer of a model does.

    Attributes:
        lead: Tokens it puts in front of every text, as text.
        bos: Its BOS, whether or not it puts that in front; None if it has none.
        eos: Its EOS.
        ends: Tokens that end a generation; empty if the model was not loaded.
        template: The beginning of a SHA-256 over its chat template, or None without one.
    """

    lead: tuple[str, ...]
    bos: str | None
    eos: str | None
    ends: tuple[str, ...]
    template: str | None


@dataclass(frozen=True)
class ModelCheck:
    """What a model is, what it needs, and what can be done with it.

    Attributes:
        model: What was asked for.
        shape: Family, layers, heads, widths, parameters.
        dtype: Weights' type.
        device: Where it would be, or was, loaded.
        batch_size: Texts in a forward pass of scoring.
        length: Tokens of a text.
        memory: Estimated bytes for each kind of work.
        free: Bytes that are free on the device.
        tokenizer: What the tokenizer does; None without one.
        direct: The attention with which the modules of Hugging Face give the same as the bridge, on
            this device and in this type; None if the bridge itself runs, or nothing was tried.
        shares: Whether texts that begin alike share keys and values.
        not_loaded: Why it was not loaded and tried, or None if it was.
        servers: What servers do with the output bias of an exported edit.
    """

    model: str
    shape: Shape
    dtype: str
    device: str
    batch_size: int
    length: int
    memory: MemoryNeed
    free: int
    tokenizer: TokenizerCheck | None
    direct: str | None
    shares: bool
    not_loaded: str | None
    servers: dict[str, Reading] = field(default_factory=dict)

    @property
    def loaded(self) -> bool:
        """Whether the model was loaded and tried."""
        return self.not_loaded is None

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        content: dict[str, Any] = {**asdict(self), "loaded": self.loaded}
        content["shape"]["heads"] |= {"total": self.shape.heads.total}
        return content

    def rows(self) -> list[tuple[str, str]]:
        """Everything as pairs of a title and a text, in reading order."""
        from lofit_lens.checking.told import told

        return told(self)

    def frame(self) -> pd.DataFrame:
        """The same as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=["", "found"])

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"{title:<{width}}  {text}" for title, text in rows)


def check_model(
    name_or_folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: DtypeName | torch.dtype | None = None,
    revision: str | None = None,
    batch_size: int = 32,
    length: int | None = None,
) -> ModelCheck:
    """Find out what can be done with a model, before an evening is spent on it.

    Its shape is read from the configuration alone. Where its weights are there and fit into what is
    free, it is loaded too, and the fast paths are tried.

    Args:
        name_or_folder: As `load_model` takes it, or a folder with a `config.json` and no weights.
        device: As `load_model` takes it.
        dtype: As `load_model` takes it.
        revision: Branch, tag or commit on the hub.
        batch_size: Texts in a forward pass of scoring.
        length: Tokens of a text. Default: 512, or the context if that is shorter.

    Raises:
        UnsupportedError: TransformerLens does not know the family, or the model has no heads.
        LofitLensError: The model cannot be found or read.

    Examples:
        >>> check_model("HuggingFaceTB/SmolLM2-135M-Instruct").shape.heads  # doctest: +SKIP
        HeadGrid(n_layers=30, n_heads=9, without=())
    """
    place, kind = placed(device, dtype)
    on = torch.device(place.device or "cuda")
    source = find_model(name_or_folder)
    with on_hub(source, revision) as commit, told_in_a_line(str(name_or_folder), None):
        shape = shape_of(source, commit or revision)
        tokenizer = load_tokenizer(source, revision=commit or revision)
    free = free_memory(on)
    weights = shape.sizes.parameters * kind.itemsize if shape else 0
    why_not = _why_not_loaded(folder_of(source, commit or revision), weights, free)
    model = None
    if why_not is None:
        model = load_model(name_or_folder, device=device, dtype=dtype, revision=commit or revision)
        shape = shape or shape_of_loaded(model)
    if shape is None:
        raise UnsupportedError(
            f"The shape of {name_or_folder} cannot be read from its configuration alone, because "
            f"the family looks at numbers when it is built, and it was not loaded: {why_not}."
        )
    length = length or min(LENGTH, shape.n_ctx)
    check_whole("batch_size", batch_size, 1)
    check_whole("length", length, 1, shape.n_ctx)
    trial = try_shortcuts(model) if model is not None else Trial()
    return ModelCheck(
        model=str(name_or_folder),
        shape=shape,
        dtype=str(kind).removeprefix("torch."),
        device=str(on),
        batch_size=batch_size,
        length=length,
        memory=memory_needed(
            shape.sizes, batch_size=batch_size, length=length, bytes_each=kind.itemsize
        ),
        free=free,
        tokenizer=_look_at(tokenizer, model),
        direct=trial.attention,
        shares=trial.shares,
        not_loaded=why_not,
        servers=servers_of(shape.exported_as) if shape.exported_as else {},
    )


def _why_not_loaded(folder: Path | None, weights: int, free: int) -> str | None:
    """Why a model is not loaded, or None if it can be; nothing is fetched for it."""
    if folder is not None and not has_weights(folder):
        return "its weights are not there"
    if weights > 0.9 * free:
        return f"its weights take {weights / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
    return None


def _look_at(tokenizer: Any, model: TransformerBridge | None) -> TokenizerCheck | None:
    if tokenizer is None:
        return None
    rule = rule_of(tokenizer)
    ends = Encoder(model).ends if model is not None else ()
    template = getattr(tokenizer, "chat_template", None)
    return TokenizerCheck(
        lead=tuple(tokenizer.convert_ids_to_tokens(list(rule.lead))),
        bos=tokenizer.bos_token,
        eos=tokenizer.eos_token,
        ends=tuple(tokenizer.convert_ids_to_tokens(list(ends))),
        template=hashlib.sha256(repr(template).encode()).hexdigest()[:12] if template else None,
    )
