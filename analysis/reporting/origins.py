"""What was run and how: the summary, the provenance, and how to run it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.reporting.findings import findings
from lofit_lens.analysis.reporting.markup import (
    bullets,
    definitions,
    details,
    grouped_definitions,
    paragraph,
)
from lofit_lens.analysis.reporting.section import Section

if TYPE_CHECKING:
    from lofit_lens.analysis.study.results import Study

PAPER = (
    "Fangcong Yin, Xi Ye and Greg Durrett. LoFiT: Localized Fine-tuning on LLM Representations. "
    "Advances in Neural Information Processing Systems 37 (NeurIPS 2024). arXiv:2406.01563."
)


def summary_section(study: Study) -> Section:
    """What was run, and what came out."""
    about: dict[str, Any] = {
        "runs": [f"{name} ({told.get('kind')})" for name, told in study.provenance.items()],
        "models": list(dict.fromkeys(filter(None, map(model_of, study.provenance.values())))),
        "test items": _items(study),
        "seeds": _seeds(study),
        "last written": _written(study),
    }
    found = findings(study)
    body = definitions({name: told for name, told in about.items() if told})
    if found:
        body += f"<h3>What the numbers say</h3>{bullets(found)}"
    return Section("summary", "Summary", body)


def provenance_section(study: Study) -> Section:
    """Settings, versions, seeds and the model's fingerprint, readable and as JSON."""
    parts = []
    for name, told in study.provenance.items():
        text = json.dumps(told, indent=1, ensure_ascii=False)
        raw = details("All of it as JSON", f"<pre><code>{escape(text)}</code></pre>")
        parts.append(f"<h3>{escape(name)}</h3>{grouped_definitions(told)}{raw}")
    return Section("provenance", "Provenance", "\n".join(parts))


def reproduce_section(study: Study) -> Section:
    """Commands, and what to cite."""
    commands = [_command(name, told) for name, told in study.provenance.items()]
    commands.append(shlex.join(["lofit-lens", "report", study.name]))
    body = (
        f"<pre><code>{escape(chr(10).join(commands))}</code></pre>"
        + paragraph("Settings that a command does not show are those under Provenance.")
        + paragraph(f"Please cite the paper of the method, and LoFiT Lens: {PAPER}")
    )
    return Section("reproduce", "How to reproduce and cite", body)


def model_of(told: Any) -> str:
    """The model that a provenance tells of, however deep it says so."""
    if not isinstance(told, Mapping):
        return ""
    if mark := told.get("fingerprint"):
        shape = f"{mark['n_layers']} layers x {mark['n_heads']} heads"
        return f"{mark['name']} ({mark['architecture']}, {shape}, weights {mark['weights'][:12]})"
    deeper = (found for value in told.values() if (found := model_of(value)))
    if found := next(deeper, ""):
        return found
    weights = told.get("model")
    return f"weights {weights[:12]}" if isinstance(weights, str) else ""


def _items(study: Study) -> dict[str, int]:
    """Test items by task."""
    found = {}
    for matrix in study.matrices.values():
        found |= {task: len(scored.records) for task, scored in matrix.zero_shot.items()}
    for comparison in study.comparisons.values():
        found |= {task: len(comparison.groups(task)) for task in comparison.tasks}
    return found | {task: len(run.tuned.records) for task, run in study.runs.items()}


def _seeds(study: Study) -> list[int]:
    """The seeds of all results."""
    found = {seed for one in study.comparisons.values() for seed in one.seeds}
    found |= {seed for one in study.matrices.values() for seed in one.seeds}
    return sorted(found | {seed for by_seed in study.scores.values() for seed in by_seed})


def _written(study: Study) -> str:
    """When the newest result was written."""
    times = [path.stat().st_mtime for path in study.path.rglob("*.json*") if path.is_file()]
    return f"{datetime.fromtimestamp(max(times)):%Y-%m-%d %H:%M}" if times else "unknown"


def _command(name: str, told: Mapping[str, Any]) -> str:
    """The command that makes a run of the kind again."""
    words = ["lofit-lens", str(told.get("kind", "")).replace("comparison", "compare")]
    for option in ("methods", "tasks"):
        if told.get(option):
            words += [f"--{option.replace('tasks', 'task')}", ",".join(told[option])]
    if seeds := told.get("seeds"):
        words += ["--seed", str(min(seeds)), "--seeds", str(len(seeds))]
    if model := (told.get("loaded") or {}).get("model"):
        words += ["--model", model]
    return shlex.join([*words, "--out", name])
