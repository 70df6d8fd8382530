"""Calling linear layers of a bridge through modules of the library `peft`."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from lofit_lens.attention import heads_of
from lofit_lens.errors import UnsupportedError
from lofit_lens.grid import headless
from lofit_lens.randomness import random_state_kept

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformer_lens.model_bridge import TransformerBridge


def places_of(
    model: TransformerBridge, projections: Sequence[str], *, up_to: int | None = None
) -> list[str]:
    """TransformerLens names of some linear layers of every block, as `blocks.0.attn.q`.

    Those of attention are named where there are heads.

    Args:
        model: A bridge.
        projections: Names inside a block.
        up_to: The last block; default: of the model.

    Raises:
        UnsupportedError: There are none.
    """
    grid = heads_of(model)
    last = grid.n_layers - 1 if up_to is None else up_to
    found = [
        f"blocks.{layer}.{name}"
        for layer in range(last + 1)
        for name in projections
        if layer in grid.layers or not name.startswith("attn.")
    ]
    if not found:
        raise UnsupportedError(
            f"This model has {headless(grid.without)}, so none of its layers up to {last} has "
            f"{' or '.join(projections)}. Choose a higher target layer."
        )
    return found


def linear(model: TransformerBridge, place: str) -> torch.nn.Module:
    """The linear layer behind a TransformerLens name such as `blocks.0.attn.q`.

    Raises:
        UnsupportedError: There is none.
    """
    try:
        component: Any = model.get_submodule(place)
        layer = component.original_component
    except AttributeError:
        layer = None
    if not isinstance(layer, torch.nn.Linear | Conv1D):
        raise UnsupportedError(
            f"{model.cfg.architecture} has no linear layer {place}, so an adapter cannot be put there. "
            "Choose other projections, or an edit of head outputs."
        )
    return layer


def check_called(model: TransformerBridge, layers: Mapping[str, torch.nn.Module]) -> None:
    """Refuse layers that a forward pass does not call, because it calls a fused one.

    Raises:
        UnsupportedError: A layer is not called exactly once.
    """
    calls: Counter[str] = Counter()

    def counted(place: str, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        calls[place] += 1
        return plain(x)

    with ExitStack() as stack, torch.no_grad():
        for place, layer in layers.items():
            counting = partial(counted, place, layer.forward)
            stack.enter_context(patch.object(layer, "forward", counting))
        model(torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device))
    odd = [place for place in layers if calls[place] != 1]
    if odd:
        raise UnsupportedError(
            f"{model.cfg.architecture} does not call {', '.join(odd[:3])} once in a forward pass, so an "
            "adapter there would not do what it says. Choose other projections."
        )


@random_state_kept()
def wrapped(
    peft_config: PeftConfig,
    layers: Mapping[str, torch.nn.Module],
    weights: Mapping[str, Tensor] | None = None,
) -> torch.nn.Module:
    """A tree of `peft`'s modules around twins of some layers.

    Args:
        peft_config: What to make them of; its `target_modules` match the names of the layers.
        layers: Linear layers by TransformerLens name; they stay as they are.
        weights: The adapter's numbers. They become the parameters of the modules without a copy,
            so that they can be trained. None draws them from the global random state.
    """
    import peft

    tree = torch.nn.Module()
    for place, layer in layers.items():
        *parents, leaf = place.split(".")
        node = tree
        for name in parents:
            if name not in dict(node.named_children()):
                node.add_module(name, torch.nn.Module())
            node = node.get_submodule(name)
        # a shallow copy shares the weights, and computes what the layer computed before this edit
        node.add_module(leaf, copy.copy(layer))
    peft_config = copy.deepcopy(peft_config)
    peft_config.inference_mode = weights is not None and not trainable(weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # peft sets it right
        warnings.filterwarnings(
            "ignore", "Detected that the base layer has no bias"
        )  # BEFT adds it
        peft.inject_adapter_in_model(peft_config, tree, low_cpu_mem_usage=weights is not None)
    if weights is not None:
        placed = {
            name: weight.to(next(layer.parameters()).device)
            for place, layer in layers.items()
            for name, weight in weights.items()
            if name.startswith(f"{place}.")
        }
        peft.set_peft_model_state_dict(tree, placed, low_cpu_mem_usage=True)
        lacking = [name for name, parameter in tree.named_parameters() if parameter.is_meta]
        if lacking:
            raise ValueError(f"there are no numbers for {', '.join(lacking[:3])}")
    return tree


def trainable(weights: Mapping[str, Tensor]) -> bool:
    """Whether an adapter is in training."""
    return any(weight.requires_grad for weight in weights.values())


@contextmanager
def calling_through(
    layers: Mapping[str, torch.nn.Module], tree: torch.nn.Module, *, learning: bool
) -> Iterator[None]:
    """Compute each layer by the module of its name in `tree`, inside the context.

    Args:
        layers: Linear layers by TransformerLens name.
        tree: What `wrapped` made of them.
        learning: Whether dropout works where gradients are computed; elsewhere it never does.
    """

    def call(module: torch.nn.Module, x: Tensor) -> Tensor:
        module.train(learning and torch.is_grad_enabled())
        return module(x)

    with ExitStack() as stack:
        for place, layer in layers.items():
            through = partial(call, tree.get_submodule(place))
            stack.enter_context(patch.object(layer, "forward", through))
        yield
