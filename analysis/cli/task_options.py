"""Options that say which tasks are meant, and what the columns of a file of one's own are.

The columns are the arguments of `from_file`, read from its signature and docstring.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, make_dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lofit_lens.analysis.cli.groups import option
from lofit_lens.analysis.cli.options import TASK
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks import Task
from lofit_lens.tasks.arguments import ARGUMENTS, SYNONYMS, read_arguments
from lofit_lens.tasks.load import FIXED, load_each, load_tasks
from lofit_lens.tasks.tables import FORMATS

if TYPE_CHECKING:
    from lofit_lens.analysis.cli.chat import ChatOptions
    from lofit_lens.analysis.cli.options import ModelOptions, TrainingOptions


_option = partial(option, panel=TASK)

EMBEDDED_TASKS = "embedded:truth,embedded:kinship,embedded:edit"


@dataclass(frozen=True)
class NamedTask:
    """Which task: its name, its file, or its files."""

    task: Annotated[
        str | None,
        _option(
            f"{', '.join(FIXED)}; a file ({', '.join(FORMATS)}), also with its options behind it, as "
            "'a.csv?prompt=Q: {q} A:&answer=a'; or a task file (.toml)."
        ),
    ] = None
    train_file: Annotated[
        Path | None, _option("File of training items, where every split is a file.")
    ] = None
    val_file: Annotated[Path | None, _option("File of validation items.")] = None
    test_file: Annotated[Path | None, _option("File of test items.")] = None
    data_dir: Annotated[Path | None, _option("Folder with the files of the paper's tasks.")] = None

    @property
    def files(self) -> dict[str, str]:
        """The files of the splits that were given.

        Raises:
            LofitLensError: There is a task as well.
        """
        files = {"train": self.train_file, "val": self.val_file, "test": self.test_file}
        given = {split: str(file) for split, file in files.items() if file is not None}
        if given and self.task:
            raise LofitLensError(
                f"Give either --task or {' and '.join(f'--{split}-file' for split in given)}; for the "
                "files of one of several tasks write a task file."
            )
        return given


def _of_files() -> list[tuple[str, Any, Any]]:
    """The arguments of `from_file` as options: name, annotation, default."""
    fields = []
    for name, argument in ARGUMENTS.items():
        if name in NO_OPTIONS:
            continue
        kind: Any = int if int in argument.kinds else str
        kind, again = (list[str], " Give it again for several.") if argument.several else (kind, "")
        default = "" if argument.default in (None, "") else f" (default: {argument.default!r})"
        text = argument.help + NOTES.get(name, "") + again + default
        fields.append((name, Annotated[kind | None, _option(text)], None))
    return fields


NO_OPTIONS = ("split", "objective", "name")
"""Arguments of `from_file` without an option of their name: `--shares` and `--split-column` say how
files are split, `--objective` is one of training, and a name belongs to one file of several."""

NOTES = {"prompt": r" In this and other texts `\n` is a line break, `\t` a tab, `\\` a backslash."}
"""What only matters where an option is typed."""

FileOptions = make_dataclass("FileOptions", _of_files(), frozen=True)
"""The columns of a file of one's own, and what is made of them."""


@dataclass(frozen=True)
class TaskOptions(FileOptions, NamedTask):
    """Which task; the columns of a file of one's own."""

    shares: Annotated[
        str | None,
        _option(
            "Shares of training, validation and test, with commas or blanks. (default: 0.4,0.1,0.5)"
        ),
    ] = None
    split_column: Annotated[
        str | None, _option("Column that says train, val or test of each row.")
    ] = None

    def load(self, seed: int) -> list[Task]:
        """The folds of the task.

        Raises:
            LofitLensError: No task is named, or it cannot be loaded.
        """
        named = self.files or self.task
        if not named:
            raise LofitLensError("Say which task: --task NAME_OR_FILE.")
        return load_tasks(named, seed=seed, data_dir=self.data_dir, options=self.file_arguments())

    def file_arguments(self) -> dict[str, Any]:
        """The arguments of `from_file` that were given."""
        named = [f.name for f in dataclasses.fields(FileOptions)] + list(SYNONYMS)
        given = {n: value for n in named if (value := getattr(self, n)) is not None}
        return read_arguments(given, "The command")


@dataclass(frozen=True)
class TasksOptions(TaskOptions):
    """Which tasks; the columns of files of one's own."""

    task: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride]
        list[str] | None,
        _option(
            "As in the other commands; give it again for each task, or separate names by commas. A task "
            "with options behind its file stands alone."
        ),
    ] = None

    def of_experiment(
        self,
        model: ModelOptions,
        training: TrainingOptions,
        chat: ChatOptions,
        choose: Callable[[list[list[Task]]], Iterable[Task]] = chain.from_iterable,
    ) -> tuple[ModelOptions, TrainingOptions, list[Task]]:
        """The tasks; without a model the embedded one as in the demo, with its own three by default.

        Args:
            model: Which model.
            training: How to train.
            chat: Whether prompts stand in the chat template.
            choose: What is taken of the folds of each task; all by default.

        Raises:
            LofitLensError: There is no such model, no task is named, or one cannot be loaded.
        """
        from lofit_lens.identity import EMBEDDED

        embedded = (model.model or EMBEDDED) == EMBEDDED
        if embedded:  # the documented numbers are those of the CPU in float32
            device, dtype = model.device or "cpu", model.dtype or "float32"
            model = dataclasses.replace(model, model=EMBEDDED, device=device, dtype=dtype)
            training = dataclasses.replace(training, preset=training.preset or EMBEDDED)
        model.check()
        tasks = list(choose(self.load_each(training.seed, embedded=embedded)))
        return model, training, chat.inside(tasks, model)

    def load_each(self, seed: int, *, embedded: bool) -> list[list[Task]]:
        """The folds of each task named; for the embedded model its own three by default."""
        typed = self.task or ([EMBEDDED_TASKS] if embedded else [])
        each = [self.files] if self.files else [name for text in typed for name in _names(text)]
        if not each:
            raise LofitLensError("Say which tasks: --task NAME_OR_FILE, once for each.")
        return load_each(each, seed=seed, data_dir=self.data_dir, options=self.file_arguments())


def _names(text: str) -> list[str]:
    """The tasks named by one text: several with commas, but for a file or one with options."""
    path, options, _ = text.partition("?")
    alone = Path(path).is_file()
    if options and "," in path and not alone:
        raise LofitLensError(
            f"A task with options behind its file stands alone: give --task again for each, not commas; "
            f"got {text!r}."
        )
    if options or alone:
        return [text]
    return [name.strip() for name in text.split(",")]


def name_of(tasks: Sequence[Task]) -> str:
    """The name of a task, or of several folds of one together."""
    return tasks[0].name if len(tasks) == 1 else tasks[0].name.replace(":0", "", 1)


def joined_shares(arguments: Sequence[str]) -> list[str]:
    """What was typed, with shares that have blanks between them, `--shares 0.4 0.1 0.5`, as one."""
    return re.sub(
        r"(?<=\0--shares\0)([\d.]+)\0([\d.]+)\0([\d.]+)(?=\0|$)",
        r"\1,\2,\3",
        "".join(f"\0{argument}" for argument in arguments),
    ).split("\0")[1:]
