"""Models and tasks as a study file names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lofit_lens.analysis.measure.leaks import without_leaks
from lofit_lens.identity import EMBEDDED
from lofit_lens.tasks.chat import as_plain, check_chat
from lofit_lens.tasks.load import load_tasks
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model.

    Attributes:
        model: As `load_model` takes it.
        name: What folders and experiments call it; default the last part of `model`.
        device, dtype, quantization, revision, n_devices: As `load_model` takes them; the embedded model
            is by default on the CPU in float32, as its documented numbers are.
        preset: Whose settings it has: a model of the paper, or "embedded", the default of that model.
    """

    model: str
    name: str = ""
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    revision: str | None = None
    n_devices: int | None = None
    preset: str | None = None

    @classmethod
    def completed(cls, read: ModelEntry) -> ModelEntry:
        """The entry with its defaults."""
        name = read.name or Path(read.model).name
        if read.model != EMBEDDED:
            return msgspec.structs.replace(read, name=name)
        return msgspec.structs.replace(
            read, name=name, device=read.device or "cpu", dtype=read.dtype or "float32",
            preset=read.preset or EMBEDDED,
        )  # fmt: skip

    def tokenizer(self) -> Any:
        """Its tokenizer alone.

        Raises:
            LofitLensError: It cannot be found or read.
        """
        from lofit_lens.model import read_tokenizer

        return read_tokenizer(self.model, revision=self.revision)

    def load(self) -> TransformerBridge:
        """Load it.

        Raises:
            LofitLensError: It cannot be found or read.
        """
        from lofit_lens.model import load_model

        options: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("device", "dtype", "quantization", "revision", "n_devices")
        }
        return load_model(self.model, **options)


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A task.

    Attributes:
        task: As `--task` takes it: a name, a file with its options behind it, or a task file.
        name: What experiments and settings call it; default `task`.
        data_dir: Folder with the paper's files.
        seed: Of the draw, for tasks that draw their training examples.
        by: How candidates are scored, as `scored_by` takes it.
        chat: Whether prompts stand in the chat template of the model; false leaves out the note that
            there is one.
        system: Text of the system turn.
        drop_leaked: Whether training and validation items that are also in the test are left out.
    """

    task: str
    name: str = ""
    data_dir: str | None = None
    seed: int = 42
    by: str | None = None
    chat: bool | None = None
    system: str | None = None
    drop_leaked: bool = False

    @property
    def called(self) -> str:
        """Its name in the study."""
        return self.name or self.task

    def load(self) -> list[Task]:
        """Its folds, on plain prompts.

        Raises:
            LofitLensError: It cannot be loaded.
        """
        options = {} if self.by is None else {"by": self.by}
        tasks = load_tasks(self.task, seed=self.seed, data_dir=self.data_dir, options=options)
        if self.drop_leaked:
            tasks = [without_leaks(task)[0] for task in tasks]
        if self.chat:
            for task in tasks:
                check_chat(task)
        return [as_plain(task) for task in tasks] if self.chat is False else tasks

    def inside(self, tasks: list[Task], tokenizer: Any) -> list[Task]:
        """The folds in the chat template of a model, if asked for.

        Raises:
            LofitLensError: The tokenizer has no template.
        """
        return [task.as_chat(tokenizer, self.system) for task in tasks] if self.chat else tasks
