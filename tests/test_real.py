"""Both stages on small real models and real task files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lofit_lens.analysis.kinds.lofit import LofitRun, lofit
from lofit_lens.model import load_model
from lofit_lens.scoring import evaluate
from lofit_lens.tasks import Example, MultipleChoice, Task, clutrr, from_file, mquake, truthfulqa
from lofit_lens.training import SelectionConfig, TuningConfig

pytestmark = pytest.mark.real


def shortened(task: Task) -> Task:
    return replace(task, train=task.train[:8], val=task.val[:4], test=task.test[:6])


@pytest.mark.parametrize("name", ["truthfulqa:0", "truthfulqa:1", "mquake", "clutrr"])
def test_the_papers_tasks_run_through_both_stages(
    name: str, data_dir: Path, models_dir: Path, tmp_path: Path
) -> None:
    tasks = {
        "truthfulqa:0": lambda: truthfulqa(0, data_dir=data_dir),
        "truthfulqa:1": lambda: truthfulqa(1, data_dir=data_dir),
        "mquake": lambda: mquake(data_dir=data_dir),
        "clutrr": lambda: clutrr(42, data_dir=data_dir),
    }
    model = load_model(models_dir / "stories3M", device="cpu")
    selection, tuning = SelectionConfig(epochs=1), TuningConfig(epochs=1)
    run = lofit(
        model, shortened(tasks[name]()), k=3, selection=selection, tuning=tuning,
        out=tmp_path, progress=False,
    )  # fmt: skip
    assert run.tuned.floors
    assert all(0 <= e.value <= 1 and e.n == 6 for e in run.tuned.metrics.values())
    again = LofitRun.load(tmp_path, model)
    assert again.tuned.records == run.tuned.records
    assert again.heads == run.heads
    assert again.scores.top(k=3) == run.heads


def test_a_choice_of_three_words_is_learned_from_a_file(data_dir: Path, models_dir: Path) -> None:
    task = from_file(
        data_dir / "function_vectors" / "choose_last_of_3.json",
        prompt="{input}. The last word is",
        answer="output",
        choices="input",
        separator=", ",
    )
    model = load_model(models_dir / "stories3M", device="cpu")
    run = lofit(model, task, k=6, random_draws=1, progress=False)
    assert run.zero_shot.main.value < 0.45
    assert run.tuned.main.value >= 0.75
    assert set(run.evaluations()) == {"zero_shot", "tuned", "random_0"}
    assert len(run.frame()) == 3


GOOD = "wonderful moving brilliant funny charming superb delightful touching gripping lovely"
BAD = "terrible boring awful clumsy dull dreadful tedious lifeless messy annoying"
THINGS = ("The film was", "I found the book", "What a")


def sentiment_task() -> Task:
    """30 sentences to be told good or bad."""
    sentences = [
        (f"{THINGS[i % 3]} {word}{' evening' if i % 3 == 2 else ''}.", label)
        for label, words in (("positive", GOOD), ("negative", BAD))
        for i, word in enumerate(words.split() + words.split()[:5])
    ]
    other = {"positive": "negative", "negative": "positive"}
    examples = tuple(
        Example(str(i), f"Review: {text}\nSentiment:", (f" {label}",), (f" {other[label]}",))
        for i, (text, label) in enumerate(sentences)
    )
    return Task("sentiment", examples, examples, examples, examples, "choice", MultipleChoice())


def test_smollm2_is_scored_item_by_item_as_plain_transformers_scores_it(
    smollm2: Path,
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    found = evaluate(load_model(smollm2, device="cpu"), sentiment_task(), progress=False)
    right = 0
    for record, example in zip(found.records, sentiment_task().test, strict=True):
        sums = []
        for answer in (*example.correct, *example.incorrect):
            n_prompt = len(tokenizer(example.prompt).input_ids)
            ids = torch.tensor([tokenizer(example.prompt + answer).input_ids])
            with torch.no_grad():
                logprobs = plain(ids).logits[0].log_softmax(-1)
            places = range(n_prompt, ids.shape[1])
            sums.append(sum(float(logprobs[i - 1, ids[0, i]]) for i in places))
        assert [*record["correct"], *record["incorrect"]] == pytest.approx(sums, abs=1e-3)
        assert record["accuracy"] == float(sums[0] > sums[1])
        right += sums[0] > sums[1]
    assert found.main.value == right / 30
    assert right >= 24
