"""Methods that are fitted in one piece, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lofit_lens.analysis.baselines.bitfit import train_bitfit
from lofit_lens.analysis.baselines.contrast import ContrastConfig, fit_contrast, instructions_for
from lofit_lens.analysis.baselines.gates import GateConfig, train_gates
from lofit_lens.analysis.baselines.iti import fit_iti
from lofit_lens.analysis.baselines.iti_config import ITIConfig
from lofit_lens.analysis.baselines.loreft import train_loreft
from lofit_lens.analysis.baselines.lorra import train_lorra
from lofit_lens.analysis.baselines.prompting import draw_shots
from lofit_lens.analysis.baselines.repe import DirectionKind, ReadingConfig, fit_reading_vector
from lofit_lens.analysis.baselines.rivals import train_beft, train_ia3, train_lora, train_red
from lofit_lens.analysis.baselines.validation import choose_on_validation
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.edits.edit import Edit
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task

LORRA_STRENGTHS = (1.0, 2.0, 5.0)
"""How far LoRRA's targets lie along the contrast; one is chosen on validation. The authors take 5."""

SHOTS = (1, 2, 4, 6, 8)
"""Numbers of solved examples that there is a method for."""


@dataclass(frozen=True)
class Whole:
    """A method that is fitted in one piece.

    Attributes:
        fit: Fits it, from the settings, a bench, a task and a seed.
        depends: What of the settings its edit depends on.
        has_scope: Whether it follows a token scope.
        leaky: Whether it may read the test split, because that is what it is there to show.
        rate: Its default learning rate, if it is trained.
        embedded: That on the embedded model, chosen as its settings say.
    """

    fit: Callable[[Settings, Bench, Task, int], Fitted]
    depends: Callable[[Settings], dict[str, Any]]
    has_scope: bool = True
    leaky: bool = False
    rate: float | None = None
    embedded: float | None = None


def steer_heads(
    settings: Settings,
    bench: Bench,
    task: Task,
    seed: int,
    config: ITIConfig,
    heads: HeadSet | None = None,
) -> Fitted:
    """ITI on given heads or those it ranks first, with what was tried on validation."""
    found = fit_iti(
        bench.model, task, config, seed=seed, heads=heads, kl=bench.kl_for(settings),
        batch_size=settings.batch_size,
    )  # fmt: skip
    edit = found.edit()
    trials = [{"alpha": t.key[1], "score": t.score, "kl": t.kl} for t in found.trials]
    return Fitted(edit, {"alpha": found.alpha, "k": found.k, "trials": trials}, edit.heads)


def _iti_legacy(settings: Settings, bench: Bench, task: Task, seed: int) -> Fitted:
    """ITI at alpha 15 with the leak of its released code: sigma from the test's questions too."""
    return steer_heads(
        settings, bench, task, seed, ITIConfig.legacy(k=settings.n_heads(bench.heads))
    )


def _reading(
    settings: Settings, bench: Bench, task: Task, seed: int, *, direction: DirectionKind
) -> Fitted:
    """The reading vector of RepE; layer and strength are chosen on validation."""
    config = ReadingConfig(
        direction=direction,
        scope=settings.scope,
        kl_budget=settings.kl_budget,
        batch_size=settings.batch_size,
    )
    found = fit_reading_vector(bench.model, task, config, seed=seed, kl=bench.kl_for(settings))
    trials = [] if found.by_alpha is None else found.by_alpha.to_json()
    return Fitted(found.edit(), {"layer": found.layer, "alpha": found.alpha, "trials": trials})


def _contrast(settings: Settings, bench: Bench, task: Task, seed: int) -> Fitted:  # noqa: ARG001
    """The contrast vector of RepE; layer and strength are chosen on validation."""
    config = ContrastConfig(
        scope=settings.scope, kl_budget=settings.kl_budget, batch_size=settings.batch_size
    )
    found = fit_contrast(bench.model, task, config, kl=bench.kl_for(settings))
    steps = [choice for choice in (found.by_layer, found.by_alpha) if choice is not None]
    trials = [trial for choice in steps for trial in choice.to_json()]
    edit = found.edit
    chosen = {"layer": edit.layers[0], "alpha": edit.alpha, "trials": trials}
    return Fitted(edit, {"positive": edit.positive, "negative": edit.negative, **chosen})


def _prompt(settings: Settings, bench: Bench, task: Task, seed: int) -> Fitted:  # noqa: ARG001
    """The instruction for what is wanted, which the contrast vector of RepE has too."""
    text = instructions_for(task)[0]
    return Fitted(None, {"before": text}, before=text)


def _few_shot(settings: Settings, bench: Bench, task: Task, seed: int, *, n: int) -> Fitted:  # noqa: ARG001
    """Solved validation items."""
    shots = draw_shots(task, n, seed=seed)
    return Fitted(None, {"examples": list(shots.ids)}, before=shots.text)


def _lorra(settings: Settings, bench: Bench, task: Task, seed: int) -> Fitted:
    """LoRRA at several strengths, one of them chosen on validation."""
    config = replace(_training("lorra", settings), seed=seed)
    edits = {
        strength: train_lorra(
            bench.model, task, config, strength=strength, progress=False, **_dropout(settings)
        )
        for strength in LORRA_STRENGTHS
    }
    found = choose_on_validation(
        bench.model, task, edits, kl=bench.kl_for(settings), kl_budget=settings.kl_budget,
        batch_size=settings.batch_size,
    )  # fmt: skip
    return Fitted(edits[found.key], {"strength": found.key, "trials": found.to_json()})


def _jola(settings: Settings, bench: Bench, task: Task, seed: int) -> Fitted:
    """JoLA; if all gates close, the model stays as it is."""
    edit = train_gates(bench.model, task, settings.gates, seed=seed, progress=False).edit()
    return Fitted(edit if len(edit.heads) else None, {"k": len(edit.heads)}, edit.heads)


def _rival(
    name: str,
    train: Callable[..., Edit],
    options: Callable[[Settings], dict[str, Any]] = lambda _: {},
    **row: Any,
) -> Whole:
    """The row of a tuned rival: trained as LoFiT is, at a learning rate of its own."""

    def fit(settings: Settings, bench: Bench, task: Task, seed: int) -> Fitted:
        config, own = replace(_training(name, settings), seed=seed), options(settings)
        edit = train(bench.model, task, config, progress=False, **own)
        return Fitted(edit, {"learning_rate": config.learning_rate, **own})

    def depends(settings: Settings) -> dict[str, Any]:
        return {"tuning": _training(name, settings), "options": options(settings)}

    return Whole(fit, depends, **row)


def _steered(settings: Settings) -> dict[str, Any]:
    """What a vector depends on whose strength is chosen: its token scope, and the budget."""
    return {"scope": settings.scope, **_budget(settings)}


def _budget(settings: Settings) -> dict[str, Any]:
    return {} if settings.kl_budget is None else {"kl_budget": settings.kl_budget}


def _training(name: str, settings: Settings) -> Any:
    """LoFiT's configuration of stage 2 with a rival's learning rate."""
    rate = settings.rates.get(name, WHOLE[name].rate)
    return replace(settings.tuning, learning_rate=rate, seed=0)


def _dropout(settings: Settings) -> dict[str, Any]:
    """Dropout cannot be drawn twice alike, as recomputing a block would need."""
    return {"dropout": 0.0} if settings.tuning.gradient_checkpointing else {}


def _loreft(settings: Settings) -> dict[str, Any]:
    return dict(zip(("rank", "positions"), settings.loreft, strict=True))


WHOLE: Mapping[str, Whole] = {
    "repe-reading": Whole(partial(_reading, direction="pca"), _steered),
    "repe-mean": Whole(partial(_reading, direction="mean"), _steered),
    "repe-random": Whole(partial(_reading, direction="random"), _steered),
    "repe-contrast": Whole(_contrast, _steered),
    "prompt": Whole(_prompt, lambda _: {}, has_scope=False),
    **{
        f"few-shot-{n}": Whole(partial(_few_shot, n=n), lambda _: {}, has_scope=False)
        for n in SHOTS
    },
    "lorra": Whole(
        _lorra,
        lambda s: {"tuning": _training("lorra", s), **_budget(s)},
        has_scope=False,
        rate=3e-4,
        embedded=3e-2,
    ),
    "jola": Whole(
        _jola,
        lambda s: {"gates": replace(s.gates, seed=0)},
        rate=GateConfig.learning_rate,
        embedded=1e-1,
    ),
    "iti-legacy": Whole(_iti_legacy, lambda s: {"k": s.k, "fraction": s.fraction}, leaky=True),
    "lora": _rival("lora", train_lora, _dropout, has_scope=False, rate=1e-3, embedded=3e-3),
    "ia3": _rival("ia3", train_ia3, has_scope=False, rate=1e-3, embedded=3e-2),
    "beft": _rival("beft", train_beft, has_scope=False, rate=1e-2, embedded=1e-1),
    "red": _rival("red", train_red, rate=1e-3, embedded=3e-2),
    "loreft": _rival("loreft", train_loreft, _loreft, has_scope=False, rate=9e-4, embedded=3e-2),
    "bitfit": _rival("bitfit", train_bitfit, rate=1e-2, embedded=1e-1),
}
"""Methods with a name of their own: to add one, write what fits it and a row here.

Learning rates are those of the paper's appendix (Tables 7 and 8); (IA)3, which it does not have, gets
LoRA's, BitFit and BEFT that of LoFiT, and JoLA and LoRRA those of their authors."""

TRAINED = tuple(name for name, row in WHOLE.items() if row.rate is not None)
"""Those with a learning rate of their own."""
