"""Many logistic regressions on the same labels, solved side by side.

The objective of each is that of scikit-learn's `LogisticRegression(C=1)` on standardised features:
summed negative log-likelihood plus half the squared norm of the coefficients, the intercept not
penalised. The features here are not divided by their standard deviations, which would be one more
pass over them; the coefficients are multiplied by them in the penalty instead.

Newton's method would spend nearly all its time on Hessians: one costs as much as ten gradients or
more. Here the Hessian at zero, which is the second moment of the features times one number,
preconditions conjugate gradients instead (Nocedal and Wright, "Numerical Optimization", chapter 5).
Every step minimises along its direction and costs two passes over the features. Where the
curvature has changed so much that `STEPS` of them do not suffice, the Hessian is computed anew.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STEPS = 10
"""Steps before the Hessian is computed anew."""
ROUNDS = 30
"""Hessians before giving up."""
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Error of the coefficients, relative to their norm, at which a regression is left alone."""
SMALL = 0.01
"""Norm of coefficients below which the error counts as relative to this."""
LINE_STEPS, LINE_TOLERANCE = 30, 0.05
"""The search along a direction ends when the slope is this share of what it was."""


def fit_logistic(
    x: Float[Tensor, "head text d"],
    labels: Float[Tensor, " text"],
    moment: Float[Tensor, "head d d"],
    penalty: Float[Tensor, "head d"],
) -> tuple[Float[Tensor, "head d"], Float[Tensor, " head"], Bool[Tensor, " head"]]:
    """Fit one logistic regression for each head.

    Args:
        x: Features, centred; float32 or float64, in which everything is computed.
        labels: 1 or 0.
        moment: Second moment of the features, summed over the texts.
        penalty: The objective has half of this times the square of each coefficient.

    Returns:
        Coefficients, intercepts, and whether the error is below `TOLERANCE`.
    """
    n_heads, n_texts, d = x.shape
    share = float(labels.mean())
    w = x.new_zeros(n_heads, 1, d + 1)  # the intercept comes last
    w[..., -1] = math.log(share / (1 - share))
    hessian = x.new_zeros(n_heads, d + 1, d + 1)
    hessian[:, :-1, :-1] = moment
    hessian[:, -1, -1] = n_texts
    hessian *= share * (1 - share)
    penalty = torch.cat([penalty, torch.zeros_like(penalty[:, :1])], dim=1)[:, None]
    todo = torch.arange(n_heads, device=x.device)
    for _ in range(ROUNDS):
        some = x if len(todo) == n_heads else x[todo]
        price = penalty[todo]
        w[todo], done = _descend(some, labels, w[todo], price, _inverse(hessian, price))
        todo = todo[~done]
        if not len(todo):
            break
        hessian = _likelihood_hessian(x[todo], w[todo])
    converged = torch.ones(n_heads, dtype=torch.bool, device=x.device)
    converged[todo] = False
    return w[:, 0, :-1], w[:, 0, -1], converged


def _descend(
    x: Tensor, labels: Tensor, w: Tensor, penalty: Tensor, inverse: Tensor
) -> tuple[Tensor, Bool[Tensor, " head"]]:
    """Up to `STEPS` preconditioned conjugate gradients; where they lead, and who is done.

    Vectors are rows `[head, 1, d + 1]` or `[head, 1, text]`: a product of matrices is then the
    fastest way to a scalar product.
    """
    margin = _margin(x, w)
    gradient = _gradient(x, torch.sigmoid(margin) - labels, penalty * w)
    direction = towards = -gradient @ inverse
    done = torch.zeros_like(w[..., :1], dtype=torch.bool)
    for _ in range(STEPS):
        change, penalised = _margin(x, direction), penalty * direction
        size, residual = _line_search(
            margin, change, labels, _dot(penalised, w), _dot(penalised, direction)
        )
        margin = torch.addcmul(margin, size, change)
        w = torch.addcmul(w, size, direction)
        before, gradient = gradient, _gradient(x, residual, penalty * w)
        towards = -gradient @ inverse
        # `towards` is the Newton step, and so the error, but for the Hessian being an old one. The
        # last step tells by how much the curvature has fallen since.
        error = _dot(penalty * towards, towards) * size.clamp_min(1).square()
        norm = _dot(penalty * w, w) + SMALL**2
        done = error <= TOLERANCE[x.dtype] ** 2 * norm
        if done.all():
            break
        risen = gradient - before
        conjugate = torch.addcmul(
            towards, _dot(towards, risen) / _dot(direction, risen), direction, value=-1
        )
        direction = torch.where(_dot(conjugate, gradient) < 0, conjugate, towards)
        direction = torch.where(done, 0.0, direction)
    return w, done[:, 0, 0]


def _line_search(
    margin: Tensor, change: Tensor, labels: Tensor, linear: Tensor, square: Tensor
) -> tuple[Tensor, Tensor]:
    """Size of the step that minimises the objective along a direction, and the residuals there.

    Newton's method on the slope, which rises along the direction, kept between the largest size
    known to be too small and the smallest known to be too large. `linear` and `square` are the
    slope of the penalty and its increase.
    """
    size = low = torch.zeros_like(linear)
    high = torch.full_like(linear, torch.inf)
    p = torch.sigmoid(margin)
    slope = _dot(p - labels, change) + linear
    enough = LINE_TOLERANCE * slope.abs()
    tiny = torch.finfo(margin.dtype).tiny  # heads that are done have direction, slope and rise 0
    for _ in range(LINE_STEPS):
        rise = _dot(torch.addcmul(p, p, p, value=-1) * change, change) + square
        size = size - slope / rise.clamp_min(tiny)
        size = torch.where((size < low) | (size > high), (low + high) / 2, size)
        p = torch.addcmul(margin, size, change).sigmoid_()
        slope = _dot(p - labels, change) + torch.addcmul(linear, size, square)
        if (slope.abs() <= enough).all():
            break
        low, high = torch.where(slope < 0, size, low), torch.where(slope < 0, high, size)
    return size, p - labels


def _margin(x: Tensor, w: Tensor) -> Tensor:
    return torch.baddbmm(w[..., -1:], w[..., :-1], x.mT)


def _gradient(x: Tensor, residual: Tensor, penalised: Tensor) -> Tensor:
    return torch.cat([residual @ x, residual.sum(-1, keepdim=True)], dim=-1) + penalised


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b.mT)


def _likelihood_hessian(x: Tensor, w: Tensor) -> Tensor:
    p = torch.sigmoid(_margin(x, w))
    root = (p * (1 - p)).sqrt().mT
    weighted = torch.cat([x * root, root], dim=-1)
    return weighted.mT @ weighted


def _inverse(hessian: Tensor, penalty: Tensor) -> Tensor:
    """Of the Hessian with the penalty; `hessian` is overwritten."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    diagonal *= 1 + len(diagonal.mT) * torch.finfo(hessian.dtype).eps  # more than its rounding
    diagonal += penalty[:, 0]
    return torch.linalg.inv(hessian)
