"""JoLA: heads found by gates that learn to close while the edit behind them is learned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.attention import device_of, heads_of, real_columns
from lofit_lens.edits.hooked import Change, HookedEdit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, check_seed
from lofit_lens.grid import HeadGrid
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.positions import PositionTracker, TokenScope
from lofit_lens.provenance import Provenance
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.loop import fit

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

TEMPERATURE = 0.33
LOW, HIGH = -0.1, 1.1
"""The concrete distribution is stretched to this range, then cut to [0, 1]."""

_TINY = 1e-6
GateTensor = Float[Tensor, "*shape"]


def sample_gate(log_alpha: GateTensor, generator: torch.Generator) -> GateTensor:
    """Draw gates from the hard concrete distribution (Louizos et al. 2018, equations 10 and 11).

    Args:
        log_alpha: Location of each gate; the gate is differentiable in it.
        generator: A generator on the CPU.

    Returns:
        Gates in [0, 1], with a positive probability of both ends.
    """
    uniform = torch.rand(log_alpha.shape, generator=generator, dtype=torch.float32).clamp(
        _TINY, 1 - _TINY
    )
    concrete = torch.sigmoid((uniform.logit().to(log_alpha.device) + log_alpha) / TEMPERATURE)
    return _stretched(concrete)


def expected_gate(log_alpha: GateTensor) -> GateTensor:
    """The gate used outside training: without noise, exactly 0 below -2.4 and 1 above 2.4.

    It is the estimate of Louizos et al. 2018, equation 13, which the code of JoLA uses, not the
    mean of the distribution.
    """
    return _stretched(torch.sigmoid(log_alpha))


def chance_open(log_alpha: GateTensor) -> GateTensor:
    """The probability that a drawn gate is not 0 (Louizos et al. 2018, equation 12)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def _stretched(concrete: Tensor) -> Tensor:
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class GateConfig(TrainingConfig):
    """How gates are trained. Defaults are those of JoLA's code.

    The schedule is that of every other method here: linear decay, no warm-up, no early stopping.

    Raises:
        LofitLensError: A value is out of range, or `l1` is given, which would pull gates half open.
    """

    learning_rate: float = 5e-3
    epochs: int = 20
    gate_penalty: float = 4e-5
    """Lambda, the weight of the expected number of open gates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.gate_penalty) and self.gate_penalty >= 0):
            raise LofitLensError(f"gate_penalty must be 0 or greater, got {self.gate_penalty}.")
        if self.l1:
            raise LofitLensError(f"Gates are sparse by gate_penalty; l1 must be 0, got {self.l1}.")


@dataclass(frozen=True, eq=False)
class Gates:
    """What JoLA learned for every head of a model, closed gates included.

    Attributes:
        log_alpha: Locations of the gates of scale and bias, in this order.
        scale: m of JoLA.
        bias: a of JoLA.
        scope: The token positions edited.
        provenance: How it was learned.
        without: Layers without heads; what stands there means nothing.
    """

    log_alpha: Float[Tensor, "layer head 2"]
    scale: Float[Tensor, "layer head d_head"]
    bias: Float[Tensor, "layer head d_head"]
    scope: TokenScope = "all"
    provenance: Provenance | None = field(default=None, repr=False)
    without: tuple[int, ...] = ()

    def scores(self) -> HeadScores:
        """The L2 norm of what each head's gates let through, `(g_m * m, g_a * a)`.

        The gate alone would not rank: open gates are all exactly 1, closed ones all exactly 0. The
        norm of what is learned is LoFiT's score; the gates make it 0 where the task does without.
        """
        scale, bias = self._gated()
        norms = torch.cat([scale, bias], dim=-1).norm(dim=-1)
        return HeadScores(norms, "gates", self.provenance, self.without)

    def edit(self) -> HeadIntervention:
        """The learned edit, each gate as in evaluation; heads with both gates closed are left out."""
        is_open = (expected_gate(self.log_alpha) > 0).any(-1)
        best_first = self.scores().ranking()
        heads = HeadSet((h for h in best_first if is_open[h]), **best_first.grid.shape)
        layer, head = torch.tensor(list(heads), dtype=torch.long).reshape(-1, 2).unbind(-1)
        scale, bias = (part[layer, head] for part in self._gated())
        return HeadIntervention(heads, scale, bias, self.scope, self.provenance)

    def frame(self) -> pd.DataFrame:
        """One row a head, best first.

        Columns `layer`, `head`, `name`, `score`, `rank`, then for `scale` and `bias` each the gate of
        evaluation, the probability that it is open, and the L2 norm of the vector behind it.
        """
        frame = self.scores().frame()
        place = frame["layer"].to_numpy(), frame["head"].to_numpy()
        gate, chance = expected_gate(self.log_alpha), chance_open(self.log_alpha)
        for number, (name, part) in enumerate((("scale", self.scale), ("bias", self.bias))):
            frame[f"{name}_gate"] = gate[..., number].numpy()[place]
            frame[f"{name}_chance_open"] = chance[..., number].numpy()[place]
            frame[f"{name}_norm"] = part.norm(dim=-1).numpy()[place]
        return frame

    def __repr__(self) -> str:
        n_layers, n_heads, _ = self.log_alpha.shape
        layers = list(HeadGrid(n_layers, n_heads, self.without).layers)
        is_open = expected_gate(self.log_alpha[layers]) > 0
        scale, bias = is_open.flatten(0, 1).sum(0).tolist()
        return f"Gates({n_layers}x{n_heads} heads: {scale} scale and {bias} bias gates open)"

    def _gated(self) -> tuple[Tensor, Tensor]:
        gate = expected_gate(self.log_alpha)
        return gate[..., :1] * self.scale, gate[..., 1:] * self.bias


def train_gates(
    model: TransformerBridge,
    task: Task,
    config: GateConfig | None = None,
    *,
    seed: int = 42,
    progress: bool = True,
) -> Gates:
    """Learn which heads to edit, how, and the edit itself in one stage (JoLA).

    Every head becomes `z <- (1 + g_m * m) * z + g_a * a`, with two hard concrete gates (temperature
    0.33, stretched to -0.1 … 1.1) that start at 0.5. Added to the loss is lambda times the expected
    number of open gates. In training the gates are drawn anew for each forward pass; where no
    gradient is recorded, as in validation, they are `expected_gate` (Lai, Fraser and Titov 2025,
    arXiv 2502.01179).

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        config: How to train; default `GateConfig()`. Its seed is replaced.
        seed: Seed of the initial vectors, the order of examples and the gates drawn.
        progress: Whether to show a bar.

    Raises:
        TrainingStopped: Training became unstable.
        UnsupportedError: TransformerLens has processed the model's weights.
    """
    config = replace(config or GateConfig(), seed=seed)
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    heads = HeadSet.every(**heads_of(model).shape)
    device, real = device_of(model), real_columns(model, heads)
    drawn = (
        config.init_std
        * torch.randn(2, *real.shape, generator=generator, dtype=torch.float32)
        * real
    )
    scale, bias = (part.clone().to(device).requires_grad_(True) for part in drawn)
    log_alpha = torch.zeros(len(heads), 2, dtype=torch.float32, device=device, requires_grad=True)
    training = _GatesInTraining(heads, log_alpha, scale, bias, config.scope, generator)

    def gates(provenance: Provenance | None) -> Gates:
        by_head = (heads.placed(part.detach().cpu()) for part in (log_alpha, scale, bias))
        return Gates(*by_head, scope=config.scope, provenance=provenance, without=heads.without)

    edit = fit(
        model, task, training, [log_alpha, scale, bias],
        lambda provenance: gates(provenance).edit(), config, generator=generator,
        what={"component": "gates"}, progress=progress,
        penalty=lambda: config.gate_penalty * chance_open(log_alpha).sum(),
    )  # fmt: skip
    return gates(edit.provenance)


@dataclass(frozen=True, eq=False)
class _GatesInTraining(HookedEdit):
    """The edit while it is trained: drawn gates where gradients are recorded."""

    heads: HeadSet
    log_alpha: Float[Tensor, "k 2"]
    scale: Float[Tensor, "k d_head"]
    bias: Float[Tensor, "k d_head"]
    scope: TokenScope
    generator: torch.Generator

    current: dict[str, Change] = field(default_factory=dict)
    """The changes of the forward pass in progress."""

    provenance = None

    def _check_shape(self, model: TransformerBridge) -> None:
        HeadIntervention(self.heads, self.scale, self.bias).check_model(model)

    def changes(self, model: TransformerBridge) -> dict[str, Change]:
        def follow(name: str) -> Change:
            return lambda z: self.current[name](z)

        names = HeadIntervention(self.heads, self.scale, self.bias).changes(model)
        return {name: follow(name) for name in names}

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[PositionTracker]:
        def draw(*_: Any) -> None:
            # once a forward pass, not in the hooks: checkpointing runs those twice
            if torch.is_grad_enabled():
                gate = sample_gate(self.log_alpha, self.generator)
            else:
                gate = expected_gate(self.log_alpha)
            scale, bias = gate[:, :1] * self.scale, gate[:, 1:] * self.bias
            self.current.update(HeadIntervention(self.heads, scale, bias).changes(model))

        drawn = model.original_model.register_forward_pre_hook(draw)
        with drawn, super().applied(model) as positions:
            yield positions
