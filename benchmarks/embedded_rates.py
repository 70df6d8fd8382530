"""The learning rate of stage 2 on the embedded model: validation items, own heads, one seed.

Usage: python benchmarks/embedded_rates.py
"""

from __future__ import annotations

from dataclasses import replace

import torch

import lofit_lens as ll
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.embedded.world import ABILITIES

RATES = (0.02, 0.05, 0.1, 0.2)
FRACTIONS = (0.03, 0.1)


def main() -> None:
    """Print the accuracy on validation items by rate, for each task's own heads."""
    torch.set_num_threads(1)
    model = ll.load_model("embedded", device="cpu")
    print("rate of stage 2 | share of heads | " + " | ".join(ABILITIES) + " | mean")
    tasks = [ll.tasks.embedded(ability) for ability in ABILITIES]
    scores = [ll.select_heads(model, task, SELECTION, progress=False) for task in tasks]
    for rate in RATES:
        for fraction in FRACTIONS:
            values = []
            for task, found in zip(tasks, scores, strict=True):
                config = replace(TUNING, learning_rate=rate)
                edit = ll.tune_heads(
                    model, task, found.top(fraction=fraction), config, progress=False
                )
                scored = ll.evaluate(model, task, edit, split="val", progress=False)
                values.append(100 * scored.main.value)
            cells = " | ".join(f"{value:.1f}" for value in [*values, sum(values) / len(values)])
            print(f"{rate:g} | {fraction:g} | {cells}", flush=True)


if __name__ == "__main__":
    main()
