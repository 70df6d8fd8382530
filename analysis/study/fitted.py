"""What a method makes of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lofit_lens.edits.edit import Edit
from lofit_lens.heads import HeadSet


@dataclass(frozen=True)
class Fitted:
    """What a method made of a task.

    Attributes:
        edit: The edit; None leaves the model as it is.
        choices: What was chosen on the way, such as alpha or the layer, as plain JSON values.
        heads: The heads it edits, if it edits heads.
    """

    edit: Edit | None
    choices: Mapping[str, Any] = field(default_factory=dict)
    heads: HeadSet | None = None
