"""Scoring a task under an intervention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lofit_lens.chat import note_unlike, note_unused
from lofit_lens.errors import LofitLensError
from lofit_lens.fast.memory import BatchSize
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.scoring.generation import greedy_generations
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.scoring.metrics import METRICS
from lofit_lens.tasks.load import check_not_trained_on
from lofit_lens.tasks.task import ExactMatch, Example, MultipleChoice, Task
from lofit_lens.tokens import EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit

Record = Mapping[str, Any]


def evaluate(
    model: TransformerBridge,
    task: Task,
    intervention: Edit | None = None,
    *,
    split: Literal["test", "val"] = "test",
    compat: str | None = None,
    batch_size: BatchSize = 32,
    progress: bool = True,
) -> Evaluation:
    """Score a task, with or without an edit of the model.

    Multiple choice compares log-probabilities, summed or divided by a length as the task's rule
    says; exact match generates greedily (paper, section 4 and appendix A). Contexts of other
    interventions may be open around the call.

    Args:
        model: A bridge, in eval mode.
        task: The task.
        intervention: The edit; None scores the model as it is.
        split: "test", or "val" in the format of the test, for choosing settings.
        compat: A scoring rule of the task by name, such as "paper-code".
        batch_size: Texts per forward pass; "auto" takes the largest that fits into memory.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: The compat rule is unknown, a text exceeds the context, or the edit was
            learned on another fold or split of the same data.
        ScoringError: A score is not finite.
    """
    if split not in ("test", "val"):
        raise LofitLensError(f"split must be test or val, got {split!r}.")
    if intervention is not None and intervention.provenance is not None:
        check_not_trained_on(task, intervention.provenance.task_source)
        note_unlike(task, intervention.provenance.task_source)
    note_unused(model.tokenizer, task)
    examples = task.test if split == "test" else task.val_as_test
    if not examples:
        raise LofitLensError(f"{task.name} has no validation items. Score its test split.")
    rule = task.scoring_rule(compat)
    if isinstance(rule, MultipleChoice):
        metric_names = rule.metrics
        records = _multiple_choice(
            model, examples, rule, intervention, batch_size=batch_size, progress=progress
        )
    else:
        metric_names = (rule.metric,)
        records = _exact_match(
            model, examples, rule, intervention, batch_size=batch_size, progress=progress
        )
    floors = task.floors if split == "test" else {}
    return Evaluation(task.name, split, metric_names, tuple(records), floors, compat)


def _multiple_choice(
    model: TransformerBridge,
    examples: Sequence[Example],
    rule: MultipleChoice,
    intervention: Edit | None,
    *,
    batch_size: BatchSize,
    progress: bool,
) -> list[Record]:
    encoder = Encoder(model)
    texts = [text for example in examples for text in _encode(encoder, example, rule)]
    different = list(dict.fromkeys(texts))  # equal candidates of an item tie exactly
    found = answer_logprobs(
        model, different, intervention, batch_size=batch_size, progress=progress
    )
    score = dict(zip(different, found.tolist(), strict=True))
    scores = (score[text] for text in texts)
    records = []
    for example in examples:
        correct, incorrect = (
            [next(scores) / rule.length(answer) for answer in answers]
            for answers in (_correct(example, rule), example.incorrect)
        )
        metrics = {name: METRICS[name](correct, incorrect) for name in rule.metrics}
        records.append(
            {"id": example.id, "group": example.group, **metrics}
            | {"correct": correct, "incorrect": incorrect}
        )
    return records


def _correct(example: Example, rule: MultipleChoice) -> tuple[str, ...]:
    return example.correct + rule.also_correct.get(example.id, ())


def _encode(encoder: Encoder, example: Example, rule: MultipleChoice) -> list[EncodedText]:
    answers = _correct(example, rule) + example.incorrect
    if rule.as_lm_eval:
        return [encoder.spliced_continuation(example.prompt, answer) for answer in answers]
    if rule.counted_lead is None:
        return encoder.candidates(example.prompt, answers)
    lead, lead_tokens = rule.counted_lead
    question = example.prompt.removesuffix(lead)
    return [
        encoder.counted_continuation(question, lead, answer, lead_tokens=lead_tokens)
        for answer in answers
    ]


def _exact_match(
    model: TransformerBridge,
    examples: Sequence[Example],
    rule: ExactMatch,
    intervention: Edit | None,
    *,
    batch_size: BatchSize,
    progress: bool,
) -> list[Record]:
    generations = greedy_generations(
        model,
        [example.prompt for example in examples],
        intervention,
        max_new_tokens=rule.max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    records = []
    for example, generation in zip(examples, generations, strict=True):
        text = generation.text
        prediction = rule.prediction(example.prompt, text)
        stopped = generation.ended or rule.stops(text)
        correct = rule.is_correct(prediction, example.correct)
        records.append(
            {"id": example.id, "group": example.group, rule.metric: float(correct)}
            | {"prediction": prediction, "generated": text, "expected": example.correct[0]}
            | {"finish_reason": "stop" if stopped else "length"}
        )
    return records
