"""Which model this is: where it came from, and its fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lofit_lens.attention import key_value_heads
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.tokenizer import rule_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded" / "model"

BEFORE = "BOS in front of every text"
"""What is known of the tokenizer of results made before it was kept."""


def source_of(model: TransformerBridge) -> tuple[str, str | None]:
    """What to give `load_model` to load the model again, and its commit if it has one.

    Raises:
        LofitLensError: It was built in memory.
    """
    config: Any = model.original_model.config
    source = getattr(config, "_name_or_path", "")
    if not source:
        raise LofitLensError(
            "This model was built in memory. Save it as a folder and load it with `load_model` first."
        )
    return _known_as(source), getattr(config, "_commit_hash", None)


def _known_as(source: str) -> str:
    """The folder of the embedded model by its name: it lies elsewhere on every machine."""
    return EMBEDDED if source == str(EMBEDDED_FOLDER) else source


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a model for heads and interventions.

    Attributes:
        architecture: Class of the Hugging Face model.
        n_layers: Layers.
        n_heads: Query heads per layer.
        n_key_value_heads: Key/value heads per layer.
        d_head: Size of a head.
        d_model: Size of the residual stream.
        d_vocab: Size of the vocabulary.
        weights: SHA-256 over a sample of every parameter, rounded to bfloat16 so that one checkpoint
            loaded in float32 or bfloat16 agrees (in float16 it counts as another), and over the
            settings of rotary positions and attention windows.
        processed: Whether TransformerLens has processed the weights.
        name: Folder name or hub name, for people.
        revision: Commit on the hub, if known.
        tokenizer: What the tokenizer puts in front of a text, and which tokenizer it is; empty in
            what was made before this was kept, when every text had BOS in front.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_model: int
    d_vocab: int
    weights: str
    processed: bool
    name: str
    revision: str | None
    tokenizer: str = ""

    def differences(self, other: Fingerprint) -> list[str]:
        """What differs, as "field: this one, other one"; names and revisions do not count."""
        mine, theirs = (
            asdict(mark) | {"tokenizer": mark.tokenizer or BEFORE} for mark in (self, other)
        )
        early = BEFORE in (mine["tokenizer"], theirs["tokenizer"])
        if early and _puts_bos(self) == _puts_bos(other):
            del mine["tokenizer"]
        return [
            f"{key}: {mine[key]} here, {theirs[key]} there"
            for key in mine
            if key not in ("name", "revision") and mine[key] != theirs[key]
        ]


def _puts_bos(mark: Fingerprint) -> bool:
    """Whether texts have BOS in front; before the tokenizer was kept, all had."""
    lead, _, bos = mark.tokenizer.partition(" in front, BOS ")
    return not mark.tokenizer or bos.startswith(f"{lead},")


def fingerprint(model: TransformerBridge) -> Fingerprint:
    """The fingerprint of a loaded model."""
    cfg = model.cfg
    config: Any = model.original_model.config
    source = _known_as(getattr(config, "_name_or_path", "") or "")
    name = Path(source).name if Path(source).exists() else source
    return Fingerprint(
        architecture=str(cfg.architecture),
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_key_value_heads=key_value_heads(cfg),
        d_head=cfg.d_head,
        d_model=cfg.d_model,
        d_vocab=cfg.d_vocab,
        weights=_hash_weights(model),
        processed=weights_processed(model),
        name=name,
        revision=getattr(config, "_commit_hash", None),
        tokenizer=tokenizer_of(model),
    )


def tokenizer_of(model: TransformerBridge) -> str:
    """What the tokenizer of a model puts in front of a text, and which tokenizer it is."""
    return "none" if model.tokenizer is None else str(rule_of(model.tokenizer))


def check_same_model(model: TransformerBridge, made_for: Fingerprint, what: str) -> None:
    """Refuse to use something made for another model.

    Raises:
        ModelMismatchError: The fingerprints differ; the message says in what.
    """
    differences = fingerprint(model).differences(made_for)
    if differences:
        raise ModelMismatchError(
            f"{what} was made for the model {made_for.name!r}, this is another one:\n  "
            + "\n  ".join(differences)
            + "\nLoad the model it was made for, or learn it anew on this one."
        )


def weights_processed(model: TransformerBridge) -> bool:
    """Whether TransformerLens folded or centred weights of this bridge."""
    return bool(getattr(model, "_weights_processed", False))


def _hash_weights(model: TransformerBridge) -> str:
    digest = hashlib.sha256()
    hf_model: Any = model.original_model
    for setting in ("rope_parameters", "sliding_window", "layer_types"):
        digest.update(repr(getattr(hf_model.config, setting, None)).encode())
    for parameter in hf_model.parameters():
        if not parameter.is_meta:  # offloaded layers are not here to be read
            digest.update(_sample(parameter))
    return digest.hexdigest()


def _sample(weight: Tensor, size: int = 256) -> bytes:
    flat = weight.detach().flatten()
    stride = (flat.numel() // size) | 1  # odd, so that every column of a matrix is reached
    sample = flat[::stride][:size]
    return sample.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
