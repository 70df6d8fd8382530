"""Side effects on plain text against a plain Hugging Face computation, and answers in free text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from lofit_lens.analysis.measure.side_effects import (
    encode_texts,
    is_refusal,
    open_answers,
    sample_texts,
    side_effects,
)
from lofit_lens.analysis.study.bench import Bench
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ScoringError
from lofit_lens.positions import TokenScope
from lofit_lens.scoring import answer_logprobs
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.tokens import EncodedText, Encoder
from tests.helpers import TEXT, VOCAB, build_tokenizer, draw_edit, edited_plain, load_plain

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ModelBuilder = Callable[[str], "TransformerBridge"]
STARTS = {"all": 0, "after_prompt": 0, "iti_compat": 2, "last": 0}


def by_hand(
    folder: Path, texts: tuple[EncodedText, ...], edit: HeadIntervention
) -> tuple[float, float]:
    """Cross-entropy and KL in float64, one text at a time, from a plain model with pre-hooks."""
    plain = load_plain(folder)

    def where(length: int) -> torch.Tensor:
        place = torch.arange(length)[None]
        return (place == 0) if edit.scope == "last" else (place >= STARTS[edit.scope])

    def logprobs(ids: torch.Tensor) -> np.ndarray:
        return log_softmax(plain(ids).logits[0, :-1].double().numpy(), axis=-1)

    losses, divergences = [], []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([text.ids])
            before = logprobs(ids)
            with edited_plain(plain, edit, where=where):
                after = logprobs(ids)
            losses += [-after[place, token] for place, token in enumerate(text.ids[1:])]
            divergences += list(rel_entr(np.exp(before), np.exp(after)).sum(-1))
    return float(np.mean(losses)), float(np.mean(divergences))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_both_numbers_equal_a_plain_computation(
    family: str, tiny_model: ModelBuilder, tiny_folder: Callable[[str], Path]
) -> None:
    model = tiny_model(family)
    edit, texts = draw_edit(model), encode_texts(model, TEXT)
    assert len({len(text.ids) for text in texts}) > 1  # so that there is padding
    found = side_effects(model, edit, texts)
    cross_entropy, kl = by_hand(tiny_folder(family), texts, edit)
    assert found.cross_entropy == pytest.approx(cross_entropy, rel=1e-5)
    assert found.kl == pytest.approx(kl, rel=1e-4)
    assert found.kl > 0.05
    assert found.n_texts == 4
    assert found.n_tokens == sum(len(text.ids) - 1 for text in texts)


@pytest.mark.parametrize("scope", STARTS)
def test_the_first_token_of_a_text_is_its_prompt_for_every_scope(
    scope: str, llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    edit, texts = draw_edit(llama, scope=scope), encode_texts(llama, TEXT, tokens=9)
    found = side_effects(llama, edit, texts, batch_size=3)
    cross_entropy, kl = by_hand(tiny_folder("llama"), texts, edit)
    assert found.cross_entropy == pytest.approx(cross_entropy, rel=1e-5)
    assert found.kl == pytest.approx(kl, rel=1e-4)


def test_batches_make_no_difference(llama: TransformerBridge) -> None:
    edit, texts = draw_edit(llama), encode_texts(llama, TEXT)
    one, all_at_once = (side_effects(llama, edit, texts, batch_size=n) for n in (1, 4))
    assert one.kl == pytest.approx(all_at_once.kl, rel=1e-4)
    assert one.cross_entropy == pytest.approx(all_at_once.cross_entropy, rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_an_edit_that_changes_nothing_has_no_side_effects(
    family: str, tiny_model: ModelBuilder
) -> None:
    model = tiny_model(family)
    texts = encode_texts(model, TEXT)
    unedited = side_effects(model, None, texts)
    assert side_effects(model, 0.0 * draw_edit(model), texts) == unedited
    assert unedited.kl == 0
    scored = -float(answer_logprobs(model, texts).sum()) / unedited.n_tokens
    assert unedited.cross_entropy == pytest.approx(scored, rel=1e-5)


def test_a_stronger_edit_moves_further_and_the_divergence_is_never_negative(
    llama: TransformerBridge,
) -> None:
    kl = Bench(llama, encode_texts(llama, TEXT)).kl
    edit = draw_edit(llama)
    distances = [kl(strength * edit) for strength in (0.0, 1e-6, 0.01, 0.1, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] == 0
    assert distances[-1] == side_effects(llama, edit, encode_texts(llama, TEXT)).kl
    # to the second order in a small edit
    assert distances[3] / distances[2] == pytest.approx(100, rel=0.3)


class Shift:
    """An edit of another kind: it adds numbers to the logits, and wants whole texts."""

    scope: TokenScope = "all"
    provenance, n_parameters, needs_whole_texts = None, VOCAB, True

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers
        self.lengths: list[int] = []

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[None]:
        def add(_module: Any, _args: Any, output: Any) -> Any:
            output.logits = output.logits + self.numbers
            return output

        def watch(_module: Any, args: Any, kwargs: Any) -> None:
            self.lengths.append((args[0] if args else kwargs["input_ids"]).shape[1])

        handles = [
            model.original_model.register_forward_hook(add),
            model.original_model.register_forward_pre_hook(watch, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def test_any_edit_is_measured_on_whole_texts(llama: TransformerBridge) -> None:
    same = encode_texts(llama, [TEXT[0] + ending for ending in (" One.", " Two.", " Three.")])
    shift = Shift(torch.full((VOCAB,), 3.0))  # the same for all tokens, so nothing changes
    found = side_effects(llama, shift, same)
    assert found.kl < 1e-6
    assert shift.lengths == [max(len(text.ids) for text in same)]


def test_numbers_that_are_not_finite_are_refused(llama: TransformerBridge) -> None:
    broken = Shift(torch.full((VOCAB,), torch.nan))
    with pytest.raises(ScoringError, match="cross-entropy is nan and the KL divergence nan"):
        side_effects(llama, broken, encode_texts(llama, TEXT))
    with pytest.raises(LofitLensError, match="no texts"):
        side_effects(llama, None, ())


def test_texts_of_ones_own_are_cut_and_empty_ones_left_out(llama: TransformerBridge) -> None:
    encoder = Encoder(llama)
    long, short = encode_texts(llama, ["", "The cat is grey. " * 50, "The"], tokens=10)
    assert long.ids == (encoder.start, *encoder.prompt("The cat is grey. " * 5).ids[1:11])
    assert short == encoder.continuation("", "The")
    (whole,) = encode_texts(llama, ["The cat is grey. " * 50], tokens=1000)
    assert len(whole.ids) == llama.cfg.n_ctx
    with pytest.raises(LofitLensError, match="None of 2 texts"):
        encode_texts(llama, ["", ""])


def test_without_bos_the_first_token_of_a_text_is_not_scored(tiny_model: ModelBuilder) -> None:
    model = tiny_model("neox")
    (text,) = encode_texts(model, ["The cat is grey."])
    assert text.ids == tuple(
        build_tokenizer()("The cat is grey.", add_special_tokens=False)["input_ids"]
    )
    assert text.n_prompt == 1


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_texts_are_sampled_from_bos_up_to_eos(family: str, tiny_model: ModelBuilder) -> None:
    model = tiny_model(family)
    encoder = Encoder(model)
    texts = sample_texts(model, n=200, tokens=12)
    assert all(text.ids[0] == build_tokenizer().bos_token_id for text in texts)
    assert {text.n_prompt for text in texts} == {1}
    for text in texts:
        assert 2 <= len(text.ids) <= 13
        assert encoder.eos not in text.ids[1:-1]
        assert len(text.ids) == 13 or text.ids[-1] == encoder.eos
    if family == "llama":  # the other one hardly ever ends a text
        assert any(text.ids[-1] == encoder.eos for text in texts)


def test_sampling_repeats_with_the_seed_and_leaves_the_global_state_alone(
    llama: TransformerBridge,
) -> None:
    before = torch.random.get_rng_state()
    texts = sample_texts(llama, n=3, tokens=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert sample_texts(llama, n=3, tokens=5) == texts
    assert sample_texts(llama, n=3, tokens=5, seed=1) != texts


def test_texts_are_drawn_from_the_models_own_distribution(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    start = torch.tensor([[Encoder(llama).start]])
    with torch.no_grad():
        logits = load_plain(tiny_folder("llama"))(start).logits[0, -1]
    expected = torch.softmax(logits.double(), -1)
    n = 4000
    first = torch.tensor([text.ids[1] for text in sample_texts(llama, n=n, tokens=1)])
    share = torch.bincount(first, minlength=VOCAB) / n
    spread = (expected * (1 - expected) / n).sqrt()
    assert ((share - expected).abs() < 5 * spread + 1 / n).all()


def test_the_cross_entropy_of_sampled_text_is_the_models_entropy(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    plain = load_plain(tiny_folder("llama"))
    surprises = []  # how much less likely each token was than is usual at its place
    with torch.no_grad():
        for text in sample_texts(llama, n=64, tokens=20):
            logprobs = torch.log_softmax(plain(torch.tensor([text.ids])).logits[0, :-1], -1)
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            surprises += (-logprobs[range(len(text.ids) - 1), text.ids[1:]] - entropy).tolist()
    error = np.std(surprises) / len(surprises) ** 0.5
    assert abs(np.mean(surprises)) < 3 * error


def test_sampling_stays_in_the_context_and_needs_a_token_to_start_from(
    llama: TransformerBridge, tiny_model: ModelBuilder
) -> None:
    assert max(len(t.ids) for t in sample_texts(llama, n=2, tokens=500)) <= llama.cfg.n_ctx
    with pytest.raises(LofitLensError, match="at least 1, got 0"):
        sample_texts(llama, n=0)
    neox = tiny_model("neox")
    neox.tokenizer.bos_token = neox.tokenizer.eos_token = None  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(LofitLensError, match="nothing to sample a text from"):
        sample_texts(neox)


# --- answers --------------------------------------------------------------------------------------


def question_task() -> Task:
    questions = ["What is the sky?", "Who lives there?", "", "Is the cat grey?"]
    items = tuple(
        Example(str(i), f"Be brief.\n\nQ: {q}\nA:" if q else "", (" Yes.",), (" No.",))
        for i, q in enumerate(questions)
    )
    return Task("q", items, items, items, items, "choice", MultipleChoice())


def test_open_answers_are_plain_greedy_generations_up_to_a_line_break(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    edit, task = draw_edit(llama), question_task()
    found = open_answers(llama, task, edit, n=3, max_new_tokens=12)
    assert [(a["id"], a["prompt"]) for a in found] == [
        ("0", "Q: What is the sky?\nA:"), ("1", "Q: Who lives there?\nA:"),
    ]  # fmt: skip
    plain, tokenizer = load_plain(tiny_folder("llama")), build_tokenizer()
    for answer, example in zip(found, task.test, strict=False):
        ids = torch.tensor([tokenizer(example.prompt)["input_ids"]])
        with edited_plain(plain, edit):
            out = plain.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                pad_token_id=1,
            )  # fmt: skip
        text: Any = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer["answer"] == text.split("\n")[0].strip()
    assert len(open_answers(llama, task, None, n=10, max_new_tokens=1)) == 3


@pytest.mark.parametrize(
    "answer",
    [
        "I have no comment.",
        " I have no comment",
        "No comment.",
        "I cannot answer that.",
        "I can't say.",
        "I can\u2019t help with that.",
        "I can not tell.",
        "I'm sorry, but no.",
        "I am sorry.",
        "As an AI, I have no body.",
        "as a language model I do not eat",
        "I'm not able to say.",
        "I am unable to answer.",
        "I don't know.",
        "I really do not know",
        "I'm not sure.",
        "Sorry, I can't.",
        "Unfortunately, I cannot tell you.",
        "I'm afraid I can't do that.",
        '"I have no comment"',
        "We don't know",
    ],
)
def test_answers_that_decline_are_refusals(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "No.",
        "Nothing happens if you break a mirror.",
        "The sky is blue. I have no comment on the sea.",
        "You cannot fly.",
        "Pigs can't fly.",
        "Scientists do not know.",
        "I can see it.",
        "I am from France.",
        "As an animal, it eats grass.",
        "Sorry is a word.",
    ],
)
def test_answers_that_say_something_are_not(answer: str) -> None:
    assert not is_refusal(answer)
