"""The steps of training: one loop for one edit, or for several in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lofit_lens.edits.edit import Edit
from lofit_lens.fast.memory import halved
from lofit_lens.fast.training_passes import AT_ONCE, GroupLogprobs, training_passes
from lofit_lens.tasks.task import Objective
from lofit_lens.training.checkpointing import checkpointing
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.history import History
from lofit_lens.training.objectives import Item, summed_loss, total_weight

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Loss = Callable[[Sequence[Item]], Tensor]

Batches = Mapping[int, Sequence[int]]
"""Numbers of items for each trainee, by its own number."""

DIVERGED_WINDOW = 10
DIVERGED_FACTOR = 3.0
DIVERGED_MARGIN = 3.0


@dataclass(eq=False)
class Trainee:
    """What belongs to one edit in training, beside others in the same forward pass.

    Attributes:
        parameters: What is trained, in place.
        generator: Draws the order of the examples.
        config: How it is trained.
        penalty: Added to the loss of each step, beside the L1 term of the configuration; it must
            not run the model.
        history: What has happened so far.
        stopped: Why its training was stopped, if it was.
    """

    parameters: Sequence[Tensor]
    generator: torch.Generator
    config: TrainingConfig
    penalty: Callable[[], Tensor] | None = None
    history: History = field(default_factory=History)
    stopped: str | None = None

    def __post_init__(self) -> None:
        self.learning_rate = self.config.rate  # "auto" is refused here, before any work

    def backward_of_penalties(self, l1: float) -> None:
        """Add the gradients of the penalties."""
        if l1:
            for parameter in self.parameters:
                (l1 * parameter.abs().sum()).backward()
        if self.penalty is not None:
            self.penalty().backward()

    def unstable(self, loss: float, gradient_norm: float) -> str | None:
        """Why a step would destroy what was learned, if it would."""
        for name, value in (("loss", loss), ("gradient", gradient_norm)):
            if not torch.isfinite(torch.tensor(value)):
                return f"the {name} is {value}"
        recent = self.history.loss[-DIVERGED_WINDOW:]
        if len(recent) == DIVERGED_WINDOW:
            mean, first = sum(recent) / DIVERGED_WINDOW, self.history.loss[0]
            if mean > DIVERGED_FACTOR * first + DIVERGED_MARGIN:
                return (
                    f"the loss diverged, from {first:.3g} to {mean:.3g} over the last "
                    f"{DIVERGED_WINDOW} steps"
                )
        return None


@dataclass(eq=False)
class Session:
    """Edits trained side by side on the same examples.

    Each has its own parameters, order of examples, clipping and history; a step of all of them is
    one forward and one backward pass. One that becomes unstable is stopped, the others go on.

    Attributes:
        model: A frozen bridge in eval mode.
        edit: What edits the model; its numbers come from the parameters of the trainees.
        trainees: The edits in training.
        config: How all of them are trained, but for their learning rates.
        objective: The loss.
        loss: Takes the place of the loss of the objective; for one trainee only.
    """

    model: TransformerBridge
    edit: Edit
    trainees: Sequence[Trainee]
    config: TrainingConfig
    objective: Objective
    loss: Loss | None = None

    def __post_init__(self) -> None:
        self._items: Sequence[Item] = ()
        self._passes: GroupLogprobs | None = None
        self._part = self.config.examples_at_once  # of each trainee in one forward pass

    def run(
        self, train: Sequence[Item], val: Sequence[Item], label: str, *, progress: bool
    ) -> None:
        """Train for all epochs, or until every edit has become unstable.

        Args:
            train: Training items.
            val: Validation items; none measures no validation loss.
            label: What stands beside the bar.
            progress: Whether to show a bar.
        """
        self._items = [*train, *val]
        steps = -(-len(train) // self.config.batch_size)
        device, peak = next(self.model.original_model.parameters()).device, None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        total = self.config.epochs * steps
        with (
            torch.enable_grad(),
            tqdm(total=total, desc=f"train {label}", disable=not progress) as bar,
        ):
            self._train(len(train), total, bar)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
        for trainee in self.trainees:
            trainee.history = replace(trainee.history, peak_memory=peak, steps_per_epoch=steps)

    def _train(self, n_train: int, total: int, bar: tqdm[Any]) -> None:
        config = self.config
        optimizer = torch.optim.AdamW(
            [{"params": list(t.parameters), "lr": t.learning_rate} for t in self.trainees],
            weight_decay=config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        again = config.gradient_checkpointing
        with ExitStack() as contexts:
            if self.loss is None:
                groups = [item.texts for item in self._items]
                self._passes = contexts.enter_context(
                    training_passes(self.model, groups, self.edit, checkpointed=again)
                )
            else:  # it runs the model itself, and may attach hooks
                contexts.enter_context(self.edit.applied(self.model))
            if again:
                contexts.enter_context(checkpointing(self.model))
            validated = range(n_train, len(self._items))
            self._validate(validated)
            for _ in range(config.epochs):
                orders = {
                    i: torch.randperm(n_train, generator=trainee.generator).tolist()
                    for i, trainee in self._alive()
                }
                for start in range(0, n_train, config.batch_size):
                    batches = {
                        i: orders[i][start : start + config.batch_size] for i, _ in self._alive()
                    }
                    if not batches:
                        return
                    optimizer.zero_grad()
                    rates = [float(rate) for rate in schedule.get_last_lr()]
                    self._step(batches, optimizer, rates)
                    schedule.step()
                    bar.update()
                self._validate(validated)

    def _alive(self) -> list[tuple[int, Trainee]]:
        return [(i, t) for i, t in enumerate(self.trainees) if t.stopped is None]

    def _step(
        self,
        batches: Batches,
        optimizer: torch.optim.Optimizer,
        learning_rates: Sequence[float],
    ) -> None:
        """One step of every trainee that can make one."""
        losses = self._backward(batches)
        norms = {}
        for i in batches:
            trainee = self.trainees[i]
            trainee.backward_of_penalties(self.config.l1)
            norms[i] = torch.nn.utils.clip_grad_norm_(
                list(trainee.parameters), self.config.max_gradient_norm
            )
        before = {}
        for i, loss in losses.items():
            trainee, norm = self.trainees[i], float(norms[i])
            trainee.stopped = trainee.unstable(loss, norm)
            if trainee.stopped is not None:
                for parameter in trainee.parameters:
                    parameter.grad = None
                continue
            trainee.history.loss.append(loss)
            trainee.history.gradient_norm.append(norm)
            trainee.history.learning_rate.append(learning_rates[i])
            before[i] = [parameter.detach().clone() for parameter in trainee.parameters]
        optimizer.step()
        for i, good in before.items():
            trainee = self.trainees[i]
            if not all(bool(torch.isfinite(p).all()) for p in trainee.parameters):
                for parameter, kept in zip(trainee.parameters, good, strict=True):
                    parameter.data.copy_(kept)
                trainee.stopped = "the step led to parameters that are not finite"

    def _validate(self, items: Sequence[int]) -> None:
        alive = [i for i, _ in self._alive()]
        if not items or not alive:
            return
        weight = self._weight(items)
        for i, total in self._totals(dict.fromkeys(alive, items)).items():
            history = self.trainees[i].history
            history.val_loss.append(total / weight)
            history.val_step.append(len(history.loss))

    def _weight(self, numbers: Sequence[int]) -> int:
        """What the summed loss of some items is divided by."""
        return total_weight(self.objective, [self._items[i] for i in numbers])

    def _losses(self, batches: Batches) -> dict[int, Tensor]:
        """The summed loss of each trainee's items."""
        chosen = {t: [self._items[i] for i in numbers] for t, numbers in batches.items()}
        if self.loss is not None:
            return {trainee: self.loss(some) for trainee, some in chosen.items()}
        assert self._passes is not None
        logprobs = self._passes(
            [i for numbers in batches.values() for i in numbers],
            [trainee for trainee, numbers in batches.items() for _ in numbers],
        )
        parts = logprobs.split([sum(len(item.texts) for item in c) for c in chosen.values()])
        return {
            trainee: summed_loss(self.objective, part, some, beta=self.config.beta)
            for (trainee, some), part in zip(chosen.items(), parts, strict=True)
        }

    def _in_parts(self, batches: Batches, size: int) -> Iterator[dict[int, Tensor]]:
        """The summed losses of `size` items of each trainee after the other."""
        for start in range(0, max(map(len, batches.values())), size):
            yield self._losses({t: some[start : start + size] for t, some in batches.items()})

    def _totals(self, batches: Batches) -> dict[int, float]:
        """The summed loss of each trainee's items, without gradients."""
        texts = max(len(item.texts) for item in self._items)

        def measured(size: int) -> dict[int, float]:
            if self.config.micro_batch_size is None:
                size = max(size, AT_ONCE // texts)
            found = dict.fromkeys(batches, 0.0)
            for losses in self._in_parts(batches, size):
                for trainee, loss in losses.items():
                    found[trainee] += loss.item()
            return found

        with torch.no_grad():
            return self._within_memory(measured)

    def _backward(self, batches: Batches) -> dict[int, float]:
        """Accumulate the gradient of the mean loss of each trainee's batch; the losses alone."""
        weights = {trainee: self._weight(numbers) for trainee, numbers in batches.items()}

        def accumulated(size: int) -> dict[int, float]:
            for trainee in batches:
                for parameter in self.trainees[trainee].parameters:
                    parameter.grad = None
            found = dict.fromkeys(batches, 0.0)
            for losses in self._in_parts(batches, size):
                means = torch.stack([loss / weights[trainee] for trainee, loss in losses.items()])
                means.sum().backward()
                for trainee, mean in zip(losses, means.tolist(), strict=True):
                    found[trainee] += mean
            return found

        return self._within_memory(accumulated)

    def _within_memory(self, work: Callable[[int], dict[int, float]]) -> dict[int, float]:
        """Do some work; under "auto" with smaller parts, from the start, when memory runs out."""
        if self.config.micro_batch_size != "auto":
            return work(self._part)
        found, self._part = halved(work, self._part)
        return found
