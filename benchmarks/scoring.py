"""Scoring: MC1 and MC2 of TruthfulQA with instruction and primer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.floor import real_tokens, scoring_flops
from benchmarks.measuring import Check, Claim, Part, Rival
from benchmarks.models import Subject
from benchmarks.placing import as_in_figure_3
from benchmarks.texts import Texts
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.fast.switches import shortcuts
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks.multiple_choice import mc1, mc2
from lofit_lens.tasks.task import Example
from lofit_lens.tokens import EncodedText

BATCH = 16
SAMPLED = 8
"""The slow ways score one question of so many: a text costs them the same whatever the others are."""

OURS, PLAIN = "ours", "ours, shortcuts off"
ONE, SORTED = "one sequence at a time", "batches of like length, no cache"


@contextmanager
def scoring(subject: Subject, texts: Texts) -> Iterator[Part]:
    """All answers of some questions, under an edit of 3% of the heads."""
    examples = texts.scored[: subject.n_items]
    few = examples[: max(2, len(examples) // SAMPLED)]
    encoded, sample = _encoded(subject, examples), _encoded(subject, few)
    heads = as_in_figure_3(subject.plain.config)
    generator = torch.Generator().manual_seed(0)
    bias = 0.1 * torch.randn(len(heads), subject.plain.config.head_dim, generator=generator)
    edit = HeadIntervention(heads, bias=bias)
    bridge, plain = subject.bridge(), subject.copy()
    everywhere = torch.zeros(heads.n_layers, heads.n_heads, bias.shape[1])
    for (layer, head), row in zip(heads, bias, strict=True):
        everywhere[layer, head] = row
    peers.written_in(plain, None, everywhere.to(subject.device))
    pad = subject.encoder.pad

    def without_shortcuts() -> Tensor:
        with shortcuts(False):
            return answer_logprobs(bridge, sample, edit, batch_size=BATCH)

    def checks(scores: Mapping[str, Tensor]) -> list[Check]:
        ours = scores[OURS][: len(sample)]
        limit = 1e-4 if subject.exact else None
        found = []
        for name in (PLAIN, ONE, SORTED):
            apart = float((ours - scores[name]).abs().max())
            found.append(Check(f"log-probabilities apart, ours and {name}", apart, limit))
            pairs = zip(_metrics(few, ours), _metrics(few, scores[name]), strict=True)
            worst = max(abs(a - b) for a, b in pairs)
            found.append(Check(f"MC1 and MC2 apart, ours and {name}", worst, limit))
        return found

    share = real_tokens(sample) / real_tokens(encoded)
    floor = scoring_flops(subject.plain.config, encoded)
    yield Part(
        "MC1 and MC2 of TruthfulQA, instruction and primer",
        {
            OURS: Rival(lambda: answer_logprobs(bridge, encoded, edit, batch_size=BATCH), floor=floor),
            PLAIN: Rival(without_shortcuts, share=share),
            ONE: Rival(lambda: peers.scored_one_by_one(plain, sample), share=share),
            SORTED: Rival(lambda: peers.scored_in_batches(plain, sample, pad, BATCH), share=share),
        },
        [Claim(OURS, ONE, 1 / 10), Claim(OURS, SORTED, 1 / 4)],
        checks,
        tokens=real_tokens(encoded),
        notes=[
            f"{len(examples)} questions with {len(encoded)} answers; a text has "
            f"{min(len(t.ids) for t in encoded)} to {max(len(t.ids) for t in encoded)} tokens.",
            f"The other ways are timed on {len(few)} of the questions with {len(sample)} answers, "
            "and scaled by tokens.",
        ],
    )  # fmt: skip


def _encoded(subject: Subject, examples: Sequence[Example]) -> list[EncodedText]:
    return [
        text
        for example in examples
        for text in subject.encoder.candidates(example.prompt, example.correct + example.incorrect)
    ]


def _metrics(examples: Sequence[Example], scores: Tensor) -> tuple[float, float]:
    """Mean MC1 and MC2."""
    left = iter(scores.tolist())
    items = [([next(left) for _ in e.correct], [next(left) for _ in e.incorrect]) for e in examples]
    n = len(items)
    return sum(mc1(*item) for item in items) / n, sum(mc2(*item) for item in items) / n
