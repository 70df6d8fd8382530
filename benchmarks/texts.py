"""What the benchmarks run on: the paper's tasks, or made-up texts of the same lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from lofit_lens.errors import DataError
from lofit_lens.tasks import clutrr, truthfulqa
from lofit_lens.tasks.task import Example

LARGEST_VOCABULARY = 8000


@dataclass(frozen=True)
class Texts:
    """The texts of a run.

    Attributes:
        source: Where they are from.
        questions: TruthfulQA as it is trained on: a question without instruction and primer.
        scored: TruthfulQA as it is tested: instruction, primer, question, all answers.
        stories: CLUTRR: a story and a question, one word to answer.
    """

    source: str
    questions: Sequence[Example]
    scored: Sequence[Example]
    stories: Sequence[Example]


def find_texts() -> Texts:
    """The real task files, or made-up texts where they are neither at hand nor to be fetched."""
    try:
        questions, stories = truthfulqa(0), clutrr(42)
    except DataError:
        return made_up_texts()
    source = "TruthfulQA, fold 0, and CLUTRR"
    return Texts(source, questions.train, questions.test, stories.train)


def made_up_texts(*, shots: int = 142) -> Texts:
    """Random words, as many to a text as in the real files.

    Args:
        shots: Words of instruction and primer in front of a scored question.
    """
    rng = np.random.default_rng(0)
    letters = list("abdegiklmnorstuv")
    lexicon = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(3000)]
    frequency = 1 / np.arange(10, 10 + len(lexicon))

    def words(median: float, least: int = 1) -> str:
        n = max(least, round(median * float(rng.lognormal(0, 0.4))))
        return " ".join(rng.choice(lexicon, n, p=frequency / frequency.sum()))

    def answers(n: int) -> tuple[str, ...]:
        return tuple(f" {words(8)}." for _ in range(n))

    opening = " ".join(rng.choice(lexicon, shots))
    questions = tuple(
        Example(str(i), f"Q: {words(10, 3)}? A:", answers(1), answers(1)) for i in range(256)
    )
    scored = tuple(
        Example(str(i), f"{opening}\n\nQ: {words(10, 3)}?\nA:", answers(3), answers(4))
        for i in range(64)
    )
    stories = tuple(
        Example(str(i), f"{words(73, 60)} 's\n", (rng.choice(lexicon).item(),)) for i in range(256)
    )
    return Texts("made-up texts", questions, scored, stories)


def tokenizer_of(texts: Texts, d_vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the texts; a model of random weights needs no other."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(d_vocab, LARGEST_VOCABULARY),
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_contents(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )


def _contents(texts: Texts) -> Iterator[str]:
    for example in (*texts.questions, *texts.scored, *texts.stories):
        yield example.prompt
        yield from example.correct + example.incorrect
