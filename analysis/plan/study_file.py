"""A study file: what it says, read and checked before anything is run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lofit_lens.analysis.kinds.compare import check_seeds
from lofit_lens.analysis.methods.names import ALIASES, DIRECTIONS, bare_name, named_methods
from lofit_lens.analysis.methods.presets import PRESETS
from lofit_lens.analysis.methods.selectors import SELECTORS
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.methods.whole import TRAINED, WHOLE
from lofit_lens.analysis.plan.entries import ModelEntry, TaskEntry
from lofit_lens.analysis.plan.experiments import BY_NAME, Causal, Experiment, Lofit
from lofit_lens.analysis.plan.lines import Place
from lofit_lens.analysis.plan.options import Options, combined, settings_of
from lofit_lens.analysis.plan.problems import Problems, StudyFileError
from lofit_lens.analysis.study.keys import key_of
from lofit_lens.analysis.study.record import ZERO_SHOT
from lofit_lens.grid import MOST, HeadGrid
from lofit_lens.tasks.load import FIXED
from lofit_lens.tasks.named_files import named_file

METHODS = (
    ZERO_SHOT, *ALIASES, *WHOLE,
    *(f"{heads}/{direction}" for heads in SELECTORS for direction in DIRECTIONS),
)  # fmt: skip
"""Names of methods, for hints."""

ANY = HeadGrid(MOST, MOST)
"""Heads of a model that is not known yet."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The first level of a study file, its tables as they are."""

    name: str
    models: list[Any]
    tasks: list[Any]
    experiments: list[Any]
    settings: dict[str, Any] = {}
    budget_hours: float | None = None


@dataclass(frozen=True, eq=False)
class StudyFile:
    """What a study file says.

    Attributes:
        name: Heading of its report.
        models: The models.
        tasks: The tasks.
        experiments: The experiments, in their order.
        settings: How methods are fitted.
        by_task: What differs for a task, by its name in the study.
        budget_hours: After how many hours nothing more is begun.
        content: The document.
        problems: What notes mistakes at their lines.
    """

    name: str
    models: Sequence[ModelEntry]
    tasks: Sequence[TaskEntry]
    experiments: Sequence[Experiment]
    settings: Options
    by_task: Mapping[str, Options]
    budget_hours: float | None
    content: Mapping[str, Any] = field(repr=False)
    problems: Problems = field(repr=False)

    @property
    def key(self) -> str:
        """A hash of all that its results depend on."""
        return key_of({name: v for name, v in self.content.items() if name != "budget_hours"})


def read_study(path: str | Path) -> StudyFile:
    """Read a study file and check what can be checked without its models and data.

    Raises:
        StudyFileError: It is not there, is not TOML, or has mistakes; all of them are named, each
            with its line and, of a wrong name, the nearest valid one.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
    except FileNotFoundError:
        raise StudyFileError(f"There is no study file {path}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise StudyFileError(f"The study file {path} cannot be read as TOML: {error}.") from error
    problems = Problems(path, text)
    document = problems.read(content, Document, ())
    if document is None:
        problems.check()
    assert document is not None
    settings, by_task = _settings(document, problems)
    models = [
        ModelEntry.completed(m) for m in _each(document.models, ModelEntry, "models", problems)
    ]
    tasks = _each(document.tasks, TaskEntry, "tasks", problems)
    experiments = _experiments(document.experiments, problems)
    read = models, tasks, experiments
    if [*map(len, read)] != [*map(len, (document.models, document.tasks, document.experiments))]:
        problems.check()  # what is left has other places
    study = StudyFile(
        document.name, models, tasks, experiments, settings, by_task, document.budget_hours,
        content, problems,
    )  # fmt: skip
    _check_entries(study)
    for number, experiment in enumerate(experiments):
        _check_experiment(study, experiment, ("experiments", number))
    problems.check()
    return study


def _settings(document: Document, problems: Problems) -> tuple[Options, dict[str, Options]]:
    """The settings of the study, and those of a task, which are tables with its name."""
    names = {field.name for field in msgspec.structs.fields(Options)}
    names_of_tasks = [
        str(t.get("name") or t.get("task")) for t in document.tasks if isinstance(t, dict)
    ]
    shared, by_task = {}, {}
    for name, value in document.settings.items():
        if name in names:
            shared[name] = value
        elif not isinstance(value, dict):
            problems.unknown(("settings", name), "setting", name, [*names])
        elif name in names_of_tasks:
            by_task[name] = problems.read(value, Options, ("settings", name)) or Options()
        else:
            problems.unknown(("settings", name), "setting or task", name, [*names_of_tasks, *names])
    return problems.read(shared, Options, ("settings",)) or Options(), by_task


def _each(rows: Sequence[Any], kind: Any, name: str, problems: Problems) -> list[Any]:
    if not rows:
        problems.add((name,), f"{name} is empty; give at least one [[{name}]]")
    found = [problems.read(row, kind, (name, number)) for number, row in enumerate(rows)]
    return [one for one in found if one is not None]


def _experiments(rows: Sequence[Any], problems: Problems) -> list[Experiment]:
    found = []
    if not rows:
        problems.add(("experiments",), "experiments is empty; give at least one [[experiments]]")
    for number, row in enumerate(rows):
        place: Place = ("experiments", number)
        kind = row.get("kind") if isinstance(row, dict) else None
        if kind in BY_NAME:
            one = problems.read(row, BY_NAME[kind], place)
            if one is not None:
                found.append(msgspec.structs.replace(one, name=one.name or kind))
        elif kind is None:
            problems.add(place, f"kind is missing; it is one of {', '.join(BY_NAME)}")
        else:
            problems.unknown((*place, "kind"), "kind of experiment", str(kind), BY_NAME)
    return found


def _check_entries(study: StudyFile) -> None:
    problems = study.problems
    _check_twice(problems, "models", [model.name for model in study.models])
    _check_twice(problems, "tasks", [task.called for task in study.tasks])
    _check_twice(problems, "experiments", [one.name for one in study.experiments])
    for number, model in enumerate(study.models):
        if model.preset not in (None, *PRESETS):
            problems.unknown(("models", number, "preset"), "preset", model.preset, PRESETS)
    for number, task in enumerate(study.tasks):
        with problems.at(("tasks", number, "task")):
            if named_file(task.task) is None and task.task not in FIXED:
                problems.unknown(("tasks", number, "task"), "task", task.task, FIXED)
        if task.system is not None and not task.chat:
            problems.add(
                ("tasks", number, "system"), "system is a part of the chat; give chat = true"
            )
    if study.budget_hours is not None and not study.budget_hours > 0:
        problems.add(("budget_hours",), f"budget_hours must be above 0, got {study.budget_hours}")
    for place, options in [
        (("settings",), study.settings),
        *((("settings", name), own) for name, own in study.by_task.items()),
    ]:
        with problems.at(place):
            settings_of(combined(options), None, "", ANY, seed=0).n_heads(ANY)
        for name in set(options.rates or ()) - set(TRAINED):
            problems.unknown((*place, "rates"), "method with a learning rate", name, TRAINED)


def _check_experiment(study: StudyFile, one: Experiment, place: Place) -> None:
    problems = study.problems
    for what, given, known in (
        ("models", one.models, [model.name for model in study.models]),
        ("tasks", one.tasks, [task.called for task in study.tasks]),
    ):
        for name in given:
            if name not in known:
                problems.unknown((*place, what), what.removesuffix("s"), name, known)
    with problems.at((*place, "seeds")):
        check_seeds(one.seeds)
    if one.random_draws < (0 if one.apart or not one.folds else 1):
        problems.add((*place, "random_draws"), f"random_draws is too small, got {one.random_draws}")
    with problems.at((*place, "settings")):
        options = combined(study.settings, one.settings)
        settings_of(options, None, "", ANY, seed=0).n_heads(ANY)
    scope = one.settings.scope or study.settings.scope or "all"
    _check_names(one, place, problems, Settings(scope=scope))
    if isinstance(one, Causal):
        of = [other.name for other in study.experiments if isinstance(other, Lofit)]
        if one.of not in of:
            problems.unknown((*place, "of"), "lofit experiment", one.of, of or ["none"])
        if one.models or one.tasks or one.seeds != Experiment().seeds:
            problems.add(place, f"models, tasks and seeds are those of {one.of}; leave them out")


def _check_names(one: Any, place: Place, problems: Problems, settings: Settings) -> None:
    """Refuse methods, selectors and models of the paper that there are not."""
    methods: Sequence[str] = getattr(one, "methods", ())
    if len(set(methods)) < len(methods):
        problems.add((*place, "methods"), f"methods may appear once; got {', '.join(methods)}")
    for name in dict.fromkeys(methods):
        kind = bare_name(name)
        heads, _, direction = kind.rpartition("/")
        if kind not in METHODS and (direction not in DIRECTIONS or heads in ("", *SELECTORS)):
            problems.unknown((*place, "methods"), "method", name, METHODS)
        elif kind != ZERO_SHOT:
            with problems.at((*place, "methods")):
                named_methods([name], settings)
    base = getattr(one, "base", ZERO_SHOT)
    if base not in (ZERO_SHOT, *methods):
        problems.unknown((*place, "base"), "method to compare with, among these,", base, methods)
    selector = getattr(one, "heads", "lofit")
    if selector not in SELECTORS:
        problems.unknown((*place, "heads"), "head selector", selector, SELECTORS)


def _check_twice(problems: Problems, what: str, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            problems.add(
                (what, number), f"{name} is in {what} twice; give one of them another name"
            )
