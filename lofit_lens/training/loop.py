"""The training loop that both stages share, and every tuned rival."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lofit_lens.edit import Edit
from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.heads import HeadSet
from lofit_lens.intervention import HeadIntervention
from lofit_lens.model import check_head_shape
from lofit_lens.positions import known_prompts
from lofit_lens.provenance import Provenance, learned_on
from lofit_lens.scoring.logprobs import answer_logprobs, batch_logprobs
from lofit_lens.tasks.task import Objective, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training.checkpointing import checkpointing
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.history import History
from lofit_lens.training.objectives import Item, encode_items, summed_loss, total_weight

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Announce = Callable[[Tensor], None]
Loss = Callable[[Sequence[Item]], Tensor]
LearnedEdit = TypeVar("LearnedEdit", bound=Edit)

DIVERGED_WINDOW = 10
DIVERGED_FACTOR = 3.0
DIVERGED_MARGIN = 3.0


def train(
    model: TransformerBridge,
    task: Task,
    heads: HeadSet,
    component: Literal["scale", "bias"],
    config: TrainingConfig,
    *,
    progress: bool = True,
) -> HeadIntervention:
    """Train the scale or the bias of some heads; everything else stays frozen.

    Parameters start from N(0, init_std), drawn with the seed, in float32 whatever the model's
    type. The parameters after the last step are returned, as the paper does, with their provenance.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        heads: The heads to train.
        component: What to train on them.
        config: How.
        progress: Whether to show a bar.

    Raises:
        TrainingStopped: Loss or gradient is not finite, or the loss diverged.
        LofitLensError: The model is not frozen or not in eval mode.
    """
    check_ready(model)
    check_head_shape(model, heads)
    if not len(heads):
        raise LofitLensError("There are no heads to train. Choose at least one.")
    generator = torch.Generator().manual_seed(config.seed)
    initial = config.init_std * torch.randn(len(heads), model.cfg.d_head, generator=generator)
    device = model.blocks[heads.layers()[0]].attn.o.original_component.weight.device
    parameter = initial.to(device).requires_grad_(True)
    edit = HeadIntervention(
        heads,
        scale=parameter if component == "scale" else None,
        bias=parameter if component == "bias" else None,
        scope=config.scope,
    )

    def learned(provenance: Provenance) -> HeadIntervention:
        numbers = {component: parameter.detach().cpu().clone()}
        return replace(edit, provenance=provenance, **numbers)

    return fit(
        model, task, edit, [parameter], learned, config,
        generator=generator, what={"component": component}, progress=progress,
    )  # fmt: skip


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
        penalty: Added to the loss of each step, beside the L1 term of `config`.
        loss: Takes the place of the objective's loss, which then says only what the items are and
            what their summed loss is divided by. It runs the model itself, for an edit that acts
            at every position.
        progress: Whether to show a bar.

    Raises:
        TrainingStopped: Loss or gradient is not finite, or the loss diverged.
        LofitLensError: The model is not frozen or not in eval mode.
    """
    check_ready(model)
    objective = config.objective or task.objective
    task.check_objective(objective)
    run = _Run(model, edit, parameters, config, objective, generator, penalty, loss)
    train_items = run.prepare(task, "train")
    val_items = run.prepare(task, "val") if config.validate else []
    provenance = learned_on(
        model, task, config.to_json() | {"objective": objective} | dict(what), run.history
    )
    try:
        run.fit(train_items, val_items, str(what["component"]), progress=progress)
    except _Unstable as stop:
        raise TrainingStopped(
            f"Training on {task.name} stopped after {len(run.history.loss)} steps: {stop}. Try a "
            f"learning rate below {config.learning_rate:g}. The last good parameters are in "
            "`.learned` of this error.",
            learned(provenance),
        ) from None
    return learned(provenance)


class _Unstable(Exception):
    """The next step would not be finite, or the loss diverged."""


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        model: TransformerBridge,
        edit: Edit,
        parameters: Sequence[Tensor],
        config: TrainingConfig,
        objective: Objective,
        generator: torch.Generator,
        penalty: Callable[[], Tensor] | None,
        loss: Loss | None,
    ) -> None:
        self._model = model
        self._encoder = Encoder(model)
        self._edit = edit
        self._parameters = list(parameters)
        self._config = config
        self._objective: Objective = objective
        self._generator = generator
        self._penalty = penalty
        self._loss = loss
        self.history = History()

    def prepare(self, task: Task, split: Literal["train", "val"]) -> list[Item]:
        """Encode a split; for DPO also measure the reference, with the edit off."""
        examples = task.train if split == "train" else task.val
        items = encode_items(self._encoder, examples, self._objective)
        if self._objective != "dpo":
            return items
        texts = [text for item in items for text in item.texts]
        size = self._config.micro_batch_size or self._config.batch_size
        scores = iter(answer_logprobs(self._model, texts, batch_size=2 * size).tolist())
        return [replace(item, reference=tuple(next(scores) for _ in item.texts)) for item in items]

    def fit(self, train: list[Item], val: list[Item], label: str, *, progress: bool) -> None:
        config = self._config
        steps_per_epoch = -(-len(train) // config.batch_size)
        total = config.epochs * steps_per_epoch
        optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        with (
            self._edit.applied(self._model),
            known_prompts(self._model) as announce,
            checkpointing(self._model, config.gradient_checkpointing),
            tqdm(total=total, desc=f"train {label}", disable=not progress) as bar,
        ):
            self._validate(val, announce)
            for _ in range(config.epochs):
                order = torch.randperm(len(train), generator=self._generator).tolist()
                for start in range(0, len(order), config.batch_size):
                    batch = [train[i] for i in order[start : start + config.batch_size]]
                    optimizer.zero_grad()
                    loss = self._backward(batch, announce)
                    norm = float(
                        torch.nn.utils.clip_grad_norm_(self._parameters, config.max_gradient_norm)
                    )
                    self._check_stable(loss, norm)
                    self.history.loss.append(loss)
                    self.history.gradient_norm.append(norm)
                    self.history.learning_rate.append(float(schedule.get_last_lr()[0]))
                    self._step(optimizer)
                    schedule.step()
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                self._validate(val, announce)

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        before = [parameter.detach().clone() for parameter in self._parameters]
        optimizer.step()
        if not all(torch.isfinite(parameter).all() for parameter in self._parameters):
            for parameter, good in zip(self._parameters, before, strict=True):
                parameter.data.copy_(good)
            raise _Unstable("the step led to parameters that are not finite")

    def _backward(self, batch: Sequence[Item], announce: Announce) -> float:
        """Accumulate the gradient of the mean loss of a batch; returns the loss alone."""
        weight = total_weight(self._objective, batch)
        size = self._config.micro_batch_size or len(batch)
        loss = 0.0
        for start in range(0, len(batch), size):
            part = self._summed_loss(batch[start : start + size], announce) / weight
            part.backward()
            loss += part.item()
        if self._config.l1:
            for parameter in self._parameters:
                (self._config.l1 * parameter.abs().sum()).backward()
        if self._penalty is not None:
            self._penalty().backward()
        return loss

    def _summed_loss(self, items: Sequence[Item], announce: Announce) -> Tensor:
        if self._loss is not None:
            return self._loss(items)
        encoded = self._encoder.batch([text for item in items for text in item.texts])
        logprobs = batch_logprobs(self._model, encoded, announce)
        return summed_loss(self._objective, logprobs, items, beta=self._config.beta)

    def _validate(self, items: list[Item], announce: Announce) -> None:
        if not items:
            return
        size = self._config.micro_batch_size or self._config.batch_size
        with torch.no_grad():
            parts = [
                self._summed_loss(items[start : start + size], announce).item()
                for start in range(0, len(items), size)
            ]
        self.history.val_loss.append(sum(parts) / total_weight(self._objective, items))
        self.history.val_step.append(len(self.history.loss))

    def _check_stable(self, loss: float, gradient_norm: float) -> None:
        """Refuse a step that would destroy what was learned."""
        for name, value in (("loss", loss), ("gradient", gradient_norm)):
            if not torch.isfinite(torch.tensor(value)):
                raise _Unstable(f"the {name} is {value}")
        recent = self.history.loss[-DIVERGED_WINDOW:]
        if len(recent) == DIVERGED_WINDOW:
            mean, first = sum(recent) / DIVERGED_WINDOW, self.history.loss[0]
            if mean > DIVERGED_FACTOR * first + DIVERGED_MARGIN:
                raise _Unstable(
                    f"the loss diverged, from {first:.3g} to {mean:.3g} over the last "
                    f"{DIVERGED_WINDOW} steps"
                )


def check_ready(model: TransformerBridge) -> None:
    """Refuse a model that is not frozen or not in eval mode.

    Raises:
        LofitLensError: One of the two.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise LofitLensError(
            "The model has trainable parameters, which would double the cost of every step. Load it "
            "with `load_model`, or call `lofit_lens.model.freeze(model)`."
        )
    if model.training:
        raise LofitLensError("The model is in training mode. Call `model.eval()`.")
