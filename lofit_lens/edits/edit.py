"""What an edit of a model is: heads, residual stream, contrast, adapter, all applied alike."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.positions import Places, TokenScope
    from lofit_lens.provenance import Provenance


@runtime_checkable
class Edit(Protocol):
    """A change of a model for the time of a context; nothing of it stays behind.

    Attributes:
        scope: The token positions edited, by name or by a function of one's own.
        provenance: How it was learned, if it was.
        n_parameters: Numbers it is made of.
        needs_whole_texts: Whether each text must pass the model in one piece, because the edit at
            one token depends on the tokens before it. Scoring then shares no prefix.
    """

    @property
    def scope(self) -> TokenScope | Places: ...  # noqa: D102

    @property
    def provenance(self) -> Provenance | None: ...  # noqa: D102

    @property
    def n_parameters(self) -> int: ...  # noqa: D102

    @property
    def needs_whole_texts(self) -> bool: ...  # noqa: D102

    def applied(self, model: TransformerBridge) -> AbstractContextManager[Any]:
        """Edit every forward pass of `model` inside the context."""
        ...
