"""Several edits as one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lofit_lens.edits.base import BaseEdit
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError
from lofit_lens.positions import Places, TokenScope
from lofit_lens.provenance import Provenance, unmeasured

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class StackedEdits(BaseEdit):
    """Edits applied one inside the other.

    At one hook point an edit gets what those before it made of the activation, so the last has the
    last word: an ablation behind a tuned edit of the same head leaves nothing of the offset.

    Attributes:
        edits: The edits, outermost first.

    Raises:
        LofitLensError: They were learned on different data.
    """

    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        shared_provenance(self.edits)

    @property
    def scope(self) -> TokenScope | Places:
        """That of all edits; where they differ, `anywhere`."""
        scopes: set[TokenScope | Places] = {edit.scope for edit in self.edits} or {"all"}
        return scopes.pop() if len(scopes) == 1 else anywhere

    @property
    def provenance(self) -> Provenance | None:
        """That of the first edit that has one, without its scores."""
        return shared_provenance(self.edits)

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


def anywhere(rank: Tensor, length: Tensor) -> Tensor:  # noqa: ARG001
    """The places of several edits that differ in scope: each may be edited by one of them."""
    return torch.ones_like(rank, dtype=torch.bool)


def shared_provenance(edits: Sequence[Edit | None]) -> Provenance | None:
    """The provenance of the first of several edits that has one, without its scores.

    `evaluate` refuses test items that an edit may have been trained on by its one provenance, so
    that must hold for all of them.

    Raises:
        LofitLensError: They were learned on other tasks, folds or splits.
    """
    found = [edit.provenance for edit in edits if edit is not None and edit.provenance is not None]
    sources = {}
    for provenance in found:  # whatever chat template stood around the data
        data = {name: value for name, value in provenance.task_source.items() if name != "chat"}
        sources[json.dumps(data, sort_keys=True)] = provenance  # tuples as lists
    if len(sources) > 1:
        listed = ", ".join(f"{p.task} ({source})" for source, p in sources.items())
        raise LofitLensError(
            f"Edits in force together must be learned on the same data, got {listed}: a test item of "
            "one may be a training item of another. Learn them on one fold and split, or apply them "
            "in contexts of their own if you know that what you score is in neither."
        )
    return unmeasured(found[0] if found else None)
