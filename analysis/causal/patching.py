"""Patching: heads give in one run of a text what they give in another run of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from lofit_lens.analysis.baselines.contrast_streams import ContrastStreams
from lofit_lens.analysis.causal.stacking import shared_provenance
from lofit_lens.attention import check_head_shape
from lofit_lens.edits.base import BaseEdit
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.fast.in_force import edited
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import Provenance

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class PatchIntervention(BaseEdit):
    """Some heads give, at every position, what they give in another run on the same tokens.

    Each forward pass becomes two: a run under `donor`, and one under `base` in which `hook_z` of
    the heads is replaced by its values in the first (activation patching; Vig et al., 2020;
    Heimersheim and Nanda, 2024). What lies behind the heads reads the values put in, so other
    heads answer to them. `donor=edit` asks which heads suffice for what an edit does, `base=edit`
    with no donor for which of them it needs.

    It has the last word on its heads: edits in other contexts are in force in both runs, and what
    they do to these heads in the second is overruled. Hook functions of others see both runs, the
    donor's first. Texts pass the model whole: `model.generate` does without a key/value cache.

    Attributes:
        heads: The heads; with none, the model under `base`.
        donor: The edit in force in the run the values are taken from; None: the model as it is.
        base: The edit in force in the run they are put into; None: the model as it is.

    Raises:
        LofitLensError: There is neither donor nor base, so that both runs are the same, or the two
            were learned on different data.
    """

    heads: HeadSet
    donor: Edit | None = None
    base: Edit | None = None

    scope = "all"
    needs_whole_texts = True
    n_parameters = 0

    def __post_init__(self) -> None:
        if self.donor is None and self.base is None:
            raise LofitLensError("A patch needs an edit in one of its runs; give donor or base.")
        shared_provenance((self.donor, self.base))

    @property
    def provenance(self) -> Provenance | None:
        """That of the donor or, if it has none, of the base; without scores."""
        return shared_provenance((self.donor, self.base))

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[None]:
        """Edit every forward pass of `model` inside the context.

        Raises:
            ModelMismatchError: The heads, donor or base belong to another model.
            UnsupportedError: Donor or base edits some token positions only, or another patch is in
                force. On a forward pass: it goes on from a key/value cache, or a contrast vector is
                in force around the patch or inside it, or donor or base is itself a patch.
        """
        check_head_shape(model, self.heads)
        for edit in (self.donor, self.base):
            with edited(model, edit):  # which refuses another model
                pass
            # an edit attached for a single run is not told where the prompt ends
            if edit is not None and edit.scope != "all":
                raise UnsupportedError(
                    "Patching needs donor and base to edit all token positions; one has another scope "
                    'than "all". Use `edit.with_scope("all")`, or learn it with that scope.'
                )
        hf: Any = model.original_model
        if isinstance(hf.forward, _TwoRuns):
            raise UnsupportedError(
                "Another patch is in force. Patch all heads at once, or one after the other."
            )
        uncached = partial(model.generate, use_past_kv_cache=False)
        runs = patch.object(hf, "forward", _TwoRuns(model, self))
        with runs, patch.object(model, "generate", uncached):
            yield


class _TwoRuns:
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
            with self._hf.register_forward_pre_hook(self._begin):
                return self._hf(*args, **kwargs)

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
