"""Whether a loaded model can be used here, tried before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lofit_lens.attention import heads_of, z_hooks, z_widths
from lofit_lens.errors import UnsupportedError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


UNKNOWN = ("Could not determine supported architecture", "Unsupported architecture")
"""How TransformerLens begins to say that it does not know a family."""


@contextmanager
def known_family(config: Any) -> Iterator[None]:
    """Say by name that TransformerLens does not know a family, or stumbles over it.

    Args:
        config: The configuration of the model that is looked at inside the context.

    Raises:
        UnsupportedError: One of the two.
    """
    ours = f"TransformerLens {version('transformer-lens')}"
    name = ", ".join(config.architectures or ()) or type(config).__name__
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(UNKNOWN):  # it goes on with a list of all that it knows
            raise
        raise UnsupportedError(
            f"{ours} does not know {name}, so there are no hook points to edit its heads at. Take a "
            "model of a family that it knows, such as Llama, Qwen or Gemma."
        ) from None
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UnsupportedError(
            f"{ours} cannot load {name} ({type(error).__name__}: {error}). "
            "Take a model of another family, or a TransformerLens that loads this one."
        ) from error


def check_usable(model: TransformerBridge) -> TransformerBridge:
    """Refuse a model whose heads cannot be edited, after a forward pass of six tokens.

    Raises:
        UnsupportedError: It has no attention heads, TransformerLens cannot run it, its `hook_z` is
            not the output of every head, or its tokens see those that follow.
    """
    heads_of(model)
    name, seen = model.cfg.architecture, {}

    def look(layer: int):
        return lambda z, hook=None: seen.update({layer: tuple(z.shape[2:])})  # noqa: ARG005

    tokens = torch.tensor([[1, 2, 3], [1, 2, 4]], device=model.cfg.device) % model.cfg.d_vocab
    try:
        with torch.no_grad(), model.hooks(fwd_hooks=z_hooks(model, look)):
            logits: Tensor = model(tokens, attention_mask=torch.ones_like(tokens))
    except Exception as error:
        if "out of memory" in str(error):
            raise
        raise UnsupportedError(
            f"TransformerLens loads {name}, but a forward pass of three tokens fails: "
            f"{type(error).__name__}: {error} Take a model of another family, or a TransformerLens that "
            "runs this one."
        ) from error
    wanted = {i: (model.cfg.n_heads, width) for i, width in enumerate(z_widths(model)) if width}
    if seen != wanted:
        odd = next(layer for layer in wanted if seen.get(layer) != wanted[layer])
        raise UnsupportedError(
            f"hook_z of layer {odd} of {name} should hold {wanted[odd]} (heads, width) and holds "
            f"{seen.get(odd, 'nothing')}, so heads cannot be told apart. Take a model of another family."
        )
    first, second = logits[:, :2]
    if not torch.allclose(first, second, rtol=1e-2, atol=1e-2 * float(first.abs().max())):
        raise UnsupportedError(
            f"In {name} a token sees those that follow it, so it does not predict them. LoFiT edits "
            "decoders; load one such as Llama or Qwen."
        )
    return model
