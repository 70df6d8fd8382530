"""Several head sets tuned on one task: in one forward pass, and one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.floor import real_tokens
from benchmarks.measuring import Check, Claim, Part, Rival
from benchmarks.models import Subject
from benchmarks.placing import as_in_figure_3, number_of_heads
from benchmarks.steps import BATCH
from benchmarks.texts import Texts
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.heads import HeadSet
from lofit_lens.stages import tune_heads, tune_together
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.training import TuningConfig

RUNS, EPOCHS, BATCHES = 4, 2, 2
TOGETHER, SINGLY = "together", "one by one"
CPU_LIMIT, GPU_LIMIT = 1.0, 0.4


@contextmanager
def four_sets(subject: Subject, texts: Texts) -> Iterator[Part]:
    """The heads of Figure 3 and three random sets, each with its own seed, on TruthfulQA."""
    model = subject.bridge()
    config = subject.plain.config
    shape = {"n_layers": config.num_hidden_layers, "n_heads": config.num_attention_heads}
    sets = [as_in_figure_3(config)] + [
        HeadSet.random(number_of_heads(config), seed=seed, **shape) for seed in range(1, RUNS)
    ]
    task = _task(texts.questions[: BATCHES * BATCH])
    tuning = TuningConfig(epochs=EPOCHS, batch_size=BATCH, validate=False)
    runs = [(heads, replace(tuning, seed=seed)) for seed, heads in enumerate(sets)]

    def singly() -> list[HeadIntervention]:
        return [tune_heads(model, task, heads, config, progress=False) for heads, config in runs]

    def together() -> Sequence[Any]:
        return tune_together(model, task, runs, progress=False)

    def checks(learned: Mapping[str, Sequence[HeadIntervention]]) -> list[Check]:
        apart = []
        for a, b in zip(learned[TOGETHER], learned[SINGLY], strict=True):
            assert a.bias is not None and b.bias is not None
            apart.append(float((a.bias - b.bias).norm() / b.bias.norm()))
        return [
            Check("learned biases apart, relative", max(apart), 1e-3 if subject.exact else None)
        ]

    ways: dict[str, Callable[[], object]] = {TOGETHER: together, SINGLY: singly}
    encoded = [
        subject.encoder.continuation(example.prompt, example.correct[0], end=True)
        for example in task.train
    ]
    yield Part(
        f"Stage 2 of {RUNS} head sets, {EPOCHS} epochs on TruthfulQA",
        {name: Rival(way) for name, way in ways.items()},
        [Claim(TOGETHER, SINGLY, GPU_LIMIT if subject.device.type == "cuda" else CPU_LIMIT)],
        checks,
        tokens=RUNS * EPOCHS * real_tokens(encoded),
        steps=RUNS * EPOCHS * BATCHES,
        notes=[f"{len(task.train)} questions in batches of {BATCH}; preparation is in the time."],
    )


def _task(train: Sequence[Example]) -> Task:
    examples = tuple(replace(example, id=str(i)) for i, example in enumerate(train))
    return Task("questions", examples, examples, examples, examples, "sft", MultipleChoice())
