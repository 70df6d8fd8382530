"""The door to the fast paths: put an edit in force, and get the shortest way through the model."""

from __future__ import annotations

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
    longest: int | None = None,
    again: bool = False,
) -> Iterator[ForwardPasses]:
    """Put an edit in force on a model, and run it by the shortest way that gives the same.

    Hooks added inside the context may not be called, unless they are on the whole model or its
    unembedding. Those of others that are there before are called, and then texts share nothing.

    Args:
        model: A bridge.
        edit: The edit; None leaves the model as it is.
        hooks: Names of hook points and functions to attach to them as well; texts then share nothing.
        longest: Tokens of the longest text, which says whether texts may share some; None: they do
            not.
        again: Whether texts go through again and again, so that it pays to keep what lies below
            the edit.
    """
    # The order matters. What texts share, and what is kept, must not depend on code of others that
    # may look at places in the batch: so first see who listens while it is only others. The edits
    # told about prompts are those in force. Wrappers come last, as who listens must be known for
    # each, and blocks can only be asked while they have theirs.
    alone = nobody_listens(model)
    trial = try_shortcuts(model)
    with ExitStack() as contexts:
        contexts.enter_context(edited(model, edit))
        if hooks:
            contexts.enter_context(model.hooks(fwd_hooks=[*hooks]))
        announce = contexts.enter_context(known_prompts(model))
        replay = Replay(model) if again and alone and taken().replay else None
        unwrapped = contexts.enter_context(without_wrappers(model, trial.attention))
        whole = edit is not None and edit.needs_whole_texts
        share = taken().shared and trial.shares and alone and unwrapped and not (whole or hooks)
        yield ForwardPasses(
            model=model,
            announce=announce,
            pad=Encoder(model).pad,
            unwrapped=unwrapped,
            continues=share and longest is not None and may_continue(model, longest),
            shares_rows=share and longest is not None and may_share_rows(model, longest),
            replay=replay if unwrapped else None,
        )


def edited(model: TransformerBridge, edit: Edit | None) -> AbstractContextManager[Any]:
    """Apply an edit, or none, without any fast path."""
    return nullcontext() if edit is None else edit.applied(model)
