"""How a generation ended, and answers that a model does not stop behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.scoring.generation import generations
from lofit_lens.tasks import ExactMatch, from_file, from_rows, reload_task
from tests.helpers import load_plain
from tests.test_training import colour_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformer_lens.model_bridge import TransformerBridge

PROMPTS = ["The cat", "Anna has a son, Ben. Ben has", "The colour of the old house is"]
N_NEW = 6


def plain_ids(folder: Path, prompts: list[str], tokenizer: Any) -> list[list[int]]:
    """What plain `transformers` generates, one prompt at a time and without an end."""
    plain, found = load_plain(folder), []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=N_NEW, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        found.append(out[0, ids.shape[1] :].tolist())
    return found


def test_a_generation_ended_if_the_model_wrote_a_token_that_ends_it(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    tokenizer: Any = llama.tokenizer
    ids = plain_ids(tiny_folder("llama"), PROMPTS, tokenizer)
    assert not any(found.ended for found in generations(llama, PROMPTS, max_new_tokens=N_NEW))
    end = ids[1][2]
    hf_model: Any = llama.original_model
    hf_model.generation_config.eos_token_id = [1, end]
    found = generations(llama, PROMPTS, max_new_tokens=N_NEW)
    assert [one.ended for one in found] == [end in new for new in ids]
    assert found[1].ended
    cut = ids[1][: ids[1].index(end)]
    assert found[1].text == tokenizer.decode(cut)


def test_records_say_what_ended_them_and_the_result_says_if_nothing_did(
    llama: TransformerBridge,
) -> None:
    task = replace(colour_task(), scoring=ExactMatch(max_new_tokens=3))
    found = evaluate(llama, task, progress=False)
    texts = [record["generated"] for record in found.records]
    expected = ["stop" if "\n" in text else "length" for text in texts]
    assert [record["finish_reason"] for record in found.records] == expected == ["length"] * 6
    assert found.finished == 0.0
    assert "No generation of 6 ended by itself" in (found.warning() or "")
    assert 'match="begins"' in (found.warning() or "")
    assert repr(found).endswith("; no generation ended by itself)")
    assert "No generation of 6" in found._repr_html_()
    stop = texts[2].strip()[-1]
    stopped = replace(task, scoring=ExactMatch(max_new_tokens=3, stop=stop))
    some = evaluate(llama, stopped, progress=False)
    expected = ["stop" if stop in text else "length" for text in texts]
    assert [record["finish_reason"] for record in some.records] == expected
    assert some.finished == pytest.approx(expected.count("stop") / 6)
    assert some.warning() is None


def test_a_generation_has_stopped_where_its_prediction_ends() -> None:
    rule = ExactMatch(stop=" ", lead="Answer:")
    for text, prediction, stops in (
        (" Answer: blue", "answer: blue", False),
        (" Answer: blue or red", "answer: blue", True),
        ("blue or red", "blue", True),
    ):
        assert (rule.prediction("", text), rule.stops(text)) == (prediction, stops)


def test_choices_and_files_of_earlier_versions_have_no_endings(llama: TransformerBridge) -> None:
    chosen = evaluate(llama, colour_task(), progress=False)
    assert chosen.finished is None
    assert chosen.warning() is None
    old = Evaluation("kin", "test", ("EM",), ({"id": "0", "group": "", "EM": 0.0},), {})
    assert old.finished is None


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("grey", True),
        ("grey cat and the", True),
        ("grey, i think", True),
        ("grey\tcat", True),
        ("greyish", False),
        ("grey2", False),
        ("a grey cat", False),
        ("gre", False),
        ("", False),
        ("42 is it", True),
        ("420", False),
        ("c++ of course", True),
        ("c+", False),
    ],
)
def test_a_prediction_begins_with_an_answer_up_to_the_end_of_a_word(
    prediction: str, right: bool
) -> None:
    rule = ExactMatch(match="begins")
    assert rule.is_correct(prediction, (" Grey", "42", "C++", " ")) == right
    assert ExactMatch().is_correct(prediction, (" Grey", "42", "C++")) == (prediction == "grey")


def test_begins_is_a_metric_of_its_own_that_a_model_that_goes_on_can_meet(
    llama: TransformerBridge,
) -> None:
    task = replace(colour_task(), scoring=ExactMatch(max_new_tokens=6))
    texts = [record["generated"] for record in evaluate(llama, task, progress=False).records]
    begun = tuple(
        replace(example, correct=(text.split()[0],))
        for example, text in zip(task.test, texts, strict=True)
    )
    task = replace(task, test=begun)
    exact = evaluate(llama, task, progress=False)
    rule = ExactMatch(max_new_tokens=6, match="begins")
    begins = evaluate(llama, replace(task, scoring=rule), progress=False)
    assert (exact.metric_names, begins.metric_names) == (("EM",), ("begins",))
    assert exact.main.value < 1.0
    assert begins.main.value == 1.0
    assert begins.warning() == "No generation of 6 ended by itself or at the stop text."


def test_a_file_takes_the_rule_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    rows = [{"q": f"Q{i}", "a": f"A{i}"} for i in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = from_file(path, prompt="{q}", answer="a", match="begins")
    assert task.scoring == ExactMatch(match="begins")
    assert reload_task(task.source).scoring == task.scoring


def test_the_command_says_that_nothing_ended_and_puts_it_into_json(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    path = tmp_path / "q.jsonl"
    rows = [{"q": f"The colour of house {i} is", "a": "red"} for i in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = CliRunner().invoke(
        app,
        ["evaluate", "--model", str(tiny_folder("llama")), "--task", str(path), "--prompt", "{q}",
         "--answer", "a", "--max-new-tokens", "2", "--match", "begins", "--device", "cpu", "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["finished"] == {"zero_shot": 0.0}
    assert "No generation of 5 ended" in told["hints"][0]
    assert "No generation of 5 ended" in done.stderr
    assert set(told["metrics"]["zero_shot"]) == {"begins"}


def test_a_limit_of_no_tokens_is_refused_before_any_training() -> None:
    rows = [{"q": f"{i}", "a": "x"} for i in range(10)]
    with pytest.raises(
        LofitLensError, match="max_new_tokens must be a whole number of at least 1, got 0"
    ):
        from_rows(rows, prompt="{q}", answer="a", max_new_tokens=0)
