"""LoReFT: a low-rank edit of the residual stream at the ends of the prompt."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lofit_lens.edits.hooked import Change, HookedEdit
from lofit_lens.errors import LofitLensError, ModelMismatchError, check_whole
from lofit_lens.positions import Places
from lofit_lens.provenance import Provenance, unmeasured
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.loop import fit

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class LoReFT(HookedEdit):
    """Low-rank linear subspace edits: `h <- h + R^T (W h + b - R h)` (Wu et al. 2024, section 3.2).

    It acts on `blocks.{layer}.hook_out` (`[batch, pos, d_model]`) of every layer, at the first and
    the last tokens of the prompt, BOS included; a short prompt is edited as a whole. Within a layer
    all positions share R, W and b. Computed in float32, cast to the model's type.

    Attributes:
        rotation: R; its rows are made orthonormal when it is used.
        source: W.
        bias: b.
        positions: How many tokens at either end of the prompt are edited (f3+l3 is 3).
        provenance: How it was learned, if it was.

    Raises:
        LofitLensError: `positions` is below 1, or the rank exceeds d_model.
    """

    rotation: Float[Tensor, "layer rank d_model"]
    source: Float[Tensor, "layer rank d_model"]
    bias: Float[Tensor, "layer rank"]
    positions: int
    provenance: Provenance | None = field(default=None, repr=False)

    needs_whole_texts = True

    def __post_init__(self) -> None:
        check_whole("positions", self.positions, 1)
        _check_rank(*self.rotation.shape[1:])

    @property
    def scope(self) -> Places:
        """Both ends of the prompt."""
        n = self.positions

        def ends_of_prompt(
            rank: Int[Tensor, "batch total"], length: Int[Tensor, "batch _"]
        ) -> Bool[Tensor, "batch total"]:
            return (rank < length) & ((rank < n) | (rank >= length - n))

        return ends_of_prompt

    def _check_shape(self, model: TransformerBridge) -> None:
        shape, mine = (model.cfg.n_layers, model.cfg.d_model), self.rotation.shape[::2]
        if mine != shape:
            raise ModelMismatchError(
                f"The edit belongs to a model of {mine[0]} layers and d_model = {mine[1]}, this one "
                f"has {shape[0]} and {shape[1]}. Learn it on this model."
            )

    def changes(self, model: TransformerBridge) -> dict[str, Change]:
        """The edit behind each layer."""
        return {f"blocks.{i}.hook_out": self._change(i) for i in range(model.cfg.n_layers)}

    def _change(self, layer: int) -> Change:
        def parts(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
            rotation = orthonormal_rows(self.rotation[layer].to(device))
            return rotation, self.source[layer].to(device) - rotation, self.bias[layer].to(device)

        kept = self._on_device(parts)

        def change(h: Tensor) -> Tensor:
            rotation, difference, bias = kept(h.device)
            return h + (h @ difference.T + bias) @ rotation

        return change

    def __mul__(self, strength: float) -> LoReFT:
        """The edit with what it adds to the stream multiplied: `strength * edit`."""
        rotation = torch.stack([orthonormal_rows(rows) for rows in self.rotation])
        return replace(
            self,
            rotation=rotation,
            source=rotation + strength * (self.source - rotation),
            bias=strength * self.bias,
            provenance=unmeasured(self.provenance),
        )

    __rmul__ = __mul__

    def __repr__(self) -> str:
        layers, rank, _ = self.rotation.shape
        return (
            f"LoReFT({layers} layers, rank {rank}, f{self.positions}+l{self.positions}, "
            f"{self.n_parameters} parameters)"
        )


def orthonormal_rows(matrix: Float[Tensor, "rank d_model"]) -> Float[Tensor, "rank d_model"]:
    """Gram-Schmidt from the first row on; differentiable, and the identity on orthonormal rows."""
    q, r = torch.linalg.qr(matrix.T)
    return (q * r.diagonal().sign()).T  # without the sign, a step could turn a row round


def train_loreft(
    model: TransformerBridge,
    task: Task,
    config: TrainingConfig,
    *,
    rank: int = 8,
    positions: int = 3,
    progress: bool = True,
) -> LoReFT:
    """Train LoReFT on all layers; defaults as LoFiT's paper for most settings (Table 8).

    R starts at random orthonormal rows, W at R and b at zero, so the first loss is that of the model
    as it is. The authors' code starts W at random, which changes the model before it has learned.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        config: How; `init_std` is not used.
        rank: Rank of the edit in every layer.
        positions: Tokens edited at either end of the prompt.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: The scope is not "all", or rank or positions are out of range.
        TrainingStopped: Training became unstable.
    """
    if config.scope != "all":
        raise LofitLensError(
            f'LoReFT has positions of its own; got scope "{config.scope}". Use scope="all" and the '
            "argument positions."
        )
    cfg = model.cfg
    _check_rank(rank, cfg.d_model)
    drawn = torch.randn(
        cfg.n_layers,
        rank,
        cfg.d_model,
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(config.seed),
    )
    start = torch.stack([orthonormal_rows(layer) for layer in drawn]).to(cfg.device)
    rotation, source = (start.clone().requires_grad_(True) for _ in range(2))
    bias = torch.zeros(
        cfg.n_layers, rank, dtype=torch.float32, device=cfg.device, requires_grad=True
    )
    edit = LoReFT(rotation, source, bias, positions)

    def learned(provenance: Provenance) -> LoReFT:
        rows = torch.stack([orthonormal_rows(layer) for layer in rotation.detach()])
        return replace(edit, rotation=rows).learned(provenance)

    return fit(
        model, task, edit, [rotation, source, bias], learned, config,
        generator=torch.Generator().manual_seed(config.seed),
        what={"component": "loreft", "rank": rank, "positions": positions}, progress=progress,
    )  # fmt: skip


def _check_rank(rank: int, d_model: int) -> None:
    check_whole("rank", rank, 1, d_model)
