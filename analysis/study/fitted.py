"""What a method makes of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lofit_lens.analysis.study.keys import as_json
from lofit_lens.documents import typed
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import load_edit, save_edit
from lofit_lens.files import read_as, write_json
from lofit_lens.heads import HeadSet

FITTED = "fitted"
"""The folder of a store in which edits wait for being scored."""

FITTED_SCHEMA = 1


@dataclass(frozen=True)
class Fitted:
    """What a method made of a task.

    Attributes:
        edit: The edit; None leaves the model as it is.
        choices: What was chosen on the way, such as alpha or the layer, as plain JSON values.
        heads: The heads it edits, if it edits heads.
        before: Text put in front of every question that is scored.
    """

    edit: Edit | None
    choices: Mapping[str, Any] = field(default_factory=dict)
    heads: HeadSet | None = None
    before: str = ""

    def save(self, path: str | Path) -> Path:
        """Write it as a JSON file, with the edit in a folder beside it.

        Raises:
            LofitLensError: The edit is of a class of one's own.
        """
        path = Path(path)
        if self.edit is not None:
            save_edit(self.edit, path.with_suffix(""))
        heads = None if self.heads is None else self.heads.to_json()
        told = {"choices": as_json(self.choices), "heads": heads, "edit": self.edit is not None}
        told |= {"before": self.before}
        return write_json(path, {"schema": FITTED_SCHEMA, **told})

    @classmethod
    def load(cls, path: str | Path) -> Fitted:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or damaged.
        """
        path = Path(path)
        told = read_as(path, lambda c: typed(c, _Told), schema=FITTED_SCHEMA, what="fitted edit")
        return cls(
            load_edit(path.with_suffix("")) if told.edit else None,
            told.choices,
            None if told.heads is None else HeadSet.from_json(told.heads),
            told.before,
        )


@dataclass(frozen=True)
class _Told:
    """The JSON file of a fitted edit."""

    choices: dict[str, Any]
    heads: dict[str, Any] | None
    edit: bool
    before: str = ""
