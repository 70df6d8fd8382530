"""Weight adapters of the library `peft` as edits: LoRA, (IA)3 and others that wrap linear layers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lofit_lens.analysis.baselines.wrapping import (
    calling_through,
    check_called,
    linear,
    trainable,
    wrapped,
)
from lofit_lens.documents import typed
from lofit_lens.edits.base import BaseEdit
from lofit_lens.errors import LofitLensError
from lofit_lens.positions import TokenScope
from lofit_lens.provenance import Provenance, unmeasured
from lofit_lens.randomness import random_state_kept

if TYPE_CHECKING:
    from typing import Self

    from peft import PeftConfig
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class _Written:
    """What is beside the numbers of an adapter in its file."""

    peft: Mapping[str, Any]
    places: tuple[str, ...]
    provenance: Provenance | None


@dataclass(frozen=True, eq=False)
class AdapterEdit(BaseEdit):
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

    noun = "adapter"

    @property
    def scope(self) -> TokenScope:
        """All positions, as weights have no others."""
        return "all"

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
            LofitLensError: `peft` can make no modules around them of this configuration and these numbers.
        """
        self.check_model(model)
        layers = {place: linear(model, place) for place in self.places}
        try:
            modules = wrapped(self.peft_config, layers, self.weights)
        except (
            AttributeError,
            ImportError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise LofitLensError(
                f"peft cannot put {self!r} on this model: {error!r}. Its file may be damaged, or of another "
                "version of peft."
            ) from error
        with calling_through(layers, modules, learning=trainable(self.weights)):
            yield

    def __mul__(self, strength: float) -> AdapterEdit:
        """The adapter with its change of each layer multiplied: `strength * edit`.

        LoRA's change is `B A x`, of which B is multiplied; the factors of (IA)3 change a layer by what
        they differ from one.

        Raises:
            LofitLensError: The change of this kind of adapter is not linear in numbers known here.
        """
        kind = kind_of(self.peft_config)
        if kind == "lora":
            numbers = {n: w * strength if ".lora_B." in n else w for n, w in self.weights.items()}
        elif kind == "ia3":
            numbers = {name: 1 + strength * (w - 1) for name, w in self.weights.items()}
        elif kind == "beft":
            numbers = {name: strength * w for name, w in self.weights.items()}
        else:
            raise LofitLensError(f"{self!r} cannot be multiplied: only LoRA, (IA)3 and BEFT can.")
        return replace(self, weights=numbers, provenance=unmeasured(self.provenance))

    __rmul__ = __mul__

    def learned(self, provenance: Provenance) -> AdapterEdit:
        """The adapter as training leaves it: a copy of its numbers on the CPU, and where they are from."""
        numbers = {name: w.detach().cpu().clone() for name, w in self.weights.items()}
        return replace(self, weights=numbers, provenance=provenance)

    def to_parts(self) -> dict[str, Any]:
        """What `peft` makes the modules of, as JSON, and the weights by their names."""
        config = json.dumps(self.peft_config.to_dict(), default=sorted)  # peft keeps sets of names
        parts = {"peft": json.loads(config), "places": self.places, "provenance": self.provenance}
        return {**parts, **self.weights}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The adapter made of what `to_parts` gave."""
        import peft

        weights = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
        told = {f.name: parts[f.name] for f in fields(_Written) if f.name in parts}
        found = typed(told, _Written)
        variants = [
            name for name, value in found.peft.items() if name.endswith("_config") and value
        ]
        if variants:
            raise LofitLensError(f"adapters with a {variants[0]} cannot be read (`$.peft`)")
        try:
            config = peft.get_peft_config(dict(found.peft))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LofitLensError(f"peft makes no adapter of `$.peft`: {error!r}") from error
        return cls(config, found.places, weights, found.provenance)

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
