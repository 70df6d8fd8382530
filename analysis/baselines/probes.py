"""Logistic probes on head outputs: one for every head, all solved together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from lofit_lens.analysis.baselines.logistic import fit_logistic
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores

SINGLE_SIZE = 2**16
"""Texts x features of a probe from which it is solved in single precision."""
CHUNK_BYTES = 12 * 2**20
"""Features solved at a time on a CPU: about what its cache holds. One head is the least."""
DEVICE_CHUNK_BYTES = 2**30
"""The same on other devices; the working memory is about three times it."""


@dataclass(frozen=True, eq=False)
class Probes:
    """A logistic probe on each head: `sigmoid(weight . (z - mean) / std + intercept)` is "right".

    Attributes:
        weight: Coefficients of the standardised features.
        intercept: One a head.
        mean: Mean of each feature over the training texts.
        std: Its standard deviation; 1 where the feature is constant.
    """

    weight: Float[Tensor, "layer head d_head"]
    intercept: Float[Tensor, "layer head"]
    mean: Float[Tensor, "layer head d_head"]
    std: Float[Tensor, "layer head d_head"]

    def decision(
        self, z: Float[Tensor, "text layer head d_head"]
    ) -> Float[Tensor, "text layer head"]:
        """Log-odds of "right", float64."""
        slope = self.weight / self.std
        offset = self.intercept - (slope * self.mean).sum(-1)
        return torch.stack([(row.double() * slope).sum(-1) + offset for row in z])

    def directions(self) -> Float[Tensor, "layer head d_head"]:
        """Unit vectors in the space of z along which the log-odds rise the fastest.

        The log-odds are linear in z with gradient `weight / std`, so the coefficients are divided
        by the standard deviations and then normalised. Zero where a head tells nothing.
        """
        return torch.nn.functional.normalize(self.weight / self.std, dim=-1)


@dataclass(frozen=True, eq=False)
class ProbeScores:
    """How well each probe tells right from wrong texts that it was not trained on.

    Attributes:
        accuracy: Share of texts classified rightly.
        log_loss: Mean negative log-likelihood in nats.
        n_texts: Number of texts.
    """

    accuracy: Float[Tensor, "layer head"]
    log_loss: Float[Tensor, "layer head"]
    n_texts: int

    @cached_property
    def ranks(self) -> Float[Tensor, "layer head"]:
        """Accuracy with ties broken by log-loss, as one number a head.

        Accuracies are multiples of 1 / n_texts. Among m heads of equal accuracy, the one with the
        r-th lowest log-loss (from 0) loses r / m of such a step, so no head passes another of
        higher accuracy. Heads equal in both stay equal.
        """
        correct = (self.accuracy * self.n_texts).round()
        found = torch.zeros_like(self.accuracy)
        for value in correct.unique():
            tied = correct == value
            _, rank = self.log_loss[tied].unique(return_inverse=True)
            found[tied] = (value - rank.double() / tied.sum()) / self.n_texts
        return found

    def head_scores(self, without: tuple[int, ...] = ()) -> HeadScores:
        """As scores of heads (ITI, section 3.2: heads ranked by validation accuracy).

        Args:
            without: Layers without heads.
        """
        return HeadScores(self.ranks, method="iti", without=without)


def fit_probes(
    z: Float[Tensor, "text layer head d_head"],
    right: Bool[np.ndarray, " text"],
    *,
    device: torch.device | str | None = None,
) -> Probes:
    """Fit a logistic probe on every head, as many at a time as suit the device.

    The features are standardised with the statistics of these texts. The objective is that of
    scikit-learn's `LogisticRegression(C=1)`: summed negative log-likelihood plus half the squared
    norm of the coefficients, the intercept not penalised. ITI itself does not standardise.

    The coefficients of a head are within 1e-3, relative to their norm, of the exact solution: about
    1e-4 where a head's activations are so many that single precision pays, else 1e-9.

    Args:
        z: Activations; they may be of any type and on any device. They are read once, in chunks.
        right: Which texts are right.
        device: Where to solve; default: CUDA when present, else the CPU.

    Raises:
        LofitLensError: The texts are all right or all wrong, an activation is not finite, or a
            probe does not converge.
    """
    if right.all() or not right.any():
        raise LofitLensError(
            f"Probes need right and wrong texts; {int(right.sum())} of {len(right)} are right."
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    n_texts, n_layers, n_heads, d_head = z.shape
    labels = torch.tensor(right, dtype=torch.float64, device=device)
    small = n_texts * d_head < SINGLE_SIZE
    dtype = torch.float64 if small or z.dtype == torch.float64 else torch.float32
    limit = CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES
    step = min(max(1, limit // (dtype.itemsize * n_texts * d_head)), n_layers * n_heads)
    parts = z.detach().flatten(1, 2).split(step, dim=1)
    room = torch.empty(step * n_texts * d_head, dtype=dtype, device=device)
    found = [_fit_chunk(part.to(device), labels, room) for part in parts]
    weight, intercept, mean, std = (
        torch.cat(part).cpu().unflatten(0, (n_layers, n_heads)) for part in zip(*found, strict=True)
    )
    return Probes(weight, intercept, mean, std)


def score_probes(
    probes: Probes,
    z: Float[Tensor, "text layer head d_head"],
    right: Bool[np.ndarray, " text"],
) -> ProbeScores:
    """Accuracy and log-loss of each probe on other texts."""
    labels = torch.tensor(right)
    decision = probes.decision(z)
    accuracy = ((decision > 0) == labels[:, None, None]).double().mean(0)
    sign = torch.where(labels, -1.0, 1.0).double()
    log_loss = softplus(sign[:, None, None] * decision).mean(0)
    return ProbeScores(accuracy, log_loss, len(right))


def layer_probe_scores(
    z: Float[Tensor, "text layer head d_head"],
    right: Bool[np.ndarray, " text"],
    val_z: Float[Tensor, "val layer head d_head"],
    val_right: Bool[np.ndarray, " val"],
    *,
    without: tuple[int, ...] = (),
) -> HeadScores:
    """Score layers by one probe on all their heads together (paper, Table 2, "probe-layers").

    Every head has the score of its layer, so `top` takes whole layers, best first, and the lower
    heads of the last one if the number does not come out even.

    Args:
        z: Activations to train on, with which of their texts are `right`.
        right: See `z`.
        val_z: Activations to score on, with theirs.
        val_right: See `val_z`.
        without: Layers without heads.

    Raises:
        LofitLensError: See `fit_probes`.
    """
    layers, val_layers = z.flatten(2)[:, :, None], val_z.flatten(2)[:, :, None]
    ranks = score_probes(fit_probes(layers, right), val_layers, val_right).ranks
    return HeadScores(ranks.expand(-1, z.shape[2]), method="probe-layers", without=without)


def _fit_chunk(
    z: Float[Tensor, "text head d"], labels: Float[Tensor, " text"], room: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, intercept, mean and standard deviation for some heads.

    Computed in the precision of `room`, which the features are written to; it is reused from chunk
    to chunk, as fresh memory costs as much as filling it.
    """
    x = room[: z.numel()].view(z.transpose(0, 1).shape)
    x.copy_(z.transpose(0, 1))
    mean = x.mean(1, keepdim=True)
    x -= mean
    rest = x.mean(1)  # what the rounding of the mean has left
    moment = x.mT @ x
    variance = moment.diagonal(dim1=1, dim2=2) / x.shape[1] - rest.square()
    mean, std = mean[:, 0].double() + rest, variance.clamp_min(0).sqrt()
    if not torch.isfinite(std).all():
        raise LofitLensError(
            "Activations are not finite, so no probe can be fitted. Load the model in bfloat16 or "
            "float32 (float16 overflows)."
        )
    varies = std > 1e-7 * mean.abs()  # less is the rounding of float32
    std = torch.where(varies, std, 1.0)
    slope, intercept, converged = fit_logistic(x, labels.to(x), moment, std.square())
    if not converged.all():
        if room.dtype == torch.float64:
            raise LofitLensError(
                f"{int((~converged).sum())} of {len(x)} probes did not converge. Look for heads "
                "whose activations are out of scale."
            )
        return _fit_chunk(z, labels, torch.empty_like(x, dtype=torch.float64).flatten())
    slope, std = slope.double(), std.double()
    weight = torch.where(varies, slope * std, 0.0)
    return weight, intercept + (slope * rest).sum(-1), mean, std
