"""Training that both stages share, and every tuned rival."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from lofit_lens.attention import check_head_shape, device_of, real_columns
from lofit_lens.chat import note_unused
from lofit_lens.edits.by_row import StackedHeads
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.fast.switches import taken
from lofit_lens.heads import HeadSet
from lofit_lens.provenance import Provenance, learned_on
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks.task import Objective, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.objectives import PREFERENCE, Item, encode_items
from lofit_lens.training.session import Loss, Session, Trainee

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LearnedEdit = TypeVar("LearnedEdit", bound=Edit)
Component = Literal["scale", "bias"]


def train_together(
    model: TransformerBridge,
    task: Task,
    runs: Sequence[tuple[HeadSet, TrainingConfig]],
    component: Component,
    *,
    progress: bool = True,
) -> list[HeadIntervention | TrainingStopped]:
    """Train the scale or the bias of several head sets on one task in one forward pass.

    Every row of a batch carries the numbers of its own run, so a step of all runs is one large
    forward and backward pass. Each keeps its own seed, order of examples, clipping and history.
    Parameters start from N(0, init_std), drawn with the seed, in float32 whatever the model's type.
    Those after the last step are returned, as the paper does, with their provenance.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        runs: The heads of each run, and how to train them; only seeds and learning rates may
            differ.
        component: What to train on them.
        progress: Whether to show a bar.

    Returns:
        What each run learned; for one that became unstable, an error that says so and holds it.

    Raises:
        LofitLensError: The configurations differ in more than seeds and learning rates, a run has
            no heads, or the model is not frozen or not in eval mode.
    """
    check_ready(model)
    config = runs[0][1]
    for heads, other in runs:
        check_head_shape(model, heads)
        if not len(heads):
            raise LofitLensError("There are no heads to train. Choose at least one.")
        if replace(other, seed=config.seed, learning_rate=config.learning_rate) != config:
            raise LofitLensError(
                "Runs trained together may differ in their heads, seeds and learning rates only. Train "
                "those with other settings in a call of their own."
            )
    parts = _parts(model, [heads for heads, _ in runs])
    if len(parts) > 1:
        by_number: dict[int, HeadIntervention | TrainingStopped] = {}
        for part in parts:
            some = [runs[i] for i in part]
            found = train_together(model, task, some, component, progress=progress)
            by_number |= dict(zip(part, found, strict=True))
        return [by_number[i] for i in range(len(runs))]
    trainees = [_new(model, heads, own) for heads, own in runs]
    parameters = [trainee.parameters[0] for trainee in trainees]
    edits = [
        HeadIntervention(heads, **{component: parameter}, scope=config.scope)  # pyright: ignore[reportArgumentType]
        for (heads, _), parameter in zip(runs, parameters, strict=True)
    ]
    together = StackedHeads([heads for heads, _ in runs], parameters, component, config.scope)
    session = Session(
        model, edits[0] if len(runs) == 1 else together, trainees, config, _objective(task, config)
    )
    learned = [edit.learned for edit in edits]
    return _run(session, task, learned, {"component": component}, progress=progress)


def fit(
    model: TransformerBridge,
    task: Task,
    edit: Edit,
    parameters: Sequence[Tensor],
    learned: Callable[[Provenance], LearnedEdit],
    config: TrainingConfig,
    *,
    generator: torch.Generator,
    what: Mapping[str, Any],
    penalty: Callable[[], Tensor] | None = None,
    loss: Loss | None = None,
    progress: bool = True,
) -> LearnedEdit:
    """Train any edit of a frozen model: one loop, loss and schedule for every method.

    AdamW, linear decay without warm-up, clipped gradients; the parameters after the last step
    stay (paper, section 4 and Table 6).

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        edit: The edit in training; its numbers come from `parameters`.
        parameters: What is trained, in place.
        learned: Makes the finished edit of the parameters as they are when it is called.
        config: How.
        generator: Draws the order of the examples.
        what: What is trained, for the provenance; its `component` stands beside the bar.
        penalty: Added to the loss of each step, beside the L1 term of `config`; it must not run
            the model.
        loss: Takes the place of the objective's loss, which then says only what the items are and
            what their summed loss is divided by. It runs the model itself, for an edit that acts
            at every position.
        progress: Whether to show a bar.

    Raises:
        TrainingStopped: Loss or gradient is not finite, or the loss diverged.
        LofitLensError: The model is not frozen or not in eval mode.
    """
    check_ready(model)
    trainee = Trainee(parameters, generator, config, penalty)
    session = Session(model, edit, [trainee], config, _objective(task, config), loss)
    (found,) = _run(session, task, [learned], what, progress=progress)
    if isinstance(found, TrainingStopped):
        raise found
    return found


def check_ready(model: TransformerBridge) -> None:
    """Refuse a model that is not frozen or not in eval mode, and a mode without gradients.

    Raises:
        LofitLensError: One of the three.
    """
    if torch.is_inference_mode_enabled():
        raise LofitLensError(
            "Gradients are needed, and inside torch.inference_mode() there are none. Call this outside "
            "of it."
        )
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise LofitLensError(
            "The model has trainable parameters, which would double the cost of every step. Load it "
            "with `load_model`, or call `lofit_lens.model.freeze(model)`."
        )
    if model.training:
        raise LofitLensError("The model is in training mode. Call `model.eval()`.")


def _parts(model: TransformerBridge, heads: Sequence[HeadSet]) -> list[list[int]]:
    """Numbers of the head sets to train in one forward pass.

    A pass begins at the lowest edited layer. A CPU is busy with one run already, so there only
    those with the same lowest layer go together; a GPU has room for all.
    """
    if not taken().together:
        return [[i] for i in range(len(heads))]
    if device_of(model).type != "cpu":
        return [list(range(len(heads)))]
    by_layer: dict[int, list[int]] = {}
    for i, chosen in enumerate(heads):
        by_layer.setdefault(chosen.layers()[0], []).append(i)
    return list(by_layer.values())


def _new(model: TransformerBridge, heads: HeadSet, config: TrainingConfig) -> Trainee:
    """Fresh parameters for some heads, and the order of the examples, from the seed."""
    generator = torch.Generator().manual_seed(config.seed)
    real = real_columns(model, heads)
    initial = (
        config.init_std * torch.randn(real.shape, generator=generator, dtype=torch.float32) * real
    )
    device = device_of(model, heads.layers()[0])
    return Trainee([initial.to(device).requires_grad_(True)], generator, config)


def _objective(task: Task, config: TrainingConfig) -> Objective:
    objective = config.objective or task.objective
    task.check_objective(objective)
    return objective


def _run(
    session: Session,
    task: Task,
    learned: Sequence[Callable[[Provenance], LearnedEdit]],
    what: Mapping[str, Any],
    *,
    progress: bool,
) -> list[LearnedEdit | TrainingStopped]:
    """Train, and make the finished edit of each trainee, with what was trained in its provenance."""
    note_unused(session.model.tokenizer, task)
    train = _items(session, task, "train")
    val = _items(session, task, "val") if session.config.validate else []
    session.run(train, val, str(what["component"]), progress=progress)
    found: list[LearnedEdit | TrainingStopped] = []
    for trainee, made in zip(session.trainees, learned, strict=True):
        told = trainee.config.to_json() | {"objective": session.objective, **what}
        edit = made(learned_on(session.model, task, told, trainee.history))
        if trainee.stopped is not None:
            edit = TrainingStopped(
                f"Training on {task.name} stopped after {len(trainee.history.loss)} steps: "
                f"{trainee.stopped}. Try a learning rate below {trainee.learning_rate:g}. The last good "
                "parameters are in `.learned` of this error.",
                edit,
            )
        found.append(edit)
    return found


def _items(session: Session, task: Task, split: Literal["train", "val"]) -> list[Item]:
    """Encode a split; for pairs also measure the reference, with the edit off."""
    examples = task.train if split == "train" else task.val
    items = encode_items(Encoder(session.model), examples, session.objective, task.scoring)
    if session.objective not in PREFERENCE:
        return items
    texts = [text for item in items for text in item.texts]
    automatic = session.config.micro_batch_size == "auto"
    size = "auto" if automatic else 2 * session.config.examples_at_once
    scores = iter(answer_logprobs(session.model, texts, batch_size=size).tolist())
    return [replace(item, reference=tuple(next(scores) for _ in item.texts)) for item in items]
