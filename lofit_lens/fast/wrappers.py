"""The wrappers that a bridge puts around every module: who listens to them, and doing without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lofit_lens.attention import z_width
from lofit_lens.fast.switches import taken
from lofit_lens.identity import weights_processed
from lofit_lens.positions import is_tracked

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_PLUMBING = (
    "transformer_lens.model_bridge.generalized_components.block",
    "transformers.utils.output_capturing",
    "lofit_lens.positions",
)
"""Modules whose own hooks change no activation, as long as the settings below are off."""

_MARK = "only_counts"
"""Attribute of a hook that looks at nothing but shapes."""

SMALL = 16
"""Size of a head below which eager attention is the faster one on a CPU."""

_FORKS = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
"""Settings under which TransformerLens computes by a way of its own."""


@contextmanager
def without_wrappers(model: TransformerBridge, attention: str | None) -> Iterator[bool]:
    """Run the Hugging Face modules themselves inside the context, wherever nothing listens.

    A bridge wraps every module of the model in one with hook points, and computes attention step
    by step. Here each wrapper without a listener, itself or inside, is replaced by the module that
    it wraps, and attention by one of Hugging Face's. Hooks that are there work as before; hooks
    added inside the context may not be called.

    Args:
        model: A bridge.
        attention: What `try_shortcuts` found to give the same as the bridge; None if nothing does.

    Yields:
        Whether this was done. It is not without such an attention, if the switch `direct` is off,
        TransformerLens has processed the weights or has a setting that asks for another
        computation, or something listens to the whole model.
    """
    if attention is None or not taken().direct or not _plain_native(model):
        yield False
        return
    config: Any = model.original_model.config
    before = config._attn_implementation, config.output_attentions
    passed = list(_unheard(model))
    try:
        for parent, name, wrapper in passed:
            parent._modules[name] = wrapper.original_component
        config.output_attentions = False
        if not any(hasattr(module, "hook_pattern") for module in model.original_model.modules()):
            config._attn_implementation = attention
        yield True
    finally:
        for parent, name, wrapper in passed:
            parent._modules[name] = wrapper
        config._attn_implementation, config.output_attentions = before


def fastest_attention(model: TransformerBridge) -> str:
    """PyTorch's, where the family supports it, caps no scores and it pays; else the eager one."""
    hf_model: Any = model.original_model
    capped = getattr(hf_model.config.get_text_config(), "attn_logit_softcapping", None)
    small = z_width(model) < SMALL and next(hf_model.parameters()).device.type == "cpu"
    return "sdpa" if hf_model._supports_sdpa and capped is None and not small else "eager"


def nobody_listens(model: TransformerBridge) -> bool:
    """Whether no edit and no hook that may look at activations is in force on a model."""
    modules = {*model.modules(), *model.original_model.modules()}
    return not is_tracked(model) and not any(map(listens, modules))


def listens(module: nn.Module) -> bool:
    """Whether something watches or changes what a module computes."""
    hooks = (
        *module._forward_hooks.values(),
        *module._forward_pre_hooks.values(),
        *module._backward_hooks.values(),
        *module._backward_pre_hooks.values(),
    )
    return _replaced(module) or any(heeds(hook) for hook in hooks)


def _replaced(module: nn.Module) -> bool:
    """Whether a module computes something else, other than to be placed on devices by accelerate."""
    forward = module.__dict__.get("forward")
    placing = getattr(getattr(forward, "func", None), "__module__", None) == "accelerate.hooks"
    return forward is not None and not placing


def heeds(hook: Any) -> bool:
    """Whether a hook of a module may look at, or change, what it computes."""
    return getattr(hook, "__module__", "") not in _PLUMBING and not getattr(hook, _MARK, False)


def only_counts(hook: Callable[..., None]) -> Callable[..., None]:
    """Mark a hook that looks at nothing but shapes, so that no work is done again for it."""
    setattr(hook, _MARK, True)
    return hook


def _plain_native(model: TransformerBridge) -> bool:
    if weights_processed(model) or getattr(model, "compatibility_mode", False):
        return False
    if listens(model) or _replaced(model.original_model):
        return False
    return not any(getattr(model.cfg, setting, False) for setting in _FORKS)


def _unheard(model: TransformerBridge) -> Iterator[tuple[nn.Module, str, Any]]:
    """Wrappers that can be passed, with the module they lie in and their name there."""
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    for parent in list(model.original_model.modules()):
        if isinstance(parent, GeneralizedComponent):
            continue
        for name, child in parent.named_children():
            if isinstance(child, GeneralizedComponent) and _silent(child):
                yield parent, name, child


def _silent(wrapper: Any) -> bool:
    """Whether nothing listens to what only the wrapper has, and its own weights are unchanged."""
    inside = set(wrapper.original_component.modules())
    if any(listens(module) for module in wrapper.modules() if module not in inside):
        return False
    split = getattr(wrapper, "split_qkv_matrix", None)
    return split is None or _as_split(wrapper, split(wrapper.original_component))


def _as_split(wrapper: Any, fused: tuple[nn.Module, ...]) -> bool:
    """Whether the query, key and value weights of a wrapper are still those of the fused ones."""
    return all(
        torch.equal(mine, theirs)
        for own, part in zip((wrapper.q, wrapper.k, wrapper.v), fused, strict=True)
        for mine, theirs in zip(own.original_component.parameters(), part.parameters(), strict=True)
    )
