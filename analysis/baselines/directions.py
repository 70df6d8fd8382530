"""Directions of head outputs, and the spread of activations along them, from streamed moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from lofit_lens.analysis.baselines.activations import last_z_batches
from lofit_lens.analysis.baselines.statements import Statements
from lofit_lens.errors import LofitLensError, check_seed

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

JOINED = 256
"""Texts whose activations are held at a time while statistics are streamed."""

Directions = Float[Tensor, "layer head d_head"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of the outputs of each head over some texts, float64.

    Attributes:
        count: Number of texts.
        mean: Their mean.
        scatter: Sum over texts of the outer product of the deviation from the mean with itself.
    """

    count: int
    mean: Float[Tensor, "layer head d_head"]
    scatter: Float[Tensor, "layer head d_head d_head"]

    @classmethod
    def of(cls, z: Float[Tensor, "text layer head d_head"]) -> Moments:
        """The moments of stored activations."""
        means, scatters = [], []
        for layer in range(z.shape[1]):  # one at a time, so that little memory is needed
            by_head = z[:, layer].double().transpose(0, 1)
            means.append(by_head.mean(1))
            deviation = by_head - means[-1][:, None]
            scatters.append(deviation.mT @ deviation)
        return cls(len(z), torch.stack(means), torch.stack(scatters))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of texts together (Chan, Golub and LeVeque's update)."""
        count = self.count + other.count
        gap = other.mean - self.mean
        between = (self.count * other.count / count) * gap[..., :, None] * gap[..., None, :]
        return Moments(
            count,
            self.mean + gap * (other.count / count),
            self.scatter + other.scatter + between,
        )

    def std_along(self, directions: Directions) -> Float[Tensor, "layer head"]:
        """Standard deviation of the projection on a direction for each head (divided by n)."""
        along = directions.to(self.scatter)[..., None, :]
        variance = (along @ self.scatter @ along.mT).squeeze((-1, -2)) / self.count
        return variance.clamp(min=0).sqrt()


@dataclass(frozen=True, eq=False)
class Contrast:
    """The moments of right and of wrong statements.

    Attributes:
        right: Of the right ones.
        wrong: Of the wrong ones.
    """

    right: Moments
    wrong: Moments

    def __add__(self, other: Contrast) -> Contrast:
        return Contrast(self.right + other.right, self.wrong + other.wrong)

    @property
    def all(self) -> Moments:
        """Of right and wrong statements together."""
        return self.right + self.wrong

    def mass_mean(self) -> Directions:
        """Unit vectors from the mean of wrong to the mean of right statements (ITI, section 5.2)."""
        return normalize(self.right.mean - self.wrong.mean, dim=-1)


def stored_contrast(
    z: Float[Tensor, "text layer head d_head"], right: Bool[np.ndarray, " text"]
) -> Contrast:
    """The moments of stored activations, right and wrong texts apart.

    Raises:
        LofitLensError: The texts are all right or all wrong.
    """
    return _summed([(z, right)])


def streamed_contrast(
    model: TransformerBridge, statements: Statements, *, batch_size: int = 32
) -> Contrast:
    """The same over the last tokens of statements of one split, batch by batch; none is stored."""
    batches = last_z_batches(model, statements.texts, batch_size=batch_size)
    return _summed((z, statements.right[rows]) for rows, z in _joined(batches))


def random_directions(real: Bool[Tensor, "layer head d_head"], *, seed: int) -> Directions:
    """A unit vector for each head, drawn uniformly with a local generator.

    Args:
        real: Which numbers of each head exist; the others are 0.
        seed: Of the generator.
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(real.shape, generator=generator, dtype=torch.float64)
    return normalize(drawn * real, dim=-1)


def _joined(batches: Iterable[tuple[list[int], Tensor]]) -> Iterator[tuple[list[int], Tensor]]:
    """Batches put together, since the cost of adding up scatter does not depend on their size."""
    rows: list[int] = []
    parts: list[Tensor] = []
    for places, z in batches:
        rows, parts = rows + places, [*parts, z]
        if len(rows) >= JOINED:
            yield rows, torch.cat(parts)
            rows, parts = [], []
    if rows:
        yield rows, torch.cat(parts)


def _summed(batches: Iterable[tuple[Tensor, Bool[np.ndarray, " batch"]]]) -> Contrast:
    """Add up batches of activations with their labels."""
    sums: dict[str, Moments] = {}
    for z, right in batches:
        for kind, members in (("right", right), ("wrong", ~right)):
            if members.any():
                found = Moments.of(z[torch.tensor(members)])
                sums[kind] = sums[kind] + found if kind in sums else found
    for kind in ("right", "wrong"):
        if kind not in sums:
            raise LofitLensError(
                f"There are no {kind} statements to contrast; the examples need right and wrong answers."
            )
    return Contrast(**sums)
