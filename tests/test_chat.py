from __future__ import annotations

import copy
import csv
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.chat import TODAY, ChatPrompt, ChatTemplate
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.fast.switches import shortcuts
from lofit_lens.model import load_model
from lofit_lens.provenance import learned_on
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks import (
    ExactMatch,
    Example,
    MultipleChoice,
    from_file,
    reload_task,
    truthfulqa,
)
from lofit_lens.tasks.chat import as_plain
from lofit_lens.tasks.load import check_not_trained_on
from lofit_lens.tokens import Encoder
from lofit_lens.training.objectives import encode_items
from tests.chats import (
    BLANK,
    PLAIN,
    SYSTEM,
    THOUGHT,
    chat_tokenizer,
    conversation,
    made_up,
    templated,
)
from tests.helpers import VOCAB, draw_edit, load_plain

Loader = Callable[[str], TransformerBridge]


@contextmanager
def noted(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    found: list[str] = []
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lofit_lens.chat"):
        yield found
    found += [r.getMessage() for r in caplog.records if r.name == "lofit_lens.chat"]


@pytest.mark.parametrize(
    ("name", "system"),
    [("plain", None), ("system", None), ("system", "Answer in one word."), ("blank", None)],
)
def test_the_ids_of_a_chat_prompt_are_those_of_apply_chat_template(
    name: str, system: str | None, chat_model: Loader
) -> None:
    model = chat_model(name)
    plain = made_up()
    task = plain.as_chat(model.tokenizer, system)
    encoder = Encoder(model)
    for split in ("train", "val", "test", "val_as_test"):
        for before, after in zip(getattr(plain, split), getattr(task, split), strict=True):
            expected = templated(model.tokenizer, conversation(before, system))
            assert list(encoder.prompt(after.prompt).ids) == expected
            assert expected.count(0) == (name != "system")  # BOS once, where the template has it
            assert system is None or system in after.prompt


@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("name", ["plain", "system", "blank", "thought"])
def test_what_is_trained_on_is_the_conversation_up_to_the_end_of_the_turn(
    name: str, objective: Any, chat_model: Loader
) -> None:
    model = chat_model(name)
    plain, end = made_up(), model.tokenizer.convert_tokens_to_ids("</s>")
    if name == "plain":
        end = model.tokenizer.convert_tokens_to_ids("<|end|>")
    train = plain.as_chat(model.tokenizer).train
    items = encode_items(Encoder(model), train, objective, plain.scoring)
    for example, item in zip(plain.train, items, strict=True):
        answers = (example.correct[0], example.incorrect[0])[: len(item.texts)]
        for answer, text in zip(answers, item.texts, strict=True):
            told = {"role": "assistant", "content": answer.strip()}
            whole = templated(model.tokenizer, [*conversation(example), told], is_open=False)
            last = len(whole) - whole[::-1].index(end)
            assert list(text.ids) == whole[:last]
            asked = templated(model.tokenizer, conversation(example))
            thought = "<think></think>" if name == "thought" else ""
            lead = model.tokenizer(thought, add_special_tokens=False)["input_ids"]
            assert list(text.ids[: text.n_prompt]) == asked + lead


def test_under_choice_the_end_of_the_turn_is_not_trained(chat_model: Loader) -> None:
    model = chat_model("plain")
    task = made_up().as_chat(model.tokenizer)
    for item in encode_items(Encoder(model), task.train, "choice", task.scoring):
        assert all(text.ids[-1] < VOCAB for text in item.texts)


@pytest.mark.parametrize("name", ["plain", "system", "blank"])
def test_candidates_score_what_plain_hugging_face_gives_on_the_same_ids(
    name: str, chat_folder: Callable[[str], Path]
) -> None:
    model, hf = load_model(chat_folder(name), device="cpu"), load_plain(chat_folder(name))
    plain = made_up()
    records = evaluate(model, plain.as_chat(model.tokenizer), progress=False).records
    for example, record in zip(plain.test, records, strict=True):
        asked = templated(model.tokenizer, conversation(example))
        blank = " " if name == "blank" else ""
        for answer, score in zip(example.correct, record["correct"], strict=True):
            text = blank + answer.strip()
            new = model.tokenizer(text, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = hf(torch.tensor([asked + new])).logits[0].log_softmax(-1)
            expected = sum(float(logits[len(asked) + i - 1, t]) for i, t in enumerate(new))
            assert score == pytest.approx(expected, abs=1e-4)


def test_the_template_up_to_the_question_is_run_once_and_scores_stay(
    chat_model: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lofit_lens.fast.forward_passes import ForwardPasses
    from lofit_lens.fast.trial import try_shortcuts

    model = chat_model("system")
    task = made_up().as_chat(model.tokenizer, "Answer with the name of a colour.")
    edit, encoder = draw_edit(model), Encoder(model)
    texts = [t for e in task.test for t in encoder.candidates(e.prompt, e.correct + e.incorrect)]
    kept: list[int] = []
    keys_values = ForwardPasses.keys_values
    try_shortcuts(model)

    def watched(passes: ForwardPasses, tokens: Any) -> Any:
        kept.append(tokens.shape[1])
        return keys_values(passes, tokens)

    monkeypatch.setattr(ForwardPasses, "keys_values", watched)
    shared = answer_logprobs(model, texts, edit)
    head = encoder.prompt(ChatPrompt(task.test[0].prompt.before)).ids  # pyright: ignore
    assert len(kept) == 1
    assert kept[0] >= len(head) > 20
    with shortcuts(False):
        plain = answer_logprobs(model, texts, edit)
    assert len(kept) == 1
    assert torch.allclose(shared, plain, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "system"])
def test_a_generation_stops_at_the_end_of_the_turn(
    name: str, chat_folder: Callable[[str], Path]
) -> None:
    folder = chat_folder(name)
    model = load_model(folder, device="cpu")
    end = model.tokenizer.convert_tokens_to_ids("<|end|>" if name == "plain" else "</s>")
    prompts = [e.prompt for e in made_up().as_chat(model.tokenizer).test]
    hf = load_plain(folder)
    plain: Any = model.original_model
    for bridge_or_plain in (plain, hf):  # a bias makes the end likely, not certain
        head = bridge_or_plain.lm_head
        head = getattr(head, "original_component", head)
        head.weight.data[end] *= 3.0
    found = generate_greedily(model, prompts, max_new_tokens=24)
    ended = 0
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([model.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            whole = hf.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False,
                eos_token_id=[1, end], pad_token_id=0,
            )  # fmt: skip
        new = whole[0, ids.shape[1] :].tolist()
        stop = next((i for i, token in enumerate(new) if token in (1, end)), len(new))
        ended += stop < len(new)
        assert text == model.tokenizer.decode(new[:stop], skip_special_tokens=True)
    assert ended


def test_the_ends_of_the_model_s_generation_settings_count_as_well(chat_model: Loader) -> None:
    model = chat_model("plain")
    prompt = made_up().as_chat(model.tokenizer).test[0].prompt
    assert set(Encoder(model).ends_behind([prompt])) == {1, VOCAB + 3}
    assert set(Encoder(model).ends_behind(["plain"])) == {1}
    hf: Any = model.original_model
    hf.generation_config.eos_token_id = [1, 7]
    assert set(Encoder(model).ends_behind([prompt])) == {1, 7, VOCAB + 3}


def test_a_tokenizer_without_a_template_is_refused(chat_model: Loader) -> None:
    model = chat_model("none")
    for tokenizer in (model.tokenizer, None):
        with pytest.raises(LofitLensError, match="This tokenizer has no chat template"):
            made_up().as_chat(tokenizer)


def test_a_template_that_takes_no_system_turn_says_so() -> None:
    with pytest.raises(LofitLensError, match=r"no system turns here.*Put the system text into"):
        made_up().as_chat(chat_tokenizer(PLAIN), "Be brief.")
    silent = PLAIN.replace(
        "{{ raise_exception('no system turns here') }}{% endif %}", "{% else %}"
    ).replace("<|end|>\n{% endfor %}", "<|end|>\n{% endif %}{% endfor %}")
    assert made_up().as_chat(chat_tokenizer(silent)).test[0].prompt.endswith("<|model|>\n")
    with pytest.raises(LofitLensError, match=r"leaves the system text 'Be brief\.' out"):
        made_up().as_chat(chat_tokenizer(silent), "Be brief.")


def test_a_template_whose_answers_stand_elsewhere_is_refused() -> None:
    thinks = SYSTEM.replace("<|model|>\n{% endif %}", "<|model|>\n<think>\n{% endif %}")
    with pytest.raises(LofitLensError, match=r"begins an answer with .*<think>"):
        made_up().as_chat(chat_tokenizer(thinks))
    parts = SYSTEM.replace("m['content'] }}", "m['content'][0]['text'] }}")
    with pytest.raises(LofitLensError, match=r"list of parts|has no attribute 'text'"):
        made_up().as_chat(chat_tokenizer(parts))


def test_what_stands_between_generation_prompt_and_answer_is_part_of_the_prompt() -> None:
    task = made_up().as_chat(chat_tokenizer(THOUGHT))
    assert task.test[0].prompt.endswith("<|model|>\n<think></think>")
    assert task.test[0].correct == ("blue", "sky blue")
    line = BLANK.replace("{{ ' ' + m['content']", "{{ '\n' + m['content']")
    task = made_up().as_chat(chat_tokenizer(line))  # a line break in the answer would be a stop
    assert task.test[0].prompt.endswith("[/INST]\n")
    assert task.test[0].correct == ("blue", "sky blue")


def test_thinking_is_switched_off_and_the_date_stands_still() -> None:
    dated = (
        "{% if strftime_now is defined %}{% set date = strftime_now('%d %B %Y') %}{% endif %}"
        "{{ date }} {{ enable_thinking }}" + PLAIN
    )
    task = made_up().as_chat(chat_tokenizer(dated))
    assert task.test[0].prompt.startswith("26 July 2024 False<s>")
    assert task.source["chat"]["date"] == TODAY.isoformat()
    with pytest.raises(LofitLensError, match="would change overnight"):
        made_up().as_chat(chat_tokenizer("{% set f = '%Y' %}{{ strftime_now(f) }}" + PLAIN))
    assert "date" not in made_up().as_chat(chat_tokenizer(PLAIN)).source["chat"]


def test_answers_begin_right_behind_the_generation_prompt() -> None:
    task = made_up().as_chat(chat_tokenizer(PLAIN))
    assert {e.correct for e in task.test} == {("blue", "sky blue")}
    assert {e.incorrect for e in task.train} == {("red", "grey")}
    task = made_up().as_chat(chat_tokenizer(BLANK))
    assert {e.correct for e in task.test} == {(" blue", " sky blue")}


def test_messages_are_turns_of_their_own() -> None:
    tokenizer: Any = chat_tokenizer(SYSTEM)
    plain = made_up()
    turns = (("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello."), ("user", "Sky?"))
    few = tuple(replace(example, messages=turns) for example in plain.train)
    task = replace(plain, train=few).as_chat(tokenizer)
    expected = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert {example.prompt for example in task.train} == {expected}
    prompt = task.train[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.before == "<|system|>\nBe brief.</s>\n<|user|>\n"
    with pytest.raises(LofitLensError, match="system turn of its own"):
        replace(plain, train=few).as_chat(tokenizer, "Be kind.")
    unfinished = replace(plain.train[0], messages=turns[:3])
    with pytest.raises(LofitLensError, match="must end with what a user says") as caught:
        replace(plain, train=(unfinished,)).as_chat(tokenizer)
    assert caught.value.__notes__ == [f"This is example {unfinished.id}."]


def test_the_hash_of_data_without_messages_is_what_it_was() -> None:
    task = made_up()
    old = {
        split: [{k: v for k, v in vars(e).items() if k != "messages"} for e in getattr(task, split)]
        for split in ("train", "val", "test")
    }
    import hashlib

    text = json.dumps(old, sort_keys=True, ensure_ascii=False)
    assert task.data_hash() == hashlib.sha256(text.encode()).hexdigest()
    other = replace(task.train[0], messages=(("user", "Sky?"),))
    assert (
        replace(task, train=(other,)).data_hash() != replace(task, train=task.train[:1]).data_hash()
    )


def test_what_a_chat_cannot_be_made_of_is_refused_by_name() -> None:
    tokenizer = chat_tokenizer(PLAIN)
    counted = made_up(MultipleChoice(counted_lead=("\nA:", 3)))
    with pytest.raises(LofitLensError, match="defined on the plain prompt"):
        counted.as_chat(tokenizer)
    with pytest.raises(LofitLensError, match="defined on the plain prompt"):
        made_up(ExactMatch(after="A:")).as_chat(tokenizer)
    pairs = made_up(val=(Example("x", "", ("a",), ("b",)),))
    with pytest.raises(DataError, match="Example x of colours has no prompt"):
        pairs.as_chat(tokenizer)
    with pytest.raises(LofitLensError, match="in a chat template already"):
        made_up().as_chat(tokenizer).as_chat(tokenizer)
    with pytest.raises(
        LofitLensError, match=r"no compat mode 'paper-code'.*Chat prompts have none"
    ):
        made_up().as_chat(tokenizer).scoring_rule("paper-code")


def test_a_chat_prompt_stays_one_when_it_is_copied_or_pickled() -> None:
    prompt = ChatTemplate.of(chat_tokenizer(PLAIN)).prompt([("user", "Sky?")])
    for again in (copy.deepcopy(prompt), pickle.loads(pickle.dumps(prompt))):
        assert isinstance(again, ChatPrompt)
        assert (again, again.before, again.close) == (prompt, prompt.before, prompt.close)
        assert prompt.close == "<|end|>"
        assert prompt.before == "<s><|user|>\n"


def colours_file(folder: Path, n: int = 20) -> Path:
    path = folder / "colours.csv"
    with path.open("w", newline="") as file:
        rows = [[f"thing {i}", "blue" if i % 2 else "red"] for i in range(n)]
        csv.writer(file).writerows([["thing", "colour"], *rows])
    return path


def test_the_source_of_a_chat_makes_it_again(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(SYSTEM)
    plain = from_file(colours_file(tmp_path), prompt="Colour of {thing}?", answer="colour")
    task = plain.as_chat(tokenizer, "Be brief.")
    assert task.data_hash() != plain.data_hash()
    source = json.loads(json.dumps(dict(task.source)))
    assert source["chat"]["system"] == "Be brief."
    again = reload_task(source, tokenizer=tokenizer)
    assert again.data_hash() == task.data_hash()
    assert again.test == task.test
    with pytest.raises(LofitLensError, match="give the tokenizer of the model"):
        reload_task(source)
    with pytest.raises(LofitLensError, match="another chat template"):
        reload_task(source, tokenizer=chat_tokenizer(SYSTEM + "\n"))
    on_purpose = as_plain(plain)
    assert on_purpose.data_hash() == plain.data_hash()
    assert reload_task(on_purpose.source).source == on_purpose.source
    assert on_purpose.as_chat(tokenizer, "Be brief.").data_hash() == task.data_hash()
    check_not_trained_on(plain, source)
    with pytest.raises(LofitLensError, match="split_seed"):
        check_not_trained_on(task, {**source, "split_seed": 1})


def test_a_model_with_a_template_used_without_it_is_noted_once(
    chat_model: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    model = chat_model("plain")
    with noted(caplog) as found:
        evaluate(model, made_up(), progress=False)
        evaluate(model, made_up(), progress=False)
    (note,) = found
    assert "\n" not in note
    assert "colours is used without it" in note
    model = chat_model("plain")
    by_hand = tuple(replace(e, prompt=f"<|user|>{e.prompt}<|end|>") for e in made_up().train)
    with noted(caplog) as found:
        evaluate(model, made_up().as_chat(model.tokenizer), progress=False)
        evaluate(model, made_up(train=by_hand), progress=False)
        evaluate(chat_model("none"), made_up(), progress=False)
        evaluate(model, as_plain(made_up()), progress=False)
    assert found == []


def test_an_edit_learned_in_a_chat_and_scored_without_is_said(
    chat_model: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    model = chat_model("system")
    plain = made_up()
    task = plain.as_chat(model.tokenizer, "Be brief.")
    edit = replace(draw_edit(model), provenance=learned_on(model, task, {}))
    with noted(caplog) as found:
        evaluate(model, task, edit, progress=False)
    assert found == []
    with noted(caplog) as found:
        evaluate(model, plain, edit, progress=False)
    assert "learned in the chat template" in found[0]
    assert "'Be brief.', and colours is scored without a chat template" in found[0]
    other = replace(edit, provenance=learned_on(model, plain, {}))
    StackedEdits((edit, other))  # the same data, whatever stands around it


@pytest.mark.real
def test_a_real_chat_model_reads_its_own_template(smollm2: Path, data_dir: Path) -> None:
    model = load_model(smollm2, device="cpu", dtype="float32")
    tokenizer, encoder = model.tokenizer, Encoder(model)
    plain = truthfulqa(0, data_dir=data_dir)
    for system in (None, "Answer in one word."):
        task = plain.as_chat(tokenizer, system)
        for before, after in zip(plain.test[:20], task.test[:20], strict=True):
            asked = templated(tokenizer, conversation(before, system))
            assert list(encoder.prompt(after.prompt).ids) == asked
        (item,) = encode_items(encoder, task.train[:1], "sft", task.scoring)
        told = {"role": "assistant", "content": plain.train[0].correct[0]}
        whole = templated(tokenizer, [*conversation(plain.train[0], system), told], is_open=False)
        assert list(item.texts[0].ids) == whole[:-1]  # the line break behind the end of the turn


@pytest.mark.real
def test_a_real_chat_model_answers_in_its_turn_as_in_plain_transformers(
    smollm2: Path,
) -> None:
    model, hf = load_model(smollm2, device="cpu", dtype="float32"), load_plain(smollm2)
    questions = ["What is the capital of Japan?", "What is the capital of Croatia?"]
    prompts = [ChatTemplate.of(model.tokenizer).prompt([("user", text)]) for text in questions]
    found = generate_greedily(model, prompts, max_new_tokens=24)
    for question, text in zip(questions, found, strict=True):
        ids = torch.tensor([templated(model.tokenizer, [{"role": "user", "content": question}])])
        with torch.no_grad():
            whole = hf.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
            )
        new = whole[0, ids.shape[1] :].tolist()
        assert new[-1] == 2  # <|im_end|>
        assert text == model.tokenizer.decode(new[:-1])


def test_a_file_of_conversations_is_read_as_turns(tmp_path: Path) -> None:
    tokenizer: Any = chat_tokenizer(SYSTEM)
    path, asked = tmp_path / "talks.jsonl", []
    with path.open("w") as file:
        for i in range(20):
            turns = [
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": f"What colour is thing {i}?"},
            ]
            asked.append(turns)
            print(
                json.dumps({"messages": [*turns, {"role": "assistant", "content": "Blue."}]}),
                file=file,
            )
    task = from_file(path).as_chat(tokenizer)
    expected = {
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        for turns in asked
    }
    assert {example.prompt for example in task.train + task.val + task.test} == expected
    assert {example.correct for example in task.test} == {("Blue.",)}
