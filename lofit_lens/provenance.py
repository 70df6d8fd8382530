"""Where a result comes from: model, task, configuration, versions, training curve."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lofit_lens.documents import typed
from lofit_lens.errors import check_seed
from lofit_lens.identity import Fingerprint, fingerprint
from lofit_lens.training.history import History

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.tasks.task import Task


@dataclass(frozen=True)
class Provenance:
    """What is needed to know, and to repeat, how something was learned.

    Attributes:
        fingerprint: The model it was learned on.
        task: Name of the task.
        data_hash: SHA-256 over the task's examples.
        config: The configuration, as a dictionary.
        history: Loss by step and by epoch.
        task_source: Keyword arguments that load the task again, if it came from a loader.
        metrics: Scores measured with the result, by name.
        versions: Versions of Python and of the libraries that matter.
    """

    fingerprint: Fingerprint
    task: str
    data_hash: str
    config: Mapping[str, Any]
    history: History
    task_source: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: library_versions())

    def __post_init__(self) -> None:
        check_seed(self.config.get("seed", 0))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> Provenance:
        """Read what `to_json` gave.

        Raises:
            LofitLensError: A field is missing, unknown or of another type.
        """
        return typed(content, cls)


def learned_on(
    model: TransformerBridge, task: Task, config: Mapping[str, Any], history: History | None = None
) -> Provenance:
    """The provenance of something learned from a task's training and validation examples."""
    return Provenance(
        fingerprint=fingerprint(model),
        task=task.name,
        data_hash=task.data_hash(),
        config=config,
        history=history or History(),
        task_source=dict(task.source),
    )


def unmeasured(provenance: Provenance | None) -> Provenance | None:
    """The provenance without scores, for an edit made from another one."""
    return None if provenance is None else replace(provenance, metrics={})


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries the numbers depend on."""
    names = ("lofit-lens", "torch", "transformer-lens", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def show_versions() -> str:
    """The versions as lines of text, for a bug report."""
    return "\n".join(f"{name}: {number}" for name, number in library_versions().items())
