"""The contrast vector: what an instruction changes in the residual stream, added to each input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from lofit_lens.analysis.baselines.contrast_streams import ContrastStreams
from lofit_lens.attention import check_layers
from lofit_lens.edits.base import BaseEdit
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.positions import PositionTracker, TokenScope, check_scope, tracked_positions
from lofit_lens.provenance import Provenance, unmeasured

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class ContrastIntervention(BaseEdit):
    """Adds `alpha * (h_positive - h_negative)` to the residual stream, worked out for each input.

    Every text is run twice more, with either instruction put in front of it; behind the chosen
    blocks, each token of the plain text gets the difference of the two streams at the same token
    (representation engineering, Zou et al. 2023, section 3.2.1). Nothing is learned. It costs
    about two more forward passes up to the highest layer; a generation is run anew from its first
    token at every step.

    An instruction is tokenised by itself and put in behind BOS, or at the very front where a text
    has none, so the tokens of the text stay what they are; give it the blank or line break that
    is to stand behind it. In a chat it is the first that the user says: `behind` are the tokens of
    the template before. What an instruction is put behind is not edited. The streams are those of
    the model as it is at the time, with edits of other contexts that act on all positions; with
    others, it refuses. Hook functions of others see both streams, up to the highest layer, before
    the plain pass.

    Attributes:
        positive: The instruction for what is wanted.
        negative: The instruction for the opposite; may be empty.
        layers: The blocks, counted from 0, without repeats.
        n_layers: Layers of the model.
        alpha: Strength.
        scope: The token positions edited; the streams are the same in all scopes.
        behind: Tokens that stand before the instruction in the texts that begin with them.
        provenance: How layers and alpha were chosen, if they were.

    Raises:
        LofitLensError: The instructions are the same, a layer repeats or lies outside the model,
            or the scope is wrong.

    Examples:
        >>> edit = ContrastIntervention("Be honest. ", "Lie. ", layers=(1,), n_layers=4)
        >>> edit.n_parameters
        0
    """

    positive: str
    negative: str
    layers: tuple[int, ...]
    n_layers: int
    alpha: float = 1.0
    scope: TokenScope = "all"
    behind: tuple[int, ...] = field(default=(), repr=False)
    provenance: Provenance | None = field(default=None, repr=False)

    noun = "contrast vector"
    needs_whole_texts = True
    n_parameters = 0

    def __post_init__(self) -> None:
        check_scope(self.scope)
        if self.positive == self.negative:
            raise LofitLensError(
                f"Both instructions are {self.positive!r}, so their difference is nothing. Give two."
            )
        check_layers(self.layers, self.n_layers)

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[PositionTracker]:
        """Edit every forward pass of `model` inside the context; see `HeadIntervention.applied`.

        A pass that goes on from a key/value cache must have been seen from its first token.

        Raises:
            ModelMismatchError: It was made for another model.
            UnsupportedError: On a forward pass: a cache not seen from its start, embeddings in
                place of tokens, or an edit of another context that acts on some positions only.
        """
        self.check_model(model)
        with tracked_positions(model, self.scope) as positions:
            streams = ContrastStreams(model, self, positions)
            hooks = [(f"blocks.{i}.hook_out", partial(streams.at_block, i)) for i in self.layers]
            before = model.original_model.register_forward_pre_hook(
                streams.before_forward, with_kwargs=True
            )
            after = model.original_model.register_forward_hook(streams.after_forward)
            with before, after, model.hooks(fwd_hooks=hooks):
                yield positions

    def __mul__(self, strength: float) -> ContrastIntervention:
        """The edit at so many times its alpha: `strength * edit`."""
        provenance = unmeasured(self.provenance)
        return replace(self, alpha=strength * self.alpha, provenance=provenance)

    __rmul__ = __mul__

    def _check_shape(self, model: TransformerBridge) -> None:
        if model.cfg.n_layers != self.n_layers:
            raise ModelMismatchError(
                f"The contrast vector is meant for a model of {self.n_layers} layers, this one has "
                f"{model.cfg.n_layers}. Choose its layers on this model."
            )
