"""Tasks by name or file, as the command line and saved results call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lofit_lens.embedded.world import Ability
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks.chat import as_recorded
from lofit_lens.tasks.choices import scored_by
from lofit_lens.tasks.clutrr import clutrr
from lofit_lens.tasks.data import MEMORY
from lofit_lens.tasks.embedded import embedded
from lofit_lens.tasks.from_file import from_file
from lofit_lens.tasks.llm_adapters import arc_challenge, boolq, siqa, svamp
from lofit_lens.tasks.mquake import mquake
from lofit_lens.tasks.named_files import NamedFile, named_file
from lofit_lens.tasks.tables import FORMATS
from lofit_lens.tasks.task import Task
from lofit_lens.tasks.truthfulqa import truthfulqa

MAKERS: Mapping[str, Callable[..., Task]] = {
    "truthfulqa": truthfulqa,
    "mquake": mquake,
    "clutrr": clutrr,
    "arc-challenge": arc_challenge,
    "boolq": boolq,
    "siqa": siqa,
    "svamp": svamp,
}
"""Tasks by name: to add one, write a function of `data_dir`, and of `seed` if it draws its training
examples, and a row here."""

_FOLDS = ({"fold": 0}, {"fold": 1})
_PROTOCOLS: Mapping[str, Mapping[str, str]] = {
    "": {},
    ":lm-eval": {"protocol": "lm-eval"},
    ":gen": {"protocol": "gen"},
}

FIXED: Mapping[str, Sequence[dict[str, Any]]] = {
    f"truthfulqa{which}{end}": [{**fold, **protocol} for fold in folds]
    for end, protocol in _PROTOCOLS.items()
    for which, folds in {"": _FOLDS, ":0": _FOLDS[:1], ":1": _FOLDS[1:]}.items()
} | {
    **{name: [{}] for name in MAKERS if name != "truthfulqa"},
    **{name: [{}] for name in ("embedded:truth", "embedded:kinship", "embedded:edit")},
}
"""The tasks that are no file of the user: the arguments of each of their folds."""


def load_tasks(
    name_or_file: str | Mapping[str, str],
    *,
    seed: int = 42,
    data_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Task]:
    """The task of a name, as its folds: TruthfulQA has two, every other task is one.

    Args:
        name_or_file: "truthfulqa" (both folds), "truthfulqa:0", "truthfulqa:1", each of them also
            with ":lm-eval" behind it for the prompts of lm-evaluation-harness, or ":gen" for answers
            in free text; "mquake", "clutrr",
            "arc-challenge", "boolq", "siqa", "svamp", "embedded:truth", "embedded:kinship",
            "embedded:edit"; a file; a file with arguments behind it, as
            "own.csv?prompt={q}&answer=a"; a task file (.toml); or a mapping of "train", "val" and
            "test" to files.
        seed: Seed of the draw, for tasks that draw their training examples.
        data_dir: Folder with the paper's files.
        options: Arguments of `from_file`, where the file does not come with its own; `by`, how
            the candidates are scored, is for any multiple-choice task (`scored_by`).

    Raises:
        LofitLensError: There is no such task or file, or options are given that it does not take.
    """
    return load_each([name_or_file], seed=seed, data_dir=data_dir, options=options)[0]


def load_each(
    names: Sequence[str | Mapping[str, str]],
    *,
    seed: int = 42,
    data_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[list[Task]]:
    """The tasks of several names, each as its folds; the other arguments are those of `load_tasks`.

    Raises:
        LofitLensError: There is no such task or file, or no task takes one of the options.
    """
    options = dict(options or {})
    by = options.pop("by", "text")
    files = [named_file(name) for name in names]
    for name, file in zip(names, files, strict=True):
        if file is None and name not in FIXED:
            raise LofitLensError(
                f"There is no task {name!r}. Known: {', '.join(FIXED)}, a file ({', '.join(FORMATS)}) "
                "or a task file (.toml)."
            )
    for option in options:
        if all(file is None or option in file.arguments for file in files):
            why = [
                f"{name} says it" if file else f"{str(name).partition(':')[0]} is fixed"
                for name, file in zip(names, files, strict=True)
            ]
            raise LofitLensError(
                f"{', '.join(why)}; {option} is for a file of your own that does not say it."
            )
    drawn = {"seed": seed}
    return [
        [_from_file(n, file, {"by": by, **options})]
        if file is not None
        else [scored_by(_fixed(str(n), data_dir, drawn | fold), by) for fold in FIXED[str(n)]]
        for n, file in zip(names, files, strict=True)
    ]


def reload_task(
    source: Mapping[str, Any], *, data_dir: str | Path | None = None, tokenizer: Any = None
) -> Task:
    """Load the task that a result was made with, from `Task.source`.

    Args:
        source: Of the task.
        data_dir: Folder with the paper's files.
        tokenizer: Of the model, for a task in its chat template.

    Raises:
        LofitLensError: The task was built by hand, or of rows in memory; or it is a chat, and the
            tokenizer is missing or has another template.
    """
    arguments = dict(source)
    if "chat" in arguments:
        chat = arguments.pop("chat")
        return as_recorded(reload_task(arguments, data_dir=data_dir), chat, tokenizer)
    name = arguments.pop("name", None)
    by = arguments.pop("by", "text")
    if name is None:
        raise LofitLensError("The result does not say how to load its task; name the task.")
    if str(name) in FIXED:
        return scored_by(_fixed(str(name), data_dir, arguments), by)
    if str(name).startswith(MEMORY):
        raise LofitLensError(
            f"The task {arguments['task_name'] or 'rows'} was made of rows in memory, so it cannot be "
            "loaded again. Pass the task itself, or write the rows to a file and use from_file."
        )
    if not isinstance(arguments["split"], str):
        arguments["split"] = tuple(arguments["split"])
    return from_file(name, name=arguments.pop("task_name", None), by=by, **arguments)


def _from_file(name: object, file: NamedFile, options: Mapping[str, Any]) -> Task:
    """The task of a file; of several that are named, an error says which."""
    try:
        return from_file(file.path, **{**options, **file.arguments})
    except LofitLensError as error:
        error.add_note(f"This was the task {name}.")
        raise


def _fixed(name: str, data_dir: str | Path | None, arguments: Mapping[str, Any]) -> Task:
    """A task of `FIXED` from the arguments of its source; a seed is for those that draw."""
    kind, _, ability = name.partition(":")
    if kind == "embedded":
        return embedded(cast(Ability, ability))
    make = MAKERS[kind]
    draws = "seed" in inspect.signature(make).parameters
    taken = {key: value for key, value in arguments.items() if key != "seed" or draws}
    return make(**taken, data_dir=data_dir)


def check_not_trained_on(task: Task, trained_on: Mapping[str, Any]) -> None:
    """Refuse a task whose test items may have been training items of an edit.

    Args:
        task: The task to score.
        trained_on: `Task.source` of the task the edit was learned on.

    Raises:
        LofitLensError: Both are the same data, dealt into splits in another way, or the edit was
            learned on a file of test items.
    """
    here, there = task.source.get("name"), trained_on.get("name")
    if here != there:
        shared = sorted(_files(here, "test") & _files(there, "train", "val"))
        if shared:
            raise LofitLensError(
                f"The edit was learned on {shared[0]}, which holds test items of this task. Score the "
                "split the edit was learned with, or a file it was not learned on."
            )
        return
    for way in ("fold", "split", "split_seed", "group"):
        now, then = (_as_listed(source.get(way)) for source in (task.source, trained_on))
        if now != then:
            raise LofitLensError(
                f"The edit was learned on {there} with {way} = {then}, this task has {now}: its test "
                "items may have been trained on. Score the split the edit was learned with."
            )


def _files(name: Any, *splits: str) -> set[str]:
    """The files of some splits; all three are dealt from a file that is named alone."""
    if isinstance(name, Mapping):
        return {name[split] for split in splits if split in name}
    return {name} if name else set()


def _as_listed(value: Any) -> Any:
    """A tuple as the list it becomes in a JSON file."""
    return list(value) if isinstance(value, tuple) else value
