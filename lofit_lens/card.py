"""The card of an edit or of heads on the hub: what it is, how it was made, scores, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lofit_lens.documents import typed
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.hub import is_hub_name
from lofit_lens.statistics import Estimate

if TYPE_CHECKING:
    from lofit_lens.head_scores import HeadScores
    from lofit_lens.provenance import Provenance
    from lofit_lens.scoring.evaluation import Evaluation

_SCORED = "| what | metric | value, % | 95% interval | n |\n|---|---|---:|---:|---:|\n"

_PLAIN = """\
import json
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({model})
described = json.loads(Path(hf_hub_download({repo!r}, "intervention.json")).read_text())
numbers = load_file(hf_hub_download({repo!r}, "intervention.safetensors"))
layers, heads = torch.tensor(described["heads"]).T

def of_layers(name):  # one row for each layer, zeros where a head is not edited
    rows = numbers.get(name, torch.zeros(len(heads), {d_head}))
    grid = torch.zeros(described["n_layers"], described["n_heads"], {d_head})
    return grid.index_put((layers, heads), rows).flatten(1)

scale, bias = of_layers("scale"), of_layers("bias")
endings = ("o_proj", "out_proj", "attn.c_proj", "attention.dense", "self_attn.dense")
projections = [part for name, part in model.named_modules() if name.endswith(endings)]
assert len(projections) == len(scale), "name the attention output projections of this model"

def edited(layer):
    def pre_hook(module, args):
        z = args[0].float()
        z = z * (1 + scale[layer].to(z.device)) + bias[layer].to(z.device)
        return (z.to(args[0].dtype), *args[1:])
    return pre_hook

for layer, projection in enumerate(projections):
    projection.register_forward_pre_hook(edited(layer))
"""
"""The edit of heads in plain Transformers."""


def card(
    thing: Edit | HeadSet | HeadScores,
    repo: str,
    *,
    evaluations: Mapping[str, Evaluation] | None = None,
    base_model: str | None = None,
) -> str:
    """The model card of an edit, a head list or head scores, in Markdown behind YAML.

    Args:
        thing: What is shared.
        repo: Where, as "user/repo".
        evaluations: Scores to show, by what was scored; default: those in the provenance of the edit.
        base_model: The model on the hub; default: the one of the provenance, if its name is that of a
            repository.
    """
    from huggingface_hub import ModelCardData

    origin: Provenance | None = getattr(thing, "provenance", None)
    known = origin.fingerprint.name if origin and is_hub_name(origin.fingerprint.name) else None
    base = base_model or known
    scores = _scores(origin, evaluations or {})
    front = ModelCardData(
        base_model=base,
        library_name="lofit-lens",
        tags=["lofit", "interpretability", "representation-engineering"],
        metrics=sorted({metric for named in scores.values() for metric in named}) or None,
    )
    model = _model(base, origin)
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {repo.partition('/')[2]}",
        f"{_summary(thing)}\n\n{_code(repr(thing))}",
        f"## How it was made\n\n{_made(origin)}",
        _score_table(scores, evaluations or {}),
        f"## Use it with LoFiT Lens\n\n{_block(_with_tool(thing, repo, model), 'python')}",
        _without_tool(thing, repo, model),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(thing: Any) -> str:
    """What kind of thing it is, in a sentence or two."""
    what = (type(thing).__doc__ or "").partition("\n")[0]
    if isinstance(thing, Edit):
        scope = thing.scope if isinstance(thing.scope, str) else "positions of its own"
        what += f" Token scope: {_code(scope)}."
    return f"{what} It holds no weights of the model."


def _made(origin: Provenance | None) -> str:
    """Where it comes from, as far as that is known."""
    if origin is None:
        return "Nothing is recorded of how it was made."
    mark = origin.fingerprint
    rows = {
        "model": mark.name + (f", revision {mark.revision}" if mark.revision else ""),
        "architecture": f"{mark.architecture}, {mark.n_layers} layers x {mark.n_heads} heads",
        "hash of the weights": mark.weights,
        "task": origin.task,
        "hash of the data": origin.data_hash,
        "training steps": str(len(origin.history.loss)),
        "versions": ", ".join(f"{name} {number}" for name, number in origin.versions.items()),
    }
    table = "\n".join(f"| {name} | {_code(text)} |" for name, text in rows.items() if text)
    config = json.dumps(origin.config, indent=1, ensure_ascii=False, default=str)
    return f"| | |\n|---|---|\n{table}\n\nSettings:\n\n{_block(config, 'json')}"


def _scores(
    origin: Provenance | None, evaluations: Mapping[str, Evaluation]
) -> Mapping[str, Mapping[str, Estimate]]:
    """The metrics of what was scored, given or carried; what is carried may be of any form."""
    if evaluations:
        return {name: found.metrics for name, found in evaluations.items()}
    scores = {}
    for name, metrics in (origin.metrics if origin else {}).items():
        with suppress(LofitLensError):
            scores[name] = typed(metrics, dict[str, Estimate])
    return scores


def _score_table(
    scores: Mapping[str, Mapping[str, Estimate]], evaluations: Mapping[str, Evaluation]
) -> str:
    """The scores with intervals and numbers of items; empty if there are none."""
    rows = [
        f"| {_code(what)} | {_code(metric)} | {100 * e.value:.1f} "
        f"| {100 * e.low:.1f} to {100 * e.high:.1f} | {e.n} |"
        for what, metrics in scores.items()
        for metric, e in metrics.items()
    ]
    if not rows:
        return ""
    of = dict.fromkeys(f"{_code(e.task)}, {_code(e.split)} split" for e in evaluations.values())
    told = f"On {'; '.join(of)}. " if of else ""
    return f"## Scores\n\n{told}n is the number of items.\n\n{_SCORED}" + "\n".join(rows)


def _with_tool(thing: Any, repo: str, model: str) -> str:
    """Lines that load it with this library."""
    if not isinstance(thing, Edit):
        return f"import lofit_lens as ll\n\nfound = ll.{type(thing).__name__}.load({repo!r})"
    return f"""\
import lofit_lens as ll

model = ll.load_model({model})
edit = ll.load_edit({repo!r}, model)
with edit.applied(model):
    print(model.generate("Once upon a time", max_new_tokens=16))"""


def _without_tool(thing: Any, repo: str, model: str) -> str:
    """What does the same in plain Transformers; empty for what is no edit."""
    if not isinstance(thing, Edit):
        return ""
    told = (
        "The numbers are in safetensors, the rest in JSON; it takes more than a few lines of plain "
        "Transformers to apply an edit of this kind and scope."
    )
    if isinstance(thing, HeadIntervention) and thing.scope == "all" and not thing.heads.without:
        lines = _PLAIN.format(repo=repo, model=model, d_head=thing.d_head)
        told = f"Hooks before the attention output projections:\n\n{_block(lines, 'python')}"
    return f"## Use it without LoFiT Lens\n\n{told}"


def _model(base: str | None, origin: Provenance | None) -> str:
    """The arguments that load the model, as code."""
    revision = origin.fingerprint.revision if base and origin else None
    return repr(base or "FOLDER OR NAME OF THE MODEL") + (
        f", revision={revision!r}" if revision else ""
    )


def _code(text: str) -> str:
    """A text as it is, in a line or in a cell of a table."""
    return f"`{' '.join(text.replace('`', chr(39)).replace('|', '/').split())}`"


def _block(text: str, language: str) -> str:
    """A text as it is, in lines of its own; it holds no fence of ours."""
    return f"```{language}\n{text.replace('```', chr(39) * 3).strip()}\n```"
