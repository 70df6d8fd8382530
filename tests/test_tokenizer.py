"""What is fed to a model is what `AutoTokenizer` of its folder gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.identity import check_same_model, fingerprint
from lofit_lens.model import load_model
from lofit_lens.randomness import random_state_kept
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.stages import select_heads
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training import SelectionConfig
from tests.helpers import TEXT, load_plain

SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", "[gMASK]", "<|im_start|>", "<|im_end|>"]
PIECES = [
    *" ".join(TEXT).split(), "naïve", "Ærø", "你好", "мир", "🙂", "👩\u200d🔬", "\n", "\n\n", "\t", "  ",
    "1,234.50", "don't", "(x)", "->", "https://a.b/c?d=e", "A:", "Q:", "ﬁ", "e\u0301",
]  # fmt: skip

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def prompts() -> list[str]:
    """200 texts: words of several scripts, blanks and line breaks, glued with and without blanks."""
    draw = random.Random(0)
    return [
        draw.choice(["", " "]).join(draw.choices(PIECES, k=draw.randint(1, 12)))
        + draw.choice(["", " ", "\nA:"])
        for _ in range(200)
    ]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def sentencepiece(model: Any, trainer: Any, scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def unigram(scheme: str = "always") -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    return sentencepiece(models.Unigram(), trainer, scheme)


def merged_pieces() -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS, show_progress=False)
    return sentencepiece(models.BPE(unk_token="<unk>"), trainer, "first")


def words(model: Any, trainer: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def word_level() -> Tokenizer:
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False)
    return words(models.WordLevel(unk_token="<unk>"), trainer)


def word_piece() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(special_tokens=SPECIALS, show_progress=False)
    return words(models.WordPiece(unk_token="<unk>"), trainer)


BOTH = {"bos_token": "<s>", "eos_token": "</s>"}
KINDS: dict[str, tuple[Callable[[], Tokenizer], str, dict[str, str]]] = {
    "byte-level with BOS": (byte_level, "<s> $A", BOTH),
    "byte-level without": (byte_level, "$A", {"bos_token": "</s>", "eos_token": "</s>"}),
    "BOS that also starts a turn": (
        byte_level, "$A",
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    ),
    "two ids in front": (byte_level, "[gMASK] <s> $A", BOTH),
    "EOS alone": (byte_level, "$A", {"eos_token": "</s>"}),
    "EOS behind": (byte_level, "<s> $A </s>", BOTH),
    "unigram with BOS": (unigram, "<s> $A", BOTH),
    "unigram without": (unigram, "$A", BOTH),
    "merged pieces with BOS": (merged_pieces, "<s> $A", BOTH),
    "words without BOS or EOS": (word_level, "$A", {}),
    "word pieces between two marks": (word_piece, "[gMASK] $A </s>", {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny random model and a tokenizer of a kind, made once."""
    root = tmp_path_factory.mktemp("tokenizers")

    def folder(kind: str) -> Path:
        path = root / kind.replace(" ", "-")
        if path.exists():
            return path
        build, around, special = KINDS[kind]
        tokenizer = build()
        marks = [(mark, tokenizer.token_to_id(mark)) for mark in SPECIALS]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=marks
        )
        whole = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", additional_special_tokens=SPECIALS[4:],
            chat_template=TEMPLATE if "bos_token" in special else None, **special,
        )  # fmt: skip
        config = LlamaConfig(
            vocab_size=len(whole), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=512,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        with random_state_kept():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():
                parameter.data = 0.3 * torch.randn_like(parameter)
        model.save_pretrained(path)
        whole.save_pretrained(path)
        return path

    return folder


def check_ids(folder: Path, texts: list[str]) -> None:
    """`Encoder`, and the bridge's own `to_tokens`, against the tokenizer of the folder."""
    model, own = load_model(folder, device="cpu"), AutoTokenizer.from_pretrained(folder)
    encoder = Encoder(model)
    n_behind = len(own("a")["input_ids"]) - len(
        (*encoder.lead, *own("a", add_special_tokens=False)["input_ids"])
    )
    for text in texts:
        whole = own(text)["input_ids"]
        expected = whole[: len(whole) - n_behind]
        assert list(encoder.prompt(text).ids) == expected, text
        if not n_behind or own.eos_token:  # TransformerLens takes nothing but EOS away again
            assert model.to_tokens(text)[0].tolist() == expected, text


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_of_200_prompts_are_those_of_the_folders_tokenizer(
    kind: str, folder_of: Callable[[str], Path]
) -> None:
    check_ids(folder_of(kind), prompts())


@pytest.mark.real
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "gemma-3-270m"])
def test_so_they_are_on_two_real_models(name: str, real_model: Callable[[str], Path]) -> None:
    check_ids(real_model(name), prompts())


@pytest.mark.real
@pytest.mark.parametrize("name", ["stories3M", "stories260K"])
def test_so_they_are_on_small_story_models(name: str, models_dir: Path) -> None:
    check_ids(models_dir / name, prompts())


def test_prompt_and_answer_together_have_the_ids_of_the_whole_text(
    folder_of: Callable[[str], Path],
) -> None:
    for kind in ("byte-level with BOS", "BOS that also starts a turn", "unigram with BOS"):
        folder = folder_of(kind)
        encoder, own = (
            Encoder(load_model(folder, device="cpu")),
            AutoTokenizer.from_pretrained(folder),
        )
        for text in prompts()[:50]:
            for cut in (len(text) // 3, len(text) // 2):
                if own(text[cut:], add_special_tokens=False)["input_ids"]:
                    pair = encoder.continuation(text[:cut] + "\n", " " + text[cut:])
                    whole = own(f"{text[:cut]}\n {text[cut:]}")["input_ids"]
                    assert list(pair.ids) == whole


@pytest.mark.parametrize(
    "kind", ["byte-level with BOS", "BOS that also starts a turn", "unigram with BOS"]
)
def test_a_rendered_chat_has_bos_once(kind: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(kind)
    own, encoder = AutoTokenizer.from_pretrained(folder), Encoder(load_model(folder, device="cpu"))
    messages = [{"role": "user", "content": "What is the colour of the sky?"}]
    text = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert text.startswith(own.bos_token)
    assert list(encoder.prompt(text).ids) == ids
    assert encoder.prompt(text).ids.count(own.bos_token_id) == ids.count(own.bos_token_id)
    answer = encoder.continuation(text, "The sky is blue.")
    assert list(answer.ids[: answer.n_prompt]) == ids


def test_without_a_prompt_an_answer_stands_behind_bos_or_eos_or_is_refused(
    folder_of: Callable[[str], Path],
) -> None:
    for kind, start in (("unigram without", "<s>"), ("EOS alone", "</s>")):
        encoder = Encoder(load_model(folder_of(kind), device="cpu"))
        alone = encoder.continuation("", "The cat")
        assert alone.n_prompt == 1
        assert alone.ids[0] == AutoTokenizer.from_pretrained(folder_of(kind)).convert_tokens_to_ids(
            start
        )
        assert encoder.continuation("The", " cat").ids[0] != alone.ids[0]
    encoder = Encoder(load_model(folder_of("words without BOS or EOS"), device="cpu"))
    with pytest.raises(LofitLensError, match="neither BOS nor EOS"):
        encoder.continuation("", "The cat")


def choice_task() -> Task:
    examples = tuple(
        Example(str(i), f"The {thing} is", (" grey",), (" red", " blue"))
        for i, thing in enumerate(("cat", "house", "sky", "colour"))
    )
    return Task("toy", examples, examples, examples, examples, "choice", MultipleChoice())


def test_a_tokenizer_without_bos_and_eos_is_scored_and_trained_as_the_plain_model_reads_it(
    folder_of: Callable[[str], Path],
) -> None:
    folder = folder_of("words without BOS or EOS")
    model, plain, own = (
        load_model(folder, device="cpu"), load_plain(folder), AutoTokenizer.from_pretrained(folder)
    )  # fmt: skip
    result = evaluate(model, choice_task(), progress=False)
    for record, example in zip(result.records, choice_task().test, strict=True):
        ids = [own(example.prompt + a)["input_ids"] for a in (*example.correct, *example.incorrect)]
        with torch.no_grad():
            logits = [plain(torch.tensor([row])).logits[0, -2] for row in ids]
        logprobs = [x.log_softmax(-1)[row[-1]] for x, row in zip(logits, ids, strict=True)]
        found = [*record["correct"], *record["incorrect"]]
        assert found == pytest.approx([float(value) for value in logprobs], abs=1e-5)
    scores = select_heads(model, choice_task(), SelectionConfig(epochs=1), progress=False)
    assert (scores.n_layers, scores.n_heads) == (2, 2)
    generate = replace(choice_task(), scoring=ExactMatch(max_new_tokens=3))
    assert evaluate(model, generate, progress=False).main.n == 4


def test_ids_the_model_has_no_embedding_for_are_refused(folder_of: Callable[[str], Path]) -> None:
    model = load_model(folder_of("byte-level with BOS"), device="cpu")
    assert model.tokenizer is not None
    model.tokenizer.add_tokens(["zebra"])
    with pytest.raises(LofitLensError, match=r"gives the id \d+ in 'a zebra', the model knows ids"):
        Encoder(model).prompt("a zebra")


def test_a_generation_ends_at_any_end_of_the_models_settings(
    folder_of: Callable[[str], Path],
) -> None:
    model = load_model(folder_of("byte-level with BOS"), device="cpu")
    hf_model: Any = model.original_model
    own = AutoTokenizer.from_pretrained(folder_of("byte-level with BOS"))
    ids = torch.tensor([own("The cat")["input_ids"]])
    new = hf_model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    last = next(i for i, token in enumerate(new) if i >= 2 and token not in new[:i])
    hf_model.generation_config.eos_token_id = [own.eos_token_id, new[last]]
    assert Encoder(model).ends == (own.eos_token_id, new[last])
    (text,) = generate_greedily(model, ["The cat"], max_new_tokens=8)
    assert text == own.decode(new[:last])


def test_equal_candidates_of_an_item_tie_exactly(folder_of: Callable[[str], Path]) -> None:
    model = load_model(folder_of("byte-level with BOS"), device="cpu")
    task = choice_task()
    test = (
        replace(task.test[0], correct=(" grey", " so"), incorrect=(" a red cat", " grey", " so")),
    )
    task = replace(task, test=test, scoring=MultipleChoice(("MC1", "MC3")))
    (record,) = evaluate(model, task, progress=False).records
    assert record["correct"][0] == record["incorrect"][1]
    assert record["correct"][1] == record["incorrect"][2]
    assert record["MC3"] == 0.0


def test_a_fingerprint_tells_tokenizers_apart_and_old_results_under_another_rule(
    folder_of: Callable[[str], Path],
) -> None:
    with_bos, without = (
        load_model(folder_of(kind), device="cpu")
        for kind in ("byte-level with BOS", "BOS that also starts a turn")
    )
    marks = fingerprint(with_bos), fingerprint(without)
    assert marks[0].tokenizer == fingerprint(load_model(folder_of("byte-level with BOS"))).tokenizer
    assert any(line.startswith("tokenizer: ") for line in marks[0].differences(marks[1]))
    check_same_model(with_bos, replace(marks[0], tokenizer=""), "The edit")
    with pytest.raises(
        ModelMismatchError, match=r"tokenizer: nothing in front, .* BOS in front of"
    ):
        check_same_model(without, replace(marks[1], tokenizer=""), "The edit")
