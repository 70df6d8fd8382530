"""What edits have in common: the model they were learned on, other positions, their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lofit_lens.documents import typed
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import load_edit, save_edit
from lofit_lens.errors import LofitLensError
from lofit_lens.identity import check_same_model
from lofit_lens.positions import TokenScope
from lofit_lens.provenance import unmeasured

if TYPE_CHECKING:
    from typing import Self

    from transformer_lens.model_bridge import TransformerBridge


class BaseEdit:
    """The part of an edit that does not depend on what it does; for frozen dataclasses.

    Attributes:
        noun: What errors call it.
    """

    noun: ClassVar[str] = "edit"
    needs_whole_texts = False

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]

        scope: Any  # as in `Edit`: fields of some, properties of others
        provenance: Any

    def check_model(self, model: TransformerBridge) -> None:
        """Refuse a model of another shape or, for a learned edit, with other weights.

        Raises:
            ModelMismatchError: They differ; the message says in what.
            UnsupportedError: Scale on a model whose weights TransformerLens has processed.
        """
        self._check_shape(model)
        if self.provenance is not None:
            check_same_model(model, self.provenance.fingerprint, f"The {self.noun}")

    def _check_shape(self, model: TransformerBridge) -> None:
        """Refuse a model that the numbers do not fit, whatever its weights."""

    def with_scope(self, scope: TokenScope) -> Self:
        """The same edit at other positions; its measured scores are left behind.

        Raises:
            LofitLensError: There is no such scope, or the positions are the edit's own.
        """
        if "scope" not in {field.name for field in fields(self)}:
            raise LofitLensError(f"The positions of {self!r} are its own, got scope {scope!r}.")
        return replace(self, scope=scope, provenance=unmeasured(self.provenance))

    def to_parts(self) -> dict[str, Any]:
        """What it is made of: numbers as tensors, and what `save_edit` can write as JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The edit made of what `to_parts` gave, after it was written and read.

        Raises:
            LofitLensError: A part is missing, or not what the edit is made of.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in parts]
        if missing:
            raise LofitLensError(f"Object missing required field `{missing[0]}`")
        return typed({name: parts[name] for name in names}, cls)

    def save(self: Edit, folder: str | Path) -> Path:
        """Write the edit to a folder; see `save_edit`."""
        return save_edit(self, folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: TransformerBridge | None = None,
        *,
        revision: str | None = None,
    ) -> Self:
        """Read an edit as `load_edit` does, and refuse it if it was learned on another model than `model`.

        Raises:
            ModelMismatchError: It was learned on another model; the message says what differs.
            LofitLensError: The folder holds no such edit, or a damaged one.
        """
        found = load_edit(folder, model, revision=revision, what=cls.noun)
        if not isinstance(found, cls):
            raise LofitLensError(
                f"{folder} holds {found!r}; load it with {type(found).__name__}.load."
            )
        return found
