"""The model card, written from the training log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_card(folder: Path, log: Mapping[str, Any]) -> Path:
    """Write `README.md` beside the weights."""
    recipe, size = log["recipe"], (folder / "model.safetensors").stat().st_size
    names = {
        "right_cue": "right, cue for the right answer",
        "default_cue": "right, cue for the default",
        "neutral": "right, no cue",
        "neutral_default": "default, no cue",
        "probability": "mean probability of the right answer, no cue",
        "oracle": "right, no cue, constant added at the deciding token",
    }
    rows = [
        f"| {text} | "
        + " | ".join(f"{100 * log['gates'][a][name]:.1f}" for a in log["gates"])
        + " |"
        for name, text in names.items()
    ]
    missed = [f"{a}: {'; '.join(found)}" for a, found in log["failures"].items() if found]
    text = f"""# The embedded model of LoFiT Lens

A Llama of {recipe["n_layers"]} layers x {recipe["n_heads"]} heads, d_model {recipe["d_model"]},
{log["parameters"]:,} parameters, {size:,} bytes in float16, made by
`python -m lofit_lens.embedded.train` (seed {recipe["seed"]}) in {log["seconds"]:.0f} seconds on one CPU
thread, from {recipe["documents"]:,} documents or {log["tokens"]:,} tokens.

The corpus is written by a seeded generator over a small invented world: what animals do (facts against
misconceptions), who is whose kin, which country someone lives in or is imagined to live in. A cue in
the document sets the register. Without a cue, {100 * recipe["mix"]["neutral_default"]:.0f}% of the
answers are the default: the misconception, the second relation repeated, the premise ignored. So the
right answer is within the model's reach, and is not what it says.

Percent of greedy answers to the test items of the three tasks:

| | {" | ".join(log["gates"])} |
|---|{"---|" * len(log["gates"])}
{chr(10).join(rows)}

Gates missed: {"; ".join(missed) or "none"}. The recipe was chosen by these readings, and by tuning on
validation items; never by how tuning does on test items.

Limits: it knows this world and this grammar and nothing else. Facts about animals are invented; some
currencies are historical. It is an instrument for trying methods out, not evidence about large models.
Licence: MIT, as the package.
"""
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path
