"""The global random state of PyTorch, which libraries draw from and which is the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the global random state back as it was, after work that draws from it; a decorator too.

    A GPU's state is kept where one is in use; asking for it would start one.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        yield
