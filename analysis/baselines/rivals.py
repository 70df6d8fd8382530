"""Tuned rivals of LoFiT on its own loop, loss, data and schedule: LoRA, (IA)3, BEFT and RED.

The order of examples is that of the seed, the same for every rival here; LoFiT draws its initial
parameters from the same generator first, so its order is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lofit_lens.analysis.baselines.adapters import AdapterEdit, kind_of, new_adapter
from lofit_lens.analysis.baselines.wrapping import places_of
from lofit_lens.attention import heads_of, z_width
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.randomness import random_state_kept
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.loop import check_ready, fit
from lofit_lens.training.session import Loss

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformer_lens.model_bridge import TransformerBridge


def train_lora(
    model: TransformerBridge,
    task: Task,
    config: TrainingConfig,
    *,
    rank: int = 8,
    alpha: int = 8,
    dropout: float = 0.1,
    projections: Sequence[str] = ("attn.q", "attn.v"),
    progress: bool = True,
) -> AdapterEdit:
    """Train LoRA, `W x + alpha / rank * B A x` (Hu et al. 2021); defaults from LoFiT's paper, C.2.

    B starts at zero, so the first loss is that of the model as it is. Dropout works in training
    steps alone: validation losses and the finished edit are without it.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        config: How; `peft` draws A its own way, so `init_std` is not used.
        rank: Rank of the added matrices.
        alpha: Their scale is `alpha / rank`.
        dropout: Share of the inputs of A that are set to zero in a training step.
        projections: Linear layers of each block, by their names in TransformerLens.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: The scope is not "all", or dropout meets gradient checkpointing.
        UnsupportedError: The model does not call these layers one by one.
        TrainingStopped: Training became unstable.
    """
    import peft

    peft_config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=_pattern(projections)
    )
    places = places_of(model, projections)
    return train_adapter(model, task, peft_config, places, config, progress=progress)


def train_ia3(
    model: TransformerBridge, task: Task, config: TrainingConfig, *, progress: bool = True
) -> AdapterEdit:
    """Train (IA)3: a factor for each key, value and inner activation of the MLP (Liu et al. 2022).

    The factors start at one, so the first loss is that of the model as it is. Arguments and errors
    are those of `train_lora`.
    """
    import peft

    projections = ("attn.k", "attn.v", "mlp.out")
    peft_config = peft.IA3Config(
        target_modules=_pattern(projections), feedforward_modules=_pattern(projections[2:])
    )
    places = places_of(model, projections)
    return train_adapter(model, task, peft_config, places, config, progress=progress)


def train_beft(
    model: TransformerBridge, task: Task, config: TrainingConfig, *, progress: bool = True
) -> AdapterEdit:
    """Train BEFT: a bias of every value projection (Huang et al. 2026).

    Attention adds up values with weights whose sum is one, so it is LoFiT's stage 2 on all heads, where
    query heads that share a value head share their bias too. It starts at zero, so the first loss is that
    of the model as it is. Arguments and errors are those of `train_lora`.
    """
    import peft

    peft_config = peft.BeftConfig(target_modules=_pattern(["attn.v"]))
    places = places_of(model, ["attn.v"])
    return train_adapter(model, task, peft_config, places, config, progress=progress)


def train_adapter(
    model: TransformerBridge,
    task: Task,
    peft_config: PeftConfig,
    places: Sequence[str],
    config: TrainingConfig,
    *,
    what: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    progress: bool = True,
) -> AdapterEdit:
    """Train any adapter of `peft` that wraps linear layers one by one.

    Other arguments and errors are those of `train_lora`.

    Args:
        model: A frozen bridge in eval mode.
        task: The task.
        peft_config: Its `target_modules` match `places`.
        places: Linear layers by their TransformerLens names, such as `blocks.0.attn.q`.
        config: How.
        what: What is trained, for the provenance; default the name of the adapter as `component`.
        loss: Takes the place of the objective's loss, as in `fit`.
        progress: Whether to show a bar.
    """
    check_ready(model)
    if config.scope != "all":
        raise LofitLensError(
            f'An adapter changes weights, so it acts at every position; got scope "{config.scope}". '
            'Use scope="all".'
        )
    dropout = getattr(peft_config, "lora_dropout", 0.0)
    if dropout and config.gradient_checkpointing:
        raise LofitLensError(
            f"dropout = {dropout} would be drawn anew where gradient checkpointing recomputes a block, "
            "which makes gradients wrong. Set dropout=0 or gradient_checkpointing=False."
        )
    edit = new_adapter(model, peft_config, places, seed=config.seed)
    with random_state_kept():
        torch.manual_seed(config.seed)  # dropout draws from the global state
        return fit(
            model, task, edit, list(edit.weights.values()), edit.learned, config,
            generator=torch.Generator().manual_seed(config.seed),
            what=what or {"component": kind_of(peft_config)}, loss=loss, progress=progress,
        )  # fmt: skip


def train_red(
    model: TransformerBridge, task: Task, config: TrainingConfig, *, progress: bool = True
) -> HeadIntervention:
    """Train RED as LoFiT's paper does: scale and bias of all heads at once (C.2).

    Both start at zero change, so the first loss is that of the model as it is.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        config: How; `init_std` is not used.
        progress: Whether to show a bar.

    Raises:
        TrainingStopped: Training became unstable.
    """
    heads, device = HeadSet.every(**heads_of(model).shape), model.cfg.device
    shape = len(heads), z_width(model)
    scale, bias = (
        torch.zeros(shape, dtype=torch.float32, device=device, requires_grad=True) for _ in range(2)
    )
    edit = HeadIntervention(heads, scale=scale, bias=bias, scope=config.scope)
    return fit(
        model, task, edit, [scale, bias], edit.learned, config,
        generator=torch.Generator().manual_seed(config.seed),
        what={"component": "scale and bias"}, progress=progress,
    )  # fmt: skip


def _pattern(projections: Sequence[str]) -> str:
    """A regular expression for these layers of every block."""
    return rf"blocks\.\d+\.({'|'.join(projections)})"
