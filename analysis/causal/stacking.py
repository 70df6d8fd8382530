"""Several edits as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lofit_lens.edit import Edit
from lofit_lens.provenance import Provenance, unmeasured

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class StackedEdits:
    """Edits applied one inside the other.

    At one hook point an edit gets what those before it made of the activation, so the last has the
    last word: an ablation behind a tuned edit of the same head leaves nothing of the offset.

    Attributes:
        edits: The edits, outermost first.
    """

    edits: tuple[Edit, ...]

    @property
    def provenance(self) -> Provenance | None:
        """That of the first edit that has one, without its scores."""
        found = (edit.provenance for edit in self.edits if edit.provenance is not None)
        return unmeasured(next(found, None))

    @property
    def n_parameters(self) -> int:
        """Numbers that all edits together are made of."""
        return sum(edit.n_parameters for edit in self.edits)

    @property
    def needs_whole_texts(self) -> bool:
        """Whether one of the edits does."""
        return any(edit.needs_whole_texts for edit in self.edits)

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[None]:
        """Edit every forward pass of `model` inside the context."""
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(edit.applied(model))
            yield
