"""Training steps: stage 2 against its rivals, under `after_prompt`, and an edit at every layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.floor import real_tokens, step_flops
from benchmarks.measuring import Check, Claim, Part, Rival
from benchmarks.models import Subject
from benchmarks.ours import passes
from benchmarks.placing import as_in_figure_3, evenly, every_head
from benchmarks.texts import Texts
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.heads import HeadSet
from lofit_lens.positions import TokenScope
from lofit_lens.tasks.task import Example
from lofit_lens.tokens import EncodedText

BATCH = 8
EQUAL = 64, 12
"""Tokens of a text, and of its answer, where all are of one length."""
INIT = 1e-3

OURS, PLAIN = "ours", "ours, shortcuts off"
LORA, LORA_ANSWERS = "LoRA by peft, q and v, r = 8", "LoRA by peft, logits of answers only"
LOOP = "loop over heads, slice writes"
LOOP_AS_RUN = "loop over heads, anomaly detection on"  # which LoFiT's code leaves on
UPPER, UPPER_PLAIN = "ours, heads in the upper half", "upper half, shortcuts off"
QUARTER = "ours, lowest head at a quarter of the depth"
ALL, AFTER, AFTER_PLAIN = (
    "ours, scope all",
    "ours, scope after_prompt",
    "after_prompt, shortcuts off",
)
HOOKED, INLINE = "ours, every head hooked", "Hugging Face, edit written into o_proj"


@dataclass(frozen=True)
class Step:
    """What a rival computes in a step.

    Attributes:
        loss: Mean loss of a batch, by its number.
        trained: What gets gradients.
        entry: Seconds spent before the first step.
        floor: Unavoidable operations of all batches; None if not known.
    """

    loss: Callable[[int], Tensor]
    trained: Sequence[Tensor]
    entry: float = 0.0
    floor: float | None = None

    def result(self, batch: int) -> tuple[Tensor, Tensor]:
        """Loss and gradient, the gradient in one vector."""
        loss = self.loss(batch)
        gradients = torch.autograd.grad(loss, list(self.trained))
        return loss.detach().float(), torch.cat([g.float().flatten() for g in gradients])


@contextmanager
def stage_two(subject: Subject, texts: Texts) -> Iterator[Part]:
    """Stage 2 on TruthfulQA: a bias on 3% of the heads."""
    batches = _batches(subject, texts.questions)
    config = subject.plain.config
    spread, upper = as_in_figure_3(config), evenly(config, lowest=config.num_hidden_layers // 2)
    quarter = evenly(config, lowest=config.num_hidden_layers // 4)
    padded = [peers.padded(texts, subject.encoder.pad, subject.device) for texts in batches]
    with ExitStack() as stack:

        def ours(heads: HeadSet, *, fast: bool = True) -> Step:
            return stack.enter_context(_ours(subject, batches, heads, fast=fast))

        steps = {
            OURS: ours(spread),
            PLAIN: ours(spread, fast=False),
            LORA: _lora(subject, lambda model, i: peers.own_loss(model, padded[i])),
            LORA_ANSWERS: _lora(subject, lambda model, i: peers.loss_of_answers(model, padded[i])),
            LOOP: _loop(subject, spread, padded),
            QUARTER: ours(quarter),
            UPPER: ours(upper),
            UPPER_PLAIN: ours(upper, fast=False),
        }
        rivals = {name: _trained(step, len(batches)) for name, step in steps.items()}
        share = real_tokens(batches[0]) / real_tokens(text for texts in batches for text in texts)
        rivals[LOOP_AS_RUN] = _watched(rivals[LOOP], share)
        yield Part(
            "Stage-2 step on TruthfulQA, bias on 3% of the heads",
            rivals,
            [
                Claim(OURS, LORA, 0.75),
                Claim(OURS, LORA, 0.8, of="saved"),
                Claim(OURS, LORA_ANSWERS, 0.85),
                Claim(OURS, LOOP_AS_RUN, 0.4),
                Claim(UPPER, UPPER_PLAIN, 0.6),
            ],
            lambda _: [
                *_agree(subject, steps[OURS], steps[PLAIN], len(batches), "with and without shortcuts"),
                *_agree(subject, steps[OURS], steps[LOOP], len(batches), "with the loop over heads"),
                *_agree(subject, steps[UPPER], steps[UPPER_PLAIN], len(batches), "in the upper half"),
            ],
            tokens=real_tokens(text for texts in batches for text in texts),
            steps=len(batches),
            notes=[
                f"{len(batches)} batches of {BATCH}; a text has {_range(batches)} tokens.",
                f"Heads as in Figure 3: {', '.join(map(str, spread))}.",
            ],
        )  # fmt: skip


@contextmanager
def after_prompt(subject: Subject, texts: Texts) -> Iterator[Part]:
    """Stage 2 on CLUTRR, whose prompts are long and whose answers short."""
    batches = _batches(subject, texts.stories)
    heads = as_in_figure_3(subject.plain.config)
    with (
        _ours(subject, batches, heads) as all_tokens,
        _ours(subject, batches, heads, scope="after_prompt") as after,
        _ours(subject, batches, heads, scope="after_prompt", fast=False) as plain,
    ):
        steps = {ALL: all_tokens, AFTER: after}
        yield Part(
            "Stage-2 step on CLUTRR, bias on 3% of the heads",
            {name: _trained(step, len(batches)) for name, step in steps.items()},
            [Claim(AFTER, ALL, 0.25)],
            lambda _: _agree(subject, after, plain, len(batches), "with and without shortcuts"),
            tokens=real_tokens(text for texts in batches for text in texts),
            steps=len(batches),
            notes=[f"{len(batches)} batches of {BATCH}; a text has {_range(batches)} tokens."],
        )


@contextmanager
def every_layer(subject: Subject, _texts: Texts) -> Iterator[Part]:
    """Scale and bias on all heads, against a model that has them written in and no hook.

    All texts are of one length, and both unembed answers only: what is left is the cost of hooks.
    """
    length, answer = EQUAL
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(
        2, subject.plain.config.vocab_size, (subject.n_batches, BATCH, length), generator=generator
    )
    batches = [
        [EncodedText(tuple(row), length - answer) for row in batch] for batch in ids.tolist()
    ]
    heads = every_head(subject.plain.config)
    padded = [peers.padded(texts, subject.encoder.pad, subject.device) for texts in batches]
    with _ours(subject, batches, heads, scaled=True) as hooked:
        steps = {HOOKED: hooked, INLINE: _inline(subject, heads, padded)}
        yield Part(
            "Scale and bias on all heads of all layers",
            {name: _trained(step, len(batches)) for name, step in steps.items()},
            [Claim(HOOKED, INLINE, 1.03)],
            lambda _: _agree(
                subject, hooked, steps[INLINE], len(batches), "with the edit written in"
            ),
            tokens=real_tokens(text for texts in batches for text in texts),
            steps=len(batches),
            notes=[
                f"{len(batches)} batches of {BATCH} texts of {length} tokens, {answer} of them answer."
            ],
        )


@contextmanager
def _ours(
    subject: Subject,
    batches: Sequence[Sequence[EncodedText]],
    heads: HeadSet,
    *,
    scope: TokenScope = "all",
    scaled: bool = False,
    fast: bool = True,
) -> Iterator[Step]:
    bias, scale = _numbers(subject, heads), _numbers(subject, heads, seed=1) if scaled else None
    edit = HeadIntervention(heads, scale=scale, bias=bias, scope=scope)
    texts = [text for batch in batches for text in batch]
    answers = [sum(text.n_answer for text in batch) for batch in batches]
    passing = sum(answers) if scope == "after_prompt" else real_tokens(texts)
    floor = step_flops(subject.plain.config, heads.layers()[0], passing, sum(answers))
    with passes(subject, texts, edit, fast=fast) as run:

        def loss(batch: int) -> Tensor:
            numbers = range(batch * BATCH, (batch + 1) * BATCH)
            return -run.logprobs(numbers).sum() / answers[batch]

        yield Step(loss, [bias] if scale is None else [scale, bias], run.entry, floor)


def _lora(subject: Subject, loss: Callable[[object, int], Tensor]) -> Step:
    adapted, trained = peers.lora(subject.copy())
    return Step(lambda batch: loss(adapted, batch), trained)


def _loop(subject: Subject, heads: HeadSet, padded: Sequence[peers.Padded]) -> Step:
    model = subject.copy("eager")  # the only attention its code has
    trained = peers.head_loop(model, heads, _numbers(subject, heads))
    return Step(lambda batch: peers.own_loss(model, padded[batch]), trained)


def _inline(subject: Subject, heads: HeadSet, padded: Sequence[peers.Padded]) -> Step:
    model = subject.copy()
    bias, scale = _numbers(subject, heads), _numbers(subject, heads, seed=1)
    shape = heads.n_layers, heads.n_heads, -1
    peers.written_in(model, scale.view(shape), bias.view(shape))
    return Step(lambda batch: peers.loss_of_answers(model, padded[batch]), [scale, bias])


def _numbers(subject: Subject, heads: HeadSet, *, seed: int = 0) -> nn.Parameter:
    """Numbers of the chosen heads, the same for all rivals."""
    generator = torch.Generator().manual_seed(seed)
    drawn = INIT * torch.randn(len(heads), subject.plain.config.head_dim, generator=generator)
    return nn.Parameter(drawn.to(subject.device))


def _trained(step: Step, n_batches: int) -> Rival:
    """Forward, backward and optimiser; at a learning rate of 0 every round does the same work."""
    optimizer = torch.optim.AdamW(list(step.trained), lr=0.0, weight_decay=0.0)

    def one(batch: int = 0) -> None:
        optimizer.zero_grad()
        step.loss(batch).backward()
        optimizer.step()

    def run() -> None:
        for batch in range(n_batches):
            one(batch)

    return Rival(run, one, step.entry, step.floor)


def _watched(rival: Rival, share: float) -> Rival:
    """The first step of a rival under anomaly detection, which LoFiT's code leaves on."""
    step = rival.step
    assert step is not None

    def run() -> None:
        with warnings.catch_warnings(action="ignore"), torch.autograd.detect_anomaly():
            step()

    return Rival(run, share=share)


def _agree(subject: Subject, ours: Step, other: Step, n: int, what: str) -> list[Check]:
    """Relative differences of losses and gradients, the worst of all batches."""
    limit = 1e-5 if subject.exact else None
    losses, gradients = [], []
    for batch in range(n):
        (loss, gradient), (loss_there, gradient_there) = ours.result(batch), other.result(batch)
        losses.append(float((loss - loss_there).abs() / loss_there.abs()))
        gradients.append(float((gradient - gradient_there).norm() / gradient_there.norm()))
    return [
        Check(f"losses apart, relative, {what}", max(losses), limit),
        Check(f"gradients apart, relative, {what}", max(gradients), limit),
    ]


def _batches(subject: Subject, examples: Sequence[Example]) -> list[list[EncodedText]]:
    """Batches in a shuffled order, as training draws them; answers end with EOS."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [
        subject.encoder.continuation(examples[i].prompt, examples[i].correct[0], end=True)
        for i in order[: subject.n_batches * BATCH]
    ]
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]


def _range(batches: Sequence[Sequence[EncodedText]]) -> str:
    lengths = [len(text.ids) for texts in batches for text in texts]
    return f"{min(lengths)} to {max(lengths)}"
