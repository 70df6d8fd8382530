"""Tasks by name or file, as the command line and saved results call them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lofit_lens.embedded.world import ABILITIES
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.clutrr import clutrr
from lofit_lens.tasks.data import MEMORY
from lofit_lens.tasks.embedded import embedded
from lofit_lens.tasks.from_file import from_file
from lofit_lens.tasks.mquake import mquake
from lofit_lens.tasks.tables import FORMATS
from lofit_lens.tasks.task import Task
from lofit_lens.tasks.truthfulqa import truthfulqa


def load_tasks(
    name_or_file: str,
    *,
    seed: int = 42,
    data_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Task]:
    """The task of a name, as its folds: TruthfulQA has two, every other task is one.

    Args:
        name_or_file: "truthfulqa" (both folds), "truthfulqa:0", "truthfulqa:1", "mquake",
            "clutrr", "embedded:truth", "embedded:kinship", "embedded:edit", or a file.
        seed: Seed of CLUTRR's draw.
        data_dir: Folder with the paper's files.
        options: Arguments of `from_file`; only for files.

    Raises:
        LofitLensError: There is no such task or file, or options are given for a named task.
    """
    name, _, part = name_or_file.partition(":")
    if name in ("truthfulqa", "mquake", "clutrr", "embedded") and options:
        raise LofitLensError(f"{name} is fixed; {', '.join(options)} describe a file of your own.")
    if name_or_file == "truthfulqa":
        return [truthfulqa(fold, data_dir=data_dir) for fold in (0, 1)]
    if name == "truthfulqa" and part in ("0", "1"):
        return [truthfulqa(int(part), data_dir=data_dir)]
    if name_or_file == "mquake":
        return [mquake(data_dir=data_dir)]
    if name_or_file == "clutrr":
        return [clutrr(seed, data_dir=data_dir)]
    if name == "embedded" and part in ABILITIES:
        return [embedded(part)]
    if Path(name_or_file).suffix:
        return [from_file(name_or_file, **(options or {}))]
    raise LofitLensError(
        f"There is no task {name_or_file!r}. Known: truthfulqa, truthfulqa:0, truthfulqa:1, mquake, "
        f"clutrr, embedded:truth, embedded:kinship, embedded:edit, or a file ({', '.join(FORMATS)})."
    )


def reload_task(source: Mapping[str, Any], *, data_dir: str | Path | None = None) -> Task:
    """Load the task that a result was made with, from `Task.source`.

    Raises:
        LofitLensError: The task was built by hand, or of rows in memory.
    """
    arguments = dict(source)
    name = arguments.pop("name", None)
    if name is None:
        raise LofitLensError("The result does not say how to load its task; name the task.")
    if name == "truthfulqa":
        return truthfulqa(arguments["fold"], data_dir=data_dir)
    if name == "mquake":
        return mquake(data_dir=data_dir)
    if name == "clutrr":
        return clutrr(arguments["seed"], data_dir=data_dir)
    if str(name).startswith("embedded:"):
        return embedded(name.removeprefix("embedded:"))
    if str(name).startswith(MEMORY):
        raise LofitLensError(
            f"The task {arguments['task_name'] or 'rows'} was made of rows in memory, so it cannot be "
            "loaded again. Pass the task itself, or write the rows to a file and use from_file."
        )
    if not isinstance(arguments["split"], str):
        arguments["split"] = tuple(arguments["split"])
    return from_file(name, name=arguments.pop("task_name", None), **arguments)


def check_not_trained_on(task: Task, trained_on: Mapping[str, Any]) -> None:
    """Refuse a task whose test items may have been training items of an edit.

    Args:
        task: The task to score.
        trained_on: `Task.source` of the task the edit was learned on.

    Raises:
        LofitLensError: Both are the same data, dealt into splits in another way.
    """
    if not trained_on or task.source.get("name") != trained_on.get("name"):
        return
    for way in ("fold", "split", "split_seed", "group"):
        here, there = (_as_listed(source.get(way)) for source in (task.source, trained_on))
        if here != there:
            raise LofitLensError(
                f"The edit was learned on {trained_on['name']} with {way} = {there}, this task has "
                f"{here}: its test items may have been trained on. Score the split the edit was "
                "learned with."
            )


def _as_listed(value: Any) -> Any:
    """A tuple as the list it becomes in a JSON file."""
    return list(value) if isinstance(value, tuple) else value
