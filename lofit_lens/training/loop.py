"""The training loop that both stages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lofit_lens.errors import LofitLensError, TrainingStopped
from lofit_lens.heads import HeadSet
from lofit_lens.intervention import HeadIntervention
from lofit_lens.model import check_head_shape, fingerprint
from lofit_lens.positions import known_prompts
from lofit_lens.provenance import Provenance
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
    _check_ready(model)
    check_head_shape(model, heads)
    if not len(heads):
        raise LofitLensError("There are no heads to train. Choose at least one.")
    objective = config.objective or task.objective
    task.check_objective(objective)
    run = _Run(model, heads, component, config, objective)
    train_items = run.prepare(task, "train")
    val_items = run.prepare(task, "val") if config.validate else []
    provenance = Provenance(
        fingerprint=fingerprint(model),
        task=task.name,
        data_hash=task.data_hash(),
        config=config.to_json() | {"objective": objective, "component": component},
        history=run.history,
        task_source=dict(task.source),
    )
    try:
        run.fit(train_items, val_items, progress=progress)
    except _Unstable as stop:
        raise TrainingStopped(
            f"Training on {task.name} stopped after {len(run.history.loss)} steps: {stop}. Try a "
            f"learning rate below {config.learning_rate:g}. The last good parameters are in "
            "`.learned` of this error.",
            replace(run.learned(), provenance=provenance),
        ) from None
    return replace(run.learned(), provenance=provenance)


class _Unstable(Exception):
    """The next step would not be finite, or the loss diverged."""


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        model: TransformerBridge,
        heads: HeadSet,
        component: Literal["scale", "bias"],
        config: TrainingConfig,
        objective: Objective,
    ) -> None:
        self._model = model
        self._encoder = Encoder(model)
        self._config = config
        self._objective: Objective = objective
        self._generator = torch.Generator().manual_seed(config.seed)
        initial = config.init_std * torch.randn(
            len(heads), model.cfg.d_head, generator=self._generator
        )
        device = model.blocks[heads.layers()[0]].attn.o.original_component.weight.device
        self._parameter = initial.to(device).requires_grad_(True)
        self._edit = HeadIntervention(
            heads,
            scale=self._parameter if component == "scale" else None,
            bias=self._parameter if component == "bias" else None,
            scope=config.scope,
        )
        self._component = component
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

    def learned(self) -> HeadIntervention:
        """The edit as it stands, detached, on the CPU."""
        return replace(self._edit, **{self._component: self._parameter.detach().cpu().clone()})

    def fit(self, train: list[Item], val: list[Item], *, progress: bool) -> None:
        config = self._config
        steps_per_epoch = -(-len(train) // config.batch_size)
        total = config.epochs * steps_per_epoch
        optimizer = torch.optim.AdamW(
            [self._parameter], lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        with (
            self._edit.applied(self._model),
            known_prompts(self._model) as announce,
            checkpointing(self._model, config.gradient_checkpointing),
            tqdm(total=total, desc=f"train {self._component}", disable=not progress) as bar,
        ):
            self._validate(val, announce)
            for _ in range(config.epochs):
                order = torch.randperm(len(train), generator=self._generator).tolist()
                for start in range(0, len(order), config.batch_size):
                    batch = [train[i] for i in order[start : start + config.batch_size]]
                    optimizer.zero_grad()
                    loss = self._backward(batch, announce)
                    norm = float(
                        torch.nn.utils.clip_grad_norm_([self._parameter], config.max_gradient_norm)
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
        before = self._parameter.detach().clone()
        optimizer.step()
        if not torch.isfinite(self._parameter).all():
            self._parameter.data.copy_(before)
            raise _Unstable("the step led to parameters that are not finite")

    def _backward(self, batch: Sequence[Item], announce: Announce) -> float:
        """Accumulate the gradient of the mean loss of a batch; returns the loss without L1."""
        weight = total_weight(self._objective, batch)
        size = self._config.micro_batch_size or len(batch)
        loss = 0.0
        for start in range(0, len(batch), size):
            part = self._summed_loss(batch[start : start + size], announce) / weight
            part.backward()
            loss += part.item()
        if self._config.l1:
            (self._config.l1 * self._parameter.abs().sum()).backward()
        return loss

    def _summed_loss(self, items: Sequence[Item], announce: Announce) -> Tensor:
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


def _check_ready(model: TransformerBridge) -> None:
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise LofitLensError(
            "The model has trainable parameters, which would double the cost of every step. Load it "
            "with `load_model`, or call `lofit_lens.model.freeze(model)`."
        )
    if model.training:
        raise LofitLensError("The model is in training mode. Call `model.eval()`.")
