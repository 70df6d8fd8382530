"""Patching: heads give in one run of a text what they give in another run of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from lofit_lens.analysis.causal.stacking import shared_provenance
from lofit_lens.analysis.causal.two_runs import TwoRuns
from lofit_lens.attention import check_head_shape
from lofit_lens.edits.base import BaseEdit
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.fast.in_force import edited
from lofit_lens.heads import HeadSet
from lofit_lens.positions import TokenScope
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

    needs_whole_texts = True
    n_parameters = 0

    def __post_init__(self) -> None:
        if self.donor is None and self.base is None:
            raise LofitLensError("A patch needs an edit in one of its runs; give donor or base.")
        shared_provenance((self.donor, self.base))

    @property
    def scope(self) -> TokenScope:
        """All positions, in both runs."""
        return "all"

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
        if isinstance(hf.forward, TwoRuns):
            raise UnsupportedError(
                "Another patch is in force. Patch all heads at once, or one after the other."
            )
        uncached = partial(model.generate, use_past_kv_cache=False)
        runs = patch.object(hf, "forward", TwoRuns(model, self))
        with runs, patch.object(model, "generate", uncached):
            yield
