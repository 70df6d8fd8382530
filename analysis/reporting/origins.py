"""What was run and how, and what came out: summary, provenance, and how to run it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.kinds.table import KINDS
from lofit_lens.analysis.reporting.markup import (
    bullets,
    definitions,
    details,
    flat,
    grouped_definitions,
    paragraph,
)
from lofit_lens.analysis.reporting.section import Section
from lofit_lens.provenance import library_versions

if TYPE_CHECKING:
    from lofit_lens.analysis.reading.study import Study

ONE_SEED = "There is one seed, so nothing here tells how seeds differ."
TOOL = (
    f"The LoFiT Lens authors. LoFiT Lens: localized fine-tuning of attention heads as an "
    f"interpretability toolkit. Version {library_versions()['lofit-lens']}."
)
PAPER = (
    "Fangcong Yin, Xi Ye and Greg Durrett. LoFiT: Localized Fine-tuning on LLM Representations. "
    "Advances in Neural Information Processing Systems 37 (NeurIPS 2024). arXiv:2406.01563."
)


def summary_section(study: Study) -> Section:
    """What was run, and what came out."""
    seeds = {seed for row in KINDS for given in row.seeds(study) for seed in given}
    about: dict[str, Any] = {
        "runs": [f"{name} ({told.get('kind')})" for name, told in study.provenance.items()],
        "models": list(dict.fromkeys(filter(None, map(model_of, study.provenance.values())))),
        "test items": {task: n for row in KINDS for task, n in row.items(study).items()},
        "seeds": sorted(seeds.union(*study.scores.values())),
        "last written": _written(study),
        "left out": "; ".join(f"{name}: {why}" for name, why in study.left_out.items()),
    }
    found = findings(study)
    body = definitions({name: told for name, told in about.items() if told})
    if found:
        body += f"<h3>What the numbers say</h3>{bullets(found)}"
    return Section("summary", "Summary", body)


def findings(study: Study) -> list[str]:
    """One sentence for each result of a study, and no more than the numbers say."""
    found = [sentence for row in KINDS for sentence in row.sentences(study)]
    seeds = [len(given) for row in KINDS for given in row.seeds(study)]
    seeds += map(len, study.chosen.values())
    return found + ([ONE_SEED] if seeds and max(seeds) == 1 else [])


def provenance_section(study: Study) -> Section:
    """Settings, versions, seeds and the model's fingerprint, readable and as JSON."""
    parts = []
    for name, told in study.provenance.items():
        text = json.dumps(told, indent=1, ensure_ascii=False)
        raw = details("All of it as JSON", f"<pre><code>{escape(text)}</code></pre>")
        parts.append(f"<h3>{escape(name)}</h3>{grouped_definitions(_stages_folded(told))}{raw}")
    return Section("provenance", "Provenance", "\n".join(parts))


def reproduce_section(study: Study) -> Section:
    """The commands as they were typed, and what to cite."""
    commands = [told.get("command_line") for told in study.provenance.values()]
    unknown = [name for name, told in study.provenance.items() if not told.get("command_line")]
    body = "".join(
        f"<pre><code>{escape(command)}</code></pre>"
        for command in dict.fromkeys(filter(None, commands))
    )
    if unknown:
        body += paragraph(
            f"No command is recorded for {', '.join(unknown)}: run in Python, or by an earlier "
            "version. What is known of the settings is under Provenance."
        )
    body += paragraph("Please cite the tool and the paper of the method:") + bullets([TOOL, PAPER])
    return Section("reproduce", "How to reproduce and cite", body)


def model_of(told: Mapping[str, Any]) -> str:
    """The model that a provenance tells of: its fingerprint, however deep, else what was loaded."""
    if mark := _fingerprint(told):
        shape = f"{mark['n_layers']} layers x {mark['n_heads']} heads"
        return f"{mark['name']} ({mark['architecture']}, {shape}, weights {mark['weights'][:12]})"
    if name := (told.get("loaded") or {}).get("model"):
        return str(name)
    return f"weights {told['model'][:12]}" if told.get("model") else ""


def _fingerprint(told: Any) -> Mapping[str, Any] | None:
    """The first fingerprint inside a provenance."""
    if not isinstance(told, Mapping):
        return None
    deeper = (_fingerprint(value) for value in told.values())
    return told.get("fingerprint") or next(filter(None, deeper), None)


def _stages_folded(told: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance with what its stages have in common told once."""
    stages = {name: flat(stage) for name, stage in told.get("stages", {}).items()}
    first = next(iter(stages.values()), {})
    common = {
        name: value
        for name, value in first.items()
        if len(stages) > 1 and all(name in s and s[name] == value for s in stages.values())
    }
    own = {
        stage: {name: value for name, value in values.items() if name not in common}
        for stage, values in stages.items()
    }
    rest = {name: value for name, value in told.items() if name != "stages"}
    return rest | {"all stages": common, "stages": own}


def _written(study: Study) -> str:
    """When the newest result was written."""
    times = [path.stat().st_mtime for path in study.path.rglob("*.json*") if path.is_file()]
    return f"{datetime.fromtimestamp(max(times)):%Y-%m-%d %H:%M}" if times else "unknown"
