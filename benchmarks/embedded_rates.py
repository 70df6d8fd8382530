"""Learning rates on the embedded model: validation items, one seed, LoFiT on its own heads and rivals.

Usage: python benchmarks/embedded_rates.py [METHOD ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

import lofit_lens as ll
from lofit_lens.analysis.methods.names import named_methods
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.embedded.settings import TUNING
from lofit_lens.embedded.world import ABILITIES

FRACTIONS = (0.03, 0.1)
RATES: dict[str, Sequence[float]] = {
    "lofit": (0.02, 0.05, 0.1, 0.2),
    "lora": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "ia3": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "beft": (3e-3, 1e-2, 3e-2, 1e-1, 2e-1, 3e-1),
    "red": (3e-3, 1e-2, 3e-2, 1e-1),
    "bitfit": (3e-3, 1e-2, 3e-2, 1e-1, 2e-1, 3e-1),
    "loreft": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "lorra": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "jola": (5e-3, 1e-2, 3e-2, 1e-1),
}


def main() -> None:
    """Print the accuracy on validation items by method, share of heads and rate."""
    torch.set_num_threads(1)
    model = ll.load_model("embedded", device="cpu")
    tasks = [ll.tasks.embedded(ability) for ability in ABILITIES]
    print("method | share of heads | rate | " + " | ".join(ABILITIES) + " | mean")
    for name in sys.argv[1:] or RATES:
        for fraction in FRACTIONS if name == "lofit" else (None,):
            for rate in RATES[name]:
                settings = replace(
                    Settings.embedded(fraction=fraction or 0.1),
                    tuning=replace(TUNING, learning_rate=rate),
                    rates={} if name == "lofit" else {name: rate},
                )
                fit = named_methods([name], settings)[name]
                assert callable(fit)
                values = []
                for task in tasks:
                    edit = fit(model, task, TUNING.seed).edit
                    scored = ll.evaluate(model, task, edit, split="val", progress=False)
                    values.append(100 * scored.main.value)
                cells = " | ".join(f"{value:.1f}" for value in [*values, sum(values) / 3])
                print(f"{name} | {fraction or ''} | {rate:g} | {cells}", flush=True)


if __name__ == "__main__":
    main()
