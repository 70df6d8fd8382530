"""The door to the fast paths: put an edit in force, and get the shortest way through the model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from lofit_lens.fast.forward_passes import ForwardPasses
from lofit_lens.fast.replay import Replay
from lofit_lens.fast.switches import taken
from lofit_lens.fast.trial import may_continue, may_share_rows, try_shortcuts
from lofit_lens.fast.wrappers import nobody_listens, without_wrappers
from lofit_lens.positions import known_prompts
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit


@contextmanager
def in_force(
    model: TransformerBridge,
    edit: Edit | None = None,
    *,
    hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
    longest: int = sys.maxsize,
    again: bool = False,
) -> Iterator[ForwardPasses]:
    """Put an edit in force on a model, and run it by the shortest way that gives the same.

    Hooks of others that are there already are called, and then texts share nothing. Hooks added
    inside the context may not be called, but for those on the whole Hugging Face model.

    Args:
        model: A bridge.
        edit: The edit; None leaves the model as it is.
        hooks: Names of hook points, and functions to attach to them too; then texts share nothing.
        longest: Tokens of the longest text, as some families can share up to a length only.
        again: Whether texts go through again and again, so that it pays to keep what lies below
            the edit.
    """
    # The order matters. Who else listens is asked before the edit is there: code of others may look
    # at places in the batch, which sharing moves. What the edit leaves alone is asked while the
    # blocks have their wrappers; these come off last, because hooks on one that is off are not called.
    alone = nobody_listens(model)
    trial = try_shortcuts(model)
    with ExitStack() as contexts:
        contexts.enter_context(edited(model, edit))
        if hooks:
            contexts.enter_context(model.hooks(fwd_hooks=[*hooks]))
        announce = contexts.enter_context(known_prompts(model))
        below = Replay(model) if again and alone and taken().replay else None
        unwrapped = contexts.enter_context(without_wrappers(model, trial.attention))
        whole = hooks or (edit is not None and edit.needs_whole_texts)
        share = taken().shared and trial.shares and alone and unwrapped and not whole
        yield ForwardPasses(
            model=model,
            announce=announce,
            pad=Encoder(model).pad,
            unwrapped=unwrapped,
            continues=share and may_continue(model, longest),
            shares_rows=share and may_share_rows(model, longest),
            replay=below if unwrapped and below is not None and below.saves else None,
        )


def edited(model: TransformerBridge, edit: Edit | None) -> AbstractContextManager[Any]:
    """Apply an edit, or none, without any fast path."""
    return nullcontext() if edit is None else edit.applied(model)
