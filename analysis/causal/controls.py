"""Random heads to compare chosen ones with."""

from __future__ import annotations

import numpy as np

from lofit_lens.errors import check_seed
from lofit_lens.heads import HeadSet


def others_like(heads: HeadSet, *, seed: int, draw: int = 0) -> HeadSet:
    """Draw as many other heads in every layer, in the order of the layers of `heads`.

    Unlike `HeadSet.random_like` it draws one of `heads` itself only where a layer has too few others:
    a control that holds part of what it is compared with would hide its effect.

    Args:
        heads: The heads to match.
        seed: Seed of the local generator.
        draw: Which of several draws with one seed.
    """
    check_seed(seed)
    rng = np.random.default_rng((seed, draw))
    every = HeadSet.every(**heads.grid.shape)
    rows = []
    for layer in range(heads.n_layers):
        parts = [[head for _, head in some.in_layer(layer)] for some in (every - heads, heads)]
        rows.append(iter([int(head) for part in parts for head in rng.permutation(part)]))
    drawn = [(layer, next(rows[layer])) for layer, _ in heads]
    return HeadSet(drawn, **heads.grid.shape)
