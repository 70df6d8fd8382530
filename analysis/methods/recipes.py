"""How each method of a comparison is put together from its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from lofit_lens.analysis.baselines.bitfit import train_bitfit
from lofit_lens.analysis.baselines.contrast import ContrastConfig, fit_contrast
from lofit_lens.analysis.baselines.gates import GateConfig, train_gates
from lofit_lens.analysis.baselines.iti import ITI, fit_iti
from lofit_lens.analysis.baselines.iti_config import ITIConfig
from lofit_lens.analysis.baselines.loreft import train_loreft
from lofit_lens.analysis.baselines.lorra import train_lorra
from lofit_lens.analysis.baselines.repe import DirectionKind, ReadingConfig, fit_reading_vector
from lofit_lens.analysis.baselines.rivals import train_ia3, train_lora, train_red
from lofit_lens.analysis.baselines.selectors import selector
from lofit_lens.analysis.baselines.validation import choose_on_validation
from lofit_lens.analysis.methods.settings import Fitted, Leaky, Method, Settings
from lofit_lens.attention import heads_of
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError
from lofit_lens.head_lists import is_head_list
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task
from lofit_lens.tuning import tune_heads

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

KL = Callable[[Edit], float]

Learned = Literal["bias", "scale"]
"""What can be learned on chosen heads, beside the directions of ITI."""

LORRA_STRENGTHS = (1.0, 2.0, 5.0)
"""How far LoRRA's targets lie along the contrast; one is chosen on validation. The authors take 5."""

RANDOM = ("random", "layer-matched")
"""Selectors that may be drawn several times for one seed."""


def on_heads(chosen: str, direction: Any, draw: int, settings: Settings, kl: KL | None) -> Method:
    """Heads of some selector, with something learned on them or moved along a direction of ITI."""
    select = _heads(chosen, draw, settings)
    learned = direction in get_args(Learned)
    iti = None
    if not learned:
        iti = ITIConfig(direction=direction, scope=settings.scope, kl_budget=settings.kl_budget)

    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        if iti is None:
            heads = select(model, task, seed)
            config = replace(settings.tuning, component=direction, seed=seed)
            choices = {"learning_rate": config.learning_rate} if config.rate_choice else {}
            edit = tune_heads(model, task, heads, config, progress=False)
            return Fitted(edit, choices, heads)
        own = chosen == "probes"  # then ITI ranks the heads itself
        heads = None if own else select(model, task, seed)
        ks = (settings.n_heads(model),) if heads is None else (len(heads),)
        found = fit_iti(
            model, task, replace(iti, ks=ks), seed=seed, heads=heads, kl=kl,
            batch_size=settings.batch_size,
        )  # fmt: skip
        return _iti_fitted(found)

    return fit


def _heads(
    chosen: str, draw: int, settings: Settings
) -> Callable[[TransformerBridge, Task, int], HeadSet]:
    """The heads of a selector, as many as the settings say, or all those of a file."""
    listed = is_head_list(chosen)
    score = selector(
        chosen,
        selection=settings.selection,
        tuning=settings.tuning,
        gates=_gates(settings),
        batch_size=settings.batch_size,
        draw=draw,
    )

    def choose(model: TransformerBridge, task: Task, seed: int) -> HeadSet:
        if listed:
            return HeadSet.load(chosen, **heads_of(model).shape)
        return score(model, task, seed).top(k=settings.n_heads(model))

    return choose


def _iti_fitted(found: ITI) -> Fitted:
    edit = found.edit()
    trials = [{"alpha": t.key[1], "score": t.score, "kl": t.kl} for t in found.trials]
    return Fitted(edit, {"alpha": found.alpha, "k": found.k, "trials": trials}, edit.heads)


def reading(direction: DirectionKind, settings: Settings, kl: KL | None) -> Method:
    """The reading vector of RepE."""
    config = ReadingConfig(
        direction=direction,
        scope=settings.scope,
        kl_budget=settings.kl_budget,
        batch_size=settings.batch_size,
    )

    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        found = fit_reading_vector(model, task, config, seed=seed, kl=kl)
        trials = [] if found.by_alpha is None else found.by_alpha.to_json()
        chosen = {"layer": found.layer, "alpha": found.alpha, "trials": trials}
        return Fitted(found.edit(), chosen)

    return fit


def contrast(settings: Settings, kl: KL | None) -> Method:
    """The contrast vector of RepE."""
    config = ContrastConfig(
        scope=settings.scope, kl_budget=settings.kl_budget, batch_size=settings.batch_size
    )

    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:  # noqa: ARG001
        found = fit_contrast(model, task, config, kl=kl)
        steps = [choice for choice in (found.by_layer, found.by_alpha) if choice is not None]
        trials = [trial for choice in steps for trial in choice.to_json()]
        edit = found.edit
        chosen = {"layer": edit.layers[0], "alpha": edit.alpha, "trials": trials}
        return Fitted(edit, {"positive": edit.positive, "negative": edit.negative, **chosen})

    return fit


def lorra(settings: Settings, kl: KL | None) -> Method:
    """LoRRA at several strengths, one of them chosen on validation."""
    _refuse_scope("lorra", settings)
    rate = settings.rates.get("lorra", 3e-4)
    options = _without_dropout("lorra", settings)

    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        config = replace(settings.tuning, learning_rate=rate, seed=seed)
        edits = {
            strength: train_lorra(model, task, config, strength=strength, progress=False, **options)
            for strength in LORRA_STRENGTHS
        }
        found = choose_on_validation(
            model, task, edits,
            kl=kl, kl_budget=settings.kl_budget, batch_size=settings.batch_size,
        )  # fmt: skip
        return Fitted(edits[found.key], {"strength": found.key, "trials": found.to_json()})

    return fit


def jola(settings: Settings, _kl: KL | None) -> Method:
    """JoLA; if all gates close, the model stays as it is."""

    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        gates = train_gates(model, task, _gates(settings), seed=seed, progress=False)
        edit = gates.edit()
        return Fitted(edit if len(edit.heads) else None, {"k": len(edit.heads)}, edit.heads)

    return fit


def iti_legacy(settings: Settings, kl: KL | None) -> Method:
    """ITI at alpha 15 with the leak of its released code."""
    config = ITIConfig.legacy(k=None)

    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        ks = (settings.n_heads(model),)
        found = fit_iti(
            model, task, replace(config, ks=ks), seed=seed, kl=kl, batch_size=settings.batch_size
        )
        return _iti_fitted(found)

    return Leaky(fit, "sigma from the questions of the test as well")


def rival(kind: str, settings: Settings) -> Method:
    """A tuned rival of the table `RIVALS`."""
    made = RIVALS[kind]
    if not made.has_scope:
        _refuse_scope(kind, settings)
    rate = settings.rates.get(kind, made.learning_rate)
    options = _without_dropout(kind, settings)
    if kind == "loreft":
        options = dict(zip(("rank", "positions"), settings.loreft, strict=True))

    def fit(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        config = replace(settings.tuning, learning_rate=rate, seed=seed)
        edit = made.train(model, task, config, progress=False, **options)
        return Fitted(edit, {"learning_rate": rate, **options})

    return fit


def _without_dropout(kind: str, settings: Settings) -> dict[str, Any]:
    """Dropout cannot be drawn twice alike, as recomputing a block would need."""
    drops = settings.tuning.gradient_checkpointing and kind in ("lora", "lorra")
    return {"dropout": 0.0} if drops else {}


def _refuse_scope(kind: str, settings: Settings) -> None:
    if settings.scope != "all":
        raise LofitLensError(
            f'{kind} acts at positions of its own and cannot follow the token scope "{settings.scope}". '
            f'Leave it out, or name it "{kind}@all" to set it beside methods of another scope.'
        )


@dataclass(frozen=True)
class Rival:
    """A tuned rival.

    Attributes:
        train: Trains it.
        learning_rate: Its default learning rate.
        has_scope: Whether it follows a token scope.
    """

    train: Callable[..., Edit]
    learning_rate: float
    has_scope: bool = False


RIVALS: Mapping[str, Rival] = {
    "lora": Rival(train_lora, 1e-3),
    "ia3": Rival(train_ia3, 1e-3),
    "red": Rival(train_red, 1e-3, has_scope=True),
    "loreft": Rival(train_loreft, 9e-4),
    "bitfit": Rival(train_bitfit, 1e-2, has_scope=True),
}
"""Tuned rivals with learning rates of the paper's appendix (Tables 7 and 8); (IA)3, which it does
not have, gets LoRA's and BitFit that of LoFiT."""

READING: Mapping[str, DirectionKind] = {
    "repe-reading": "pca",
    "repe-mean": "mean",
    "repe-random": "random",
}


def _gates(settings: Settings) -> GateConfig:
    """JoLA's own rate and penalty; epochs, batches, objective and scope are those of all methods."""
    tuning = settings.tuning
    return GateConfig(
        learning_rate=settings.rates.get("jola", GateConfig.learning_rate),
        gate_penalty=settings.gate_penalty,
        epochs=tuning.epochs,
        batch_size=tuning.batch_size,
        micro_batch_size=tuning.micro_batch_size,
        gradient_checkpointing=tuning.gradient_checkpointing,
        weight_decay=tuning.weight_decay,
        max_gradient_norm=tuning.max_gradient_norm,
        init_std=tuning.init_std,
        beta=tuning.beta,
        objective=tuning.objective,
        scope=settings.scope,
        validate=tuning.validate,
    )
