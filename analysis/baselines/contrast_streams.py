"""The two extra streams of a contrast vector: each text again behind either instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformer_lens.utilities.position_ids import accepts_mask_derived_position_ids

from lofit_lens.analysis.baselines.instructions import place_of_instruction
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.positions import PositionTracker
from lofit_lens.tokens import EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention


class _Enough(Exception):
    """All layers wanted have been read; those above need not run."""


class ContrastStreams:
    """Runs the streams before each forward pass of a model, and adds their difference to it.

    `before_forward` and `after_forward` are hooks of the Hugging Face model, `at_block` is that of
    the blocks. The streams go through the model's `forward` itself, so that hooks of the model as
    a whole, such as the trackers of token positions, see the plain pass alone.

    Args:
        model: The model.
        edit: The contrast vector.
        positions: The tracker of the positions to edit.
    """

    def __init__(
        self, model: TransformerBridge, edit: ContrastIntervention, positions: PositionTracker
    ) -> None:
        tokenizer: Any = model.tokenizer
        self._hf: Any = model.original_model
        self._n_ctx = model.cfg.n_ctx
        self._encoder = Encoder(model)
        self._starts = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self._edit = edit
        texts = edit.positive, edit.negative
        self._instructions = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        self._takes_positions = accepts_mask_derived_position_ids(self._hf)
        self._positions = positions
        self._reading: dict[int, Tensor] | None = None
        self._tokens = torch.empty(0, 0, dtype=torch.long)
        self._differences: dict[int, Tensor] = {}
        # of a key/value cache its tokens, and its keys in the first layer: others mean it was changed
        self._pasts: WeakKeyDictionary[Any, tuple[Tensor, Tensor | None]] = WeakKeyDictionary()

    def at_block(self, layer: int, h: Any, hook: object = None) -> Any:  # noqa: ARG002
        """Read or edit the output of a block; the hook function of `blocks.{layer}.hook_out`."""
        if self._reading is not None:
            self._reading[layer] = h.detach().float()
            if layer == max(self._edit.layers):
                raise _Enough
            return h
        difference = self._differences[layer].to(h.device)
        after = (h.float() + self._edit.alpha * difference).to(h.dtype)
        return self._positions.limit(after, h)

    def before_forward(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the streams of the pass that begins; a forward pre-hook of the Hugging Face model."""
        self._refuse_other_edits()
        new = args[0] if args else kwargs.get("input_ids")
        if new is None:
            raise UnsupportedError(
                "A contrast vector puts instructions in front of the text, so it needs token ids; "
                "this forward pass has embeddings. Pass tokens."
            )
        self._tokens = new
        past, cache = 0, kwargs.get("past_key_values")
        if cache is not None and (past := int(cache.get_seq_length())):
            self._tokens = torch.cat([self._seen(cache, (len(new), past)), new], dim=1)
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(self._tokens)
        elif mask.ndim != 2:
            raise UnsupportedError(
                "A contrast vector needs a two-dimensional attention mask, got "
                f"{tuple(mask.shape)}. Pass [batch, pos] ones and zeros."
            )
        found = self._contrast(self._tokens, mask.bool())
        self._differences = {layer: difference[:, past:] for layer, difference in found.items()}

    def after_forward(self, _module: Any, _args: Any, output: Any) -> None:
        """Remember which text the cache of a pass belongs to; a forward hook."""
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            self._pasts[cache] = self._tokens, _first_keys(cache)

    def _seen(self, cache: Any, shape: tuple[int, int]) -> Tensor:
        tokens, keys = self._pasts.get(cache, (None, None))
        if tokens is None or keys is not _first_keys(cache) or tokens.shape != shape:
            raise UnsupportedError(
                f"A contrast vector needs the whole text, and this forward pass comes with a cache of "
                f"{shape[1]} tokens it has not seen as they are: made outside the context, or cut, "
                "copied or reordered since. Run the text from its first token inside the context, "
                "and without beam search."
            )
        return tokens

    def _contrast(
        self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]
    ) -> dict[int, Float[Tensor, "batch pos d_model"]]:
        """Positive minus negative stream, by layer, at the places of the tokens.

        A token is met again as far from the end of either stream as it is from the end of its row.
        """
        rows = [row[mask].tolist() for row, mask in zip(tokens, real, strict=True)]
        # what the instruction comes behind is not edited: BOS, or the chat template up to the user
        starts = [place_of_instruction(row, self._edit.behind, self._starts) for row in rows]
        positive, negative = (
            self._run([(*r[:s], *text, *r[s:]) for r, s in zip(rows, starts, strict=True)])
            for text in self._instructions
        )
        skipped = torch.tensor(starts, device=tokens.device)[:, None]
        counts = real.sum(-1, keepdim=True) - skipped
        widest = int(counts.max())
        here = real & (real.long().cumsum(-1) > skipped)
        there = torch.arange(widest, device=tokens.device) >= widest - counts
        differences = {}
        for layer in positive:
            ends = [h[:, h.shape[1] - widest :] for h in (positive[layer], negative[layer])]
            difference = ends[0] - ends[1]
            placed = difference.new_zeros(*tokens.shape, difference.shape[-1])
            placed[here.to(placed.device)] = difference[there.to(placed.device)]
            differences[layer] = placed
        return differences

    def _run(self, rows: Sequence[Sequence[int]]) -> dict[int, Float[Tensor, "batch pos d_model"]]:
        """The residual stream of some texts behind each layer wanted, padded on the left."""
        longest = max(map(len, rows))
        if longest > self._n_ctx:
            raise LofitLensError(
                f"A text of {longest} tokens, instruction included, exceeds the model's context of "
                f"{self._n_ctx}. Shorten the prompts or the instruction."
            )
        batch = self._encoder.batch([EncodedText(tuple(row), len(row)) for row in rows])
        places = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
        derived = {"position_ids": places} if self._takes_positions else {}
        self._reading = read = {}
        try:
            with torch.no_grad():
                self._hf.forward(
                    batch.tokens, attention_mask=batch.attention_mask, use_cache=False, **derived
                )
        except (_Enough, StopAtLayerException):
            pass
        finally:
            self._reading = None
        return read

    def _refuse_other_edits(self) -> None:
        """Edits at some positions only, and other contrasts, would edit the streams wrongly."""
        for hook in self._hf._forward_pre_hooks.values():
            owner = getattr(hook, "__self__", None)
            if owner in (self, self._positions):
                continue
            if isinstance(owner, ContrastStreams | PositionTracker):
                raise UnsupportedError(
                    'Another contrast vector or an edit with another token scope than "all" is in '
                    "force; it cannot tell the streams of the contrast vector from the text. Apply "
                    'them one at a time, or give that edit the scope "all".'
                )


def _first_keys(cache: Any) -> Tensor | None:
    layers = getattr(cache, "layers", None)
    return getattr(layers[0], "keys", None) if layers else None
