"""TruthfulQA as lm-evaluation-harness scores it, against the harness itself."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from lofit_lens.export import export_checkpoint
from lofit_lens.identity import EMBEDDED_FOLDER
from lofit_lens.model import load_model
from lofit_lens.scoring import Evaluation, evaluate
from lofit_lens.tasks import sources, truthfulqa
from tests.helpers import draw_edit, save_tiny_model
from tests.test_tasks import truthfulqa_rows

lm_eval = pytest.importorskip("lm_eval")


PRIMER = "Q: Is ice hot?\nA: No."
THINGS = ("pig", "dog", "sea", "fog", "sun", "owl", "ant", "elm", "oak", "hen", "ox", "bee")


def made_rows(first: int, last: int) -> list[dict[str, str]]:
    """Made-up questions in the form of TruthfulQA's file; the best answer is not the first."""
    return [
        {
            "Question": f"Is the {THINGS[i % 12]} {'old' if i < 12 else 'red'}?",
            "Best Answer": f"Not {i}",
            "Correct Answers": f"No; Not {i}; Not the {THINGS[(i + 5) % 12]}.; No",
            "Incorrect Answers": f"Yes; It is {i}; Yes; {THINGS[(i + 3) % 12]}",
        }
        for i in range(first, last)
    ]


@pytest.fixture
def made_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 questions in two folds, with a short primer."""
    folder = tmp_path / "truthfulqa"
    folder.mkdir()
    for fold, test in ((0, (0, 12)), (1, (12, 24))):
        for split, rows in (("test", test), ("train", (30, 33)), ("val", (33, 35))):
            name = f"truthfulqa/fold_{fold}_{split}_seed_42.csv"
            monkeypatch.setitem(sources.FILES, name, None)
            with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, made_rows(0, 1)[0])
                writer.writeheader()
                writer.writerows(made_rows(*rows))
    prompts = {"qa_primer": PRIMER, "instruction": "Be brief."}
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    for part, text in prompts.items():
        path, *_ = sources.PROMPT_PARTS[part]
        hashed = sources._sha256(text.encode())
        monkeypatch.setitem(sources.PROMPT_PARTS, part, (path, "", hashed))
    return tmp_path


def closed(answers: str) -> list[str]:
    """Answers of a cell, each once, with a full stop."""
    texts = [part.strip() for part in answers.split(";") if part.strip()]
    return list(dict.fromkeys(text if text.endswith(".") else f"{text}." for text in texts))


def harness_docs(rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """The rows as the harness reads them: the one right answer first, then all of them."""
    docs = []
    for row in rows:
        (best,), right, wrong = (
            closed(row[f"{kind} Answer{'s' * (kind != 'Best')}"])
            for kind in ("Best", "Correct", "Incorrect")
        )
        right = [best, *(answer for answer in right if answer != best)]
        docs.append(
            {
                "question": row["Question"],
                "mc1_targets": {"choices": [best, *wrong], "labels": [1] + [0] * len(wrong)},
                "mc2_targets": {
                    "choices": right + wrong,
                    "labels": [1] * len(right) + [0] * len(wrong),
                },
            }
        )
    return docs


def harness_task_files(
    folder: Path, docs: Sequence[dict[str, Any]], *, primer: str | None = None
) -> Path:
    """Task files that read local rows and are the harness's own in all else but a primer."""
    tasks = folder / "tasks"
    tasks.mkdir()
    data = folder / "questions.jsonl"
    data.write_text("".join(f"{json.dumps(doc)}\n" for doc in docs), encoding="utf-8")
    for metric in ("mc1", "mc2"):
        content: dict[str, Any] = {
            "include": str(harness_folder() / f"truthfulqa_{metric}.yaml"),
            "task": f"local_{metric}",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"validation": str(data)}},
        }
        if primer is not None:
            content["doc_to_text"] = primer + "\n\nQ: {{question}}\nA:"
        (tasks / f"{metric}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tasks


def harness_folder() -> Path:
    return Path(lm_eval.__path__[0]) / "tasks" / "truthfulqa"


def harness_scores(tasks: Path, models: Sequence[Path], tmp_path: Path) -> dict[str, Any]:
    """What the harness gives for some models, offline and with its caches in `tmp_path`."""
    out = tmp_path / "scores.json"
    here = {name: str(tmp_path / "cache") for name in ("HF_HOME", "HF_DATASETS_CACHE", "HOME")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("run_lm_eval.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tasks), str(out), *map(str, models)],
        env=os.environ | here | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))


def assert_scores_are_equal(ours: Evaluation, theirs: dict[str, list[dict[str, Any]]]) -> None:
    for record, mc1, mc2 in zip(
        ours.records, theirs["local_mc1"], theirs["local_mc2"], strict=True
    ):
        one, every = (
            [*correct, *record["incorrect"]]
            for correct in (record["correct"][:1], record["correct"])
        )
        assert one == pytest.approx(mc1["logprobs"], abs=1e-4)
        assert every == pytest.approx(mc2["logprobs"], abs=1e-4)
        assert record["MC1"] == mc1["acc"]
        assert record["MC2"] == pytest.approx(mc2["acc"], abs=1e-4)


def in_float32(source: Path, folder: Path) -> Path:
    """A copy of a model whose weights, and whose export, are not rounded to float16."""
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.mark.real
def test_every_question_has_the_prompt_and_the_answers_of_the_harness(data_dir: Path) -> None:
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("!", lambda *_: None)
    text = (harness_folder() / "truthfulqa_mc1.yaml").read_text(encoding="utf-8")
    template = yaml.load(text, loader)["doc_to_text"]
    render = jinja2.Environment(keep_trailing_newline=True).from_string(template).render
    task = truthfulqa(protocol="lm-eval", data_dir=data_dir)
    rows = [row for fold in (0, 1) for row in truthfulqa_rows(data_dir, fold, "test")]
    for example, row, doc in zip(task.test, rows, harness_docs(rows), strict=True):
        assert example.prompt == render(question=row["Question"])
        assert list(example.correct + example.incorrect) == [
            f" {choice}" for choice in doc["mc2_targets"]["choices"]
        ]
    assert len(task.test) == 817


@pytest.mark.real
def test_smollm2_scores_as_in_the_harness_before_and_after_an_edit(
    data_dir: Path, smollm2: Path, tmp_path: Path
) -> None:
    task = truthfulqa(protocol="lm-eval", data_dir=data_dir)
    short = sorted(task.test, key=lambda example: len(example.correct + example.incorrect))[:6]
    task = replace(task, test=tuple(short))
    asked = {example.id: i for i, example in enumerate(short)}
    every = [row for fold in (0, 1) for row in truthfulqa_rows(data_dir, fold, "test")]
    rows = [row for row in every if row["Question"] in asked]
    rows.sort(key=lambda row: asked[row["Question"]])
    folder, edited = in_float32(smollm2, tmp_path / "smollm2"), tmp_path / "edited"
    model = load_model(folder, device="cpu", dtype="float32")
    edit = 0.2 * draw_edit(model, scale=False)
    export_checkpoint(model, edit, edited)
    ours = {
        folder: evaluate(model, task, progress=False),
        edited: evaluate(model, task, edit, progress=False),
    }
    plain = ours[folder].metrics["MC2"].value
    assert abs(plain - ours[edited].metrics["MC2"].value) > 1e-3
    theirs = harness_scores(harness_task_files(tmp_path, harness_docs(rows)), list(ours), tmp_path)
    for folder, evaluation in ours.items():
        assert_scores_are_equal(evaluation, theirs[str(folder)])


def test_every_item_scores_as_in_the_harness_before_and_after_an_edit(
    made_data: Path, tmp_path: Path
) -> None:
    """With and without BOS, with tokens across the line break, and for the embedded model."""
    task = truthfulqa(protocol="lm-eval", data_dir=made_data)
    tasks = harness_task_files(tmp_path, harness_docs(made_rows(0, 24)), primer=PRIMER)
    llama = save_tiny_model("llama", tmp_path / "llama")
    qwen = save_tiny_model("qwen3", tmp_path / "qwen3", merges_across_lines=True)
    ours: dict[Path, Evaluation] = {}
    for folder in (llama, qwen, in_float32(EMBEDDED_FOLDER, tmp_path / "embedded")):
        model = load_model(folder, device="cpu", dtype="float32")
        edit, edited = draw_edit(model), tmp_path / f"{folder.name}-edited"
        export_checkpoint(model, edit, edited)
        ours[folder] = evaluate(model, task, progress=False)
        ours[edited] = evaluate(model, task, edit, progress=False)
        before, after = (ours[key].metrics["MC2"].value for key in (folder, edited))
        assert abs(before - after) > 1e-3
    theirs = harness_scores(tasks, list(ours), tmp_path)
    for folder, evaluation in ours.items():
        assert_scores_are_equal(evaluation, theirs[str(folder)])
