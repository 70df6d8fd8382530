"""Evaluations of Inspect under an edit, against our own generation and Inspect's on a checkpoint."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.analysis.suites.inspect_model import inspect_model
from lofit_lens.chat import ChatTemplate
from lofit_lens.errors import LofitLensError
from lofit_lens.export import export_checkpoint
from lofit_lens.model import load_model
from lofit_lens.scoring.generation import generate_greedily, generations
from tests.helpers import CONTEXT, count_hooks, draw_edit

inspect_ai = pytest.importorskip("inspect_ai")

import anyio  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    GenerateConfig,
)
from inspect_ai.scorer import includes  # noqa: E402

QUESTIONS = ("Who lives in the old house?", "What is grey?", "Who is the daughter of Anna?")
N_NEW = 8


@contextmanager
def quietly() -> Iterator[None]:
    """Without warnings of Inspect's own: streams that it leaves open, an old word of tenacity."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", "The 'initial' parameter", DeprecationWarning)
        yield
        gc.collect()


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """Runs Inspect on questions, and gives its log."""

    def asked(model: Any, questions: Any = QUESTIONS, **how: Any) -> Any:
        samples = [Sample(input=question, target="a") for question in questions]
        task = inspect_ai.Task(dataset=samples, scorer=includes())
        how = {"max_tokens": N_NEW, "display": "none", "log_dir": str(tmp_path / "logs"), **how}
        with quietly():
            logs = inspect_ai.eval(task, model=model, **how)
        return logs if isinstance(model, list) else logs[0]

    return asked


def answers(log: Any) -> list[str]:
    """The answers of each sample, epoch by epoch."""
    assert log.status == "success", log.error
    return [sample.output.completion for sample in log.samples]


def error_of(log: Any) -> str:
    assert log.status == "error"
    return log.error.message


def test_answers_under_an_edit_are_those_of_our_own_generation(
    chat_model: Callable[[str], Any], ask: Callable[..., Any]
) -> None:
    model = chat_model("system")
    template, hooks = ChatTemplate.of(model.tokenizer), count_hooks(model)
    prompts = [template.prompt([("user", question)]) for question in QUESTIONS]
    told = set()
    for edit in [None, draw_edit(model), draw_edit(model, scope="after_prompt")]:
        log = ask(inspect_model(model, edit, name="tiny"))
        own = generations(model, prompts, edit, max_new_tokens=N_NEW, progress=False)
        assert answers(log) == [one.text for one in own]
        scores = [sample.scores["includes"].value for sample in log.samples]
        assert scores == ["C" if "a" in one.text.lower() else "I" for one in own]
        for sample, one in zip(log.samples, own, strict=True):
            usage = sample.output.usage
            assert (usage.input_tokens, usage.output_tokens) == (one.n_prompt, one.n_new)
            assert sample.output.stop_reason == ("stop" if one.ended else "max_tokens")
        assert log.eval.model == "lofit-lens/tiny"
        assert log.eval.model_args == {"edit": repr(edit)}
        told.add(tuple(answers(log)))
    assert len(told) == 3 and count_hooks(model) == hooks


def test_edits_of_one_model_that_are_asked_at_once_do_not_meet(
    chat_model: Callable[[str], Any],
) -> None:
    model = chat_model("system")
    edits = [None, *(draw_edit(model, seed=seed) for seed in range(2))]
    prompt = ChatTemplate.of(model.tokenizer).prompt([("user", QUESTIONS[0])])
    alone = [
        generations(model, [prompt], edit, max_new_tokens=60, progress=False)[0].text
        for edit in edits
    ]
    found = [""] * len(edits)

    async def ask_one(i: int) -> None:
        asked = inspect_model(model, edits[i])
        found[i] = (
            await asked.generate(QUESTIONS[0], config=GenerateConfig(max_tokens=60))
        ).completion

    async def ask_all() -> None:
        async with anyio.create_task_group() as tasks:
            for i in range(len(edits)):
                tasks.start_soon(ask_one, i)

    with quietly():
        anyio.run(ask_all)
    assert found == alone


def test_a_saved_edit_is_applied_to_a_model_by_name_and_equals_the_exported_checkpoint(
    chat_folder: Callable[[str], Path],
    ask: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lofit_lens.analysis.suites import edited_api, registered

    assert registered  # what the entry point names
    folder = chat_folder("system")
    model = load_model(folder, device="cpu", dtype="float32")
    edit = draw_edit(model)
    edit.save(tmp_path / "edit")
    export_checkpoint(model, edit, tmp_path / "out")
    loads: list[Any] = []

    def counted(name: str, **how: Any) -> Any:
        loads.append(name)
        return load_model(name, **how)

    monkeypatch.setattr(edited_api, "load_model", counted)
    how = {"device": "cpu", "dtype": "float32"}
    named = f"lofit-lens/{folder}"
    ours = ask(named, model_args={"edit": str(tmp_path / "edit"), **how})
    plain = ask(named, model_args=how)
    assert loads == [str(folder)] * 2  # Inspect makes another to look up its context
    theirs = ask(
        "hf/exported",
        model_args={
            "model_path": str(tmp_path / "out"),
            "device": "cpu",
            "do_sample": False,
            "tokenizer_call_args": {"add_special_tokens": False},
        },
    )
    assert answers(ours) == answers(theirs) != answers(plain)


def test_a_model_without_a_template_is_asked_in_one_turn_as_it_stands(
    llama: Any, ask: Callable[..., Any]
) -> None:
    log = ask(inspect_model(llama))
    assert answers(log) == generate_greedily(llama, QUESTIONS, max_new_tokens=N_NEW, progress=False)
    two = [[ChatMessageSystem(content="Be brief."), ChatMessageUser(content="What is grey?")]]
    assert "no chat template" in error_of(ask(inspect_model(llama), two))


def test_conversations_and_settings_are_taken_as_inspect_gives_them(
    chat_model: Callable[[str], Any], ask: Callable[..., Any]
) -> None:
    model = chat_model("system")
    turns = [
        ("system", "Be brief."),
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "What is grey?"),
    ]
    kinds = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    prompt = ChatTemplate.of(model.tokenizer).prompt(turns)
    (whole,) = generations(model, [prompt], max_new_tokens=N_NEW, progress=False)
    messages = [[kinds[role](content=text) for role, text in turns]]
    asked = inspect_model(model)
    assert answers(ask(asked, messages)) == [whole.text]
    log = ask(asked, messages, stop_seqs=[whole.text[3:5]])
    assert answers(log) == [whole.text.partition(whole.text[3:5])[0]]
    assert log.samples[0].output.stop_reason == "stop"
    log = ask(asked, messages, max_tokens=500)
    usage = log.samples[0].output.usage
    assert log.samples[0].output.stop_reason == "model_length"
    assert usage.total_tokens == CONTEXT + 1


def test_draws_come_from_the_seed_whatever_shares_a_batch(
    chat_model: Callable[[str], Any], ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lofit_lens.analysis.suites import edited_api

    sizes: list[int] = []

    def counted(model: Any, prompts: Any, *args: Any, **how: Any) -> Any:
        sizes.append(len(prompts))
        return generations(model, prompts, *args, **how)

    monkeypatch.setattr(edited_api, "generations", counted)
    model = chat_model("system")
    edit = draw_edit(model)

    def drawn(**how: Any) -> list[str]:
        return answers(ask(inspect_model(model, edit), temperature=1.2, epochs=2, **how))

    found = drawn(seed=3)
    assert sizes == [6]  # requests that wait together share a batch
    assert sorted(drawn(seed=3, max_connections=1)) == sorted(found)
    assert len(set(found)) == 2 * len(QUESTIONS)  # every epoch draws anew
    assert sizes[1:] == [1] * 6
    assert drawn(seed=4) != found
    assert set(drawn()).isdisjoint(drawn())


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty=0.5 is not supported"),
        ({"logprobs": True}, "logprobs=True is not supported"),
        ({"num_choices": 2}, "num_choices=2 is not supported"),
        ({"top_p": 0.5}, "Give a temperature as well"),
        ({"stop_seqs": [""]}, "must not be empty"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused_before_the_model_is_loaded(
    setting: Any, told: str, llama: Any, ask: Callable[..., Any]
) -> None:
    from lofit_lens.analysis.suites.registered import provider

    made: Any = provider
    with pytest.raises(LofitLensError, match=told):
        made(model_name="nowhere", config=GenerateConfig(**setting))
    assert told in error_of(ask(inspect_model(llama), **setting))


def test_what_cannot_be_asked_is_refused(
    chat_model: Callable[[str], Any],
    tiny_model: Callable[[str], Any],
    ask: Callable[..., Any],
    tmp_path: Path,
) -> None:
    model = chat_model("plain")
    image = ContentImage(image="data:image/png;base64,AAAA")
    asked = {
        "Only text is supported, got image": [ChatMessageUser(content=[image])],
        "Only text is supported, got an answer of a tool": [ChatMessageTool(content="4")],
        "no system turns here": [ChatMessageSystem(content="Hi."), ChatMessageUser(content="Hi.")],
        "must end with what a user says": [ChatMessageAssistant(content="Hi.")],
        "exceeds the model's context": [ChatMessageUser(content="the cat " * 200)],
    }
    for told, messages in asked.items():
        assert told in error_of(ask(inspect_model(model), [messages]))
    with pytest.raises(LofitLensError, match="d_head"):
        inspect_model(model, draw_edit(tiny_model("gpt2")))
    with pytest.raises(LofitLensError, match="No edit in"):
        from lofit_lens.analysis.suites.registered import provider

        made: Any = provider
        made(model_name="nowhere", edit=str(tmp_path))


def test_answers_that_inspect_keeps_are_told_apart_by_the_edit(
    chat_model: Callable[[str], Any],
    ask: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    model = chat_model("system")
    edits = [draw_edit(model, seed=seed) for seed in (0, 1)]
    first, second, again = (
        answers(ask(inspect_model(model, edit), cache=True)) for edit in (*edits, edits[0])
    )
    assert first != second and first == again


def test_a_missing_package_is_told(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "inspect_ai.model", None)
    with pytest.raises(LofitLensError, match=r"pip install 'lofit-lens\[inspect\]'"):
        inspect_model(llama)
