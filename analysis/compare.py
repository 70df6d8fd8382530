"""Methods x tasks x seeds under one protocol: same splits, prompts, scorer, seeds, token scope."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from lofit_lens.analysis.comparison.results import Comparison
from lofit_lens.analysis.comparison.run import ComparisonRun, Cost
from lofit_lens.analysis.leaks import check_splits, check_templates, sealed
from lofit_lens.analysis.methods import Fitted, Leaky, Method, Settings
from lofit_lens.analysis.named_methods import named_methods
from lofit_lens.analysis.side_effects import (
    is_refusal,
    kl_on,
    open_answers,
    sample_texts,
    side_effects,
)
from lofit_lens.edit import Edit
from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.provenance import library_versions
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.task import MultipleChoice, Task
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ZERO_SHOT = "zero-shot"


def compare(
    model: TransformerBridge,
    tasks: Sequence[Task],
    methods: Sequence[str] | Mapping[str, Method | Sequence[Method]],
    *,
    seeds: Sequence[int] = (42,),
    settings: Settings | Mapping[str, Settings] | None = None,
    texts: Sequence[EncodedText] | None = None,
    n_answers: int = 0,
    done: Sequence[ComparisonRun] = (),
    on_run: Callable[[ComparisonRun], object] | None = None,
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
        seeds: Seeds of the methods.
        settings: What the named methods share, for all tasks or by task name; default `Settings()`.
        texts: Plain text on which side effects are measured; default: 64 texts sampled from the
            unedited model with a fixed seed.
        n_answers: Test questions of multiple-choice tasks to answer greedily as well, for reading
            and for the share of refusals.
        done: Runs of an earlier comparison with the same protocol; they are not run again.
        on_run: Called with each new run as soon as it is there, as to save it.
        progress: Whether to show a bar.

    Raises:
        LeakError: A test item is among the training or validation items, or a method read the test
            split while it was fitted.
        ScoringError: An edit left every scored token as it was.
        LofitLensError: A name is unknown or repeats, or `done` was made under another protocol.
        TrainingStopped: Training became unstable.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise LofitLensError(f"Tasks need different names, and at least one; got {names}.")
    if not seeds:
        raise LofitLensError("seeds is empty; give at least one.")
    by_task = _by_task(settings, names)
    protocols = {task.name: _protocol(task, by_task[task.name]) for task in tasks}
    finished = _finished(done, protocols)
    texts = tuple(texts) if texts is not None else sample_texts(model)
    plan = [
        (name, method, task, seed)
        for task in tasks
        for name, draws in _methods(methods, by_task[task.name], model, texts).items()
        for seed in (seeds[:1] if name == ZERO_SHOT else seeds)
        for method in draws
    ]
    runs = []
    untuned: dict[str, Evaluation] = {}
    for name, method, task, seed in tqdm(plan, desc="compare", disable=not progress):
        waiting = finished[name, task.name, seed]
        if waiting:
            run = waiting.popleft()
        else:
            try:
                bench = _Bench(model, by_task[task.name].batch_size, texts, n_answers)
                run = bench.run(name, method, task, seed, protocols[task.name], untuned)
            except LofitLensError as error:
                error.add_note(f"in method {name} on {task.name} with seed {seed}")
                raise
            if on_run is not None:
                on_run(run)
        if name == ZERO_SHOT:
            untuned[task.name] = run.evaluation
        runs.append(run)
    return Comparison(tuple(runs))


@dataclass(frozen=True)
class _Bench:
    """Where all methods are measured alike."""

    model: TransformerBridge
    batch_size: int
    texts: Sequence[EncodedText]
    n_answers: int

    def run(
        self,
        name: str,
        method: Method,
        task: Task,
        seed: int,
        protocol: Mapping[str, Any],
        untuned: Mapping[str, Evaluation],
    ) -> ComparisonRun:
        given = task if isinstance(method, Leaky) else sealed(task)
        with _measured(self.model) as fitting:
            fitted = method(self.model, given, seed)
        with _measured(self.model) as scoring:
            scored = evaluate(
                self.model, task, fitted.edit, batch_size=self.batch_size, progress=False
            )
        effects = self._side_effects(fitted.edit)
        if fitted.edit is not None:
            check_effect(untuned[task.name], scored, kl=effects["kl"])
        answers = self._answers(task, fitted.edit)
        if answers:
            refusals = sum(is_refusal(answer["answer"]) for answer in answers)
            effects["refusals"] = refusals / len(answers)
        return ComparisonRun(
            method=name,
            task=base_name(task),
            fold=task.name,
            seed=seed,
            evaluation=scored,
            cost=Cost(
                parameters=fitted.edit.n_parameters if fitted.edit is not None else 0,
                fit_seconds=fitting.seconds,
                score_seconds=scoring.seconds,
                fit_tokens=fitting.tokens,
                score_tokens=scoring.tokens,
            ),
            side_effects=effects,
            choices=dict(fitted.choices),
            heads=[list(head) for head in fitted.heads] if fitted.heads is not None else None,
            answers=answers,
            protocol=dict(protocol),
        )

    def _side_effects(self, edit: Edit | None) -> dict[str, float]:
        found = side_effects(self.model, edit, self.texts, batch_size=self.batch_size)
        return {"cross_entropy": found.cross_entropy, "kl": found.kl}

    def _answers(self, task: Task, edit: Edit | None) -> list[dict[str, str]]:
        if not self.n_answers or not isinstance(task.scoring, MultipleChoice):
            return []
        return open_answers(self.model, task, edit, n=self.n_answers, batch_size=self.batch_size)


def check_effect(untuned: Evaluation, edited: Evaluation, *, kl: float) -> None:
    """Refuse the scores of an edit that did not reach what is scored.

    Under multiple choice some log-probability must have changed. Generated text may stay the same
    under a weak edit; then the distribution over plain text must have changed.

    Args:
        untuned: Scores of the model as it is.
        edited: Scores of the same items under the edit.
        kl: KL divergence from the unedited model on plain text.

    Raises:
        ScoringError: The edit changed nothing.
    """
    seen = ("correct", "incorrect") if "correct" in edited.records[0] else ("generated",)
    before, after = ([[r[key] for key in seen] for r in e.records] for e in (untuned, edited))
    if before == after and (seen != ("generated",) or kl == 0):
        raise ScoringError(
            f"The edit changed none of the {len(after)} scored items of {edited.task}, so its score would "
            "be the unedited model's. Either it is zero, or its token scope leaves every scored token "
            'alone, as "iti_compat" does for answers of one or two tokens. Use another scope.'
        )


def base_name(task: Task) -> str:
    """The name that all folds of a task share."""
    return str(task.source["name"]) if "fold" in task.source else task.name


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
    methods: Sequence[str] | Mapping[str, Method | Sequence[Method]],
    settings: Settings,
    model: TransformerBridge,
    texts: Sequence[EncodedText],
) -> dict[str, Sequence[Method]]:
    """The draws of each method on one task, zero-shot first."""
    if not isinstance(methods, Mapping):
        kl = kl_on(model, texts, batch_size=settings.batch_size)
        named = [name for name in methods if name != ZERO_SHOT]
        methods = named_methods(named, settings, kl=kl if settings.kl_budget else None)
    drawn = {name: m if isinstance(m, Sequence) else (m,) for name, m in methods.items()}
    return {ZERO_SHOT: (_leave_alone,), **drawn}


def _protocol(task: Task, settings: Settings) -> dict[str, Any]:
    """What every method on a task has in common; leaks are refused here."""
    check_splits(task)
    return {
        "settings": settings.to_json(),
        "data_hash": task.data_hash(),
        "templates": check_templates(task),
        "versions": library_versions(),
    }


def _finished(
    done: Sequence[ComparisonRun], protocols: Mapping[str, Mapping[str, Any]]
) -> defaultdict[tuple[str, str, int], deque[ComparisonRun]]:
    """Earlier runs by method, task and seed; the draws of one seed in their order."""
    found: defaultdict[tuple[str, str, int], deque[ComparisonRun]] = defaultdict(deque)
    for run in done:
        found[run.method, run.fold, run.seed].append(run)
        expected = protocols.get(run.fold)
        if expected is not None and run.protocol != expected:
            odd = [key for key, value in expected.items() if run.protocol.get(key) != value]
            raise LofitLensError(
                f"The finished run of {run.method} on {run.fold} was made with other "
                f"{', '.join(odd)}. Start anew in another folder, or give the settings of the earlier runs."
            )
    return found


@dataclass
class _Measured:
    """Seconds and tokens of a stretch of work."""

    seconds: float = 0.0
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)


@contextmanager
def _measured(model: TransformerBridge) -> Iterator[_Measured]:
    """Count the seconds, and the tokens that enter the first block, padding included."""
    measured = _Measured()

    def count(h: Any, hook: object = None) -> None:  # noqa: ARG001
        measured.tokens += h.shape[0] * h.shape[1]

    try:
        with model.hooks(fwd_hooks=[("blocks.0.hook_in", count)]):
            yield measured
    finally:
        measured.seconds = time.perf_counter() - measured.started
