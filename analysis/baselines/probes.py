"""Logistic probes on head outputs: one for every head, all solved together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import HeadScores

MAX_STEPS = 100
DECREMENT = 1e-7
"""Newton's method takes its last step when that is to lower the objective by less than this."""
CHUNK_BYTES = 128 * 2**20
"""Size of the float64 features solved at a time; the working memory is about three times it."""
ROUGH_SIZE = 2_000_000
"""Texts x features of a probe up to which its Hessian is computed in single precision."""


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

    def head_scores(self) -> HeadScores:
        """As scores of heads (ITI, section 3.2: heads ranked by validation accuracy)."""
        return HeadScores(self.ranks, method="iti")


def fit_probes(
    z: Float[Tensor, "text layer head d_head"],
    right: Bool[np.ndarray, " text"],
    *,
    device: torch.device | str | None = None,
) -> Probes:
    """Fit a logistic probe on every head by Newton's method, many heads at a time.

    The features are standardised with the statistics of these texts. The objective is that of
    scikit-learn's `LogisticRegression(C=1)`: summed negative log-likelihood plus half the squared
    norm of the coefficients, the intercept not penalised. ITI itself does not standardise.

    Args:
        z: Activations; they may be of any type and on any device.
        right: Which texts are right.
        device: Where to solve; default: CUDA when present, else the CPU.

    Raises:
        LofitLensError: The texts are all right or all wrong, or an activation is not finite.
    """
    if right.all() or not right.any():
        raise LofitLensError(
            f"Probes need right and wrong texts; {int(right.sum())} of {len(right)} are right."
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    n_texts, n_layers, n_heads, d_head = z.shape
    flat = z.flatten(1, 2)
    labels = torch.tensor(right, dtype=torch.float64, device=device)
    step = max(1, CHUNK_BYTES // (8 * n_texts * d_head))
    found = [
        _fit_chunk(flat[:, i : i + step].transpose(0, 1).contiguous().to(labels), labels)
        for i in range(0, n_layers * n_heads, step)
    ]
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
    device: torch.device | str | None = None,
) -> HeadScores:
    """Score layers by one probe on all their heads together (paper, Table 2, "probe-layers").

    Every head has the score of its layer, so `top` takes whole layers, best first, and the lower
    heads of the last one if the number does not come out even.

    Args:
        z: Activations to train on.
        right: Which of their texts are right.
        val_z: Activations to score on.
        val_right: Which of their texts are right.
        device: Where to solve; default: CUDA when present, else the CPU.

    Raises:
        LofitLensError: See `fit_probes`.
    """
    n_heads = z.shape[2]
    layers, val_layers = z.flatten(2)[:, :, None], val_z.flatten(2)[:, :, None]
    scores = score_probes(fit_probes(layers, right, device=device), val_layers, val_right)
    return HeadScores(scores.ranks.expand(-1, n_heads), method="probe-layers")


def _fit_chunk(
    x: Float[Tensor, "head text d"], labels: Float[Tensor, " text"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, intercept, mean and standard deviation for some heads; `x` is overwritten."""
    mean = x.mean(1)
    std = torch.linalg.vector_norm(x.sub_(mean[:, None]), dim=1) / math.sqrt(x.shape[1])
    if not torch.isfinite(std).all():
        raise LofitLensError(
            "Activations are not finite, so no probe can be fitted. Load the model in bfloat16 or "
            "float32 (float16 overflows)."
        )
    std = torch.where(std > 1e-7 * mean.abs(), std, 1.0)  # less is the rounding of float32
    x.div_(std[:, None])
    # Single precision is enough for the Hessian while its error, about 1e-7 of its size, is small
    # beside the penalty's 1 on the diagonal. The gradient is exact either way.
    rough = x.float() if x[0].numel() <= ROUGH_SIZE else x
    solution = x.new_zeros(len(x), x.shape[-1] + 1)  # the intercept comes last
    margin = x.new_zeros(x.shape[:2])
    active = torch.arange(len(x), device=x.device)
    for _ in range(MAX_STEPS):
        some = slice(None) if len(active) == len(x) else active
        w, m = solution[some], margin[some]
        step, decrement = _newton_step(x[some], rough[some], w, m, labels)
        change = (x[some] @ step[:, :-1, None]).squeeze(-1) + step[:, -1:]
        size = _step_size(w, step, m, change, labels, decrement)
        solution[some], margin[some] = w + size * step, m + size * change
        active = active[decrement > DECREMENT]
        if not len(active):
            return solution[:, :-1], solution[:, -1], mean, std
    raise LofitLensError(f"{len(active)} probes did not converge in {MAX_STEPS} Newton steps.")


def _newton_step(
    x: Tensor, rough: Tensor, w: Tensor, margin: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The full Newton step, and by how much it is expected to lower the objective."""
    p = torch.sigmoid(margin)
    residual = p - labels
    gradient = torch.cat([(residual[:, None] @ x).squeeze(1), residual.sum(-1, True)], dim=1)
    gradient[:, :-1] += w[:, :-1]
    curvature = p * (1 - p)
    half = rough * curvature.sqrt().to(rough.dtype)[..., None]
    cross = (curvature[:, None] @ x).squeeze(1)
    hessian = torch.empty(*w.shape, w.shape[-1], dtype=x.dtype, device=x.device)
    hessian[:, :-1, :-1] = half.mT @ half
    hessian[:, :-1, -1] = hessian[:, -1, :-1] = cross
    hessian.diagonal(dim1=1, dim2=2).add_(1)
    hessian[:, -1, -1] = curvature.sum(-1)
    step = -torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(hessian)).squeeze(-1)
    return step, -(gradient * step).sum(-1) / 2


def _step_size(
    w: Tensor, step: Tensor, margin: Tensor, change: Tensor, labels: Tensor, decrement: Tensor
) -> Tensor:
    """The largest of 1, 1/2, 1/4, ... that lowers the objective enough (Armijo's rule), a column."""

    def objective(size: Tensor) -> Tensor:
        m, weight = margin + size * change, w[:, :-1] + size * step[:, :-1]
        return (softplus(m) - labels * m).sum(-1, True) + weight.square().sum(-1, True) / 2

    size = torch.ones_like(margin[:, :1])
    start = objective(torch.zeros_like(size))
    enough, rounding = 2e-4 * decrement[:, None], 1e-12 * start
    for _ in range(50):
        short = objective(size) > start - size * enough + rounding
        if not short.any():
            break
        size = torch.where(short, size / 2, size)
    return size
