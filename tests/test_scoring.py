"""Scoring against a slow reference: one sequence at a time, on a plain Hugging Face model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, ScoringError
from lofit_lens.export import export_checkpoint
from lofit_lens.fast.trial import try_shortcuts
from lofit_lens.fast.wrappers import only_counts
from lofit_lens.folding import fold
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.scoring import answer_logprobs, evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.stages import tune_heads
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task
from lofit_lens.tokens import EncodedText, Encoder
from lofit_lens.training import TuningConfig
from tests.helpers import (
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    build_tokenizer,
    load_plain,
    save_tiny_model,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SCOPES = ("all", "after_prompt", "iti_compat", "last")
ModelBuilder = Callable[[str], "TransformerBridge"]
SHOTS = "Q: Who lives in the old house?\nA: A grey cat lives in the old house.\n\n"


def question_task(scoring: MultipleChoice | ExactMatch | None = None) -> Task:
    examples = tuple(
        Example(
            id=str(i),
            prompt=f"{SHOTS if i % 2 else ''}Q: What is the colour of the {thing}?\nA:",
            correct=(f" The {thing} is {colour}.", f" {colour.capitalize()}."),
            incorrect=(" It is green.", " The cat.", f" Nobody has seen the {thing} of Anna."),
        )
        for i, (thing, colour) in enumerate(
            [("sky", "blue"), ("house", "red"), ("cat", "grey"), ("daughter", "white")]
        )
    )
    return Task(
        name="questions", train=examples, val=examples, test=examples, val_as_test=examples,
        objective="sft", scoring=scoring or MultipleChoice(("MC1", "MC2", "MC3")),
        compat={"paper-code": MultipleChoice(("MC1",), counted_lead=("\nA:", 3))},
    )  # fmt: skip


def an_edit(model: TransformerBridge) -> HeadIntervention:
    generator = torch.Generator().manual_seed(3)
    heads = HeadSet([(2, 0), (0, 1)], n_layers=N_LAYERS, n_heads=N_HEADS)
    shape = (2, model.cfg.d_head)
    return HeadIntervention(heads, bias=0.5 * torch.randn(shape, generator=generator))


def slow_logprob(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """The answer's log-probability by hand: token texts are walked to find where it starts."""
    ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    n_prompt, text = 0, ""
    for i in ids:
        text += tokenizer.decode([i], clean_up_tokenization_spaces=False)
        if len(text) > len(prompt):
            break
        n_prompt += 1
    full = tokenizer(prompt + answer)["input_ids"]
    with torch.no_grad():
        logprobs = model(torch.tensor([full])).logits[0].double().log_softmax(-1)
    first = n_prompt + len(full) - len(ids)
    return sum(float(logprobs[i - 1, full[i]]) for i in range(first, len(full)))


def check_against_slow_reference(folder: Path, model: TransformerBridge) -> None:
    plain, task = load_plain(folder), question_task()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result = evaluate(model, task, progress=False)
    mc1, mc2, mc3 = [], [], []
    for record, example in zip(result.records, task.test, strict=True):
        correct, incorrect = (
            [slow_logprob(plain, tokenizer, example.prompt, a) for a in answers]
            for answers in (example.correct, example.incorrect)
        )
        assert record["correct"] == pytest.approx(correct, abs=1e-4)
        assert record["incorrect"] == pytest.approx(incorrect, abs=1e-4)
        mc1.append(float(all(correct[0] > other for other in incorrect)))
        true, false = (sum(map(math.exp, scores)) for scores in (correct, incorrect))
        mc2.append(true / (true + false))
        mc3.append(sum(c > max(incorrect) for c in correct) / len(correct))
    for name, values in (("MC1", mc1), ("MC2", mc2), ("MC3", mc3)):
        assert result.metrics[name].value == pytest.approx(sum(values) / len(values), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_multiple_choice_equals_a_slow_reference(
    family: str, tiny_folder: Callable[[str], Path], tiny_model: ModelBuilder
) -> None:
    check_against_slow_reference(tiny_folder(family), tiny_model(family))


def test_it_does_so_for_a_tokenizer_that_merges_the_question_mark_with_the_line_break(
    tmp_path: Path,
) -> None:
    folder = save_tiny_model("llama", tmp_path / "m", merges_across_lines=True)
    model = load_model(folder, device="cpu")
    tokenizer: Any = model.tokenizer
    assert any("?\n" in tokenizer.decode([i]) for i in tokenizer("sky?\nA: The")["input_ids"])
    check_against_slow_reference(folder, model)


def test_the_paper_code_mode_loses_answer_tokens_on_such_a_tokenizer_and_only_there(
    tmp_path: Path, llama: TransformerBridge
) -> None:
    folder = save_tiny_model("llama", tmp_path / "m", merges_across_lines=True)
    merging = load_model(folder, device="cpu")
    prompt, answer = "Q: What is the colour of the sky?", " The sky is blue."
    for model, lost in ((merging, True), (llama, False)):
        encoder = Encoder(model)
        counted = encoder.counted_continuation(prompt, "\nA:", answer, lead_tokens=3)
        by_offsets = encoder.continuation(prompt + "\nA:", answer)
        assert counted.ids == by_offsets.ids
        assert (counted.n_answer < by_offsets.n_answer) == lost


def test_compat_uses_the_named_rule_and_an_unknown_one_is_refused(
    llama: TransformerBridge,
) -> None:
    task = question_task()
    result = evaluate(llama, task, compat="paper-code", progress=False)
    assert result.compat == "paper-code"
    assert set(result.metrics) == {"MC1"}
    with pytest.raises(LofitLensError, match=r"no compat mode 'none'.*paper-code"):
        evaluate(llama, task, compat="none", progress=False)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_do_not_depend_on_the_batch_size(llama: TransformerBridge, batch_size: int) -> None:
    task, edit = question_task(), an_edit(llama)
    one = evaluate(llama, task, edit, batch_size=7, progress=False)
    other = evaluate(llama, task, edit, batch_size=batch_size, progress=False)
    for a, b in zip(one.records, other.records, strict=True):
        assert a["correct"] == pytest.approx(b["correct"], abs=1e-4)


def assert_same_records(one: Evaluation, other: Evaluation) -> None:
    """Scores but for rounding: inside an open context texts share nothing."""
    for here, there in zip(one.records, other.records, strict=True):
        for key, value in here.items():
            numbers = isinstance(value, list | float)
            assert there[key] == (pytest.approx(value, abs=1e-4) if numbers else value)


def test_evaluating_an_edit_equals_evaluating_inside_its_context(
    llama: TransformerBridge,
) -> None:
    task, edit = question_task(), an_edit(llama)
    passed = evaluate(llama, task, edit, progress=False)
    with edit.applied(llama):
        inside = evaluate(llama, task, progress=False)
    assert_same_records(passed, inside)
    assert passed.records != evaluate(llama, task, progress=False).records


def test_a_score_that_is_not_a_number_is_an_error_and_leaves_no_hook(
    llama: TransformerBridge,
) -> None:
    hf_model: Any = llama.original_model
    handle = hf_model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] * math.nan,))
    with pytest.raises(ScoringError, match="not finite"):
        evaluate(llama, question_task(), an_edit(llama), progress=False)
    handle.remove()
    assert not any(point.fwd_hooks for point in llama.hook_dict.values())


def test_an_interrupt_while_scoring_leaves_no_hook(llama: TransformerBridge) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    hf_model: Any = llama.original_model
    handle = hf_model.lm_head.register_forward_pre_hook(interrupt)
    edit = an_edit(llama).with_scope("after_prompt")
    for rule in (MultipleChoice(), ExactMatch()):
        with pytest.raises(KeyboardInterrupt):
            evaluate(llama, question_task(rule), edit, progress=False)
    handle.remove()
    assert not any(point.fwd_hooks for point in llama.hook_dict.values())
    assert not hf_model._forward_pre_hooks
    assert "generate" not in llama.__dict__


def test_exact_match_compares_the_greedy_text_with_the_accepted_answers(
    tiny_folder: Callable[[str], Path], llama: TransformerBridge
) -> None:
    plain, tokenizer = load_plain(tiny_folder("llama")), llama.tokenizer
    task = question_task(ExactMatch(max_new_tokens=6))
    expected = []
    for example in task.test:
        ids = tokenizer(example.prompt, return_tensors="pt")["input_ids"]  # pyright: ignore[reportOptionalCall]
        out = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
            pad_token_id=1,
        )  # fmt: skip
        text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)  # pyright: ignore[reportOptionalMemberAccess]
        expected.append(text.split("\n")[0].strip())
    answered = tuple(
        replace(example, correct=("something else", text.upper()) if i % 2 else ("wrong",))
        for i, (example, text) in enumerate(zip(task.test, expected, strict=True))
    )
    result = evaluate(llama, replace(task, test=answered), progress=False)
    assert [record["prediction"] for record in result.records] == [t.lower() for t in expected]
    assert [record["EM"] for record in result.records] == [0.0, 1.0, 0.0, 1.0]


def test_the_validation_split_is_scored_in_the_format_of_the_test(
    llama: TransformerBridge,
) -> None:
    task = question_task()
    shifted = replace(task, val_as_test=task.test[:2])
    result = evaluate(llama, shifted, split="val", progress=False)
    assert [record["id"] for record in result.records] == ["0", "1"]


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_an_empty_prompt_scores_the_whole_sentence_after_bos(
    family: str, tiny_model: ModelBuilder
) -> None:
    model = tiny_model(family)
    encoder = Encoder(model)
    text = encoder.continuation("", "The cat is grey.")
    assert text.ids[0] == build_tokenizer().bos_token_id == encoder.start
    assert bool(encoder.lead) == (family == "llama")
    assert text.n_prompt == 1
    assert encoder.decode(text.ids) == "The cat is grey."


def test_a_text_beyond_the_context_is_refused_with_its_length(llama: TransformerBridge) -> None:
    with pytest.raises(LofitLensError, match=r"exceeds the model's context of 128"):
        Encoder(llama).continuation("The cat. " * 200, "grey")


def test_an_answer_without_tokens_is_refused(llama: TransformerBridge) -> None:
    with pytest.raises(LofitLensError, match="no token of its own"):
        Encoder(llama).continuation("The cat is", "")


def test_a_token_across_the_border_counts_as_answer(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "m", merges_across_lines=True)
    encoder = Encoder(load_model(folder, device="cpu"))
    whole = encoder.continuation("Q: sky", "?\nA: The")
    split = encoder.continuation("Q: sky?", "\nA: The")
    assert whole == split  # `?` is merged with what follows, so it is scored in both


def test_answer_logprobs_keep_the_order_of_the_texts(llama: TransformerBridge) -> None:
    encoder = Encoder(llama)
    texts = [
        encoder.continuation("The " * n, answer)
        for n, answer in [(9, " cat"), (1, " house is red"), (5, " sky"), (3, " old house")]
    ]
    together = answer_logprobs(llama, texts, batch_size=2)
    alone = torch.cat([answer_logprobs(llama, [text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-4)
    assert isinstance(texts[0], EncodedText)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", [*FAMILIES, "mistral-window", "gemma2-window"])
def test_sharing_the_prefix_gives_the_scores_of_single_texts(
    family: str, scope: Any, tiny_model: ModelBuilder
) -> None:
    model = tiny_model(family)
    encoder, edit = Encoder(model), an_edit(model).with_scope(scope)
    texts = [
        encoder.continuation(f"{SHOTS}Q: Who is {who}?\nA:", answer)
        for who in ("Anna", "Ben", "Clara, the sister of Ben")
        for answer in (" The cat.", " A", " The daughter of Anna in the old house.")
    ]
    seen = []

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["input_ids"]).shape)

    try_shortcuts(model)
    handle = model.original_model.register_forward_pre_hook(only_counts(note), with_kwargs=True)
    shared = answer_logprobs(model, texts, edit, batch_size=4)
    handle.remove()
    prefix = seen[0]
    assert prefix[0] == 1
    assert prefix[1] > 20
    assert sum(rows * width for rows, width in seen) < 0.7 * sum(len(t.ids) for t in texts)
    single = torch.cat([answer_logprobs(model, [text], edit) for text in texts])
    assert torch.allclose(shared, single, atol=1e-4)
    if scope != "iti_compat":  # whose edit cannot reach an answer of one token
        assert not torch.allclose(single, answer_logprobs(model, texts), atol=1e-2)


@pytest.mark.parametrize("family", ["mistral-window", "gemma2-window"])
def test_padding_is_harmless_under_a_sliding_window(family: str, tiny_model: ModelBuilder) -> None:
    model = tiny_model(family)
    encoder = Encoder(model)
    texts = [encoder.continuation(f"{i} {SHOTS}" * n, " The cat.") for i, n in enumerate((1, 2, 3))]
    together = answer_logprobs(model, texts)
    alone = torch.cat([answer_logprobs(model, [text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("rule", [MultipleChoice(("MC2",)), ExactMatch(max_new_tokens=4)])
def test_an_edit_of_any_scope_counts_inside_its_open_context(
    llama: TransformerBridge, scope: Any, rule: MultipleChoice | ExactMatch
) -> None:
    task, edit = question_task(rule), an_edit(llama).with_scope(scope)
    passed = evaluate(llama, task, edit, progress=False)
    with edit.applied(llama) as positions:
        inside = evaluate(llama, task, progress=False)
        assert positions.prompt_lengths is None
    assert_same_records(passed, inside)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(llama: TransformerBridge, batch_size: int) -> None:
    for rule in (MultipleChoice(), ExactMatch()):
        with pytest.raises(LofitLensError, match="batch_size must be a whole number"):
            evaluate(llama, question_task(rule), batch_size=batch_size, progress=False)


def test_all_candidates_are_scored_from_the_same_token_on(llama: TransformerBridge) -> None:
    encoder = Encoder(llama)
    prompt = "The colour of the c"
    joined, apart = encoder.candidates(prompt, ["at", " is red"])
    assert (
        encoder.continuation(prompt, "at").n_prompt < encoder.continuation(prompt, " is").n_prompt
    )
    assert joined.n_prompt == apart.n_prompt
    assert joined.ids[: joined.n_prompt] == apart.ids[: apart.n_prompt]


def test_generation_that_meets_nan_is_an_error(llama: TransformerBridge) -> None:
    hf_model: Any = llama.original_model
    handle = hf_model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] * math.nan,))
    with pytest.raises(ScoringError, match="not a number"):
        evaluate(llama, question_task(ExactMatch()), progress=False)
    handle.remove()
    assert not hf_model._forward_hooks


def test_an_edit_is_not_scored_on_another_split_of_its_own_data(llama: TransformerBridge) -> None:
    task = replace(question_task(), source={"name": "q.csv", "split_seed": 1, "split": (0.5, 0.5)})
    config = TuningConfig(epochs=1)
    tuned = tune_heads(llama, task, an_edit(llama).heads, config, progress=False)
    evaluate(llama, task, tuned, progress=False)
    other = replace(task, source={**task.source, "split_seed": 2})
    with pytest.raises(LofitLensError, match="may have been trained on"):
        evaluate(llama, other, tuned, progress=False)
    elsewhere = replace(task, source={"name": "other.csv", "split_seed": 2})
    evaluate(llama, elsewhere, tuned, progress=False)


def test_a_learned_edit_refuses_other_weights(llama: TransformerBridge, tmp_path: Path) -> None:
    task = question_task()
    tuned = tune_heads(llama, task, an_edit(llama).heads, TuningConfig(epochs=1), progress=False)
    other = load_model(save_tiny_model("llama", tmp_path / "other", seed=9), device="cpu")
    for use in (
        lambda: evaluate(other, task, tuned, progress=False),
        lambda: fold(other, tuned),
        lambda: export_checkpoint(other, tuned, tmp_path / "export"),
    ):
        with pytest.raises(ModelMismatchError, match="weights"):
            use()
