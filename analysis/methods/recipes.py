"""How each method of a comparison is put together from its parts, as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from lofit_lens.analysis.baselines.equal_kl import at_kl
from lofit_lens.analysis.baselines.iti_config import ITIConfig
from lofit_lens.analysis.methods.selectors import SELECTORS
from lofit_lens.analysis.methods.settings import Leaky, Method, Settings
from lofit_lens.analysis.methods.steps import Auto, Chosen, Fit, Select, Tune
from lofit_lens.analysis.methods.whole import WHOLE, steer_heads
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.step import Step, product_of
from lofit_lens.grid import HeadGrid
from lofit_lens.heads import HeadSet
from lofit_lens.tasks.task import Task

if TYPE_CHECKING:
    from typing import Self

    from transformer_lens.model_bridge import TransformerBridge

Learned = Literal["bias", "scale"]
"""What can be learned on chosen heads, beside the directions of ITI."""


@dataclass(frozen=True, kw_only=True)
class Named(ABC):
    """A method by name. Called, it is fitted at once: `recipe(model, task, seed)`.

    Attributes:
        settings: What all methods share, at the token scope of this one.
        auto: What a learning rate of "auto" is chosen with; None: the task and seed at hand.
    """

    settings: Settings
    auto: Auto | None = None

    @property
    def leaky(self) -> bool:
        """Whether it may read the test split, because that is what it is there to show."""
        return False

    @property
    def draws(self) -> int:
        """How often it is fitted for one seed."""
        return 1

    def with_auto(self, task: Task, seed: int) -> Self:
        """The same, with what a learning rate of "auto" is chosen with, if that is not said yet."""
        return self if self.auto is not None else replace(self, auto=Auto(task, seed))

    def told(self) -> Mapping[str, Any]:
        """What it is, for the record: all that its edit depends on beside task, seed and heads."""
        return self.depends()

    @abstractmethod
    def depends(self) -> dict[str, Any]:
        """All that its edit depends on beside task, seed and heads."""

    def step(self, heads: HeadGrid, task: Task, seed: int, draw: int = 0) -> Step[Fitted]:  # noqa: ARG002
        """The last step of making its edit."""
        return Fit(task, self, seed)

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:
        """Fit it on a bench, from the training and validation split of a task."""
        raise NotImplementedError

    def __call__(self, model: TransformerBridge, task: Task, seed: int, draw: int = 0) -> Fitted:
        """Fit it now, with all it needs."""
        texts = None if self.settings.kl_budget is not None else ()
        bench = Bench.of(model, texts, batch_size=self.settings.batch_size)
        return product_of(bench, self.step(bench.heads, task, seed, draw))


@dataclass(frozen=True, kw_only=True)
class OnHeads(Named):
    """Heads of some selector, with something learned on them or moved along a direction of ITI.

    Attributes:
        heads: Name of the selector, or a head list.
        does: "bias" or "scale", learned; or a direction of ITI, its strength chosen on validation.
        source: The task whose heads they are; None: the task at hand.
        ranked: The settings with which heads are put in order, where they are not `settings`.
        ranked_seed: The seed with which they are, where it is not that of the run.
        given: The heads, where they are there already.
    """

    heads: str
    does: str
    source: Task | None = None
    ranked: Settings | None = None
    ranked_seed: int | None = None
    given: HeadSet | None = None

    def told(self) -> Mapping[str, Any]:
        """Which heads, how many, and what is done to them."""
        source = {} if self.source is None else {"source": self.source.name}
        ranked = self.ranked or self.settings
        row = SELECTORS.get(self.heads)
        chosen = {"k": self.settings.k, "fraction": self.settings.fraction}
        if self.given is not None:
            chosen = {"given": [list(head) for head in self.given]}
        elif row is not None:
            chosen |= {"ranked_by": row.depends(ranked)}
        return {"heads": self.heads, **source, **chosen, **self.depends()}

    def depends(self) -> dict[str, Any]:
        """What is done to the heads."""
        if self._iti is None:
            return {"does": self.does, "tuning": replace(self.settings.tuning, seed=0)}
        return {"does": self.does, "iti": self._iti, "k": self.settings.k}

    def step(self, heads: HeadGrid, task: Task, seed: int, draw: int = 0) -> Step[Fitted]:
        """Tuning, or ITI, on heads that another step chooses."""
        chosen = self._chosen(heads, task, seed, draw)
        if self._iti is not None:
            own = self.heads == "probes" and self.source is None  # then ITI ranks them itself
            alone = replace(self, settings=replace(self.settings, k=chosen.k, fraction=None))
            return Fit(task, alone if own else self, seed, None if own else chosen)
        tuning = replace(self.settings.tuning, component=self.does)
        settings = replace(self.settings, tuning=tuning)
        return Tune(task, chosen, settings, seed, self.auto or Auto(task, seed))

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:
        """Look for directions and a strength, as ITI does."""
        assert self._iti is not None
        heads: HeadSet | None = given[0] if given else None
        ks = (self.settings.n_heads(bench.heads) if heads is None else len(heads),)
        return steer_heads(self.settings, bench, task, seed, replace(self._iti, ks=ks), heads)

    @property
    def learned(self) -> bool:
        """Whether something is learned on the heads."""
        return self.does in get_args(Learned)

    @property
    def draws(self) -> int:
        """How many sets of heads are drawn for one seed."""
        row = SELECTORS.get(self.heads)
        return self.settings.random_draws if row is not None and row.drawn else 1

    @property
    def _iti(self) -> ITIConfig | None:
        if self.learned:
            return None
        scope, budget = self.settings.scope, self.settings.kl_budget
        direction: Any = self.does
        return ITIConfig(direction=direction, scope=scope, kl_budget=budget)

    def _chosen(self, heads: HeadGrid, task: Task, seed: int, draw: int) -> Chosen:
        """The heads, as many as the settings say, or all those of a file."""
        if self.given is not None:
            return Chosen(None, len(self.given), self.given)
        if self.heads not in SELECTORS:
            given = HeadSet.load(self.heads, **heads.shape)
            return Chosen(None, len(given), given)
        of, k = self.source or task, self.settings.n_heads(heads)
        auto = self.auto or Auto(task, seed)
        auto = auto if of.name == auto.task.name else replace(auto, task=of)
        ranked = self.ranked or self.settings
        n = ranked.n_heads(heads)
        seed = seed if self.ranked_seed is None else self.ranked_seed
        return Chosen(Select(of, self.heads, ranked, seed, auto, n, draw), k)


@dataclass(frozen=True, kw_only=True)
class InOnePiece(Named):
    """A method of the table `WHOLE`.

    Attributes:
        name: Its name there.
    """

    name: str

    @property
    def leaky(self) -> bool:
        """Whether it may read the test split."""
        return WHOLE[self.name].leaky

    def depends(self) -> dict[str, Any]:
        """Its name, and what of the settings its edit depends on."""
        return {"method": self.name, **WHOLE[self.name].depends(self.settings)}

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:  # noqa: ARG002
        """Fit it."""
        return WHOLE[self.name].fit(self.settings, bench, task, seed)


@dataclass(frozen=True, kw_only=True)
class AtStrength(Named):
    """Another method, its edit made as strong as a KL divergence on plain text asks for.

    Attributes:
        inner: The method.
        kl: The divergence, in nats per token.
    """

    inner: Named
    kl: float

    @property
    def leaky(self) -> bool:
        """Whether the method may read the test split."""
        return self.inner.leaky

    @property
    def draws(self) -> int:
        """How often the method is fitted for one seed."""
        return self.inner.draws

    def with_auto(self, task: Task, seed: int) -> Self:
        """The same, with what the method chooses a learning rate with."""
        return replace(self, inner=self.inner.with_auto(task, seed))

    def told(self) -> Mapping[str, Any]:
        """The method, and the divergence."""
        return {"at_kl": self.kl, **self.inner.told()}

    def depends(self) -> dict[str, Any]:
        """The divergence; what else it depends on is the step that makes the edit."""
        return {"at_kl": self.kl}

    def step(self, heads: HeadGrid, task: Task, seed: int, draw: int = 0) -> Step[Fitted]:
        """Setting the strength of the edit that another step makes."""
        return Fit(task, self, seed, also=(self.inner.step(heads, task, seed, draw),))

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:  # noqa: ARG002
        """Set the strength."""
        (fitted,) = given
        if fitted.edit is None:
            return fitted
        found = at_kl(fitted.edit, self.kl, bench.kl)
        told = {"strength": found.strength, "kl": found.kl}
        return replace(fitted, edit=found.edit, choices={**fitted.choices, **told})


@dataclass(frozen=True)
class Own:
    """Functions of the user's own under one name, told from others by it alone.

    Its records are not resumed under another version of anything, and it is not sent to workers
    unless it can be imported there.

    Attributes:
        name: Its name.
        functions: The function for each draw of one seed.
        draw: The draw that is fitted.
    """

    name: str
    functions: tuple[Method, ...]
    draw: int = 0

    @property
    def draws(self) -> int:
        """How many functions stand under the name."""
        return len(self.functions)

    @property
    def leaky(self) -> bool:
        """Whether the function may read the test split."""
        return isinstance(self.functions[self.draw], Leaky)

    def with_auto(self, task: Task, seed: int) -> Self:  # noqa: ARG002
        """The same: it has no learning rate to be chosen."""
        return self

    def told(self) -> Mapping[str, Any]:
        """Its name."""
        return {"own": self.name}

    def depends(self) -> dict[str, Any]:
        """Its name, and which draw."""
        return {"own": self.name, "draw": self.draw}

    def step(self, heads: HeadGrid, task: Task, seed: int, draw: int = 0) -> Step[Fitted]:  # noqa: ARG002
        """Calling it."""
        return Fit(task, replace(self, draw=draw), seed, kept=False)

    def fit(self, bench: Bench, task: Task, seed: int, *given: Any) -> Fitted:  # noqa: ARG002
        """Call it."""
        return self.functions[self.draw](bench.model, task, seed)
