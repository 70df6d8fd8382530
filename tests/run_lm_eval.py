"""Score models with lm-evaluation-harness, in a process of its own: TASKS OUT MODEL [MODEL ...].

TASKS is a folder of its task files. OUT becomes a JSON object: for each model and task the accuracy
and the log-probabilities of the candidates of every item.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager


def scores(folder: str, manager: TaskManager) -> dict[str, list[dict[str, Any]]]:
    simple_evaluate: Any = lm_eval.simple_evaluate
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": folder, "dtype": "float32"},
        tasks=["local_mc1", "local_mc2"],
        task_manager=manager,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    return {
        task: [
            {"acc": float(item["acc"]), "logprobs": [float(r[0][0]) for r in item["resps"]]}
            for item in sorted(items, key=lambda item: item["doc_id"])
        ]
        for task, items in found["samples"].items()
    }


if __name__ == "__main__":
    tasks, out, *models = sys.argv[1:]
    manager = TaskManager(include_path=tasks, include_defaults=False)
    found = {model: scores(model, manager) for model in models}
    Path(out).write_text(json.dumps(found), encoding="utf-8")
