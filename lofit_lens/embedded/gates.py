"""Whether a model is fit to be the embedded one: it can do the tasks, and does not by default."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from lofit_lens.attention import heads_of, z_width
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.embedded.words import CUES
from lofit_lens.embedded.world import ABILITIES, Ability, Item
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.sequences import common_start
from lofit_lens.tasks.embedded import task_items
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

WITH_CUE, NEUTRAL, LATENT = 0.90, 0.30, (0.20, 0.45)
"""Right answers wanted after a cue (at least), in neutral questions (at most), and the probability
of the right answer in neutral questions, whose answers are right in 30% of the corpus."""

ORACLE: dict[Ability, float] = {"truth": 0.5, "kinship": 0.5, "edit": 0.0}
"""Right answers wanted under a constant. No constant was found that switches `edit`."""


@dataclass(frozen=True)
class Readings:
    """What the gates look at, for one ability, on its test items.

    Attributes:
        ability: The ability.
        right_cue: Share of right answers, generated greedily, after a cue for them.
        default_cue: The same after a cue for the default answer.
        neutral: The same without a cue.
        neutral_default: Share of default answers without a cue.
        probability: Mean probability of the whole right answer without a cue.
        oracle: Share of right answers without a cue, under a constant added at the token that
            decides between the right and the default answer: the mean difference a cue makes there
            to the output of every head, measured on training items.
    """

    ability: Ability
    right_cue: float
    default_cue: float
    neutral: float
    neutral_default: float
    probability: float
    oracle: float

    def failures(self) -> list[str]:
        """The gates that were missed."""
        low, high = LATENT
        gates = {
            f"{self.right_cue:.1%} right with the cue, at least {WITH_CUE:.0%} wanted": (
                self.right_cue >= WITH_CUE
            ),
            f"{self.neutral:.1%} right without a cue, at most {NEUTRAL:.0%} wanted": (
                self.neutral <= NEUTRAL
            ),
            f"mean probability {self.probability:.2f} of the right answer, {low} to {high} wanted": (
                low <= self.probability <= high
            ),
            f"{self.oracle:.1%} right under a constant, at least {ORACLE[self.ability]:.0%} wanted": (
                self.oracle >= ORACLE[self.ability]
            ),
        }
        return [missed for missed, passed in gates.items() if not passed]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: round(x, 4) for name, x in asdict(self).items() if name != "ability"}


def read_gates(model: TransformerBridge) -> dict[Ability, Readings]:
    """The readings of a model for each ability."""
    return {ability: _read(model, ability) for ability in ABILITIES}


def _read(model: TransformerBridge, ability: Ability) -> Readings:
    train, _, test = task_items(ability)
    right = [item.right for item in test]
    neutral = _generated(model, [item.prompt() for item in test])
    encoder = Encoder(model)
    texts = [encoder.continuation(item.prompt(), f" {item.right}") for item in test]
    shift = constant_shift(model, _decisive(train, "right"), _decisive(train))
    shifted = _generated(model, _decisive(test), shift)
    return Readings(
        ability=ability,
        right_cue=_share(_generated(model, _cued(test, "right")), right),
        default_cue=_share(_generated(model, _cued(test, "default")), right),
        neutral=_share(neutral, right),
        neutral_default=_share(neutral, [item.default for item in test]),
        probability=float(answer_logprobs(model, texts).exp().mean()),
        oracle=_share(shifted, [item.right.removeprefix(_shared(item)).strip() for item in test]),
    )


def constant_shift(
    model: TransformerBridge, cued: Sequence[str], plain: Sequence[str]
) -> HeadIntervention:
    """The mean difference between two lists of prompts in every head's output at the last token."""
    heads = HeadSet.every(**heads_of(model).shape)
    bias = _mean_last_z(model, heads, cued) - _mean_last_z(model, heads, plain)
    return HeadIntervention(heads, bias=bias, scope="last")


def _mean_last_z(model: TransformerBridge, heads: HeadSet, prompts: Sequence[str]) -> torch.Tensor:
    """Mean of `hook_z` at the last token, one row per head."""
    names = [f"blocks.{layer}.attn.hook_z" for layer in heads.layers()]
    encoder = Encoder(model)
    total = torch.zeros(len(heads), z_width(model))
    with torch.no_grad():
        for prompt in prompts:
            tokens = torch.tensor([encoder.prompt(prompt).ids], device=model.cfg.device)
            _, cache = model.run_with_cache(tokens, names_filter=names)
            total += torch.cat([cache[name][0, -1].float().cpu() for name in names])
    return total / len(prompts)


def _cued(items: Sequence[Item], register: str) -> list[str]:
    rng = random.Random(0)
    return [item.prompt(rng.choice(CUES[item.ability][register])) for item in items]


def _decisive(items: Sequence[Item], register: str | None = None) -> list[str]:
    """Prompts up to the word in which the right and the default answer differ."""
    prompts = _cued(items, register) if register else [item.prompt() for item in items]
    return [
        f"{prompt} {_shared(item)}".strip() for prompt, item in zip(prompts, items, strict=True)
    ]


def _shared(item: Item) -> str:
    """The words that the right and the default answer begin with."""
    right, default = item.right.split(), item.default.split()
    return " ".join(right[: common_start((right, default))])


def _generated(
    model: TransformerBridge, prompts: list[str], edit: HeadIntervention | None = None
) -> list[str]:
    texts = generate_greedily(
        model, prompts, edit, max_new_tokens=8, batch_size=256, progress=False
    )
    return [text.strip() for text in texts]


def _share(answers: Sequence[str], wanted: Sequence[str]) -> float:
    return sum(a == w for a, w in zip(answers, wanted, strict=True)) / len(wanted)
