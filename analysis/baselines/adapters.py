"""Weight adapters of the library `peft` as edits: LoRA, (IA)3 and others that wrap linear layers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lofit_lens.analysis.baselines.wrapping import (
    calling_through,
    check_called,
    linear,
    trainable,
    wrapped,
)
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json
from lofit_lens.identity import check_same_model
from lofit_lens.provenance import Provenance
from lofit_lens.randomness import random_state_kept

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformer_lens.model_bridge import TransformerBridge

ADAPTER_SCHEMA = 1
TENSORS = "adapter.safetensors"
DESCRIPTION = "adapter.json"


@dataclass(frozen=True, eq=False)
class AdapterEdit:
    """An adapter of `peft` around some linear layers of a model, at every position.

    The layers are called through `peft`'s own modules for the time of a context. Names, parameters
    and fingerprint of the model stay as they are, so other edits can be applied inside it.

    Attributes:
        peft_config: What `peft` makes the modules of.
        places: The wrapped layers by their TransformerLens names, such as `blocks.0.attn.q`.
        weights: The adapter's numbers by name, as `peft.get_peft_model_state_dict` gives them.
        provenance: How it was learned, if it was.
    """

    peft_config: PeftConfig
    places: tuple[str, ...]
    weights: Mapping[str, Tensor]
    provenance: Provenance | None = field(default=None, repr=False)

    needs_whole_texts = False

    @property
    def n_parameters(self) -> int:
        """Numbers of the adapter."""
        return sum(weight.numel() for weight in self.weights.values())

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[None]:
        """Edit every forward pass of `model` inside the context; contexts nest.

        Raises:
            ModelMismatchError: It was learned on another model.
            UnsupportedError: The model has no such layers.
        """
        if self.provenance is not None:
            check_same_model(model, self.provenance.fingerprint, "The adapter")
        layers = {place: linear(model, place) for place in self.places}
        modules = wrapped(self.peft_config, layers, self.weights)
        with calling_through(layers, modules, learning=trainable(self.weights)):
            yield

    def save(self, folder: str | Path) -> Path:
        """Write the adapter as `adapter.safetensors` and `adapter.json`.

        Args:
            folder: Made if missing; an adapter in it is replaced.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DESCRIPTION).unlink(missing_ok=True)  # never numbers beside another description
        numbers = {name: w.detach().cpu().contiguous() for name, w in self.weights.items()}
        save_file(numbers, folder / TENSORS)
        content = {
            "schema": ADAPTER_SCHEMA,
            "peft": self.peft_config.to_dict(),
            "places": self.places,
            "provenance": self.provenance.to_json() if self.provenance else None,
        }
        text = json.dumps(content, ensure_ascii=False, default=sorted)  # peft keeps sets of names
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, model: TransformerBridge | None = None) -> AdapterEdit:
        """Read what `save` wrote, and refuse it if it was learned on another model than `model`.

        Raises:
            ModelMismatchError: It was learned on another model; the message says what differs.
            LofitLensError: The folder holds no adapter, or a damaged one.
        """
        import peft

        folder = Path(folder)
        content = read_json(folder / DESCRIPTION, schema=ADAPTER_SCHEMA, what="adapter")
        try:
            origin = content["provenance"]
            adapter = cls(
                peft.get_peft_config(content["peft"]),
                tuple(content["places"]),
                load_file(folder / TENSORS),
                Provenance.from_json(origin) if origin else None,
            )
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise LofitLensError(f"The adapter in {folder} is damaged: {error}.") from error
        if model is not None and adapter.provenance is not None:
            check_same_model(model, adapter.provenance.fingerprint, f"The adapter in {folder}")
        return adapter

    def __repr__(self) -> str:
        return (
            f"AdapterEdit({kind_of(self.peft_config)} on {len(self.places)} linear layers, "
            f"{self.n_parameters} parameters)"
        )


def kind_of(peft_config: PeftConfig) -> str:
    """The adapter's name in small letters, such as "lora"."""
    return type(peft_config).__name__.removesuffix("Config").lower()


def new_adapter(
    model: TransformerBridge, peft_config: PeftConfig, places: Sequence[str], *, seed: int
) -> AdapterEdit:
    """An adapter to be trained: its weights are parameters, as `peft` initialises them.

    Args:
        model: A frozen bridge.
        peft_config: Its `target_modules` match `places`.
        places: Linear layers by their TransformerLens names, such as `blocks.0.attn.q`.
        seed: Seed of the initial weights; the global state is untouched.

    Raises:
        UnsupportedError: The model has no such layer, or does not call it in a forward pass.
    """
    import peft

    layers = {place: linear(model, place) for place in places}
    check_called(model, layers)
    with random_state_kept():
        torch.manual_seed(seed)
        drawn = peft.get_peft_model_state_dict(wrapped(peft_config, layers))
    weights = {name: torch.nn.Parameter(w.detach().float().clone()) for name, w in drawn.items()}
    return AdapterEdit(peft_config, tuple(places), weights)
