"""Methods x tasks x seeds under one protocol: same splits, prompts, scorer, seeds, token scope."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.comparison.bench import Bench, base_name
from lofit_lens.analysis.comparison.rates import with_rates
from lofit_lens.analysis.comparison.results import Comparison
from lofit_lens.analysis.comparison.run import ComparisonRun
from lofit_lens.analysis.measure.leaks import check_splits
from lofit_lens.analysis.measure.side_effects import kl_on, sample_texts
from lofit_lens.analysis.measure.templates import check_templates
from lofit_lens.analysis.methods.names import named_methods
from lofit_lens.analysis.methods.settings import Fitted, Method, Settings
from lofit_lens.attention import heads_of
from lofit_lens.errors import LeakError, LofitLensError
from lofit_lens.identity import fingerprint, tokenizer_of
from lofit_lens.progress import long_bar
from lofit_lens.provenance import library_versions
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ZERO_SHOT = "zero-shot"

Methods = Sequence[str] | Mapping[str, Method | Sequence[Method]]
Key = tuple[str, str, int | None]


def check_tasks(tasks: Sequence[Task]) -> None:
    """Refuse tasks that cannot be compared on.

    Raises:
        LeakError: A test item is among the training or validation items.
        LofitLensError: There is no task, or two have one name.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise LofitLensError(f"Tasks need different names, and at least one; got {names}.")
    for task in tasks:
        task.check_trainable()
        check_splits(task)


def compare(
    model: TransformerBridge,
    tasks: Sequence[Task],
    methods: Methods,
    *,
    seeds: Sequence[int] = (42,),
    settings: Settings | Mapping[str, Settings] | None = None,
    texts: Sequence[EncodedText] | None = None,
    n_answers: int = 0,
    done: Sequence[ComparisonRun] = (),
    on_run: Callable[[ComparisonRun], object] | None = None,
    on_failure: Callable[[LofitLensError], object] | None = None,
    progress: bool = True,
) -> Comparison:
    """Fit and score every method on every task with every seed (paper, Tables 1 to 3).

    A method is fitted on a task whose test split is sealed: reading it raises. Zero-shot is always
    among the methods and is scored once. Tasks that are folds of one task, as the two of
    TruthfulQA, are fitted fold by fold and reported together.

    Args:
        model: A frozen bridge from `load_model`.
        tasks: The tasks, with different names.
        methods: Names (see `named_methods`), or functions of one's own by name. Several functions
            under one name are draws for each seed, and their runs are averaged.
        seeds: Seeds of the methods; those in the settings are replaced.
        settings: What the named methods share, for all tasks or by task name; default `Settings()`.
        texts: Plain text on which side effects are measured; default: 64 texts sampled from the
            unedited model with a fixed seed.
        n_answers: Test questions of multiple-choice tasks to answer greedily as well, for reading
            and for the share of refusals.
        done: Runs of an earlier comparison under the same protocol; they are not run again.
        on_run: Called with each new run as soon as it is there, as to save it.
        on_failure: Called with the error of a method that fails; the method is then left out on that
            task and the others go on. None: the error ends the comparison. A leak always does.
        progress: Whether to show a bar.

    Raises:
        LeakError: A test item is among the training or validation items, or a method read the test
            split while it was fitted.
        ScoringError: An edit left every scored token as it was.
        LofitLensError: A name is unknown or repeats, or `done` was made under another protocol.
        TrainingStopped: Training became unstable.
    """
    check_tasks(tasks)
    names = [task.name for task in tasks]
    if not seeds:
        raise LofitLensError("seeds is empty; give at least one.")
    by_task = _by_task(settings, names)
    if not isinstance(methods, Mapping):
        named_methods([name for name in methods if name != ZERO_SHOT], by_task[names[0]])
    for task in tasks:
        by_task[task.name].n_heads(model)
    if not isinstance(methods, Mapping):
        for task in tasks:
            earlier = [run.protocol for run in done if run.fold == task.name and run.protocol]
            by_task[task.name] = with_rates(
                model,
                task,
                by_task[task.name],
                methods,
                seed=seeds[0],
                earlier=earlier,
                progress=progress,
            )
    texts = tuple(texts) if texts is not None else sample_texts(model)
    grid = heads_of(model)
    shared = {
        "model": fingerprint(model).weights,
        "tokenizer": tokenizer_of(model),
        "shape": [grid.n_layers, grid.n_heads],
        **({"without": list(grid.without)} if grid.without else {}),
        "texts": hashlib.sha256(repr([text.ids for text in texts]).encode()).hexdigest(),
        "n_answers": n_answers,
        "versions": library_versions(),
    }
    protocols = {task.name: shared | _protocol(task, by_task[task.name]) for task in tasks}
    finished = _finished(done, protocols)
    plan = [
        (name, method, task, seed)
        for task in tasks
        for name, draws in _methods(methods, by_task[task.name], model, texts).items()
        for seed in (seeds[:1] if name == ZERO_SHOT else seeds)
        for method in draws
    ]
    runs: list[ComparisonRun] = []
    untuned: dict[str, Evaluation] = {}
    failed: set[tuple[str, str]] = set()
    for name, method, task, seed in long_bar(plan, "compare", progress=progress):
        if (name, base_name(task)) in failed:
            continue
        waiting = finished[_key(name, task.name, seed)]
        try:
            if waiting:
                run = waiting.popleft()
            else:
                bench = Bench(model, by_task[task.name].batch_size, texts, n_answers)
                before = untuned.get(task.name)
                run = bench.run(name, method, task, seed, protocols[task.name], before)
                if on_run is not None:
                    on_run(run)
        except LofitLensError as error:
            error.add_note(f"This was method {name} on {task.name} with seed {seed}.")
            if on_failure is None or name == ZERO_SHOT or isinstance(error, LeakError):
                raise
            failed.add((name, base_name(task)))
            on_failure(error)
            continue
        if name == ZERO_SHOT:
            untuned[task.name] = run.evaluation
        runs.append(run)
    return Comparison(tuple(run for run in runs if (run.method, run.task) not in failed))


def _leave_alone(_model: TransformerBridge, _task: Task, _seed: int) -> Fitted:
    return Fitted(None)


def _by_task(
    settings: Settings | Mapping[str, Settings] | None, tasks: Sequence[str]
) -> dict[str, Settings]:
    if not isinstance(settings, Mapping):
        return dict.fromkeys(tasks, settings or Settings())
    missing = [name for name in tasks if name not in settings]
    if missing:
        raise LofitLensError(f"`settings` lacks {', '.join(missing)}.")
    return {name: settings[name] for name in tasks}


def _methods(
    methods: Methods,
    settings: Settings,
    model: TransformerBridge,
    texts: Sequence[EncodedText],
) -> dict[str, Sequence[Method]]:
    """The draws of each method on one task, zero-shot first."""
    if not isinstance(methods, Mapping):
        kl = kl_on(model, texts, batch_size=settings.batch_size)
        named = [name for name in methods if name != ZERO_SHOT]
        methods = named_methods(named, settings, kl=None if settings.kl_budget is None else kl)
    drawn = {name: m if isinstance(m, Sequence) else (m,) for name, m in methods.items()}
    return {ZERO_SHOT: (_leave_alone,), **drawn}


def _protocol(task: Task, settings: Settings) -> dict[str, Any]:
    """What every method on one task has in common, as plain JSON values."""
    return {
        "settings": settings.to_json(),
        "data_hash": task.data_hash(),
        "templates": check_templates(task),
        **({"chat": chat} if (chat := task.source.get("chat")) else {}),
    }


def _finished(
    done: Sequence[ComparisonRun], protocols: Mapping[str, Mapping[str, Any]]
) -> defaultdict[Key, deque[ComparisonRun]]:
    """Earlier runs by method, task and seed; the draws of one seed in their order."""
    found: defaultdict[Key, deque[ComparisonRun]] = defaultdict(deque)
    for run in done:
        found[_key(run.method, run.fold, run.seed)].append(run)
        expected = protocols.get(run.fold)
        if expected is not None and run.protocol != expected:
            odd = [key for key, value in expected.items() if run.protocol.get(key) != value]
            raise LofitLensError(
                f"The finished run of {run.method} on {run.fold} was made with other "
                f"{', '.join(odd)}. Start anew in another folder, or give what the earlier runs had."
            )
    return found


def _key(method: str, fold: str, seed: int) -> Key:
    """The seed makes no difference to zero-shot."""
    return method, fold, None if method == ZERO_SHOT else seed
