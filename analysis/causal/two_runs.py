"""Two runs in place of one: a forward pass that takes the outputs of some heads from another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from lofit_lens.analysis.baselines.contrast_streams import ContrastStreams
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import UnsupportedError
from lofit_lens.fast.in_force import edited

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.causal.patching import PatchIntervention


class TwoRuns:
    """The `forward` of a Hugging Face model, which runs the donor first.

    Both runs go through the model's `__call__` again, so that edits which hook the model as a
    whole work in them.

    Args:
        model: The model.
        patch: Which heads' z the second run gets from the first, and the edits of both.
    """

    def __init__(self, model: TransformerBridge, patch: PatchIntervention) -> None:
        self._model, self._patch = model, patch
        self._hf: Any = model.original_model
        self._plain: Callable[..., Any] = self._hf.forward
        self._inside = self._begun = False
        self._z: dict[int, Tensor] = {}
        update_wrapper(self, self._plain)  # callers look at the signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the second run."""
        if self._inside:
            return self._plain(*args, **kwargs)
        self._check(kwargs)
        alone = {k: v for k, v in kwargs.items() if k != "past_key_values"} | {"use_cache": False}
        self._inside = True
        try:
            with torch.no_grad(), suppress(StopAtLayerException):
                self._run(self._patch.donor, self._take, args, alone)
            return self._run(self._patch.base, self._put, args, kwargs)
        finally:
            self._inside = False

    def _run(
        self,
        edit: Edit | None,
        hook: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One pass under an edit; the hooks come behind those of the edit."""
        hooks = [(f"blocks.{i}.attn.hook_z", partial(hook, i)) for i in self._patch.heads.layers()]
        with edited(self._model, edit), self._model.hooks(fwd_hooks=hooks):
            self._begun = False
            handle = self._hf.register_forward_pre_hook(self._begin)
            try:
                return self._hf(*args, **kwargs)
            finally:
                handle.remove()

    def _begin(self, _module: Any, _args: Any) -> None:
        """Passes that an edit runs on its own account, before the text's, are over."""
        self._begun = True

    def _take(self, layer: int, z: Tensor, hook: object = None) -> Tensor:  # noqa: ARG002
        self._z[layer] = z
        return z

    def _put(self, layer: int, z: Tensor, hook: object = None) -> Tensor:  # noqa: ARG002
        if not self._begun:
            return z
        heads = [head for _, head in self._patch.heads.in_layer(layer)]
        index = torch.tensor(heads, device=z.device)
        return z.index_copy(-2, index, self._z.pop(layer).index_select(-2, index))

    def _check(self, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            raise UnsupportedError(
                "Patching runs each text whole, and this forward pass comes with a key/value cache. "
                "Pass all tokens at once; generate with `model.generate`, or with "
                "use_past_kv_cache=False and use_cache=False."
            )
        hooks = self._hf._forward_pre_hooks.values()
        if any(isinstance(getattr(hook, "__self__", None), ContrastStreams) for hook in hooks):
            raise UnsupportedError(
                "A contrast vector is in force around the patch, or inside it; the patch cannot tell "
                "its streams from the text. Give the contrast vector as donor or base instead."
            )
