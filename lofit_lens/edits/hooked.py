"""Functions of activations at hook points, at some positions, for the time of a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lofit_lens.positions import Places, PositionTracker, TokenScope, tracked_positions

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.on_heads import HookFunction


@contextmanager
def changed(
    model: TransformerBridge,
    changes: Mapping[str, Callable[[Tensor], Tensor]],
    scope: TokenScope | Places,
) -> Iterator[PositionTracker]:
    """Change activations `[batch, pos, d_model]` of every forward pass inside the context.

    Args:
        model: A bridge.
        changes: What to do at each hook point, by its name; computed in float32.
        scope: The positions changed.

    Yields:
        The tracker of the positions.
    """

    def hook(change: Callable[[Tensor], Tensor], positions: PositionTracker) -> HookFunction:
        def edit(h: Any, hook: object = None) -> Any:  # noqa: ARG001
            return positions.limit(change(h.float()).to(h.dtype), h)

        return edit

    with tracked_positions(model, scope) as positions:
        hooks = [(name, hook(change, positions)) for name, change in changes.items()]
        with model.hooks(fwd_hooks=hooks):
            yield positions
