"""Uses what the recipes add to the package that is on the path; writes what came out as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import lofit_lens
from lofit_lens.analysis import Settings, compare, open_study, report
from lofit_lens.analysis.baselines.bitfit import OutputBias
from lofit_lens.analysis.cli.main import app
from lofit_lens.edits.files import load_edit
from lofit_lens.model import load_model
from lofit_lens.scoring import evaluate
from lofit_lens.tasks import from_file, load_tasks, reload_task

dose_response: Any = import_module("lofit_lens.analysis.kinds.dose").dose_response
out, package = Path(sys.argv[1]), Path(lofit_lens.__file__).parent
model = load_model("embedded", device="cpu", dtype="float32")
weights = load_file(package / "embedded" / "model" / "model.safetensors")
projections = [
    weights[f"model.layers.{i}.self_attn.o_proj.weight"].float() for i in range(model.cfg.n_layers)
]
told: dict[str, Any] = {"from": lofit_lens.__file__}


def run(*arguments: object) -> dict[str, Any]:
    """A command, in this process."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json", "--quiet"])
    if done.exit_code:
        raise RuntimeError(done.output)
    return json.loads(done.stdout)


(task,) = load_tasks("small-kinship")
told["task"] = {
    "items": [len(task.train), len(task.val), len(task.test)],
    "again": reload_task(task.source).data_hash() == task.data_hash(),
}

small = Settings.embedded(k=3)
small = replace(small, tuning=replace(small.tuning, epochs=2))


def compared(new: list[Any]) -> Any:
    return compare(
        model, [task], ["output-norm/bias", "value-bias"], settings=small, texts=(),
        out=out / "compared", keep_edits=True, on_run=new.append, progress=False,
    )  # fmt: skip


first, second = [], []
comparison, resumed = compared(first), compared(second)
by_method = {record.method: record for record in comparison.runs}
norms = torch.stack([p.unflatten(1, (model.cfg.n_heads, -1)).norm(dim=(0, 2)) for p in projections])
best = [divmod(place, model.cfg.n_heads) for place in norms.flatten().topk(3).indices.tolist()]
chosen = ("select", "--model", "embedded", "--task", "small-kinship", "--heads", "output-norm")
told["selector"] = {
    "best": best,
    "compared": list(by_method["output-norm/bias"].heads),
    "selected": run(*chosen, "--k", 3, "--out", out / "selected")["heads"][0],
}

(folder,) = (out / "compared" / "edits").glob("value-bias-*")
value_bias: Any = load_edit(folder, model)
same = OutputBias(
    torch.stack([w @ v.flatten() for w, v in zip(projections, value_bias.vectors, strict=True)])
)
logits = []
with torch.no_grad():
    for edit in (value_bias, same, 0 * value_bias):
        with edit.applied(model):
            logits.append(model(task.test[0].prompt))
told["method"] = {
    "edit": repr(type(value_bias)),
    "new": [record.method for record in first],
    "new when resumed": [record.method for record in second],
    "same when resumed": resumed.frame().equals(comparison.frame()),
    "read back": open_study(out / "compared").comparisons["compared"].methods,
    "parameters": by_method["value-bias"].cost.parameters,
    "scores": [r["correct"] for r in by_method["value-bias"].evaluation.records],
    "scores of the loaded": [
        r["correct"] for r in evaluate(model, task, value_bias, batch_size=256).records
    ],
    "beside the projected bias": (logits[0] - logits[1]).abs().max().item(),
    "beside none": (logits[0] - logits[2]).abs().max().item(),
}

rows = [{"asked": e.prompt.strip(), "right": e.correct[0].strip()} for e in task.test]
file = out / "asked.jsonl"
file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
options: dict[str, Any] = {"prompt": "{asked}", "answer": "right", "scoring": "first-letter"}
letters = from_file(file, **options)
found = evaluate(model, letters, progress=False)
arguments = "&".join(f"{name}={value}" for name, value in options.items())
scored = run("evaluate", "--model", "embedded", "--task", f"{file}?{arguments}")
told["scoring"] = {
    "scores": [record["first letter"] for record in found.records],
    "texts": [[record["generated"], record["expected"]] for record in found.records],
    "by command": scored["metrics"]["zero_shot"]["first letter"]["value"],
}

study, again = out / "study", []
response = dose_response(model, task, value_bias, out=study / "doses", progress=False)
dose_response(model, task, value_bias, out=study / "doses", progress=False, on_record=again.append)
page = report(study).read_text(encoding="utf-8")
told["kind"] = {
    "strengths": response.frame()["strength"].tolist(),
    "values": response.frame()["value"].tolist(),
    "zero-shot": by_method["zero-shot"].evaluation.main.value,
    "value-bias": by_method["value-bias"].evaluation.main.value,
    "new when resumed": len(again),
    "read back": open_study(study).of("dose responses")["doses"].frame().equals(response.frame()),
    "repr": repr(open_study(study)),
    "figures": open_study(study).figure_names,
    "section": '<section id="dose"' in page and "Dose and response" in page,
    "sentence": "The best strength is" in page,
    "items": "embedded:kinship 12" in page or "small-kinship 12" in page,
    "drawn": [Path(p).name for p in run("figures", study, "--out", out / "drawn")["paths"]],
    "further": "Further figures" in page,
}
sys.stdout.write(json.dumps(told) + "\n")
