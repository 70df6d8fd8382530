"""What a method of a comparison is: something that makes an edit from a task's training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lofit_lens.edit import Edit
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


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


Method = Callable[["TransformerBridge", Task, int], Fitted]
"""Makes an edit from a model, the training and validation split of a task, and a seed."""
