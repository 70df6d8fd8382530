"""Scores by share of the heads (Figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from lofit_lens.analysis.comparison.compare import ZERO_SHOT
from lofit_lens.analysis.comparison.run import ComparisonRun
from lofit_lens.analysis.measure.side_effects import kl_on, sample_texts
from lofit_lens.analysis.methods.names import ALIASES, named_methods
from lofit_lens.analysis.methods.recipes import Learned
from lofit_lens.analysis.methods.settings import Fitted, Method, Settings
from lofit_lens.analysis.sweeping.folder import SweepFolder
from lofit_lens.analysis.sweeping.results import Sweep
from lofit_lens.analysis.sweeping.steps import Steps, check_request, settings_for
from lofit_lens.attention import heads_of
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.progress import long_bar
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import EncodedText
from lofit_lens.training.config import TuningConfig
from lofit_lens.tuning import tune_heads

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ByTask = Settings | Mapping[str, Settings]
Heads = tuple[tuple[int, int], ...]

_RANKED = "ranked_with_k"
"""In the choices of a run: how many heads were chosen when its own were put in order."""


def head_sweep(
    model: TransformerBridge,
    tasks: Sequence[Task],
    fractions: Sequence[float] = (0.01, 0.03, 0.1, 0.2, 0.5),
    *,
    methods: Sequence[str] = ("lofit",),
    seeds: Sequence[int] = (42,),
    settings: ByTask | Callable[[float], ByTask] | None = None,
    texts: Sequence[EncodedText] | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Sweep:
    """Compare methods on fewer and more heads (paper, Figure 5).

    The largest share comes first, and is `compare` at that share. Smaller shares then tune the best
    of the heads chosen there, anew: heads are chosen once for each task and seed, and that is in the
    cost of the largest share only. With one choice of settings, a score is what `compare` would give
    at that share alone.

    A folder may hold runs of another ranking, as of a sweep whose largest share and its settings were
    others. They are run again: what counts at a smaller share are runs on the best of the heads that
    the largest share chose here, and at the largest share runs that chose their heads themselves.

    Args:
        model: A frozen bridge from `load_model`.
        tasks: The tasks, with different names.
        fractions: Shares of all heads, each a different number of heads.
        methods: Names of methods that edit chosen heads, as "lofit", "random-heads",
            "probes/bias" or "iti" (see `named_methods`). ITI looks for its direction at each share.
        seeds: Seeds of the methods.
        settings: As for `compare`, or a function of the share that gives them, since fewer heads ask
            for a larger learning rate (paper, Table 6). Their number of heads is replaced; heads are
            chosen with those of the largest share.
        texts: As for `compare`.
        folder: As for `example_sweep`.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: A method edits no chosen heads or a fixed list; there are no shares, seeds,
            tasks or methods, or they repeat; two shares are one number of heads; the folder
            holds something else; as `compare`.
        TrainingStopped: Training became unstable.
    """
    check_request(tasks, seeds)
    names = [name for name in methods if name != ZERO_SHOT]
    _check_methods(names)
    total = heads_of(model).total
    own = {
        k: {task.name: _at(share, k, task, settings) for task in tasks}
        for k, share in _numbers(fractions, total).items()
    }
    most = next(iter(own))
    texts = tuple(texts) if texts is not None else sample_texts(model)
    steps = Steps(model, "heads", texts, None if folder is None else SweepFolder(folder, "heads"))
    first: dict[tuple[str, int], tuple[ComparisonRun, ...]] = {}
    plan = [(k, task, seed) for k in own for task in tasks for seed in seeds]
    for k, task, seed in long_bar(plan, "head sweep", progress=progress):
        chosen = own[k][task.name]
        if k != most and chosen.selection.learning_rate == "auto":
            chosen = replace(chosen, selection=own[most][task.name].selection)
        chosen = own[k][task.name] = steps.with_rates(k, task, seed, names, chosen)
        kl = kl_on(model, texts, batch_size=chosen.batch_size)
        by_name = named_methods(names, chosen, kl=None if chosen.kl_budget is None else kl)
        learned = [name for name in names if _is_learned(name)]
        if k == most:
            first[task.name, seed] = steps.run(k, task, seed, by_name, chosen, _own_choice)
            continue
        best = {name: _best(k, name, first[task.name, seed]) for name in learned}
        by_name |= {name: _on(best[name], name, chosen, most, model) for name in learned}
        steps.run(k, task, seed, by_name, chosen, partial(_on_these, best))
    return steps.sweep()


def _best(k: int, name: str, runs: Sequence[ComparisonRun]) -> list[Heads]:
    """The best `k` of the heads that each draw of a method chose."""
    chosen = [run.heads or () for run in runs if run.method == name]
    return [tuple((layer, head) for layer, head in heads[:k]) for heads in chosen]


def _on(
    draws: Sequence[Heads], name: str, settings: Settings, most: int, model: TransformerBridge
) -> list[Method]:
    """A method on given heads, draw by draw."""
    _, direction, scope = _parts(name)
    tuning = replace(settings.tuning, component=direction, scope=scope or settings.scope)
    shape = heads_of(model).shape
    return [_tuned(HeadSet(heads, **shape), tuning, {_RANKED: most}) for heads in draws]


def _tuned(heads: HeadSet, tuning: TuningConfig, choices: Mapping[str, int]) -> Method:
    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        config = replace(tuning, seed=seed)
        edit = tune_heads(model, task, heads, config, progress=False)
        return Fitted(edit, choices=choices, heads=heads)

    return fit


def _own_choice(runs: Sequence[ComparisonRun]) -> list[ComparisonRun]:
    """The runs that did not get their heads from a larger share."""
    return [run for run in runs if _RANKED not in run.choices]


def _on_these(
    best: Mapping[str, Sequence[Heads]], runs: Sequence[ComparisonRun]
) -> list[ComparisonRun]:
    """All runs of other methods, and of these the runs on the best heads, up to the first missing.

    They come in the order of the draws, in which `compare` takes them.
    """
    kept = [run for run in runs if run.method not in best]
    for name, draws in best.items():
        left = [run for run in runs if run.method == name]
        for heads in draws:
            place = next((i for i, run in enumerate(left) if _same(run.heads, heads)), None)
            if place is None:
                break
            kept.append(left.pop(place))
    return kept


def _same(found: Sequence[Sequence[int]] | None, heads: Heads) -> bool:
    return found is not None and tuple(map(tuple, found)) == heads


def _parts(name: str) -> tuple[str, str, str]:
    """Which heads, what is done to them, and the token scope, if the name has them."""
    kind, _, scope = name.partition("@")
    chosen, _, direction = ALIASES.get(kind, kind).rpartition("/")
    return chosen, direction, scope


def _is_learned(name: str) -> bool:
    return _parts(name)[1] in get_args(Learned)


def _check_methods(names: Sequence[str]) -> None:
    if not names:
        raise LofitLensError("methods is empty; give at least one, such as lofit.")
    named_methods(names)
    for name in names:
        chosen = _parts(name)[0]
        if not chosen or Path(chosen).suffix in (".npy", ".json"):
            raise LofitLensError(
                f"{name!r} does not choose a number of heads, so it has no place in a sweep over them. "
                "Give methods that do, such as lofit, random-heads, probes/bias or iti."
            )


def _numbers(fractions: Sequence[float], total: int) -> dict[int, float]:
    """The shares by number of heads, the largest first."""
    found: dict[int, float] = {}
    for share in sorted(fractions, reverse=True):
        k = number_of_heads(total, fraction=share)
        if k in found:
            raise LofitLensError(
                f"The shares {share:g} and {found[k]:g} of {total} heads are both {k}. Leave one out."
            )
        found[k] = share
    if not found:
        raise LofitLensError("fractions is empty; give at least one share, such as 0.03.")
    return found


def _at(
    share: float, k: int, task: Task, settings: ByTask | Callable[[float], ByTask] | None
) -> Settings:
    given = settings(share) if callable(settings) else settings
    return replace(settings_for(task, given), k=k, fraction=None)
