"""What a command takes from the folder of a run: its edits, model, tasks and chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lofit_lens.errors import LofitLensError
from lofit_lens.hub import is_hub_name
from lofit_lens.tasks import Task, reload_task
from lofit_lens.tasks.load import check_not_trained_on

if TYPE_CHECKING:
    from lofit_lens.analysis.cli.chat import ChatOptions
    from lofit_lens.analysis.cli.options import Loaded, ModelOptions
    from lofit_lens.analysis.cli.task_options import TaskOptions
    from lofit_lens.edits.on_heads import HeadIntervention


@dataclass(frozen=True)
class RunOfEdit:
    """The folder of a run, with an edit for each fold.

    Attributes:
        folder: The folder, or the name of an edit on the hub; None: no run is named.
        edits: The edits.
        loaded: What the model was loaded with.
    """

    folder: str | Path | None
    edits: Sequence[HeadIntervention] = ()
    loaded: Loaded = None

    @classmethod
    def read(cls, folder: str | Path | None, strength: float = 1.0) -> RunOfEdit:
        """Read it.

        Raises:
            LofitLensError: There is no run in the folder, and no edit of this name on the hub.
        """
        from lofit_lens.analysis.runs import RunFolder
        from lofit_lens.edits.on_heads import HeadIntervention

        if folder is None:
            return cls(None)
        run = RunFolder(Path(folder))
        shared = is_hub_name(folder) and not run.path.exists()
        folds = [folder] if shared else run.folds()
        edits = [strength * HeadIntervention.load(fold) for fold in folds]
        return cls(folder, edits, run.loaded())

    @property
    def sources(self) -> list[Mapping[str, Any]]:
        """What the tasks of the edits are loaded with."""
        return [e.provenance.task_source if e.provenance else {} for e in self.edits]

    def tasks(
        self, options: TaskOptions, chat: ChatOptions, model: ModelOptions, *, seed: int
    ) -> list[Task]:
        """The tasks named, or those of the run, in the chat template named or that of the run.

        Raises:
            LofitLensError: A task cannot be loaded, its data changed since, it was trained on, or the
                run has another number of folds.
        """
        if self.edits and not (options.task or options.files):
            tasks = self._own_tasks(options, chat, model)
        else:
            named = options.load(seed)
            tasks = chat.of_run(self.sources).inside(named, model, self.loaded)
        if self.edits and len(self.edits) != len(tasks):
            raise LofitLensError(
                f"{self.folder} holds {len(self.edits)} fold(s), the task has {len(tasks)}. Name the fold, "
                "as --intervention RUN/fold-0 --task truthfulqa:0."
            )
        for task, source in zip(tasks, self.sources, strict=bool(self.edits)):
            check_not_trained_on(task, source)
        return tasks

    def one(self) -> HeadIntervention:
        """The edit of a run of one fold.

        Raises:
            LofitLensError: It has several.
        """
        if len(self.edits) > 1:
            raise LofitLensError(
                f"{self.folder} holds {len(self.edits)} folds; name one, as {self.folder}/fold-0."
            )
        return self.edits[0]

    def _own_tasks(
        self, options: TaskOptions, chat: ChatOptions, model: ModelOptions
    ) -> list[Task]:
        for name in options.file_arguments():
            raise LofitLensError(
                f"{name} describes a file, and none is named: the run knows its own. Name the file "
                "with --task, or leave the option out."
            )
        read = {"data_dir": options.data_dir}
        in_chat = any(source.get("chat") for source in self.sources)
        tokenizer = model.tokenizer(self.loaded) if in_chat else None
        tasks = [reload_task(source, tokenizer=tokenizer, **read) for source in self.sources]
        for task, edit in zip(tasks, self.edits, strict=True):
            if edit.provenance and edit.provenance.data_hash != task.data_hash():
                raise LofitLensError(
                    f"The data of {task.name} changed since {self.folder} was made, so test items "
                    "may have been trained on. Name the data to score with --task."
                )
        if chat.chat is None and chat.system is None:
            return tasks
        plain = [{k: v for k, v in source.items() if k != "chat"} for source in self.sources]
        return chat.inside([reload_task(source, **read) for source in plain], model, self.loaded)
